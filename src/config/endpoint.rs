//! `upstreams = ["http://127.0.0.1:8001"]`: what such a text means. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::names::Hostname;
use crate::sites::{Address, EndpointSpec, Protocol};

/// Schemes, what they speak, their default port.
const SCHEMES: &[(&str, Protocol, u16)] = &[
    ("http", Protocol::Http1, 80),
    ("https", Protocol::Http1Tls, 443),
    ("h2c", Protocol::Http2, 80),
    ("h2", Protocol::Http2Tls, 443),
];

/// Reads `http://HOST:PORT`, `https://…`, `h2c://…`, `h2://…` or `unix:PATH`, the path being
/// relative to `folder`. Weight, backup and `ca` are the caller's to set.
///
/// # Errors
/// A sentence on what is wrong with it.
pub fn parse(url: &str, folder: &Path) -> Result<EndpointSpec, String> {
    if let Some(path) = url.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("the socket's path is missing".to_string());
        }
        let address = Address::Unix(folder.join(path));
        return Ok(spec(url, address, Protocol::Http1, None));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("it has no scheme, as in http://127.0.0.1:8001".to_string());
    };
    let known = SCHEMES.iter().find(|known| known.0.eq_ignore_ascii_case(scheme));
    let &(_, protocol, port) =
        known.ok_or("the scheme must be http, https, h2c, h2 or unix".to_string())?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("an upstream has no path: requests keep their own".to_string());
    }
    if authority.contains('@') {
        return Err("an upstream has no user or password".to_string());
    }
    let (host, port) = host_and_port(authority, port)?;
    let tls = matches!(protocol, Protocol::Http1Tls | Protocol::Http2Tls);
    let (address, name) = address(host, port)?;
    Ok(spec(url, address, protocol, tls.then_some(name)))
}

fn spec(url: &str, address: Address, protocol: Protocol, tls_name: Option<String>) -> EndpointSpec {
    EndpointSpec {
        url: url.to_string(),
        address,
        protocol,
        tls_name,
        ca: None,
        weight: 1,
        backup: false,
    }
}

fn host_and_port(authority: &str, default: u16) -> Result<(&str, u16), String> {
    // A colon inside brackets belongs to the address.
    let after = authority.rfind(']').map_or(0, |end| end + 1);
    let Some(colon) = authority[after..].find(':') else {
        return Ok((authority, default));
    };
    let (host, port) = (&authority[..after + colon], &authority[after + colon + 1..]);
    if port.contains(':') {
        return Err("an IPv6 address needs brackets, as in http://[::1]:8001".to_string());
    }
    match port.parse() {
        Ok(port) if port != 0 => Ok((host, port)),
        _ => Err(format!("the port {port:?} is no number from 1 to 65535")),
    }
}

fn address(host: &str, port: u16) -> Result<(Address, String), String> {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let ip: Ipv6Addr = inner.parse().map_err(|_| format!("{host} is no IPv6 address"))?;
        return Ok((Address::Ip(SocketAddr::new(ip.into(), port)), ip.to_string()));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((Address::Ip(SocketAddr::new(ip, port)), ip.to_string()));
    }
    let name = Hostname::parse(host).map_err(|error| error.to_string())?;
    Ok((Address::Name(name.to_string(), port), name.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Result<(Address, Protocol, Option<&str>), &str>) {
        let found = parse(url, Path::new("/etc/sluss/sites"));
        let found = found.map(|spec| (spec.address, spec.protocol, spec.tls_name));
        let expected = expected
            .map(|(address, protocol, name)| (address, protocol, name.map(str::to_string)))
            .map_err(str::to_string);
        assert_eq!(found, expected, "{url}");
    }

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    #[test]
    fn every_scheme_has_its_protocol_and_port() {
        check("http://127.0.0.1:8001", Ok((ip("127.0.0.1:8001"), Protocol::Http1, None)));
        check("http://[::1]/", Ok((ip("[::1]:80"), Protocol::Http1, None)));
        check("h2c://10.0.0.1", Ok((ip("10.0.0.1:80"), Protocol::Http2, None)));
        let origin = Address::Name("origin.example".into(), 443);
        let named = Some("origin.example");
        check("https://Origin.example", Ok((origin.clone(), Protocol::Http1Tls, named)));
        check("h2://origin.example", Ok((origin, Protocol::Http2Tls, named)));
        let socket = Address::Unix("/run/app.sock".into());
        check("unix:/run/app.sock", Ok((socket, Protocol::Http1, None)));
        let socket = Address::Unix("/etc/sluss/sites/app.sock".into());
        check("unix:app.sock", Ok((socket, Protocol::Http1, None)));
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        check("127.0.0.1:8001", Err("it has no scheme, as in http://127.0.0.1:8001"));
        check("ftp://a", Err("the scheme must be http, https, h2c, h2 or unix"));
        check("http://a/app", Err("an upstream has no path: requests keep their own"));
        check("http://a?x", Err("an upstream has no path: requests keep their own"));
        check("http://me@a", Err("an upstream has no user or password"));
        check("http://a:0", Err("the port \"0\" is no number from 1 to 65535"));
        check("http://a:http", Err("the port \"http\" is no number from 1 to 65535"));
        check("http://::1:80", Err("an IPv6 address needs brackets, as in http://[::1]:8001"));
        check("http://", Err("a host name must not be empty"));
        check("http://[::g]:80", Err("[::g] is no IPv6 address"));
        check("unix:", Err("the socket's path is missing"));
    }
}
