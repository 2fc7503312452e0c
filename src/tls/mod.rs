//! TLS towards the client: the hello before any crypto, the handshake, and the stream after it.
//!
//! A handshake runs on its own thread, at lower priority than serving; the socket travels there
//! parked, and the finished stream travels back the same way.

pub mod hello;
pub mod socket;

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use socket::Socket;

use crate::refusal::Refusal;
use crate::sites::TlsVersion;

/// An encrypted connection to a client.
pub type Stream = TlsStream<Socket>;

/// What the handshake settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settled {
    /// The version agreed upon.
    pub version: TlsVersion,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// Whether ALPN chose HTTP/2.
    pub http2: bool,
}

/// Runs the server's side of the handshake on a live socket whose first bytes are the hello's.
/// The caller bounds it in time. *Cancel safety*: dropping the future drops the connection.
///
/// # Errors
/// `HandshakeFailed` where TLS fails (an alert has been sent); `ClientGone` where the client closed
/// or reset in between.
pub async fn handshake(
    config: Arc<ServerConfig>,
    socket: Socket,
) -> Result<(Stream, Settled), Refusal> {
    let accepted = TlsAcceptor::from(config).accept(socket).into_fallible().await;
    let mut stream = accepted.map_err(|(error, _socket)| match error.kind() {
        std::io::ErrorKind::InvalidData => Refusal::HandshakeFailed,
        _ => Refusal::ClientGone,
    })?;
    // The last flight (TLS 1.3: the ticket) must not stay in a buffer while the stream is moved.
    stream.flush().await.map_err(|_| Refusal::ClientGone)?;
    let session = stream.get_ref().1;
    let settled = Settled {
        version: match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        },
        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        http2: session.alpn_protocol() == Some(b"h2"),
    };
    Ok((stream, settled))
}

/// Tells a client why it gets no handshake: a fatal alert in plain text (RFC 8446 6), as small as
/// a record can be. Best effort, never waits.
pub fn alert(socket: &Socket, description: Alert) {
    let record = [21, 3, 3, 0, 2, 2, description as u8];
    // The send buffer of a connection that has sent nothing is empty: this is one segment.
    let _ = socket.with_socket(|socket| socket2::SockRef::from(&socket).send(&record));
}

/// The alerts sent before a handshake begins (RFC 8446 6.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Alert {
    /// The site is known, but has no usable certificate.
    InternalError = 80,
    /// No site has the name.
    UnrecognizedName = 112,
}
