//! A site whose endpoint never answers: shows that the request queue's bounds hold.
//!
//! More requests come at once than its queue holds. A few are at the endpoint and stay there; as many
//! as the depth says wait, and are refused at the deadline; all others are refused at once. And who
//! asks another site meanwhile does not notice. [`Silence::judge`] is pure.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::look::Look;
use super::measure::{Pace, Subject, traffic};
use super::objective::Objective;
use super::prove::{Promise, SEEN_LATE, UNANSWERED_MAX};
use crate::cli::table::milliseconds;
use crate::load::outcome::Outcome;
use crate::load::report::OfAll;
use crate::load::{self, Kind, Protocol};

/// At the endpoint at one time: `limits.in_flight` of the silent site.
pub const IN_FLIGHT: u64 = 8;
/// Streams that wait on one connection; the edge allows 128.
const STREAMS: usize = 100;
/// A longer wait is not shown: the whole must end within ten minutes.
const DEADLINE_MAX: Duration = Duration::from_secs(15);
/// Nor a queue that the generator cannot fill.
const DEPTH_MAX: u64 = 8_000;
/// Within it all come, or within a quarter of the deadline.
const ONSET: Duration = Duration::from_secs(1);
/// They wait this much longer than the deadline, so that a late refusal is still seen.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the request queue promises.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Requests that may wait.
    pub depth: u64,
    /// How long.
    pub deadline: Duration,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Heard {
    /// Requests that came.
    pub offered: u64,
    /// Refused as the queue was full, says the edge.
    pub full: u64,
    /// Refused at the deadline, says the edge.
    pub expired: u64,
    /// Neither answered nor refused: those at the endpoint, and whom the edge forgot.
    pub unanswered: u64,
    /// Until they were refused, milliseconds.
    pub refused_p99: f64,
    /// Of those who ask another site.
    pub established: OfAll,
    /// Of the generator's schedule, p99, milliseconds.
    pub lateness: f64,
    /// Connections that the kernel dropped.
    pub lost: u64,
}

impl Silence {
    /// Why it is not shown; `None` where it is.
    pub fn hindrance(&self) -> Option<String> {
        let Silence { depth, deadline } = self;
        if *deadline > DEADLINE_MAX {
            let most = humantime::format_duration(DEADLINE_MAX);
            return Some(format!("the request deadline is longer than {most}"));
        }
        (*depth > DEPTH_MAX).then(|| format!("request_depth {depth} is more than {DEPTH_MAX}"))
    }

    /// Offers it. One that breaks a bound is seen once more, as the rows are.
    pub fn look(&self, subject: &Subject, promise: &Promise, pace: &Pace) -> Result<Heard> {
        let heard = self.offer(subject, promise, pace)?;
        if self.judge(&promise.request, &heard).is_empty() {
            return Ok(heard);
        }
        self.offer(subject, promise, pace)
    }

    fn offer(&self, subject: &Subject, promise: &Promise, pace: &Pace) -> Result<Heard> {
        let silent = subject.silent.as_ref().ok_or_else(|| anyhow!("there is no silent site"))?;
        let count = IN_FLIGHT + self.depth + (self.depth / 5).max(50);
        let length = ONSET.min(self.deadline / 4);
        let connections = (count as usize).div_ceil(STREAMS) + 1;
        let kind = Kind::Requests { connections, streams: STREAMS };
        let rate = count as f64 / length.as_secs_f64();
        let mut asking = traffic("silent", kind, rate, silent);
        asking.arrivals.spacing = load::arrivals::Spacing::Even;
        asking.protocol = Protocol::H2;
        asking.length = length;
        asking.patience = self.deadline + PATIENCE;
        asking.threads = 1;
        let mut established = promise.established(subject)?;
        established.length = pace.proof.max(length);
        let before = subject.look()?;
        let report = load::run(&subject.plan(vec![established, asking])?, |_, _| {})?;
        let after = subject.look()?;
        let [established, asked] = &report.traffics[..] else {
            return Err(anyhow!("the report lacks a traffic"));
        };
        // Over HTTP/2 the edge refuses with 503 or by the stream.
        let ended = [
            Outcome::Completed,
            Outcome::RefusedStatus,
            Outcome::RefusedStream,
            Outcome::WrongStatus,
        ];
        let ended: u64 = ended.iter().map(|outcome| asked.count(*outcome)).sum();
        let since = |counter: fn(&Look) -> u64| counter(&after).saturating_sub(counter(&before));
        Ok(Heard {
            offered: asked.offered,
            full: since(|look| look.full),
            expired: since(|look| look.expired),
            unanswered: asked.offered - ended,
            refused_p99: asked.refused.p99,
            established: established.of_all.clone(),
            lateness: asked.generator.lateness.p99,
            lost: after.lost_since(&before),
        })
    }

    /// Every bound that does not hold, in words.
    pub fn judge(&self, request: &Objective, heard: &Heard) -> Vec<String> {
        let mut broken = Vec::new();
        let mut tell = |words: String| broken.push(format!("beside a silent upstream: {words}"));
        let late = SEEN_LATE.as_secs_f64() * 1_000.0;
        if heard.lateness > late {
            let late = milliseconds(heard.lateness);
            tell(format!("the generator itself was late by {late}: a busy machine?"));
            return broken;
        }
        let limit = self.deadline.as_secs_f64() * 1_000.0 + late;
        if heard.refused_p99 > limit {
            let [seen, limit] = [heard.refused_p99, limit].map(milliseconds);
            tell(format!("requests were refused after {seen}, not within {limit}"));
        }
        let allowed = IN_FLIGHT + (UNANSWERED_MAX * heard.offered as f64) as u64;
        if heard.unanswered > allowed {
            let Heard { unanswered, offered, .. } = heard;
            tell(format!("{unanswered} of {offered} got no refusal; {allowed} may not"));
        }
        if heard.full == 0 {
            tell(format!("no request was refused for a full queue of {}", self.depth));
        }
        if heard.expired == 0 {
            tell("no request was refused at the deadline".to_owned());
        }
        if !request.holds(&heard.established) {
            let seen = heard.established.p99.map_or("never".to_owned(), milliseconds);
            tell(format!("{request} of visitors of another site: p99 {seen}"));
        }
        if heard.lost > 0 {
            tell(format!("the kernel's accept queue overflowed {} times", heard.lost));
        }
        broken
    }

    /// What was seen, for people.
    pub fn told(&self, heard: &Heard) -> String {
        let Heard { offered, full, expired, unanswered, .. } = heard;
        format!(
            "A site whose upstream never answers, {offered} requests at once: {full} refused as {} \
             waited, {expired} at the deadline of {}, all within {} (p99); {unanswered} left at the \
             upstream ({IN_FLIGHT} may be); p99 of another site's visitors {}",
            self.depth,
            humantime::format_duration(self.deadline),
            milliseconds(heard.refused_p99),
            heard.established.p99.map_or("never".to_owned(), milliseconds)
        )
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const SILENCE: Silence = Silence { depth: 250, deadline: Duration::from_secs(10) };

    pub fn good() -> Heard {
        Heard {
            offered: 308,
            full: 50,
            expired: 250,
            unanswered: 8,
            refused_p99: 10_010.0,
            established: OfAll { p50: Some(1.0), p90: Some(2.0), p99: Some(9.0) },
            lateness: 1.0,
            lost: 0,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Heard), expected: &str) {
        let mut heard = good();
        change(&mut heard);
        let broken = SILENCE.judge(&"p99 request < 100ms".parse().unwrap(), &heard);
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].contains(expected), "{broken:?}");
    }

    #[test]
    fn each_bound_that_breaks_is_told() {
        let request = "p99 request < 100ms".parse().unwrap();
        assert_eq!(SILENCE.judge(&request, &good()), Vec::<String>::new());
        check(|heard| heard.refused_p99 = 10_101.0, "refused after 10.1 s");
        check(|heard| heard.unanswered = 12, "12 of 308 got no refusal; 11 may not");
        check(|heard| heard.full = 0, "for a full queue of 250");
        check(|heard| heard.expired = 0, "at the deadline");
        check(|heard| heard.established.p99 = None, "another site: p99 never");
        check(|heard| heard.lost = 3, "overflowed 3 times");
        check(|heard| (heard.lateness, heard.full) = (101.0, 0), "late by 101 ms");
    }

    #[test]
    fn what_would_take_too_long_is_not_shown() {
        assert_eq!(SILENCE.hindrance(), None);
        let long = Silence { deadline: Duration::from_secs(60), ..SILENCE };
        assert_eq!(long.hindrance().unwrap(), "the request deadline is longer than 15s");
        assert!(Silence { depth: 9_000, ..SILENCE }.hindrance().is_some());
    }
}
