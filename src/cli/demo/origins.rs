//! The demo's site servers: a plain one, a slow one, and one whose headers are malformed in the
//! ways that once took a product down.

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

/// How long the slow server thinks about /slow.
const SLOW: Duration = Duration::from_secs(1);

/// What a legacy application sends: each line is one defect of its own.
const MALFORMED: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: text/html\r\n\
    Content-Length: 110\r\n\
    Expires : Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Last Modified: Mon, 05 May 2025 05:05:05 GMT\r\n\
    X-Frame-Option=SameOrigin\r\n\
    X-Motto: first\x01second\r\n\
    X-Folded: one\r\n two\r\n\
    \r\n";

const MALFORMED_BODY: &[u8; 110] = b"<!doctype html><title>legacy</title><h1>legacy</h1>\
    <p>Five malformed header lines; the page came all the same.";

/// Starts the three servers, each on a thread of its own, until the process ends.
pub fn start() -> std::io::Result<[SocketAddr; 3]> {
    Ok([server(Kind::Plain)?, server(Kind::Slow)?, server(Kind::Legacy)?])
}

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Slow,
    Legacy,
}

fn server(kind: Kind) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-origin".into()).spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                match kind {
                    Kind::Plain | Kind::Slow => tokio::spawn(speak_http(stream, kind)),
                    Kind::Legacy => tokio::spawn(speak_badly(stream)),
                };
            }
            #[expect(unreachable_code, reason = "names the loop's error type")]
            std::io::Result::Ok(())
        })
    })?;
    Ok(address)
}

async fn speak_http(stream: TcpStream, kind: Kind) {
    let answer = service_fn(move |request| answer(request, kind));
    // A client that goes away in the middle is no event.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    kind: Kind,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let slow = matches!(kind, Kind::Slow);
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

/// Answers each head with the malformed one. Bodies of requests are not understood.
async fn speak_badly(mut stream: TcpStream) {
    let mut received = Vec::new();
    loop {
        match stream.read_buf(&mut received).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        while let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n") {
            received.drain(..end + 4);
            let answer = [MALFORMED, MALFORMED_BODY].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
        if received.len() > 64 * 1024 {
            return;
        }
    }
}
