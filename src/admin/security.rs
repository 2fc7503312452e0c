//! Who may talk to the admin listener, and from where.
//!
//! Three dangers. A stranger on the network: an address other than loopback needs a token. A web
//! page in the operator's browser that names the admin address (DNS rebinding): the Host must be an
//! IP literal or `localhost`, names that nobody can point elsewhere. A web page that sends a form
//! to it (cross-site request forgery): a POST needs the token as a bearer, which no browser sends by
//! itself, or a header that says the request comes from the own page.

use std::net::IpAddr;
use std::path::Path;
use std::{fmt, io};

use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, Method, StatusCode};

use crate::config::admin_token;

/// The admin token. Its `Debug` does not show it.
pub struct Token(String);

impl Token {
    /// Reads the token from a file; blanks around it do not count.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds less than 16 or more than 1,024 bytes.
    pub fn read(path: &Path) -> io::Result<Token> {
        admin_token(path).map(Token)
    }

    /// Compares without telling by its duration how much is right.
    fn is(&self, offered: &str) -> bool {
        let (own, offered) = (self.0.as_bytes(), offered.as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(own, offered).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How the listener is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// A Unix socket: the file's permissions decide, and no browser can speak to it.
    Unix,
    /// TCP.
    Tcp,
}

/// The rules of one listener.
#[derive(Debug)]
pub struct Security {
    /// How it is reached.
    pub reach: Reach,
    /// The token, where one is set; every request but health checks needs it then.
    pub token: Option<Token>,
}

/// What a request may see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    /// Everything.
    Full,
    /// Only whether the edge is well, for load balancers that have no token.
    HealthOnly,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Denied {
    Host,
    Token,
    CrossSite,
}

impl Denied {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Denied::Host => StatusCode::MISDIRECTED_REQUEST,
            Denied::Token => StatusCode::UNAUTHORIZED,
            Denied::CrossSite => StatusCode::FORBIDDEN,
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Denied::Host => "the Host must be an IP address or localhost\n",
            Denied::Token => "send the admin token: Authorization: Bearer TOKEN\n",
            Denied::CrossSite => {
                "a POST needs Authorization: Bearer TOKEN, or Origin with this host\n"
            }
        }
    }
}

impl Security {
    /// Judges a request to `path`.
    pub(super) fn judge(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Access, Denied> {
        let health = matches!(path, "/healthz" | "/readyz");
        let offered = credential(headers);
        let proven = match (&self.token, &offered) {
            (Some(token), Some(offered)) => token.is(offered.word()),
            _ => false,
        };
        if self.reach == Reach::Tcp && !proven && !host(headers).is_some_and(is_own) {
            return if health { Ok(Access::HealthOnly) } else { Err(Denied::Host) };
        }
        if self.token.is_some() && !proven {
            return if health { Ok(Access::HealthOnly) } else { Err(Denied::Token) };
        }
        let bearer = proven && matches!(offered, Some(Credential::Bearer(_)));
        let safe = matches!(*method, Method::GET | Method::HEAD);
        if !safe && !bearer && self.reach == Reach::Tcp && !is_same_origin(headers) {
            return Err(Denied::CrossSite);
        }
        Ok(Access::Full)
    }
}

/// What the client offered as a token.
enum Credential {
    /// Set by a program.
    Bearer(String),
    /// The password of a browser's prompt: sent by itself ever after, so no proof of intent.
    Basic(String),
}

impl Credential {
    fn word(&self) -> &str {
        match self {
            Credential::Bearer(word) | Credential::Basic(word) => word,
        }
    }
}

fn credential(headers: &HeaderMap) -> Option<Credential> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credential::Bearer(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(base64_decode(rest.trim())?).ok()?;
    let (_, password) = pair.split_once(':')?;
    Some(Credential::Basic(password.to_owned()))
}

/// The Host without its port.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map(|(address, _)| address);
    }
    Some(host.rsplit_once(':').map_or(host, |(host, _)| host))
}

fn is_own(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// Whether a browser says the request comes from a page of this very address.
fn is_same_origin(headers: &HeaderMap) -> bool {
    const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    if let Some(site) = headers.get(SITE) {
        return site == "same-origin";
    }
    let (Some(origin), Some(host)) = (headers.get(ORIGIN), headers.get(HOST)) else { return false };
    let (Ok(origin), Ok(host)) = (origin.to_str(), host.to_str()) else { return false };
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// RFC 4648 4, with or without padding.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::with_capacity(text.len()), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == byte)?;
        bits = (bits << 6) | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

/// RFC 4648 4, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { letter as char } else { '=' });
        }
    }
    out
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WORD: &str = "abcdefghijklmnopqrstuvwx";

    #[track_caller]
    fn check(
        security: &Security,
        (method, path): (Method, &str),
        fields: &[(&'static str, &str)],
        expected: Result<Access, Denied>,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        assert_eq!(security.judge(&method, path, &headers), expected, "{fields:?}");
    }

    fn open() -> Security {
        Security { reach: Reach::Tcp, token: None }
    }

    fn closed() -> Security {
        Security { reach: Reach::Tcp, token: Some(Token(WORD.to_owned())) }
    }

    const PAGE: (Method, &str) = (Method::GET, "/api/status");
    const RELOAD: (Method, &str) = (Method::POST, "/api/reload");
    const OWN: (&str, &str) = ("host", "127.0.0.1:9180");

    #[test]
    fn only_addresses_and_localhost_are_hosts() {
        for host in ["127.0.0.1", "127.0.0.1:9180", "[::1]:9180", "localhost:9180", "LOCALHOST"] {
            check(&open(), PAGE, &[("host", host)], Ok(Access::Full));
        }
        for host in ["evil.example", "127.0.0.1.evil.example:9180", "localhost.evil.example", ""] {
            check(&open(), PAGE, &[("host", host)], Err(Denied::Host));
            check(&open(), (Method::GET, "/healthz"), &[("host", host)], Ok(Access::HealthOnly));
        }
        check(&open(), PAGE, &[], Err(Denied::Host));
        let unix = Security { reach: Reach::Unix, token: None };
        check(&unix, PAGE, &[("host", "sluss")], Ok(Access::Full));
        check(&unix, RELOAD, &[("host", "sluss")], Ok(Access::Full));
    }

    #[test]
    fn where_a_token_is_set_everything_but_health_needs_it() {
        let bearer = format!("Bearer {WORD}");
        check(&closed(), PAGE, &[OWN], Err(Denied::Token));
        check(&closed(), PAGE, &[OWN, ("authorization", "Bearer wrong")], Err(Denied::Token));
        check(&closed(), PAGE, &[OWN, ("authorization", &bearer)], Ok(Access::Full));
        // The token is proof enough for any name.
        let named = [("host", "edge.example:9180"), ("authorization", bearer.as_str())];
        check(&closed(), PAGE, &named, Ok(Access::Full));
        check(&closed(), RELOAD, &named, Ok(Access::Full));
        check(&closed(), (Method::GET, "/readyz"), &[OWN], Ok(Access::HealthOnly));
        let basic = format!("Basic {}", base64(format!("any:{WORD}").as_bytes()));
        check(&closed(), PAGE, &[OWN, ("authorization", &basic)], Ok(Access::Full));
        check(&closed(), RELOAD, &[OWN, ("authorization", &basic)], Err(Denied::CrossSite));
    }

    #[test]
    fn a_post_must_come_from_the_own_page() {
        check(&open(), RELOAD, &[OWN], Err(Denied::CrossSite));
        check(&open(), RELOAD, &[OWN, ("origin", "http://127.0.0.1:9180")], Ok(Access::Full));
        check(&open(), RELOAD, &[OWN, ("sec-fetch-site", "same-origin")], Ok(Access::Full));
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            check(&open(), RELOAD, &[OWN, (name, value)], Err(Denied::CrossSite));
        }
        let both = [OWN, ("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:9180")];
        check(&open(), RELOAD, &both, Err(Denied::CrossSite));
    }

    #[test]
    fn base64_goes_both_ways() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(base64_decode(coded).unwrap(), plain.as_bytes());
        }
        assert_eq!(base64_decode("a b"), None);
    }

    #[test]
    fn a_token_file_must_hold_one_long_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, good) in [("short", false), ("two words of some length", false), (WORD, true)] {
            fs::write(&path, format!("{text}\n")).unwrap();
            assert_eq!(Token::read(&path).is_ok(), good, "{text}");
        }
        assert_eq!(format!("{:?}", Token::read(&path).unwrap()), "Token(..)");
    }
}
