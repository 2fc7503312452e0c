//! Raw HTTP/1 on any stream: bytes out as written, messages in as framed.

use std::io::{self, Read, Write};

/// Bytes in and out of one connection.
#[derive(Debug)]
pub struct Wire<S> {
    /// The stream itself.
    pub stream: S,
    input: Vec<u8>,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Where its framing said.
    Whole,
    /// The connection was closed in good order before that.
    ClosedEarly,
    /// The connection broke before that: TLS saw no goodbye, or TCP a reset.
    Cut,
}

/// A request or a response.
#[derive(Clone, Debug)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Names in lower case, in order.
    pub fields: Vec<(String, String)>,
    /// Decoded.
    pub body: Vec<u8>,
    /// Behind the last chunk.
    pub trailers: Vec<(String, String)>,
    /// How it ended.
    pub end: End,
}

impl Message {
    /// Of a response.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }

    /// Of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).expect("a request line")
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reason in `Sluss-Refused`.
    pub fn refused(&self) -> Option<&str> {
        self.field("sluss-refused")
    }
}

impl<S: Read + Write> Wire<S> {
    /// Around a stream of which nothing was read.
    pub fn new(stream: S) -> Wire<S> {
        Wire { stream, input: Vec::new() }
    }

    /// Sends the bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes what is sent");
    }

    /// Sends the bytes, unless the peer is gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Reads more; how the connection ended where there is none.
    fn fill(&mut self) -> Result<(), End> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(End::ClosedEarly),
            Ok(count) => {
                self.input.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("nothing came within the bound; so far: {:?}", self.unread())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(End::Cut),
        }
    }

    /// What was read and not taken.
    pub fn unread(&self) -> String {
        String::from_utf8_lossy(&self.input).into_owned()
    }

    /// Takes a head; `None` where the connection ends before its first byte.
    pub fn head(&mut self) -> Option<Message> {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if let Err(end) = self.fill() {
                assert!(self.input.is_empty(), "{end:?} within a head: {:?}", self.unread());
                return None;
            }
        };
        let text = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let start = lines.next().expect("a first line").to_owned();
        let (body, trailers) = (Vec::new(), Vec::new());
        Some(Message { start, fields: lines.map(field).collect(), body, trailers, end: End::Whole })
    }

    /// Takes so many bytes.
    pub fn exactly(&mut self, count: usize) -> (Vec<u8>, End) {
        while self.input.len() < count {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.input), end);
            }
        }
        (self.input.drain(..count).collect(), End::Whole)
    }

    /// Takes what comes until the connection ends.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.input), end);
            }
        }
    }

    fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..at]).into_owned();
                self.input.drain(..at + 2);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn chunked(&mut self, message: &mut Message) -> Result<(), End> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).expect("a chunk's size");
            if size == 0 {
                break;
            }
            let (data, end) = self.exactly(size);
            message.body.extend_from_slice(&data);
            if end != End::Whole {
                return Err(end);
            }
            assert_eq!(self.line()?, "", "a chunk ends with its line");
        }
        loop {
            match self.line()?.as_str() {
                "" => return Ok(()),
                line => message.trailers.push(field(line)),
            }
        }
    }

    /// Takes the body behind a head.
    pub fn body(&mut self, mut message: Message) -> Message {
        if message.field("transfer-encoding").is_some() {
            message.end = self.chunked(&mut message).err().unwrap_or(End::Whole);
        } else if let Some(length) = message.field("content-length") {
            let length = length.parse().expect("a length");
            (message.body, message.end) = self.exactly(length);
        } else if message.start.starts_with("HTTP/") {
            (message.body, message.end) = self.rest();
            if message.end == End::ClosedEarly {
                message.end = End::Whole;
            }
        }
        message
    }

    /// Takes a request; `None` where the connection ends before one.
    pub fn request(&mut self) -> Option<Message> {
        let head = self.head()?;
        Some(self.body(head))
    }

    /// Takes the response to a request that is no HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Message {
        let head = self.head().expect("a response");
        match head.status() {
            100..=199 | 204 | 304 => head,
            _ => self.body(head),
        }
    }

    /// Sends a request and takes its response.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request);
        self.response()
    }

    /// How the connection ends, when nothing more is to come.
    #[track_caller]
    pub fn end(&mut self) -> End {
        let (rest, end) = self.rest();
        assert!(rest.is_empty(), "unexpected: {:?}", String::from_utf8_lossy(&rest));
        end
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').expect("a field line");
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

/// A plain GET.
pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Bytes in which every loss and every swap shows.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
