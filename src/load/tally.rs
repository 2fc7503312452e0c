//! Facts → counts and histograms. Pure.
//!
//! One tally a traffic and thread; they are merged at the end. Memory does not grow with the
//! number of facts: histograms (hdrhistogram) hold times in microseconds, to three digits for the
//! whole run and two for a slot of time or a host; slots and hosts are fixed before the run, notes
//! are at most [`NOTES_MAX`] different texts.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::load::outcome::{Fact, Family, Outcome, Span};

/// Different error texts kept; more are counted under "further errors".
pub const NOTES_MAX: usize = 32;
/// The longest time told apart, one hour: no run's patience is longer.
const MICROSECONDS_MAX: u64 = 3_600_000_000;

/// Counts and histograms of one traffic.
#[derive(Clone, Debug)]
pub struct Tally {
    pub(super) slot: Duration,
    pub(super) outcomes: [u64; Outcome::ALL.len()],
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) spans: Vec<Histogram<u64>>,
    /// From taken up to turned away.
    pub(super) refused: Histogram<u64>,
    pub(super) lateness: Histogram<u64>,
    pub(super) slots: Vec<Slot>,
    pub(super) hosts: Vec<HostTally>,
    pub(super) notes: BTreeMap<String, u64>,
    pub(super) resumed: u64,
    pub(super) bytes: u64,
    pub(super) reconnects: u64,
    /// The generator's own.
    pub(super) faults: Vec<String>,
}

/// One piece of the run's time.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Arrivals due in it.
    pub(super) offered: u64,
    /// Ends in it, by family.
    pub(super) ended: [u64; Family::ALL.len()],
    /// Total latency of completed work that was due in it.
    pub(super) total: Histogram<u32>,
}

/// One host's part.
#[derive(Clone, Debug, Default)]
pub(super) struct HostTally {
    pub(super) offered: u64,
    pub(super) outcomes: [u64; Outcome::ALL.len()],
    /// Made with the first completed work.
    pub(super) total: Option<Histogram<u32>>,
}

impl Tally {
    /// An empty tally for a run of `length` (with the time to finish) in slots of `slot`.
    pub fn new(length: Duration, slot: Duration, hosts: usize) -> Tally {
        let slots = (length.as_secs_f64() / slot.as_secs_f64()).ceil() as usize + 1;
        Tally {
            slot,
            outcomes: [0; Outcome::ALL.len()],
            statuses: BTreeMap::new(),
            spans: Span::ALL.iter().map(|_| fine()).collect(),
            refused: fine(),
            lateness: fine(),
            slots: vec![Slot { offered: 0, ended: [0; Family::ALL.len()], total: coarse() }; slots],
            hosts: vec![HostTally::default(); hosts],
            notes: BTreeMap::new(),
            resumed: 0,
            bytes: 0,
            reconnects: 0,
            faults: Vec::new(),
        }
    }

    /// Counts one arrival's end.
    pub fn record(&mut self, fact: Fact) {
        let outcome = fact.outcome as usize;
        self.outcomes[outcome] += 1;
        self.bytes += fact.bytes;
        self.resumed += u64::from(fact.resumed);
        if let Some(status) = fact.status {
            *self.statuses.entry(status).or_default() += 1;
        }
        if let Some(note) = fact.note {
            self.note(note, 1);
        }
        let due = self.slot_at(fact.times.scheduled);
        self.slots[due].offered += 1;
        let end = self.slot_at(fact.times.done);
        self.slots[end].ended[fact.outcome.family() as usize] += 1;
        let host = &mut self.hosts[fact.host];
        host.offered += 1;
        host.outcomes[outcome] += 1;
        if fact.outcome.family() == Family::Refused {
            let since = Span::ClosedLoop.of(&fact.times).or(Span::Total.of(&fact.times));
            self.refused.saturating_record(microseconds(since.unwrap_or_default()));
        }
        if !fact.outcome.is_timed() {
            return;
        }
        for (span, histogram) in Span::ALL.iter().zip(&mut self.spans) {
            if let Some(length) = span.of(&fact.times) {
                histogram.saturating_record(microseconds(length));
            }
        }
        if let Some(total) = Span::Total.of(&fact.times) {
            grow(&mut self.slots[due].total, total);
            grow(host.total.get_or_insert_with(coarse), total);
        }
    }

    /// Counts by how much the generator took an arrival up later than it was due.
    pub fn late(&mut self, by: Duration) {
        self.lateness.saturating_record(microseconds(by));
    }

    /// Counts a connection that had to be made anew during the run.
    pub fn reconnected(&mut self) {
        self.reconnects += 1;
    }

    /// Notes a fault of the generator's own.
    pub fn fail(&mut self, what: &str) {
        self.faults.push(what.to_owned());
    }

    /// Adds what another thread saw of the same traffic.
    pub fn merge(&mut self, other: &Tally) {
        add(&mut self.outcomes, &other.outcomes);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (mine, theirs) in self.spans.iter_mut().zip(&other.spans) {
            join(mine, theirs);
        }
        join(&mut self.refused, &other.refused);
        join(&mut self.lateness, &other.lateness);
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            mine.offered += theirs.offered;
            add(&mut mine.ended, &theirs.ended);
            join(&mut mine.total, &theirs.total);
        }
        for (mine, theirs) in self.hosts.iter_mut().zip(&other.hosts) {
            mine.offered += theirs.offered;
            add(&mut mine.outcomes, &theirs.outcomes);
            if let Some(total) = &theirs.total {
                join(mine.total.get_or_insert_with(coarse), total);
            }
        }
        for (note, count) in &other.notes {
            self.note(note.clone(), *count);
        }
        self.resumed += other.resumed;
        self.bytes += other.bytes;
        self.reconnects += other.reconnects;
        self.faults.extend(other.faults.iter().cloned());
    }

    /// All arrivals.
    pub fn offered(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// How many ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    fn note(&mut self, note: String, count: u64) {
        let known = self.notes.len() < NOTES_MAX || self.notes.contains_key(&note);
        let note = if known { note } else { "further errors".to_owned() };
        *self.notes.entry(note).or_default() += count;
    }

    fn slot_at(&self, time: Duration) -> usize {
        let index = (time.as_nanos() / self.slot.as_nanos()) as usize;
        index.min(self.slots.len() - 1)
    }
}

fn add(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}

fn join<C: hdrhistogram::Counter>(mine: &mut Histogram<C>, theirs: &Histogram<C>) {
    mine.add(theirs).expect("both have the same bounds");
}

fn grow(histogram: &mut Histogram<u32>, length: Duration) {
    histogram.record(microseconds(length)).expect("it grows up to an hour");
}

fn microseconds(length: Duration) -> u64 {
    u64::try_from(length.as_micros())
        .map_or(MICROSECONDS_MAX, |micros| micros.min(MICROSECONDS_MAX))
}

fn fine() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MICROSECONDS_MAX, 3).expect("the bounds are constants")
}

/// Grows with what it holds: most slots and hosts see a narrow range of times.
fn coarse() -> Histogram<u32> {
    let mut histogram = Histogram::new(2).expect("two digits are allowed");
    histogram.auto(true);
    histogram
}
