//! What the edge counts, and how it is shown to Prometheus.
//!
//! Recording is for the way of a request: a few plain adds on the current thread's own shard, no
//! lock, no hash, no allocation. Reading sums the shards; it happens at a scrape and once a second.
//! Values that other rooms own (queue depths, the kernel's accept queue, certificates, pools) come
//! in as plain data when the text is made: see [`ScrapeInput`].
//!
//! Always: the number of series is bounded whatever clients do and however many sites there are
//! ([`SERIES_MAX`]); counters never fall while the process lives; a sum that is read while threads
//! count may lack their last steps, never invent any.

mod board;
mod histogram;
mod labels;
mod process;
mod scrape;
mod sites;
mod text;
mod totals;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::names::SiteId;
use crate::refusal::Refusal;
use crate::shards::{self, Writes};

pub use crate::shards::register_thread;
pub use board::{SITE_LATENCIES_MAX, SITES_MAX};
pub use histogram::{FineTimes, Times};
pub use labels::{
    CODES, ConnectionState, HandshakeResult, HandshakeVersion, QueueName, ReloadResult, Resumption,
    UpstreamResult, code_slot,
};
pub use process::{ProcessReader, ProcessSample, memory_bound};
pub use scrape::{
    AccessLogCounts, FindingCount, ListenerGauge, QueueGauge, SERIES_MAX, ScrapeInput,
    UpstreamGauges,
};
pub use sites::{SiteMetrics, SiteSummary};
pub use totals::Totals;

use board::Boards;
use histogram::{FINE_BUCKETS, Histogram, Observed};
use sites::SiteTable;

const REFUSALS: usize = Refusal::ALL.len();
const STATES: usize = ConnectionState::ALL.len();
const HANDSHAKES: usize =
    HandshakeResult::ALL.len() * HandshakeVersion::ALL.len() * Resumption::ALL.len();
const QUEUES: usize = QueueName::ALL.len();
const UPSTREAM_RESULTS: usize = UpstreamResult::ALL.len();
const RELOADS: usize = ReloadResult::ALL.len();

/// All series of the process. Made once; outlives every reload.
pub struct Metrics {
    common: Arc<Common>,
    sites: Mutex<SiteTable>,
    boards: Mutex<Boards>,
    reloads: [AtomicU64; RELOADS],
}

/// The process-wide series, by thread.
struct Common {
    shards: Box<[Shard]>,
    /// Sites that were counted for the first time since a board looked: so that a scrape need not
    /// walk 50,000 of them. Each site stands here at most once a shard.
    fresh: Mutex<Vec<SiteId>>,
}

/// What one thread counts. The alignment keeps two threads' shards off one cache line, and off the
/// pair of lines that x86 prefetches together.
#[repr(align(128))]
struct Shard {
    accepted: AtomicU64,
    ended_idle: AtomicU64,
    /// Connections that came into and left a state on this thread; only the sum means anything,
    /// and it is taken modulo 2^64.
    connections: [AtomicU64; STATES],
    handshakes: [AtomicU64; HANDSHAKES],
    handshake_seconds: Histogram<FINE_BUCKETS>,
    queue_refused: [[AtomicU64; REFUSALS]; QUEUES],
    queue_wait: [Histogram<FINE_BUCKETS>; QUEUES],
    refused: [AtomicU64; REFUSALS],
    refused_nameless: [AtomicU64; REFUSALS],
    requests: [AtomicU64; CODES.len()],
    requests_nameless: [AtomicU64; CODES.len()],
    request_seconds: Histogram<FINE_BUCKETS>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    upstream: [AtomicU64; UPSTREAM_RESULTS],
    upstream_seconds: Histogram<FINE_BUCKETS>,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard {
            accepted: AtomicU64::new(0),
            ended_idle: AtomicU64::new(0),
            connections: [const { AtomicU64::new(0) }; STATES],
            handshakes: [const { AtomicU64::new(0) }; HANDSHAKES],
            handshake_seconds: Histogram::default(),
            queue_refused: [const { [const { AtomicU64::new(0) }; REFUSALS] }; QUEUES],
            queue_wait: [Histogram::default(), Histogram::default()],
            refused: [const { AtomicU64::new(0) }; REFUSALS],
            refused_nameless: [const { AtomicU64::new(0) }; REFUSALS],
            requests: [const { AtomicU64::new(0) }; CODES.len()],
            requests_nameless: [const { AtomicU64::new(0) }; CODES.len()],
            request_seconds: Histogram::default(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            upstream: [const { AtomicU64::new(0) }; UPSTREAM_RESULTS],
            upstream_seconds: Histogram::default(),
        }
    }
}

impl Common {
    /// The current thread's, and how it writes there: every number has a shard.
    #[inline]
    fn shard(&self) -> (&Shard, Writes) {
        let count = self.shards.len();
        (&self.shards[shards::current(count)], Writes::of_current(count))
    }
}

/// One ended handshake.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeOutcome {
    /// How it ended.
    pub result: HandshakeResult,
    /// The version, where one was agreed upon.
    pub version: HandshakeVersion,
    /// Whether it continued a session.
    pub resumption: Resumption,
}

impl Metrics {
    /// For `serving` serving threads and as many handshake threads beside them. The threads call
    /// [`register_thread`]: serving threads from 0, handshake threads from `serving`.
    pub fn new(serving: usize) -> Arc<Metrics> {
        // One more for the threads without a number.
        let shards = (0..=2 * serving.max(1)).map(|_| Shard::default()).collect();
        Arc::new(Metrics {
            common: Arc::new(Common { shards, fresh: Mutex::default() }),
            sites: Mutex::new(SiteTable::new(serving)),
            boards: Mutex::new(Boards::new()),
            reloads: [const { AtomicU64::new(0) }; RELOADS],
        })
    }

    /// Counts a new client connection; the value is in `state` until told otherwise or dropped.
    pub fn connection(&self, state: ConnectionState) -> ConnectionGauge {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.accepted, 1);
        writes.add(&shard.connections[state as usize], 1);
        ConnectionGauge { common: self.common.clone(), state }
    }

    /// Counts idle connections that are ended to make room for new ones.
    pub fn ended_idle(&self, count: u64) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.ended_idle, count);
    }

    /// Counts a handshake; `elapsed` is from its first crypto to its end, and is kept for
    /// successful ones alone.
    pub fn handshake(&self, outcome: HandshakeOutcome, elapsed: Duration) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.handshakes[handshake_slot(outcome)], 1);
        if outcome.result == HandshakeResult::Ok {
            shard.handshake_seconds.observe(Observed::new(elapsed), writes);
        }
    }

    /// Counts an entry that a queue let in, after it waited so long; also one that did not wait.
    #[inline]
    pub fn queue_wait(&self, queue: QueueName, waited: Duration) {
        let (shard, writes) = self.common.shard();
        shard.queue_wait[queue as usize].observe(Observed::new(waited), writes);
    }

    /// Counts an entry that a queue refused or discarded. The refusal itself is counted beside,
    /// by [`SiteMetrics::refused`] or [`Metrics::turned_away`].
    pub fn refused(&self, queue: QueueName, refusal: Refusal) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.queue_refused[queue as usize][refusal as usize], 1);
    }

    /// Counts a refusal for which no site is known.
    pub fn turned_away(&self, refusal: Refusal) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.refused[refusal as usize], 1);
        writes.add(&shard.refused_nameless[refusal as usize], 1);
    }

    /// Counts a refusal, at its site where one is known.
    pub fn refused_at(&self, site: Option<&SiteMetrics>, refusal: Refusal) {
        match site {
            Some(site) => site.refused(refusal),
            None => self.turned_away(refusal),
        }
    }

    /// Counts an answer that the edge gave itself without knowing a site (404, redirect, 400).
    pub fn request_without_site(&self, status: u16, elapsed: Duration) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.requests[code_slot(status)], 1);
        writes.add(&shard.requests_nameless[code_slot(status)], 1);
        shard.request_seconds.observe(Observed::new(elapsed), writes);
    }

    /// Counts a reload.
    pub fn reload(&self, result: ReloadResult) {
        self.reloads[result as usize].fetch_add(1, Relaxed);
    }

    /// The series of these sites, in their order: those that stay keep their counters, new ones
    /// begin at zero, others are forgotten. Called at every snapshot.
    pub fn sites_reconcile(&self, sites: &[SiteId]) -> Vec<Arc<SiteMetrics>> {
        let mut table = lock(&self.sites);
        let kept = table.reconcile(&self.common, sites);
        lock(&self.boards).forget_missing(&table);
        kept
    }

    /// Everything process-wide, summed over the threads.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.common.shards {
            totals.add(shard);
        }
        for (total, count) in totals.reloads.iter_mut().zip(&self.reloads) {
            *total = count.load(Relaxed);
        }
        totals
    }

    /// Brings rates, percentiles and the choice of shown sites up to date; `elapsed` is the time
    /// since the last call. Meant for every ten seconds on the control thread: it reads all sites.
    /// `notable` names sites that deserve to be seen although little happens there (waiting
    /// requests, findings, endpoints down).
    pub fn sites_tick(&self, elapsed: Duration, notable: &[SiteId]) {
        let table = lock(&self.sites);
        table.tick(elapsed, notable);
        lock(&self.boards).choose(&table);
        // Without scrapes nobody takes them: each name of a site that is still there stays once.
        let mut fresh = lock(&self.common.fresh);
        fresh.retain(|id| table.find(id).is_some());
        fresh.sort_unstable();
        fresh.dedup();
    }

    /// All sites with their last rates and percentiles, by name.
    pub fn sites(&self) -> Vec<SiteSummary> {
        lock(&self.sites).all().map(SiteMetrics::summary).collect()
    }

    /// How often these were the reason at each site, where they ever were. Reads all sites.
    pub fn refused_by_site(&self, reasons: &[Refusal]) -> Vec<(String, u64)> {
        let table = lock(&self.sites);
        let refused = table.all().map(|site| (site, site.refused_for(reasons)));
        refused
            .filter(|(_, count)| *count > 0)
            .map(|(site, count)| (site.id().to_string(), count))
            .collect()
    }

    /// Prometheus' text, with what the other rooms brought.
    pub fn render(&self, input: &ScrapeInput) -> String {
        let table = lock(&self.sites);
        let mut boards = lock(&self.boards);
        scrape::render(self, (&table, &mut boards), input)
    }
}

/// Minus one, modulo 2^64.
const LESS: u64 = u64::MAX;

/// Where one connection stands, in `sluss_connections`; dropping it takes the connection out.
pub struct ConnectionGauge {
    common: Arc<Common>,
    state: ConnectionState,
}

impl ConnectionGauge {
    /// Moves the connection on.
    #[inline]
    pub fn set(&mut self, state: ConnectionState) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.connections[self.state as usize], LESS);
        writes.add(&shard.connections[state as usize], 1);
        self.state = state;
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.connections[self.state as usize], LESS);
    }
}

fn handshake_slot(outcome: HandshakeOutcome) -> usize {
    let versions = HandshakeVersion::ALL.len();
    let resumptions = Resumption::ALL.len();
    (outcome.result as usize * versions + outcome.version as usize) * resumptions
        + outcome.resumption as usize
}

/// Numbers behind a lock stay usable whatever a thread that held it met.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
