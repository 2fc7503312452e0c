//! One scrape: all families in the order of the way, with what the other rooms brought.
//!
//! `docs/metrics.md` explains every family; a test holds the two together.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::refusal::Refusal;

use super::board::{Boards, SITE_COUNTERS_MAX};
use super::histogram::{SHOWN, SITE};
use super::labels::{
    CODES, ConnectionState, HandshakeResult, HandshakeVersion, QueueName, ReloadResult, Resumption,
    UpstreamResult,
};
use super::process::ProcessSample;
use super::sites::{SiteTable, SiteTotals};
use super::text::{Kind, Text};
use super::totals::Totals;
use super::{HandshakeOutcome, Metrics, handshake_slot, lock};

/// Series of one scrape at most, whatever the number of sites and whatever clients send.
pub const SERIES_MAX: usize = 2_000;

/// Certificates shown, the soonest to expire.
const CERTIFICATES_MAX: usize = 100;
/// Endpoints shown as down.
const ENDPOINTS_MAX: usize = 50;
/// Listeners shown.
const LISTENERS_MAX: usize = 16;
/// Finding counts with their site; the others are summed up over sites.
const FINDINGS_MAX: usize = 100;
/// Sums of findings over sites.
const FINDING_RULES_MAX: usize = 150;

/// The site in whose name the rest is summed up. No site can have it: see `SiteId::parse`.
const OTHERS: &str = "(others)";
/// Where no site was known.
const NONE: &str = "(none)";

/// What other rooms bring to a scrape.
#[derive(Clone, Debug, Default)]
pub struct ScrapeInput {
    /// One for the handshake queue, one for all request queues together.
    pub queues: Vec<QueueGauge>,
    /// The kernel's accept queues.
    pub listeners: Vec<ListenerGauge>,
    /// `ListenOverflows` of the network namespace.
    pub listen_overflows: u64,
    /// `ListenDrops` of the network namespace.
    pub listen_drops: u64,
    /// Endpoints and connections to them.
    pub upstreams: UpstreamGauges,
    /// Counts of the findings' store.
    pub findings: Vec<FindingCount>,
    /// The generation that is served.
    pub generation: u64,
    /// Name and expiry (seconds since the epoch) of certificates; the soonest are shown.
    pub certificates: Vec<(String, i64)>,
    /// How many certificates stand at their last good version.
    pub certificates_kept: u64,
    /// Each alarm's label and how many stand.
    pub alarms: Vec<(&'static str, u64)>,
    /// The access log's own counts.
    pub access_log: AccessLogCounts,
    /// The process as the kernel sees it.
    pub process: ProcessSample,
}

/// One queue's state.
#[derive(Clone, Copy, Debug)]
pub struct QueueGauge {
    /// Which.
    pub queue: QueueName,
    /// Waiting entries.
    pub depth: u64,
    /// How many may wait.
    pub limit: u64,
    /// Age of the oldest waiter.
    pub oldest: Duration,
}

/// One listening socket's accept queue.
#[derive(Clone, Debug)]
pub struct ListenerGauge {
    /// The address.
    pub listener: String,
    /// Connections that wait to be accepted.
    pub length: u64,
    /// How many may.
    pub limit: u64,
    /// Dropped by this socket since it was opened.
    pub drops: u64,
}

/// The endpoints of all sites together.
#[derive(Clone, Debug, Default)]
pub struct UpstreamGauges {
    /// Endpoints in use.
    pub up: u64,
    /// Endpoints ejected or failing their checks.
    pub down: u64,
    /// Connections that wait for a request.
    pub idle: u64,
    /// Connections with a request in flight.
    pub busy: u64,
    /// Connections made since the start.
    pub connects: u64,
    /// Connections that could not be made since the start.
    pub connects_failed: u64,
    /// Site and endpoint of those that are down.
    pub down_names: Vec<(String, String)>,
}

/// How often a rule found something at a site.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FindingCount {
    /// The site, or empty where none was known.
    pub site: String,
    /// `request` or `response`.
    pub direction: &'static str,
    /// The rule's code.
    pub rule: &'static str,
    /// `note`, `repair` or `refuse`.
    pub action: &'static str,
    /// Since the start.
    pub count: u64,
}

/// The access log's own counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessLogCounts {
    /// Lines written.
    pub written: u64,
    /// Lines lost: buffers full, or the device refused them.
    pub dropped: u64,
    /// Failed writes and reopens.
    pub errors: u64,
}

pub(super) fn render(
    metrics: &Metrics,
    (table, boards): (&SiteTable, &mut Boards),
    input: &ScrapeInput,
) -> String {
    let mut text = Text::default();
    let totals = metrics.totals();
    connections(&mut text, &totals, input);
    queues(&mut text, &totals, input);
    handshakes(&mut text, &totals);
    sites(&mut text, metrics, (table, boards));
    upstreams(&mut text, &totals, &input.upstreams);
    findings(&mut text, &input.findings);
    state(&mut text, &totals, input);
    process(&mut text, input);
    let (out, series) = text.finish();
    debug_assert!(series <= SERIES_MAX, "{series} series");
    out
}

fn connections(text: &mut Text, totals: &Totals, input: &ScrapeInput) {
    text.family(
        "sluss_kernel_accept_queue_length",
        Kind::Gauge,
        "Connections that the kernel holds until the edge accepts them.",
    );
    for listener in input.listeners.iter().take(LISTENERS_MAX) {
        text.sample(&[("listener", &listener.listener)], listener.length);
    }
    text.family(
        "sluss_kernel_accept_queue_limit",
        Kind::Gauge,
        "How many the kernel may hold: the smaller of backlog and net.core.somaxconn.",
    );
    for listener in input.listeners.iter().take(LISTENERS_MAX) {
        text.sample(&[("listener", &listener.listener)], listener.limit);
    }
    text.family(
        "sluss_kernel_accept_queue_drops_total",
        Kind::Counter,
        "Packets that the listening socket dropped.",
    );
    for listener in input.listeners.iter().take(LISTENERS_MAX) {
        text.sample(&[("listener", &listener.listener)], listener.drops);
    }
    text.family(
        "sluss_kernel_listen_overflows_total",
        Kind::Counter,
        "Connections refused by full accept queues, of all programs in the network namespace.",
    );
    text.sample(&[], input.listen_overflows);
    text.family(
        "sluss_kernel_listen_drops_total",
        Kind::Counter,
        "Connection attempts dropped by listening sockets, of all programs in the namespace.",
    );
    text.sample(&[], input.listen_drops);
    text.family("sluss_connections_accepted_total", Kind::Counter, "Client connections accepted.");
    text.sample(&[], totals.accepted);
    text.family(
        "sluss_connections_ended_idle_total",
        Kind::Counter,
        "Idle client connections ended to make room for new ones.",
    );
    text.sample(&[], totals.ended_idle);
    text.family("sluss_connections", Kind::Gauge, "Client connections by where they stand.");
    for state in ConnectionState::ALL {
        text.sample(&[("state", state.label())], totals.connections(*state));
    }
}

fn queues(text: &mut Text, totals: &Totals, input: &ScrapeInput) {
    let label = |queue: &QueueGauge| [("queue", queue.queue.label())];
    text.family(
        "sluss_queue_depth",
        Kind::Gauge,
        "Entries that wait; request: at the site with the fullest queue.",
    );
    for queue in &input.queues {
        text.sample(&label(queue), queue.depth);
    }
    text.family("sluss_queue_limit", Kind::Gauge, "How many entries may wait in that queue.");
    for queue in &input.queues {
        text.sample(&label(queue), queue.limit);
    }
    text.family("sluss_queue_oldest_age_seconds", Kind::Gauge, "Age of the oldest waiting entry.");
    for queue in &input.queues {
        text.sample(&label(queue), queue.oldest.as_secs_f64());
    }
    text.family(
        "sluss_queue_wait_seconds",
        Kind::Histogram,
        "How long entries waited that were let in, those that did not wait included.",
    );
    for queue in QueueName::ALL {
        text.histogram(&[("queue", queue.label())], totals.queue_wait(*queue), &SHOWN);
    }
    text.family("sluss_queue_admitted_total", Kind::Counter, "Entries let in.");
    for queue in QueueName::ALL {
        text.sample(&[("queue", queue.label())], totals.queue_admitted(*queue));
    }
    text.family(
        "sluss_queue_refused_total",
        Kind::Counter,
        "Entries that a queue refused or discarded, by reason.",
    );
    for queue in QueueName::ALL {
        let refused = &totals.queue_refused[*queue as usize];
        let expected = match queue {
            QueueName::Handshake => [Refusal::HandshakeQueueFull, Refusal::HandshakeDeadline],
            QueueName::Request => [Refusal::RequestQueueFull, Refusal::RequestDeadline],
        };
        for (reason, count) in Refusal::ALL.iter().zip(refused) {
            if *count > 0 || expected.contains(reason) {
                text.sample(&[("queue", queue.label()), ("reason", reason.label())], *count);
            }
        }
    }
}

fn handshakes(text: &mut Text, totals: &Totals) {
    text.family("sluss_handshakes_total", Kind::Counter, "Ended TLS handshakes.");
    for result in HandshakeResult::ALL {
        for version in HandshakeVersion::ALL {
            for resumption in Resumption::ALL {
                let outcome = HandshakeOutcome {
                    result: *result,
                    version: *version,
                    resumption: *resumption,
                };
                let count = totals.handshakes[handshake_slot(outcome)];
                let usual = outcome.result == HandshakeResult::Ok
                    && outcome.version == HandshakeVersion::Tls13;
                if count > 0 || usual {
                    let labels = [
                        ("result", result.label()),
                        ("version", version.label()),
                        ("resumed", resumption.label()),
                    ];
                    text.sample(&labels, count);
                }
            }
        }
    }
    text.family(
        "sluss_handshake_seconds",
        Kind::Histogram,
        "Duration of successful handshakes, without their wait in the queue.",
    );
    text.histogram(&[], &totals.handshake_seconds, &SHOWN);
}

fn sites(text: &mut Text, metrics: &Metrics, (table, boards): (&SiteTable, &mut Boards)) {
    let all = || metrics.totals().by_site().0;
    let fresh = std::mem::take(&mut *lock(&metrics.common.fresh));
    boards.fill(table, &fresh);
    boards.counters.trim(SITE_COUNTERS_MAX);
    let (sites, others) = boards.counters.read(all);
    let totals = metrics.totals();
    let (_, nameless) = totals.by_site();
    let mut rows: Vec<(&str, &SiteTotals)> =
        sites.iter().map(|(id, totals)| (id.as_str(), totals)).collect();
    rows.push((NONE, &nameless));
    rows.push((OTHERS, &others));
    text.family(
        "sluss_requests_total",
        Kind::Counter,
        "Answered requests by site and status; rare codes by class.",
    );
    for (site, totals) in &rows {
        for (code, count) in CODES.iter().zip(&totals.requests).filter(|(_, count)| **count > 0) {
            text.sample(&[("site", site), ("code", code)], *count);
        }
    }
    text.family(
        "sluss_refused_total",
        Kind::Counter,
        "Connections and requests turned away, by site and reason.",
    );
    for (site, totals) in &rows {
        for (reason, count) in Refusal::ALL.iter().zip(&totals.refused).filter(|(_, c)| **c > 0) {
            text.sample(&[("site", site), ("reason", reason.label())], *count);
        }
    }
    let (sites, others) = boards.latencies.read(all);
    text.family(
        "sluss_request_seconds",
        Kind::Histogram,
        "From a request's first byte to its response's last, of the busiest sites.",
    );
    for (id, totals) in &sites {
        text.histogram(&[("site", id.as_str())], &totals.seconds, &SITE);
    }
    text.histogram(&[("site", OTHERS)], &others.seconds, &SITE);
    text.family("sluss_body_bytes_total", Kind::Counter, "Bytes of bodies, by direction.");
    text.sample(&[("direction", "request")], totals.received_bytes);
    text.sample(&[("direction", "response")], totals.sent_bytes);
}

fn upstreams(text: &mut Text, totals: &Totals, gauges: &UpstreamGauges) {
    text.family("sluss_upstream_attempts_total", Kind::Counter, "Attempts at endpoints.");
    for result in UpstreamResult::ALL {
        text.sample(&[("result", result.label())], totals.upstream(*result));
    }
    text.family(
        "sluss_upstream_response_seconds",
        Kind::Histogram,
        "From a request sent to an endpoint to the response head.",
    );
    text.histogram(&[], &totals.upstream_seconds, &SHOWN);
    text.family("sluss_upstream_endpoints", Kind::Gauge, "Endpoints by state.");
    text.sample(&[("state", "up")], gauges.up);
    text.sample(&[("state", "down")], gauges.down);
    text.family("sluss_upstream_connections", Kind::Gauge, "Connections to endpoints.");
    text.sample(&[("state", "idle")], gauges.idle);
    text.sample(&[("state", "busy")], gauges.busy);
    text.family("sluss_upstream_connects_total", Kind::Counter, "Connections made to endpoints.");
    text.sample(&[("result", "ok")], gauges.connects);
    text.sample(&[("result", "failed")], gauges.connects_failed);
    text.family(
        "sluss_upstream_endpoint_down",
        Kind::Gauge,
        "1 for each endpoint that is ejected or fails its checks; absent while it is up.",
    );
    for (site, endpoint) in gauges.down_names.iter().take(ENDPOINTS_MAX) {
        text.sample(&[("site", site), ("endpoint", endpoint)], 1_u64);
    }
}

/// The counts come in any order and grow only; the largest keep their site. A count that moves from
/// the sum to a series of its own shows as a counter reset of the sum, which `rate()` survives.
fn findings(text: &mut Text, findings: &[FindingCount]) {
    text.family(
        "sluss_header_findings_total",
        Kind::Counter,
        "Odd heads by site, direction, rule and what was done.",
    );
    let mut largest: Vec<&FindingCount> = findings.iter().collect();
    largest.sort_by(|a, b| {
        let name = |f: &FindingCount| (f.direction, f.rule, f.action);
        (b.count, &a.site, name(a)).cmp(&(a.count, &b.site, name(b)))
    });
    let mut rest: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for (at, finding) in largest.into_iter().enumerate() {
        let (direction, rule, action) = (finding.direction, finding.rule, finding.action);
        if at >= FINDINGS_MAX {
            *rest.entry((direction, rule, action)).or_default() += finding.count;
            continue;
        }
        let site = if finding.site.is_empty() { NONE } else { &finding.site };
        let labels = [("site", site), ("direction", direction), ("rule", rule), ("action", action)];
        text.sample(&labels, finding.count);
    }
    for ((direction, rule, action), count) in rest.into_iter().take(FINDING_RULES_MAX) {
        let labels =
            [("site", OTHERS), ("direction", direction), ("rule", rule), ("action", action)];
        text.sample(&labels, count);
    }
}

fn state(text: &mut Text, totals: &Totals, input: &ScrapeInput) {
    text.family("sluss_reloads_total", Kind::Counter, "Reloads by result.");
    for result in ReloadResult::ALL {
        text.sample(&[("result", result.label())], totals.reloads(*result));
    }
    text.family("sluss_snapshot_generation", Kind::Gauge, "The generation that is served.");
    text.sample(&[], input.generation);
    text.family(
        "sluss_certificate_expiry_timestamp_seconds",
        Kind::Gauge,
        "When a certificate expires; the soonest 100.",
    );
    let mut certificates: Vec<&(String, i64)> = input.certificates.iter().collect();
    certificates.sort_by_key(|(name, expiry)| (*expiry, name));
    for (name, expiry) in certificates.into_iter().take(CERTIFICATES_MAX) {
        text.sample(&[("certificate", name)], *expiry);
    }
    text.family(
        "sluss_certificates_kept",
        Kind::Gauge,
        "Certificates at their last good version because their files are broken.",
    );
    text.sample(&[], input.certificates_kept);
    text.family("sluss_alarm", Kind::Gauge, "How many alarms of the kind stand; 0 for none.");
    for (alarm, standing) in &input.alarms {
        text.sample(&[("alarm", alarm)], *standing);
    }
    text.family("sluss_access_log_lines_total", Kind::Counter, "Lines of the access log.");
    text.sample(&[("result", "written")], input.access_log.written);
    text.sample(&[("result", "dropped")], input.access_log.dropped);
    text.family("sluss_access_log_errors_total", Kind::Counter, "Failed writes and reopens.");
    text.sample(&[], input.access_log.errors);
}

fn process(text: &mut Text, input: &ScrapeInput) {
    let process = &input.process;
    text.family("sluss_build_info", Kind::Gauge, "1, with the version.");
    text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
    text.family("process_cpu_seconds_total", Kind::Counter, "CPU time of all threads.");
    text.sample(&[], process.cpu.as_secs_f64());
    text.family("process_resident_memory_bytes", Kind::Gauge, "Memory in RAM.");
    text.sample(&[], process.resident_bytes);
    text.family("process_start_time_seconds", Kind::Gauge, "Start, since the epoch.");
    text.sample(&[], process.started);
    text.family("process_open_fds", Kind::Gauge, "Open file descriptors.");
    if let Some(descriptors) = process.descriptors {
        text.sample(&[], descriptors);
    }
    text.family("process_max_fds", Kind::Gauge, "The bound of open file descriptors.");
    text.sample(&[], process.descriptors_max);
}
