//! New connections to an endpoint: TCP, Unix and TLS, under one deadline.
//!
//! The deadline covers the lookup of the name, the connection and the TLS handshake. Of a name's
//! addresses at most [`ADDRESSES_MAX`] are tried in the resolver's order, each within its share of
//! the time that is left.
//!
//! TLS verifies the endpoint's certificate against the authorities of the endpoint's `ca` file,
//! else the system's. There is no way to switch that off: who cannot name an authority can speak
//! plain HTTP just as safely. A truncated TLS stream (no close_notify) is an error to its reader,
//! so a body that ends by close cannot be cut short unnoticed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Endpoint;
use crate::names::SiteId;
use crate::plain_file;
use crate::sites::{Address, Authorities, EndpointSpec, Protocol};

/// Addresses of one name that are tried for one connection.
const ADDRESSES_MAX: usize = 4;

/// Where the system's authorities stand, by distribution: Debian and Alpine, Red Hat, SUSE, and
/// what OpenSSL falls back to. `SSL_CERT_FILE` goes first, as with OpenSSL.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The systems' bundles have a quarter of a megabyte.
const ROOTS_BYTES_MAX: u64 = 4 << 20;

/// A byte stream to an endpoint.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nobody answers there now; it may come back.
    #[error("cannot connect")]
    Unreachable(#[source] io::Error),
    /// Somebody answers, but not one to be trusted or understood: waiting does not help.
    #[error("the TLS handshake failed")]
    Rejected(#[source] io::Error),
}

/// Who is trusted over TLS.
#[derive(Debug)]
pub(super) struct Verifier {
    /// What it was made from; `None` is the system's.
    ca: Option<Arc<Authorities>>,
    /// Where the system's could not be read, the endpoint cannot be used, and why.
    config: Result<Arc<ClientConfig>, String>,
}

impl Verifier {
    /// The verifier for an endpoint, the earlier one where that is the same; `None` where it speaks
    /// no TLS. Reads files the first time: not for a serving thread.
    pub(super) fn load(
        site: &SiteId,
        spec: &EndpointSpec,
        earlier: Option<Arc<Self>>,
    ) -> Option<Arc<Self>> {
        let alpn: &[u8] = match spec.protocol {
            Protocol::Http1 | Protocol::Http2 => return None,
            Protocol::Http1Tls => b"http/1.1",
            Protocol::Http2Tls => b"h2",
        };
        let same = |earlier: &Arc<Self>| earlier.config.is_ok() && earlier.ca == spec.ca;
        if let Some(earlier) = earlier.filter(same) {
            return Some(earlier);
        }
        let roots = match &spec.ca {
            Some(authorities) => Ok(Arc::new(authorities.roots())),
            None => system_roots(),
        };
        let config = roots.and_then(|roots| client_config(roots, alpn));
        if let Err(problem) = &config {
            let (site, endpoint) = (site.as_str(), &spec.url);
            tracing::warn!(site, endpoint, problem, "endpoint cannot be verified");
        }
        Some(Arc::new(Verifier { ca: spec.ca.clone(), config }))
    }
}

fn client_config(roots: Arc<RootCertStore>, alpn: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// Read once for the life of the process: a hundred and fifty certificates that change with
/// updates of the system.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let read = || {
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let known = SYSTEM_ROOTS.iter().map(PathBuf::from).find(|file| file.exists());
        let file = named.or(known).ok_or(
            "no file of the system's authorities was found; name one as the endpoint's `ca`",
        )?;
        let name = file.display().to_string();
        let text = plain_file::read(&file, ROOTS_BYTES_MAX);
        let text = text.map_err(|error| format!("cannot read {name}: {error}"))?;
        let authorities = Authorities::parse(file, &text).map_err(|why| format!("{name} {why}"))?;
        Ok(Arc::new(authorities.roots()))
    };
    ROOTS.get_or_init(read).clone()
}

/// Connects to an endpoint. Dropping the future gives the attempt up.
pub(super) async fn connect(endpoint: &Endpoint, limit: Duration) -> Result<Stream, ConnectError> {
    let due = Instant::now() + limit;
    let stream = match &endpoint.spec.address {
        Address::Unix(path) => {
            let connected = bounded(due, UnixStream::connect(path)).await;
            return connected.map(Stream::Unix).map_err(ConnectError::Unreachable);
        }
        Address::Ip(address) => tcp(*address, due).await,
        Address::Name(host, port) => named(host, *port, due).await,
    };
    let stream = stream.map_err(ConnectError::Unreachable)?;
    // Heads and small bodies leave in one write each; waiting for more of them only adds latency.
    stream.set_nodelay(true).map_err(ConnectError::Unreachable)?;
    let Some(verifier) = endpoint.verifier.load_full() else { return Ok(Stream::Tcp(stream)) };
    match &verifier.config {
        Ok(config) => tls(stream, config.clone(), &endpoint.spec, due).await,
        Err(problem) => Err(ConnectError::Rejected(io::Error::other(problem.clone()))),
    }
}

async fn named(host: &str, port: u16, due: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> =
        bounded(due, tokio::net::lookup_host((host, port))).await?.take(ADDRESSES_MAX).collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (at, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = due.saturating_duration_since(now) / (addresses.len() - at) as u32;
        match tcp(*address, now + share).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn tcp(address: SocketAddr, due: Instant) -> io::Result<TcpStream> {
    bounded(due, TcpStream::connect(address)).await
}

async fn tls(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    spec: &EndpointSpec,
    due: Instant,
) -> Result<Stream, ConnectError> {
    let name = server_name(spec).map_err(ConnectError::Rejected)?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    let stream = match timeout_at(due, handshake).await {
        Ok(done) => done.map_err(ConnectError::Rejected)?,
        Err(_) => return Err(ConnectError::Unreachable(io::ErrorKind::TimedOut.into())),
    };
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if spec.protocol == Protocol::Http2Tls && !speaks_h2 {
        let message = "the endpoint does not offer HTTP/2 (ALPN h2)";
        return Err(ConnectError::Rejected(io::Error::other(message)));
    }
    Ok(Stream::Tls(Box::new(stream)))
}

fn server_name(spec: &EndpointSpec) -> io::Result<ServerName<'static>> {
    let name = match (&spec.tls_name, &spec.address) {
        (Some(name), _) => name.clone(),
        (None, Address::Name(host, _)) => host.clone(),
        (None, Address::Ip(address)) => return Ok(ServerName::IpAddress(address.ip().into())),
        (None, Address::Unix(_)) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    ServerName::try_from(name).map_err(io::Error::other)
}

async fn bounded<T>(due: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(due, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Stream {
    /// Ready once a read would find something. At once where only a read can tell (TLS keeps
    /// decrypted bytes of its own).
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
            Stream::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether an idle connection can still be used: neither closed by the peer nor holding bytes
    /// that nobody asked for. No system call while the runtime has not seen anything arrive.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = match self {
            Stream::Tcp(stream) => stream.try_read(&mut byte),
            Stream::Unix(stream) => stream.try_read(&mut byte),
            Stream::Tls(stream) => {
                // A session ticket that arrived meanwhile is taken in by this read.
                let cx = &mut Context::from_waker(Waker::noop());
                return Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending();
            }
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether what was written needs a flush of its own to leave.
    pub(super) fn needs_flush(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
