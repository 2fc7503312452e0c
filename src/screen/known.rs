//! The fields sluss knows by name, and what it must know of each. Everything else is opaque.
//!
//! Looked up once for each field of each message, so the table is a hash table made by the
//! compiler; names in it are lower case.

use http::header::{HeaderName, InvalidHeaderName};

use super::class;
use super::rule::Direction;

/// What a known field needs done when it comes by; at most one of these.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// Nothing but its traits.
    Plain,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    Host,
    MaxForwards,
    RequestId,
    Te,
    TransferEncoding,
    Upgrade,
    Via,
}

/// One field.
#[derive(Debug)]
pub(super) struct Known {
    pub name: &'static str,
    pub role: Role,
    pub traits: u16,
    /// Its place in the table, from 1; 0 is every unknown field.
    pub index: u8,
}

/// Defined to stand once.
pub(super) const SINGLE: u16 = 1;
/// Belongs to one connection: never forwarded as it came.
pub(super) const HOP: u16 = 2;
/// Decides where the message ends or where it goes: what would be repaired elsewhere refuses here.
pub(super) const GUARD: u16 = 4;
/// Says who the client is: only a trusted proxy's is believed.
pub(super) const FORWARDING: u16 = 8;
/// For the other end: Connection may not name it.
pub(super) const END_TO_END: u16 = 16;
/// Has no place in a trailer.
pub(super) const NO_TRAILER: u16 = 32;
/// A CGI-like gateway would make a trusted variable of it.
pub(super) const RESERVED: u16 = 64;

impl Known {
    pub(super) fn is(&self, wanted: u16) -> bool {
        self.traits & wanted != 0
    }
}

/// The names that decide where a message ends and to whom it goes.
pub(super) const FRAMING: [&str; 3] = ["content-length", "host", "transfer-encoding"];

/// Every unknown field.
pub(super) static OTHER: Known = Known { name: "", role: Role::Plain, traits: 0, index: 0 };

/// Unknown fields of the family `X-Forwarded-`: proxies and programs invent new ones.
pub(super) static FORWARDED_FAMILY: Known =
    Known { name: "x-forwarded-", role: Role::Plain, traits: FORWARDING | NO_TRAILER, index: 0 };

macro_rules! known {
    ($($name:literal $role:ident $traits:expr;)*) => {
        const UNNUMBERED: &[(&str, Role, u16)] = &[$(($name, Role::$role, $traits)),*];
        /// The same names as the HTTP library has them.
        static HEADER_NAMES: [HeaderName; COUNT] = [$(HeaderName::from_static($name)),*];
    };
}

// E: an ordinary field for the other end; S: the same, once.
const E: u16 = END_TO_END;
const S: u16 = END_TO_END | SINGLE;

known! {
    "accept" Plain E;
    "accept-encoding" Plain E;
    "accept-language" Plain E;
    "age" Plain S | NO_TRAILER;
    "allow" Plain E;
    "authorization" Plain S | NO_TRAILER;
    "cache-control" Plain E | NO_TRAILER;
    "connection" Connection HOP | GUARD | NO_TRAILER;
    "content-encoding" Plain E | NO_TRAILER;
    "content-language" Plain E;
    "content-length" ContentLength GUARD | END_TO_END | NO_TRAILER;
    "content-location" Plain S;
    "content-range" Plain S | NO_TRAILER;
    "content-security-policy" Plain E;
    "content-type" ContentType S | NO_TRAILER;
    "cookie" Cookie E | NO_TRAILER;
    "date" Date S | NO_TRAILER;
    "etag" Plain S;
    "expect" Expect END_TO_END | NO_TRAILER;
    "expires" Plain S | NO_TRAILER;
    "forwarded" Plain FORWARDING | GUARD | NO_TRAILER;
    "from" Plain S;
    "host" Host GUARD | END_TO_END | NO_TRAILER;
    "http2-settings" Plain HOP | NO_TRAILER;
    "https" Plain RESERVED | NO_TRAILER;
    "if-match" Plain E | NO_TRAILER;
    "if-modified-since" Plain S | NO_TRAILER;
    "if-none-match" Plain E | NO_TRAILER;
    "if-range" Plain S | NO_TRAILER;
    "if-unmodified-since" Plain S | NO_TRAILER;
    "keep-alive" Plain HOP | NO_TRAILER;
    "last-modified" Date S;
    "location" Plain S | NO_TRAILER;
    "max-forwards" MaxForwards S | NO_TRAILER;
    "origin" Plain S;
    "proxy" Plain RESERVED | NO_TRAILER;
    "proxy-authenticate" Plain HOP | NO_TRAILER;
    "proxy-authorization" Plain HOP | NO_TRAILER;
    "proxy-connection" Plain HOP | NO_TRAILER;
    "range" Plain S | NO_TRAILER;
    "redirect-status" Plain RESERVED | NO_TRAILER;
    "referer" Plain S;
    "remote-addr" Plain RESERVED | NO_TRAILER;
    "remote-user" Plain RESERVED | NO_TRAILER;
    "retry-after" Plain S | NO_TRAILER;
    "server" Plain S;
    "set-cookie" Plain E | NO_TRAILER;
    "strict-transport-security" Plain E;
    "te" Te HOP | NO_TRAILER;
    "trailer" Plain E | NO_TRAILER;
    "transfer-encoding" TransferEncoding HOP | GUARD | NO_TRAILER;
    "upgrade" Upgrade HOP | GUARD | NO_TRAILER;
    "user-agent" Plain S;
    "vary" Plain E | NO_TRAILER;
    "via" Via E | NO_TRAILER;
    "www-authenticate" Plain E | NO_TRAILER;
    "x-forwarded-for" Plain FORWARDING | GUARD | NO_TRAILER;
    "x-forwarded-host" Plain FORWARDING | GUARD | NO_TRAILER;
    "x-forwarded-port" Plain FORWARDING | GUARD | NO_TRAILER;
    "x-forwarded-proto" Plain FORWARDING | GUARD | NO_TRAILER;
    "x-real-ip" Plain FORWARDING | NO_TRAILER;
    "x-request-id" RequestId END_TO_END | NO_TRAILER;
}

const COUNT: usize = UNNUMBERED.len();
// `seen` in `section` has a bit for each.
const _: () = assert!(COUNT < 128);

static TABLE: [Known; COUNT] = {
    let mut table = [const { Known { name: "", role: Role::Plain, traits: 0, index: 0 } }; COUNT];
    let mut at = 0;
    while at < COUNT {
        let (name, role, traits) = UNNUMBERED[at];
        table[at] = Known { name, role, traits, index: at as u8 + 1 };
        at += 1;
    }
    table
};

/// Open addressing: place in `TABLE` from 1, 0 ends a search.
static SLOTS: [u8; 1024] = {
    let mut slots = [0u8; 1024];
    let mut at = 0;
    while at < COUNT {
        let mut slot = hash(UNNUMBERED[at].0.as_bytes());
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS.len();
        }
        slots[slot] = at as u8 + 1;
        at += 1;
    }
    slots
};

/// Sparse on purpose: most fields of a message are unknown, and those should meet an empty slot.
const fn hash(name: &[u8]) -> usize {
    let (first, last, middle) = (name[0], name[name.len() - 1], name[name.len() / 2]);
    let mixed =
        first as u32 | (last as u32) << 8 | (middle as u32) << 16 | (name.len() as u32) << 24;
    // The bit by which letters differ in case; other bytes may fall together.
    let mixed = mixed | 0x0020_2020;
    (mixed.wrapping_mul(0x9e37_79b1) >> 22) as usize
}

/// What is known of a field; `name` in any case, not empty.
pub(super) fn lookup(name: &[u8]) -> &'static Known {
    let mut slot = hash(name);
    loop {
        match SLOTS[slot] {
            0 => break,
            index => {
                let known = &TABLE[usize::from(index) - 1];
                if class::is_in_lower_case(name, known.name.as_bytes()) {
                    return known;
                }
            }
        }
        slot = (slot + 1) % SLOTS.len();
    }
    match name.split_at_checked(FORWARDED_FAMILY.name.len()) {
        Some((family, _)) if class::is_in_lower_case(family, FORWARDED_FAMILY.name.as_bytes()) => {
            &FORWARDED_FAMILY
        }
        _ => &OTHER,
    }
}

/// The known field by its place, as `Known::index` gave it.
pub(super) fn by_index(index: u8) -> &'static Known {
    if index == 0 { &OTHER } else { &TABLE[usize::from(index) - 1] }
}

/// The name as the HTTP library has it, of a field with this place in the table; `name` in lower
/// case.
pub(super) fn header_name(index: u8, name: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    match index.checked_sub(1) {
        Some(at) => Ok(HEADER_NAMES[usize::from(at)].clone()),
        None => HeaderName::from_bytes(name),
    }
}

/// Whether `bytes` (a name or a line, as it came) imitate a framing name, or Host where it means
/// anything: in a response nobody routes by it, and `Host name lookup failed: x` is an error's text.
pub(super) fn imitates_framing(bytes: &[u8], direction: Direction) -> bool {
    let imitated = FRAMING.into_iter().find(|name| class::imitates(bytes, name.as_bytes()));
    imitated.is_some_and(|name| direction == Direction::Request || name != "host")
}

/// Whether a name with underscores (lower case) becomes one that decides or that is trusted once
/// they read as hyphens.
pub(super) fn is_shadow(name: &[u8]) -> bool {
    let hyphens: Vec<u8> = name.iter().map(|b| if *b == b'_' { b'-' } else { *b }).collect();
    let known = lookup(&hyphens);
    known.is(HOP | GUARD | FORWARDING | RESERVED)
        || matches!(known.role, Role::Expect | Role::RequestId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        for known in &TABLE {
            assert_eq!(lookup(known.name.as_bytes()).name, known.name);
            assert_eq!(by_index(known.index).name, known.name);
            let longer = format!("{}x", known.name);
            assert_eq!(lookup(longer.as_bytes()).index, 0);
        }
        assert!(lookup(b"x-forwarded-anything").is(FORWARDING));
        assert!(lookup(b"X-Forwarded-Anything").is(FORWARDING));
        assert_eq!(lookup(b"TRANSFER-encoding").name, "transfer-encoding");
        assert_eq!(lookup(b"a").index, 0);
    }

    #[test]
    fn searches_are_short() {
        let longest = TABLE.iter().map(|known| {
            let home = hash(known.name.as_bytes());
            let at = SLOTS.iter().position(|index| *index == known.index).unwrap();
            (at + SLOTS.len() - home) % SLOTS.len()
        });
        assert!(longest.max() <= Some(2));
    }

    #[test]
    fn underscores_shadow_what_is_trusted() {
        for name in ["x_forwarded_for", "content_length", "transfer-encoding_", "x_real-ip", "host"]
        {
            assert_eq!(is_shadow(name.as_bytes()), name != "transfer-encoding_", "{name}");
        }
        for name in ["remote_user", "remote_addr", "redirect_status"] {
            assert!(is_shadow(name.as_bytes()), "{name}");
        }
        assert!(!is_shadow(b"my_header"));
    }
}
