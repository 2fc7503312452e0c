//! One HTTP/1.1 request and its answer on an open connection.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::load::answer::{Answer, Body, Malformed, Reader};
use crate::load::connect::{Clock, Failure, Stream};
use crate::load::outcome::{Outcome, Times};

/// Bytes read at once: a TLS record.
pub const READ_BYTES: usize = 16 * 1024;

/// A GET, ready to be sent.
pub fn request(host: &str, path: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sluss-load/{version}\r\n\
         Accept: */*\r\n\r\n"
    )
    .into_bytes()
}

/// Sends `request` and reads the answer through `buffer` (of [`READ_BYTES`]).
///
/// # Errors
/// [`Failure`] with its class; [`Outcome::Closed`] where nothing at all was answered.
pub async fn exchange(
    stream: &mut Stream,
    request: &[u8],
    (body, buffer): (Body, &mut [u8]),
    clock: Clock,
    times: &mut Times,
) -> Result<Answer, Failure> {
    times.sent = Some(clock.now());
    stream.write_all(request).await?;
    read(stream, (body, buffer), clock, times).await
}

/// Reads one answer.
///
/// # Errors
/// [`Failure`] with its class.
pub async fn read(
    stream: &mut Stream,
    (body, buffer): (Body, &mut [u8]),
    clock: Clock,
    times: &mut Times,
) -> Result<Answer, Failure> {
    let mut reader = Reader::new(body);
    loop {
        let count = match stream.read(buffer).await {
            Ok(count) => count,
            // Closed without TLS's close_notify: the answer's own framing decides if it is whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            reader.end().map_err(malformed)?;
            break;
        }
        if times.first_byte.is_none() {
            times.first_byte = Some(clock.now());
        }
        if reader.feed(&buffer[..count]).map_err(malformed)? {
            break;
        }
    }
    Ok(reader.into_answer())
}

fn malformed(error: Malformed) -> Failure {
    match error {
        Malformed::Empty => Failure::plain(Outcome::Closed),
        Malformed::CutShort => Failure::noted(Outcome::WrongBody, error),
        Malformed::Chunk | Malformed::Excess | Malformed::Head | Malformed::TooLarge => {
            Failure::noted(Outcome::Other, error)
        }
    }
}
