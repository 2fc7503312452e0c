//! An HTTP/2 field list becomes the same head (RFC 9113 8.2, 8.3).
//!
//! The list is judged as it was decoded, pseudo-header fields first. What RFC 9113 calls malformed
//! is refused (the caller resets the stream or answers 400); everything else goes through the same
//! rules as HTTP/1. Cookie crumbs are joined for whoever reads HTTP/1 (8.2.3).

use super::class;
use super::connection;
use super::framing::{self, Framing};
use super::head::{RequestHead, RequestMethod, ResponseHead, Storage, Version};
use super::known::{self, Role};
use super::policy::Policy;
use super::rule::{Direction, Rule};
use super::section::{Form, Part, Section};
use super::target;
use super::{Refused, Screened};

/// Judges a request head that came over HTTP/2; `end_stream` says that no content follows.
///
/// # Errors
/// [`Refused`] where the head must not be forwarded; the connection is unharmed.
pub fn request_h2(
    parts: &http::request::Parts,
    end_stream: bool,
    policy: &Policy,
    storage: Storage,
) -> Result<Screened<RequestHead>, Box<Refused>> {
    let uri = &parts.uri;
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    // The HTTP/2 library takes no request without scheme; a `Uri` made elsewhere may lack it.
    let scheme = uri.scheme_str().unwrap_or("https");
    let pseudo = [
        (":method", Some(parts.method.as_str())),
        (":scheme", Some(scheme)),
        (":authority", uri.authority().map(|authority| authority.as_str())),
        (":path", Some(path)),
    ];
    let pseudo =
        pseudo.into_iter().filter_map(|(name, value)| Some((name.as_bytes(), value?.as_bytes())));
    let fields =
        parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    request_list(pseudo.chain(fields), end_stream, policy, storage)
}

/// Judges a response head that came over HTTP/2; `to` is the request it answers.
///
/// # Errors
/// [`Refused`] where the head must not be forwarded; the connection is unharmed.
pub fn response_h2(
    parts: &http::response::Parts,
    end_stream: bool,
    policy: &Policy,
    to: RequestMethod,
    storage: Storage,
) -> Result<Screened<ResponseHead>, Box<Refused>> {
    let status = [(&b":status"[..], parts.status.as_str().as_bytes())];
    let fields =
        parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    response_list(status.into_iter().chain(fields), (to, end_stream), policy, storage)
}

/// As [`request_h2`], of a decoded field list with its pseudo-header fields.
///
/// # Errors
/// As there.
pub fn request_list<'a>(
    list: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    end_stream: bool,
    policy: &Policy,
    storage: Storage,
) -> Result<Screened<RequestHead>, Box<Refused>> {
    let mut section = Section::new(policy, Direction::Request, Part::Head, storage);
    // The request line must stand in front of the fields, so the pseudo-header fields go first.
    let mut pseudo = Pseudo::default();
    let mut line = None;
    for (name, value) in list {
        if name.starts_with(b":") {
            pseudo.take(name, value, &mut section, line.is_some());
            continue;
        }
        if line.is_none() {
            line = Some(pseudo.request_line(&mut section));
        }
        regular(&mut section, name, value);
    }
    let line = line.unwrap_or_else(|| pseudo.request_line(&mut section));
    let shown = [pseudo.method.unwrap_or_default(), b" ", pseudo.path.unwrap_or_default()].concat();
    match line {
        Some(line) => finish_request(section, line, end_stream, &shown),
        None => Err(Refused::new(section, &shown)),
    }
}

/// As [`response_h2`], of a decoded field list with its pseudo-header field.
///
/// # Errors
/// As there.
pub fn response_list<'a>(
    list: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    (to, end_stream): (RequestMethod, bool),
    policy: &Policy,
    storage: Storage,
) -> Result<Screened<ResponseHead>, Box<Refused>> {
    let mut section = Section::new(policy, Direction::Response, Part::Head, storage);
    let mut status = None;
    let mut regular_seen = false;
    for (name, value) in list {
        if !name.starts_with(b":") {
            regular_seen = true;
            regular(&mut section, name, value);
        } else if name != b":status" || status.is_some() || regular_seen {
            section.judge.refuse(Rule::PseudoHeader, name, value);
        } else {
            status = Some(value);
        }
    }
    let shown = status.unwrap_or_default();
    let number = framing::decimal(shown).and_then(|status| u16::try_from(status).ok());
    match number.filter(|status| shown.len() == 3 && *status >= 100) {
        // RFC 9113 8.6: there is no 101 over HTTP/2.
        Some(status) if status != 101 => finish_response(section, status, (to, end_stream), shown),
        _ => {
            section.judge.refuse(Rule::PseudoHeader, b":status", shown);
            Err(Refused::new(section, shown))
        }
    }
}

#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
}

struct RequestLine {
    method: RequestMethod,
    method_len: u32,
    target_len: u32,
    path_len: u32,
}

impl<'a> Pseudo<'a> {
    fn take(
        &mut self,
        name: &[u8],
        value: &'a [u8],
        section: &mut Section<'_>,
        behind_regular: bool,
    ) {
        let slot = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            _ => return section.judge.refuse(Rule::PseudoHeader, name, value),
        };
        if behind_regular || slot.replace(value).is_some() {
            section.judge.refuse(Rule::PseudoHeader, name, value);
        }
    }

    /// RFC 9113 8.3.1. Puts the canonical request line down.
    fn request_line(&self, section: &mut Section<'_>) -> Option<RequestLine> {
        let judge = &mut section.judge;
        // First of all: whatever else is wrong, it is this host's site that is told.
        if let Some(authority) = self.authority.filter(|it| !section.storage.authority.set(it)) {
            judge.refuse(Rule::Host, b":authority", authority);
            return None;
        }
        let (Some(method), Some(scheme), Some(path)) = (self.method, self.scheme, self.path) else {
            let missing: &[u8] = match (self.method, self.scheme) {
                (None, _) => b":method",
                (_, None) => b":scheme",
                _ => b":path",
            };
            judge.refuse(Rule::PseudoHeader, missing, &b""[..]);
            return None;
        };
        if !class::is_token(method) || method == b"CONNECT" {
            judge.refuse(Rule::RequestLine, b":method", method);
            return None;
        }
        let port = match scheme {
            b"https" => 443,
            b"http" => 80,
            _ => {
                judge.refuse(Rule::PseudoHeader, b":scheme", scheme);
                return None;
            }
        };
        // Only the origin form: an absolute one in :path would be a second authority.
        if !matches!(path, [b'/' | b'*', ..]) || target::read(path, method).is_none() {
            judge.refuse(Rule::RequestLine, b":path", path);
            return None;
        }
        if path.len() + method.len() + 11 > judge.policy().head_bytes_max() {
            judge.refuse(Rule::Oversize, b":path", path);
            return None;
        }
        if self.authority.is_some() {
            section.host.named_by_target = Some(port);
        }
        for part in [method, b" ", path, b" HTTP/1.1\r\n"] {
            section.storage.text.extend_from_slice(part);
        }
        let path_len = memchr::memchr(b'?', path).unwrap_or(path.len());
        Some(RequestLine {
            method: RequestMethod::from_token(method),
            method_len: method.len() as u32,
            target_len: path.len() as u32,
            path_len: path_len as u32,
        })
    }
}

/// A field that is no pseudo-header field: RFC 9113 8.2.1 and 8.2.2, then the common rules.
fn regular(section: &mut Section<'_>, name: &[u8], value: &[u8]) {
    if !class::is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
        let imitates = known::imitates_framing(name, section.judge.direction());
        let rule = if imitates && !class::is_token(name) {
            Rule::NearMissFraming
        } else {
            Rule::FieldNameInvalid
        };
        return section.judge.refuse(rule, name, value);
    }
    let known = known::lookup(name);
    let allowed = match known.role {
        Role::Connection | Role::TransferEncoding | Role::Upgrade => false,
        Role::Te => value == b"trailers",
        _ => !matches!(known.name, "keep-alive" | "proxy-connection"),
    };
    if !allowed {
        return section.judge.refuse(Rule::ConnectionSpecific, name, value);
    }
    let malformed = memchr::memchr3(0, b'\r', b'\n', value).is_some();
    if malformed || class::trim(value).len() != value.len() {
        return section.judge.refuse(Rule::FieldValueControl, name, value);
    }
    section.field(name, value, Form::OneLine);
}

fn finish_request(
    mut section: Section<'_>,
    line: RequestLine,
    end_stream: bool,
    shown: &[u8],
) -> Result<Screened<RequestHead>, Box<Refused>> {
    if section.host.fields == 0 && section.host.named_by_target.is_none() {
        section.judge.refuse(Rule::Host, b":authority", &b""[..]);
    }
    let framing = framing_of(&mut section, end_stream);
    if line.method == RequestMethod::Trace && !matches!(framing, Framing::None | Framing::Length(0))
    {
        section.judge.find(Rule::BodyForbidden, b"", &b"TRACE"[..]);
    }
    let options = connection::read(&mut section, Version::H2);
    if section.judge.refused_by().is_some() {
        return Err(Refused::new(section, shown));
    }
    section.join_cookies();
    let head = RequestHead {
        storage: section.storage,
        method: line.method,
        method_len: line.method_len,
        target_len: line.target_len,
        path_len: line.path_len,
        version: Version::H2,
        framing,
        options,
    };
    Ok(Screened { head, findings: section.judge.into_findings() })
}

/// RFC 9113 8.1.1: a length that the stream's end contradicts is malformed.
fn framing_of(section: &mut Section<'_>, end_stream: bool) -> Framing {
    match section.lengths.length() {
        Some(length) if end_stream && length > 0 => {
            section.judge.refuse(Rule::ContentLengthInvalid, b"content-length", &b"END_STREAM"[..]);
            Framing::None
        }
        Some(length) => Framing::Length(length),
        None if end_stream => Framing::None,
        None => Framing::Stream,
    }
}

fn finish_response(
    mut section: Section<'_>,
    status: u16,
    (to, end_stream): (RequestMethod, bool),
    shown: &[u8],
) -> Result<Screened<ResponseHead>, Box<Refused>> {
    let bare = framing::has_no_content(status, to);
    let length = section.lengths.length();
    let mute = status / 100 == 1 || status == 204;
    if mute && length.is_some() {
        let note = &b"announced where none may be"[..];
        section.judge.find(Rule::BodyForbidden, b"content-length", note);
    }
    let framing = if bare { Framing::None } else { framing_of(&mut section, end_stream) };
    let options = connection::read(&mut section, Version::H2);
    if section.judge.refused_by().is_some() {
        return Err(Refused::new(section, shown));
    }
    let head = ResponseHead {
        storage: section.storage,
        status,
        reason_len: 0,
        version: Version::H2,
        framing,
        length: length.filter(|_| bare && !mute),
        options,
    };
    Ok(Screened { head, findings: section.judge.into_findings() })
}
