//! WebSocket (RFC 6455) on raw bytes: a site that gives back what it gets, and a client's frames.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::origin::Connection;
use super::wire::{End, Message};

/// Frame types (RFC 6455 5.2).
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;

/// Answers an upgrade and gives every message back until one side closes.
pub fn echo(connection: &mut Connection, request: &Message) {
    let key = request.field("sec-websocket-key").expect("a key");
    connection.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    ));
    while let Some((kind, payload)) = take(connection) {
        connection.send(frame(kind, &payload, None));
        if kind == CLOSE {
            return;
        }
    }
}

/// What a server makes of the client's key (RFC 6455 4.2.2).
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

/// A whole message in one frame; a client's is masked.
pub fn frame(kind: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | kind];
    match payload.len() {
        0..126 => bytes.push(masked | payload.len() as u8),
        126..65_536 => {
            bytes.push(masked | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Takes a frame, unmasked; `None` where the connection ends.
pub fn take<S: std::io::Read + std::io::Write>(
    connection: &mut super::wire::Wire<S>,
) -> Option<(u8, Vec<u8>)> {
    let mut exactly = |count| match connection.exactly(count) {
        (bytes, End::Whole) => Some(bytes),
        _ => None,
    };
    let head = exactly(2)?;
    let length = match head[1] & 0x7f {
        126 => u16::from_be_bytes(exactly(2)?.try_into().unwrap()) as usize,
        127 => u64::from_be_bytes(exactly(8)?.try_into().unwrap()) as usize,
        short => short.into(),
    };
    let mask = if head[1] & 0x80 != 0 { exactly(4)? } else { vec![0; 4] };
    let mut payload = exactly(length)?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((head[0] & 0x0f, payload))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number =
            three.iter().chain(&[0, 0]).take(3).fold(0, |all, byte| all << 8 | u32::from(*byte));
        for at in 0..4 {
            let sign = ALPHABET[(number >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { sign.into() } else { '=' });
        }
    }
    text
}
