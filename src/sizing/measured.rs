//! A rate that was measured several times, and whether it can be relied on. Pure.

use std::fmt;

/// Runs of one measurement may differ by this part of their median; a noisier figure sizes nothing.
pub const SPREAD_MAX: f64 = 0.10;

/// What one run found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// A second, the whole edge.
    pub per_second: f64,
    /// The generator could offer no more: the edge did this, and may do more.
    pub at_least: bool,
}

/// A rate, measured several times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The median of the runs, a second, the whole edge; of a lower bound the least of them.
    pub per_second: f64,
    /// Largest less smallest run, as a part of the median.
    pub spread: f64,
    /// How often it was measured.
    pub runs: usize,
    /// A lower bound: each of the runs ended with what the generator can, not the edge.
    pub at_least: bool,
}

/// The runs of one measurement contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// Nothing was measured, or nothing succeeded.
    #[error("no run completed anything")]
    Nothing,
    /// Too far apart.
    #[error(
        "the runs differ by {:.0} % of their median, more than {:.0} %: other load on the machine?",
        100.0 * .0, 100.0 * SPREAD_MAX
    )]
    Noisy(f64),
}

impl Measured {
    /// Takes the runs of one measurement. Where all of them are lower bounds, so is the least of
    /// them, however far the others are above it.
    ///
    /// # Errors
    /// [`Unusable`] where they cannot be trusted.
    pub fn from_runs(runs: &[Run]) -> Result<Measured, Unusable> {
        let mut sorted: Vec<f64> = runs.iter().map(|run| run.per_second).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return Err(Unusable::Nothing);
        };
        let half = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[half - 1], sorted[half]),
            _ => sorted[half],
        };
        if *least <= 0.0 || !most.is_finite() {
            return Err(Unusable::Nothing);
        }
        let spread = (most - least) / median;
        let at_least = runs.iter().all(|run| run.at_least);
        if spread > SPREAD_MAX && !at_least {
            return Err(Unusable::Noisy(spread));
        }
        let per_second = if at_least { *least } else { median };
        Ok(Measured { per_second, spread, runs: runs.len(), at_least })
    }
}

impl fmt::Display for Measured {
    /// `2000/s, measured (3 runs, spread 4.0 %)`, or that it is a lower bound.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { per_second, spread, runs, at_least } = self;
        let how =
            if *at_least { "at least: the generator could offer no more" } else { "measured" };
        write!(f, "{per_second:.0}/s, {how} ({runs} runs, spread {:.1} %)", 100.0 * spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rates: &[f64], at_least: bool) -> Result<Measured, Unusable> {
        let runs: Vec<Run> = rates.iter().map(|&per_second| Run { per_second, at_least }).collect();
        Measured::from_runs(&runs)
    }

    #[test]
    fn runs_that_contradict_each_other_size_nothing() {
        let agreeing = measured(&[1_960.0, 2_050.0, 2_000.0], false).unwrap();
        assert_eq!((agreeing.per_second, agreeing.runs), (2_000.0, 3));
        assert!(measured(&[95.5, 104.5], false).is_ok());
        let noisy = measured(&[90.0, 110.0], false).unwrap_err().to_string();
        assert!(noisy.contains("differ by 20 % of their median, more than 10 %"), "{noisy}");
        assert_eq!(measured(&[], false), Err(Unusable::Nothing));
        assert_eq!(measured(&[0.0, 100.0], true), Err(Unusable::Nothing));
    }

    #[test]
    fn lower_bounds_need_not_agree_and_the_least_of_them_holds() {
        let bound = measured(&[90.0, 110.0, 120.0], true).unwrap();
        assert!(bound.at_least && bound.per_second == 90.0, "{bound:?}");
        assert!(bound.to_string().starts_with("90/s, at least: the generator could"), "{bound}");
        let mixed =
            [90.0, 110.0].map(|per_second| Run { per_second, at_least: per_second > 100.0 });
        assert!(Measured::from_runs(&mixed).is_err());
    }
}
