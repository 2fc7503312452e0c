//! What the admin pages are told: the rooms' own states, gathered on the control thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::attention::{self, CertificatesTold};
use super::fleet::Listener;
use crate::admin::{
    CertificateRow, EndpointRow, FailingEndpoint, FindingExample, FindingRow, Gathered, Phase,
    QueueNow, ReloadRow, Reloading, Serving, SiteRow, View,
};
use crate::admission::QueueState;
use crate::alarms::{AwaitingSite, BrokenPart};
use crate::config::machine::this_machine;
use crate::config::report::Report;
use crate::findings;
use crate::identity::unix_now;
use crate::listener::backlog;
use crate::metrics::{FindingCount, ListenerGauge, QueueName, UpstreamGauges};
use crate::problem::Problem;
use crate::proxy::{Live, Proxy, SiteState};
use crate::reload::{Dated, Reloader};
use crate::screen::Profile;
use crate::sites::Site;
use crate::upstream::{EndpointSummary, EndpointSums};

/// A walk over all sites rests for so many times what it took: half a percent of a core.
const WALK_REST: u32 = 200;

/// Alarms are raised within ten seconds of their cause, whatever the number of sites.
const WALK_AGE_MAX: Duration = Duration::from_secs(4);

/// Endpoints that are told by name; a day on which all fail is one page.
const FAILING_MAX: usize = 50;

/// Somebody on the admin listener wants a reload, and its report.
pub type Ask = oneshot::Sender<Report>;

/// The edge, as the admin pages see it.
pub struct Told {
    proxy: Arc<Proxy>,
    reloader: Arc<Reloader>,
    asks: mpsc::Sender<Ask>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    overflows: Mutex<Overflows>,
    walked: Mutex<Option<Walked>>,
    /// How the machine differs, by the generation it was looked at for: a file is read for it, and
    /// all certificates.
    machine_differs: Mutex<(u64, Option<String>)>,
    /// What alarms tell of certificates, by the generation and day it was looked at for: all sites
    /// are walked for it.
    certificates: Mutex<((u64, i64), CertificatesTold)>,
    serving: AtomicBool,
}

/// What full accept queues of this edge have lost, as far as it was read.
#[derive(Default)]
struct Overflows {
    last: Option<backlog::Reading>,
    total: u64,
    /// The listener that lost last.
    at: String,
}

impl Told {
    /// A view that passes wishes for a reload to `asks`.
    pub fn new(proxy: &Arc<Proxy>, reloader: &Arc<Reloader>, asks: mpsc::Sender<Ask>) -> Told {
        Told {
            proxy: proxy.clone(),
            reloader: reloader.clone(),
            asks,
            listeners: Mutex::default(),
            overflows: Mutex::default(),
            walked: Mutex::default(),
            machine_differs: Mutex::default(),
            certificates: Mutex::default(),
            serving: AtomicBool::new(false),
        }
    }

    /// The edge serves on these listeners now.
    pub fn serves(&self, listeners: &[Arc<Listener>]) {
        *self.listeners.lock().unwrap_or_else(PoisonError::into_inner) = listeners.to_vec();
        self.serving.store(true, Ordering::Release);
    }

    fn phase(&self) -> Phase {
        match (self.proxy.is_draining(), self.serving.load(Ordering::Acquire)) {
            (true, _) => Phase::Draining,
            (false, true) => Phase::Serving,
            (false, false) => Phase::Starting,
        }
    }

    /// Every second, and at each scrape.
    fn walk(&self, live: &Live) -> Walk {
        let mut walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(walked) = walked.as_ref().filter(|walked| walked.is_fresh(live)) {
            return walked.walk.clone();
        }
        walked.insert(Walked::now(live)).walk.clone()
    }

    fn machine_differs(&self, live: &Live) -> Option<String> {
        let mut known = self.machine_differs.lock().unwrap_or_else(PoisonError::into_inner);
        // Generations count from 1.
        if known.0 != live.snapshot.generation {
            *known = (live.snapshot.generation, machine_differs(live));
        }
        known.1.clone()
    }

    fn certificates_told(&self, live: &Live) -> CertificatesTold {
        let now = unix_now();
        let key = (live.snapshot.generation, now / attention::DAY_SECONDS);
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != key {
            *known = (key, CertificatesTold::now(&live.snapshot, now));
        }
        known.1.clone()
    }

    /// The kernel's accept queues now, how many connections full ones of ours have lost, and which
    /// lost the last of them.
    fn accept_queues(&self) -> (backlog::Reading, u64, String) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let read = |listener: &Arc<Listener>| {
            backlog::read_listener(&listener.address.to_string(), &listener.socket).ok()
        };
        let now = backlog::Reading {
            listeners: listeners.iter().filter_map(read).collect(),
            counters: backlog::read_counters().ok(),
        };
        let mut overflows = self.overflows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = overflows.last.replace(now.clone()) {
            let lost = backlog::overflows_between(&before, &now);
            overflows.total += lost;
            if let Some(at) = backlog::dropping_between(&before, &now).filter(|_| lost > 0) {
                at.clone_into(&mut overflows.at);
            }
        }
        (now, overflows.total, overflows.at.clone())
    }
}

fn listener_gauge(reading: backlog::ListenerReading) -> ListenerGauge {
    ListenerGauge {
        listener: reading.listener,
        length: reading.length.into(),
        limit: reading.limit.into(),
        drops: reading.drops.into(),
    }
}

impl View for Told {
    fn serving(&self) -> Serving {
        let snapshot = &self.proxy.live().snapshot;
        Serving {
            phase: self.phase(),
            generation: snapshot.generation,
            sites: snapshot.sites.all().len(),
            certificates: snapshot.certs.all().len(),
        }
    }

    fn gather(&self) -> Gathered {
        let live = self.proxy.live();
        let totals = self.proxy.metrics.totals();
        let (accept_queues, overflows_own, overflowing) = self.accept_queues();
        let counters = accept_queues.counters.unwrap_or_default();
        let walk = self.walk(&live);
        let certs = &live.snapshot.certs;
        let certificates = self.certificates_told(&live);
        let parts = self.reloader.in_force(|refused, report| Parts {
            refused: refused.map(first),
            kept: attention::kept_parts(report),
            absent: attention::absent_parts(report, certs, &certificates.sites),
        });
        Gathered {
            listeners: accept_queues.listeners.into_iter().map(listener_gauge).collect(),
            overflows_own,
            overflowing,
            listen_overflows: counters.overflows,
            listen_drops: counters.drops,
            handshake_queue: queue_now(
                &self.proxy.handshakes.state(),
                totals.queue_admitted(QueueName::Handshake),
            ),
            request_queues: walk.waiting,
            unanswered: walk.unanswered,
            request_depth: live.snapshot.queues.request_depth as u64,
            age_alarm: live.snapshot.queues.age_alarm,
            connections: (
                self.proxy.connections() as u64,
                live.snapshot.runtime.connections_max as u64,
            ),
            upstreams: walk.upstreams,
            sites_down: walk.down,
            failing_endpoints: walk.failing,
            findings: finding_counts(&self.proxy.findings),
            certificates: certs
                .expiries(unix_now())
                .map(|(name, end)| (name.to_owned(), end))
                .collect(),
            certificates_kept: certificates.kept,
            certificate_sites: certificates.sites,
            reload_refused: parts.refused,
            parts_kept: parts.kept,
            parts_absent: parts.absent,
            machine_differs: self.machine_differs(&live),
            access_log: live.access.state(),
        }
    }

    fn sites(&self) -> Vec<SiteRow> {
        let live = self.proxy.live();
        let mut summaries: HashMap<String, _> = self
            .proxy
            .metrics
            .sites()
            .into_iter()
            .map(|summary| (summary.site.clone(), summary))
            .collect();
        let mut found: HashMap<String, u64> = HashMap::new();
        for count in self.proxy.findings.counts() {
            *found.entry(count.site.unwrap_or_default()).or_default() += count.count;
        }
        let kept = self.reloader.in_force(|_, report| report.kept.clone());
        let row = |(site, state): (&Arc<Site>, &Arc<SiteState>)| {
            let id = site.id.as_str();
            let queue = state.gate.state();
            SiteRow {
                summary: summaries.remove(id).unwrap_or_default(),
                customer: site.customer.to_string(),
                hosts: site.hosts.iter().map(ToString::to_string).collect(),
                waiting: queue.depth as u64,
                waiting_limit: queue.limit as u64,
                oldest_seconds: queue.oldest.as_secs_f64(),
                in_flight: state.gate.in_flight().into(),
                in_flight_limit: state.gate.limit().into(),
                findings: found.get(id).copied().unwrap_or(0),
                kept: kept.iter().any(|part| part.strip_prefix("site ") == Some(id)),
                endpoints: state.upstream.endpoints().into_iter().map(endpoint_row).collect(),
            }
        };
        live.sites().map(row).collect()
    }

    fn certificates(&self) -> Vec<CertificateRow> {
        let certs = self.proxy.live().snapshot.certs.clone();
        let absent = certs.absent().map(|(name, problem)| absent_row(name, problem));
        absent.chain(certs.summaries(unix_now()).into_iter().map(certificate_row)).collect()
    }

    fn findings(&self) -> Vec<FindingRow> {
        let live = self.proxy.live();
        let shadows: HashMap<&str, Profile> = (live.snapshot.sites.all().iter())
            .filter_map(|site| Some((site.id.as_str(), site.screening.shadow()?)))
            .collect();
        let row = |count: findings::FindingCount| {
            let shadow = match &count.site {
                Some(site) => shadows.get(site.as_str()).copied(),
                None => live.snapshot.screening.shadow(),
            };
            finding_row(count, shadow)
        };
        self.proxy.findings.report().into_iter().map(row).collect()
    }

    fn reloads(&self) -> Vec<ReloadRow> {
        let history = self.reloader.history();
        let row = |dated: Dated| ReloadRow { at_unix: dated.at_unix, report: dated.report };
        history.reports.into_iter().map(row).collect()
    }

    fn reload(&self) -> Reloading {
        let asks = self.asks.clone();
        let reloader = self.reloader.clone();
        Box::pin(async move {
            let (ask, answer) = oneshot::channel();
            // The control loop outlives the admin pages; where it ends first, so does the process.
            let _ = asks.send(ask).await;
            match answer.await {
                Ok(report) => report,
                Err(_) => reloader.last(),
            }
        })
    }
}

fn queue_now(state: &QueueState, admitted: u64) -> QueueNow {
    QueueNow {
        depth: state.depth as u64,
        limit: state.limit as u64,
        oldest: state.oldest,
        admitted,
    }
}

/// What one walk over all sites shows.
#[derive(Clone, Default)]
struct Walk {
    /// Request queues in which something waits.
    waiting: Vec<(String, QueueNow)>,
    unanswered: Vec<AwaitingSite>,
    upstreams: UpstreamGauges,
    /// Endpoints that are out or fail; at most [`FAILING_MAX`].
    failing: Vec<FailingEndpoint>,
    /// Sites whose every endpoint fails, and why.
    down: Vec<(String, String)>,
}

/// The last walk: with many sites it is looked at again rather than walked again.
struct Walked {
    at: Instant,
    /// CPU time: on a crowded machine the clock tells of others.
    took: Duration,
    /// A reload by which none of them moved leaves it fresh. Not kept alive by it.
    of: Weak<Vec<Arc<SiteState>>>,
    walk: Walk,
}

impl Walked {
    fn now(live: &Live) -> Walked {
        let before = thread_cpu_time();
        let walk = walk(live);
        let took = thread_cpu_time().saturating_sub(before);
        Walked { at: Instant::now(), took, of: Arc::downgrade(live.states()), walk }
    }

    fn is_fresh(&self, live: &Live) -> bool {
        Weak::ptr_eq(&self.of, &Arc::downgrade(live.states()))
            && self.at.elapsed() < (self.took * WALK_REST).min(WALK_AGE_MAX)
    }
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Looks at all sites. Nearly all of them are well, and of those only a few atomics are read, but
/// from memory that nobody touched since: 50,000 sites take some 20 ms.
fn walk(live: &Live) -> Walk {
    let (mut walk, mut sums) = (Walk::default(), EndpointSums::default());
    for (site, state) in live.sites() {
        if state.gate.is_contended() {
            let queue = queue_now(&state.gate.state(), state.gate.granted());
            walk.waiting.push((site.id.to_string(), queue));
        }
        let awaited = sums.awaited;
        if state.upstream.add_to(&mut sums) > 0 {
            walk.ailing(site, &state.upstream.endpoints());
        }
        if sums.awaited > awaited {
            let answered = state.upstream.last_answer().map(tokio::time::Instant::into_std);
            let (site, awaited) = (site.id.to_string(), sums.awaited - awaited);
            walk.unanswered.push(AwaitingSite { site, awaited, answered });
        }
    }
    let gauges = &mut walk.upstreams;
    gauges.up = sums.endpoints - gauges.down.min(sums.endpoints);
    (gauges.busy, gauges.idle) = (sums.in_flight, sums.idle);
    (gauges.connects, gauges.connects_failed) =
        (sums.connections_total, sums.connect_failures_total);
    walk
}

impl Walk {
    /// A site with an endpoint that has a failure on its record. Alarm, figures and rows go by one
    /// question, so that none tells that a site is well while another tells that it is down.
    fn ailing(&mut self, site: &Site, endpoints: &[EndpointSummary]) {
        for endpoint in endpoints.iter().filter(|one| one.fails()) {
            self.upstreams.down += 1;
            self.upstreams.down_names.push((site.id.to_string(), endpoint.url.clone()));
            if self.failing.len() < FAILING_MAX {
                self.failing.push(FailingEndpoint {
                    site: site.id.to_string(),
                    url: endpoint.url.clone(),
                    state: endpoint.state().to_owned(),
                    last_failure: endpoint.last_failure.clone(),
                });
            }
        }
        if endpoints.iter().all(EndpointSummary::fails) {
            let why = endpoints.iter().find_map(|one| one.last_failure.clone());
            let why = why.unwrap_or_else(|| "no endpoint can be used".into());
            self.down.push((site.id.to_string(), why));
        }
    }
}

fn finding_counts(store: &findings::FindingsStore) -> Vec<FindingCount> {
    let count = |count: findings::FindingCount| FindingCount {
        site: count.site.unwrap_or_default(),
        direction: count.direction.label(),
        rule: count.rule.code(),
        action: count.action.label(),
        count: count.count,
    };
    store.counts().into_iter().map(count).collect()
}

/// What of the configuration is not as its files say. Certificates at their last good version have
/// an alarm of their own.
struct Parts {
    refused: Option<String>,
    kept: Vec<BrokenPart>,
    absent: Vec<BrokenPart>,
}

/// Why a reload was refused: its first harmful problem.
fn first(report: &Report) -> String {
    let harmful = report.problems.iter().find(|problem| problem.is_harmful());
    harmful.map_or_else(|| "the configuration is refused".into(), ToString::to_string)
}

/// How this machine differs from the one that `queues.toml` was measured on.
fn machine_differs(live: &Live) -> Option<String> {
    let measured = live.snapshot.queues.measured_on.as_ref()?;
    let differences = this_machine(&live.snapshot.certs).differences(measured);
    (!differences.is_empty()).then(|| differences.join("; "))
}

fn endpoint_row(endpoint: EndpointSummary) -> EndpointRow {
    EndpointRow {
        state: endpoint.state().to_owned(),
        in_flight: endpoint.in_flight.into(),
        latency_ms: endpoint.latency_seconds.map(|seconds| seconds * 1_000.0),
        backup: endpoint.backup,
        last_failure: endpoint.last_failure,
        url: endpoint.url,
    }
}

fn certificate_row(summary: crate::certs::Summary) -> CertificateRow {
    CertificateRow {
        validity: summary.validity.label().to_owned(),
        file: summary.file.display().to_string(),
        name: summary.name,
        hosts: summary.hosts,
        key: summary.key,
        issuer: summary.issuer,
        not_before: summary.not_before,
        not_after: summary.not_after,
        not_after_timestamp: summary.not_after_timestamp,
        days_left: summary.days_left,
        fingerprint: summary.fingerprint,
        kept_since: summary.kept_since,
        problems: summary.problems,
    }
}

/// A certificate that is not served.
fn absent_row(name: &str, problem: &Problem) -> CertificateRow {
    CertificateRow {
        name: name.to_owned(),
        validity: "absent".to_owned(),
        file: problem.file.display().to_string(),
        problems: vec![problem.clone()],
        ..CertificateRow::default()
    }
}

fn finding_row(count: findings::FindingCount, shadow: Option<Profile>) -> FindingRow {
    let unix = |seconds| i64::try_from(seconds).unwrap_or(i64::MAX);
    let example = |example: findings::Example| FindingExample {
        first_seen_unix: unix(example.first_seen),
        last_seen_unix: unix(example.last_seen),
        times: example.times,
        hex: example.hex,
        field: example.field,
        excerpt: example.excerpt,
        request_line: example.request_line,
        upstream: example.upstream,
        request_id: example.request_id,
    };
    FindingRow {
        site: count.site.unwrap_or_default(),
        direction: count.direction.label().to_owned(),
        rule: count.rule.code().to_owned(),
        action: count.action.label().to_owned(),
        count: count.count,
        shadow_refused: count.shadow_refused,
        shadow: shadow.map_or_else(String::new, |profile| profile.label().to_owned()),
        section: count.rule.section().to_owned(),
        explain: count.rule.explain().to_owned(),
        remedy: count.rule.remedy().to_owned(),
        examples: count.examples.into_iter().map(example).collect(),
    }
}
