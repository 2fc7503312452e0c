//! The fields sluss knows by name, and what it must know of each. Everything else is opaque.
//!
//! Looked up once for each field of each message, so the compiler makes a hash table in which every
//! name has a slot for itself; names in it are lower case.

use http::header::{HeaderName, InvalidHeaderName};

use super::class;
use super::head::Keeping;
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

/// One field; in a line of the processor's cache.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Known {
    key: Key,
    pub name: &'static str,
    pub role: Role,
    pub keeping: Keeping,
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
    const fn new(name: &'static str, role: Role, traits: u16, index: u8) -> Known {
        assert!(name.len() < 2 * class::BLOCK, "its key has it whole");
        let keeping = match traits {
            _ if traits & HOP != 0 => Keeping::Hop,
            _ if traits & FORWARDING != 0 => Keeping::Forwarding,
            _ => Keeping::EndToEnd,
        };
        Known { key: Key::new(name.as_bytes()), name, role, keeping, traits, index }
    }

    pub(super) fn is(&self, wanted: u16) -> bool {
        self.traits & wanted != 0
    }

    /// One of its own; none for unknown fields.
    pub(super) fn bit(&self) -> u64 {
        (1 << self.index) & !1
    }
}

/// A name in lower case, to be hashed and compared as numbers: its first 31 bytes, zeros behind,
/// and its length as the last byte. Known names are shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    front: u128,
    back: u128,
}

/// Bits of the length in `Key::back` stand above so many.
const LEN_SHIFT: u32 = 120;

impl Key {
    /// `name` in any case.
    pub(super) const fn new(name: &[u8]) -> Key {
        let (front, back) = match name.split_at_checked(class::BLOCK) {
            Some((front, rest)) => match rest.split_at_checked(class::BLOCK - 1) {
                Some((back, _)) => (load(front), load(back)),
                None => (load(front), load(rest)),
            },
            None => (load(name), 0),
        };
        Key { front: lower(front), back: lower(back) | len_bits(name.len()) }
    }

    /// A name of `len` bytes, 16 at most, in lower case with zeros behind.
    pub(super) fn of_short(name: [u8; class::BLOCK], len: usize) -> Key {
        Key { front: u128::from_le_bytes(name), back: len_bits(len) }
    }

    /// Whether the name may hold an underscore: false means that it does not.
    pub(super) fn may_have_underscore(&self) -> bool {
        let has = |bytes: u128| {
            // A byte that becomes zero, or stands above one.
            let zeroed = bytes ^ (EACH * b'_' as u128);
            zeroed.wrapping_sub(EACH) & !zeroed & EACH << 7 != 0
        };
        let is_whole = self.back >> LEN_SHIFT < 2 * class::BLOCK as u128;
        !is_whole || has(self.front) || has(self.back)
    }

    const fn is(&self, other: &Key) -> bool {
        self.front == other.front && self.back == other.back
    }

    const fn hash(&self, multiplier: u64) -> usize {
        let mixed = mix(self.front) ^ mix(self.back).rotate_left(42);
        (mixed.wrapping_mul(multiplier) >> (64 - SLOTS_BITS)) as usize
    }
}

/// A length, told apart as far as it matters here.
const fn len_bits(len: usize) -> u128 {
    (if len < 0xff { len as u128 } else { 0xff }) << LEN_SHIFT
}

const fn mix(bytes: u128) -> u64 {
    (bytes as u64) ^ ((bytes >> 64) as u64).rotate_left(21)
}

/// One in each byte.
const EACH: u128 = u128::MAX / 0xff;

/// Up to sixteen bytes as a number, zeros behind them.
const fn load(bytes: &[u8]) -> u128 {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        // Where the two overlap they are alike.
        let last = u64::from_le_bytes(*last) as u128;
        return u64::from_le_bytes(*first) as u128 | last << (8 * (bytes.len() - 8));
    }
    let (mut number, mut at) = (0, bytes.len());
    while at > 0 {
        at -= 1;
        number = number << 8 | bytes[at] as u128;
    }
    number
}

/// ASCII in lower case, for the compiler's table as well. By its high bit a sum tells whether a byte
/// is large enough; bytes from 0x80, which could carry into the next, make no name a known one.
const fn lower(bytes: u128) -> u128 {
    let from_a = bytes.wrapping_add(EACH * (0x80 - b'A') as u128);
    let beyond_z = bytes.wrapping_add(EACH * (0x7f - b'Z') as u128);
    bytes | (from_a & !beyond_z & !bytes & EACH << 7) >> 2
}

/// The names that decide where a message ends and to whom it goes.
pub(super) const FRAMING: [&str; 3] = ["content-length", "host", "transfer-encoding"];

/// Every unknown field.
pub(super) static OTHER: Known = Known::new("", Role::Plain, 0, 0);

/// Unknown fields of the family `X-Forwarded-`: proxies and programs invent new ones.
pub(super) static FORWARDED_FAMILY: Known =
    Known::new("x-forwarded-", Role::Plain, FORWARDING | NO_TRAILER, 0);

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
const _: () = assert!(size_of::<Known>() == 64);
// `Known::bit` has one for each.
const _: () = assert!(COUNT < u64::BITS as usize);

static TABLE: [Known; COUNT] = {
    let mut table = [const { Known::new("", Role::Plain, 0, 0) }; COUNT];
    let mut at = 0;
    while at < COUNT {
        let (name, role, traits) = UNNUMBERED[at];
        table[at] = Known::new(name, role, traits, at as u8 + 1);
        at += 1;
    }
    table
};

/// Sparse on purpose: most fields of a message are unknown, and those should meet an empty slot.
const SLOTS_BITS: u32 = 9;

type Slots = [u8; 1 << SLOTS_BITS];

/// Place in `TABLE` from 1 by hash; 0 where there is none. With it what the hash multiplies by: the
/// first number tried with which no two names meet.
const PLACED: (Slots, u64) = {
    let mut multiplier: u64 = 0x9e37_79b9_7f4a_7c15;
    loop {
        if let Some(slots) = placed(multiplier) {
            break (slots, multiplier);
        }
        // Stays odd: the increment of a linear congruential generator (Knuth) doubled.
        multiplier = multiplier.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(2);
    }
};

static SLOTS: Slots = PLACED.0;

const fn placed(multiplier: u64) -> Option<Slots> {
    let mut slots = [0; 1 << SLOTS_BITS];
    let mut at = 0;
    while at < COUNT {
        let slot = Key::new(UNNUMBERED[at].0.as_bytes()).hash(multiplier);
        if slots[slot] != 0 {
            return None;
        }
        slots[slot] = at as u8 + 1;
        at += 1;
    }
    Some(slots)
}

/// What is known of a field; `name` in any case.
pub(super) fn lookup(name: &[u8]) -> &'static Known {
    look(&Key::new(name))
}

/// The same.
pub(super) fn look(key: &Key) -> &'static Known {
    if let Some(at) = SLOTS[key.hash(PLACED.1)].checked_sub(1) {
        let known = &TABLE[usize::from(at)];
        if known.key.is(key) {
            return known;
        }
    }
    let behind = 8 * (class::BLOCK - FORWARDED_FAMILY.name.len());
    let in_family = (key.front ^ FORWARDED_FAMILY.key.front) << behind == 0;
    if in_family { &FORWARDED_FAMILY } else { &OTHER }
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
    fn a_key_is_the_name_in_lower_case() {
        let text = b"@[`{AZaz0189-_|~Strict-Transport-SecurityX".to_vec();
        for len in 0..=text.len() {
            let key = Key::new(&text[..len]);
            let mut expected = text[..len.min(31)].to_ascii_lowercase();
            expected.resize(31, 0);
            expected.push(len as u8);
            assert_eq!([key.front.to_le_bytes(), key.back.to_le_bytes()].concat(), expected);
            assert_eq!(key.may_have_underscore(), len > 13, "{len}");
        }
        assert!(!Key::new(b"content-type^`-0").may_have_underscore());
    }

    /// Bytes above ASCII stand in options of Connection; none of them makes a name of another.
    #[test]
    fn bytes_above_ascii_make_no_name() {
        for known in &TABLE {
            for at in 0..known.name.len() {
                for byte in [0, 0x80, 0xbf, 0xc0, 0xff] {
                    let mut name = known.name.as_bytes().to_vec();
                    name[at] = byte;
                    assert_ne!(lookup(&name).name, known.name);
                    name.truncate(at);
                    name.push(0);
                    assert_ne!(lookup(&name).name, known.name);
                }
            }
        }
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
