//! HTTP/2 by hyper: a client of the edge, and an origin that gives back what it gets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::authority::{Authority, authority};
use super::edge::Edge;

/// A request's body.
pub type Outgoing = BoxBody<Bytes, Infallible>;
/// A connection.
pub type Sender = SendRequest<Outgoing>;

/// Runs `work` on an HTTP/2 connection to the edge.
#[track_caller]
pub fn http2<T>(edge: &Edge, name: &str, work: impl AsyncFnOnce(Sender) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(edge.https[0]).await.unwrap();
        let connector = TlsConnector::from(Arc::new(authority().client(&["h2"])));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = connector.connect(name, tcp).await.expect("the handshake succeeds");
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                .await
                .unwrap();
        tokio::spawn(connection);
        tokio::time::timeout(super::PATIENCE, work(sender)).await.expect("within the bound")
    })
}

/// No body.
pub fn empty() -> Outgoing {
    Empty::new().boxed()
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Outgoing {
    Full::new(bytes.into()).boxed()
}

/// A GET's builder target.
pub fn url(host: &str, path: &str) -> String {
    format!("https://{host}{path}")
}

/// Listens for HTTP/2 without TLS and answers each request with its own body, trailers included,
/// piece by piece as it comes. Returns its `h2c://` URL.
pub fn h2c_echo() -> String {
    format!("h2c://{}", http2_echo(None))
}

/// The same over TLS, as `localhost`. Returns its `h2://` URL.
pub fn h2_echo(authority: &Authority) -> String {
    let config = authority.server("localhost", "h2");
    format!("h2://localhost:{}", http2_echo(Some(Arc::new(config).into())).port())
}

fn http2_echo(tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = service_fn(async |request: http::Request<Incoming>| {
                    let mut response = http::Response::builder();
                    if let Some(kind) = request.headers().get("content-type") {
                        response = response.header("content-type", kind);
                    }
                    Ok::<_, Infallible>(response.body(request.into_body()).unwrap())
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let Some(tls) = tls.clone() else {
                    tokio::spawn(builder.serve_connection(TokioIo::new(stream), answer));
                    continue;
                };
                tokio::spawn(async move {
                    let stream = tls.accept(stream).await.map_err(|_| ())?;
                    builder.serve_connection(TokioIo::new(stream), answer).await.map_err(|_| ())
                });
            }
        });
    });
    address
}
