//! Lines, and the search for the empty one that ends a head (RFC 9112 2.1, 2.2).
//!
//! Each byte is looked at once where the head arrives whole; where it does not, a first try and
//! this search come on top: linear in any case, however small the pieces.

use super::policy::Policy;

/// Empty lines skipped before a start line (RFC 9112 2.2 asks for one at least).
const EMPTY_LINES_MAX: u8 = 4;

/// Where the search for a head's end stands. One for each head; begins anew by itself once the
/// head is complete or refused.
#[derive(Debug, Default)]
pub struct Scan {
    /// Where the head begins, behind skipped empty lines.
    start: usize,
    pub(super) skipped: u8,
    /// Whether the head was tried since its first line was complete.
    tried: bool,
    /// Where the line begins in which the search stands.
    line: usize,
    /// No LF stands in `line..searched`.
    searched: usize,
}

/// What to do about the bytes at hand.
pub(super) enum Look {
    Wait,
    /// Judge the head that begins here.
    Judge(usize),
}

impl Scan {
    /// For heads: a try as soon as the start line is complete, another when the head is.
    pub(super) fn head(&mut self, input: &[u8], raw_bytes_max: usize) -> Look {
        if self.tried {
            return self.rest(input, raw_bytes_max);
        }
        while self.skipped < EMPTY_LINES_MAX {
            let rest = &input[self.start..];
            let empty =
                if rest.starts_with(b"\r\n") { 2 } else { usize::from(rest.starts_with(b"\n")) };
            if empty == 0 {
                break;
            }
            self.start += empty;
            self.skipped += 1;
        }
        self.searched = self.searched.max(self.start);
        let found = memchr::memchr(b'\n', &input[self.searched..]).is_some();
        self.searched = input.len();
        if found || input.len() - self.start >= raw_bytes_max {
            self.tried = true;
            return Look::Judge(self.start);
        }
        Look::Wait
    }

    /// For what comes without start line.
    pub(super) fn trailer(&mut self, input: &[u8], raw_bytes_max: usize) -> Look {
        if std::mem::replace(&mut self.tried, true) {
            return self.rest(input, raw_bytes_max);
        }
        Look::Judge(0)
    }

    /// Looks for the empty line where it was left.
    fn rest(&mut self, input: &[u8], raw_bytes_max: usize) -> Look {
        while let Some(at) = memchr::memchr(b'\n', &input[self.searched..]) {
            let end = self.searched + at;
            let line = &input[self.line..end];
            self.line = end + 1;
            self.searched = self.line;
            if matches!(line, [] | [b'\r']) {
                return Look::Judge(self.start);
            }
        }
        self.searched = input.len();
        if input.len() - self.start >= raw_bytes_max { Look::Judge(self.start) } else { Look::Wait }
    }

    /// The try has come to the end of the bytes; the line that begins at `line` may be complete
    /// but for the byte that says whether it goes on, so the search begins with it.
    pub(super) fn wait(&mut self, line: usize) {
        self.line = self.start + line;
        self.searched = self.line;
    }
}

/// One line without its end.
pub(super) struct Line<'a> {
    pub text: &'a [u8],
    pub bare_lf: bool,
    pub next: usize,
}

/// The line that begins at `at`, where its end is at hand.
pub(super) fn line(window: &[u8], at: usize) -> Option<Line<'_>> {
    let end = at + memchr::memchr(b'\n', &window[at..])?;
    let text = &window[at..end];
    Some(match text {
        [text @ .., b'\r'] => Line { text, bare_lf: false, next: end + 1 },
        _ => Line { text, bare_lf: true, next: end + 1 },
    })
}

/// The bytes a head may take at most, empty line included.
pub(super) fn window<'a>(input: &'a [u8], start: usize, policy: &Policy) -> &'a [u8] {
    let end = input.len().min(start.saturating_add(policy.raw_bytes_max()));
    &input[start..end]
}
