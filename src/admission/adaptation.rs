//! Collects the samples of a site's requests from all threads and feeds them to
//! [`Gradient`](super::gradient::Gradient), window by window.
//!
//! A sample is three relaxed additions in one cache line. Who completes a window takes the lock if
//! it is free and swaps the sums for zeros. The swaps are not one step: a sample of another thread
//! may fall between them, its count in one window and its latency in the next. One sample of at
//! least 32 moves nothing that the gradient's noise margin would not cover.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::gradient::{Gradient, LIMIT_INITIAL, Window};
use super::lock;

/// Latencies' logarithms are summed as integers of 1/1024 octave.
const SCALE: f64 = 1024.0;
/// Counts share one word: answered below, pressed above.
const PRESSED: u64 = 1 << 32;

/// The sums of the window in progress, and the limit found so far.
#[repr(align(64))]
pub(super) struct Adaptation {
    counts: AtomicU64,
    log_sum: AtomicU64,
    log_square_sum: AtomicU64,
    failed: AtomicU32,
    wanted: AtomicU32,
    pressed_above: AtomicU32,
    state: Mutex<State>,
}

struct State {
    gradient: Gradient,
    started: Instant,
    random: u64,
}

impl Adaptation {
    pub(super) fn new() -> Adaptation {
        // The seed of the standard library's hash maps is the random number at hand.
        let random = RandomState::new().build_hasher().finish() | 1;
        let gradient = Gradient::new();
        Adaptation {
            counts: AtomicU64::new(0),
            log_sum: AtomicU64::new(0),
            log_square_sum: AtomicU64::new(0),
            failed: AtomicU32::new(0),
            wanted: AtomicU32::new(gradient.samples_wanted()),
            pressed_above: AtomicU32::new(LIMIT_INITIAL / 2),
            state: Mutex::new(State { gradient, started: now(), random }),
        }
    }

    /// The limit found so far.
    pub(super) fn limit(&self) -> u32 {
        lock(&self.state).gradient.limit()
    }

    /// Takes a sample, `None` for a failure; gives the limit from now on where a window ended.
    pub(super) fn observe(&self, latency: Option<Duration>, in_flight: u32) -> Option<u32> {
        let failed = match latency {
            Some(latency) => {
                let octaves = (latency.as_nanos().max(1) as f64).log2();
                let log = (octaves * SCALE) as u64;
                self.log_sum.fetch_add(log, Ordering::Relaxed);
                self.log_square_sum.fetch_add(log * log, Ordering::Relaxed);
                self.failed.load(Ordering::Relaxed)
            }
            None => self.failed.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let pressed = in_flight > self.pressed_above.load(Ordering::Relaxed);
        let add = u64::from(latency.is_some()) + PRESSED * u64::from(pressed);
        let answered = self.counts.fetch_add(add, Ordering::Relaxed) + add;
        if (answered as u32).saturating_add(failed) < self.wanted.load(Ordering::Relaxed) {
            return None;
        }
        self.end_window()
    }

    fn end_window(&self) -> Option<u32> {
        let mut state = self.state.try_lock().ok()?;
        let now = now();
        if now - state.started < state.gradient.window_min() {
            return None;
        }
        let counts = self.counts.swap(0, Ordering::Relaxed);
        let window = Window {
            answered: counts as u32,
            pressed: (counts / PRESSED) as u32,
            failed: self.failed.swap(0, Ordering::Relaxed),
            log_sum: self.log_sum.swap(0, Ordering::Relaxed) as f64 / SCALE,
            log_square_sum: self.log_square_sum.swap(0, Ordering::Relaxed) as f64 / (SCALE * SCALE),
        };
        // xorshift64: enough to keep the probes of many sites apart.
        state.random ^= state.random << 13;
        state.random ^= state.random >> 7;
        state.random ^= state.random << 17;
        let random = state.random;
        state.gradient.update(window, random);
        state.started = now;
        Some(self.publish(&state.gradient))
    }

    /// Somebody has waited for [`STARTING_PATIENCE`](super::gradient::STARTING_PATIENCE); gives the
    /// limit from now on where that moves it.
    pub(super) fn widen(&self) -> Option<u32> {
        let mut state = lock(&self.state);
        state.gradient.widen()?;
        Some(self.publish(&state.gradient))
    }

    fn publish(&self, gradient: &Gradient) -> u32 {
        let limit = gradient.limit();
        self.wanted.store(gradient.samples_wanted(), Ordering::Relaxed);
        self.pressed_above.store(limit / 2, Ordering::Relaxed);
        limit
    }
}

/// tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
