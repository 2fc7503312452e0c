//! The first line: what a request line or a status line says (RFC 9112 3, 4).
//!
//! A request line is exact or refused: it says where the request goes. A status line is repaired
//! where it can mean only one thing. The canonical line goes into the storage in front of the fields.

use super::class;
use super::framing;
use super::head::{RequestMethod, Version};
use super::rule::Rule;
use super::section::{FIELD_BYTES_MAX, Section};
use super::target;

/// What a request line says.
pub(super) struct RequestLine {
    pub method: RequestMethod,
    pub method_len: usize,
    pub target_len: usize,
    pub path_len: usize,
    pub version: Version,
}

/// `method SP target SP HTTP/1.x`, exactly; anything else is refused (RFC 9112 3).
pub(super) fn request_line(line: &[u8], section: &mut Section<'_>) -> Option<RequestLine> {
    if line.len() > section.judge.policy().head_bytes_max() {
        section.judge.refuse(Rule::Oversize, b"", line);
        return None;
    }
    let Some((method, target, version)) = split_request_line(line) else {
        section.judge.refuse(Rule::RequestLine, b"", line);
        return None;
    };
    let Some(read) = target::read(target, method) else {
        section.judge.refuse(Rule::RequestLine, b"", line);
        return None;
    };
    if let Some((authority, port)) = read.authority {
        if !section.storage.authority.set(authority) {
            section.judge.refuse(Rule::Host, b"", line);
            return None;
        }
        section.host.named_by_target = Some(port);
    }
    Some(put_request_line(section, method, read, version))
}

fn split_request_line(line: &[u8]) -> Option<(&[u8], &[u8], Version)> {
    let method_len = class::token_len(line);
    let (method, rest) = line.split_at(method_len);
    let rest = rest.strip_prefix(b" ")?;
    let target_len = memchr::memchr(b' ', rest)?;
    let (target, version) = rest.split_at(target_len);
    let version = match version {
        b" HTTP/1.1" => Version::H11,
        b" HTTP/1.0" => Version::H10,
        // RFC 9110 2.5: a higher minor version is read as the highest known.
        [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Version::H11,
        _ => return None,
    };
    (method_len > 0 && method != b"CONNECT").then_some((method, target, version))
}

/// Puts the canonical request line down.
fn put_request_line(
    section: &mut Section<'_>,
    method: &[u8],
    target: target::Target<'_>,
    version: Version,
) -> RequestLine {
    let text = &mut section.storage.text;
    text.extend_from_slice(method);
    text.push(b' ');
    if !target.rooted {
        text.push(b'/');
    }
    text.extend_from_slice(target.origin);
    let target_len = text.len() - method.len() - 1;
    let path_len = memchr::memchr(b'?', target.origin)
        .map_or(target_len, |at| at + usize::from(!target.rooted));
    text.extend_from_slice(b" HTTP/1.1\r\n");
    RequestLine {
        method: RequestMethod::from_token(method),
        method_len: method.len(),
        target_len,
        path_len,
        version,
    }
}

/// What a status line says.
pub(super) struct StatusLine {
    pub status: u16,
    pub reason_len: usize,
    pub version: Version,
}

/// `HTTP/1.x SP status SP reason`; what differs is repaired where it can mean only one thing.
pub(super) fn status_line(line: &[u8], section: &mut Section<'_>) -> Option<StatusLine> {
    let Some((version, status, reason, odd)) = split_status_line(line) else {
        section.judge.refuse(Rule::StatusLine, b"", line);
        return None;
    };
    let clean = class::trim(reason);
    let controls = clean.iter().any(|b| class::is_control(*b));
    if odd || controls || clean.len() != reason.len() || !(100..600).contains(&status) {
        section.judge.find(Rule::StatusLine, b"", line);
    }
    let text = &mut section.storage.text;
    if controls {
        let blanked: Vec<u8> =
            clean.iter().map(|b| if class::is_control(*b) { b' ' } else { *b }).collect();
        text.extend_from_slice(class::trim(&blanked));
    } else {
        text.extend_from_slice(clean);
    }
    let reason_len = text.len();
    if reason_len > FIELD_BYTES_MAX {
        section.judge.refuse(Rule::Oversize, b"", line);
        return None;
    }
    Some(StatusLine { status, reason_len, version })
}

/// Version, status, reason, and whether anything but the reason had to be read leniently.
fn split_status_line(line: &[u8]) -> Option<(Version, u16, &[u8], bool)> {
    let start = class::trim(line);
    let mut odd = start.len() != line.len() && line.first().is_some_and(|b| class::is_blank(*b));
    let line = &line[line.len() - trim_start(line).len()..];
    let (name, rest) = line.split_at_checked(7)?;
    let [b'0'..=b'9', ..] = rest else { return None };
    if !name.eq_ignore_ascii_case(b"HTTP/1.") {
        return None;
    }
    let version = if rest[0] == b'0' { Version::H10 } else { Version::H11 };
    odd |= name != b"HTTP/1." || rest[0] > b'1';
    let blanks = &rest[1..];
    let code = trim_start(blanks);
    if code.len() == blanks.len() {
        return None;
    }
    odd |= blanks[0] != b' ' || blanks.len() - code.len() != 1;
    let (digits, reason) = code.split_at_checked(3)?;
    let status = u16::try_from(framing::decimal(digits)?).ok().filter(|status| *status >= 100)?;
    match reason {
        [] => Some((version, status, reason, true)),
        [b' ', reason @ ..] => Some((version, status, reason, odd)),
        [b'\t', reason @ ..] => Some((version, status, reason, true)),
        _ => None,
    }
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().position(|b| !class::is_blank(*b)).unwrap_or(bytes.len());
    &bytes[blanks..]
}
