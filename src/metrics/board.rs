//! Which sites have series of their own, and what the rest sums up to.
//!
//! A [`Board`] lists at most `limit` sites; everything else is `site="(others)"`. A site comes onto
//! the board at once while there is room, and later when a tick finds that it outweighs a listed
//! one by half; so graphs do not flicker. What keeps `(others)` from ever falling: a site that
//! joins leaves its past there (`joined`), and one that departs takes along only what came since
//! (`departed`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::names::SiteId;

use super::histogram::SITE_BUCKETS;
use super::sites::{SiteMetrics, SiteTable, SiteTotals};

/// Sites with own `sluss_requests_total` and `sluss_refused_total`.
pub const SITES_MAX: usize = 200;

/// Sites with own `sluss_request_seconds`: each is 20 series.
pub const SITE_LATENCIES_MAX: usize = 25;

/// Counter series of all listed sites together; beyond it the quietest leave the board. Clients can
/// provoke many different codes, so a bound of sites alone would be none of series.
pub(super) const SITE_COUNTERS_MAX: usize = 700;

/// A newcomer must outweigh a listed site this many times.
const STICKINESS: f64 = 1.5;

/// The two boards: counters for many sites, histograms for few.
pub(super) struct Boards {
    pub(super) counters: Board,
    pub(super) latencies: Board,
}

pub(super) struct Board {
    limit: usize,
    listed: BTreeMap<SiteId, Listed>,
    departed: SiteTotals,
    /// The last `(others)` shown. A reading may race with threads that count; it must not fall.
    shown: SiteTotals,
    /// Whether `(others)` ever held a site.
    overflowed: bool,
}

struct Listed {
    site: Arc<SiteMetrics>,
    joined: SiteTotals,
}

impl Boards {
    pub(super) fn new() -> Boards {
        Boards { counters: Board::new(SITES_MAX), latencies: Board::new(SITE_LATENCIES_MAX) }
    }

    pub(super) fn choose(&mut self, table: &SiteTable) {
        self.counters.choose(table);
        self.latencies.choose(table);
    }

    /// Lets sites on that were first counted since the last look, while there is room.
    pub(super) fn fill(&mut self, table: &SiteTable, fresh: &[SiteId]) {
        self.counters.fill(table, fresh);
        self.latencies.fill(table, fresh);
    }

    pub(super) fn forget_missing(&mut self, table: &SiteTable) {
        self.counters.forget_missing(table);
        self.latencies.forget_missing(table);
    }
}

impl Board {
    fn new(limit: usize) -> Board {
        Board {
            limit,
            listed: BTreeMap::new(),
            departed: SiteTotals::default(),
            shown: SiteTotals::default(),
            overflowed: false,
        }
    }

    /// The heaviest sites come onto the board, the lightest leave it.
    fn choose(&mut self, table: &SiteTable) {
        let weight = |site: &SiteMetrics| {
            let stickiness = if self.listed.contains_key(site.id()) { STICKINESS } else { 1.0 };
            site.score() * stickiness
        };
        let mut ranked: Vec<(f64, &Arc<SiteMetrics>)> =
            table.touched().map(|site| (weight(site), site)).collect();
        if ranked.len() > self.limit {
            self.overflowed = true;
            ranked.select_nth_unstable_by(self.limit, |a, b| b.0.total_cmp(&a.0));
            for (_, site) in ranked.drain(self.limit..) {
                self.depart(site.id());
            }
        }
        for (_, site) in ranked {
            self.join(site);
        }
    }

    /// Lets sites on that were first counted since the last look, while there is room.
    fn fill(&mut self, table: &SiteTable, fresh: &[SiteId]) {
        for site in fresh.iter().filter_map(|id| table.find(id)) {
            if self.listed.contains_key(site.id()) {
                continue;
            }
            if self.listed.len() == self.limit {
                self.overflowed = true;
                return;
            }
            self.join(site);
        }
    }

    fn forget_missing(&mut self, table: &SiteTable) {
        let missing = |id: &&SiteId| table.find(id).is_none();
        let gone: Vec<SiteId> = self.listed.keys().filter(missing).cloned().collect();
        for id in gone {
            self.depart(&id);
        }
    }

    fn join(&mut self, site: &Arc<SiteMetrics>) {
        if self.listed.contains_key(site.id()) {
            return;
        }
        let joined = if self.overflowed { site.totals() } else { SiteTotals::default() };
        self.listed.insert(site.id().clone(), Listed { site: site.clone(), joined });
    }

    fn depart(&mut self, id: &SiteId) {
        if let Some(listed) = self.listed.remove(id) {
            let totals = listed.site.totals();
            self.departed.add(&totals.minus(&listed.joined));
        }
    }

    /// The listed sites' numbers by name, and the rest of what `all` returns. `all` is read after
    /// the sites are, so that it holds at least their sum.
    pub(super) fn read(
        &mut self,
        all: impl FnOnce() -> SiteTotals,
    ) -> (Vec<(SiteId, SiteTotals)>, SiteTotals) {
        let mut known = self.departed.clone();
        let mut sites = Vec::with_capacity(self.listed.len());
        for (id, listed) in &self.listed {
            let totals = listed.site.totals();
            known.add(&totals.clone().minus(&listed.joined));
            sites.push((id.clone(), totals));
        }
        let others = all().minus(&known);
        self.shown.rise_to(&others);
        (sites, self.shown.clone())
    }

    /// Sends the quietest sites off the board until their counters are at most `series_max`.
    pub(super) fn trim(&mut self, series_max: usize) {
        let mut listed: Vec<(f64, SiteId, usize)> = self
            .listed
            .values()
            .map(|l| (l.site.score(), l.site.id().clone(), l.site.totals().counters()))
            .collect();
        let mut series: usize = listed.iter().map(|(_, _, counters)| counters).sum();
        listed.sort_by(|a, b| b.0.total_cmp(&a.0));
        while series > series_max
            && let Some((_, id, counters)) = listed.pop()
        {
            self.overflowed = true;
            self.depart(&id);
            series -= counters;
        }
    }
}

impl SiteTotals {
    /// How many counter series it makes.
    fn counters(&self) -> usize {
        self.requests.iter().chain(&self.refused).filter(|count| **count > 0).count()
    }

    fn zip(&mut self, other: &SiteTotals, with: impl Fn(u64, u64) -> u64) {
        for (mine, theirs) in self.requests.iter_mut().zip(&other.requests) {
            *mine = with(*mine, *theirs);
        }
        for (mine, theirs) in self.refused.iter_mut().zip(&other.refused) {
            *mine = with(*mine, *theirs);
        }
        for bucket in 0..SITE_BUCKETS {
            let mine = &mut self.seconds.buckets[bucket];
            *mine = with(*mine, other.seconds.buckets[bucket]);
        }
        self.seconds.sum_nanoseconds =
            with(self.seconds.sum_nanoseconds, other.seconds.sum_nanoseconds);
    }

    fn add(&mut self, other: &SiteTotals) {
        self.zip(other, u64::wrapping_add);
    }

    pub(super) fn minus(mut self, other: &SiteTotals) -> SiteTotals {
        self.zip(other, u64::saturating_sub);
        self
    }

    fn rise_to(&mut self, other: &SiteTotals) {
        self.zip(other, u64::max);
    }
}
