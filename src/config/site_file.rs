//! A site's file as written: `sites/NAME.toml`.
//!
//! A file with a mistake in it makes no site at all: half a site (some hosts, no priorities) would
//! surprise more than its last good version, which stays where there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::endpoint;
use super::file::{clamp_u32, expect_file};
use super::screening::Headers;
use super::walk::{Document, Section, Table, Value};
use crate::names::{CustomerId, HostPattern, Hostname, SiteId};
use crate::plain_file;
use crate::problem::Problem;
use crate::sites::{
    Authorities, Balance, Class, EndpointSpec, HealthCheck, PriorityRule, Protocol, Site,
    SiteLimits,
};
use crate::sites::{SiteTls, TlsVersion, UpstreamSpec};

/// Every key of a site's file.
pub const KEYS: &[Section] = &[
    Section {
        name: "",
        keys: &[
            "hosts",
            "upstreams",
            "customer",
            "certificate",
            "weight",
            "balance",
            "health",
            "priority",
            "headers",
            "rules",
            "maintenance",
            "host_header",
            "limits",
            "tls",
        ],
    },
    Section { name: "upstreams", keys: &["url", "weight", "backup", "ca"] },
    Section { name: "health", keys: &["path", "interval", "healthy", "unhealthy", "timeout"] },
    Section { name: "priority", keys: &["path", "class"] },
    Section {
        name: "headers",
        keys: &["requests", "responses", "shadow", "max_head", "max_fields", "rules_version"],
    },
    Section {
        name: "limits",
        keys: &[
            "in_flight",
            "connections",
            "connections_per_client",
            "handshakes_per_second",
            "handshakes_per_second_per_client",
            "requests_per_second",
            "requests_per_second_per_client",
            "in_flight_per_client",
            "max_body",
        ],
    },
    Section { name: "tls", keys: &["min_version", "client_ca"] },
];

/// A share; a thousandfold one starves nobody, since every other site's turn still comes.
const WEIGHT_MAX: u64 = 1000;
/// The systems' bundles have a quarter of a megabyte.
const AUTHORITIES_BYTES_MAX: u64 = 4 << 20;
/// Kept in memory for each site that has one.
const MAINTENANCE_BYTES_MAX: u64 = 1 << 20;

/// A site, and where its file says what other files may contradict.
#[derive(Debug, PartialEq)]
pub struct SiteFile {
    /// The site.
    pub site: Arc<Site>,
    /// The line of each of its hosts.
    pub host_lines: Box<[u32]>,
    /// The line that names its certificate.
    pub certificate_line: Option<u32>,
}

/// Reads a site's file; `None` where it has a problem that is more than a warning.
pub fn read(
    file: &Path,
    text: &str,
    id: &SiteId,
    defaults: &Headers,
) -> (Option<SiteFile>, Vec<Problem>) {
    let document = Document::site(file, text, KEYS, id.as_str());
    let site = document.parse().and_then(|root| {
        let root = document.root(&root);
        read_site(&document, &root, id, defaults)
    });
    let site = site.filter(|_| !document.is_unusable());
    (site, document.into_problems())
}

fn read_site(
    document: &Document<'_>,
    root: &Table<'_>,
    id: &SiteId,
    defaults: &Headers,
) -> Option<SiteFile> {
    let (hosts, host_lines): (Vec<_>, Vec<u32>) = read_hosts(root).into_iter().unzip();
    let certificate = root.text("certificate");
    let customer = root.text("customer").and_then(|(value, _)| {
        value.parse("a name of letters, digits and -_.*@+", CustomerId::parse)
    });
    let own_name = CustomerId::parse(id.as_str()).ok()?;
    let headers = defaults.overridden(&root.table("headers"), root.value("rules"));
    let site = Site {
        id: id.clone(),
        customer: customer.unwrap_or(own_name),
        weight: clamp_u32(root.integer("weight", 1..=WEIGHT_MAX, 1)),
        hosts,
        upstream: UpstreamSpec {
            endpoints: read_upstreams(document, root),
            balance: read_balance(root),
            health: root.value("health").and_then(|_| read_health(root)),
        },
        certificate: certificate.as_ref().map(|(_, name)| (*name).to_string()),
        priority: read_priority(root),
        screening: headers.policy(),
        maintenance: root.text("maintenance").and_then(|(value, _)| read_page(&value)),
        host_header: read_host_header(root),
        limits: read_limits(&root.table("limits")),
        tls: read_tls(&root.table("tls")),
    };
    let certificate_line = certificate.map(|(value, _)| value.line());
    let (site, host_lines) = (Arc::new(site), host_lines.into());
    Some(SiteFile { site, host_lines, certificate_line })
}

/// The hosts and their lines.
fn read_hosts(root: &Table<'_>) -> Vec<(HostPattern, u32)> {
    let expected = "a list of host names, as [\"example.com\", \"*.example.com\"]";
    let Some(value) = root.value("hosts") else {
        root.problem("hosts", format!("missing, expected {expected}"), "name what the site serves");
        return Vec::new();
    };
    let mut hosts: Vec<(HostPattern, u32)> = Vec::new();
    let items = value.items(expected);
    if items.as_ref().is_some_and(Vec::is_empty) {
        value.wrong(expected, "");
    }
    for item in items.into_iter().flatten() {
        let read = |text: &str| {
            if text.contains("://") || text.contains('/') {
                return Err("a host has no scheme and no path".to_string());
            }
            let port = text.rsplit_once(':').filter(|(host, _)| !host.contains(':'));
            if port.is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
                return Err("a host has no port: leave it out".to_string());
            }
            HostPattern::parse(text).map_err(|error| error.to_string())
        };
        let Some(pattern) = item.parse("a host name or *.PARENT", read) else { continue };
        if hosts.iter().any(|(other, _)| *other == pattern) {
            item.warning(format!("{pattern} stands in this list already"), "take one out");
            continue;
        }
        hosts.push((pattern, item.line()));
    }
    hosts
}

fn read_upstreams(document: &Document<'_>, root: &Table<'_>) -> Vec<EndpointSpec> {
    let expected = "a list of upstreams, as [\"http://127.0.0.1:8001\"]";
    let Some(value) = root.value("upstreams") else {
        root.problem(
            "upstreams",
            format!("missing, expected {expected}"),
            "name where the site's requests go",
        );
        return Vec::new();
    };
    let items = value.items(expected);
    if items.as_ref().is_some_and(Vec::is_empty) {
        value.wrong(expected, "");
    }
    let folder = document.path("");
    let mut endpoints: Vec<EndpointSpec> = Vec::new();
    for item in items.into_iter().flatten() {
        let Some(endpoint) = read_upstream(&item, &folder) else { continue };
        if endpoints.iter().any(|other| other.address == endpoint.address) {
            let what = format!("{} stands in this list already", endpoint.url);
            item.problem(what, "take one out; weight says how much an upstream gets");
        }
        endpoints.push(endpoint);
    }
    if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.backup) {
        value.warning("all upstreams are backups".to_string(), "take backup = true from one");
    }
    endpoints
}

fn read_upstream(item: &Value<'_>, folder: &Path) -> Option<EndpointSpec> {
    let expected = "an upstream, as \"http://127.0.0.1:8001\"";
    if !item.is_table() {
        return item.parse(expected, |text| endpoint::parse(text, folder));
    }
    let table = item.table("upstreams")?;
    let Some(url) = table.value("url") else {
        table.problem("url", format!("missing, expected {expected}"), "");
        return None;
    };
    let endpoint = url.parse(expected, |text| endpoint::parse(text, folder))?;
    let weight = clamp_u32(table.integer("weight", 1..=WEIGHT_MAX, 1));
    let backup = table.value("backup").and_then(|value| value.boolean()).unwrap_or(false);
    let ca = table.text("ca").and_then(|(value, written)| {
        if !matches!(endpoint.protocol, Protocol::Http1Tls | Protocol::Http2Tls) {
            value.warning("without TLS nobody is verified".to_string(), "write https:// or h2://");
        }
        read_authorities(&value, table.relative(written))
    });
    Some(EndpointSpec { weight, backup, ca, ..endpoint })
}

fn read_authorities(value: &Value<'_>, path: PathBuf) -> Option<Arc<Authorities>> {
    let told = path.display().to_string();
    let what = match plain_file::read(&path, AUTHORITIES_BYTES_MAX) {
        Ok(text) => match Authorities::parse(path, &text) {
            Ok(authorities) => return Some(Arc::new(authorities)),
            Err(why) => format!("{told} {why}"),
        },
        Err(error) => format!("{told} cannot be read: {error}"),
    };
    value.problem(what, "put the authorities' certificates there as PEM");
    None
}

fn read_balance(root: &Table<'_>) -> Balance {
    let expected = "least-loaded, round-robin, hash:client or hash:cookie=NAME";
    let read = |text: &str| match text {
        "least-loaded" => Ok(Balance::LeastLoaded),
        "round-robin" => Ok(Balance::RoundRobin),
        "hash:client" => Ok(Balance::HashClient),
        _ => match text.strip_prefix("hash:cookie=") {
            Some(name) if is_token(name) => Ok(Balance::HashCookie(name.to_string())),
            Some(_) => Err("the cookie's name is missing or has a byte that none may have"),
            None => Err("there is no such way"),
        },
    };
    let value = root.value("balance");
    value.and_then(|value| value.parse(expected, read)).unwrap_or(Balance::LeastLoaded)
}

/// A token of RFC 9110 5.6.2.
fn is_token(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(byte)
}

fn read_health(root: &Table<'_>) -> Option<HealthCheck> {
    let table = root.table("health");
    let (millisecond, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
    let interval = table.duration("interval", millisecond * 100..=hour, Duration::from_secs(5));
    let timeout = table.duration("timeout", millisecond..=hour, Duration::from_secs(2));
    if timeout > interval {
        let what =
            format!("health.timeout is {timeout:?}, longer than the interval of {interval:?}");
        let at = table.value("timeout").or_else(|| table.value("interval"));
        let at = at.or_else(|| root.value("health"));
        at.iter().for_each(|at| at.warning(what.clone(), "make it shorter than the interval"));
    }
    let count = |key, default| clamp_u32(table.integer(key, 1..=100, default));
    let (healthy, unhealthy) = (count("healthy", 2), count("unhealthy", 3));
    let path = table.value("path").and_then(|value| value.parse("a path, as \"/healthz\"", path));
    Some(HealthCheck {
        path: path.unwrap_or_else(|| "/".to_string()),
        interval,
        healthy,
        unhealthy,
        timeout,
    })
}

/// A request path: begins with a slash, no blank, no control.
fn path(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("a path begins with a slash");
    }
    if text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("blanks and other than ASCII must be written as %XX");
    }
    Ok(text.to_string())
}

fn read_priority(root: &Table<'_>) -> Vec<PriorityRule> {
    let expected = "a list, as [{ path = \"/checkout/*\", class = \"critical\" }]";
    let items = root.value("priority").and_then(|value| value.items(expected));
    let rule = |item: Value<'_>| {
        let table = item.table("priority")?;
        let (Some(path), Some(class)) = (table.value("path"), table.value("class")) else {
            let key = if table.value("path").is_none() { "path" } else { "class" };
            table.problem(key, "missing, a rule has a path and a class".to_string(), "");
            return None;
        };
        let pattern = |text: &str| match text.find('*') {
            Some(star) if star + 1 != text.len() => Err("a star may stand only at the end"),
            _ => self::path(text),
        };
        let path = path.parse("a path, a star at its end for any rest", pattern);
        let classes =
            [("critical", Class::Critical), ("normal", Class::Normal), ("bulk", Class::Bulk)];
        Some(PriorityRule { path: path?, class: class.one_of(&classes)? })
    };
    items.into_iter().flatten().filter_map(rule).collect()
}

fn read_page(value: &Value<'_>) -> Option<Bytes> {
    let path = value.path()?;
    match plain_file::read(&path, MAINTENANCE_BYTES_MAX) {
        Ok(page) => return Some(page.into()),
        Err(error) => {
            let what = format!("{} cannot be read: {error}", path.display());
            value.problem(what, "name an HTML file, relative to this file");
        }
    }
    None
}

fn read_host_header(root: &Table<'_>) -> Option<String> {
    let (value, text) = root.text("host_header")?;
    if text == "preserve" {
        return None;
    }
    value.parse("preserve, or a host name with or without a port", |text| {
        if text.contains('/') {
            return Err("a host has no scheme and no path".to_string());
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let host = Hostname::parse(host).map_err(|error| error.to_string())?;
        match port.map(str::parse::<u16>) {
            None => Ok(host.to_string()),
            Some(Ok(port)) => Ok(format!("{host}:{port}")),
            Some(Err(_)) => Err("the port is no number up to 65535".to_string()),
        }
    })
}

/// 0 is no bound of its own.
fn read_limits(table: &Table<'_>) -> SiteLimits {
    let count = |key| match table.integer(key, 0..=1_000_000, 0) {
        0 => None,
        limit => Some(clamp_u32(limit)),
    };
    let body = table.value("max_body").and_then(|value| value.size(0..=1 << 50));
    SiteLimits {
        in_flight: count("in_flight"),
        connections: count("connections"),
        connections_per_client: count("connections_per_client"),
        handshakes_per_second: count("handshakes_per_second"),
        handshakes_per_second_per_client: count("handshakes_per_second_per_client"),
        requests_per_second: count("requests_per_second"),
        requests_per_second_per_client: count("requests_per_second_per_client"),
        in_flight_per_client: count("in_flight_per_client"),
        max_body: body.filter(|limit| *limit > 0),
    }
}

fn read_tls(table: &Table<'_>) -> SiteTls {
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let version = table.value("min_version").and_then(|value| value.one_of(&versions));
    let client_ca = table.text("client_ca").map(|(value, written)| {
        let path = table.relative(written);
        expect_file(&value, &path);
        path
    });
    SiteTls { min_version: version.unwrap_or(TlsVersion::Tls12), client_ca }
}
