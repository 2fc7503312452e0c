//! When each piece of work is due, fixed before the run. Pure: time is a number, chance a seed.
//!
//! A [`Shape`] is a rate over time; its integral is the number of arrivals expected until then.
//! [`Spacing`] walks along that number in equal steps or in exponential ones (a Poisson process),
//! and each position is turned back into a time by inverting the integral. So every shape comes
//! even or random from the same few lines, and the expected count is exact for all of them.
//!
//! The server's answers never move an arrival: that is what makes the loop open. Latency counts
//! from the time given here, whenever the generator or the server got round to it.

use std::fmt;
use std::time::Duration;

/// A rate over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// The same rate all the time.
    Flat {
        /// Arrivals a second.
        rate: f64,
    },
    /// Linear from one rate to another over the whole duration.
    Ramp {
        /// Arrivals a second at the start.
        from: f64,
        /// Arrivals a second at the end.
        to: f64,
    },
    /// `steps` equally long plateaus, the first at `from`, the last at `to`.
    Step {
        /// Arrivals a second on the first plateau.
        from: f64,
        /// Arrivals a second on the last.
        to: f64,
        /// How many plateaus.
        steps: u32,
    },
    /// A flat rate, and `size` arrivals at one instant every `every`, the first after `every`.
    Burst {
        /// Arrivals a second between the bursts.
        rate: f64,
        /// Arrivals in one burst.
        size: u32,
        /// From burst to burst.
        every: Duration,
    },
}

/// How arrivals lie along the expected count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spacing {
    /// Equal steps.
    Even,
    /// Exponential steps: independent visitors.
    Poisson,
}

/// A shape with its spacing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrivals {
    /// The rate over time.
    pub shape: Shape,
    /// Even or random.
    pub spacing: Spacing,
}

impl Arrivals {
    /// Reads `constant`, `poisson`, `ramp:FROM:TO`, `step:FROM:TO:STEPS` or `burst:SIZE:EVERY`.
    /// `rate` is the flat rate of those that name none. All but `constant` are random.
    ///
    /// # Errors
    /// [`InvalidArrivals`] says which part is wrong, or that a rate is missing.
    pub fn parse(text: &str, rate: Option<f64>) -> Result<Arrivals, InvalidArrivals> {
        let needed = || rate.ok_or(InvalidArrivals::RateMissing);
        let parts: Vec<&str> = text.split(':').collect();
        let (shape, spacing) = match parts.as_slice() {
            ["constant"] => (Shape::Flat { rate: needed()? }, Spacing::Even),
            ["poisson"] => (Shape::Flat { rate: needed()? }, Spacing::Poisson),
            ["ramp", from, to] => {
                (Shape::Ramp { from: number(from)?, to: number(to)? }, Spacing::Poisson)
            }
            ["step", from, to, steps] => {
                let steps = steps.parse().map_err(|_| InvalidArrivals::Number)?;
                if steps == 0 {
                    return Err(InvalidArrivals::Number);
                }
                (Shape::Step { from: number(from)?, to: number(to)?, steps }, Spacing::Poisson)
            }
            ["burst", size, every] => {
                let size = size.parse().map_err(|_| InvalidArrivals::Number)?;
                let every =
                    humantime::parse_duration(every).map_err(|_| InvalidArrivals::Duration)?;
                if every.is_zero() {
                    return Err(InvalidArrivals::Duration);
                }
                (Shape::Burst { rate: rate.unwrap_or(0.0), size, every }, Spacing::Poisson)
            }
            _ => return Err(InvalidArrivals::Name),
        };
        Ok(Arrivals { shape, spacing })
    }

    /// The due times within `duration`, in order, from 0.
    pub fn schedule(&self, duration: Duration, seed: u64) -> Schedule {
        Schedule {
            arrivals: *self,
            seconds: duration.as_secs_f64(),
            position: 0.0,
            waiting: None,
            bursts_done: 0,
            burst_left: 0,
            random: Random::new(seed),
        }
    }

    /// How many arrivals to expect within `duration`.
    pub fn expected(&self, duration: Duration) -> f64 {
        let seconds = duration.as_secs_f64();
        match self.shape {
            Shape::Flat { rate } => rate * seconds,
            Shape::Ramp { from, to } | Shape::Step { from, to, .. } => (from + to) / 2.0 * seconds,
            Shape::Burst { rate, size, every } => {
                rate * seconds + f64::from(size) * (seconds / every.as_secs_f64()).floor()
            }
        }
    }

    /// The time at which the integral of the rate reaches `position`; `None` past the end.
    fn time_of(&self, position: f64, seconds: f64) -> Option<f64> {
        let time = match self.shape {
            Shape::Flat { rate } | Shape::Burst { rate, .. } => position / rate,
            Shape::Ramp { from, to } => {
                // The root of from·t + (to - from)/(2·seconds)·t² = position, in the form that
                // stays exact where both rates are equal.
                let slope = (to - from) / seconds;
                2.0 * position / (from + (from * from + 2.0 * slope * position).max(0.0).sqrt())
            }
            Shape::Step { from, to, steps } => {
                return step_time(position, from, to, steps, seconds);
            }
        };
        (time < seconds).then_some(time)
    }
}

fn step_time(position: f64, from: f64, to: f64, steps: u32, seconds: f64) -> Option<f64> {
    let length = seconds / f64::from(steps);
    let mut left = position;
    for step in 0..steps {
        let rate = step_rate(from, to, steps, step);
        if left < rate * length {
            return Some(f64::from(step) * length + left / rate);
        }
        left -= rate * length;
    }
    None
}

fn step_rate(from: f64, to: f64, steps: u32, step: u32) -> f64 {
    if steps == 1 {
        return (from + to) / 2.0;
    }
    from + (to - from) * f64::from(step) / f64::from(steps - 1)
}

fn number(text: &str) -> Result<f64, InvalidArrivals> {
    let value: f64 = text.parse().map_err(|_| InvalidArrivals::Number)?;
    if !value.is_finite() || value < 0.0 {
        return Err(InvalidArrivals::Number);
    }
    Ok(value)
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.shape, self.spacing) {
            (Shape::Flat { rate }, Spacing::Even) => write!(f, "constant {rate}/s"),
            (Shape::Flat { rate }, Spacing::Poisson) => write!(f, "poisson {rate}/s"),
            (Shape::Ramp { from, to }, _) => write!(f, "ramp {from} to {to}/s"),
            (Shape::Step { from, to, steps }, _) => {
                write!(f, "{steps} steps from {from} to {to}/s")
            }
            (Shape::Burst { rate, size, every }, _) => {
                let every = humantime::format_duration(every);
                write!(f, "poisson {rate}/s and {size} at once every {every}")
            }
        }
    }
}

/// Why a text names no arrivals.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidArrivals {
    /// No time span, or none longer than zero.
    #[error("expected a time longer than zero, as in burst:500:2s")]
    Duration,
    /// None of the known forms.
    #[error("expected constant, poisson, ramp:FROM:TO, step:FROM:TO:STEPS or burst:SIZE:EVERY")]
    Name,
    /// No number of zero or more (for steps: one or more).
    #[error("expected a number of arrivals a second, zero or more")]
    Number,
    /// A flat shape without its rate.
    #[error("a rate is missing, as in rate=500")]
    RateMissing,
}

/// The due times of one run, in order.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    seconds: f64,
    /// Along the expected count.
    position: f64,
    /// A drawn arrival that waits for a burst before it.
    waiting: Option<f64>,
    bursts_done: u32,
    burst_left: u32,
    random: Random,
}

impl Schedule {
    fn draw(&mut self) -> Option<f64> {
        let position = match self.arrivals.spacing {
            Spacing::Even => {
                let position = self.position;
                self.position += 1.0;
                position
            }
            Spacing::Poisson => {
                self.position += self.random.exponential();
                self.position
            }
        };
        self.arrivals.time_of(position, self.seconds)
    }

    /// The next burst's time, where one is left.
    fn burst(&self) -> Option<f64> {
        let Shape::Burst { every, .. } = self.arrivals.shape else { return None };
        let time = every.as_secs_f64() * f64::from(self.bursts_done + 1);
        (time < self.seconds).then_some(time)
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let Shape::Burst { size, .. } = self.arrivals.shape else {
            return self.draw().map(Duration::from_secs_f64);
        };
        if self.waiting.is_none() {
            self.waiting = self.draw();
        }
        if self.burst_left == 0 {
            let Some(burst) = self.burst() else {
                return self.waiting.take().map(Duration::from_secs_f64);
            };
            if self.waiting.is_some_and(|single| single < burst) || size == 0 {
                // An empty burst is passed over by counting it as done.
                self.bursts_done += u32::from(size == 0);
                return self.waiting.take().map(Duration::from_secs_f64);
            }
            self.burst_left = size;
        }
        let time = self.burst()?;
        self.burst_left -= 1;
        if self.burst_left == 0 {
            self.bursts_done += 1;
        }
        Some(Duration::from_secs_f64(time))
    }
}

/// Random numbers from a seed: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators", 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform from 0 up to, not including, 1: the 53 bits that a double holds.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        // 1 - unit is never 0, so the logarithm is finite.
        -(1.0 - self.unit()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    fn times(text: &str, rate: f64, seed: u64) -> Vec<f64> {
        Arrivals::parse(text, Some(rate))
            .unwrap()
            .schedule(TEN_SECONDS, seed)
            .map(|due| due.as_secs_f64())
            .collect()
    }

    /// The arrivals of `text` in each second, compared with `expected` within `tolerance`.
    #[track_caller]
    fn check(text: &str, rate: f64, expected: [f64; 10], tolerance: f64) {
        let mut seconds = [0.0; 10];
        let times = times(text, rate, 7);
        assert!(times.is_sorted(), "{text}: out of order");
        for time in times {
            seconds[time as usize] += 1.0;
        }
        for (second, (got, want)) in seconds.iter().zip(expected).enumerate() {
            assert!((got - want).abs() <= tolerance, "{text}: second {second}: {got} for {want}");
        }
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced() {
        check("constant", 50.0, [50.0; 10], 0.0);
        let times = times("constant", 4.0, 1);
        assert_eq!(&times[..4], &[0.0, 0.25, 0.5, 0.75]);
        assert_eq!(times.len(), 40);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_variance() {
        check("poisson", 1000.0, [1000.0; 10], 130.0);
        let gaps: Vec<f64> =
            times("poisson", 1000.0, 3).windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of an exponential distribution equals its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{}", variance.sqrt() / mean);
    }

    #[test]
    fn a_ramp_grows_linearly() {
        let expected = std::array::from_fn(|second| 100.0 + 200.0 * second as f64);
        check("ramp:0:2000", 0.0, expected, 150.0);
        check("ramp:500:500", 0.0, [500.0; 10], 90.0);
        let falling = std::array::from_fn(|second| 1900.0 - 200.0 * second as f64);
        check("ramp:2000:0", 0.0, falling, 150.0);
    }

    #[test]
    fn steps_are_plateaus() {
        let expected = std::array::from_fn(|second| if second < 5 { 100.0 } else { 1000.0 });
        check("step:100:1000:2", 0.0, expected, 110.0);
    }

    #[test]
    fn bursts_come_at_once_on_top_of_the_rate() {
        let expected =
            std::array::from_fn(|second| if second != 0 && second % 3 == 0 { 300.0 } else { 0.0 });
        check("burst:300:3s", 0.0, expected, 0.0);
        let mixed = times("burst:300:3s", 100.0, 9);
        assert_eq!(mixed.iter().filter(|time| **time == 3.0).count(), 300);
        assert!((mixed.len() as f64 - 1900.0).abs() < 120.0, "{}", mixed.len());
        assert!(times("burst:0:3s", 0.0, 9).is_empty());
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        assert_eq!(times("poisson", 100.0, 42), times("poisson", 100.0, 42));
        assert_ne!(times("poisson", 100.0, 42), times("poisson", 100.0, 43));
    }

    #[test]
    fn what_is_no_arrivals_is_refused() {
        let parse = |text| Arrivals::parse(text, None);
        assert_eq!(parse("constant"), Err(InvalidArrivals::RateMissing));
        assert_eq!(parse("sometimes"), Err(InvalidArrivals::Name));
        assert_eq!(parse("ramp:1"), Err(InvalidArrivals::Name));
        assert_eq!(parse("ramp:1:-2"), Err(InvalidArrivals::Number));
        assert_eq!(parse("ramp:1:nan"), Err(InvalidArrivals::Number));
        assert_eq!(parse("step:1:2:0"), Err(InvalidArrivals::Number));
        assert_eq!(parse("burst:5:0s"), Err(InvalidArrivals::Duration));
    }

    #[test]
    fn expectation_is_what_comes() {
        for text in ["constant", "poisson", "ramp:100:300", "step:100:300:4", "burst:50:3s"] {
            let arrivals = Arrivals::parse(text, Some(200.0)).unwrap();
            let count = arrivals.schedule(TEN_SECONDS, 5).count() as f64;
            let expected = arrivals.expected(TEN_SECONDS);
            assert!((count / expected - 1.0).abs() < 0.06, "{text}: {count} for {expected}");
        }
    }
}
