//! What the admin API answers, and what the edge must tell for it: plain data, no behaviour.
//!
//! Everything here can be written and read as JSON: the commands read what the edge wrote. Nothing
//! holds site content, keys or tokens. Units end the names; times are Unix seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::accesslog::AccessLogState;
use crate::alarms::{AwaitingSite, BrokenPart, Standing};
use crate::config::report::Report;
use crate::metrics::{FindingCount, ListenerGauge, SiteSummary, UpstreamGauges};
use crate::problem::Problem;

/// Where the process stands in its life.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not yet serving.
    #[default]
    Starting,
    /// Serving.
    Serving,
    /// Finishes what is in flight and takes nothing new.
    Draining,
}

/// What is served, at this very moment: whoever has just reloaded sees what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serving {
    /// Where the process stands.
    pub phase: Phase,
    /// The generation that is served.
    pub generation: u64,
    /// Sites that are served.
    pub sites: usize,
    /// Certificates that are loaded.
    pub certificates: usize,
}

/// The edge at one moment, as its rooms tell it. Taken once a second and at each scrape.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// The kernel's accept queues.
    pub listeners: Vec<ListenerGauge>,
    /// `ListenOverflows` of the network namespace.
    pub listen_overflows: u64,
    /// Connections that full accept queues of this edge have lost since its start.
    pub overflows_own: u64,
    /// The listener whose queue lost them last.
    pub overflowing: String,
    /// `ListenDrops` of the network namespace.
    pub listen_drops: u64,
    /// The handshake queue; what it let out is taken from the metrics.
    pub handshake_queue: QueueNow,
    /// The request queues in which something waits, by site.
    pub request_queues: Vec<(String, QueueNow)>,
    /// Sites that wait for their endpoints.
    pub unanswered: Vec<AwaitingSite>,
    /// `queues.request_depth`, shown while no request waits anywhere.
    pub request_depth: u64,
    /// `queues.age_alarm`.
    pub age_alarm: Duration,
    /// Client connections and `runtime.max_connections`.
    pub connections: (u64, u64),
    /// Endpoints and connections to them, of all sites together.
    pub upstreams: UpstreamGauges,
    /// Sites without a usable endpoint, and what their last failure was.
    pub sites_down: Vec<(String, String)>,
    /// Endpoints that get no requests, or fail those they get; at most fifty.
    pub failing_endpoints: Vec<FailingEndpoint>,
    /// Counts of the findings' store.
    pub findings: Vec<FindingCount>,
    /// Name and end (Unix seconds) of certificates that have ended, and of those that end first.
    pub certificates: Vec<(String, i64)>,
    /// Certificates at their last good version, and why.
    pub certificates_kept: Vec<(String, String)>,
    /// A site that is served with it, for each of these certificates that calls for attention.
    pub certificate_sites: BTreeMap<String, String>,
    /// Why the last reload was refused.
    pub reload_refused: Option<String>,
    /// Parts, other than certificates, that the last reload left at their last good version.
    pub parts_kept: Vec<BrokenPart>,
    /// Parts of the configuration that are not served, and why.
    pub parts_absent: Vec<BrokenPart>,
    /// How the machine differs from the one `queues.toml` was measured on.
    pub machine_differs: Option<String>,
    /// How the access log does.
    pub access_log: AccessLogState,
}

/// One queue's state.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueNow {
    /// Waiting entries.
    pub depth: u64,
    /// How many may wait.
    pub limit: u64,
    /// Age of the oldest.
    pub oldest: Duration,
    /// Entries let out since the start; anything that rises when the queue moves will do.
    pub admitted: u64,
}

/// `/api/status`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Where the process stands.
    pub phase: Phase,
    /// `ok`, or `degraded` where an alarm stands.
    pub health: Health,
    /// When this was taken.
    pub now_unix: i64,
    /// When the process started.
    pub started_unix: i64,
    /// The generation that is served.
    pub generation: u64,
    /// Sites that are served.
    pub sites: usize,
    /// Certificates that are loaded.
    pub certificates: usize,
    /// All standing alarms, critical ones first.
    pub alarms: Vec<Standing>,
    /// Open client connections by state.
    pub connections: BTreeMap<String, u64>,
    /// The kernel's accept queues.
    pub listeners: Vec<ListenerRow>,
    /// `ListenOverflows` of the network namespace.
    pub listen_overflows: u64,
    /// The handshake queue, then the request queues in which something waits, the fullest first.
    pub queues: Vec<QueueRow>,
    /// What happened a second, over the last ten.
    pub rates: BTreeMap<String, f64>,
    /// How long things took over the last ten seconds.
    pub latencies: Vec<LatencyRow>,
    /// Every reason for which something was turned away, the most frequent now first.
    pub refusals: Vec<RefusalRow>,
    /// Endpoints that are up.
    pub endpoints_up: u64,
    /// Endpoints that are down.
    pub endpoints_down: u64,
    /// Those that get no requests, or fail those they get, by site; at most fifty.
    #[serde(default)]
    pub failing_endpoints: Vec<FailingEndpoint>,
    /// The process as the kernel sees it.
    pub process: ProcessRow,
    /// How the access log does.
    pub access_log: AccessLogRow,
    /// One point a second: with `?since=UNIX`, those after it, of the last five minutes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Point>,
}

/// Whether an alarm stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// None.
    #[default]
    Ok,
    /// One or more.
    Degraded,
}

/// One listening socket's accept queue.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ListenerRow {
    /// Its address.
    pub listener: String,
    /// Connections that wait in the kernel.
    pub length: u64,
    /// How many may.
    pub limit: u64,
    /// Packets that the socket dropped, those by which nothing is lost included.
    pub drops: u64,
}

/// One queue.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct QueueRow {
    /// `handshake` or `request`.
    pub queue: String,
    /// The site, for a request queue.
    pub site: Option<String>,
    /// Waiting entries.
    pub depth: u64,
    /// How many may wait.
    pub limit: u64,
    /// Age of the oldest.
    pub oldest_seconds: f64,
}

/// How long one kind of thing took.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LatencyRow {
    /// `request`, `upstream`, `handshake`, `handshake-queue` or `request-queue`.
    pub what: String,
    /// How many of them a second.
    pub per_second: f64,
    /// Half of them took less.
    pub p50_ms: f64,
    /// Nine of ten took less.
    pub p90_ms: f64,
    /// All but one in a hundred took less.
    pub p99_ms: f64,
}

/// One reason to turn work away.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RefusalRow {
    /// Its label.
    pub reason: String,
    /// `downstream`, `upstream` or `edge`: whose doing it is.
    pub side: String,
    /// Since the start.
    pub total: u64,
    /// Over the last ten seconds.
    pub per_second: f64,
}

/// The process as the kernel sees it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ProcessRow {
    /// Memory in RAM.
    pub resident_bytes: u64,
    /// What it may use: the machine's or its control groups'; 0 where the kernel does not tell.
    pub memory_limit_bytes: u64,
    /// Open descriptors; 0 where the kernel does not tell.
    pub descriptors: u64,
    /// Their bound.
    pub descriptors_max: u64,
    /// CPU time a second over the last ten: 2.0 are two busy cores.
    pub cpu_cores: f64,
}

/// How the access log does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct AccessLogRow {
    /// Lines written.
    pub written: u64,
    /// Lines lost.
    pub dropped: u64,
    /// Failed writes and reopens.
    pub errors: u64,
    /// Why lines cannot be written now.
    pub failure: Option<String>,
}

/// One second of the charts.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Point {
    /// Its end.
    pub t: i64,
    /// Connections accepted.
    pub accepted: f64,
    /// Full handshakes done.
    pub full: f64,
    /// Resumed handshakes done.
    pub resumed: f64,
    /// Handshakes failed, given up or left by the client.
    pub failed: f64,
    /// Handshakes refused by the queue or before it.
    pub refused: f64,
    /// Waiting handshakes, and how many may.
    pub handshake_queue: (u64, u64),
    /// Waiting requests of the site with the fullest queue, and how many may.
    pub request_queue: (u64, u64),
    /// Ages of the oldest waiting handshake and the oldest waiting request, seconds.
    pub oldest: (f64, f64),
    /// The fullest kernel accept queue, and its limit.
    pub accept_queue: (u64, u64),
    /// Requests answered.
    pub requests: f64,
    /// Of these, with 5xx.
    pub errors: f64,
    /// Their percentiles, milliseconds: p50, p90, p99; absent in a second without requests.
    pub latency: Option<(f64, f64, f64)>,
    /// Refusals by reason; only those that happened.
    pub refusals: BTreeMap<String, f64>,
}

/// `/api/sites`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SitesPage {
    /// Sites that the question meets.
    pub total: usize,
    /// The part that was asked for.
    pub sites: Vec<SiteRow>,
}

/// One site.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SiteRow {
    /// Its name, counts, rates and percentiles.
    #[serde(flatten)]
    pub summary: SiteSummary,
    /// The key of fairness.
    pub customer: String,
    /// What it serves.
    pub hosts: Vec<String>,
    /// Requests that wait.
    pub waiting: u64,
    /// How many may.
    pub waiting_limit: u64,
    /// Age of the oldest.
    pub oldest_seconds: f64,
    /// Requests at the endpoints.
    pub in_flight: u64,
    /// How many may be there now.
    pub in_flight_limit: u64,
    /// Odd heads since the start.
    pub findings: u64,
    /// Whether its file is broken and its last good version serves.
    pub kept: bool,
    /// Its endpoints.
    pub endpoints: Vec<EndpointRow>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct EndpointRow {
    /// As written in the site's file.
    pub url: String,
    /// `up`, or why it gets no requests: `ejected`, `unhealthy`.
    pub state: String,
    /// Requests there now.
    pub in_flight: u64,
    /// Its latency as its last answers had it; absent before the first.
    pub latency_ms: Option<f64>,
    /// Used only while no other can be.
    pub backup: bool,
    /// The last failure, where there was one.
    pub last_failure: Option<String>,
}

/// One endpoint that is out, or fails what it gets.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct FailingEndpoint {
    /// Its site.
    pub site: String,
    /// As written in the site's file.
    pub url: String,
    /// `ejected`, `unhealthy`; `failing` for the last one standing, which is tried on.
    pub state: String,
    /// The last failure.
    pub last_failure: Option<String>,
}

/// One certificate, as `sluss certs` shows it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct CertificateRow {
    /// Its folder's name.
    pub name: String,
    /// The hosts it is valid for.
    pub hosts: Vec<String>,
    /// The kind of its key.
    pub key: String,
    /// Its issuer.
    pub issuer: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// Unix seconds.
    pub not_after_timestamp: i64,
    /// Whole days until then; negative once it has passed.
    pub days_left: i64,
    /// `expired`, `urgent`, `expiring`, `not_yet_valid`, `valid`, or `absent`: its files are broken,
    /// there is no last good version, and only name, file and problems are known.
    pub validity: String,
    /// The file with its chain.
    pub file: String,
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// RFC 3339: since when its last good version is served.
    pub kept_since: Option<String>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// What one rule found at one site.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct FindingRow {
    /// The site; empty where none was known.
    pub site: String,
    /// `request` or `response`.
    pub direction: String,
    /// The rule's code.
    pub rule: String,
    /// `note`, `repair` or `refuse`: what was done.
    pub action: String,
    /// Since the start.
    pub count: u64,
    /// Of these, what the shadow profile would have refused.
    pub shadow_refused: u64,
    /// The profile that shadows the site's now; empty for none.
    pub shadow: String,
    /// The RFC's section.
    pub section: String,
    /// What the rule is about.
    pub explain: String,
    /// What the site's owner can do.
    pub remedy: String,
    /// The latest few.
    pub examples: Vec<FindingExample>,
}

/// One odd head: redacted, escaped, bounded.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct FindingExample {
    /// The field's name.
    pub field: String,
    /// The bytes around the defect.
    pub excerpt: String,
    /// The same in hex; empty where they are redacted.
    pub hex: String,
    /// The last request line it was seen with.
    pub request_line: String,
    /// The endpoint it came from, for a response.
    pub upstream: Option<String>,
    /// The last request it was seen with.
    pub request_id: String,
    /// When it was first seen.
    pub first_seen_unix: i64,
    /// When it was last seen.
    pub last_seen_unix: i64,
    /// How often this very defect was seen.
    pub times: u64,
}

/// One reload and when it ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReloadRow {
    /// When it ended.
    pub at_unix: i64,
    /// What came of it.
    #[serde(flatten)]
    pub report: Report,
}
