//! Raw HTTP/2: frames out as written, frames in as they come (RFC 9113 4.1).

use std::io::{Read, Write};

use super::client::{Client, ServerNameSent, handshake_for};
use super::edge::Edge;
use super::wire::{End, Wire};

/// Frame types and flags (RFC 9113 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113 7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Of RST_STREAM, or the reason of GOAWAY.
    pub fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field list, each field literal, never indexed and not in Huffman's code (RFC 7541 6.2.3).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x10);
        for text in [name, value] {
            assert!(text.len() < 127, "one octet of length");
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A GET's field list.
pub fn get_block(host: &str, path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)])
}

/// A GET without a body, whole.
pub fn get_frame(stream: u32, host: &str, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, get_block(host, path))
}

/// A RST_STREAM with that error.
pub fn reset_frame(stream: u32, error: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, error.to_be_bytes())
}

/// A connection on which HTTP/2 was agreed and nothing said.
#[track_caller]
pub fn silent(edge: &Edge, name: &str) -> Client {
    handshake_for(edge.tcp(), ServerNameSent::Name(name), "h2").expect("the handshake succeeds")
}

/// A connection after the preface and both sides' SETTINGS.
#[track_caller]
pub fn open(edge: &Edge, name: &str) -> Client {
    let mut client = silent(edge, name);
    client.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, [])[..]].concat());
    client.send(frame(SETTINGS, ACK, 0, []));
    client
}

impl<S: Read + Write> Wire<S> {
    /// Takes a frame; `None` once the connection is over.
    #[track_caller]
    pub fn frame(&mut self) -> Option<Frame> {
        let (head, end) = self.exactly(9);
        if end != End::Whole {
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let (payload, end) = self.exactly(length);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        (end == End::Whole).then_some(frame)
    }

    /// Takes frames up to one that is so; `None` where the connection ends before.
    #[track_caller]
    pub fn frame_where(&mut self, matching: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            match self.frame() {
                Some(frame) if matching(&frame) => return Some(frame),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// The reason in GOAWAY with which the connection ends.
    #[track_caller]
    pub fn goodbye(&mut self) -> Option<u32> {
        let goaway = self.frame_where(|frame| frame.kind == GOAWAY)?;
        while self.frame().is_some() {}
        Some(goaway.error())
    }

    /// The data of a stream up to its end.
    #[track_caller]
    pub fn stream_data(&mut self, stream: u32) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let here = |frame: &Frame| frame.stream == stream && frame.kind != WINDOW_UPDATE;
            let frame = self.frame_where(here).expect("the stream goes on");
            assert_ne!(frame.kind, RST_STREAM, "the stream is reset: {}", frame.error());
            if frame.kind == DATA {
                data.extend(frame.payload);
            }
            if frame.flags & END_STREAM != 0 {
                return data;
            }
        }
    }
}
