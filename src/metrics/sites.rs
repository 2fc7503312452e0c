//! Each site's own series, small enough for 50,000 sites.
//!
//! A site that nobody visits costs its name and a row of empty slots. The first request on a thread
//! makes that thread's counters (600 bytes), the first refusal those of the refusals. At most
//! [`SITE_SHARDS_MAX`] threads have counters of their own; beyond that, threads share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::SiteId;
use crate::refusal::Refusal;
use crate::shards;

use super::histogram::{Histogram, Observed, SITE_BUCKETS, Times};
use super::labels::{CODES, UpstreamResult, code_slot, is_server_error};
use super::{Common, REFUSALS, lock};

/// With eight shards, sixty-four threads on one hot site meet eight at a line: 0.1 µs a request.
const SITE_SHARDS_MAX: usize = 8;

/// How much of the last score a site keeps at each tick: a burst is seen for about a minute.
const SCORE_KEPT: f64 = 0.8;

/// The series of one site. Kept across reloads by name.
pub struct SiteMetrics {
    id: SiteId,
    common: Arc<Common>,
    shards: Box<[OnceLock<Box<SiteShard>>]>,
    refused: OnceLock<Box<[AtomicU64; REFUSALS]>>,
    /// What the last tick found; written by the control thread alone.
    last: Mutex<Option<Box<LastTick>>>,
    score: AtomicU64,
    rate_millis: AtomicU64,
    p50_micros: AtomicU32,
    p99_micros: AtomicU32,
}

struct SiteShard {
    requests: [AtomicU64; CODES.len()],
    seconds: Histogram<SITE_BUCKETS>,
}

#[derive(Default)]
struct LastTick {
    seconds: Times<SITE_BUCKETS>,
    weight: u64,
}

impl Default for SiteShard {
    fn default() -> SiteShard {
        SiteShard {
            requests: [const { AtomicU64::new(0) }; CODES.len()],
            seconds: Histogram::default(),
        }
    }
}

impl SiteMetrics {
    fn new(common: &Arc<Common>, id: SiteId, shards: usize) -> SiteMetrics {
        SiteMetrics {
            id,
            common: common.clone(),
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            refused: OnceLock::new(),
            last: Mutex::new(None),
            score: AtomicU64::new(0),
            rate_millis: AtomicU64::new(0),
            p50_micros: AtomicU32::new(0),
            p99_micros: AtomicU32::new(0),
        }
    }

    /// The site's name.
    pub fn id(&self) -> &SiteId {
        &self.id
    }

    /// Counts an answered request; `elapsed` is from its first byte to the response's last.
    #[inline]
    pub fn request(&self, status: u16, elapsed: Duration) {
        let (slot, observed) = (code_slot(status), Observed::new(elapsed));
        // The process first: who reads in the other order never finds more in a site than in all.
        let (shard, writes) = self.common.shard();
        writes.add(&shard.requests[slot], 1);
        shard.request_seconds.observe(observed, writes);
        let own =
            self.shards[shards::current(self.shards.len())].get_or_init(|| self.first_counted());
        own.requests[slot].fetch_add(1, Relaxed);
        own.seconds.observe_longest(observed);
    }

    #[cold]
    fn first_counted(&self) -> Box<SiteShard> {
        self.announce();
        Box::default()
    }

    /// Tells the boards of a site that they may not know.
    fn announce(&self) {
        lock(&self.common.fresh).push(self.id.clone());
    }

    /// Counts the bytes of a request's and a response's body.
    #[inline]
    pub fn bytes(&self, received: u64, sent: u64) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.received_bytes, received);
        writes.add(&shard.sent_bytes, sent);
    }

    /// Counts a refusal of a connection or a request to the site.
    pub fn refused(&self, refusal: Refusal) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.refused[refusal as usize], 1);
        let own = self.refused.get_or_init(|| {
            self.announce();
            Box::new([const { AtomicU64::new(0) }; REFUSALS])
        });
        own[refusal as usize].fetch_add(1, Relaxed);
    }

    /// Counts an attempt at one of the site's endpoints; `elapsed` is from the request sent to the
    /// response head, and is kept for answered ones alone.
    #[inline]
    pub fn upstream(&self, result: UpstreamResult, elapsed: Duration) {
        let (shard, writes) = self.common.shard();
        writes.add(&shard.upstream[result as usize], 1);
        if result == UpstreamResult::Answered {
            shard.upstream_seconds.observe(Observed::new(elapsed), writes);
        }
    }

    /// The site's numbers and what the last tick made of them.
    pub fn summary(&self) -> SiteSummary {
        let totals = self.totals();
        SiteSummary {
            site: self.id.as_str().to_owned(),
            requests: totals.requests.iter().sum(),
            server_errors: totals.server_errors(),
            refused: totals.refused.iter().sum(),
            requests_per_second: self.rate_millis.load(Relaxed) as f64 / 1_000.0,
            p50_ms: shown(&self.p50_micros),
            p99_ms: shown(&self.p99_micros),
        }
    }

    /// How often these were the reason.
    pub(super) fn refused_for(&self, reasons: &[Refusal]) -> u64 {
        let Some(refused) = self.refused.get() else { return 0 };
        reasons.iter().map(|reason| refused[*reason as usize].load(Relaxed)).sum()
    }

    /// Whether anything was ever counted.
    pub(super) fn is_touched(&self) -> bool {
        self.refused.get().is_some() || self.shards.iter().any(|shard| shard.get().is_some())
    }

    /// How much there was to see lately.
    pub(super) fn score(&self) -> f64 {
        f64::from_bits(self.score.load(Relaxed))
    }

    /// Everything, summed over the shards.
    pub(super) fn totals(&self) -> SiteTotals {
        let mut totals = SiteTotals::default();
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            for (total, counter) in totals.requests.iter_mut().zip(&shard.requests) {
                *total += counter.load(Relaxed);
            }
            shard.seconds.add_to(&mut totals.seconds);
        }
        if let Some(refused) = self.refused.get() {
            for (total, counter) in totals.refused.iter_mut().zip(refused.iter()) {
                *total = counter.load(Relaxed);
            }
        }
        totals
    }

    fn tick(&self, elapsed: Duration, notable: Notable) {
        if !self.is_touched() && notable == Notable::No {
            return;
        }
        let totals = self.totals();
        // A failure or a refusal says as much as ten good requests.
        let weight = totals.requests.iter().sum::<u64>()
            + 10 * (totals.server_errors() + totals.refused.iter().sum::<u64>());
        let mut last = lock(&self.last);
        let last = last.get_or_insert_default();
        let window = totals.seconds.since(&last.seconds);
        let news = weight.saturating_sub(last.weight) as f64;
        let bonus = if notable == Notable::Yes { 1_000.0 } else { 0.0 };
        let score = self.score() * SCORE_KEPT + news + bonus;
        self.score.store(score.to_bits(), Relaxed);
        let rate = window.count() as f64 / elapsed.as_secs_f64().max(0.001);
        self.rate_millis.store((rate * 1_000.0) as u64, Relaxed);
        let shards = self.shards.iter().filter_map(OnceLock::get);
        let longest = shards.map(|shard| shard.seconds.take_longest()).max().unwrap_or_default();
        let micros = |quantile| {
            let time = window.quantile_within(quantile, longest).unwrap_or_default();
            u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
        };
        self.p50_micros.store(micros(0.5), Relaxed);
        self.p99_micros.store(micros(0.99), Relaxed);
        **last = LastTick { seconds: totals.seconds, weight };
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Notable {
    Yes,
    No,
}

/// One site as the dashboard's table shows it; rates and percentiles are those of the last tick.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SiteSummary {
    /// Its name.
    pub site: String,
    /// Requests since the start.
    pub requests: u64,
    /// Of these, answered with 5xx.
    pub server_errors: u64,
    /// Connections and requests refused since the start.
    pub refused: u64,
    /// Of the last ten seconds.
    pub requests_per_second: f64,
    /// Of the last ten seconds; absent without requests.
    pub p50_ms: Option<f64>,
    /// Of the last ten seconds; absent without requests.
    pub p99_ms: Option<f64>,
}

/// Milliseconds of a percentile that the last tick found; 0 stands for none.
fn shown(micros: &AtomicU32) -> Option<f64> {
    Some(micros.load(Relaxed))
        .filter(|micros| *micros > 0)
        .map(|micros| f64::from(micros) / 1_000.0)
}

/// One site's series as plain numbers.
#[derive(Clone, Debug)]
pub(super) struct SiteTotals {
    pub(super) requests: [u64; CODES.len()],
    pub(super) seconds: Times<SITE_BUCKETS>,
    pub(super) refused: [u64; REFUSALS],
}

impl Default for SiteTotals {
    fn default() -> SiteTotals {
        SiteTotals { requests: [0; CODES.len()], seconds: Times::default(), refused: [0; REFUSALS] }
    }
}

impl SiteTotals {
    fn server_errors(&self) -> u64 {
        let failed = self.requests.iter().enumerate().filter(|(slot, _)| is_server_error(*slot));
        failed.map(|(_, count)| count).sum()
    }
}

/// All sites of the current snapshot.
pub(super) struct SiteTable {
    shards: usize,
    sites: HashMap<SiteId, Arc<SiteMetrics>>,
}

impl SiteTable {
    pub(super) fn new(serving: usize) -> SiteTable {
        SiteTable { shards: serving.clamp(1, SITE_SHARDS_MAX), sites: HashMap::new() }
    }

    pub(super) fn reconcile(
        &mut self,
        common: &Arc<Common>,
        sites: &[SiteId],
    ) -> Vec<Arc<SiteMetrics>> {
        let mut old = std::mem::take(&mut self.sites);
        self.sites.reserve(sites.len());
        let mut all = Vec::with_capacity(sites.len());
        for id in sites {
            let site = old
                .remove(id)
                .or_else(|| self.sites.get(id).cloned())
                .unwrap_or_else(|| Arc::new(SiteMetrics::new(common, id.clone(), self.shards)));
            self.sites.insert(id.clone(), site.clone());
            all.push(site);
        }
        all
    }

    pub(super) fn find(&self, id: &SiteId) -> Option<&Arc<SiteMetrics>> {
        self.sites.get(id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &SiteMetrics> {
        self.sites.values().map(Arc::as_ref)
    }

    pub(super) fn touched(&self) -> impl Iterator<Item = &Arc<SiteMetrics>> {
        self.sites.values().filter(|site| site.is_touched())
    }

    pub(super) fn tick(&self, elapsed: Duration, notable: &[SiteId]) {
        let notable: std::collections::HashSet<&SiteId> = notable.iter().collect();
        for (id, site) in &self.sites {
            let notable = if notable.contains(id) { Notable::Yes } else { Notable::No };
            site.tick(elapsed, notable);
        }
    }
}
