//! Reads one HTTP/1.1 answer from bytes as they come. Pure.
//!
//! It reads what servers under test are supposed to send and no more: the edge's own screener
//! judges heads, and a generator that shared its code would share its mistakes. Interim answers
//! (1xx) are passed over. Bodies are counted; their first [`KEPT_MAX`] bytes are kept where
//! somebody wants to look into them.

use memchr::memmem;

/// The longest head that is read; no server's default allows more.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The longest line of chunked framing or trailer.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Body bytes kept for [`Body::Keep`].
pub const KEPT_MAX: usize = 64 * 1024;

/// What becomes of the body's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Body {
    /// Counted.
    Count,
    /// Counted, and the first [`KEPT_MAX`] kept.
    Keep,
}

/// A whole answer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The status, 200 to 999.
    pub status: u16,
    /// The body's length.
    pub bytes: u64,
    /// The body's first bytes, with [`Body::Keep`].
    pub kept: Vec<u8>,
    /// Whether the connection can carry another request.
    pub reusable: bool,
}

/// Reading an answer, and how far it is.
#[derive(Debug)]
pub struct Reader {
    stage: Stage,
    /// Bytes of an unfinished head or line.
    pending: Vec<u8>,
    answer: Answer,
    body: Body,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Head,
    /// Bytes of the body that are still to come.
    Length(u64),
    ChunkSize,
    /// Bytes of the chunk that are still to come.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    Trailer,
    UntilClose,
    Done,
}

/// Why bytes are no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// No chunk size, or none that fits.
    #[error("malformed chunk in the answer")]
    Chunk,
    /// The connection ended inside the body.
    #[error("the body was cut short")]
    CutShort,
    /// The connection ended before a whole head.
    #[error("closed before an answer")]
    Empty,
    /// Bytes behind the answer.
    #[error("bytes behind the answer")]
    Excess,
    /// No status line, or a field that does not parse.
    #[error("malformed head in the answer")]
    Head,
    /// A head or line over its bound.
    #[error("the answer's head is too large")]
    TooLarge,
}

impl Reader {
    /// Awaits an answer to a request other than HEAD.
    pub fn new(body: Body) -> Reader {
        Reader { stage: Stage::Head, pending: Vec::new(), answer: Answer::default(), body }
    }

    /// Takes bytes; true once the answer is whole.
    ///
    /// # Errors
    /// [`Malformed`] where they are no answer.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<bool, Malformed> {
        while !input.is_empty() {
            let taken = match self.stage {
                Stage::Head => self.head(input)?,
                Stage::Length(left) => {
                    let taken = self.keep(input, left);
                    self.stage = after(left - taken as u64, Stage::Length, Stage::Done);
                    taken
                }
                Stage::Chunk(left) => {
                    let taken = self.keep(input, left);
                    self.stage = after(left - taken as u64, Stage::Chunk, Stage::ChunkEnd);
                    taken
                }
                Stage::UntilClose => self.keep(input, u64::MAX),
                Stage::ChunkSize | Stage::ChunkEnd | Stage::Trailer => self.line(input)?,
                Stage::Done => return Err(Malformed::Excess),
            };
            input = &input[taken..];
        }
        Ok(self.stage == Stage::Done)
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// [`Malformed`] where that cuts the answer short.
    pub fn end(&mut self) -> Result<(), Malformed> {
        match self.stage {
            Stage::UntilClose => {
                self.stage = Stage::Done;
                Ok(())
            }
            Stage::Done => Ok(()),
            Stage::Head => Err(Malformed::Empty),
            Stage::Length(_)
            | Stage::ChunkSize
            | Stage::Chunk(_)
            | Stage::ChunkEnd
            | Stage::Trailer => Err(Malformed::CutShort),
        }
    }

    /// The answer, as far as it was read.
    pub fn into_answer(self) -> Answer {
        self.answer
    }

    fn keep(&mut self, input: &[u8], left: u64) -> usize {
        let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        self.answer.bytes += taken as u64;
        if self.body == Body::Keep {
            let room = KEPT_MAX.saturating_sub(self.answer.kept.len());
            self.answer.kept.extend_from_slice(&input[..taken.min(room)]);
        }
        taken
    }

    /// Takes a head's bytes from `input`, up to its end where that has come.
    fn head(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        if self.pending.is_empty()
            && let Some(end) = memmem::find(input, b"\r\n\r\n")
        {
            // The usual case, one read holds the head: no copy.
            self.stage = self.interpret(&input[..end + 2])?;
            return Ok(end + 4);
        }
        let known = self.pending.len();
        self.pending.extend_from_slice(input);
        let Some(end) = memmem::find(&self.pending, b"\r\n\r\n") else {
            return match self.pending.len() {
                HEAD_BYTES_MAX.. => Err(Malformed::TooLarge),
                _ => Ok(input.len()),
            };
        };
        let head = std::mem::take(&mut self.pending);
        self.stage = self.interpret(&head[..end + 2])?;
        Ok(end + 4 - known)
    }

    /// Reads a head, each line with its CRLF; says what comes behind it.
    fn interpret(&mut self, head: &[u8]) -> Result<Stage, Malformed> {
        let head = std::str::from_utf8(head).map_err(|_| Malformed::Head)?;
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or("");
        let (version, rest) = start.split_once(' ').ok_or(Malformed::Head)?;
        let status: u16 =
            rest.get(..3).and_then(|digits| digits.parse().ok()).ok_or(Malformed::Head)?;
        if !version.starts_with("HTTP/1.") || status < 100 {
            return Err(Malformed::Head);
        }
        if status < 200 && status != 101 {
            return Ok(Stage::Head);
        }
        let mut stage = Stage::UntilClose;
        let mut close = version == "HTTP/1.0";
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(Malformed::Head)?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") && stage != Stage::ChunkSize {
                stage = Stage::Length(value.parse().map_err(|_| Malformed::Head)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                stage = Stage::ChunkSize;
            } else if name.eq_ignore_ascii_case("connection") {
                close = value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close"))
                    || (close && !value.eq_ignore_ascii_case("keep-alive"));
            }
        }
        if stage == Stage::Length(0) || matches!(status, 101 | 204 | 304) {
            stage = Stage::Done;
        }
        self.answer.status = status;
        self.answer.reusable = !close && stage != Stage::UntilClose && status != 101;
        Ok(stage)
    }

    /// Takes bytes of a line of chunked framing, up to its end where that has come.
    fn line(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let Some(end) = memchr::memchr(b'\n', input) else {
            self.pending.extend_from_slice(input);
            return match self.pending.len() {
                LINE_BYTES_MAX.. => Err(Malformed::TooLarge),
                _ => Ok(input.len()),
            };
        };
        self.pending.extend_from_slice(&input[..end]);
        let line = std::mem::take(&mut self.pending);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        self.stage = match self.stage {
            Stage::ChunkSize => match chunk_size(line)? {
                0 => Stage::Trailer,
                size => Stage::Chunk(size),
            },
            Stage::ChunkEnd if line.is_empty() => Stage::ChunkSize,
            Stage::ChunkEnd => return Err(Malformed::Chunk),
            Stage::Trailer if line.is_empty() => Stage::Done,
            other => other,
        };
        Ok(end + 1)
    }
}

fn after(left: u64, more: fn(u64) -> Stage, done: Stage) -> Stage {
    if left == 0 { done } else { more(left) }
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(b"");
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed::Chunk)?;
    u64::from_str_radix(digits.trim(), 16).map_err(|_| Malformed::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of every size; each must come out the same.
    #[track_caller]
    fn check(text: &str, expected: Result<(u16, &str, bool), Malformed>) {
        for size in 1..=text.len() {
            let mut reader = Reader::new(Body::Keep);
            let read = text
                .as_bytes()
                .chunks(size)
                .try_fold(false, |_, piece| reader.feed(piece))
                .and_then(|done| if done { Ok(()) } else { reader.end() });
            let answer = reader.into_answer();
            let got = read.map(|()| {
                assert_eq!(answer.bytes, answer.kept.len() as u64);
                (answer.status, String::from_utf8(answer.kept).unwrap(), answer.reusable)
            });
            let want = expected.map(|(status, body, reusable)| (status, body.to_owned(), reusable));
            assert_eq!(got, want, "in pieces of {size}");
        }
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Ok((200, "hello", true)));
        check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok((200, "", true)));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, "", true)));
        check("HTTP/1.1 200 OK\r\n\r\nto the end", Ok((200, "to the end", false)));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        check(chunked, Ok((200, "abc0123456789", true)));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let text =
            "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\n!";
        check(text, Ok((404, "!", true)));
    }

    #[test]
    fn a_closing_server_is_believed() {
        let text = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n!";
        check(text, Ok((200, "!", false)));
        check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n!", Ok((200, "!", false)));
        let kept = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n!";
        check(kept, Ok((200, "!", true)));
    }

    #[test]
    fn what_is_cut_short_or_malformed_is_told() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Err(Malformed::CutShort));
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Err(Malformed::Empty));
        check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!!", Err(Malformed::Excess));
        check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Err(Malformed::Head));
        check("SMTP 220 hello\r\n\r\n", Err(Malformed::Head));
        let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        check(chunk, Err(Malformed::Chunk));
        let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab";
        check(cut, Err(Malformed::CutShort));
    }

    #[test]
    fn endless_heads_are_refused() {
        let mut reader = Reader::new(Body::Count);
        let line = format!("X: {}\r\n", "x".repeat(1000));
        let fed = (0..100).try_fold(false, |_, _| reader.feed(line.as_bytes()));
        assert_eq!(fed, Err(Malformed::TooLarge));
    }
}
