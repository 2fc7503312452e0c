//! Heads as the rest of sluss sees them: canonical, made only in this room, never changed.
//!
//! A head owns its bytes in a [`Storage`], so the read buffer is free as soon as it is screened.
//! The storage comes back with `into_storage`; reused, it makes the next head without allocation.
//! Names are lower case; Host, framing and connection fields are not among the fields but have
//! methods of their own, so nobody can act on a field that the rules did not decide.

use std::ops::Range;

use super::framing::{self, Framing};
use super::known::{self, Role};
use super::target::Authority;

/// Room for one head, to be used again and again.
#[derive(Debug, Default)]
pub struct Storage {
    /// The request line or status line, then each field as `name: value\r\n`. What stands between
    /// them is no part of the head.
    pub(super) text: Vec<u8>,
    pub(super) fields: Vec<Field>,
    pub(super) authority: Authority,
}

/// Above this a storage gives its room back: one large head must not stay in memory for a
/// connection's whole life.
const TEXT_KEPT_MAX: usize = 16 * 1024;

impl Storage {
    /// Empty, and small enough to be kept.
    pub fn emptied(mut self) -> Storage {
        self.text.clear();
        self.text.shrink_to(TEXT_KEPT_MAX);
        self.fields.clear();
        self.authority.clear();
        self
    }
}

/// Where a field stands in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub start: u32,
    pub name_len: u32,
    pub value_len: u32,
    /// Its place in the table of known fields.
    pub known: u8,
    pub keeping: Keeping,
}

/// For whom a field is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keeping {
    /// For the other end.
    EndToEnd,
    /// Says who the client is: forwarded for trusted proxies only.
    Forwarding,
    /// For us; goes no further.
    Hop,
}

impl Field {
    pub(super) fn name<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        &text[start..start + self.name_len as usize]
    }

    pub(super) fn value<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.value_range()]
    }

    pub(super) fn value_range(&self) -> Range<usize> {
        let start = (self.start + self.name_len) as usize + 2;
        start..start + self.value_len as usize
    }

    /// Where the whole line stands, its end included.
    pub(super) fn line_range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + (self.name_len + self.value_len) as usize + 4
    }

    pub(super) fn role(&self) -> Role {
        known::by_index(self.known).role
    }
}

impl Storage {
    /// Fields for the other end.
    pub(super) fn end_to_end(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields
            .iter()
            .filter(|field| field.keeping != Keeping::Hop)
            .map(|field| (ascii(field.name(&self.text)), field.value(&self.text)))
    }

    pub(super) fn field(&self, name: &str) -> Option<&[u8]> {
        let is_it = |field: &&Field| {
            field.keeping != Keeping::Hop && field.name(&self.text) == name.as_bytes()
        };
        self.fields.iter().find(is_it).map(|field| field.value(&self.text))
    }
}

/// Text that screening has found to be ASCII.
pub(super) fn ascii(bytes: &[u8]) -> &str {
    debug_assert!(bytes.is_ascii());
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The version a message came with.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
pub enum Version {
    /// HTTP/1.0.
    #[serde(rename = "HTTP/1.0")]
    H10,
    /// HTTP/1.1.
    #[serde(rename = "HTTP/1.1")]
    H11,
    /// HTTP/2.
    #[serde(rename = "HTTP/2")]
    H2,
}

impl Version {
    /// As in a log.
    pub fn label(self) -> &'static str {
        match self {
            Version::H10 => "HTTP/1.0",
            Version::H11 => "HTTP/1.1",
            Version::H2 => "HTTP/2",
        }
    }
}

/// A request's method, as far as a proxy acts on it (RFC 9110 9).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RequestMethod {
    /// CONNECT.
    Connect,
    /// DELETE.
    Delete,
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// TRACE.
    Trace,
    /// Any other, PATCH among them: neither safe nor idempotent as far as we know.
    Other,
}

impl RequestMethod {
    /// Methods are case-sensitive: `get` is another method.
    pub fn from_token(token: &[u8]) -> RequestMethod {
        match token {
            b"GET" => RequestMethod::Get,
            b"POST" => RequestMethod::Post,
            b"HEAD" => RequestMethod::Head,
            b"PUT" => RequestMethod::Put,
            b"DELETE" => RequestMethod::Delete,
            b"OPTIONS" => RequestMethod::Options,
            b"TRACE" => RequestMethod::Trace,
            b"CONNECT" => RequestMethod::Connect,
            _ => RequestMethod::Other,
        }
    }

    /// RFC 9110 9.2.1: asks for nothing to change.
    pub fn is_safe(self) -> bool {
        match self {
            RequestMethod::Get
            | RequestMethod::Head
            | RequestMethod::Options
            | RequestMethod::Trace => true,
            RequestMethod::Connect
            | RequestMethod::Delete
            | RequestMethod::Post
            | RequestMethod::Put
            | RequestMethod::Other => false,
        }
    }

    /// RFC 9110 9.2.2: twice is as good as once.
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, RequestMethod::Put | RequestMethod::Delete)
    }
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    pub(super) storage: Storage,
    pub(super) method: RequestMethod,
    pub(super) method_len: u32,
    pub(super) target_len: u32,
    pub(super) path_len: u32,
    pub(super) version: Version,
    pub(super) framing: Framing,
    pub(super) options: super::connection::Options,
}

impl RequestHead {
    /// The method as sent.
    pub fn method(&self) -> &str {
        ascii(&self.storage.text[..self.method_len as usize])
    }

    /// The method, as far as a proxy acts on it.
    pub fn request_method(&self) -> RequestMethod {
        self.method
    }

    /// Path and query, or `*`; ASCII without blanks and controls.
    pub fn target(&self) -> &str {
        ascii(self.target_bytes(self.target_len))
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        ascii(self.target_bytes(self.path_len))
    }

    fn target_bytes(&self, len: u32) -> &[u8] {
        let start = self.method_len as usize + 1;
        &self.storage.text[start..start + len as usize]
    }

    /// The host and port it is for.
    pub fn authority(&self) -> &Authority {
        &self.storage.authority
    }

    /// The version it came with.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How its content is delimited.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client's connection takes another request after this one.
    pub fn persistent(&self) -> bool {
        self.options.persistent(self.version)
    }

    /// The protocols the client would change to, where Connection asks for it.
    pub fn upgrade(&self) -> Option<&str> {
        upgrade(&self.storage, self.options)
    }

    /// Whether the client waits for 100 (Continue) before it sends content.
    pub fn expects_continue(&self) -> bool {
        self.options.expects_continue
    }

    /// Whether the client takes trailers.
    pub fn takes_trailers(&self) -> bool {
        self.options.te_trailers
    }

    /// How often a TRACE or OPTIONS may still be forwarded, where it says so (RFC 9110 7.6.2). At 0
    /// it is for whoever has received it.
    pub fn forwards_left(&self) -> Option<u64> {
        if !matches!(self.method, RequestMethod::Options | RequestMethod::Trace) {
            return None;
        }
        framing::decimal(self.field("max-forwards")?)
    }

    /// End-to-end fields in their order: lower-case name, value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.storage.end_to_end()
    }

    /// The first field of that (lower-case) name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.storage.field(name)
    }

    /// Gives the room back for the next head.
    pub fn into_storage(self) -> Storage {
        self.storage
    }
}

/// A response's head, final or interim.
#[derive(Debug)]
pub struct ResponseHead {
    pub(super) storage: Storage,
    pub(super) status: u16,
    pub(super) reason_len: u32,
    pub(super) version: Version,
    pub(super) framing: Framing,
    /// Content-Length of a response without content, which says what GET would bring.
    pub(super) length: Option<u64>,
    pub(super) options: super::connection::Options,
}

impl ResponseHead {
    /// 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// 1xx but 101: another head follows.
    pub fn is_interim(&self) -> bool {
        self.status / 100 == 1 && self.status != 101
    }

    /// The reason as sent, cleaned; often empty.
    pub fn reason(&self) -> &[u8] {
        &self.storage.text[..self.reason_len as usize]
    }

    /// The version it came with.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How its content is delimited.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the endpoint's connection can be used again once the content has ended.
    pub fn persistent(&self) -> bool {
        self.framing != Framing::UntilClose && self.options.persistent(self.version)
    }

    /// The protocols named by Upgrade and Connection; of 101, what the connection becomes.
    pub fn upgrade(&self) -> Option<&str> {
        upgrade(&self.storage, self.options)
    }

    /// End-to-end fields in their order: lower-case name, value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.storage.end_to_end()
    }

    /// The first field of that (lower-case) name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.storage.field(name)
    }

    /// Gives the room back for the next head.
    pub fn into_storage(self) -> Storage {
        self.storage
    }
}

fn upgrade(storage: &Storage, options: super::connection::Options) -> Option<&str> {
    let (start, len) = options.upgrade?;
    Some(ascii(&storage.text[start as usize..(start + len) as usize]))
}
