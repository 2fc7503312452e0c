//! Both ends of the WebSocket measurement of `benches/peers`: an origin that echoes, and clients.
//!
//! `websocket echo ADDRESS` answers a request for an upgrade and then sends back every message;
//! any other request gets 1 KiB. `websocket load ADDRESS HOST CONNECTIONS BYTES SECONDS` has each
//! connection (TLS 1.3, X25519) send a message, wait for its echo, and so on; it prints how many
//! came back and how long they took, as JSON.

use std::env;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sluss::load::trust::{Group, Offer, Sessions, Trust, Versions, client_config};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The key of RFC 6455 1.3 and what answers it: nobody is to be convinced here.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// One final binary message, RFC 6455 5.2.
const FINAL_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// A length in two more bytes.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// Where a frame's content lies in the bytes that begin with the frame.
struct Frame {
    mask: Option<[u8; 4]>,
    begin: usize,
    end: usize,
}

impl Frame {
    /// `None` while its head is not whole.
    fn parse(bytes: &[u8]) -> Option<Frame> {
        let second = *bytes.get(1)?;
        let (length, mut begin) = match second & !MASKED {
            LENGTH_16 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            LENGTH_64 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            length => (u64::from(length), 2),
        };
        let mut mask = None;
        if second & MASKED != 0 {
            mask = Some(*bytes.get(begin..)?.first_chunk()?);
            begin += 4;
        }
        let length = usize::try_from(length).ok()?;
        Some(Frame { mask, begin, end: begin.checked_add(length)? })
    }
}

fn xor(content: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in content.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A frame's head for `length` bytes of content.
fn head(length: usize, masked: u8) -> Vec<u8> {
    let mut head = vec![FINAL_BINARY];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < LENGTH_16 => head.push(masked | length),
        (_, Ok(length)) => {
            head.push(masked | LENGTH_16);
            head.extend(length.to_be_bytes());
        }
        _ => {
            head.push(masked | LENGTH_64);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}

/// Reads until `whole` finds an end; what follows it stays in `buffer`.
async fn read_until<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    whole: impl Fn(&[u8]) -> Option<usize>,
) -> io::Result<Vec<u8>> {
    loop {
        if let Some(end) = whole(buffer) {
            let rest = buffer.split_off(end);
            return Ok(std::mem::replace(buffer, rest));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn whole_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    end.or((bytes.len() > HEAD_BYTES_MAX).then_some(HEAD_BYTES_MAX))
}

fn whole_frame(bytes: &[u8]) -> Option<usize> {
    Frame::parse(bytes).map(|frame| frame.end).filter(|end| *end <= bytes.len())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let request = read_until(&mut stream, &mut buffer, whole_head).await?;
        if String::from_utf8_lossy(&request).to_ascii_lowercase().contains("\r\nupgrade: websocket")
        {
            break;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
        stream.write_all(answer.as_bytes()).await?;
    }
    let switching = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(switching.as_bytes()).await?;
    loop {
        let mut bytes = read_until(&mut stream, &mut buffer, whole_frame).await?;
        let Some(Frame { mask: Some(mask), begin, end }) = Frame::parse(&bytes) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        xor(&mut bytes[begin..end], mask);
        let mut answer = head(end - begin, 0);
        answer.extend_from_slice(&bytes[begin..end]);
        stream.write_all(&answer).await?;
    }
}

/// What all connections of a load share.
struct Plan {
    address: String,
    host: String,
    frame: Vec<u8>,
    length: Duration,
    tls: Arc<ClientConfig>,
}

async fn upgraded(plan: &Plan) -> Result<impl AsyncRead + AsyncWrite + Unpin, Box<dyn Error>> {
    let tcp = TcpStream::connect(&plan.address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(plan.host.clone())?;
    let mut stream = TlsConnector::from(Arc::clone(&plan.tls)).connect(name, tcp).await?;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
        plan.host
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let answer = read_until(&mut stream, &mut Vec::new(), whole_head).await?;
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("not upgraded: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(stream)
}

/// One message after the other; the times of all that came back.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    plan: &Plan,
) -> Result<Histogram<u64>, Box<dyn Error>> {
    let (mut times, mut buffer, begun) = (Histogram::new(3)?, Vec::new(), Instant::now());
    while begun.elapsed() < plan.length {
        let sent = Instant::now();
        stream.write_all(&plan.frame).await?;
        // What TLS could not pass to the socket at once waits there.
        stream.flush().await?;
        let back = read_until(stream, &mut buffer, whole_frame).await?;
        if back.len() + MASK.len() != plan.frame.len() {
            return Err("an echo of another length".into());
        }
        times.record(u64::try_from(sent.elapsed().as_nanos())?)?;
    }
    Ok(times)
}

async fn load(plan: Plan, connections: usize) -> Result<(), Box<dyn Error>> {
    let mut streams = try_join_all((0..connections).map(|_| upgraded(&plan))).await?;
    let begun = Instant::now();
    let all = try_join_all(streams.iter_mut().map(|stream| talk(stream, &plan))).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut times = Histogram::<u64>::new(3)?;
    for one in all {
        times.add(one)?;
    }
    let milliseconds = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
    let report = serde_json::json!({
        "count": times.len(), "seconds": seconds, "p50": milliseconds(0.5),
        "p99": milliseconds(0.99), "p999": milliseconds(0.999),
    });
    println!("{report}");
    Ok(())
}

fn frame(bytes: usize) -> Vec<u8> {
    let mut content = vec![b'x'; bytes];
    xor(&mut content, MASK);
    [head(bytes, MASKED), MASK.to_vec(), content].concat()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["echo", address] => {
            let listener = TcpListener::bind(address).await?;
            loop {
                // A connection that ends is no news.
                tokio::spawn(echo(listener.accept().await?.0));
            }
        }
        ["load", address, host, connections, bytes, seconds] => {
            let offer = Offer {
                versions: Versions::Tls13,
                group: Group::X25519,
                alpn: vec![b"http/1.1".to_vec()],
                sessions: Sessions::Forget,
            };
            let plan = Plan {
                address: address.to_string(),
                host: host.to_string(),
                frame: frame(bytes.parse()?),
                length: Duration::from_secs_f64(seconds.parse()?),
                tls: client_config(&Trust::Nobody, &offer)?,
            };
            load(plan, connections.parse()?).await
        }
        _ => Err("usage: echo ADDRESS | load ADDRESS HOST CONNECTIONS BYTES SECONDS".into()),
    }
}
