//! To whom a request goes: request target and Host become one [`Authority`] (RFC 9110 7.2,
//! RFC 9112 3.2, 3.3). The only place that reads them.
//!
//! Accepted are a DNS name, an IPv4 address or an IPv6 literal, with an optional port. User
//! information, percent-encoding and bytes outside of host names are refused: no site has such a
//! name, and readers would disagree over it.

use std::fmt;
use std::net::Ipv6Addr;

use super::class;
use crate::names::HOSTNAME_BYTES_MAX;

/// The host and port a request is for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Lower case, no trailing dot; an IPv6 literal in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// As sent: none where the client left it to the scheme.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    pub(super) fn clear(&mut self) {
        self.host.clear();
        self.port = None;
    }

    /// Takes `host[:port]` in place of what it held; `false` where it is none.
    pub(super) fn set(&mut self, bytes: &[u8]) -> bool {
        self.clear();
        let Some((host, port)) = split(bytes) else { return false };
        self.port = port;
        if let Some(literal) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            use fmt::Write as _;
            return literal
                .parse::<Ipv6Addr>()
                .is_ok_and(|address| write!(self.host, "[{address}]").is_ok());
        }
        self.host.push_str(host);
        self.host.make_ascii_lowercase();
        true
    }

    /// Whether both name the same host and port, where a missing port is `default`.
    pub(super) fn is_same(&self, other: &Authority, default: u16) -> bool {
        self.host == other.host && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.host.as_bytes());
        if let Some(port) = self.port {
            out.push(b':');
            super::write::decimal(out, u64::from(port));
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Host (trailing dot removed, case as it came) and port.
fn split(bytes: &[u8]) -> Option<(&str, Option<u16>)> {
    let host_len = match bytes.first()? {
        b'[' => memchr::memchr(b']', bytes)? + 1,
        _ => memchr::memchr(b':', bytes).unwrap_or(bytes.len()),
    };
    let (host, rest) = bytes.split_at(host_len);
    let port = match rest {
        // RFC 3986 3.2.3: an empty port is the scheme's.
        [] | [b':'] => None,
        [b':', digits @ ..] if digits.len() <= 5 => {
            let port = super::framing::decimal(digits).filter(|port| *port != 0)?;
            Some(u16::try_from(port).ok()?)
        }
        _ => return None,
    };
    let host = std::str::from_utf8(host).ok()?;
    if host.starts_with('[') {
        return Some((host, port));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    is_name(host.as_bytes()).then_some((host, port))
}

/// Labels of 1 to 63 letters, digits, `-` and `_`; 253 bytes at most.
fn is_name(host: &[u8]) -> bool {
    let mut label = 0;
    for byte in host {
        match HOST_BYTES[usize::from(*byte)] {
            HostByte::Label if label < 63 => label += 1,
            HostByte::Dot if label > 0 => label = 0,
            HostByte::Label | HostByte::Dot | HostByte::Other => return false,
        }
    }
    label > 0 && host.len() <= HOSTNAME_BYTES_MAX
}

/// What a byte may be in the name of a host.
#[derive(Clone, Copy)]
enum HostByte {
    Label,
    Dot,
    Other,
}

static HOST_BYTES: [HostByte; 256] = {
    let mut bytes = [HostByte::Other; 256];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = match at as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => HostByte::Label,
            b'.' => HostByte::Dot,
            _ => HostByte::Other,
        };
        at += 1;
    }
    bytes
};

/// A request target, taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Target<'a> {
    /// Of the absolute form: the authority as it came, and the scheme's port.
    pub authority: Option<(&'a [u8], u16)>,
    /// Origin form without the leading `/` where `rooted` is false.
    pub origin: &'a [u8],
    /// Whether `origin` begins as it must; else a `/` goes before it (`http://a?b`).
    pub rooted: bool,
}

/// Which of the four forms a target has (RFC 9112 3.2); `None` where it is none of the first,
/// second and fourth. The authority form belongs to CONNECT, which sluss does not do.
pub(super) fn read<'a>(target: &'a [u8], method: &[u8]) -> Option<Target<'a>> {
    // A fragment never goes over the wire; a reader that cuts it off sees another path.
    if !class::is_visible(target) || memchr::memchr(b'#', target).is_some() {
        return None;
    }
    let origin = |origin, rooted| Some(Target { authority: None, origin, rooted });
    match target {
        [b'/', ..] => origin(target, true),
        b"*" if method == b"OPTIONS" => origin(target, true),
        _ => absolute(target, method),
    }
}

fn absolute<'a>(target: &'a [u8], method: &[u8]) -> Option<Target<'a>> {
    let colon = memchr::memchr(b':', target)?;
    let (scheme, rest) = target.split_at(colon);
    let port = match scheme {
        _ if scheme.eq_ignore_ascii_case(b"https") => 443,
        _ if scheme.eq_ignore_ascii_case(b"http") => 80,
        _ => return None,
    };
    let rest = rest.strip_prefix(b"://")?;
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, origin) = rest.split_at(end);
    let (origin, rooted) = match origin {
        // RFC 9112 3.2.4: the whole server is meant.
        [] if method == b"OPTIONS" => (&b"*"[..], true),
        [] => (&b"/"[..], true),
        [b'/', ..] => (origin, true),
        _ => (origin, false),
    };
    Some(Target { authority: Some((authority, port)), origin, rooted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: Option<&str>) {
        let mut authority = Authority::default();
        let read = authority.set(input.as_bytes()).then(|| authority.to_string());
        assert_eq!(read.as_deref(), expected, "{input}");
    }

    #[test]
    fn an_authority_is_canonical() {
        check("Example.COM", Some("example.com"));
        check("a.test.", Some("a.test"));
        check("a.test.:8443", Some("a.test:8443"));
        check("a.test:", Some("a.test"));
        check("127.0.0.1:80", Some("127.0.0.1:80"));
        check("[0:0::1]:443", Some("[::1]:443"));
        check("_x.a.test", Some("_x.a.test"));
    }

    #[test]
    fn what_no_site_can_be_called_is_refused() {
        for input in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a,b",
            "a/b",
            "user@a.test",
            "a.test:80:80",
            "a.test:x",
            "a.test:65536",
            "a.test:0",
            "a.test:+80",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "[fe80::1%25eth0]",
            "::1",
            "a%2etest",
            "b\u{fc}cher.test",
            "a.test\t",
            "a?b",
            "a#b",
            "*",
        ] {
            check(input, None);
        }
        check(&"a".repeat(64), None);
        check(&format!("{}a", "a.".repeat(127)), None);
    }

    #[test]
    fn targets_have_three_forms() {
        let read = |target: &str, method: &str| {
            read(target.as_bytes(), method.as_bytes()).map(|read| {
                let authority =
                    read.authority.map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned());
                (authority, String::from_utf8_lossy(read.origin).into_owned(), read.rooted)
            })
        };
        assert_eq!(read("/a?b", "GET"), Some((None, "/a?b".into(), true)));
        assert_eq!(read("*", "OPTIONS"), Some((None, "*".into(), true)));
        assert_eq!(read("*", "GET"), None);
        assert_eq!(read("HTTP://a/b?c", "GET"), Some((Some("a".into()), "/b?c".into(), true)));
        assert_eq!(read("https://a", "GET"), Some((Some("a".into()), "/".into(), true)));
        assert_eq!(read("https://a", "OPTIONS"), Some((Some("a".into()), "*".into(), true)));
        assert_eq!(read("http://a?b", "GET"), Some((Some("a".into()), "?b".into(), false)));
        for target in ["", "a", "a:443", "/a b", "/a#b", "/\u{e4}", "ftp://a/", "http:/a", "/\t"] {
            assert_eq!(read(target, "GET"), None, "{target}");
        }
    }
}
