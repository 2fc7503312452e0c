//! Where a message ends: Content-Length and Transfer-Encoding become one [`Framing`] (RFC 9112 6.3).
//!
//! The only place that reads these two fields. Whoever forwards or relays acts on the `Framing`;
//! the fields themselves are never forwarded but written anew from it.

use super::class;

/// How a message's content is delimited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is no content.
    None,
    /// Exactly so many bytes; may be 0.
    Length(u64),
    /// HTTP/1.1 chunks, trailer section behind them.
    Chunked,
    /// HTTP/2 without content-length: the stream's end ends it.
    Stream,
    /// Responses over HTTP/1 only: the connection's end ends it, so truncation is not seen.
    UntilClose,
}

/// What a Content-Length line adds to those before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sight {
    First,
    /// The same length again.
    Repeated,
    /// No number, or another one.
    Invalid,
}

/// What the framing fields of one head have said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    /// Value and number of digits: `5` and `05` are two texts, and readers may differ over them.
    length: Option<(u64, usize)>,
    coded: bool,
}

impl Lengths {
    pub(super) fn length(&self) -> Option<u64> {
        self.length.map(|(value, _)| value)
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.coded
    }

    /// Takes one Content-Length line: `1*DIGIT`, or a list of the same.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Sight {
        let mut sight = Sight::First;
        for element in value.split(|b| *b == b',') {
            let element = class::trim(element);
            let Some(length) = decimal(element) else { return Sight::Invalid };
            match self.length {
                None => self.length = Some((length, element.len())),
                Some(first) if first == (length, element.len()) => sight = Sight::Repeated,
                Some(_) => return Sight::Invalid,
            }
        }
        sight
    }

    /// Takes one Transfer-Encoding line; `false` where it is anything but the only `chunked`.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> bool {
        let first = !std::mem::replace(&mut self.coded, true);
        first && value.eq_ignore_ascii_case(b"chunked")
    }
}

/// `1*DIGIT` up to 2^63 - 1: beyond it some reader's signed number becomes negative.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    (value <= i64::MAX as u64).then_some(value)
}

/// Whether a response has no content whatever its fields say: RFC 9112 6.3, cases 1 and 2.
pub(super) fn has_no_content(status: u16, to: super::head::RequestMethod) -> bool {
    use super::head::RequestMethod;
    match to {
        RequestMethod::Head => true,
        RequestMethod::Connect if status / 100 == 2 => true,
        _ => status / 100 == 1 || status == 204 || status == 304,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_decimal_digits_and_nothing_else() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0005", Some(5)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("", None),
            ("+5", None),
            ("-5", None),
            ("5 5", None),
            ("0x5", None),
            ("5.0", None),
            ("\u{ff15}", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn lengths_must_agree_to_the_letter() {
        let sight = |lines: &[&str]| {
            let mut lengths = Lengths::default();
            lines.iter().map(|line| lengths.content_length(line.as_bytes())).last()
        };
        assert_eq!(sight(&["5"]), Some(Sight::First));
        assert_eq!(sight(&["5, 5"]), Some(Sight::Repeated));
        assert_eq!(sight(&["5", "5"]), Some(Sight::Repeated));
        assert_eq!(sight(&["5", "6"]), Some(Sight::Invalid));
        assert_eq!(sight(&["5", "05"]), Some(Sight::Invalid));
        assert_eq!(sight(&["5,"]), Some(Sight::Invalid));
        assert_eq!(sight(&["5,,5"]), Some(Sight::Invalid));
    }
}
