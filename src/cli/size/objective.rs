//! What must hold while the load grows: `p99 handshake < 250ms`. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::load::report::OfAll;

/// A bound on a percentile of one kind of work; what did not complete took forever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Objective {
    /// Which percentile.
    pub quantile: Quantile,
    /// Of which work.
    pub work: Work,
    /// It must stay below.
    pub limit: Duration,
}

/// The percentiles that a report has over all arrivals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quantile {
    /// Half of the visitors.
    P50,
    /// Nine of ten.
    P90,
    /// All but one of a hundred.
    P99,
}

/// The kinds of work an objective can be about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// New connections, full or resumed, with their first request: due to answered.
    Handshake,
    /// Requests on connections that stand: due to answered.
    Request,
}

/// Why a text is no objective.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected an objective like \"p99 handshake < 250ms\": {0}")]
pub struct InvalidObjective(&'static str);

impl Objective {
    /// Whether it holds for these percentiles.
    pub fn holds(&self, seen: &OfAll) -> bool {
        let seen = match self.quantile {
            Quantile::P50 => seen.p50,
            Quantile::P90 => seen.p90,
            Quantile::P99 => seen.p99,
        };
        seen.is_some_and(|milliseconds| milliseconds < self.limit.as_secs_f64() * 1_000.0)
    }
}

impl FromStr for Objective {
    type Err = InvalidObjective;

    fn from_str(text: &str) -> Result<Objective, InvalidObjective> {
        let (left, limit) =
            text.split_once('<').ok_or(InvalidObjective("a percentile of something < a time"))?;
        let mut words = left.split_whitespace();
        let quantile = match words.next() {
            Some("p50") => Quantile::P50,
            Some("p90") => Quantile::P90,
            Some("p99") => Quantile::P99,
            Some(_) | None => return Err(InvalidObjective("the percentile is p50, p90 or p99")),
        };
        let work = match (words.next(), words.next()) {
            (Some("handshake"), None) => Work::Handshake,
            (Some("request"), None) => Work::Request,
            (Some(_) | None, _) => {
                return Err(InvalidObjective("after it comes handshake or request"));
            }
        };
        let limit = humantime::parse_duration(limit.trim())
            .map_err(|_| InvalidObjective("the limit is a time such as 250ms or 1s"))?;
        if limit < Duration::from_millis(1) || limit > Duration::from_secs(10) {
            return Err(InvalidObjective("the limit is from 1ms to 10s"));
        }
        Ok(Objective { quantile, work, limit })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quantile = match self.quantile {
            Quantile::P50 => "p50",
            Quantile::P90 => "p90",
            Quantile::P99 => "p99",
        };
        let work = match self.work {
            Work::Handshake => "handshake",
            Work::Request => "request",
        };
        write!(f, "{quantile} {work} < {}", humantime::format_duration(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_reads_as_it_is_written() {
        for text in ["p99 handshake < 250ms", "p50 request < 1s"] {
            assert_eq!(text.parse::<Objective>().unwrap().to_string(), text);
        }
        let loose: Objective = "  p90   handshake<5ms ".parse().unwrap();
        assert_eq!(loose.to_string(), "p90 handshake < 5ms");
    }

    #[test]
    fn what_is_no_objective_is_told_which_part_is_wrong() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let told = text.parse::<Objective>().unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        }
        check("", "< a time");
        check("p99 handshake = 250ms", "< a time");
        check("p95 handshake < 250ms", "p50, p90 or p99");
        check("p99 < 250ms", "handshake or request");
        check("p99 handshakes < 250ms", "handshake or request");
        check("p99 handshake time < 250ms", "handshake or request");
        check("p99 handshake < 250", "250ms or 1s");
        check("p99 handshake < 0ms", "1ms to 10s");
        check("p99 handshake < 11s", "1ms to 10s");
    }

    #[test]
    fn work_that_did_not_complete_breaks_it() {
        let objective: Objective = "p99 handshake < 250ms".parse().unwrap();
        let seen = |p99| OfAll { p50: Some(1.0), p90: Some(2.0), p99 };
        assert!(objective.holds(&seen(Some(249.9))));
        assert!(!objective.holds(&seen(Some(250.0))));
        assert!(!objective.holds(&seen(None)));
    }
}
