//! One request as a line: for people (nginx's combined format with more behind it) or for machines
//! (JSON with OpenTelemetry's names). Pure: bytes are appended to a buffer.
//!
//! What comes from a client is bounded in length and escaped: no byte of it can end the line, leave
//! its quotes or command a terminal. A reopened "field" cannot be forged.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wide::u8x16;

use crate::refusal::Refusal;
use crate::screen::ClientText;

/// How lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// For people and for tools that read nginx's logs.
    Text,
    /// One JSON object a line.
    Json,
}

/// One ended request. Borrowed from what the request holds anyway.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// When its first byte came.
    pub time: SystemTime,
    /// The site's name, a [`SiteId`](crate::names::SiteId); empty where none was found.
    pub site: &'a str,
    /// The host it was sent to; empty where none was readable.
    pub host: &'a str,
    /// The client, its address as text.
    pub client: &'a ClientText,
    /// The client's port.
    pub client_port: u16,
    /// Its method.
    pub method: &'a str,
    /// Path and query, as canonical.
    pub path: &'a str,
    /// Of a head that was not understood, how it begins; then method and path are empty.
    pub start_line: &'a str,
    /// `1.0`, `1.1` or `2`.
    pub protocol: &'static str,
    /// The status sent, or that of the refusal (499: the client went away).
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Its wait in the request queue.
    pub queue: Duration,
    /// From sent to an endpoint to the response head, the last attempt.
    pub upstream: Duration,
    /// From its first byte to the response's last.
    pub total: Duration,
    /// `1.2`, `1.3`; empty without TLS.
    pub tls_version: &'static str,
    /// Whether the connection's handshake continued a session.
    pub resumed: bool,
    /// Why it was refused, if it was.
    pub refusal: Option<Refusal>,
    /// The request's id, as sent upstream: letters, digits and `-_.:=+/`.
    pub request_id: &'a str,
    /// The endpoint's URL; empty where none was asked.
    pub endpoint: &'a str,
    /// The client's User-Agent; empty without one.
    pub user_agent: &'a [u8],
    /// The client's Referer; empty without one.
    pub referer: &'a [u8],
}

/// Bytes of a path that are logged; the rest becomes `...`.
const PATH_BYTES_MAX: usize = 2_048;
/// Bytes that are logged of any other text from a client.
const FIELD_BYTES_MAX: usize = 512;
/// The longest line: each byte of five bounded texts as `\u00XX`, and 2 KiB for everything else,
/// of which names of the operator's are at most 253 bytes each.
pub(super) const LINE_BYTES_MAX: usize = 6 * (PATH_BYTES_MAX + 7 * FIELD_BYTES_MAX) + 2_048;

/// Longer lines than this are rare.
const LINE_BYTES_USUAL: usize = 1_024;

/// The text of the current second, made once a second.
#[derive(Default)]
pub(super) struct Clock {
    second: u64,
    text: String,
}

impl AccessRecord<'_> {
    /// Appends the record's line, its end included.
    pub(super) fn write(&self, format: Format, clock: &mut Clock, out: &mut Vec<u8>) {
        match format {
            Format::Text => self.write_text(clock, out),
            Format::Json => self.write_json(clock, out),
        }
        out.push(b'\n');
    }

    /// `CLIENT - - [TIME] "METHOD PATH PROTOCOL" STATUS BYTES "REFERER" "AGENT" key=value ...`.
    fn write_text(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        out.extend_from_slice(self.client.ip_text());
        out.extend_from_slice(b" - - [");
        clock.write(self.time, Format::Text, out);
        out.extend_from_slice(b"] \"");
        if self.method.is_empty() {
            text(out, or_dash(self.start_line.as_bytes()), FIELD_BYTES_MAX);
        } else {
            text(out, self.method.as_bytes(), FIELD_BYTES_MAX);
            out.push(b' ');
            text(out, self.path.as_bytes(), PATH_BYTES_MAX);
            out.extend_from_slice(b" HTTP/");
            text(out, self.protocol.as_bytes(), FIELD_BYTES_MAX);
        }
        out.extend_from_slice(b"\" ");
        number(out, u64::from(self.status));
        out.push(b' ');
        number(out, self.bytes_out);
        out.extend_from_slice(b" \"");
        text(out, or_dash(self.referer), FIELD_BYTES_MAX);
        out.extend_from_slice(b"\" \"");
        text(out, or_dash(self.user_agent), FIELD_BYTES_MAX);
        out.extend_from_slice(b"\" site=");
        text(out, or_dash(self.site.as_bytes()), FIELD_BYTES_MAX);
        out.extend_from_slice(b" host=");
        token(out, self.host.as_bytes());
        out.extend_from_slice(b" in=");
        number(out, self.bytes_in);
        out.extend_from_slice(b" queue=");
        seconds(out, self.queue);
        out.extend_from_slice(b" upstream=");
        seconds(out, self.upstream);
        out.extend_from_slice(b" total=");
        seconds(out, self.total);
        out.extend_from_slice(b" tls=");
        token(out, self.tls_version.as_bytes());
        out.extend_from_slice(if self.resumed {
            b" resumed=1 refused="
        } else {
            b" resumed=0 refused="
        });
        out.extend_from_slice(self.refusal.map_or("-", Refusal::label).as_bytes());
        out.extend_from_slice(b" id=");
        token(out, self.request_id.as_bytes());
        out.extend_from_slice(b" endpoint=");
        token(out, self.endpoint.as_bytes());
    }

    /// Names of OpenTelemetry's HTTP conventions where there is one, `sluss.` before the others.
    fn write_json(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        // One look at the capacity for nearly every line, not one for each of its pieces.
        out.reserve(LINE_BYTES_USUAL);
        out.extend_from_slice(b"{\"timestamp\":\"");
        clock.write(self.time, Format::Json, out);
        out.extend_from_slice(b"\",\"client.address\":\"");
        out.extend_from_slice(self.client.ip_text());
        out.extend_from_slice(b"\",\"client.port\":");
        number(out, u64::from(self.client_port));
        member(out, b",\"http.request.method\":\"", self.method.as_bytes(), FIELD_BYTES_MAX);
        out.extend_from_slice(match self.tls_version.is_empty() {
            true => b",\"url.scheme\":\"http\"",
            false => b",\"url.scheme\":\"https\"",
        });
        member(out, b",\"sluss.start_line\":\"", self.start_line.as_bytes(), FIELD_BYTES_MAX);
        member(out, b",\"server.address\":\"", self.host.as_bytes(), FIELD_BYTES_MAX);
        let (path, query) = path_and_query(self.path.as_bytes());
        member(out, b",\"url.path\":\"", path, PATH_BYTES_MAX);
        member(out, b",\"url.query\":\"", query, PATH_BYTES_MAX.saturating_sub(path.len()));
        own_member(out, b",\"network.protocol.version\":\"", self.protocol);
        out.extend_from_slice(b",\"http.response.status_code\":");
        number(out, u64::from(self.status));
        out.extend_from_slice(b",\"http.request.body.size\":");
        number(out, self.bytes_in);
        out.extend_from_slice(b",\"http.response.body.size\":");
        number(out, self.bytes_out);
        out.extend_from_slice(b",\"http.server.request.duration\":");
        seconds(out, self.total);
        out.extend_from_slice(b",\"sluss.queue.duration\":");
        seconds(out, self.queue);
        out.extend_from_slice(b",\"sluss.upstream.duration\":");
        seconds(out, self.upstream);
        own_member(out, b",\"tls.protocol.version\":\"", self.tls_version);
        out.extend_from_slice(match self.resumed {
            true => b",\"tls.resumed\":true",
            false => b",\"tls.resumed\":false",
        });
        own_member(out, b",\"sluss.site\":\"", self.site);
        let refusal = self.refusal.map_or("", Refusal::label);
        own_member(out, b",\"error.type\":\"", refusal);
        own_member(out, b",\"sluss.request.id\":\"", self.request_id);
        member(out, b",\"sluss.endpoint\":\"", self.endpoint.as_bytes(), FIELD_BYTES_MAX);
        member(out, b",\"user_agent.original\":\"", self.user_agent, FIELD_BYTES_MAX);
        member(out, b",\"http.request.header.referer\":\"", self.referer, FIELD_BYTES_MAX);
        out.push(b'}');
    }
}

impl Clock {
    /// Text: `12/Nov/2026:18:03:11 +0000`, as nginx. JSON: RFC 3339 with milliseconds. Both in UTC.
    fn write(&mut self, time: SystemTime, format: Format, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text = second_text(since.as_secs(), format);
        }
        out.extend_from_slice(self.text.as_bytes());
        if format == Format::Json {
            let milliseconds = since.subsec_millis();
            out.extend_from_slice(&[b'.', digit(milliseconds / 100), digit(milliseconds / 10)]);
            out.extend_from_slice(&[digit(milliseconds), b'Z']);
        }
    }
}

fn second_text(second: u64, format: Format) -> String {
    use time::macros::format_description;
    let text =
        format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
    let json = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let second = i64::try_from(second).unwrap_or(i64::MAX);
    let time = time::OffsetDateTime::from_unix_timestamp(second)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let formatted = match format {
        Format::Text => time.format(text),
        Format::Json => time.format(json),
    };
    formatted.unwrap_or_default()
}

fn digit(value: u32) -> u8 {
    b'0' + (value % 10) as u8
}

fn or_dash(bytes: &[u8]) -> &[u8] {
    if bytes.is_empty() { b"-" } else { bytes }
}

/// In pieces of a size that the compiler knows: each is one move into the line, not a call to copy.
fn number(out: &mut Vec<u8>, value: u64) {
    let ([a, b], [c, d]) = (pair(value / 100 % 100), pair(value % 100));
    match value {
        0..10 => out.push(d),
        10..100 => out.extend_from_slice(&[c, d]),
        100..1_000 => out.extend_from_slice(&[b, c, d]),
        1_000..10_000 => out.extend_from_slice(&[a, b, c, d]),
        _ => {
            number(out, value / 10_000);
            out.extend_from_slice(&[a, b, c, d]);
        }
    }
}

/// Two digits.
fn pair(value: u64) -> [u8; 2] {
    [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]
}

/// Seconds with six places.
fn seconds(out: &mut Vec<u8>, time: Duration) {
    if time.is_zero() {
        return out.extend_from_slice(b"0.000000");
    }
    let micros = u64::from(time.subsec_micros());
    let [a, b] = pair(micros / 10_000);
    let [c, d] = pair(micros / 100 % 100);
    let [e, f] = pair(micros % 100);
    match time.as_secs() {
        whole @ 0..10 => out.extend_from_slice(&[b'0' + whole as u8, b'.', a, b, c, d, e, f]),
        whole => {
            number(out, whole);
            out.extend_from_slice(&[b'.', a, b, c, d, e, f]);
        }
    }
}

/// Text between quotes, escaped as nginx does: what is not printable ASCII becomes `\xHH`.
fn text(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    escape(out, bytes, bytes_max, |byte| !(0x20..0x7f).contains(&byte) || b"\"\\".contains(&byte));
}

/// Text without quotes: blanks are escaped too; `-` where there is none.
fn token(out: &mut Vec<u8>, bytes: &[u8]) {
    let special = |byte| !(0x21..0x7f).contains(&byte) || b"\"\\".contains(&byte);
    escape(out, or_dash(bytes), FIELD_BYTES_MAX, special);
}

fn escape(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize, special: impl Fn(u8) -> bool) {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    let mut rest = shown;
    // Clean text, nearly all of it, is copied in one piece.
    while let Some(at) = rest.iter().position(|byte| special(*byte)) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"\\x");
        out.extend_from_slice(&[hex(rest[at] >> 4), hex(rest[at])]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    if shown.len() < bytes.len() {
        out.extend_from_slice(b"...");
    }
}

fn hex(value: u8) -> u8 {
    b"0123456789ABCDEF"[usize::from(value & 15)]
}

/// What stands before and after the first `?`.
fn path_and_query(target: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}

/// `,"name":"value"`, left out where the value is empty; `begin` is all up to the value.
#[inline]
fn member<const N: usize>(out: &mut Vec<u8>, begin: &[u8; N], value: &[u8], bytes_max: usize) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(begin);
    json(out, value, bytes_max);
    out.push(b'"');
}

/// The same for the edge's own words and for what it let in as a name: sites' names and requests'
/// ids are short and of letters, digits and a few signs that need no escape.
#[inline]
fn own_member<const N: usize>(out: &mut Vec<u8>, begin: &[u8; N], value: &str) {
    debug_assert!(value.len() <= FIELD_BYTES_MAX && is_clean(value.as_bytes()), "{value:?}");
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(begin);
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// JSON text: UTF-8 stays, control characters (C1 too: they command terminals) are escaped, bytes
/// that are no UTF-8 become U+FFFD.
#[inline]
fn json(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    if bytes.len() <= bytes_max && is_clean(bytes) {
        return out.extend_from_slice(bytes);
    }
    json_escaped(out, bytes, bytes_max);
}

/// Whether JSON text can be these bytes as they are, sixteen at a time.
#[inline]
fn is_clean(bytes: &[u8]) -> bool {
    let clean = |block: [u8; 16]| {
        let block = u8x16::from(block);
        let printable = block.max(u8x16::splat(b' ')).min(u8x16::splat(b'~')).simd_eq(block);
        printable & !(block.simd_eq(u8x16::splat(b'"')) | block.simd_eq(u8x16::splat(b'\\')))
    };
    let last = match bytes.last_chunk() {
        Some(last) => *last,
        None => {
            let mut short = [b' '; 16];
            short[..bytes.len()].copy_from_slice(bytes);
            short
        }
    };
    bytes.as_chunks().0.iter().fold(clean(last), |all, block| all & clean(*block)).all()
}

#[cold]
fn json_escaped(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    for chunk in shown.utf8_chunks() {
        for character in chunk.valid().chars() {
            json_character(out, character);
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    if shown.len() < bytes.len() {
        out.extend_from_slice(b"...");
    }
}

fn json_character(out: &mut Vec<u8>, character: char) {
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        c if c.is_control() => {
            let code = c as u32 as u8;
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[hex(code >> 4), hex(code)]);
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}
