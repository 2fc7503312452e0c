//! Heads go out: towards an endpoint, towards a client, over HTTP/1 and HTTP/2.
//!
//! Hop-by-hop fields stay behind; Host, framing and connection fields are written from what was
//! decided; who the client is stands in the forwarding fields. HTTP/1 goes straight into the send
//! buffer without allocation.

use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use super::framing::Framing;
use super::head::{Field, Keeping, RequestHead, RequestMethod, ResponseHead, Storage, Version};
use super::known::{self, Role};

/// What an endpoint is told about the client and the way.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The client.
    pub client: &'a ClientText,
    /// Whether the peer is a trusted proxy: its forwarding fields are kept and added to.
    pub trusted: bool,
    /// For X-Request-Id: kept from a trusted client or made.
    pub request_id: &'a str,
    /// The Host instead of the client's.
    pub host_header: Option<&'a str>,
    /// Whether an upgrade asked for is asked for upstream.
    pub keep_upgrade: bool,
}

/// A connection's client, written once for all its requests.
#[derive(Clone, Debug)]
pub struct ClientText {
    ip: IpAddr,
    proto: &'static str,
    /// The fields that tell of it, one line behind the other.
    lines: Box<[u8]>,
    /// Where its address stands in them, and the port it came to.
    ip_at: Range<usize>,
    port_at: Range<usize>,
}

impl ClientText {
    /// Of a connection from `ip` to `local_port` that speaks `proto`, `https` or `http`.
    pub fn new(ip: IpAddr, local_port: u16, proto: &'static str) -> ClientText {
        let mut lines = Vec::with_capacity(128);
        // A dual-stack socket shows IPv4 clients as mapped addresses.
        put(&mut lines, FOR, &[ip.to_canonical().to_string().as_bytes()]);
        let ip_at = FOR.len() + 2..lines.len() - 2;
        put(&mut lines, PROTO, &[proto.as_bytes()]);
        let port_at = lines.len() + PORT.len() + 2;
        put(&mut lines, PORT, &[decimal_text(local_port.into(), &mut [0; 20])]);
        let port_at = port_at..lines.len() - 2;
        ClientText { ip, proto, lines: lines.into_boxed_slice(), ip_at, port_at }
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The same as text.
    pub fn ip_text(&self) -> &[u8] {
        &self.lines[self.ip_at.clone()]
    }

    fn port_text(&self) -> &[u8] {
        &self.lines[self.port_at.clone()]
    }
}

/// How a response goes to the client.
#[derive(Clone, Copy, Debug)]
pub struct ResponseTo<'a> {
    /// The version of the request.
    pub version: Version,
    /// Whether the connection is closed after it.
    pub close: bool,
    /// Whether content that ends with the connection, or with a stream, goes out in chunks.
    pub chunked: bool,
    /// For X-Request-Id, where the client shall have it.
    pub request_id: Option<&'a str>,
}

impl RequestHead {
    /// Writes the head for an HTTP/1.1 endpoint, empty line included. `Framing::Stream` goes out
    /// in chunks.
    pub fn write_h1(&self, out: &mut Vec<u8>, forward: &Forward<'_>) {
        let storage = &self.storage;
        out.reserve(storage.text.len() + 512);
        out.extend_from_slice(&storage.text[..self.line_len()]);
        out.extend_from_slice(b"host: ");
        match forward.host_header {
            Some(host) => out.extend_from_slice(host.as_bytes()),
            None => storage.authority.write(out),
        }
        out.extend_from_slice(b"\r\n");
        storage.copy_lines(out, |field| self.is_copied(field, forward));
        if forward.trusted {
            self.client_fields(forward, &mut |name, parts| put(out, name, parts));
        } else {
            out.extend_from_slice(&forward.client.lines);
        }
        self.way_fields(forward, &mut |name, parts| put(out, name, parts));
        match self.framing {
            Framing::Length(length) => put_length(out, length),
            Framing::Chunked | Framing::Stream => out.extend_from_slice(CHUNKED),
            Framing::None if self.wants_length() => put_length(out, 0),
            Framing::None | Framing::UntilClose => {}
        }
        if let Some(protocols) = self.upgrade().filter(|_| forward.keep_upgrade) {
            out.extend_from_slice(b"connection: upgrade\r\n");
            put(out, "upgrade", &[protocols.as_bytes()]);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Makes the head for an HTTP/2 endpoint.
    ///
    /// # Errors
    /// Where the HTTP library does not take the target; sluss takes a few bytes in it that RFC 3986
    /// would have percent-encoded.
    pub fn to_h2(
        &self,
        forward: &Forward<'_>,
        scheme: &str,
    ) -> Result<http::Request<()>, http::Error> {
        let authority = match forward.host_header {
            Some(host) => host.to_owned(),
            None => self.authority().to_string(),
        };
        let uri = http::Uri::builder().scheme(scheme).authority(authority);
        let uri = uri.path_and_query(encode(self.target())).build()?;
        let mut request = http::Request::builder()
            .version(http::Version::HTTP_2)
            .method(self.method())
            .uri(uri)
            .body(())?;
        let storage = &self.storage;
        let copied = storage.fields.iter().filter(|field| self.is_copied(field, forward));
        let map = request.headers_mut();
        map.reserve(storage.fields.len() + FORWARDING_FIELDS);
        append_all(map, copied, storage)?;
        let mut refused = None;
        let mut append = |name, parts: &[&[u8]]| match HeaderValue::from_maybe_shared(Bytes::from(
            parts.concat(),
        )) {
            Ok(value) => drop(map.append(HeaderName::from_static(name), value)),
            Err(error) => drop(refused.get_or_insert(error.into())),
        };
        self.client_fields(forward, &mut append);
        self.way_fields(forward, &mut append);
        if self.takes_trailers() {
            map.insert(http::header::TE, HeaderValue::from_static("trailers"));
        }
        if let Framing::Length(length) = self.framing {
            map.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        refused.map_or(Ok(request), Err)
    }

    /// The head as screening would have liked it: screened again, nothing is found and the same
    /// comes out. For recorded heads and tests.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = self.storage.text[..self.line_len()].to_vec();
        if self.version == Version::H10 {
            let version = out.len() - 3;
            out[version] = b'0';
        }
        put(&mut out, "host", &[self.authority().to_string().as_bytes()]);
        canonical_rest(&mut out, &self.storage, self.framing, None);
        if let Some(protocols) = self.upgrade() {
            out.extend_from_slice(b"connection: upgrade\r\n");
            put(&mut out, "upgrade", &[protocols.as_bytes()]);
        }
        put_persistence(&mut out, self.version, self.persistent());
        out.extend_from_slice(b"\r\n");
        out
    }

    /// `method SP target SP HTTP/1.1 CRLF`
    fn line_len(&self) -> usize {
        (self.method_len + self.target_len) as usize + 12
    }

    /// Many an HTTP/1 endpoint answers 411 to these without length (RFC 9110 8.6).
    fn wants_length(&self) -> bool {
        matches!(self.method, RequestMethod::Post | RequestMethod::Put)
    }

    /// The fields that tell of the client. [`ClientText`] has them as lines for clients of whom
    /// nothing is believed.
    fn client_fields(&self, forward: &Forward<'_>, put: &mut dyn FnMut(&'static str, &[&[u8]])) {
        let client = forward.client;
        self.append(forward, FOR, &[client.ip_text()], put);
        if !self.has_trusted(forward, PROTO) {
            put(PROTO, &[client.proto.as_bytes()]);
        }
        if !self.has_trusted(forward, PORT) {
            put(PORT, &[client.port_text()]);
        }
    }

    fn has_trusted(&self, forward: &Forward<'_>, name: &str) -> bool {
        forward.trusted && self.storage.field(name).is_some()
    }

    /// The fields that tell of the way: for whom the request is, and through whom it goes.
    fn way_fields(&self, forward: &Forward<'_>, put: &mut dyn FnMut(&'static str, &[&[u8]])) {
        let authority = self.authority();
        let mut own_port = [0; 20];
        let (colon, own_port): (&[u8], &[u8]) = match authority.port() {
            Some(port) => (b":", decimal_text(u64::from(port), &mut own_port)),
            None => (b"", b""),
        };
        let host = authority.host().as_bytes();
        if !self.has_trusted(forward, "x-forwarded-host") {
            put("x-forwarded-host", &[host, colon, own_port]);
        }
        let client = forward.client.ip_text();
        // RFC 7239 4: what has a colon or a bracket is quoted.
        let (open, close): (&[u8], &[u8]) =
            if client.contains(&b':') { (b"\"[", b"]\"") } else { (b"", b"") };
        let proto = forward.client.proto.as_bytes();
        self.append(
            forward,
            "forwarded",
            &[
                b"for=",
                open,
                client,
                close,
                b";host=\"",
                host,
                colon,
                own_port,
                b"\";proto=",
                proto,
            ],
            put,
        );
        put("via", &[via(self.version).as_bytes()]);
        if let Some(left) = self.forwards_left() {
            put("max-forwards", &[decimal_text(left.saturating_sub(1), &mut [0; 20])]);
        }
        put("x-request-id", &[forward.request_id.as_bytes()]);
    }

    /// A list that a trusted proxy began goes on; anybody else's is not believed.
    fn append(
        &self,
        forward: &Forward<'_>,
        name: &'static str,
        own: &[&[u8]],
        put: &mut dyn FnMut(&'static str, &[&[u8]]),
    ) {
        if !forward.trusted || self.storage.field(name).is_none() {
            return put(name, own);
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(own.len() + 4);
        for (_, value) in self.storage.end_to_end().filter(|(field, _)| *field == name) {
            parts.extend([value, b", "]);
        }
        parts.extend(own);
        put(name, &parts);
    }

    /// Whether a field goes on as it is; the others are written anew or stay behind.
    fn is_copied(&self, field: &Field, forward: &Forward<'_>) -> bool {
        match field.keeping {
            Keeping::Hop => false,
            Keeping::EndToEnd if field.role() == Role::MaxForwards => {
                self.forwards_left().is_none()
            }
            Keeping::EndToEnd => field.role() != Role::RequestId,
            Keeping::Forwarding => {
                let name = field.name(&self.storage.text);
                forward.trusted && !matches!(name, b"x-forwarded-for" | b"forwarded")
            }
        }
    }
}

impl ResponseHead {
    /// Writes the head for an HTTP/1 client, empty line included.
    pub fn write_h1(&self, out: &mut Vec<u8>, to: &ResponseTo<'_>) {
        let storage = &self.storage;
        out.reserve(storage.text.len() + 128);
        self.put_status_line(out, b"HTTP/1.1 ");
        storage.copy_lines(out, |field| {
            let replaced = field.role() == Role::RequestId && to.request_id.is_some();
            field.keeping != Keeping::Hop && !replaced
        });
        put(out, "via", &[via(self.version).as_bytes()]);
        if let Some(id) = to.request_id {
            put(out, "x-request-id", &[id.as_bytes()]);
        }
        match self.framing {
            Framing::Length(length) => put_length(out, length),
            Framing::None => {
                if let Some(length) = self.length {
                    put_length(out, length);
                }
            }
            Framing::Chunked | Framing::Stream | Framing::UntilClose => {
                if to.chunked && to.version != Version::H10 {
                    out.extend_from_slice(CHUNKED);
                }
            }
        }
        // RFC 9110 15.2.2, 15.5.22: 101 and 426 are about Upgrade.
        match self.upgrade().filter(|_| self.status == 101 || self.status == 426) {
            Some(protocols) => {
                out.extend_from_slice(if to.close && self.status != 101 {
                    b"connection: upgrade, close\r\n"
                } else {
                    b"connection: upgrade\r\n"
                });
                put(out, "upgrade", &[protocols.as_bytes()]);
            }
            None if self.is_interim() => {}
            None => put_persistence(out, to.version, !to.close),
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Makes the head for an HTTP/2 client.
    ///
    /// # Errors
    /// Where the HTTP library takes a name or value that screening let through for malformed.
    pub fn to_h2(&self, request_id: Option<&str>) -> Result<http::Response<()>, http::Error> {
        let mut response =
            http::Response::builder().version(http::Version::HTTP_2).status(self.status).body(())?;
        let map = response.headers_mut();
        let storage = &self.storage;
        // Via, the request id, the length, and Date where it must be added.
        map.reserve(storage.fields.len() + 3);
        let copied = storage.fields.iter().filter(|field| {
            let replaced = field.role() == Role::RequestId && request_id.is_some();
            field.keeping != Keeping::Hop && !replaced
        });
        append_all(map, copied, storage)?;
        map.append(http::header::VIA, HeaderValue::from_static(via(self.version)));
        if let Some(id) = request_id {
            let mut id = HeaderValue::from_str(id)?;
            // No other response has it: it would only push others out of the client's table.
            id.set_sensitive(true);
            map.append(X_REQUEST_ID, id);
        }
        match self.framing {
            Framing::Length(length) => {
                map.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            Framing::None => {
                if let Some(length) = self.length {
                    map.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
                }
            }
            Framing::Chunked | Framing::Stream | Framing::UntilClose => {}
        }
        Ok(response)
    }

    /// The head as screening would have liked it: screened again, nothing is found and the same
    /// comes out. For recorded heads and tests.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let version: &[u8] = if self.version == Version::H10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
        self.put_status_line(&mut out, version);
        canonical_rest(&mut out, &self.storage, self.framing, self.length);
        if let Some(protocols) = self.upgrade() {
            out.extend_from_slice(b"connection: upgrade\r\n");
            put(&mut out, "upgrade", &[protocols.as_bytes()]);
        }
        put_persistence(&mut out, self.version, self.options.persistent(self.version));
        out.extend_from_slice(b"\r\n");
        out
    }

    fn put_status_line(&self, out: &mut Vec<u8>, version: &[u8]) {
        out.extend_from_slice(version);
        decimal(out, u64::from(self.status));
        out.push(b' ');
        out.extend_from_slice(self.reason());
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 9110 7.6.3: the version that a message came with, and who passed it on.
fn via(version: Version) -> &'static str {
    match version {
        Version::H10 => "1.0 sluss",
        Version::H11 => "1.1 sluss",
        Version::H2 => "2 sluss",
    }
}

/// As many as `client_fields` and `way_fields` put, and those of framing.
const FORWARDING_FIELDS: usize = 10;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const PORT: &str = "x-forwarded-port";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";

fn canonical_rest(out: &mut Vec<u8>, storage: &Storage, framing: Framing, length: Option<u64>) {
    storage.copy_lines(out, |field| field.keeping != Keeping::Hop);
    match (framing, length) {
        (Framing::Length(length), _) | (Framing::None, Some(length)) => put_length(out, length),
        (Framing::Chunked | Framing::Stream, _) => out.extend_from_slice(CHUNKED),
        (Framing::None | Framing::UntilClose, _) => {}
    }
}

/// RFC 9112 9.3: says what the version does not say by itself.
fn put_persistence(out: &mut Vec<u8>, version: Version, persistent: bool) {
    match (version, persistent) {
        (Version::H10, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (Version::H11, false) => out.extend_from_slice(b"connection: close\r\n"),
        (Version::H10, false) | (Version::H11, true) | (Version::H2, _) => {}
    }
}

fn put(out: &mut Vec<u8>, name: &str, parts: &[&[u8]]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

fn put_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(decimal_text(number, &mut [0; 20]));
}

/// 2^64 has 20 digits.
fn decimal_text(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

fn append_all<'a>(
    map: &mut HeaderMap,
    fields: impl Iterator<Item = &'a Field>,
    storage: &Storage,
) -> Result<(), http::Error> {
    // One copy, of which every value is a slice.
    let text = Bytes::copy_from_slice(&storage.text);
    for field in fields {
        let name = known::header_name(field.known, field.name(&storage.text))?;
        let mut value = HeaderValue::from_maybe_shared(text.slice(field.value_range()))?;
        // Never compressed into a table that an attacker's requests share (RFC 7541 7.1.3).
        value.set_sensitive(matches!(name, AUTHORIZATION | COOKIE | SET_COOKIE));
        map.append(name, value);
    }
    Ok(())
}

/// Percent-encodes what browsers send raw and the HTTP library does not take.
fn encode(target: &str) -> String {
    let mut encoded = String::with_capacity(target.len());
    for byte in target.chars() {
        match byte {
            '<' | '>' | '`' | '\\' | '^' | '"' => {
                encoded.push_str(&format!("%{:02X}", u32::from(byte)));
            }
            _ => encoded.push(byte),
        }
    }
    encoded
}

impl Storage {
    /// Puts the lines of some fields into `out`. They stand one behind the other as a rule, so few
    /// copies do.
    fn copy_lines(&self, out: &mut Vec<u8>, is_copied: impl Fn(&Field) -> bool) {
        let mut run = 0..0;
        for line in self.fields.iter().filter(|field| is_copied(field)).map(Field::line_range) {
            if line.start == run.end {
                run.end = line.end;
            } else {
                out.extend_from_slice(&self.text[run]);
                run = line;
            }
        }
        out.extend_from_slice(&self.text[run]);
    }

    /// The fields as a map; names and values were judged, so the library takes them.
    pub(super) fn to_map(&self) -> Result<HeaderMap, http::Error> {
        let mut map = HeaderMap::new();
        append_all(
            &mut map,
            self.fields.iter().filter(|field| field.keeping == Keeping::EndToEnd),
            self,
        )?;
        debug_assert!(!map.contains_key(known::FRAMING[0]));
        Ok(map)
    }
}
