//! Tallies → figures a person or a script reads. Pure.
//!
//! Times are milliseconds. Percentiles of a span are over completed work; beside them stands
//! `of_all`, where work that did not complete counts as endless, so that a server cannot look
//! fast by turning slow visitors away. A result is marked (`behind`) where the generator itself
//! was too slow to be believed.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::fairness::{self, Service};
use crate::load::outcome::{Family, Outcome, Span};
use crate::load::tally::{HostTally, Tally};

/// The generator counts as behind when its p99 lateness is longer than this: at a millisecond it
/// begins to show in the latencies of a healthy server.
pub const LATENESS_MAX: Duration = Duration::from_millis(1);
/// A generator thread that used more of a core than this had no room left for its schedule.
pub const THREAD_CPU_MAX: f64 = 0.9;
/// Hosts listed in a report: those with the most arrivals.
const HOSTS_LISTED_MAX: usize = 1000;
/// Points of the percentile curve: each halves the distance to 100 % in two steps, as HDR plots do.
const CURVE_POINTS_MAX: usize = 34;

/// A whole run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: String,
    /// When the run began, RFC 3339.
    pub began: String,
    /// The address and URL.
    pub target: String,
    /// The planned length of the schedule, in seconds.
    pub seconds: f64,
    /// The random seed: the same seed offers the same schedule.
    pub seed: u64,
    /// Length of one point of a series, in seconds.
    pub slot_seconds: f64,
    /// CPU time of the whole generator, in seconds.
    pub generator_cpu_seconds: f64,
    /// One part a traffic, in the order they were asked for.
    pub traffics: Vec<TrafficReport>,
}

/// One traffic's figures.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TrafficReport {
    /// The name it was given, else its kind.
    pub name: String,
    /// What it did.
    pub kind: String,
    /// Its arrivals in words.
    pub arrivals: String,
    /// Arrivals.
    pub offered: u64,
    /// Arrivals a second.
    pub offered_per_second: f64,
    /// Completed a second, over the same time.
    pub completed_per_second: f64,
    /// Count by outcome name.
    pub outcomes: BTreeMap<String, u64>,
    /// Count by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// By span name; the completed work's times.
    pub spans: BTreeMap<String, Quantiles>,
    /// From taken up to turned away, of what was refused: how long the server let people wait for
    /// its no.
    #[serde(default)]
    pub refused: Quantiles,
    /// Total latency over all arrivals.
    pub of_all: OfAll,
    /// TLS sessions that were resumed.
    pub resumed: u64,
    /// Body bytes received.
    pub bytes: u64,
    /// Connections made anew during the run.
    pub reconnects: u64,
    /// How even the service was between hosts, where there is more than one.
    pub fairness: Option<Fairness>,
    /// The hosts with the most arrivals.
    pub hosts: Vec<HostReport>,
    /// Over time.
    pub series: Vec<Point>,
    /// Of the total latency and what a closed loop would have seen: fraction of the completed
    /// work, and the time within which it was done.
    pub curves: BTreeMap<String, Vec<(f64, f64)>>,
    /// The generator's own part.
    pub generator: Generator,
    /// Error texts and how often.
    pub notes: BTreeMap<String, u64>,
}

/// A distribution, in milliseconds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Percentiles over all arrivals in milliseconds; `None` where that many did not complete.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct OfAll {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
}

/// Jain's index two ways.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fairness {
    /// Over completed ÷ offered of each host.
    pub served_ratio: f64,
    /// Over completed ÷ what max-min fairness would have given.
    pub max_min: f64,
}

/// One host's figures.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HostReport {
    /// The name.
    pub host: String,
    /// Arrivals.
    pub offered: u64,
    /// Count by outcome name.
    pub outcomes: BTreeMap<String, u64>,
    /// Total latency of completed work, milliseconds.
    pub p50: Option<f64>,
    /// Likewise.
    pub p99: Option<f64>,
}

/// One slot of a series.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Point {
    /// The slot's begin, seconds from the start.
    pub at: f64,
    /// Due in it.
    pub offered: u64,
    /// Completed in it.
    pub done: u64,
    /// Refused in it.
    pub refused: u64,
    /// Timed out in it.
    pub timed_out: u64,
    /// Failed otherwise in it.
    pub failed: u64,
    /// Median total latency of what was due in it, milliseconds.
    pub p50: Option<f64>,
    /// Likewise, 99 %.
    pub p99: Option<f64>,
}

/// What the generator says about itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Generator {
    /// From due to taken up by the generator, milliseconds.
    pub lateness: Quantiles,
    /// Its busiest thread's CPU time over the run's time.
    pub thread_cpu: f64,
    /// That thread's time spent ready to run but without a CPU, over the run's time; `None` where
    /// the kernel does not tell.
    pub thread_starved: Option<f64>,
    /// Why this result must not be believed; empty where it may.
    pub behind: Vec<String>,
}

/// What is known of a traffic beside its tally.
#[derive(Clone, Debug)]
pub struct About {
    /// The name it was given, else its kind.
    pub name: String,
    /// What it did.
    pub kind: String,
    /// Its arrivals in words.
    pub arrivals: String,
    /// The length of its schedule.
    pub length: Duration,
    /// Host names, by index.
    pub hosts: Vec<String>,
    /// Of its busiest thread: CPU time over the run's time.
    pub thread_cpu: f64,
    /// Of its busiest thread: time without a CPU over the run's time.
    pub thread_starved: Option<f64>,
}

impl TrafficReport {
    /// Derives the figures.
    pub fn new(about: About, tally: &Tally) -> TrafficReport {
        let seconds = about.length.as_secs_f64();
        let total = &tally.spans[Span::Total as usize];
        let offered = tally.offered();
        TrafficReport {
            offered,
            offered_per_second: offered as f64 / seconds,
            completed_per_second: tally.count(Outcome::Completed) as f64 / seconds,
            outcomes: named(&tally.outcomes),
            statuses: tally.statuses.clone(),
            spans: spans(tally),
            refused: quantiles(&tally.refused),
            of_all: of_all(total, offered),
            resumed: tally.resumed,
            bytes: tally.bytes,
            reconnects: tally.reconnects,
            fairness: fairness_of(&tally.hosts),
            hosts: hosts(&about.hosts, &tally.hosts),
            series: series(tally),
            curves: [Span::Total, Span::ClosedLoop]
                .map(|span| (span.name().to_owned(), curve(&tally.spans[span as usize])))
                .into(),
            generator: generator(&about, tally),
            notes: tally.notes.clone(),
            name: about.name,
            kind: about.kind,
            arrivals: about.arrivals,
        }
    }

    /// How many ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome.name()).copied().unwrap_or(0)
    }

    /// A span's distribution; all zero where nothing completed it.
    pub fn span(&self, span: Span) -> Quantiles {
        self.spans.get(span.name()).cloned().unwrap_or_default()
    }
}

fn named(outcomes: &[u64; Outcome::ALL.len()]) -> BTreeMap<String, u64> {
    Outcome::ALL
        .iter()
        .zip(outcomes)
        .filter(|(_, count)| **count > 0)
        .map(|(outcome, count)| (outcome.name().to_owned(), *count))
        .collect()
}

fn spans(tally: &Tally) -> BTreeMap<String, Quantiles> {
    Span::ALL
        .iter()
        .zip(&tally.spans)
        .filter(|(_, histogram)| !histogram.is_empty())
        .map(|(span, histogram)| (span.name().to_owned(), quantiles(histogram)))
        .collect()
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    if histogram.is_empty() {
        return Quantiles::default();
    }
    let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
    Quantiles {
        count: histogram.len(),
        mean: histogram.mean() / 1000.0,
        min: milliseconds(histogram.min()),
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: milliseconds(histogram.max()),
    }
}

fn of_all(total: &Histogram<u64>, offered: u64) -> OfAll {
    let at = |quantile: f64| {
        let rank = quantile * offered as f64;
        let completed = total.len() as f64;
        (completed > 0.0 && rank <= completed)
            .then(|| milliseconds(total.value_at_quantile(rank / completed)))
    };
    OfAll { p50: at(0.5), p90: at(0.9), p99: at(0.99) }
}

fn fairness_of(hosts: &[HostTally]) -> Option<Fairness> {
    if hosts.len() < 2 {
        return None;
    }
    let services: Vec<Service> = hosts
        .iter()
        .map(|host| Service {
            demand: host.offered as f64,
            served: host.outcomes[Outcome::Completed as usize] as f64,
        })
        .collect();
    let asking = services.iter().filter(|service| service.demand > 0.0);
    Some(Fairness {
        served_ratio: fairness::jain(asking.map(|service| service.served / service.demand))?,
        max_min: fairness::max_min_index(&services)?,
    })
}

fn hosts(names: &[String], tallies: &[HostTally]) -> Vec<HostReport> {
    if names.len() < 2 {
        return Vec::new();
    }
    let mut hosts: Vec<(&String, &HostTally)> =
        names.iter().zip(tallies).filter(|(_, host)| host.offered > 0).collect();
    hosts.sort_by_key(|(_, host)| std::cmp::Reverse(host.offered));
    hosts.truncate(HOSTS_LISTED_MAX);
    hosts
        .into_iter()
        .map(|(name, host)| HostReport {
            host: name.clone(),
            offered: host.offered,
            outcomes: named(&host.outcomes),
            p50: host.total.as_ref().and_then(|total| quantile_of(total, 0.5)),
            p99: host.total.as_ref().and_then(|total| quantile_of(total, 0.99)),
        })
        .collect()
}

fn series(tally: &Tally) -> Vec<Point> {
    let used = tally
        .slots
        .iter()
        .rposition(|slot| slot.offered > 0 || slot.ended.iter().any(|count| *count > 0))
        .map_or(0, |last| last + 1);
    let width = tally.slot.as_secs_f64();
    let ended = |slot: &crate::load::tally::Slot, family: Family| slot.ended[family as usize];
    tally.slots[..used]
        .iter()
        .enumerate()
        .map(|(index, slot)| Point {
            at: index as f64 * width,
            offered: slot.offered,
            done: ended(slot, Family::Done),
            refused: ended(slot, Family::Refused),
            timed_out: ended(slot, Family::TimedOut),
            failed: ended(slot, Family::Failed),
            p50: quantile_of(&slot.total, 0.5),
            p99: quantile_of(&slot.total, 0.99),
        })
        .collect()
}

fn quantile_of(histogram: &Histogram<u32>, quantile: f64) -> Option<f64> {
    (!histogram.is_empty()).then(|| milliseconds(histogram.value_at_quantile(quantile)))
}

fn curve(total: &Histogram<u64>) -> Vec<(f64, f64)> {
    if total.is_empty() {
        return Vec::new();
    }
    let mut points = vec![(0.0, milliseconds(total.min()))];
    let mut missing = 1.0;
    // A point past the last sample would only repeat the maximum.
    while points.len() < CURVE_POINTS_MAX && missing * total.len() as f64 > 0.5 {
        missing *= std::f64::consts::FRAC_1_SQRT_2;
        points.push((1.0 - missing, milliseconds(total.value_at_quantile(1.0 - missing))));
    }
    points
}

fn generator(about: &About, tally: &Tally) -> Generator {
    let lateness = quantiles(&tally.lateness);
    let mut behind = tally.faults.clone();
    let bound = LATENESS_MAX.as_secs_f64() * 1000.0;
    if lateness.p99 > bound {
        behind.push(format!("p99 lateness is {:.1} ms, and the latencies hold it", lateness.p99));
    }
    if about.thread_cpu > THREAD_CPU_MAX {
        behind.push(format!(
            "a thread was busy {:.0} % of the time; try threads=N",
            about.thread_cpu * 100.0
        ));
    }
    let not_sent = tally.count(Outcome::NotSent);
    if not_sent > 0 {
        behind.push(format!("{not_sent} arrivals not sent: too much in flight"));
    }
    Generator {
        lateness,
        thread_cpu: about.thread_cpu,
        thread_starved: about.thread_starved,
        behind,
    }
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::outcome::{Fact, Times};

    const SLOT: Duration = Duration::from_millis(100);

    fn fact(host: usize, due_ms: u64, taken_ms: u64, total_ms: u64) -> Fact {
        let at = Duration::from_millis;
        Fact {
            host,
            times: Times {
                scheduled: at(due_ms),
                started: Some(at(due_ms + taken_ms)),
                done: at(due_ms + total_ms),
                ..Times::default()
            },
            outcome: Outcome::Completed,
            status: Some(200),
            bytes: 10,
            resumed: false,
            note: None,
        }
    }

    fn about(hosts: &[&str], seconds: u64) -> About {
        About {
            name: "visitors".into(),
            kind: "requests".into(),
            arrivals: "constant".into(),
            length: Duration::from_secs(seconds),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            thread_cpu: 0.1,
            thread_starved: None,
        }
    }

    #[track_caller]
    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() <= expected * 0.002 + 0.001, "{got} for {expected}");
    }

    #[test]
    fn quantiles_are_those_of_the_facts() {
        let mut tally = Tally::new(Duration::from_secs(11), SLOT, 1);
        for index in 0..1000 {
            tally.record(fact(0, index * 10, 0, index + 1));
        }
        let report = TrafficReport::new(about(&["a.example"], 10), &tally);
        assert_eq!((report.offered, report.count(Outcome::Completed)), (1000, 1000));
        let total = report.span(Span::Total);
        near(total.p50, 500.0);
        near(total.p99, 990.0);
        near(total.max, 1000.0);
        near(total.mean, 500.5);
        near(report.offered_per_second, 100.0);
        assert_eq!(report.bytes, 10_000);
        assert_eq!(report.statuses[&200], 1000);
        let curve = &report.curves["total"];
        near(curve.last().unwrap().1, 1000.0);
        assert!(curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        assert!(report.generator.behind.is_empty());
    }

    /// The classic demonstration, as arithmetic: 100 arrivals a second for 10 s on one connection,
    /// each served in 1 ms, but the server stands still from 5 s to 6 s. A tenth of all arrivals
    /// fall into the stall and wait for the rest of it, uniformly from 0 to 1 s: the open loop's
    /// p95 is half a second, its p99 0.9 s. A closed loop sent one request into the stall and saw
    /// one slow answer among a thousand.
    #[test]
    fn a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() {
        let mut tally = Tally::new(Duration::from_secs(11), SLOT, 1);
        let mut free_at = 0;
        for index in 0..1000 {
            let due = index * 10;
            let started = free_at.max(due);
            let begins = if (5000..6000).contains(&started) { 6000 } else { started };
            free_at = begins + 1;
            tally.record(fact(0, due, started - due, free_at - due));
        }
        let report = TrafficReport::new(about(&["a.example"], 10), &tally);
        let (open, closed) = (report.span(Span::Total), report.span(Span::ClosedLoop));
        assert!((480.0..560.0).contains(&open.p95), "{open:?}");
        assert!((880.0..930.0).contains(&open.p99), "{open:?}");
        near(open.p50, 1.0);
        near(closed.p99, 1.0);
        near(closed.max, 1001.0);
    }

    #[test]
    fn work_that_failed_counts_as_endless_in_of_all() {
        let mut tally = Tally::new(Duration::from_secs(2), SLOT, 1);
        for index in 0..100 {
            let mut fact = fact(0, index, 0, 10);
            if index >= 80 {
                fact.outcome = Outcome::RefusedReset;
            }
            tally.record(fact);
        }
        let report = TrafficReport::new(about(&["a.example"], 1), &tally);
        near(report.of_all.p50.unwrap(), 10.0);
        assert_eq!(report.of_all.p90, None);
        near(report.span(Span::Total).p99, 10.0);
        assert_eq!(report.count(Outcome::RefusedReset), 20);
        assert_eq!(report.refused.count, 20);
        near(report.refused.max, 10.0);
        near(report.completed_per_second, 80.0);
    }

    #[test]
    fn series_count_arrivals_when_due_and_ends_when_they_come() {
        let mut tally = Tally::new(Duration::from_secs(2), SLOT, 1);
        tally.record(fact(0, 50, 0, 400));
        let mut refused = fact(0, 120, 0, 1);
        refused.outcome = Outcome::RefusedStatus;
        tally.record(refused);
        let series = TrafficReport::new(about(&["a.example"], 1), &tally).series;
        assert_eq!(series.len(), 5);
        assert_eq!((series[0].offered, series[0].done), (1, 0));
        assert_eq!(series[0].p50.map(f64::round), Some(401.0));
        assert_eq!((series[1].offered, series[1].refused, series[1].p50), (1, 1, None));
        assert_eq!((series[4].offered, series[4].done), (0, 1));
    }

    #[test]
    fn hosts_are_told_apart_and_their_fairness_computed() {
        let mut tally = Tally::new(Duration::from_secs(2), SLOT, 3);
        for index in 0..40 {
            tally.record(fact(0, index, 0, 5));
            let mut starved = fact(1, index, 0, 5);
            if index >= 20 {
                starved.outcome = Outcome::HandshakeTimeout;
            }
            tally.record(starved);
        }
        let report = TrafficReport::new(about(&["a.example", "b.example", "c.example"], 1), &tally);
        assert_eq!(report.hosts.len(), 2, "c.example had no arrivals");
        assert_eq!(report.hosts[1].outcomes["handshake_timeout"], 20);
        let fairness = report.fairness.unwrap();
        near(fairness.served_ratio, 1.5 * 1.5 / (2.0 * 1.25));
    }

    #[test]
    fn a_generator_that_fell_behind_says_so() {
        let mut tally = Tally::new(Duration::from_secs(2), SLOT, 1);
        for _ in 0..90 {
            tally.late(Duration::from_micros(100));
        }
        for _ in 0..10 {
            tally.late(Duration::from_millis(7));
        }
        let mut not_sent = fact(0, 0, 0, 0);
        not_sent.outcome = Outcome::NotSent;
        tally.record(not_sent);
        let busy = About { thread_cpu: 0.97, ..about(&["a.example"], 1) };
        let generator = TrafficReport::new(busy, &tally).generator;
        assert_eq!(generator.behind.len(), 3, "{:?}", generator.behind);
        assert!(generator.behind[0].contains("7.0 ms"), "{:?}", generator.behind);
    }

    #[test]
    fn merged_tallies_count_like_one() {
        let mut one = Tally::new(Duration::from_secs(2), SLOT, 2);
        let (mut left, mut right) = (one.clone(), one.clone());
        for index in 0..100 {
            let mut fact = fact(index % 2, index as u64 * 7, 1, index as u64);
            fact.note = Some(format!("error {}", index % 50));
            one.record(fact.clone());
            if index < 30 { left.record(fact) } else { right.record(fact) }
        }
        left.merge(&right);
        let hosts = ["a.example", "b.example"];
        let (mut merged, mut whole) = (
            TrafficReport::new(about(&hosts, 1), &left),
            TrafficReport::new(about(&hosts, 1), &one),
        );
        // Which texts are kept depends on the order; their number is bounded all the same.
        let notes = |report: &mut TrafficReport| std::mem::take(&mut report.notes);
        let (left, right) = (notes(&mut merged), notes(&mut whole));
        assert_eq!(left.values().sum::<u64>(), right.values().sum::<u64>());
        assert!(left.len() <= crate::load::tally::NOTES_MAX + 1);
        assert_eq!(merged, whole);
    }

    #[test]
    fn a_report_survives_json() {
        let mut tally = Tally::new(Duration::from_secs(2), SLOT, 1);
        tally.record(fact(0, 0, 0, 3));
        let report = TrafficReport::new(about(&["a.example"], 1), &tally);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<TrafficReport>(&text).unwrap(), report);
    }
}
