//! Chunked content (RFC 9112 7.1): a decoder that takes the grammar at its word.
//!
//! Whoever reads chunk lines leniently reads another message than the next who does: a bare LF, a
//! blank behind the size or a line end inside an extension have all been used to smuggle requests.
//! So every deviation is a [`Rule::Chunk`] finding and ends the message, as broken off.
//! Extensions are bounded, checked and left behind.

use super::class;
use super::finding::Finding;
use super::policy::Policy;
use super::rule::{Direction, Rule};

/// Bytes of one chunk's line: size, extensions, line end.
pub const LINE_BYTES_MAX: usize = 1024;

/// Bytes of extensions in one message. Without it a body of one-byte chunks, each with a long
/// extension, costs a thousand times what it carries (CVE-2023-39326).
pub const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Hexadecimal digits of a size; leading zeros count.
const DIGITS_MAX: usize = 16;

/// Decodes one chunked message.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// Bytes of the current line.
    line: usize,
    /// Bytes of extensions so far.
    extensions: usize,
    size: u64,
    digits: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Size,
    /// Behind the size or a complete extension: BWS, `;` or the line's end.
    ExtensionOrEnd(Blanks),
    /// Behind `;`: BWS, then the name.
    ExtensionName(Begun),
    /// Behind the name: BWS, `=`, `;` or the end.
    ExtensionEquals(Blanks),
    /// Behind `=`: BWS, then a token or a quoted string.
    ExtensionValue(Begun),
    Quoted,
    QuotedPair,
    LineLf,
    /// So many bytes of data are left.
    Data(u64),
    DataCr,
    DataLf,
    /// Behind the last chunk.
    Trailer,
    Done,
}

/// Whether white space stood: then only a `;` or `=` may follow, not the line's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Blanks {
    None,
    Some,
}

/// Whether the first byte of a token has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Begun {
    No,
    Yes,
}

/// What stands at the front of the input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChunkStep {
    /// Nothing but parts of chunk lines, all `consumed`: read more.
    NeedMore {
        /// Bytes done with; the whole input, but for one CR that may begin the end.
        consumed: usize,
    },
    /// Content in `input[skip..skip + len]`; call again with what follows.
    Data {
        /// Bytes of chunk lines in front.
        skip: usize,
        /// Bytes of content; at least 1.
        len: usize,
    },
    /// The message has ended without trailers, `skip` bytes into the input.
    End {
        /// Bytes done with.
        skip: usize,
    },
    /// A trailer section begins `skip` bytes into the input: give it to
    /// [`trailers`](super::trailers).
    Trailers {
        /// Bytes done with.
        skip: usize,
    },
}

/// The byte that broke the grammar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed {
    /// Where in the input of the failing call.
    pub at: usize,
    /// Bytes of the line that stand before it; what is further in front is content.
    line: usize,
}

impl Malformed {
    /// What to report of it; `input` is that of the failing call.
    pub fn finding(self, input: &[u8], policy: &Policy, direction: Direction) -> Finding {
        // What stands behind it may be content already, which is nobody's business.
        let start = self.at.saturating_sub(self.line.min(8)).min(input.len());
        let end = (self.at + 1).min(input.len());
        policy.find(Rule::Chunk, direction, "", &input[start..end])
    }
}

impl Default for Chunked {
    fn default() -> Chunked {
        Chunked { state: State::Size, line: 0, extensions: 0, size: 0, digits: 0 }
    }
}

impl Chunked {
    /// Goes on to the next content or end. After `Data` the caller goes on behind it; after
    /// `NeedMore` it presents what was not consumed, with more.
    ///
    /// # Errors
    /// [`Malformed`] where the message has no meaning; there is no way on from it.
    pub fn step(&mut self, input: &[u8]) -> Result<ChunkStep, Malformed> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Data(left) => {
                    let len = left.min((input.len() - at) as u64) as usize;
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    return Ok(ChunkStep::Data { skip: at, len });
                }
                State::Trailer if input[at] != b'\r' => {
                    self.state = State::Done;
                    return Ok(ChunkStep::Trailers { skip: at });
                }
                State::Trailer => return self.end(input, at),
                State::Done => return Ok(ChunkStep::End { skip: at }),
                _ => {
                    self.state = self
                        .next(input[at])
                        .ok_or(Malformed { at, line: self.line.saturating_sub(1) })?;
                    at += 1;
                }
            }
        }
        Ok(ChunkStep::NeedMore { consumed: at })
    }

    /// Whether the message has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// At a CR behind the last chunk: the empty line, or a trailer that begins with CR.
    fn end(&mut self, input: &[u8], at: usize) -> Result<ChunkStep, Malformed> {
        match input.get(at + 1) {
            None => Ok(ChunkStep::NeedMore { consumed: at }),
            Some(b'\n') => {
                self.state = State::Done;
                Ok(ChunkStep::End { skip: at + 2 })
            }
            Some(_) => Err(Malformed { at: at + 1, line: 1 }),
        }
    }

    /// Takes one byte of a chunk line, or of the line end behind data.
    fn next(&mut self, byte: u8) -> Option<State> {
        self.line += 1;
        if self.line > LINE_BYTES_MAX {
            return None;
        }
        match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte),
            (State::Size, _) if self.digits == 0 => None,
            (State::Size | State::ExtensionOrEnd(_) | State::ExtensionEquals(_), b' ' | b'\t') => {
                Some(match self.state {
                    State::ExtensionEquals(_) => State::ExtensionEquals(Blanks::Some),
                    _ => State::ExtensionOrEnd(Blanks::Some),
                })
            }
            (State::ExtensionOrEnd(Blanks::Some) | State::ExtensionEquals(Blanks::Some), b'\r') => {
                None
            }
            (
                State::Size
                | State::ExtensionOrEnd(_)
                | State::ExtensionEquals(_)
                | State::ExtensionName(Begun::Yes)
                | State::ExtensionValue(Begun::Yes),
                b'\r',
            ) => Some(State::LineLf),
            (State::LineLf, b'\n') => self.line_end(),
            (State::DataCr, b'\r') => Some(State::DataLf),
            (State::DataLf, b'\n') => {
                (self.line, self.size, self.digits) = (0, 0, 0);
                Some(State::Size)
            }
            (State::LineLf | State::DataCr | State::DataLf, _) => None,
            _ => self.extension(byte),
        }
    }

    fn digit(&mut self, byte: u8) -> Option<State> {
        self.digits += 1;
        // 2^63 - 1 is the most: see `framing::decimal`.
        if self.digits > DIGITS_MAX || self.size >= 1 << 59 {
            return None;
        }
        let digit = char::from(byte).to_digit(16)?;
        self.size = self.size << 4 | u64::from(digit);
        Some(State::Size)
    }

    fn line_end(&mut self) -> Option<State> {
        self.line = 0;
        Some(if self.size == 0 { State::Trailer } else { State::Data(self.size) })
    }

    /// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
    fn extension(&mut self, byte: u8) -> Option<State> {
        self.extensions += 1;
        if self.extensions > EXTENSION_BYTES_MAX {
            return None;
        }
        let blank = class::is_blank(byte);
        match (self.state, byte) {
            (
                State::Size
                | State::ExtensionOrEnd(_)
                | State::ExtensionEquals(_)
                | State::ExtensionName(Begun::Yes)
                | State::ExtensionValue(Begun::Yes),
                b';',
            ) => Some(State::ExtensionName(Begun::No)),
            (State::ExtensionName(Begun::No), _) if blank => Some(State::ExtensionName(Begun::No)),
            (State::ExtensionName(Begun::Yes), _) if blank => {
                Some(State::ExtensionEquals(Blanks::Some))
            }
            (State::ExtensionName(Begun::Yes) | State::ExtensionEquals(_), b'=') => {
                Some(State::ExtensionValue(Begun::No))
            }
            (State::ExtensionName(_), _) if class::is_tchar(byte) => {
                Some(State::ExtensionName(Begun::Yes))
            }
            (State::ExtensionValue(Begun::No), _) if blank => {
                Some(State::ExtensionValue(Begun::No))
            }
            (State::ExtensionValue(Begun::No), b'"') => Some(State::Quoted),
            (State::ExtensionValue(Begun::Yes), _) if blank => {
                Some(State::ExtensionOrEnd(Blanks::Some))
            }
            (State::ExtensionValue(_), _) if class::is_tchar(byte) => {
                Some(State::ExtensionValue(Begun::Yes))
            }
            (State::Quoted, b'"') => Some(State::ExtensionOrEnd(Blanks::None)),
            (State::Quoted, b'\\') => Some(State::QuotedPair),
            (State::Quoted | State::QuotedPair, _) if !class::is_control(byte) => {
                Some(State::Quoted)
            }
            _ => None,
        }
    }
}

/// Writes a chunk's line in front of `len` bytes of content, which [`write_end`] must follow.
/// `len` is not 0: that would be the last chunk.
pub fn write_size(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0, "a chunk of no bytes ends the message");
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut rest = len;
    while rest > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Writes the line end behind a chunk's content.
pub fn write_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// The last chunk; a trailer section, if only its empty line, must follow.
pub const LAST: &[u8] = b"0\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// Content, how it ended, and the bytes behind it; the input in pieces of `piece` bytes.
    fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, &'static str, usize), usize> {
        let (mut decoder, mut content) = (Chunked::default(), Vec::new());
        let (mut start, mut end) = (0, piece.min(input.len()));
        loop {
            match decoder.step(&input[start..end]).map_err(|malformed| start + malformed.at)? {
                ChunkStep::Data { skip, len } => {
                    content.extend_from_slice(&input[start + skip..start + skip + len]);
                    start += skip + len;
                }
                ChunkStep::End { skip } => return Ok((content, "end", start + skip)),
                ChunkStep::Trailers { skip } => return Ok((content, "trailers", start + skip)),
                ChunkStep::NeedMore { .. } if end == input.len() => {
                    return Ok((content, "more", end));
                }
                ChunkStep::NeedMore { consumed } => {
                    start += consumed;
                    end = (end + piece).min(input.len());
                }
            }
        }
    }

    #[track_caller]
    fn check(input: &[u8], expected: Result<(&[u8], &str), usize>) {
        for piece in [input.len().max(1), 1, 2, 3] {
            let decoded = decode(input, piece);
            let seen =
                decoded.as_ref().map(|(content, end, _)| (&content[..], *end)).map_err(|at| *at);
            assert_eq!(seen, expected, "{} by {piece}", input.escape_ascii());
        }
    }

    #[test]
    fn chunks_become_content() {
        check(b"5\r\nhello\r\n0\r\n\r\nrest", Ok((b"hello", "end")));
        check(
            b"0A\r\n0123456789\r\n1\r\nx\r\n000\r\nTrailer: x\r\n\r\n",
            Ok((b"0123456789x", "trailers")),
        );
        check(b"5;a;b=c;d=\"e;\\\"f\" ; g = h\r\nhello\r\n0;last\r\n\r\n", Ok((b"hello", "end")));
        check(b"5\r\nhel", Ok((b"hel", "more")));
    }

    #[test]
    fn what_two_readers_would_read_differently_is_refused() {
        for (input, at) in [
            (&b"\r\n"[..], 0),
            (b" 5\r\n", 0),
            (b"0x5\r\n", 1),
            (b"+5\r\n", 0),
            (b"-5\r\n", 0),
            (b"5\nhello", 1),
            (b"5 \r\n", 2),
            (b"5\r\r\n", 2),
            (b"5\x0b\r\n", 1),
            (b"5;\r\n", 2),
            (b"5;a\nx\r\n", 3),
            (b"5;a\rx\r\n", 4),
            (b"5;a=\r\n", 4),
            (b"5;a=\"b\r\n", 6),
            (b"5;a b\r\n", 4),
            (b"5,a\r\n", 1),
            (b"5\r\nhelloX\r\n", 8),
            (b"5\r\nhello\n0\r\n", 8),
            (b"5\r\nhello\r\r\n", 9),
            (b"0\r\n\rX", 4),
            (b"8000000000000000\r\n", 15),
            (b"00000000000000001\r\n", 16),
            (b"g\r\n", 0),
        ] {
            check(input, Err(at));
        }
    }

    #[test]
    fn extensions_are_bounded_in_a_line_and_in_a_message() {
        let long = [b"5;".to_vec(), vec![b'a'; LINE_BYTES_MAX], b"\r\n".to_vec()].concat();
        assert!(decode(&long, long.len()).is_err());
        let chunk = [b"1;".to_vec(), vec![b'a'; 999], b"\r\nx\r\n".to_vec()].concat();
        assert!(decode(&chunk.repeat(16), usize::MAX).is_ok());
        assert!(decode(&chunk.repeat(17), usize::MAX).is_err());
    }

    #[test]
    fn written_chunks_are_read_again() {
        for len in [1, 15, 16, 4095, 65_536] {
            let mut out = Vec::new();
            write_size(&mut out, len);
            out.extend(vec![b'x'; len]);
            write_end(&mut out);
            out.extend_from_slice(LAST);
            out.extend_from_slice(b"\r\n");
            assert_eq!(decode(&out, out.len()), Ok((vec![b'x'; len], "end", out.len())));
        }
    }
}
