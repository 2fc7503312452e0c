//! What a second's look at the edge shows, and which alarms' causes are in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::refusals::Window;
use super::silence::Silences;
use super::{Alarm, readable};

/// A queue that let nothing out for this long stands still.
const STALL: Duration = Duration::from_secs(10);

/// Refusals in the window from which on they are an alarm: a few are one impatient scanner.
const REFUSALS_MIN: u64 = 5;

/// A certificate that ends sooner is an alarm: certbot renews 30 days ahead, so it failed for more
/// than a week.
const EXPIRING_SECONDS: i64 = 21 * 24 * 60 * 60;

/// A certificate that ends sooner is renewed by hand now: the warning of two weeks helped nobody.
const ENDS_SOON_SECONDS: i64 = 7 * 24 * 60 * 60;

/// The share of connections, descriptors or memory from which on it is an alarm, in percent.
const RESOURCE_PERCENT: u64 = 90;

/// The edge at one moment. Counters are since the start.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The kernel's accept queues.
    pub accept_queues: Vec<AcceptQueue>,
    /// Connections that full accept queues of this edge have lost since its start.
    pub overflows: u64,
    /// The listener that lost them last.
    pub overflowing: String,
    /// The handshake queue, and each site's request queue in which something waits.
    pub queues: Vec<QueueSample>,
    /// Sites that wait for their endpoints.
    pub unanswered: Vec<AwaitingSite>,
    /// `queues.age_alarm`.
    pub age_alarm: Duration,
    /// Handshakes that the queue refused or gave up.
    pub handshakes_refused: u64,
    /// The same by site, as far as a site was known.
    pub handshakes_refused_at: Vec<(String, u64)>,
    /// Requests that a queue refused or gave up.
    pub requests_refused: u64,
    /// The same by site.
    pub requests_refused_at: Vec<(String, u64)>,
    /// Sites without a usable endpoint, and what their last failure was.
    pub sites_down: Vec<(String, String)>,
    /// Certificates at their last good version, and why.
    pub certificates_kept: Vec<(String, String)>,
    /// Certificates and their end, Unix seconds.
    pub certificates: Vec<(String, i64)>,
    /// A site for each of these certificates that is served with it.
    pub certificate_sites: BTreeMap<String, String>,
    /// Why the last reload was refused.
    pub reload_refused: Option<String>,
    /// Parts, other than certificates, that the last reload left at their last good version.
    pub parts_kept: Vec<BrokenPart>,
    /// Parts of the configuration that are not served, and why.
    pub parts_absent: Vec<BrokenPart>,
    /// How the machine differs from the one `queues.toml` was measured on.
    pub machine_differs: Option<String>,
    /// Client connections and their bound.
    pub connections: (u64, u64),
    /// Open descriptors and their bound.
    pub descriptors: (u64, u64),
    /// Memory in use and its bound, bytes; no bound is 0.
    pub memory: (u64, u64),
    /// How the access log does.
    pub access_log: AccessLogHealth,
}

/// One listening socket's accept queue.
#[derive(Clone, Debug)]
pub struct AcceptQueue {
    /// Its address.
    pub listener: String,
    /// Connections that wait.
    pub length: u64,
    /// How many may.
    pub limit: u64,
}

/// One queue.
#[derive(Clone, Debug)]
pub struct QueueSample {
    /// `handshake` or `request`.
    pub queue: &'static str,
    /// The site, for a request queue.
    pub site: Option<String>,
    /// Waiting entries.
    pub depth: u64,
    /// Age of the oldest.
    pub oldest: Duration,
    /// Entries let out since the start.
    pub admitted: u64,
}

/// A site whose endpoints are waited for.
#[derive(Clone, Debug)]
pub struct AwaitingSite {
    /// Its name.
    pub site: String,
    /// Requests that were sent and not answered.
    pub awaited: u64,
    /// When any of its endpoints last answered.
    pub answered: Option<Instant>,
}

/// A part of the configuration whose file or key is broken.
#[derive(Clone, Debug, Default)]
pub struct BrokenPart {
    /// Its name, as in the report.
    pub part: String,
    /// The site, where it is one.
    pub site: Option<String>,
    /// What is wrong with its file.
    pub why: String,
}

/// How the access log does.
#[derive(Clone, Debug, Default)]
pub struct AccessLogHealth {
    /// Why it cannot be written now.
    pub failure: Option<String>,
    /// Lines lost since the start.
    pub dropped: u64,
}

/// One alarm's cause, seen now.
pub(super) struct Condition {
    pub(super) alarm: Alarm,
    pub(super) subject: String,
    pub(super) site: Option<String>,
    pub(super) detail: String,
}

/// What the conditions remember.
#[derive(Default)]
pub(super) struct Memory {
    overflows: u64,
    dropped: Option<u64>,
    /// Queues with entries, what they had let out when that last changed, and when that was.
    moved: BTreeMap<(&'static str, Option<String>), (u64, Instant)>,
    silences: Silences,
    handshakes_refused: Window,
    requests_refused: Window,
}

/// All causes in the sample.
pub(super) fn conditions(
    memory: &mut Memory,
    now: Instant,
    now_unix: i64,
    sample: &Sample,
) -> Vec<Condition> {
    let mut found = Vec::new();
    accept(&mut found, memory, sample);
    queues(&mut found, memory, now, sample);
    silence(&mut found, memory, now, sample);
    refusals(&mut found, memory, now, sample);
    for (site, failure) in &sample.sites_down {
        let detail = format!("no endpoint can be used; last failure: {failure}");
        found.push(about_site(Alarm::UpstreamsDown, site, site, detail));
    }
    certificates(&mut found, now_unix, sample);
    configuration(&mut found, sample);
    resources(&mut found, memory, sample);
    found
}

fn about(alarm: Alarm, subject: &str, detail: String) -> Condition {
    Condition { alarm, subject: subject.to_owned(), site: None, detail }
}

fn about_site(alarm: Alarm, subject: &str, site: &str, detail: String) -> Condition {
    Condition { alarm, subject: subject.to_owned(), site: Some(site.to_owned()), detail }
}

fn accept(found: &mut Vec<Condition>, memory: &mut Memory, sample: &Sample) {
    for queue in &sample.accept_queues {
        if queue.length * 2 > queue.limit {
            let detail = format!("{} of {} places taken", queue.length, queue.limit);
            found.push(about(Alarm::AcceptQueue, &queue.listener, detail));
        }
    }
    let before = std::mem::replace(&mut memory.overflows, sample.overflows);
    let new = sample.overflows.saturating_sub(before);
    if new > 0 {
        let detail = format!("{new} new connections dropped in the last second");
        found.push(about(Alarm::AcceptOverflow, &sample.overflowing, detail));
    }
}

fn queues(found: &mut Vec<Condition>, memory: &mut Memory, now: Instant, sample: &Sample) {
    let mut moved = BTreeMap::new();
    for queue in sample.queues.iter().filter(|queue| queue.depth > 0) {
        let subject = queue.site.as_deref().unwrap_or(queue.queue);
        let condition = |alarm, detail| match &queue.site {
            Some(site) => about_site(alarm, subject, site, detail),
            None => about(alarm, subject, detail),
        };
        if queue.oldest > sample.age_alarm {
            let (depth, oldest) = (queue.depth, readable(queue.oldest));
            let detail = format!("{} queue: {depth} wait, the oldest for {oldest}", queue.queue);
            found.push(condition(Alarm::QueueAge, detail));
        }
        let key = (queue.queue, queue.site.clone());
        let known = memory.moved.get(&key).filter(|(admitted, _)| *admitted == queue.admitted);
        let since = known.map_or(now, |(_, since)| *since);
        if now.duration_since(since) >= STALL {
            let still = readable(now.duration_since(since));
            let detail =
                format!("{} queue: {} wait, none let out for {still}", queue.queue, queue.depth);
            found.push(condition(Alarm::QueueStalled, detail));
        }
        moved.insert(key, (queue.admitted, since));
    }
    memory.moved = moved;
}

/// A server that takes requests and answers none is told before its site's queue fills: the limit
/// in flight may be far away.
fn silence(found: &mut Vec<Condition>, memory: &mut Memory, now: Instant, sample: &Sample) {
    for (AwaitingSite { site, awaited, .. }, still) in
        memory.silences.observe(now, &sample.unanswered)
    {
        let is_told = |other: &Condition| {
            other.alarm == Alarm::QueueStalled && other.site.as_ref() == Some(site)
        };
        if !found.iter().any(is_told) {
            let wait = if *awaited == 1 { "request waits" } else { "requests wait" };
            let still = readable(still);
            let detail = format!("{awaited} {wait} for an answer, none came for {still}");
            found.push(about_site(Alarm::QueueStalled, site, site, detail));
        }
    }
}

fn refusals(found: &mut Vec<Condition>, memory: &mut Memory, now: Instant, sample: &Sample) {
    let handshakes = (sample.handshakes_refused, &sample.handshakes_refused_at[..]);
    let requests = (sample.requests_refused, &sample.requests_refused_at[..]);
    for (alarm, what, window, (all, by_site)) in [
        (Alarm::HandshakesRefused, "handshakes", &mut memory.handshakes_refused, handshakes),
        (Alarm::RequestsRefused, "requests", &mut memory.requests_refused, requests),
    ] {
        let recent = window.observe(now, all, by_site);
        if recent.all >= REFUSALS_MIN {
            let detail = format!("{} {what} refused in ten seconds{}", recent.all, recent.told());
            let site = recent.most.map(|(site, _)| site);
            found.push(Condition { alarm, subject: String::new(), site, detail });
        }
    }
}

fn certificates(found: &mut Vec<Condition>, now_unix: i64, sample: &Sample) {
    let mut push = |alarm, name: &str, detail| {
        let site = sample.certificate_sites.get(name).cloned();
        found.push(Condition { alarm, subject: name.to_owned(), site, detail });
    };
    for (name, why) in &sample.certificates_kept {
        push(Alarm::CertificateKept, name, why.clone());
    }
    let mut by_end: Vec<&(String, i64)> = sample.certificates.iter().collect();
    by_end.sort_by_key(|(_, end)| *end);
    for (name, end) in by_end {
        let left = end - now_unix;
        let readable = readable(Duration::from_secs(left.unsigned_abs()));
        if left <= 0 {
            let detail = format!("expired {readable} ago");
            push(Alarm::CertificateExpired, name, detail);
        } else if left < EXPIRING_SECONDS {
            let soon = left < ENDS_SOON_SECONDS;
            let alarm = if soon { Alarm::CertificateEndsSoon } else { Alarm::CertificateExpiring };
            push(alarm, name, format!("expires in {readable}"));
        }
    }
}

fn configuration(found: &mut Vec<Condition>, sample: &Sample) {
    if let Some(why) = &sample.reload_refused {
        found.push(about(Alarm::ReloadRefused, "", why.clone()));
    }
    let mut push = |alarm, part: &BrokenPart, detail| {
        let (subject, site) = (part.part.clone(), part.site.clone());
        found.push(Condition { alarm, subject, site, detail });
    };
    for part in &sample.parts_kept {
        let detail = format!("stays at its last good version: {}", part.why);
        push(Alarm::ReloadPartly, part, detail);
    }
    for part in &sample.parts_absent {
        push(Alarm::NotServed, part, part.why.clone());
    }
    if let Some(how) = &sample.machine_differs {
        found.push(about(Alarm::MachineDiffers, "", how.clone()));
    }
}

fn resources(found: &mut Vec<Condition>, memory: &mut Memory, sample: &Sample) {
    let mut near = |alarm, (used, bound): (u64, u64), what: &str| {
        if bound > 0 && used.saturating_mul(100) >= bound.saturating_mul(RESOURCE_PERCENT) {
            found.push(about(alarm, "", format!("{used} of {bound} {what} in use")));
        }
    };
    near(Alarm::Connections, sample.connections, "connections");
    near(Alarm::Descriptors, sample.descriptors, "descriptors");
    near(Alarm::Memory, sample.memory, "bytes");
    let log = &sample.access_log;
    let before = memory.dropped.replace(log.dropped).unwrap_or(0);
    let dropped = log.dropped.saturating_sub(before);
    if let Some(failure) = &log.failure {
        let detail = format!("{failure}; {} lines lost so far", log.dropped);
        found.push(about(Alarm::AccessLog, "", detail));
    } else if dropped > 0 {
        let detail = format!("{dropped} lines dropped in the last second: the device is too slow");
        found.push(about(Alarm::AccessLog, "", detail));
    }
}
