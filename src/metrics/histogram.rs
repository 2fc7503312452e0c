//! Times in buckets: recorded with relaxed adds, read as plain numbers.
//!
//! Two sets of bounds. `FINE` (151 bounds, 10 µs to 60 s, 22 a decade) is for the few process-wide
//! times; a percentile read from it is off by a step between two bounds at most: 16 %. `SITE` (17
//! bounds, a subset) is for each site: 50,000 of them must stay small. There a step is up to 2.5, but
//! the slowest is known beside the buckets, and no percentile is told to be longer than that. What
//! Prometheus is shown of a fine one is again a subset.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::shards::Writes;

/// Nanoseconds; a value equal to a bound belongs to that bound's bucket, as in Prometheus.
pub(super) static FINE: [u64; FINE_BOUNDS] = fine_bounds();

const FINE_BOUNDS: usize = 151;

/// The bounds shown of a fine histogram, in nanoseconds: 1, 2.5 and 5 of each decade.
pub(super) static SHOWN: [u64; 21] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// The bounds of a site's histogram, in nanoseconds: the shown ones from 250 µs, less than which no
/// request through two sockets takes under load.
pub(super) static SITE: [u64; 17] = match SHOWN.last_chunk() {
    Some(bounds) => *bounds,
    None => panic!("more are shown than a site has"),
};

/// Buckets of a fine histogram, the one without upper bound included.
pub(super) const FINE_BUCKETS: usize = FINE.len() + 1;
/// Buckets of a site's histogram, the one without upper bound included.
pub(super) const SITE_BUCKETS: usize = SITE.len() + 1;

/// Which site bucket a fine bucket falls into.
static SITE_OF_FINE: [u8; FINE_BUCKETS] = {
    let mut map = [SITE.len() as u8; FINE_BUCKETS];
    let (mut fine, mut site) = (0, 0);
    while fine < FINE.len() {
        while site < SITE.len() && SITE[site] < FINE[fine] {
            site += 1;
        }
        map[fine] = site as u8;
        fine += 1;
    }
    map
};

const fn fine_bounds() -> [u64; FINE_BOUNDS] {
    const STEPS: [u64; 22] = [
        100, 110, 120, 135, 150, 165, 180, 200, 225, 250, 275, 300, 335, 370, 410, 455, 500, 550,
        600, 690, 790, 890,
    ];
    let mut bounds = [0; FINE_BOUNDS];
    let (mut at, mut scale) = (0, 100);
    while at < bounds.len() {
        bounds[at] = STEPS[at % STEPS.len()] * scale;
        at += 1;
        if at % STEPS.len() == 0 {
            scale *= 10;
        }
    }
    bounds
}

/// One time, with its place in both sets of bounds: found once, recorded in several histograms.
#[derive(Clone, Copy)]
pub(super) struct Observed {
    nanoseconds: u64,
    fine: usize,
}

impl Observed {
    pub(super) fn new(elapsed: Duration) -> Observed {
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        Observed { nanoseconds, fine: FINE.partition_point(|bound| *bound < nanoseconds) }
    }
}

/// A histogram with `N` buckets: [`FINE_BUCKETS`] or [`SITE_BUCKETS`].
pub(super) struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    sum: AtomicU64,
    /// The longest since it was last taken.
    longest: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Histogram<N> {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; N],
            sum: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    #[inline]
    pub(super) fn observe(&self, observed: Observed, writes: Writes) {
        let bucket = if N == FINE_BUCKETS {
            observed.fine
        } else {
            usize::from(SITE_OF_FINE[observed.fine])
        };
        writes.add(&self.buckets[bucket], 1);
        writes.add(&self.sum, observed.nanoseconds);
    }

    /// The same among others, and remembers how long the longest took: a look where it was not.
    #[inline]
    pub(super) fn observe_longest(&self, observed: Observed) {
        self.observe(observed, Writes::Shared);
        if observed.nanoseconds > self.longest.load(Relaxed) {
            self.longest.fetch_max(observed.nanoseconds, Relaxed);
        }
    }

    /// The longest since this was last asked.
    pub(super) fn take_longest(&self) -> Duration {
        Duration::from_nanos(self.longest.swap(0, Relaxed))
    }

    /// Adds what stands here to `times`.
    pub(super) fn add_to(&self, times: &mut Times<N>) {
        for (total, bucket) in times.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.load(Relaxed);
        }
        times.sum_nanoseconds += self.sum.load(Relaxed);
    }
}

/// A histogram as plain numbers, summed over its shards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Times<const N: usize> {
    /// Observations by bucket, not cumulated.
    pub(super) buckets: [u64; N],
    /// The sum of all observations.
    pub(super) sum_nanoseconds: u64,
}

/// A process-wide histogram as plain numbers.
pub type FineTimes = Times<FINE_BUCKETS>;

impl FineTimes {
    /// The same observations in a site's buckets.
    pub(super) fn for_sites(&self) -> Times<SITE_BUCKETS> {
        let mut times = Times { buckets: [0; SITE_BUCKETS], sum_nanoseconds: self.sum_nanoseconds };
        for (fine, count) in self.buckets.iter().enumerate() {
            times.buckets[usize::from(SITE_OF_FINE[fine])] += count;
        }
        times
    }
}

impl<const N: usize> Default for Times<N> {
    fn default() -> Times<N> {
        Times { buckets: [0; N], sum_nanoseconds: 0 }
    }
}

impl<const N: usize> Times<N> {
    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What came after `earlier`.
    pub fn since(&self, earlier: &Times<N>) -> Times<N> {
        let mut times = *self;
        for (bucket, before) in times.buckets.iter_mut().zip(&earlier.buckets) {
            *bucket = bucket.saturating_sub(*before);
        }
        times.sum_nanoseconds = times.sum_nanoseconds.saturating_sub(earlier.sum_nanoseconds);
        times
    }

    /// The upper bounds of all buckets but the last.
    pub(super) fn bounds() -> &'static [u64] {
        if N == FINE_BUCKETS { &FINE } else { &SITE }
    }

    /// The same where the longest is known: what cannot be is not told. In the bucket that holds the
    /// longest, times are spread up to it.
    pub(super) fn quantile_within(&self, quantile: f64, longest: Duration) -> Option<Duration> {
        let told = self.quantile(quantile)?;
        // Taken a moment before what it belongs to was counted.
        if longest.is_zero() {
            return Some(told);
        }
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let bounds = Times::<N>::bounds();
        let lower = bounds.iter().rev().find(|bound| **bound < longest).copied().unwrap_or(0);
        let upper = bounds.iter().find(|bound| **bound >= longest).copied().unwrap_or(longest);
        let nanoseconds = u64::try_from(told.as_nanos()).unwrap_or(u64::MAX);
        if nanoseconds <= lower || upper <= lower {
            return Some(told.min(Duration::from_nanos(longest)));
        }
        let inside = (nanoseconds - lower) as f64 / (upper - lower) as f64;
        Some(Duration::from_nanos(lower + ((longest - lower) as f64 * inside.min(1.0)) as u64))
    }

    /// The time below which `quantile` (0 to 1) of the observations lie, interpolated inside its
    /// bucket; `None` without observations. What lies past the last bound is told as that bound.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let bounds = Times::<N>::bounds();
        let rank = quantile * count as f64;
        let (mut below, mut at) = (0_u64, 0);
        while at < bounds.len() && (below + self.buckets[at]) as f64 <= rank.min(count as f64 - 0.5)
        {
            below += self.buckets[at];
            at += 1;
        }
        let Some(upper) = bounds.get(at) else {
            return bounds.last().map(|last| Duration::from_nanos(*last));
        };
        let lower = if at == 0 { 0 } else { bounds[at - 1] };
        let inside = ((rank - below as f64) / self.buckets[at].max(1) as f64).clamp(0.0, 1.0);
        Some(Duration::from_nanos(lower + ((upper - lower) as f64 * inside) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_rise_and_the_subsets_are_subsets() {
        assert!(FINE.is_sorted() && SHOWN.is_sorted() && SITE.is_sorted());
        assert_eq!((FINE[0], FINE[FINE_BOUNDS - 1]), (10_000, 60_000_000_000));
        let step = |pair: &[u64]| pair[1] as f64 / pair[0] as f64;
        let largest = FINE.windows(2).map(step).fold(0.0, f64::max);
        assert!(largest <= 1.16, "a percentile may be off by {largest}");
        assert!(SHOWN.iter().chain(&SITE).all(|bound| FINE.contains(bound)));
    }

    #[test]
    fn a_site_s_bucket_holds_what_its_bounds_say() {
        for nanoseconds in [0, 1, 249_999, 250_000, 250_001, 999_999, 1_000_000, 59_000_000_000] {
            let histogram = Histogram::<SITE_BUCKETS>::default();
            histogram.observe(Observed::new(Duration::from_nanos(nanoseconds)), Writes::Shared);
            let mut times = Times::default();
            histogram.add_to(&mut times);
            let bucket = times.buckets.iter().position(|count| *count == 1).unwrap();
            assert!(nanoseconds <= SITE[bucket], "{nanoseconds} in bucket {bucket}");
            assert!(bucket == 0 || nanoseconds > SITE[bucket - 1], "{nanoseconds} in {bucket}");
        }
    }

    #[track_caller]
    fn check(microseconds: &[u64], quantile: f64, expected: std::ops::Range<u64>) {
        let histogram = Histogram::<FINE_BUCKETS>::default();
        for value in microseconds {
            histogram.observe(Observed::new(Duration::from_micros(*value)), Writes::Shared);
        }
        let mut times = Times::default();
        histogram.add_to(&mut times);
        let found = times.quantile(quantile).unwrap().as_micros() as u64;
        assert!(expected.contains(&found), "{found} not in {expected:?}");
    }

    #[test]
    fn no_quantile_of_a_site_is_longer_than_its_longest() {
        let histogram = Histogram::<SITE_BUCKETS>::default();
        let tell = |milliseconds: &[u64]| {
            let mut before = Times::default();
            histogram.add_to(&mut before);
            for value in milliseconds {
                histogram.observe_longest(Observed::new(Duration::from_millis(*value)));
            }
            let mut now = Times::default();
            histogram.add_to(&mut now);
            let (window, longest) = (now.since(&before), histogram.take_longest());
            [0.5, 0.99].map(|q| window.quantile_within(q, longest).unwrap().as_millis() as u64)
        };
        assert_eq!(tell(&[502; 100]), [501, 501]);
        let [half, most] = tell(&[[10; 95].as_slice(), &[70_000; 5]].concat());
        assert!(half <= 10 && most == 60_000, "{half} {most}");
        let [half, most] = tell(&[[12; 95].as_slice(), &[300; 5]].concat());
        assert!((10..=25).contains(&half) && (250..=300).contains(&most), "{half} {most}");
        assert_eq!(tell(&[3; 10])[1], 2, "the one before is forgotten");
    }

    #[test]
    fn quantiles_lie_in_the_right_bucket() {
        let even: Vec<u64> = (1..=1_000).map(|value| value * 10).collect();
        check(&even, 0.5, 4_500..5_500);
        check(&even, 0.99, 9_500..10_001);
        check(&even, 1.0, 9_999..10_001);
        check(&[100], 0.99, 80..101);
        check(&[100, 100, 100, 5_000_000], 0.5, 80..101);
        check(&[90_000_000], 0.5, 60_000_000..60_000_001);
        assert_eq!(FineTimes::default().quantile(0.5), None);
    }
}
