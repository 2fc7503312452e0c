//! Names that come from outside, parsed once at the door and canonical from there on.
//!
//! A [`Hostname`] is lower case, in its ASCII form (IDNA), without a trailing dot and without a
//! port; nobody checks it again. A [`HostPattern`] is what a site or a certificate claims: one
//! host, or one label's worth of hosts below a parent (`*.example.com`, RFC 6125 6.4.3).
//! [`SiteId`] and [`CustomerId`] are names the operator chose; they key everything that outlives
//! a reload. All of them are cheap to clone and compare.

use std::fmt;
use std::sync::Arc;

/// The longest host name of the DNS in text form (RFC 1035 2.3.4: 255 octets on the wire).
pub const HOSTNAME_BYTES_MAX: usize = 253;

/// A host name or IP literal: lower case, ASCII, no trailing dot, 1 to 253 bytes.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Reads a host as an operator or a client writes it: any case, Unicode or punycode, with or
    /// without the trailing dot. IPv6 literals come in brackets, as in a URI.
    ///
    /// # Errors
    /// [`InvalidName`] says which part cannot stand in a host name.
    pub fn parse(text: &str) -> Result<Hostname, InvalidName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: std::net::Ipv6Addr = address.parse().map_err(|_| InvalidName::Address)?;
            return Ok(Hostname(format!("[{address}]").into()));
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| InvalidName::Idna)?;
        check_labels(&ascii)?;
        Ok(Hostname(ascii.into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a site or a certificate claims to serve.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum HostPattern {
    /// Exactly this host.
    Exact(Hostname),
    /// `*.parent`: any one label below the parent; holds the parent.
    Wildcard(Hostname),
}

impl HostPattern {
    /// Reads `example.com` or `*.example.com`.
    ///
    /// # Errors
    /// [`InvalidName`] where the host is none, or the star is not the whole first label.
    pub fn parse(text: &str) -> Result<HostPattern, InvalidName> {
        if let Some(parent) = text.strip_prefix("*.") {
            return Ok(HostPattern::Wildcard(Hostname::parse(parent)?));
        }
        if text.contains('*') {
            return Err(InvalidName::Star);
        }
        Ok(HostPattern::Exact(Hostname::parse(text)?))
    }

    /// Whether `host` (canonical text) is one of the pattern's hosts.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(exact) => exact.as_str() == host,
            HostPattern::Wildcard(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent.as_str()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => f.write_str(host.as_str()),
            HostPattern::Wildcard(parent) => write!(f, "*.{}", parent.as_str()),
        }
    }
}

/// Lets a map by host be asked with canonical text, without making a [`Hostname`] of it.
impl std::borrow::Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing left once the trailing dot is gone.
    #[error("a host name must not be empty")]
    Empty,
    /// Brackets around something else than an IPv6 address.
    #[error("brackets must hold an IPv6 address")]
    Address,
    /// A label that IDNA (UTS 46) refuses.
    #[error("not a valid (international) domain name")]
    Idna,
    /// Over 253 bytes, or a label of 0 or over 63 bytes.
    #[error("a label must have 1 to 63 bytes, the whole name at most 253")]
    Length,
    /// A byte other than letters, digits, `-`, `_` and dots.
    #[error("only letters, digits, '-', '_' and dots may stand in a host name")]
    Byte,
    /// A star elsewhere than as the whole first label.
    #[error("a wildcard must be the whole first label, as in *.example.com")]
    Star,
}

fn check_labels(ascii: &str) -> Result<(), InvalidName> {
    if ascii.len() > HOSTNAME_BYTES_MAX {
        return Err(InvalidName::Length);
    }
    for label in ascii.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(InvalidName::Length);
        }
        // The underscore is no letter of host names, but names with it are in use and resolve.
        if !label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
        {
            return Err(InvalidName::Byte);
        }
    }
    Ok(())
}

/// A site's name: the stem of its file. Keys queues, pools and counters across reloads.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SiteId(Arc<str>);

/// The key of fairness: several sites may share a customer.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CustomerId(Arc<str>);

macro_rules! operator_name {
    ($name:ident) => {
        impl $name {
            /// Takes a name the operator wrote: 1 to 253 printable bytes without blanks or slashes.
            ///
            /// # Errors
            /// [`InvalidName`] where it is empty, too long or has a byte that would need quoting
            /// in a metric label, a log line or a path.
            pub fn parse(text: &str) -> Result<$name, InvalidName> {
                if text.is_empty() {
                    return Err(InvalidName::Empty);
                }
                if text.len() > HOSTNAME_BYTES_MAX {
                    return Err(InvalidName::Length);
                }
                if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*@+".contains(&b)) {
                    return Err(InvalidName::Byte);
                }
                Ok($name(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

operator_name!(SiteId);
operator_name!(CustomerId);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: Result<&str, InvalidName>) {
        assert_eq!(Hostname::parse(input).as_ref().map(Hostname::as_str).map_err(|e| *e), expected);
    }

    #[test]
    fn hosts_become_canonical() {
        check("Example.COM.", Ok("example.com"));
        check("bücher.example", Ok("xn--bcher-kva.example"));
        check("[::1]", Ok("[::1]"));
        check("127.0.0.1", Ok("127.0.0.1"));
        check("_dmarc.example.com", Ok("_dmarc.example.com"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        check("", Err(InvalidName::Empty));
        check(".", Err(InvalidName::Empty));
        check("[127.0.0.1]", Err(InvalidName::Address));
        check("a b.example", Err(InvalidName::Byte));
        check(&format!("{}.example", "a".repeat(64)), Err(InvalidName::Length));
        assert_eq!(HostPattern::parse("a.*.example"), Err(InvalidName::Star));
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let pattern = HostPattern::parse("*.shop.example").unwrap();
        assert!(pattern.covers("a.shop.example"));
        assert!(!pattern.covers("shop.example"));
        assert!(!pattern.covers("a.b.shop.example"));
        assert!(!pattern.covers(".shop.example"));
    }
}
