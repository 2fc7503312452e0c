//! How many a second: a token bucket on one atomic, for a site's handshakes and requests.
//!
//! GCRA (ITU-T I.371, "virtual scheduling"): the one state is the time at which the bucket would
//! be full again. Taking a token moves it one interval on; it may not lie more than `burst`
//! intervals ahead. In any span of time at most `burst + span x per_second` tokens are given.
//!
//! Own rather than `governor`: that brings its clocks, states and jitter, a keyed store that the
//! caller must tend, and takes the time from the system; what we need of it is this page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Tokens by the second, shared by all threads.
#[derive(Debug)]
pub struct Rate {
    /// Time is counted from here, nanoseconds; 584 years fit.
    epoch: Instant,
    full_at: AtomicU64,
    interval: AtomicU64,
    ahead_max: AtomicU64,
}

/// A bucket's size and how fast it fills; its state is the time at which it will be full again, in
/// nanoseconds from an epoch of the caller's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    interval: u64,
    /// How far that time may lie ahead: `burst` intervals.
    ahead_max: u64,
}

impl Bucket {
    pub(super) fn new(per_second: u32, burst: u32) -> Bucket {
        let interval = 1_000_000_000 / u64::from(per_second.max(1));
        Bucket { interval, ahead_max: interval * u64::from(burst.max(1)) }
    }

    /// The state after a token was taken; else how long until there is one.
    pub(super) fn take(self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let (next, latest) = (full_at.max(now) + self.interval, now + self.ahead_max);
        if next > latest {
            return Err(Duration::from_nanos(next - latest));
        }
        Ok(next)
    }
}

impl Rate {
    /// A full bucket of `burst` tokens (at least 1), refilled at `per_second` (at least 1).
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Rate {
        let rate = Rate {
            epoch: now,
            full_at: AtomicU64::new(0),
            interval: AtomicU64::new(0),
            ahead_max: AtomicU64::new(0),
        };
        rate.reconfigure(per_second, burst);
        rate
    }

    /// Another rate from now on; what was taken stays taken.
    pub fn reconfigure(&self, per_second: u32, burst: u32) {
        let Bucket { interval, ahead_max } = Bucket::new(per_second, burst);
        self.interval.store(interval, Ordering::Relaxed);
        self.ahead_max.store(ahead_max, Ordering::Relaxed);
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        let bucket = Bucket {
            interval: self.interval.load(Ordering::Relaxed),
            ahead_max: self.ahead_max.load(Ordering::Relaxed),
        };
        // Relaxed: the word guards nothing but itself.
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = bucket.take(full_at, now)?;
            match self.full_at.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(seen) => full_at = seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: &Rate, now: Instant) -> usize {
        std::iter::from_fn(|| rate.take(now).ok()).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let rate = Rate::new(10, 5, start);
        assert_eq!(taken(&rate, start), 5);
        assert_eq!(rate.take(start), Err(Duration::from_millis(100)));
        assert_eq!(taken(&rate, start + Duration::from_millis(99)), 0);
        assert_eq!(taken(&rate, start + Duration::from_millis(100)), 1);
        assert_eq!(taken(&rate, start + Duration::from_millis(400)), 3);
        assert_eq!(taken(&rate, start + Duration::from_secs(60)), 5);
    }

    #[test]
    fn a_new_rate_holds_from_now_on() {
        let start = Instant::now();
        let rate = Rate::new(1, 1, start);
        assert_eq!(taken(&rate, start), 1);
        rate.reconfigure(100, 10);
        assert_eq!(taken(&rate, start + Duration::from_secs(2)), 10);
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let start = Instant::now();
        let rate = Rate::new(1, 1_000, start);
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&rate, start))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 1_000);
    }
}
