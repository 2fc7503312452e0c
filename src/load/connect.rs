//! One new connection: TCP, TLS, and what each failure is called.
//!
//! The stages reached are written into the caller's [`Times`] as they are reached: when the
//! caller's patience ends, the future is dropped and the times tell in which stage.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::load::outcome::{Outcome, Times};
use crate::load::sources::Sources;

/// The run's own time: zero when its schedule begins.
#[derive(Clone, Copy, Debug)]
pub struct Clock(pub Instant);

impl Clock {
    /// Now; zero before the schedule begins.
    pub fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.0)
    }
}

/// Where connections go and what they say on the way.
#[derive(Debug)]
pub struct Route {
    /// The one address of the run.
    pub address: SocketAddr,
    /// TLS, where it is spoken.
    pub tls: Option<Arc<ClientConfig>>,
    /// By host index.
    pub server_names: Vec<ServerName<'static>>,
    /// Bytes of the kernel's receive buffer, where it shall be small.
    pub receive_buffer: Option<u32>,
    /// The addresses from which it is gone.
    pub sources: Sources,
}

/// An open connection.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why work did not complete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Its class.
    pub outcome: Outcome,
    /// The error's words, where the class does not say it all.
    pub note: Option<String>,
}

impl Failure {
    /// A failure whose class says it all.
    pub fn plain(outcome: Outcome) -> Failure {
        Failure { outcome, note: None }
    }

    /// A failure with words.
    pub fn noted(outcome: Outcome, note: impl ToString) -> Failure {
        Failure { outcome, note: Some(note.to_string()) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return Failure::noted(Outcome::Alert, format!("alert received: {alert:?}"));
        }
        if let Some(error) = tls {
            return Failure::noted(Outcome::Other, format!("TLS: {error}"));
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Failure::noted(Outcome::RefusedReset, "connection refused: nothing listens")
            }
            // Written into a connection that was reset before.
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset => Failure::plain(Outcome::RefusedReset),
            io::ErrorKind::UnexpectedEof => Failure::plain(Outcome::Closed),
            io::ErrorKind::AddrNotAvailable => {
                Failure::noted(Outcome::NotSent, "no local port left towards this address")
            }
            _ => Failure::noted(Outcome::Other, error),
        }
    }
}

/// The class of work whose client lost patience, by the last stage that it reached.
pub fn timed_out(times: &Times) -> Outcome {
    let waits_for_connection = times.started.is_none();
    if times.sent.is_some() || times.secured.is_some() || waits_for_connection {
        return Outcome::ResponseTimeout;
    }
    match times.connected {
        Some(_) => Outcome::HandshakeTimeout,
        None => Outcome::ConnectTimeout,
    }
}

/// Opens a connection that asks for the host.
///
/// # Errors
/// [`Failure`] with its class.
pub async fn open(
    route: &Route,
    host: usize,
    clock: Clock,
    times: &mut Times,
) -> Result<Stream, Failure> {
    let stream = connect(route, clock, times).await?;
    let Some(config) = &route.tls else {
        times.secured = times.connected;
        return Ok(Stream::Plain(stream));
    };
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(route.server_names[host].clone(), stream).await?;
    times.secured = Some(clock.now());
    Ok(Stream::Tls(Box::new(stream)))
}

/// Opens the TCP connection alone.
///
/// # Errors
/// [`Failure`] with its class.
pub async fn connect(route: &Route, clock: Clock, times: &mut Times) -> Result<TcpStream, Failure> {
    let socket = match route.address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    // Out of file descriptors: the generator's bound, not the server's.
    let socket = socket.map_err(|error| Failure::noted(Outcome::NotSent, error))?;
    socket.set_nodelay(true)?;
    if let Some(bytes) = route.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    route.sources.bind(&socket)?;
    let stream = socket.connect(route.address).await?;
    times.connected = Some(clock.now());
    Ok(stream)
}

impl Stream {
    /// Whether the TLS session was resumed.
    pub fn resumed(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => {
                stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
            }
        }
    }

    /// Waits until a TLS 1.3 server has sent a session ticket, or has anything else to say; it
    /// sends tickets only once it has read the client's last flight. Older sessions are complete
    /// with the handshake.
    pub async fn ticket(&mut self) {
        let mut bytes = [0; 64];
        poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = Pin::new(&mut *self).poll_read(context, &mut buffer);
            match self {
                Stream::Tls(stream) if awaits_ticket(stream.get_ref().1) => read.map(|_| ()),
                Stream::Plain(_) | Stream::Tls(_) => Poll::Ready(()),
            }
        })
        .await;
    }

    /// The application protocol that was agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }
}

fn awaits_ticket(session: &ClientConnection) -> bool {
    session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && session.tls13_tickets_received() == 0
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
