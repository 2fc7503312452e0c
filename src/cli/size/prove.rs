//! Shows that the bounds hold: an edge with the new figures, established visitors, and beside them
//! new connections at once and twice the rate that was measured.
//!
//! Four things must be true of each row. New visitors that are served are served within the
//! deadline. The others are refused, not left to wait. What is served does not collapse. And those
//! who were there before do not notice. [`judge`] is pure.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::edge;
use super::measure::{self, Pace};
use super::objective::Objective;
use crate::cli::table::{Colour, Table, count, milliseconds, numbers};
use crate::load::outcome::{Outcome, Span};
use crate::load::report::{OfAll, TrafficReport};
use crate::load::{self, Kind, Then};
use crate::sizing::{Capacity, KeyType};

/// New connections, as multiples of the capacity; the first row is established traffic alone.
const FACTORS: [f64; 3] = [0.0, 1.0, 2.0];
/// Connections that stand.
const ESTABLISHED: usize = 8;
/// Of the capacity that must be left of what is served, whatever is offered.
const GOODPUT_MIN: f64 = 0.5;
/// Of new visitors that may get neither an answer nor a refusal: a lost packet, not a rule.
const UNANSWERED_MAX: f64 = 0.01;
/// The generator shares the cores; the end of a visit may be seen this much after it happened.
const SEEN_LATE: Duration = Duration::from_millis(100);
/// New visitors wait this much longer than the deadline, so that a late refusal is still seen.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the figures promise.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// New visitors are offered to a host with this key, the slowest.
    pub key: KeyType,
    /// Its handshakes a second.
    pub per_second: f64,
    /// Requests of established visitors, a second.
    pub established_per_second: f64,
    /// Served or refused within it.
    pub deadline: Duration,
    /// What established visitors are owed.
    pub request: Objective,
}

/// What was seen at one rate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Of the capacity.
    pub factor: f64,
    /// New visitors.
    pub offered: u64,
    /// New visitors served, a second.
    pub goodput: f64,
    /// From the connection's begin to the answer, of those served, milliseconds.
    pub wait_p99: f64,
    /// New visitors refused.
    pub refused: u64,
    /// New visitors that got neither.
    pub unanswered: u64,
    /// Of the established, over all their requests.
    pub established: OfAll,
    /// Whether the generator kept its schedule; its own words where not.
    pub behind: Vec<String>,
}

impl Promise {
    /// The promise that follows from what was measured.
    pub fn of(capacity: &Capacity, deadline: Duration, request: Objective) -> Result<Promise> {
        let slowest = capacity
            .full_handshakes
            .iter()
            .min_by(|a, b| a.1.per_second.total_cmp(&b.1.per_second))
            .ok_or_else(|| anyhow!("no key type was measured"))?;
        Ok(Promise {
            key: slowest.0,
            per_second: slowest.1.per_second,
            // A twentieth of the capacity: visitors who are there, no load of their own.
            established_per_second: (capacity.requests_h1.per_second / 20.0).clamp(20.0, 500.0),
            deadline,
            request,
        })
    }

    /// Offers all rates to the edge.
    pub fn rows(&self, address: SocketAddr, pace: &Pace) -> Result<Vec<Row>> {
        FACTORS.iter().map(|factor| self.row(address, pace, *factor)).collect()
    }

    fn row(&self, address: SocketAddr, pace: &Pace, factor: f64) -> Result<Row> {
        let kind = Kind::Requests { connections: ESTABLISHED, streams: 1 };
        let host = edge::host(KeyType::Ecdsa)?;
        let mut established =
            measure::traffic("established", kind, self.established_per_second, host);
        established.length = pace.proof;
        let mut traffics = vec![established];
        if factor > 0.0 {
            let kind = Kind::Handshakes(Then::Request);
            let rate = factor * self.per_second;
            let mut new = measure::traffic("new", kind, rate, edge::host(self.key)?);
            new.length = pace.proof;
            new.patience = self.deadline + PATIENCE;
            traffics.push(new);
        }
        let report = load::run(&measure::plan(address, traffics)?, |_, _| {})?;
        let mut parts = report.traffics.into_iter();
        let established = parts.next().ok_or_else(|| anyhow!("the report is empty"))?;
        Ok(row(factor, &established, parts.next().as_ref()))
    }
}

fn row(factor: f64, established: &TrafficReport, new: Option<&TrafficReport>) -> Row {
    let mut behind = established.generator.behind.clone();
    let established = established.of_all.clone();
    let Some(new) = new else { return Row { factor, established, behind, ..Row::default() } };
    let refusals = [Outcome::RefusedReset, Outcome::RefusedStatus, Outcome::RefusedStream];
    let refused = refusals.iter().map(|outcome| new.count(*outcome)).sum();
    behind.extend(new.generator.behind.iter().cloned());
    Row {
        factor,
        offered: new.offered,
        goodput: new.completed_per_second,
        // From when the generator took the visit up: its own lateness is not the edge's queue.
        wait_p99: new.span(Span::ClosedLoop).p99,
        refused,
        unanswered: new.offered - refused - new.count(Outcome::Completed),
        established,
        behind,
    }
}

/// Every bound that does not hold, in words.
pub fn judge(promise: &Promise, rows: &[Row]) -> Vec<String> {
    rows.iter().flat_map(|row| judge_row(promise, row)).collect()
}

fn judge_row(promise: &Promise, row: &Row) -> Vec<String> {
    let mut broken = Vec::new();
    let at = format!("at {} x capacity", row.factor);
    if !promise.request.holds(&row.established) {
        let seen = row.established.p99.map_or("never".to_owned(), milliseconds);
        broken.push(format!("{at}: {} of established visitors: p99 {seen}", promise.request));
    }
    if row.factor == 0.0 {
        return broken;
    }
    let limit = (promise.deadline + SEEN_LATE).as_secs_f64() * 1_000.0;
    if row.wait_p99 > limit {
        let seen = milliseconds(row.wait_p99);
        let limit = milliseconds(limit);
        broken.push(format!("{at}: new visitors were served after {seen}, not within {limit}"));
    }
    if row.unanswered as f64 > UNANSWERED_MAX * row.offered as f64 {
        let Row { unanswered, offered, .. } = row;
        broken.push(format!("{at}: {unanswered} of {offered} got neither answer nor refusal"));
    }
    if row.goodput < GOODPUT_MIN * promise.per_second {
        broken.push(format!(
            "{at}: {:.0}/s were served, less than {:.0} % of {:.0}/s",
            row.goodput,
            100.0 * GOODPUT_MIN,
            promise.per_second
        ));
    }
    broken
}

/// The rows for people.
pub fn table(promise: &Promise, rows: &[Row], colours: bool) -> String {
    let mut table = Table::new([
        numbers("new"),
        numbers("served/s"),
        numbers("wait p99"),
        numbers("deadline"),
        numbers("refused"),
        numbers("unanswered"),
        numbers("established p99"),
    ]);
    let plain = |text: String| (text, Colour::Plain);
    for row in rows {
        let has_new = row.factor > 0.0;
        let of_new = |text: String| plain(if has_new { text } else { "-".to_owned() });
        table.row([
            of_new(format!("{} x {:.0}/s", row.factor, promise.per_second)),
            of_new(count(row.goodput)),
            of_new(milliseconds(row.wait_p99)),
            of_new(humantime::format_duration(promise.deadline).to_string()),
            of_new(row.refused.to_string()),
            of_new(row.unanswered.to_string()),
            plain(row.established.p99.map_or("never".to_owned(), milliseconds)),
        ]);
    }
    table.text(colours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise() -> Promise {
        Promise {
            key: KeyType::Rsa,
            per_second: 1_000.0,
            established_per_second: 100.0,
            deadline: Duration::from_secs(1),
            request: "p99 request < 100ms".parse().unwrap(),
        }
    }

    fn good() -> Row {
        Row {
            factor: 2.0,
            offered: 10_000,
            goodput: 900.0,
            wait_p99: 990.0,
            refused: 5_450,
            unanswered: 50,
            established: OfAll { p50: Some(1.0), p90: Some(2.0), p99: Some(9.0) },
            behind: Vec::new(),
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Row), expected: &str) {
        let mut row = good();
        change(&mut row);
        let broken = judge(&promise(), &[good(), row]);
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].contains(expected), "{broken:?}");
    }

    #[test]
    fn what_holds_is_not_complained_about() {
        let alone = Row { factor: 0.0, established: good().established, ..Row::default() };
        assert_eq!(judge(&promise(), &[alone, good()]), Vec::<String>::new());
    }

    #[test]
    fn each_bound_that_breaks_is_told() {
        check(|row| row.wait_p99 = 1_101.0, "served after 1.1 s, not within 1.1 s");
        check(|row| row.unanswered = 101, "101 of 10000 got neither");
        check(|row| row.goodput = 499.0, "499/s were served, less than 50 % of 1000/s");
        check(|row| row.established.p99 = Some(100.0), "established visitors: p99 100 ms");
        check(|row| row.established.p99 = None, "p99 never");
    }

    #[test]
    fn the_table_has_a_line_for_each_rate() {
        let alone = Row { factor: 0.0, established: good().established, ..Row::default() };
        let text = table(&promise(), &[alone, good()], false);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("2 x 1000/s       900    990 ms        1s     5450"), "{text}");
    }
}
