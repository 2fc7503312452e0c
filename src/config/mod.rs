//! What the proxy runs on: one immutable [`Snapshot`] of plain data.
//!
//! `file` and `site_file` know the files as written and are seen by nobody else; [`load()`] reads
//! them, `resolve` turns them into a snapshot, or every [`Problem`](crate::problem::Problem) is
//! told. A snapshot never changes; a reload makes the next one. Beside it stand the two things the
//! commands and a running edge share: the state folder and the report of a reload.

mod account;
mod descriptors;
mod endpoint;
mod file;
mod listen;
mod load;
pub mod machine;
mod process;
pub mod report;
mod resolve;
mod screening;
mod site_file;
mod site_folder;
pub mod state;
mod units;
mod walk;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use account::Account;
pub use descriptors::raise_descriptor_limit;
pub use file::{KEYS as MAIN_KEYS, QUEUES_FILE_KEYS};
pub use listen::admin_token;
pub use load::{Outcome, check, load, state_folder};
pub use site_file::KEYS as SITE_KEYS;
use site_folder::SiteFiles;
pub use walk::Section;

pub use crate::sizing::Machine;

use crate::certs::{CertSettings, CertStore};
use crate::screen::Policy;
use crate::sites::Sites;

/// Everything that connections consult, of one generation.
#[derive(Debug)]
pub struct Snapshot {
    /// From 1, one more with each applied reload.
    pub generation: u64,
    /// `[listen]`.
    pub listen: Listen,
    /// `[runtime]`.
    pub runtime: Runtime,
    /// `[queues]`.
    pub queues: Queues,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[log]`.
    pub log: Log,
    /// `[certificates]`.
    pub certificates: Certificates,
    /// `[headers]`: how heads are judged that belong to no site; sites carry their own.
    pub screening: Arc<Policy>,
    /// The files it was made from.
    pub places: Places,
    /// All sites.
    pub sites: Sites,
    /// What the next load need not read again.
    site_files: SiteFiles,
    /// Whether `sites` are those of `site_files`, each as its file says.
    sites_stand: bool,
    /// What the sites' files and the certificates contradict each other in.
    told_of_certificates: Vec<crate::problem::Problem>,
    /// All certificates and the TLS settings made from them.
    pub certs: Arc<CertStore>,
}

/// Where the edge listens, and whom it believes.
#[derive(Clone, Debug)]
pub struct Listen {
    /// TLS listeners.
    pub https: Vec<SocketAddr>,
    /// Plain listeners: redirects and ACME challenges.
    pub http: Vec<SocketAddr>,
    /// The admin listener.
    pub admin: AdminAddress,
    /// File with the admin token, where one is required or wanted.
    pub admin_token_file: Option<PathBuf>,
    /// listen(2)'s backlog.
    pub backlog: u32,
    /// Networks that must send the PROXY protocol.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Networks whose forwarding fields are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Where the admin listener is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AdminAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl AdminAddress {
    /// Reads `ADDRESS:PORT` or `unix:PATH`.
    pub fn parse(text: &str) -> Option<AdminAddress> {
        match text.strip_prefix("unix:") {
            Some("") => None,
            Some(path) => Some(AdminAddress::Unix(PathBuf::from(path))),
            None => text.parse().ok().map(AdminAddress::Tcp),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Tcp(address) => write!(f, "{address}"),
            AdminAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where certificates come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificates {
    /// The folder with one folder or file a certificate.
    pub directory: PathBuf,
    /// For clients without SNI or with an unknown one; `None` refuses them.
    pub default: Option<String>,
    /// Session tickets for each handshake of TLS 1.3; 0 resumes no session.
    pub tickets: usize,
    /// Ticket keys shared between edges.
    pub ticket_keys: Option<PathBuf>,
    /// Whether a changed folder reloads the certificates without a signal.
    pub watch: bool,
    /// For how long a broken certificate stands at its last good version; `None` for ever.
    pub keep_last_good_for: Option<Duration>,
}

impl Certificates {
    /// What a load of certificates needs, with every `client_ca` file that a site names.
    pub fn settings(&self, client_authorities: Vec<PathBuf>) -> CertSettings {
        CertSettings {
            directory: self.directory.clone(),
            default: self.default.clone(),
            tickets: self.tickets,
            ticket_keys: self.ticket_keys.clone(),
            client_authorities,
            keep_last_good_for: self.keep_last_good_for,
            watch: self.watch,
            ..CertSettings::default()
        }
    }
}

/// The files a snapshot was made from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Places {
    /// The main file.
    pub main: PathBuf,
    /// The folder of the sites' files.
    pub sites: PathBuf,
    /// What `sluss size` writes; it need not exist.
    pub queues: PathBuf,
}

/// Threads and process bounds.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Serving threads; as many handshake threads stand beside them.
    pub threads: usize,
    /// What a handshake thread adds to the process's niceness, at most 19.
    pub handshake_nice: u8,
    /// The state folder.
    pub state: PathBuf,
    /// How long a drain may take.
    pub shutdown_grace: Duration,
    /// Connections the process may hold.
    pub connections_max: usize,
    /// The user to become once the ports are bound.
    pub user: Option<Account>,
}

/// Bounds of the queues.
#[derive(Clone, Debug, PartialEq)]
pub struct Queues {
    /// Handshakes in flight on one handshake thread.
    pub handshake_concurrency: usize,
    /// Waiting handshakes, all customers together.
    pub handshake_depth: usize,
    /// Age at which a waiting or unfinished handshake is given up.
    pub handshake_deadline: Duration,
    /// Who among them is next.
    pub handshake_order: HandshakeOrder,
    /// Waiting requests of one site.
    pub request_depth: usize,
    /// How long a request may wait.
    pub request_deadline: Duration,
    /// Requests at one site's endpoints at one time; `None` adapts to the observed latency.
    pub in_flight: Option<u32>,
    /// An oldest waiter past this is an alarm.
    pub age_alarm: Duration,
    /// What fairness charges for a handshake, by kind; units are microseconds of a core.
    pub costs: HandshakeCosts,
    /// The machine the figures were measured on, where they were.
    pub measured_on: Option<Machine>,
}

/// Who among the waiting handshakes is next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeOrder {
    /// Whoever came first, whosever visitor it is and whatever it costs: what an edge without
    /// fairness does, to compare with.
    Arrival,
    /// Customers take turns, each with a line for who comes back.
    Fair,
}

/// CPU time of a handshake on one core, microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HandshakeCosts {
    /// A full handshake with an ECDSA certificate.
    pub full_ecdsa: u32,
    /// A full handshake with an RSA certificate.
    pub full_rsa: u32,
    /// A resumption.
    pub resumed: u32,
}

/// All timeouts.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// TCP accept to the complete ClientHello.
    pub hello: Duration,
    /// First byte to the complete request head.
    pub head: Duration,
    /// Keep-alive between requests.
    pub idle: Duration,
    /// Between two pieces of a body, either way.
    pub body: Duration,
    /// To an endpoint.
    pub connect: Duration,
    /// Request sent to response head.
    pub response: Duration,
}

/// The program's logs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Where the access log goes.
    pub access: AccessLog,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines; OpenTelemetry's names.
    Json,
}

/// Where the access log goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// A file, reopened on SIGHUP.
    File(PathBuf),
}

#[cfg(test)]
mod tests;
