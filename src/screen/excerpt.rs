//! What is shown of odd bytes: escaped, bounded, and nothing that may be a secret.
//!
//! Findings stand in a log, behind an API and on terminals. So values are shown by their looks and
//! by their field's name: where either speaks of a credential nothing is, and of addresses neither
//! user information nor what stands behind `?` or `#`.

use std::fmt::Write as _;

use super::class;

/// Bytes of a name or value shown. Enough to recognise the line in the site's code.
pub(super) const EXCERPT_BYTES_MAX: usize = 64;

/// Bytes shown as hex around the defect.
const HEX_BYTES_MAX: usize = 24;

/// What the access log shows of a target, too.
const START_LINE_BYTES_MAX: usize = 256;

/// A name of several words is shown whole up to here.
const WORDS_BYTES_MAX: usize = 32;

/// Words in a field's name after which its value is nobody's business.
const SECRET_WORDS: [&str; 11] = [
    "auth",
    "cookie",
    "credential",
    "csrf",
    "jwt",
    "key",
    "passw",
    "secret",
    "session",
    "signature",
    "token",
];

/// Words in a value for which nothing of it is shown; `key` alone is too common there.
const SECRET_VALUE_WORDS: [&str; 14] = [
    "apikey",
    "api-key",
    "api_key",
    "auth",
    "cookie",
    "credential",
    "csrf",
    "jwt",
    "key=",
    "passw",
    "secret",
    "session",
    "sid=",
    "token",
];

/// Authentication schemes, where no letter or digit follows (RFC 9110 11.1).
const SCHEMES: [&str; 7] = ["basic", "bearer", "digest", "hawk", "negotiate", "ntlm", "signature"];

/// Bytes, and where in them the defect is.
#[derive(Clone, Copy)]
pub(super) struct Defect<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> From<&'a [u8]> for Defect<'a> {
    fn from(bytes: &'a [u8]) -> Defect<'a> {
        Defect { bytes, at: 0 }
    }
}

/// A value, or a line where `field` is empty: as text and in hex around the defect. Where anything
/// is left out there is no hex.
pub(super) fn excerpt(field: &[u8], defect: Defect<'_>) -> (String, String) {
    let public = public_len(field, defect.bytes);
    if public < defect.bytes.len() {
        let mut text = escape(&defect.bytes[..public.min(EXCERPT_BYTES_MAX)], EXCERPT_BYTES_MAX);
        text.push_str(&redacted(defect.bytes.len() - public.min(EXCERPT_BYTES_MAX)));
        return (text, String::new());
    }
    (
        escape(window(defect, EXCERPT_BYTES_MAX), EXCERPT_BYTES_MAX),
        hex(window(defect, HEX_BYTES_MAX)),
    )
}

/// A name as it came, up to where it stops to be one: behind a forgotten colon there is a value.
/// A few words (`Last Modified`) are shown whole.
pub(super) fn name(field: &[u8]) -> String {
    let token = field.len() - field.strip_prefix(b":").unwrap_or(field).len();
    let token = token + class::token_len(&field[token..]);
    let is_word = |b: &u8| b.is_ascii_alphabetic() || matches!(b, b'-' | b' ');
    let are_words = field.len() <= WORDS_BYTES_MAX && !is_secret(field);
    let behind = &field[token..];
    if behind.iter().all(|b| class::is_blank(*b)) || (are_words && field.iter().all(is_word)) {
        return escape(field, EXCERPT_BYTES_MAX);
    }
    // The first byte that may not stand there is the defect.
    let mut text = escape(&field[..token.min(EXCERPT_BYTES_MAX)], EXCERPT_BYTES_MAX);
    let _ = write!(text, "{}", behind[..1].escape_ascii());
    if behind.len() > 1 {
        text.push_str("...");
    }
    text
}

/// A start line for the log: without what may hold a secret, its version kept.
pub(super) fn start_line(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = memchr::memmem::rfind(line, b" HTTP/");
    let end = version.unwrap_or(line.len());
    let public = match version {
        Some(_) => address_len(&line[..end]),
        None => public_of_line(&line[..end]),
    };
    if public >= end {
        return escape(line, START_LINE_BYTES_MAX);
    }
    let mut text = escape(&line[..public], START_LINE_BYTES_MAX);
    text.push_str(&redacted(end - public));
    text + &escape(&line[end..], START_LINE_BYTES_MAX)
}

/// In place of what is not shown.
pub(super) fn redacted(len: usize) -> String {
    format!("[{len} bytes redacted]")
}

/// How much of the bytes from their start may be shown.
fn public_len(field: &[u8], bytes: &[u8]) -> usize {
    // A name with `=` is a value whose colon is somewhere else.
    if is_secret(field) || field.contains(&b'=') || is_credential(bytes) {
        return 0;
    }
    match field {
        b"" => public_of_line(bytes),
        b"host" | b":authority" if bytes.contains(&b'@') => 0,
        _ => address_len(bytes),
    }
}

/// Of a line whose name, if it has one, was not read: a value stands behind the first `=`, unless a
/// colon says that it is a field's.
fn public_of_line(line: &[u8]) -> usize {
    let colon = memchr::memchr(b':', line);
    if is_secret(&line[..colon.unwrap_or_default()]) {
        return 0;
    }
    let equals = memchr::memchr(b'=', line).filter(|at| colon.is_none_or(|colon| *at < colon));
    equals.map_or(line.len(), |at| at + 1).min(address_len(line))
}

/// Up to user information, a query or a fragment.
fn address_len(bytes: &[u8]) -> usize {
    let end = memchr::memchr2(b'?', b'#', bytes).map_or(bytes.len(), |at| at + 1);
    let Some(at) = memchr::memchr(b'@', &bytes[..end]) else { return end };
    let user = bytes[..at].iter().rposition(|b| matches!(b, b'/' | b' ')).map_or(0, |at| at + 1);
    // In a path, or in text, `@` says nothing by itself.
    let is_user = bytes[..user].ends_with(b"//") || bytes[user..at].contains(&b':');
    if is_user { user } else { end }
}

/// Whether a field's value must not be shown; names are compared by their letters and digits.
fn is_secret(field: &[u8]) -> bool {
    let letters: String = field
        .iter()
        .filter(|b| b.is_ascii_alphanumeric())
        .map(|b| char::from(b.to_ascii_lowercase()))
        .collect();
    SECRET_WORDS.iter().any(|word| letters.contains(word))
}

/// Whether bytes look as if they held a credential: a line that is no field, or a value with an
/// authentication scheme.
fn is_credential(bytes: &[u8]) -> bool {
    let text = bytes.to_ascii_lowercase();
    let is_scheme = |word: &&str| {
        memchr::memmem::find_iter(&text, word.as_bytes())
            .any(|at| text.get(at + word.len()).is_some_and(|b| !b.is_ascii_alphanumeric()))
    };
    SCHEMES.iter().any(is_scheme)
        || SECRET_VALUE_WORDS
            .iter()
            .any(|word| memchr::memmem::find(&text, word.as_bytes()).is_some())
}

fn window(defect: Defect<'_>, len_max: usize) -> &[u8] {
    let Defect { bytes, at } = defect;
    if bytes.len() <= len_max {
        return bytes;
    }
    let start = at.saturating_sub(len_max / 2).min(bytes.len() - len_max);
    &bytes[start..start + len_max]
}

/// Printable ASCII as it is, everything else as `\r`, `\x01`; at most `len_max` bytes of the input.
fn escape(bytes: &[u8], len_max: usize) -> String {
    let shown = &bytes[..bytes.len().min(len_max)];
    let mut text = shown.escape_ascii().to_string();
    if shown.len() < bytes.len() {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        if !text.is_empty() {
            text.push(' ');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(field: &str, bytes: &[u8]) -> String {
        excerpt(field.as_bytes(), Defect::from(bytes)).0
    }

    #[test]
    fn secrets_are_not_shown() {
        for field in [
            "Cookie",
            "Set-Cookie ",
            "AUTHORIZATION",
            "X-Api_Key",
            "X-CSRF-Token",
            "X-Access-Key",
            "sid=a",
        ] {
            assert_eq!(text(field, b"abc\x01"), "[4 bytes redacted]", "{field}");
        }
        assert_eq!(text("", b"Authorization Bearer abc"), "[24 bytes redacted]");
        for value in ["Bearer abc", "Bearer\tabc\x01", "Digest abc\x01", "basic abc", "a; sid=b"] {
            let expected = format!("[{} bytes redacted]", value.len());
            assert_eq!(text("X-Whatever", value.as_bytes()), expected, "{value:?}");
        }
        assert_eq!(text("X-Basics", b"basics\x01"), r"basics\x01");
    }

    #[test]
    fn lines_that_are_no_fields_show_no_value() {
        for (line, expected) in [
            ("X-Frame-Option=SameOrigin", "X-Frame-Option=[10 bytes redacted]"),
            (" id=abc; b=c", " id=[8 bytes redacted]"),
            ("path=/; x=abc", "path=[8 bytes redacted]"),
            ("x=abc; u=http://x", "x=[15 bytes redacted]"),
            ("X-Access-Key: abc", "[17 bytes redacted]"),
            ("Content-Type: a/b; c=d", "Content-Type: a/b; c=d"),
            ("GET http://alice:abc@a.test/ HTTP/1.1", "GET http://[26 bytes redacted]"),
            ("GET alice:abc@a.test/ HTTP/1.1", "GET [26 bytes redacted]"),
            ("GET /@alice/a HTTP/1.1", "GET /@alice/a HTTP/1.1"),
            ("GET /cb?code=abc#x HTTP/1.1", "GET /cb?[19 bytes redacted]"),
        ] {
            assert_eq!(text("", line.as_bytes()), expected);
        }
    }

    #[test]
    fn addresses_show_neither_users_nor_queries() {
        for (field, value, expected) in [
            ("location", "/a?code=abc", "/a?[8 bytes redacted]"),
            ("referer", "https://a.test/b#abc", "https://a.test/b#[3 bytes redacted]"),
            ("referer", "https://u:abc@a.test/b?c", "https://[16 bytes redacted]"),
            ("host", "u:abc@a.test", "[12 bytes redacted]"),
            (":path", "/a#abc", "/a#[3 bytes redacted]"),
        ] {
            assert_eq!(text(field, value.as_bytes()), expected);
        }
    }

    /// Where a colon was forgotten the name goes on up to the next one, far into the value.
    #[test]
    fn a_name_ends_where_it_stops_to_be_one() {
        for (field, expected) in [
            ("Set-Cookie session=abc; Expires=Mon, 01 Jan 2024 00", "Set-Cookie ..."),
            ("Authorization Basic abc", "Authorization ..."),
            ("Cookie=sid=abc; u=http", "Cookie=..."),
            ("Last Modified", "Last Modified"),
            ("Expires ", "Expires "),
            ("X-\u{dc}ber", r"X-\xc3..."),
            (":path", ":path"),
            ("", ""),
            ("a b1", "a ..."),
        ] {
            assert_eq!(name(field.as_bytes()), expected);
        }
    }

    #[test]
    fn excerpts_are_escaped_and_bounded() {
        assert_eq!(text("X", b"a\x01\r\xffb"), r"a\x01\r\xffb");
        let long = vec![b'a'; 100_000];
        assert!(text("X", &long).len() < 100);
        let (at, _) = excerpt(b"", Defect { bytes: &long, at: 99_999 });
        assert_eq!(at.len(), EXCERPT_BYTES_MAX);
        assert!(name(&long).len() < 100);
        assert!(name(&[long.clone(), b"=".to_vec(), long].concat()).len() < 100);
    }

    #[test]
    fn start_lines_show_no_query() {
        for (line, expected) in [
            ("GET /a?token=x HTTP/1.1\r", "GET /a?[7 bytes redacted] HTTP/1.1"),
            ("GET /a?b c HTTP/1.1", "GET /a?[3 bytes redacted] HTTP/1.1"),
            ("GET /a?b abc", "GET /a?[5 bytes redacted]"),
            ("GET /a#b HTTP/1.1", "GET /a#[1 bytes redacted] HTTP/1.1"),
            ("GET http://u:abc@a.test/ HTTP/1.1", "GET http://[13 bytes redacted] HTTP/1.1"),
            ("GET http://u@a.test/ HTTP/1.1", "GET http://[9 bytes redacted] HTTP/1.1"),
            ("GET u:abc@a.test/ HTTP/1.1", "GET [13 bytes redacted] HTTP/1.1"),
            ("GET /session=1 HTTP/1.1", "GET /session=1 HTTP/1.1"),
            ("name=abc&b", "name=[5 bytes redacted]"),
        ] {
            assert_eq!(start_line(line.as_bytes()), expected);
        }
        assert_eq!(start_line(b"\x16\x03\x01"), r"\x16\x03\x01");
    }
}
