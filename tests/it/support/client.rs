//! Clients that speak bytes over TLS, or over nothing.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

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

/// A handshake over a connection, for HTTP/1.1.
pub fn handshake(stream: TcpStream, name: ServerNameSent<'_>) -> io::Result<Client> {
    handshake_for(stream, name, "http/1.1")
}

/// The same for the protocol of that name.
pub fn handshake_for(
    stream: TcpStream,
    name: ServerNameSent<'_>,
    protocol: &str,
) -> io::Result<Client> {
    handshake_by(stream, name, authority().client(&[protocol]))
}

/// The same by a configuration of one's own.
pub fn handshake_by(
    mut stream: TcpStream,
    name: ServerNameSent<'_>,
    mut config: ClientConfig,
) -> io::Result<Client> {
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

    /// Sends its last bytes, and that they are, in one piece; still reads.
    pub fn send_last(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.conn.writer().write_all(bytes.as_ref()).unwrap();
        self.stream.conn.send_close_notify();
        let mut sealed = Vec::new();
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut sealed).unwrap();
        }
        self.stream.sock.write_all(&sealed).expect("the edge takes it");
    }

    /// Sends as much as the edge still takes. What it has said before it hung up can be read.
    pub fn send_what_is_taken(&mut self, pieces: impl IntoIterator<Item = Vec<u8>>) {
        let mut sealed = Vec::new();
        for piece in pieces {
            self.stream.conn.writer().write_all(&piece).unwrap();
            while self.stream.conn.wants_write() {
                self.stream.conn.write_tls(&mut sealed).unwrap();
            }
        }
        let _ = self.stream.sock.write_all(&sealed);
    }

    /// The leaf that the edge showed.
    pub fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
    }
}
