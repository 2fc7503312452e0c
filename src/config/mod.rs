//! What the proxy runs on: one immutable [`Snapshot`] of plain data.
//!
//! `file` knows the files as written and is seen by nobody else; `resolve` turns them into a
//! snapshot or every [`Problem`](crate::problem::Problem). A snapshot never changes; a reload makes
//! the next one. Nothing in here has a socket or a thread.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::certs::CertStore;
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
    /// All sites.
    pub sites: Sites,
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

/// Threads and process bounds.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Serving threads; as many handshake threads stand beside them.
    pub threads: usize,
    /// The state folder.
    pub state: PathBuf,
    /// How long a drain may take.
    pub shutdown_grace: Duration,
    /// Connections the process may hold.
    pub connections_max: usize,
    /// The user to become once the ports are bound.
    pub user: Option<String>,
}

/// Bounds of the queues.
#[derive(Clone, Debug)]
pub struct Queues {
    /// Handshakes in flight on one handshake thread.
    pub handshake_concurrency: usize,
    /// Waiting handshakes, all customers together.
    pub handshake_depth: usize,
    /// Age at which a waiting or unfinished handshake is given up.
    pub handshake_deadline: Duration,
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
}

/// CPU time of a handshake on one core, microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HandshakeCosts {
    /// A full handshake.
    pub full: u32,
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
