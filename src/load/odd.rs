//! Visitors that a server must survive: slow senders, slow readers, malformed heads, and clients
//! that go away in the middle.
//!
//! How long a server puts up with a slow one is the figure wanted, so it ends as cut off, with its
//! time, or as held where the run ended first.

use std::io;
use std::time::Duration;

use rustls::ClientConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::load::answer::{Body, Reader};
use crate::load::connect::{self, Failure, Stream};
use crate::load::h1::{self, READ_BYTES};
use crate::load::lane::{Lane, Visit};
use crate::load::outcome::Outcome;

/// Where a slow sender slows down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Slow {
    /// In the ClientHello, before anything is encrypted.
    Hello,
    /// In the request's head, which never ends.
    Head,
    /// In the request's body, a megabyte of it.
    Body,
}

/// When a client goes away, with a reset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Abort {
    /// Once TCP stands.
    Connect,
    /// Once the ClientHello is sent.
    Hello,
    /// Once TLS stands.
    Handshake,
    /// Once the request is sent.
    Request,
    /// Each of them in turn.
    Mixed,
}

/// Bytes a slow reader takes at once.
const SIP_BYTES: usize = 1024;

/// Sends a byte each `step` until the server loses patience.
///
/// # Errors
/// [`Failure`] where it did not come so far.
pub async fn send_slowly(
    lane: &Lane,
    slow: Slow,
    step: Duration,
    visit: &mut Visit,
) -> Result<Outcome, Failure> {
    visit.times.started = Some(lane.clock.now());
    if slow == Slow::Hello {
        let hello = hello(lane, visit.host)?;
        let mut stream = connect::connect(&lane.route, lane.clock, &mut visit.times).await?;
        return drip(&mut stream, hello.into_iter(), step, visit).await;
    }
    let mut stream = connect::open(&lane.route, visit.host, lane.clock, &mut visit.times).await?;
    let host = &lane.requests[visit.host].host;
    let path = &lane.traffic.path;
    let (start, rest) = match slow {
        Slow::Head | Slow::Hello => {
            (format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Slow: "), b'x')
        }
        Slow::Body => {
            let framing = "Content-Type: text/plain\r\nContent-Length: 1048576";
            (format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n"), b'x')
        }
    };
    visit.times.sent = Some(lane.clock.now());
    stream.write_all(start.as_bytes()).await?;
    drip(&mut stream, std::iter::repeat(rest), step, visit).await
}

async fn drip(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: impl Iterator<Item = u8>,
    step: Duration,
    visit: &mut Visit,
) -> Result<Outcome, Failure> {
    let mut answer = vec![0; READ_BYTES];
    for byte in bytes {
        tokio::select! {
            read = stream.read(&mut answer) => return Ok(cut_off(read, &answer, visit)),
            () = tokio::time::sleep(step) => {}
        }
        if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
            return Ok(Outcome::CutOff);
        }
    }
    let read = stream.read(&mut answer).await;
    Ok(cut_off(read, &answer, visit))
}

fn cut_off(read: io::Result<usize>, answer: &[u8], visit: &mut Visit) -> Outcome {
    // A status such as 408 is told where it is plain to see; the cut counts either way.
    let read = &answer[..read.unwrap_or(0)];
    if let Some(digits) = read.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)) {
        visit.status = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    }
    Outcome::CutOff
}

/// Asks, and takes little of the answer each `step`.
///
/// # Errors
/// [`Failure`] where it did not come so far.
pub async fn read_slowly(
    lane: &Lane,
    step: Duration,
    visit: &mut Visit,
) -> Result<Outcome, Failure> {
    visit.times.started = Some(lane.clock.now());
    let mut stream = connect::open(&lane.route, visit.host, lane.clock, &mut visit.times).await?;
    visit.times.sent = Some(lane.clock.now());
    stream.write_all(&lane.requests[visit.host].h1).await?;
    let mut reader = Reader::new(Body::Count);
    let mut sip = [0; SIP_BYTES];
    loop {
        tokio::time::sleep(step).await;
        let count = match stream.read(&mut sip).await {
            Ok(0) | Err(_) if reader.end().is_err() => return Ok(Outcome::CutOff),
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        visit.times.first_byte.get_or_insert(lane.clock.now());
        if reader.feed(&sip[..count]).map_err(|error| Failure::noted(Outcome::Other, error))? {
            break;
        }
    }
    Ok(lane.judge(visit, &reader.into_answer()))
}

/// Goes away with a reset.
///
/// # Errors
/// [`Failure`] where the server ended it before.
pub async fn abort(lane: &Lane, when: Abort, visit: &mut Visit) -> Result<Outcome, Failure> {
    const TURNS: [Abort; 4] = [Abort::Connect, Abort::Hello, Abort::Handshake, Abort::Request];
    let when = match when {
        Abort::Mixed => TURNS[visit.number % TURNS.len()],
        one => one,
    };
    visit.times.started = Some(lane.clock.now());
    if matches!(when, Abort::Connect | Abort::Hello) {
        let hello = if when == Abort::Hello { hello(lane, visit.host)? } else { Vec::new() };
        let mut stream = connect::connect(&lane.route, lane.clock, &mut visit.times).await?;
        stream.write_all(&hello).await?;
        stream.set_zero_linger()?;
        return Ok(Outcome::Completed);
    }
    let mut stream = connect::open(&lane.route, visit.host, lane.clock, &mut visit.times).await?;
    if when == Abort::Request {
        visit.times.sent = Some(lane.clock.now());
        stream.write_all(&lane.requests[visit.host].h1).await?;
    }
    stream.tcp().set_zero_linger()?;
    Ok(Outcome::Completed)
}

/// The bytes of a ClientHello for the host.
fn hello(lane: &Lane, host: usize) -> Result<Vec<u8>, Failure> {
    let Some(config) = &lane.route.tls else {
        return Err(Failure::noted(Outcome::Other, "there is no ClientHello without TLS"));
    };
    let mut bytes = Vec::new();
    ClientConnection::new(config.clone(), lane.route.server_names[host].clone())
        .map_err(io::Error::other)
        .and_then(|mut session| session.write_tls(&mut bytes))?;
    Ok(bytes)
}

/// Sends one malformed head and reads what the server says to it; each arrival takes the next.
///
/// # Errors
/// [`Failure`] with its class: a connection closed without a word is one answer, too.
pub async fn send_malformed(lane: &Lane, visit: &mut Visit) -> Result<Outcome, Failure> {
    let (name, head) = MALFORMED[visit.number % MALFORMED.len()];
    let head = head
        .replace("{host}", &lane.requests[visit.host].host)
        .replace("{path}", &lane.traffic.path)
        .replace("{long}", &"x".repeat(100_000));
    visit.times.started = Some(lane.clock.now());
    let mut stream = connect::open(&lane.route, visit.host, lane.clock, &mut visit.times).await?;
    let ended = answer_to(lane, &mut stream, head.as_bytes(), visit).await;
    let said = match &ended {
        Ok(status) => status.to_string(),
        Err(failure) => failure.outcome.title().to_owned(),
    };
    visit.note = Some(format!("{name}: {said}"));
    ended.map(|_| Outcome::Completed)
}

async fn answer_to(
    lane: &Lane,
    stream: &mut Stream,
    head: &[u8],
    visit: &mut Visit,
) -> Result<u16, Failure> {
    let mut buffer = vec![0; READ_BYTES];
    visit.times.sent = Some(lane.clock.now());
    // A server may answer and close while a long head is still on its way.
    let _ = stream.write_all(head).await;
    let reading = (Body::Count, buffer.as_mut_slice());
    let answer = h1::read(stream, reading, lane.clock, &mut visit.times).await?;
    visit.status = Some(answer.status);
    visit.bytes += answer.bytes;
    Ok(answer.status)
}

/// Heads that are wrong in one way each, by the name of the way.
const MALFORMED: [(&str, &str); 14] = [
    ("line-ending", "GET {path} HTTP/1.1\nHost: {host}\n\n"),
    ("obs-fold", "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-A: one\r\n two\r\n\r\n"),
    ("leading-fold", "GET {path} HTTP/1.1\r\n Host: {host}\r\nHost: {host}\r\n\r\n"),
    ("field-name-trailing-space", "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-A : one\r\n\r\n"),
    ("field-name-invalid", "GET {path} HTTP/1.1\r\nHost: {host}\r\nX(A: one\r\n\r\n"),
    ("field-no-colon", "GET {path} HTTP/1.1\r\nHost: {host}\r\nnothing\r\n\r\n"),
    ("field-value-control", "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-A: o\0ne\r\n\r\n"),
    ("host missing", "GET {path} HTTP/1.1\r\nX-A: one\r\n\r\n"),
    ("host twice", "GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: other.example\r\n\r\n"),
    (
        "content-length-invalid",
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
    ),
    (
        "framing-conflict",
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "transfer-encoding-invalid",
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    ("request-line", "GET  {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ("oversize", "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-A: {long}\r\n\r\n"),
];
