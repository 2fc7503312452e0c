//! The endpoint behind the edge that is measured: answers each head with the same small page.
//!
//! It reads no bodies and costs as little as an endpoint can: what it takes of the machine is taken
//! from the edge. It lives on one thread until the process ends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What every request gets.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 16\r\n\r\n\
    a small answer.\n";
/// No head of the generator comes near; who sends more without an end is cut off.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Starts it on a free port of the loopback address.
pub fn start() -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("size-origin".into()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            // An error ends the endpoint; the edge's answers then say so in the report.
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
    })?;
    Ok(address)
}

async fn answer(mut stream: TcpStream) {
    // Without it each answer could wait for an acknowledgement; failing that, it is slower.
    let _ = stream.set_nodelay(true);
    let mut received = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut received).await {
        while let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n") {
            received.drain(..end + 4);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
        if received.len() > HEAD_BYTES_MAX {
            return;
        }
    }
}
