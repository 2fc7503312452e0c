//! One endpoint as all threads see it: its load, latency, health and counters.
//!
//! Everything the request path touches is an atomic; the lock around [`Health`] is taken only by
//! failures, active checks, and the first success after a failure. An endpoint outlives reloads
//! that keep its address; its weight and whether it is a backup belong to the
//! [`Upstream`](super::Upstream) of one generation.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::balance::{self, Standing};
use super::connect::Verifier;
use super::health::{FAILURES_MAX, Health, Others, Thresholds, Verdict};
use crate::names::SiteId;
use crate::refusal::Refusal;
use crate::sites::EndpointSpec;

/// A latency that was not measured anew for so long counts half, so that an endpoint that was
/// slow once is tried again.
const HALF_LIFE_MILLIS: u64 = 5_000;

/// The least latency by which one sample may raise the estimate; see [`Endpoint::answered`].
const RISE_MICROS: u64 = 1_000;

/// What `standing` holds for an endpoint that an active check took out.
const DOWN: u64 = u64::MAX;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// One endpoint of one site.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process: the key of its connections.
    pub(super) id: u64,
    /// The same in every process: what hashing by client goes by.
    pub(super) identity: u64,
    /// Whose it is: a line of the log about it names the site.
    site: SiteId,
    pub(super) spec: EndpointSpec,
    /// Who is trusted over TLS; replaced by a reload where the authorities changed.
    pub(super) verifier: ArcSwapOption<Verifier>,
    /// The atomics' times count from here.
    epoch: Instant,
    in_flight: AtomicU32,
    /// Of these, requests whose response head has not come.
    awaited: AtomicU32,
    connections: AtomicU32,
    /// Microseconds in the lower half; the millisecond they were measured at in the upper.
    latency: AtomicU64,
    health: Mutex<Health>,
    /// What [`Health::standing`] says, to be read without the lock: 0 is up, [`DOWN`] down, else
    /// the millisecond at which the ejection ends.
    standing: AtomicU64,
    /// Whether a success has a record to clear.
    blemished: AtomicBool,
    counts: Counts,
    last_failure: Mutex<Option<String>>,
}

/// What happened at an endpoint since it was first loaded.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    connections: AtomicU64,
    connect_failures: AtomicU64,
    failures: AtomicU64,
    ejections: AtomicU64,
}

/// What the admin API and the metrics tell of an endpoint.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EndpointSummary {
    /// As the operator wrote it.
    pub url: String,
    /// Share of the load.
    pub weight: u32,
    /// Used only while no primary can be.
    pub backup: bool,
    /// Whether it may be used.
    pub standing: Standing,
    /// Requests it is working on.
    pub in_flight: u32,
    /// Open connections to it, idle ones included.
    pub connections: u32,
    /// The estimate of its latency as its last answer left it; absent before the first.
    pub latency_seconds: Option<f64>,
    /// Failures in a row.
    pub failures_in_a_row: u32,
    /// Seconds until an ejection ends; absent where none lasts.
    pub ejected_for_seconds: Option<f64>,
    /// Requests sent, retries included.
    pub requests_total: u64,
    /// Connections made.
    pub connections_total: u64,
    /// Connections that could not be made.
    pub connect_failures_total: u64,
    /// Requests that got no usable answer.
    pub failures_total: u64,
    /// Ejections.
    pub ejections_total: u64,
    /// What went wrong last, be it long ago.
    pub last_failure: Option<String>,
}

impl EndpointSummary {
    /// Whether it is out, or failed so often in a row that it would be. The last one of a site is
    /// never ejected, so that it is tried on: that does not make it well.
    pub fn fails(&self) -> bool {
        self.standing != Standing::Up || self.failures_in_a_row >= FAILURES_MAX
    }

    /// The word for its state in the admin API, on the dashboard and in the commands.
    pub fn state(&self) -> &'static str {
        match self.standing {
            Standing::Up if self.fails() => "failing",
            standing => standing.label(),
        }
    }
}

/// What endpoints come to together, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EndpointSums {
    /// Endpoints.
    pub endpoints: u64,
    /// Those that are out, or have a failure on their record; all others are up.
    pub blemished: u64,
    /// Requests they are working on.
    pub in_flight: u64,
    /// Of these, requests whose response head has not come.
    pub awaited: u64,
    /// Open connections that carry no request.
    pub idle: u64,
    /// Connections made since the start.
    pub connections_total: u64,
    /// Connections that could not be made since the start.
    pub connect_failures_total: u64,
}

impl Endpoint {
    /// An endpoint of which nothing is known yet.
    pub(super) fn new(site: &SiteId, spec: EndpointSpec, now: Instant) -> Endpoint {
        Endpoint {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            identity: balance::identity(spec.url.as_bytes()),
            site: site.clone(),
            spec,
            verifier: ArcSwapOption::empty(),
            epoch: now,
            in_flight: AtomicU32::new(0),
            awaited: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            health: Mutex::default(),
            standing: AtomicU64::new(0),
            blemished: AtomicBool::new(false),
            counts: Counts::default(),
            last_failure: Mutex::default(),
        }
    }

    /// As the operator wrote it.
    pub fn url(&self) -> &str {
        &self.spec.url
    }

    /// Requests it is working on.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it may be used.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Up,
            DOWN => Standing::Down,
            until if self.millis(now) < until => Standing::Ejected,
            _ => Standing::Up,
        }
    }

    /// The estimate of its latency. Zero where nothing is known: a new endpoint is tried.
    pub fn latency(&self, now: Instant) -> Duration {
        let (micros, at) = unpack(self.latency.load(Ordering::Relaxed));
        let halvings = self.millis(now).saturating_sub(at) / HALF_LIFE_MILLIS;
        Duration::from_micros(micros >> halvings.min(32))
    }

    /// A response head came, so long after the request was sent. The estimate rises at once, but
    /// at most to the double of what it was, so that one slow page does not drive all requests
    /// away; it falls by an eighth of the difference.
    pub(super) fn answered(&self, latency: Duration, now: Instant) {
        let old = self.latency(now).as_micros() as u64;
        let sample = latency.as_micros() as u64;
        let new = match sample.checked_sub(old) {
            Some(_) if old == 0 => sample,
            Some(above) => old + above.min(old.max(RISE_MICROS)),
            None => old - (old - sample) / 8,
        };
        // Threads that race here lose a sample; an estimate can bear that.
        self.latency.store(pack(new, self.millis(now)), Ordering::Relaxed);
        if self.blemished.load(Ordering::Relaxed) {
            self.clear();
        }
    }

    /// A request got no usable answer, or no connection could be made.
    pub(super) fn failed(&self, refusal: Refusal, cause: &str, now: Instant, others: Others) {
        let counter = match refusal {
            Refusal::UpstreamConnect => &self.counts.connect_failures,
            _ => &self.counts.failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.remember(cause);
        let mut health = self.health();
        let verdict = health.failed(now, others);
        self.publish(&health);
        drop(health);
        let (site, endpoint) = (self.site.as_str(), self.url());
        match verdict {
            Verdict::Counted => {}
            Verdict::Ejected => {
                self.counts.ejections.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(site, endpoint, %refusal, cause, "endpoint ejected");
            }
            Verdict::Kept => {
                tracing::warn!(site, endpoint, %refusal, cause, "the last endpoint fails");
            }
        }
    }

    /// An active check has ended.
    pub(super) fn checked(&self, outcome: Result<(), String>, thresholds: Thresholds) {
        let mut health = self.health();
        let before = health.is_down();
        match &outcome {
            Ok(()) => health.check_passed(thresholds),
            Err(_) => health.check_failed(thresholds),
        }
        let after = health.is_down();
        self.publish(&health);
        drop(health);
        let cause = outcome.err();
        if let Some(cause) = &cause {
            self.remember(cause);
        }
        let (site, endpoint) = (self.site.as_str(), self.url());
        match (before, after) {
            (false, true) => {
                tracing::warn!(site, endpoint, cause, "endpoint taken out by its check");
            }
            (true, false) => tracing::info!(site, endpoint, "endpoint back by its check"),
            (true, true) | (false, false) => {}
        }
    }

    /// The site has no active check any more.
    pub(super) fn check_removed(&self) {
        let mut health = self.health();
        health.check_removed();
        self.publish(&health);
    }

    /// A request is about to be sent; its answer is awaited until the value is dropped.
    pub(super) fn sending(&self) -> Awaited<'_> {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        self.awaited.fetch_add(1, Ordering::Relaxed);
        Awaited(&self.awaited)
    }

    /// When it last answered, and the estimate of its latency then, which time does not let fall.
    pub(super) fn last_answer(&self) -> Option<(Instant, Duration)> {
        let (micros, at) = match self.latency.load(Ordering::Relaxed) {
            0 => return None,
            packed => unpack(packed),
        };
        Some((self.epoch + Duration::from_millis(at), Duration::from_micros(micros)))
    }

    pub(super) fn summary(&self, weight: u32, backup: bool, now: Instant) -> EndpointSummary {
        let health = self.health().clone();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EndpointSummary {
            url: self.url().to_owned(),
            weight,
            backup,
            standing: health.standing(now),
            in_flight: self.in_flight(),
            connections: self.connections.load(Ordering::Relaxed),
            latency_seconds: self.last_answer().map(|(_, latency)| latency.as_secs_f64()),
            failures_in_a_row: health.failures(),
            ejected_for_seconds: health
                .ejected_until()
                .and_then(|until| until.checked_duration_since(now))
                .map(|left| left.as_secs_f64()),
            requests_total: count(&self.counts.requests),
            connections_total: count(&self.counts.connections),
            connect_failures_total: count(&self.counts.connect_failures),
            failures_total: count(&self.counts.failures),
            ejections_total: count(&self.counts.ejections),
            last_failure: lock(&self.last_failure).clone(),
        }
    }

    /// Adds its figures: atomics alone, for a look at all endpoints of 50,000 sites every second.
    pub(super) fn add_to(&self, sums: &mut EndpointSums) {
        let (in_flight, connections) = (self.in_flight(), self.connections.load(Ordering::Relaxed));
        sums.endpoints += 1;
        let is_up = self.standing.load(Ordering::Relaxed) == 0;
        sums.blemished += u64::from(!is_up || self.blemished.load(Ordering::Relaxed));
        sums.in_flight += u64::from(in_flight);
        sums.awaited += u64::from(self.awaited.load(Ordering::Relaxed));
        sums.idle += u64::from(connections.saturating_sub(in_flight));
        sums.connections_total += self.counts.connections.load(Ordering::Relaxed);
        sums.connect_failures_total += self.counts.connect_failures.load(Ordering::Relaxed);
    }

    /// Taken once an answer came while there was a record.
    fn clear(&self) {
        let mut health = self.health();
        let was_told = health.ejected_until().is_some() || health.failures() >= FAILURES_MAX;
        health.succeeded();
        self.publish(&health);
        drop(health);
        if was_told {
            let (site, endpoint) = (self.site.as_str(), self.url());
            tracing::info!(site, endpoint, "endpoint answers again");
        }
    }

    /// Makes the state that is read without the lock agree with `health`, which is locked.
    fn publish(&self, health: &Health) {
        let standing = match health.ejected_until() {
            _ if health.is_down() => DOWN,
            Some(until) => self.millis(until).max(1),
            None => 0,
        };
        self.standing.store(standing, Ordering::Relaxed);
        self.blemished.store(!health.is_spotless(), Ordering::Relaxed);
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    fn remember(&self, cause: &str) {
        *lock(&self.last_failure) = Some(cause.to_owned());
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// The data behind these locks is valid after any panic: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An hour of microseconds and seven weeks of milliseconds fit in halves; what is longer is cut.
fn pack(micros: u64, millis: u64) -> u64 {
    millis.min(u64::from(u32::MAX)) << 32 | micros.min(u64::from(u32::MAX))
}

fn unpack(packed: u64) -> (u64, u64) {
    (packed & u64::from(u32::MAX), packed >> 32)
}

/// One request at an endpoint; given back when dropped.
#[derive(Debug)]
pub(super) struct Load(Arc<Endpoint>);

impl Load {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Load {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Load(endpoint)
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request whose response head is awaited; counted off when dropped.
pub(super) struct Awaited<'a>(&'a AtomicU32);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open connection to an endpoint; counted off when dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Endpoint>);

impl Counted {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Counted {
        endpoint.connections.fetch_add(1, Ordering::Relaxed);
        endpoint.counts.connections.fetch_add(1, Ordering::Relaxed);
        Counted(endpoint)
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::{Address, Protocol};

    fn endpoint(now: Instant) -> Endpoint {
        let spec = EndpointSpec {
            url: "http://127.0.0.1:1".into(),
            address: Address::Ip(([127, 0, 0, 1], 1).into()),
            protocol: Protocol::Http1,
            tls_name: None,
            ca: None,
            weight: 1,
            backup: false,
        };
        Endpoint::new(&SiteId::parse("shop").unwrap(), spec, now)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn latency_rises_at_most_to_the_double_and_falls_slowly() {
        let now = Instant::now();
        let endpoint = endpoint(now);
        endpoint.answered(10 * MS, now);
        assert_eq!(endpoint.latency(now), 10 * MS);
        endpoint.answered(30_000 * MS, now);
        assert_eq!(endpoint.latency(now), 20 * MS);
        endpoint.answered(12 * MS, now);
        assert_eq!(endpoint.latency(now), 19 * MS);
        for _ in 0..100 {
            endpoint.answered(10 * MS, now);
        }
        assert!(endpoint.latency(now) < 11 * MS);
    }

    #[test]
    fn latency_is_forgotten_with_time() {
        let now = Instant::now();
        let endpoint = endpoint(now);
        endpoint.answered(64 * MS, now);
        assert_eq!(endpoint.latency(now + Duration::from_secs(10)), 16 * MS);
        assert_eq!(endpoint.latency(now + Duration::from_secs(3_600)), Duration::ZERO);
        let shown = endpoint.summary(1, false, now + Duration::from_secs(3_600)).latency_seconds;
        assert_eq!(shown, Some(0.064), "what is shown is what was measured last");
        assert_eq!(endpoint.last_answer().map(|(at, _)| at), Some(now));
    }

    #[test]
    fn the_standing_without_the_lock_is_the_one_behind_it() {
        let now = Instant::now();
        let endpoint = endpoint(now);
        for _ in 0..3 {
            endpoint.failed(Refusal::UpstreamClosed, "test", now, Others::Stand);
        }
        for later in [0, 500, 999, 1_000, 5_000] {
            let at = now + later * MS;
            assert_eq!(endpoint.standing(at), endpoint.health().standing(at), "at {later} ms");
        }
        let blemished = || {
            let mut sums = EndpointSums::default();
            endpoint.add_to(&mut sums);
            sums.blemished
        };
        assert_eq!(blemished(), 1);
        endpoint.answered(MS, now);
        assert_eq!(blemished(), 0);
        endpoint.checked(Err("test".into()), Thresholds { healthy: 1, unhealthy: 1 });
        assert_eq!(blemished(), 1, "out by its check, without a failed request");
        endpoint.checked(Ok(()), Thresholds { healthy: 1, unhealthy: 1 });
        assert_eq!(endpoint.standing(now), Standing::Up);
        assert_eq!(endpoint.summary(1, false, now).ejections_total, 1);
    }

    #[test]
    fn load_is_given_back() {
        let endpoint = Arc::new(endpoint(Instant::now()));
        let loads = (Load::new(endpoint.clone()), Load::new(endpoint.clone()));
        assert_eq!(endpoint.in_flight(), 2);
        drop(loads);
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[test]
    fn an_answer_is_awaited_until_it_comes_or_nobody_waits() {
        let endpoint = endpoint(Instant::now());
        let awaited = || {
            let mut sums = EndpointSums::default();
            endpoint.add_to(&mut sums);
            sums.awaited
        };
        let waits = endpoint.sending();
        assert_eq!((awaited(), endpoint.last_answer()), (1, None));
        drop(waits);
        assert_eq!(awaited(), 0);
    }
}
