//! How many requests a site's endpoints should have at one time, found from their latency. Pure:
//! windows of samples and random numbers are passed in.
//!
//! The gradient idea is that of Netflix's concurrency-limits (`Gradient2`) and Envoy's adaptive
//! concurrency: compare the latency now with that of an unhurried endpoint; while it is much
//! higher, requests wait inside the endpoint, and the limit shrinks in proportion; else it grows by
//! some headroom, hardly any while it is at the edge of what it may be. Two things differ, so that
//! a site with naturally varied latency keeps its limit.
//!
//! - **What is compared** is the mean of the latencies' logarithms (octaves), and it counts only
//!   beyond twice its own standard error: a bimodal site is no moving target (a median between two
//!   modes would be), and slow outliers weigh little.
//! - **What it is compared with** is never a minimum of the past, but the same mean while there was
//!   demonstrably room: in windows in which most samples saw less than half the limit in flight,
//!   or, where there are none of these, in a *probe*, which halves the limit for a moment. Waiting
//!   inside the endpoint shows as lower latency at half the limit; where the latency stays, the
//!   requests have become slower by themselves, the new latency is the baseline, and the limit
//!   goes back to where it was before it shrank.
//!
//! Phases: *starting*, in which each window in which the latency stays doubles the limit, and the
//! first in which it does not ends the start; *steady*, until a number of pressed windows has passed
//! or the limit has lost half of what it was after the last probe; *settling*, while requests
//! admitted under the old limit finish (their window is thrown away); *probing*, one window; steady
//! again.
//!
//! A window has at least [`SAMPLES_MIN`] samples ([`SAMPLES_STARTING`] at the start) and twice the
//! limit in force: by Little's law it then spans at least two latencies, and a change of the limit
//! is judged by requests that saw it.

use std::time::Duration;

/// Where a site starts: a pool of ten workers that is flooded at once is found out before it holds
/// more than 32, and an event-driven server has some hundreds after a few windows.
pub const LIMIT_INITIAL: u32 = 16;
/// Where a site goes on whose requests are so slow that somebody has waited for
/// [`STARTING_PATIENCE`] and the start is not over: what it asks for few samples would tell too late.
pub const LIMIT_UNTOLD: u32 = 64;
/// In which a site that answers in less than half of it has told whether it can have more.
pub const STARTING_PATIENCE: Duration = Duration::from_millis(500);
/// Never below: eight requests harm no endpoint, and a smaller number would be noise.
pub const LIMIT_MIN: u32 = 8;
/// Never above: about what one endpoint's connection pools carry.
pub const LIMIT_MAX: u32 = 2_048;
/// With fewer samples the mean of a varied site has no meaning.
pub const SAMPLES_MIN: u32 = 128;
/// The same at the start, where the noise margin of few samples costs one more doubling.
pub const SAMPLES_STARTING: u32 = 32;
/// A window lasts so long at least: a pause of a garbage collector is not a trend.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// The same at the start, which is to be over soon; such a pause ends it early.
const WINDOW_STARTING_MIN: Duration = Duration::from_millis(10);

/// Latency may be 1.15 times the baseline before the limit shrinks: what is past it waits inside the
/// endpoint, where no class has precedence. Less than the 1.25 of Envoy and the 1.5 of Netflix,
/// since what is chance has a margin of its own. log2 of 1.15.
const TOLERANCE_OCTAVES: f64 = 0.2;
/// At the start one verdict is final: three standard errors then.
const STARTING_MARGIN: f64 = 1.5;
/// How much of a window's verdict is followed at least; Netflix's `smoothing`.
const SMOOTHING: f64 = 0.2;
/// Far below the tolerance the limit wants to be half as large again: 10 % a window.
const GROWTH_MAX: f64 = 0.5;
/// What the limit grows by, in a smoothed window, while the latency is just what it may be: else it
/// could not follow a capacity that comes back.
const HEADROOM_MIN: f64 = 0.5;
/// No window takes more than half, however slow it was.
const GRADIENT_MIN: f64 = 0.5;
/// Share of a relaxed window in the baseline: about the last eight windows count.
const BASELINE_SHARE: f64 = 0.25;
/// Past this part of failures a pressed endpoint is overloaded, whatever its latency.
const FAILED_MAX: f64 = 0.1;
/// What such a window takes.
const FAILED_FACTOR: f64 = 0.9;
/// Waiting inside the endpoint would take a whole octave off at half the limit; a third of one
/// (a fifth of the latency) tells it from noise.
const RELIEF_OCTAVES: f64 = 0.32;
/// Pressed windows between two probes: while each finds another baseline, and when it stays.
const PROBE_EVERY: std::ops::RangeInclusive<u32> = 4..=64;

/// Samples of one window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Requests answered.
    pub answered: u32,
    /// Requests that the endpoint refused, broke off or did not answer.
    pub failed: u32,
    /// Of both, how many ended while more than half the limit was in flight.
    pub pressed: u32,
    /// Sum of log2 of the latencies, in any unit.
    pub log_sum: f64,
    /// Sum of the squares of the same.
    pub log_square_sum: f64,
}

/// An adaptive limit.
#[derive(Clone, Debug)]
pub struct Gradient {
    limit: f64,
    /// The limit after the last probe.
    since_probe: f64,
    /// The highest limit since requests last proved to wait inside the endpoint.
    trusted: f64,
    baseline: Option<Level>,
    latest: Option<Level>,
    phase: Phase,
    /// Pressed windows between two probes, and how many are left.
    probe_every: u32,
    probe_in: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Starting,
    Steady,
    Settling { resume: f64 },
    Probing { resume: f64 },
}

/// A mean in octaves, and the square of its standard error.
#[derive(Clone, Copy, Debug)]
struct Level {
    octaves: f64,
    error_square: f64,
}

impl Gradient {
    /// Starts at [`LIMIT_INITIAL`].
    pub fn new() -> Gradient {
        Gradient {
            limit: f64::from(LIMIT_INITIAL),
            since_probe: f64::from(LIMIT_INITIAL),
            trusted: f64::from(LIMIT_INITIAL),
            baseline: None,
            latest: None,
            phase: Phase::Starting,
            probe_every: *PROBE_EVERY.start(),
            probe_in: *PROBE_EVERY.start(),
        }
    }

    /// The limit in force.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// How many samples the next window needs.
    pub fn samples_wanted(&self) -> u32 {
        match self.phase {
            Phase::Settling { resume } => resume as u32,
            Phase::Starting => SAMPLES_STARTING.max(2 * self.limit()),
            Phase::Probing { .. } | Phase::Steady => SAMPLES_MIN.max(2 * self.limit()),
        }
    }

    /// How long it lasts at least.
    pub fn window_min(&self) -> Duration {
        match self.phase {
            Phase::Starting => WINDOW_STARTING_MIN,
            Phase::Probing { .. } | Phase::Settling { .. } | Phase::Steady => WINDOW_MIN,
        }
    }

    /// Somebody has waited for [`STARTING_PATIENCE`]: gives the limit from now on, where that moves
    /// it.
    pub fn widen(&mut self) -> Option<u32> {
        let is_slow = matches!(self.phase, Phase::Starting) && self.limit() < LIMIT_UNTOLD;
        is_slow.then(|| {
            self.limit = f64::from(LIMIT_UNTOLD);
            self.limit()
        })
    }

    /// Judges a window; `random` spreads the probes of many sites and edges.
    pub fn update(&mut self, window: Window, random: u64) {
        match self.phase {
            Phase::Starting | Phase::Steady => self.steady(window),
            Phase::Settling { resume } => self.phase = Phase::Probing { resume },
            Phase::Probing { resume } => self.end_probe(window, resume, random),
        }
        self.limit = self.limit.clamp(f64::from(LIMIT_MIN) / 2.0, f64::from(LIMIT_MAX));
    }

    fn steady(&mut self, window: Window) {
        let Some(level) = Level::of(window) else { return self.punish(window) };
        if !window.is_pressed() {
            self.baseline = Some(match self.baseline {
                Some(baseline) => baseline.moved_towards(level),
                None => level,
            });
            return;
        }
        self.latest = Some(level);
        if window.fails() {
            return self.punish(window);
        }
        let baseline = *self.baseline.get_or_insert(level);
        let margin = match self.phase {
            Phase::Starting => STARTING_MARGIN * noise(level, baseline),
            Phase::Probing { .. } | Phase::Settling { .. } | Phase::Steady => {
                noise(level, baseline)
            }
        };
        let room = TOLERANCE_OCTAVES + margin - (level.octaves - baseline.octaves);
        let gradient = room.min(0.0).exp2().max(GRADIENT_MIN);
        if matches!(self.phase, Phase::Starting) {
            return self.start(gradient);
        }
        let unhurried = (room / TOLERANCE_OCTAVES).clamp(0.0, 1.0);
        let headroom = HEADROOM_MIN + self.limit.sqrt() * unhurried;
        let wanted = self.limit * (gradient + GROWTH_MAX * unhurried) + headroom;
        // An octave past the tolerance is no chance, and is followed at once: smoothed, a flood
        // would stand inside the endpoint for some ten windows.
        let followed = (-room).clamp(SMOOTHING, 1.0);
        self.limit += followed * (wanted - self.limit);
        self.limit = self.limit.clamp(f64::from(LIMIT_MIN), f64::from(LIMIT_MAX));
        self.trusted = self.trusted.max(self.limit);
        self.probe_in = self.probe_in.saturating_sub(1);
        if self.probe_in == 0 || self.limit < self.since_probe / 2.0 {
            self.phase = Phase::Settling { resume: self.limit };
            self.limit /= 2.0;
        }
    }

    /// Doubles the limit, or takes it back in proportion and ends the start.
    fn start(&mut self, gradient: f64) {
        let is_over = gradient < 1.0 || self.limit() >= LIMIT_MAX;
        self.limit *= if is_over { gradient } else { 2.0 };
        self.limit = self.limit.clamp(f64::from(LIMIT_MIN), f64::from(LIMIT_MAX));
        self.trusted = self.limit;
        self.since_probe = self.limit;
        if is_over {
            self.phase = Phase::Steady;
        }
    }

    fn punish(&mut self, window: Window) {
        if window.fails() && window.is_pressed() {
            self.limit = (self.limit * FAILED_FACTOR).max(f64::from(LIMIT_MIN));
            self.trusted = self.limit;
            self.phase = Phase::Steady;
        }
    }

    /// The window shows the latency at half the limit `resume`.
    fn end_probe(&mut self, window: Window, resume: f64, random: u64) {
        self.phase = Phase::Steady;
        self.limit = resume;
        if let (Some(level), Some(before)) = (Level::of(window), self.latest) {
            let relief = before.octaves - level.octaves;
            if relief > RELIEF_OCTAVES + noise(level, before) {
                self.trusted = resume;
            } else {
                self.limit = self.trusted;
            }
            let moved = self.baseline.is_none_or(|baseline| {
                let moved = (level.octaves - baseline.octaves).abs();
                moved > RELIEF_OCTAVES + noise(level, baseline)
            });
            self.probe_every = if moved { 0 } else { 2 * self.probe_every };
            self.probe_every = self.probe_every.clamp(*PROBE_EVERY.start(), *PROBE_EVERY.end());
            self.baseline = Some(level);
        }
        self.since_probe = self.limit;
        // Three quarters to five quarters of the interval.
        let spread = u64::from(self.probe_every / 2 + 1);
        self.probe_in = self.probe_every * 3 / 4 + (random % spread) as u32;
    }
}

impl Default for Gradient {
    fn default() -> Gradient {
        Gradient::new()
    }
}

impl Window {
    fn is_pressed(&self) -> bool {
        2 * self.pressed >= self.answered + self.failed
    }

    fn fails(&self) -> bool {
        f64::from(self.failed) > FAILED_MAX * f64::from(self.answered + self.failed)
    }
}

impl Level {
    fn of(window: Window) -> Option<Level> {
        if window.answered < 2 {
            return None;
        }
        let count = f64::from(window.answered);
        let octaves = window.log_sum / count;
        let variance = (window.log_square_sum / count - octaves * octaves).max(0.0);
        Some(Level { octaves, error_square: variance / (count - 1.0) })
    }

    fn moved_towards(self, level: Level) -> Level {
        let keep = 1.0 - BASELINE_SHARE;
        Level {
            octaves: keep * self.octaves + BASELINE_SHARE * level.octaves,
            error_square: keep * keep * self.error_square
                + BASELINE_SHARE * BASELINE_SHARE * level.error_square,
        }
    }
}

/// What two equal latencies may differ by chance: twice the standard error of the difference.
fn noise(one: Level, other: Level) -> f64 {
    2.0 * (one.error_square + other.error_square).sqrt()
}

#[cfg(test)]
mod tests;
