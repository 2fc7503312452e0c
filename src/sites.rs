//! The sites as data, and which of them serves a host. Pure; made by `config`, read by everybody.
//!
//! A lookup is by exact host, then by wildcard over the first label; hosts are compared in their
//! canonical form. Site names are unique, and no pattern belongs to two sites: `config` refuses it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::names::{CustomerId, HostPattern, Hostname, SiteId};
use crate::pem;
use crate::screen::Policy;

/// One customer's site: everything its file says, resolved.
#[derive(Debug, PartialEq)]
pub struct Site {
    /// The file's stem.
    pub id: SiteId,
    /// The key of fairness in the handshake queue.
    pub customer: CustomerId,
    /// Share of a contended queue, from 1.
    pub weight: u32,
    /// What it serves; never empty.
    pub hosts: Vec<HostPattern>,
    /// Where its requests go.
    pub upstream: UpstreamSpec,
    /// The certificate's name where the file names one; else chosen by host.
    pub certificate: Option<String>,
    /// Path patterns and their class, first match wins.
    pub priority: Vec<PriorityRule>,
    /// How heads are judged, requests and responses.
    pub screening: Arc<Policy>,
    /// The page for 503 while no endpoint answers (HTML).
    pub maintenance: Option<Bytes>,
    /// The Host towards the endpoints: `None` preserves the client's.
    pub host_header: Option<String>,
    /// Bounds of its own.
    pub limits: SiteLimits,
    /// TLS of its own.
    pub tls: SiteTls,
}

/// Where a site's requests go, and how an endpoint is chosen and judged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamSpec {
    /// Never empty.
    pub endpoints: Vec<EndpointSpec>,
    /// How one is chosen.
    pub balance: Balance,
    /// Active checks; passive ejection is always on.
    pub health: Option<HealthCheck>,
}

/// One `upstreams` entry.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct EndpointSpec {
    /// As written, for people and metrics: `http://127.0.0.1:8001`.
    pub url: String,
    /// Where to connect.
    pub address: Address,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The name for SNI and certificate verification over TLS.
    pub tls_name: Option<String>,
    /// The authorities its certificate must come from; `None` is the system's.
    pub ca: Option<Arc<Authorities>>,
    /// Share of the load, from 1.
    pub weight: u32,
    /// Used only while no other endpoint can be.
    pub backup: bool,
}

/// Who may sign an endpoint's certificate: what a PEM file holds.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Authorities {
    /// The file.
    pub file: PathBuf,
    /// Its certificates. At least one of them is an authority's.
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// Takes the text of `file`.
    ///
    /// # Errors
    /// A sentence on why it names nobody.
    pub fn parse(file: PathBuf, text: &[u8]) -> Result<Authorities, String> {
        let certificates = pem::certificates(text).map_err(|error| pem::why(&error).to_owned())?;
        let authorities = Authorities { file, certificates };
        if authorities.roots().is_empty() {
            return Err("holds no certificate of an authority".into());
        }
        Ok(authorities)
    }

    /// As TLS takes them. Single ones that cannot be read are left out, as OpenSSL does.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.certificates.iter().cloned());
        roots
    }
}

/// Where an endpoint is reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host to be looked up at connect, and its port.
    Name(String, u16),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// `http://`, `unix:`: HTTP/1.1.
    Http1,
    /// `https://`: HTTP/1.1 over TLS.
    Http1Tls,
    /// `h2c://`: HTTP/2 with prior knowledge.
    Http2,
    /// `h2://`: HTTP/2 over TLS.
    Http2Tls,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Balance {
    /// The better of two drawn at random, by in-flight requests and latency.
    LeastLoaded,
    /// In turn, by weight.
    RoundRobin,
    /// By the client's address (rendezvous hashing).
    HashClient,
    /// By the value of a cookie; by the client's address where it is absent.
    HashCookie(String),
}

/// An active health check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// Requested with GET; any 2xx or 3xx is healthy.
    pub path: String,
    /// Between two checks.
    pub interval: Duration,
    /// Successes in a row that bring an endpoint back.
    pub healthy: u32,
    /// Failures in a row that take it out.
    pub unhealthy: u32,
    /// For one check.
    pub timeout: Duration,
}

/// How important a request is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Goes first.
    Critical,
    /// The default.
    Normal,
    /// Goes last and is shed first.
    Bulk,
}

impl Class {
    /// The word for it in files, metrics and docs.
    pub fn label(self) -> &'static str {
        match self {
            Class::Critical => "critical",
            Class::Normal => "normal",
            Class::Bulk => "bulk",
        }
    }
}

/// `path = "/checkout/*", class = "critical"`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PriorityRule {
    /// A path; a trailing `*` stands for any rest.
    pub path: String,
    /// The class of requests to it.
    pub class: Class,
}

/// A site's own bounds; `None` is none of its own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SiteLimits {
    /// Requests at the endpoints at one time, instead of `queues.in_flight`.
    pub in_flight: Option<u32>,
    /// Connections to the site, by server name.
    pub connections: Option<u32>,
    /// Connections from one client address.
    pub connections_per_client: Option<u32>,
    /// New connections a second, resumed ones as well.
    pub handshakes_per_second: Option<u32>,
    /// The same from one client address.
    pub handshakes_per_second_per_client: Option<u32>,
    /// Requests a second, the whole site.
    pub requests_per_second: Option<u32>,
    /// The same from one client address.
    pub requests_per_second_per_client: Option<u32>,
    /// Requests of one client address that wait or are at the endpoints.
    pub in_flight_per_client: Option<u32>,
    /// Bytes of a request body.
    pub max_body: Option<u64>,
}

/// A site's own TLS settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SiteTls {
    /// The lowest version taken.
    pub min_version: TlsVersion,
    /// PEM file of the authority that clients' certificates must come from.
    pub client_ca: Option<PathBuf>,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Site {
    /// A host of the site: its first exact one, else the parent of its first wildcard.
    pub fn first_host(&self) -> &str {
        let exact = self.hosts.iter().find(|host| matches!(host, HostPattern::Exact(_)));
        match exact.or(self.hosts.first()) {
            Some(HostPattern::Exact(host) | HostPattern::Wildcard(host)) => host.as_str(),
            None => "",
        }
    }

    /// The class of a request to `path` (without query).
    pub fn class(&self, path: &str) -> Class {
        self.priority
            .iter()
            .find(|rule| match rule.path.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == rule.path,
            })
            .map_or(Class::Normal, |rule| rule.class)
    }
}

/// All sites of a snapshot; a clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    sites: Arc<Vec<Arc<Site>>>,
    hosts: Arc<Hosts>,
}

/// Positions by host.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<Hostname, u32>,
    /// By the parent of the wildcard.
    wildcard: HashMap<Hostname, u32>,
}

impl Sites {
    /// Indexes the sites. Where a pattern stands twice the first wins; `config` has told it then.
    pub fn new(sites: Vec<Arc<Site>>) -> Sites {
        let mut hosts = Hosts::default();
        for (at, site) in (0..).zip(&sites) {
            for pattern in &site.hosts {
                let (map, host) = match pattern {
                    HostPattern::Exact(host) => (&mut hosts.exact, host),
                    HostPattern::Wildcard(parent) => (&mut hosts.wildcard, parent),
                };
                map.entry(host.clone()).or_insert(at);
            }
        }
        Sites { sites: Arc::new(sites), hosts: Arc::new(hosts) }
    }

    /// As [`new`](Sites::new); where all are those of `previous`, its index is shared.
    pub fn following(sites: Vec<Arc<Site>>, previous: Option<&Sites>) -> Sites {
        let same = |previous: &&Sites| {
            previous.sites.len() == sites.len()
                && previous.sites.iter().zip(&sites).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        match previous.filter(same) {
            Some(previous) => {
                Sites { sites: previous.sites.clone(), hosts: previous.hosts.clone() }
            }
            None => Sites::new(sites),
        }
    }

    /// Whether all sites are those of `other`, as [`following`](Sites::following) found.
    pub fn shares_index(&self, other: &Sites) -> bool {
        Arc::ptr_eq(&self.sites, &other.sites)
    }

    /// The position of the site that serves `host` (canonical text); positions hold for this
    /// snapshot alone.
    pub fn position(&self, host: &str) -> Option<usize> {
        if let Some(at) = self.hosts.exact.get(host) {
            return Some(*at as usize);
        }
        let (label, parent) = host.split_once('.')?;
        if label.is_empty() {
            return None;
        }
        self.hosts.wildcard.get(parent).map(|at| *at as usize)
    }

    /// The site that serves `host` (canonical text).
    pub fn find(&self, host: &str) -> Option<&Arc<Site>> {
        self.position(host).map(|at| &self.sites[at])
    }

    /// All sites, by position.
    pub fn all(&self) -> &[Arc<Site>] {
        &self.sites
    }
}
