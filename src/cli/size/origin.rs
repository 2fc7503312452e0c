//! The endpoints behind the edge that is measured: one answers each head with the same small page,
//! one never answers.
//!
//! They read no bodies and cost as little as an endpoint can: what they take of the machine is taken
//! from the edge. Both live on one thread until the process ends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What every request gets.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 16\r\n\r\n\
    a small answer.\n";
/// No head of the generator comes near; who sends more without an end is cut off.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Where they listen.
#[derive(Clone, Copy, Debug)]
pub struct Origins {
    /// The one that answers.
    pub answering: SocketAddr,
    /// The one that does not.
    pub silent: SocketAddr,
}

/// Starts both on free ports of the loopback address.
pub fn start() -> std::io::Result<Origins> {
    let (first, second) = (listen()?, listen()?);
    let origins = Origins { answering: first.local_addr()?, silent: second.local_addr()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("size-origin".into()).spawn(move || {
        runtime.block_on(async move {
            let (Ok(first), Ok(second)) =
                (TcpListener::from_std(first), TcpListener::from_std(second))
            else {
                return;
            };
            // An error ends an endpoint; the edge's answers then say so in the report.
            let answering = async {
                while let Ok((stream, _)) = first.accept().await {
                    tokio::spawn(answer(stream));
                }
            };
            let silent = async {
                while let Ok((stream, _)) = second.accept().await {
                    tokio::spawn(keep_silent(stream));
                }
            };
            tokio::join!(answering, silent);
        });
    })?;
    Ok(origins)
}

fn listen() -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn keep_silent(mut stream: TcpStream) {
    let mut received = [0; 1024];
    while let Ok(1..) = stream.read(&mut received).await {}
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
