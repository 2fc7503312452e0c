//! TLS towards the client: the hello before any crypto, the handshake, and the stream after it.
//!
//! A handshake's costly steps run on their own thread, at lower priority than serving; the socket
//! stays its serving thread's meanwhile.

pub mod hello;
pub mod socket;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

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

/// A handshake that is done.
pub struct Established {
    /// The encrypted connection.
    pub stream: Stream,
    /// What was settled.
    pub settled: Settled,
}

/// The server's side of a handshake, step by step: each poll does what the bytes that are here
/// allow. It may be polled on any thread; the caller bounds it in time. Dropping it drops the
/// connection.
pub struct Handshake(Accept<Socket>);

impl Handshake {
    /// Begins on a socket whose first bytes are the hello's. The first step does the work.
    pub fn begin(config: Arc<ServerConfig>, socket: Socket) -> Handshake {
        Handshake(TlsAcceptor::from(config).accept(socket))
    }

    /// Goes on as far as the client's bytes allow.
    ///
    /// # Errors
    /// `HandshakeFailed` where TLS fails (an alert has been sent); `ClientGone` where the client
    /// closed or reset in between.
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Established, Refusal>> {
        if let Some(socket) = self.0.get_mut() {
            // After the server's flight only a ticket is left, which can go with the response.
            socket.hold(socket.has_sent_flight());
        }
        let accepted = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(match accepted {
            Ok(mut stream) => {
                stream.get_mut().0.hold(false);
                Ok(Established { settled: Settled::of(&stream), stream })
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Refusal::HandshakeFailed)
            }
            Err(_) => Err(Refusal::ClientGone),
        })
    }

    /// Ready once a step can go on.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().map_or(Poll::Ready(()), |socket| socket.poll_ready(cx))
    }

    /// Makes the close of the connection a reset, where the handshake is given up.
    pub fn reset_on_close(&self) {
        if let Some(socket) = self.0.get_ref() {
            socket.reset_on_close();
        }
    }

    /// Whether TLS 1.3 has sent the server's flight. The key exchange and the signature are behind
    /// it (RFC 8446 2): what is left costs symmetric crypto, unless a client's certificate comes.
    pub fn has_signed(&self) -> bool {
        self.0.get_ref().is_some_and(Socket::has_sent_flight)
    }
}

impl Settled {
    fn of(stream: &Stream) -> Settled {
        let session = stream.get_ref().1;
        Settled {
            version: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            },
            resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            http2: session.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// Tells a client why it gets no handshake: a fatal alert in plain text (RFC 8446 6), as small as
/// a record can be. Best effort, never waits.
pub fn alert(socket: &mut Socket, description: Alert) {
    let record = [21, 3, 3, 0, 2, 2, description as u8];
    // Closed with the hello unread, the connection would be reset, and the alert may be lost.
    socket.discard();
    if let Some(descriptor) = socket.descriptor() {
        // The send buffer of a connection that has sent nothing is empty: this is one segment.
        let _ = socket2::SockRef::from(&descriptor).send(&record);
    }
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
