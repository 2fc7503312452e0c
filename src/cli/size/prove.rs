//! Shows that the bounds hold: an edge with the new figures, established visitors, and beside them
//! new connections at once, twice and five times the rate that was measured.
//!
//! Five things must be true of each row. New visitors that are served are served within the
//! deadline. The others are refused, not left to wait, and none is lost in the kernel. What is
//! served does not collapse. And those who were there before do not notice. [`judge`] is pure.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::measure::{Pace, Subject, traffic};
use super::objective::Objective;
use crate::cli::table::{Colour, Table, count, milliseconds, numbers};
use crate::load::outcome::{Outcome, Span};
use crate::load::report::{OfAll, TrafficReport};
use crate::load::{self, Kind, Then, Traffic};
use crate::sizing::{Capacity, Goals, KeyType, Known, SPREAD_MAX};

/// New connections, as multiples of the capacity; the first row is established traffic alone.
const FACTORS: [f64; 4] = [0.0, 1.0, 2.0, 5.0];
/// What the generator must be able to offer for a proof; beyond, it offers what it can.
const FACTOR_OWED: f64 = 2.0;
/// Of what was wanted; a rate of random arrivals is off by less.
const SHORT: f64 = 0.95;
/// Connections that stand.
const ESTABLISHED: usize = 8;
/// Of new visitors that may get neither an answer nor a refusal: a lost packet, not a rule.
pub const UNANSWERED_MAX: f64 = 0.01;
/// The generator shares the cores; the end of a visit may be seen this much after it happened.
pub const SEEN_LATE: Duration = Duration::from_millis(100);
/// New visitors wait this much longer than the deadline, so that a late refusal is still seen.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the figures promise.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// New visitors are offered to a host with this key, the slowest measured.
    pub key: KeyType,
    /// Its handshakes a second.
    pub per_second: f64,
    /// Requests of established visitors, a second.
    pub established_per_second: f64,
    /// Of the capacity that must be left of what is served, whatever is offered: what is not kept
    /// for established visitors, less what two measurements may differ by.
    pub floor: f64,
    /// Served or refused within it.
    pub deadline: Duration,
    /// What established visitors are owed.
    pub request: Objective,
}

/// What was seen at one rate.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Row {
    /// What was to be offered, of the capacity.
    pub wanted: f64,
    /// What was: less where the generator could not do more.
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
    /// Connections that the kernel dropped as the accept queue was full.
    pub lost: u64,
    /// Of the generator's schedule for new visitors, p99, milliseconds.
    pub lateness: f64,
    /// What the generator says against itself.
    pub behind: Vec<String>,
}

impl Promise {
    /// The promise that follows from what was measured.
    pub fn of(capacity: &Capacity, goals: &Goals, request: Objective) -> Result<Promise> {
        let measured = capacity.full_handshakes.iter().filter(|one| one.known == Known::Measured);
        let slowest = measured
            .min_by(|a, b| a.rate.per_second.total_cmp(&b.rate.per_second))
            .ok_or_else(|| anyhow!("no key type was measured"))?;
        Ok(Promise {
            key: slowest.key,
            per_second: slowest.rate.per_second,
            // A twentieth of the capacity: visitors who are there, no load of their own.
            established_per_second: (capacity.requests_h1.per_second / 20.0).clamp(20.0, 500.0),
            floor: (1.0 - goals.established_share.value) * (1.0 - SPREAD_MAX),
            deadline: goals.handshake_deadline,
            request,
        })
    }

    /// Those who are there, for as long as the caller says.
    pub fn established(&self, subject: &Subject) -> Result<Traffic> {
        let kind = Kind::Requests { connections: ESTABLISHED, streams: 1 };
        let page = subject.first()?;
        let mut established = traffic("established", kind, self.established_per_second, page);
        established.threads = 1;
        Ok(established)
    }

    /// Offers all rates to the edge. A row in which a bound broke is seen once more before it
    /// counts, as each step of the search is: the machine may have hiccuped.
    pub fn rows(&self, subject: &Subject, pace: &Pace) -> Result<Vec<Row>> {
        let look = |factor: &f64| {
            let row = self.offer(subject, pace, *factor)?;
            if judge_row(self, &row).is_empty() {
                return Ok(row);
            }
            self.offer(subject, pace, *factor)
        };
        FACTORS.iter().map(look).collect()
    }

    /// Offers so much, or less where the generator cannot.
    fn offer(&self, subject: &Subject, pace: &Pace, wanted: f64) -> Result<Row> {
        let mut factor = wanted;
        loop {
            let row = Row { wanted, ..self.row(subject, pace, factor)? };
            if !row.is_late() || factor <= FACTOR_OWED {
                return Ok(row);
            }
            factor = (0.7 * factor).max(FACTOR_OWED);
        }
    }

    fn row(&self, subject: &Subject, pace: &Pace, factor: f64) -> Result<Row> {
        let mut established = self.established(subject)?;
        established.length = pace.proof;
        let mut traffics = vec![established];
        let slowest = subject.pages.iter().find(|(key, _)| *key == self.key);
        if let Some((_, page)) = slowest.filter(|_| factor > 0.0) {
            let rate = factor * self.per_second;
            let mut new = traffic("new", Kind::Handshakes(Then::Request), rate, page);
            new.length = pace.proof;
            new.patience = self.deadline + PATIENCE;
            traffics.push(new);
        }
        let before = subject.look()?;
        let report = load::run(&subject.plan(traffics)?, |_, _| {})?;
        let lost = subject.look()?.lost_since(&before);
        let mut parts = report.traffics.into_iter();
        let established = parts.next().ok_or_else(|| anyhow!("the report is empty"))?;
        let mut row = row(factor, &established, parts.next().as_ref());
        row.lost = lost;
        if factor > 0.0 {
            // What the generator could not send was not offered.
            row.factor = row.offered as f64 / pace.proof.as_secs_f64() / self.per_second;
        }
        Ok(row)
    }
}

fn row(factor: f64, established: &TrafficReport, new: Option<&TrafficReport>) -> Row {
    let mut behind = established.generator.behind.clone();
    let established = established.of_all.clone();
    let Some(new) = new else { return Row { factor, established, behind, ..Row::default() } };
    let refusals = [Outcome::RefusedReset, Outcome::RefusedStatus, Outcome::RefusedStream];
    let refused = refusals.iter().map(|outcome| new.count(*outcome)).sum();
    behind.extend(new.generator.behind.iter().cloned());
    let offered = new.offered - new.count(Outcome::NotSent);
    Row {
        factor,
        offered,
        goodput: new.completed_per_second,
        // From when the generator took the visit up: its own lateness is not the edge's queue.
        wait_p99: new.span(Span::ClosedLoop).p99,
        refused,
        unanswered: offered - refused - new.count(Outcome::Completed),
        established,
        lateness: new.generator.lateness.p99,
        behind,
        ..Row::default()
    }
}

/// Every bound that does not hold, in words.
pub fn judge(promise: &Promise, rows: &[Row]) -> Vec<String> {
    rows.iter().flat_map(|row| judge_row(promise, row)).collect()
}

fn judge_row(promise: &Promise, row: &Row) -> Vec<String> {
    let mut broken = Vec::new();
    let at = format!("at {:.1} x capacity", row.factor);
    if row.is_late() {
        let late = milliseconds(row.lateness);
        broken.push(format!("{at}: the generator itself was late by {late}: a busy machine?"));
        return broken;
    }
    if !promise.request.holds(&row.established) {
        let seen = row.established.p99.map_or("never".to_owned(), milliseconds);
        broken.push(format!("{at}: {} of established visitors: p99 {seen}", promise.request));
    }
    if row.lost > 0 {
        broken.push(format!("{at}: the kernel's accept queue overflowed {} times", row.lost));
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
    if row.goodput < promise.floor * promise.per_second {
        broken.push(format!(
            "{at}: {:.0}/s were served, less than {:.0} % of {:.0}/s",
            row.goodput,
            100.0 * promise.floor,
            promise.per_second
        ));
    }
    broken
}

impl Row {
    /// What its cells tell.
    pub const HEADS: [&str; 8] = [
        "new",
        "served/s",
        "wait p99",
        "deadline",
        "refused",
        "unanswered",
        "lost",
        "established p99",
    ];

    /// Whether the generator saw things so late that it cannot tell what the edge did.
    fn is_late(&self) -> bool {
        self.lateness > SEEN_LATE.as_secs_f64() * 1_000.0
    }

    /// For people.
    pub fn cells(&self, promise: &Promise) -> [String; Row::HEADS.len()] {
        let has_new = self.factor > 0.0;
        let of_new = |text: String| if has_new { text } else { "-".to_owned() };
        [
            of_new(format!("{:.1} x {:.0}/s", self.factor, promise.per_second)),
            of_new(count(self.goodput)),
            of_new(milliseconds(self.wait_p99)),
            of_new(humantime::format_duration(promise.deadline).to_string()),
            of_new(self.refused.to_string()),
            of_new(self.unanswered.to_string()),
            self.lost.to_string(),
            self.established.p99.map_or("never".to_owned(), milliseconds),
        ]
    }
}

/// What rows in which every bound holds have proven, and what the generator owes.
pub fn proven(promise: &Promise, rows: &[Row]) -> String {
    let most = |value: fn(&Row) -> f64| rows.iter().map(value).fold(0.0, f64::max);
    let (reached, wanted) = (most(|row| row.factor), most(|row| row.wanted));
    let Promise { key, per_second, established_per_second, .. } = promise;
    let mut told = format!(
        "Proven to {reached:.1} x the capacity of {per_second:.0} {key} handshakes/s, beside \
         {established_per_second:.0} requests/s of established visitors"
    );
    if reached < SHORT * wanted {
        told += &format!("; the generator could not offer {wanted:.0} x, so beyond is not proven");
    }
    told
}

/// The rows on a terminal.
pub fn table(promise: &Promise, rows: &[Row], colours: bool) -> String {
    let mut table = Table::new(Row::HEADS.map(numbers));
    for row in rows {
        table.row(row.cells(promise).map(|cell| (cell, Colour::Plain)));
    }
    table.text(colours)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn promise() -> Promise {
        Promise {
            key: KeyType::Rsa(2_048),
            per_second: 1_000.0,
            established_per_second: 100.0,
            floor: 0.72,
            deadline: Duration::from_secs(1),
            request: "p99 request < 100ms".parse().unwrap(),
        }
    }

    pub fn good() -> Row {
        Row {
            wanted: 2.0,
            factor: 2.0,
            offered: 10_000,
            goodput: 900.0,
            wait_p99: 990.0,
            refused: 5_450,
            unanswered: 50,
            established: OfAll { p50: Some(1.0), p90: Some(2.0), p99: Some(9.0) },
            lost: 0,
            lateness: 2.0,
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
        check(|row| row.goodput = 719.0, "719/s were served, less than 72 % of 1000/s");
        check(|row| row.lost = 1, "accept queue overflowed 1 times");
        check(|row| row.established.p99 = Some(100.0), "established visitors: p99 100 ms");
        check(|row| row.established.p99 = None, "p99 never");
        let late = |row: &mut Row| (row.lateness, row.goodput) = (101.0, 0.0);
        check(late, "at 2.0 x capacity: the generator itself was late by 101 ms");
    }

    #[test]
    fn what_could_not_be_offered_is_not_said_to_be_proven() {
        let told = proven(&promise(), &[good(), Row { wanted: 5.0, factor: 4.9, ..good() }]);
        assert_eq!(
            told,
            "Proven to 4.9 x the capacity of 1000 RSA-2048 handshakes/s, beside 100 requests/s of \
             established visitors"
        );
        let told = proven(&promise(), &[good(), Row { wanted: 5.0, factor: 2.4, ..good() }]);
        assert!(told.contains("Proven to 2.4 x"), "{told}");
        assert!(told.ends_with("could not offer 5 x, so beyond is not proven"), "{told}");
    }

    #[test]
    fn the_table_has_a_line_for_each_rate() {
        let alone = Row { factor: 0.0, established: good().established, ..Row::default() };
        let text = table(&promise(), &[alone, good()], false);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("2.0 x 1000/s       900    990 ms        1s     5450"), "{text}");
    }
}
