//! Clients that speak bytes over TLS, or over nothing.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::PATIENCE;
use super::authority::authority;
use super::wire::Wire;

/// A TLS client.
pub type Client = Wire<StreamOwned<ClientConnection, TcpStream>>;

/// What is asked for in the ClientHello.
#[derive(Clone, Copy, Debug)]
pub enum ServerNameSent<'a> {
    /// This name.
    Name(&'a str),
    /// None; the certificate must cover this one.
    None(&'a str),
}

/// A TCP connection whose reads end within the bound.
pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the edge listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A handshake over a connection.
pub fn handshake(mut stream: TcpStream, name: ServerNameSent<'_>) -> io::Result<Client> {
    let mut config = authority().client(&["http/1.1"]);
    let name = match name {
        ServerNameSent::Name(name) => name,
        ServerNameSent::None(name) => {
            config.enable_sni = false;
            name
        }
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(Wire::new(StreamOwned::new(connection, stream)))
}

impl Client {
    /// Says that nothing more will be sent; still reads.
    pub fn half_close(&mut self) {
        self.stream.conn.send_close_notify();
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut self.stream.sock).expect("the edge takes it");
        }
    }

    /// The leaf that the edge showed.
    pub fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
    }
}
