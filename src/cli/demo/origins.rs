//! The demo's site servers: a plain one, a slow one, and one whose headers are malformed in the
//! ways that once took a product down. Each has a trouble of its own that an incident puts it in.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the slow server thinks about /slow.
const SLOW: Duration = Duration::from_secs(1);

/// From one attempt to listen again to the next.
const RETURN_EVERY: Duration = Duration::from_millis(100);

/// What a legacy application sends: each line is one defect of its own.
const MALFORMED: &str = "Expires : Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Last Modified: Mon, 05 May 2025 05:05:05 GMT\r\n\
    X-Frame-Option=SameOrigin\r\n\
    X-Motto: first\x01second\r\n\
    X-Folded: one\r\n two\r\n";

const LEGACY_PAGE: &str = "<!doctype html><title>legacy</title><h1>legacy</h1>\
    <p>A program that nobody has touched for years; the page came, whatever its headers.";

/// One site server.
pub struct Origin {
    /// Where it listens, when it does.
    pub address: SocketAddr,
    /// Whether it is in its trouble: the plain one is away, the slow one answers nothing, the
    /// legacy one sends malformed heads.
    pub trouble: watch::Sender<bool>,
}

/// Starts the three servers, each on a thread of its own, until the process ends.
pub fn start() -> std::io::Result<[Origin; 3]> {
    Ok([server(Kind::Plain)?, server(Kind::Slow)?, server(Kind::Legacy)?])
}

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Slow,
    Legacy,
}

fn server(kind: Kind) -> std::io::Result<Origin> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (trouble, troubled) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-origin".into()).spawn(move || {
        runtime.block_on(async move {
            let mut listener = TcpListener::from_std(listener)?;
            loop {
                serve(listener, kind, troubled.clone()).await?;
                listener = back(address, troubled.clone()).await;
            }
            #[expect(unreachable_code, reason = "names the loop's error type")]
            std::io::Result::Ok(())
        })
    })?;
    Ok(Origin { address, trouble })
}

/// Accepts and answers until the server goes away, which takes its connections with it.
async fn serve(
    listener: TcpListener,
    kind: Kind,
    mut troubled: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut connections = JoinSet::new();
    let leaves = matches!(kind, Kind::Plain);
    let seen = troubled.clone();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            Ok(_) = troubled.wait_for(|trouble| *trouble), if leaves => return Ok(()),
            Some(_) = connections.join_next() => continue,
        };
        match kind {
            Kind::Plain | Kind::Slow => connections.spawn(speak_http(stream, kind, seen.clone())),
            Kind::Legacy => connections.spawn(speak_badly(stream, seen.clone())),
        };
    }
}

/// Listens again once the trouble is over; another program may hold the port for a moment.
async fn back(address: SocketAddr, mut troubled: watch::Receiver<bool>) -> TcpListener {
    // The sender lives as long as the demo.
    let _ = troubled.wait_for(|trouble| !*trouble).await;
    loop {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(RETURN_EVERY).await;
    }
}

async fn speak_http(stream: TcpStream, kind: Kind, troubled: watch::Receiver<bool>) {
    let answer = service_fn(move |request| answer(request, kind, troubled.clone()));
    // A client that goes away in the middle is no event.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    kind: Kind,
    mut troubled: watch::Receiver<bool>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let slow = matches!(kind, Kind::Slow);
    if slow {
        let _ = troubled.wait_for(|trouble| !*trouble).await;
    }
    if slow && request.uri().path().starts_with("/slow") {
        tokio::time::sleep(SLOW).await;
    }
    let name = if slow { "shop" } else { "blog" };
    let field = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("-").to_owned()
    };
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title><h1>{name}</h1>\
         <p>{} {}<p>You are {}, your request is {}.\n",
        request.method(),
        request.uri().path(),
        field("x-forwarded-for"),
        field("x-request-id"),
    );
    let mut response = Response::new(Full::new(page.into()));
    let html = http::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, html);
    Ok(response)
}

/// Answers each head with the same one. Bodies of requests are not understood.
async fn speak_badly(mut stream: TcpStream, troubled: watch::Receiver<bool>) {
    let mut received = Vec::new();
    loop {
        match stream.read_buf(&mut received).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        while let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n") {
            received.drain(..end + 4);
            let odd = if *troubled.borrow() { MALFORMED } else { "" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n{odd}\r\n\
                 {LEGACY_PAGE}",
                LEGACY_PAGE.len(),
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        if received.len() > 64 * 1024 {
            return;
        }
    }
}
