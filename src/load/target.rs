//! What is loaded: a URL, the address behind it, and the proof that it is ours to load.
//!
//! A load generator aimed at somebody else's machine is an attack. Loopback addresses are free;
//! any other needs its name said twice (`--i-own-this-host`), so that a typing slip does not do.
//! All connections of a run go to the one address found here, whatever names they ask for.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::names::{Hostname, InvalidName};

/// The URL's part in front of `://`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS.
    Https,
}

/// A URL as written; no name is looked up yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    /// TLS or not.
    pub scheme: Scheme,
    /// The host asked for, where no other is named.
    pub host: Hostname,
    /// The port, the scheme's own if none was written.
    pub port: u16,
    /// The port as it stands in the Host field: empty, or `:PORT` where one was written.
    pub port_suffix: String,
    /// Path and query, from the slash on.
    pub path: String,
}

impl Url {
    /// Reads `https://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// [`InvalidTarget`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Url, InvalidTarget> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(_) | None => return Err(InvalidTarget::Scheme),
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if path.bytes().any(|byte| byte <= b' ' || byte >= 0x7F || byte == b'#') {
            return Err(InvalidTarget::Path);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            Some(_) | None => (authority, None),
        };
        let host = Hostname::parse(host)?;
        let port_suffix = port.map(|port| format!(":{port}")).unwrap_or_default();
        let port = match port {
            Some(port) => port.parse().map_err(|_| InvalidTarget::Port)?,
            None if scheme == Scheme::Https => 443,
            None => 80,
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { scheme, host, port, port_suffix, path })
    }
}

/// A URL with the address that all connections go to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The URL.
    pub url: Url,
    /// Loopback, or owned.
    pub address: SocketAddr,
}

impl Target {
    /// Looks up the address: `connect` (HOST:PORT) where given, else the URL's own. `owned` is the
    /// name the caller repeats for a host that is not loopback.
    ///
    /// # Errors
    /// [`InvalidTarget`] where nothing is found, or where it is not loopback and `owned` is not
    /// exactly its name.
    pub fn find(
        url: Url,
        connect: Option<&str>,
        owned: Option<&str>,
    ) -> Result<Target, InvalidTarget> {
        let own = format!("{}:{}", url.host, url.port);
        let written = connect.unwrap_or(&own);
        let lookup = |source| InvalidTarget::Lookup { name: written.to_owned(), source };
        let addresses: Vec<SocketAddr> = written.to_socket_addrs().map_err(lookup)?.collect();
        let name = written.rsplit_once(':').map_or(written, |(name, _)| name);
        // Every address must be ours: which of them is taken is the resolver's whim.
        let loopback = addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
        if !loopback && owned != Some(name) {
            return Err(InvalidTarget::NotOwned { name: name.to_owned() });
        }
        // IPv4 first: `localhost` is both, and many servers listen on IPv4 alone.
        let address = addresses
            .iter()
            .find(|address| address.is_ipv4())
            .or(addresses.first())
            .ok_or_else(|| InvalidTarget::Nowhere { name: name.to_owned() })?;
        Ok(Target { url, address: *address })
    }
}

/// Why a text is no target, or none of ours.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    /// No host name.
    #[error("the URL's host: {0}")]
    Host(#[from] InvalidName),
    /// The resolver failed.
    #[error("cannot look up {name}")]
    Lookup {
        /// As written.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not loopback, and its name was not repeated.
    #[error(
        "{name} is not a loopback address; a load test of a host that is not yours is an attack. \
         If it is yours, repeat its name: --i-own-this-host {name}"
    )]
    NotOwned {
        /// As written.
        name: String,
    },
    /// No address at all.
    #[error("{name} has no address")]
    Nowhere {
        /// As written.
        name: String,
    },
    /// A byte that cannot stand in a request target.
    #[error("the URL's path must be printable ASCII without blanks and fragment")]
    Path,
    /// No number from 0 to 65535.
    #[error("the URL's port must be a number up to 65535")]
    Port,
    /// Neither http nor https.
    #[error("expected a URL that begins with https:// or http://")]
    Scheme,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: (Scheme, &str, u16, &str, &str)) {
        let url = Url::parse(text).unwrap();
        let Url { scheme, host, port, port_suffix, path } = url;
        assert_eq!((scheme, host.as_str(), port, &*port_suffix, &*path), expected);
    }

    #[test]
    fn urls_are_read() {
        use Scheme::{Http, Https};
        check("https://Shop.Example", (Https, "shop.example", 443, "", "/"));
        check("http://127.0.0.1:8080/a?b=c", (Http, "127.0.0.1", 8080, ":8080", "/a?b=c"));
        check("https://[::1]:8443?q", (Https, "[::1]", 8443, ":8443", "/?q"));
        check("https://[::1]", (Https, "[::1]", 443, "", "/"));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        assert!(matches!(Url::parse("shop.example"), Err(InvalidTarget::Scheme)));
        assert!(matches!(Url::parse("ftp://shop.example"), Err(InvalidTarget::Scheme)));
        assert!(matches!(Url::parse("https://"), Err(InvalidTarget::Host(InvalidName::Empty))));
        assert!(matches!(Url::parse("https://a:99999"), Err(InvalidTarget::Port)));
        assert!(matches!(Url::parse("https://a/b c"), Err(InvalidTarget::Path)));
    }

    fn find(
        url: &str,
        connect: Option<&str>,
        owned: Option<&str>,
    ) -> Result<Target, InvalidTarget> {
        Target::find(Url::parse(url).unwrap(), connect, owned)
    }

    #[test]
    fn only_loopback_is_free_to_load() {
        assert!(find("https://127.0.0.1:1", None, None).is_ok());
        assert!(find("https://127.9.9.9:1", None, None).is_ok());
        assert!(find("https://[::1]:1", None, None).is_ok());
        assert!(find("https://[::ffff:127.0.0.1]:1", None, None).is_ok());
        // TEST-NET-1: an address that is nobody's; nothing is sent to it here.
        let refused = find("https://192.0.2.1:1", None, None).unwrap_err();
        assert!(matches!(&refused, InvalidTarget::NotOwned { name } if name == "192.0.2.1"));
        assert!(refused.to_string().contains("--i-own-this-host 192.0.2.1"));
        assert!(find("https://0.0.0.0:1", None, None).is_err());
        assert!(find("https://[::]:1", None, None).is_err());
    }

    #[test]
    fn another_host_needs_its_name_repeated() {
        assert!(find("https://192.0.2.1:1", None, Some("192.0.2.1")).is_ok());
        assert!(find("https://192.0.2.1:1", None, Some("192.0.2.2")).is_err());
        // The address that is connected to decides, not the name that is asked for.
        assert!(find("https://shop.example", Some("127.0.0.1:8443"), None).is_ok());
        assert!(find("https://127.0.0.1", Some("192.0.2.1:443"), Some("127.0.0.1")).is_err());
        assert!(find("https://127.0.0.1", Some("192.0.2.1:443"), Some("192.0.2.1")).is_ok());
    }
}
