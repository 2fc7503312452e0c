//! What the tasks of one generator thread share: the clock, the figures, the bound on work in
//! flight.
//!
//! The tally stands behind a mutex that only this thread's tasks take, never across an await, so
//! it is never contended.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::load::answer::{Answer, Body};
use crate::load::connect::{Clock, Failure, Route, timed_out};
use crate::load::outcome::{Fact, Outcome, Span, Times};
use crate::load::tally::Tally;
use crate::load::target::Url;
use crate::load::{Live, Stay, Traffic, h1, h2};

/// One piece of work that is due.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When, from the start of the run.
    pub due: Duration,
    /// Index into the traffic's hosts.
    pub host: usize,
    /// Its place in the schedule.
    pub number: usize,
}

/// What became of an arrival so far; written as it goes, so that nothing is lost when its client
/// loses patience.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    /// Index into the traffic's hosts.
    pub host: usize,
    /// Stages reached.
    pub times: Times,
    /// The answer's status.
    pub status: Option<u16>,
    /// Body bytes.
    pub bytes: u64,
    /// Whether the TLS session was resumed.
    pub resumed: bool,
    /// Its place in the schedule.
    pub number: usize,
    /// What there is to say beside the outcome.
    pub note: Option<String>,
}

impl Visit {
    /// Nothing yet.
    pub fn new(arrival: Arrival) -> Visit {
        Visit {
            host: arrival.host,
            number: arrival.number,
            times: Times { scheduled: arrival.due, ..Times::default() },
            ..Visit::default()
        }
    }
}

/// A host's request, ready to be sent either way.
#[derive(Debug)]
pub struct Asking {
    /// As in the Host field.
    pub host: String,
    /// For HTTP/1.1.
    pub h1: Vec<u8>,
    /// For HTTP/2.
    pub h2: http::Request<()>,
}

/// One generator thread's part of a traffic.
#[derive(Debug)]
pub struct Lane {
    /// The traffic.
    pub traffic: Arc<Traffic>,
    /// Where its connections go.
    pub route: Arc<Route>,
    /// The run's time.
    pub clock: Clock,
    /// By host index.
    pub requests: Vec<Asking>,
    /// By host index: what a body must hold.
    expected: Option<Vec<String>>,
    tally: Mutex<Tally>,
    live: Arc<Live>,
    in_flight: AtomicUsize,
    drained: Notify,
}

impl Lane {
    /// A lane in which nothing has happened.
    ///
    /// # Errors
    /// Where host and path make no URI.
    pub fn new(
        traffic: Arc<Traffic>,
        route: Arc<Route>,
        url: &Url,
        clock: Clock,
        (tally, live): (Tally, Arc<Live>),
    ) -> Result<Lane, http::Error> {
        let names = traffic.hosts.names();
        let requests = names
            .iter()
            .map(|name| {
                let host = format!("{name}{}", url.port_suffix);
                let h1 = h1::request(&host, &traffic.path);
                let h2 = h2::request(url.scheme, &host, &traffic.path)?;
                Ok(Asking { host, h1, h2 })
            })
            .collect::<Result<_, http::Error>>()?;
        let expected = traffic
            .expect
            .as_ref()
            .map(|text| names.iter().map(|name| text.replace("{host}", name.as_str())).collect());
        Ok(Lane {
            requests,
            expected,
            traffic,
            route,
            clock,
            tally: Mutex::new(tally),
            live,
            in_flight: AtomicUsize::new(0),
            drained: Notify::new(),
        })
    }

    /// Judges a failure before the run: of several hosts one that the server refuses by its name, with
    /// an alert, is forgiven and given back. With several hosts its words name the one.
    ///
    /// # Errors
    /// Any other failure.
    pub fn forgive(&self, host: usize, failure: Failure) -> Result<Failure, Failure> {
        let names = self.traffic.hosts.names();
        if names.len() < 2 {
            return Err(failure);
        }
        let outcome = failure.outcome;
        let words = failure.note.unwrap_or_else(|| outcome.title().to_owned());
        let named = Failure::noted(outcome, format!("{}: {words}", names[host]));
        if outcome == Outcome::Alert { Ok(named) } else { Err(named) }
    }

    /// Begins one piece of work; says how much is now in flight.
    pub fn begin(&self) -> usize {
        self.live.offered.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts by how much later than due the generator took an arrival up.
    pub fn taken_up(&self, arrival: Arrival) {
        self.tally().late(self.clock.now().saturating_sub(arrival.due));
    }

    /// Counts a connection made anew.
    pub fn reconnected(&self) {
        self.tally().reconnected();
    }

    /// When the client of work that was due then loses patience: the slow ones never do, they stay
    /// while the run lasts.
    fn deadline(&self, due: Duration) -> Instant {
        let traffic = &self.traffic;
        let after = match traffic.kind.stay() {
            Stay::Lingering => traffic.start + traffic.length,
            Stay::Passing | Stay::Standing => due + traffic.patience,
        };
        Instant::from_std(self.clock.0 + after)
    }

    fn out_of_patience(&self, times: &Times) -> Outcome {
        match self.traffic.kind.stay() {
            Stay::Lingering => Outcome::Held,
            Stay::Passing | Stay::Standing => timed_out(times),
        }
    }

    /// Waits for the work's end until its client loses patience, and counts it.
    pub async fn see_through(
        &self,
        mut visit: Visit,
        work: impl AsyncFnOnce(&mut Visit) -> Result<Outcome, Failure>,
    ) -> Outcome {
        let deadline = self.deadline(visit.times.scheduled);
        let ended = tokio::time::timeout_at(deadline, work(&mut visit)).await;
        let result = match ended {
            Ok(result) => result,
            Err(_) => Ok(self.out_of_patience(&visit.times)),
        };
        self.end(visit, result)
    }

    /// Counts an end, and gives back its outcome.
    pub fn end(&self, mut visit: Visit, result: Result<Outcome, Failure>) -> Outcome {
        visit.times.done = self.clock.now();
        let (outcome, note) = match result {
            Ok(outcome) => (outcome, visit.note.take()),
            Err(failure) => (failure.outcome, visit.note.take().or(failure.note)),
        };
        self.live.ended[outcome.family() as usize].fetch_add(1, Ordering::Relaxed);
        if let (Outcome::Completed, Some(total)) = (outcome, Span::Total.of(&visit.times)) {
            let microseconds = u64::try_from(total.as_micros()).unwrap_or(u64::MAX);
            self.live.microseconds.fetch_add(microseconds, Ordering::Relaxed);
        }
        self.tally().record(Fact {
            host: visit.host,
            times: visit.times,
            outcome,
            status: visit.status,
            bytes: visit.bytes,
            resumed: visit.resumed,
            note,
        });
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.drained.notify_one();
        }
        outcome
    }

    /// Waits until nothing is in flight.
    pub async fn drain(&self) {
        while self.in_flight.load(Ordering::Relaxed) > 0 {
            self.drained.notified().await;
        }
    }

    /// The figures so far.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody wants to look into bodies.
    pub fn body(&self) -> Body {
        if self.expected.is_some() { Body::Keep } else { Body::Count }
    }

    /// What a whole answer means.
    pub fn judge(&self, visit: &mut Visit, answer: &Answer) -> Outcome {
        visit.status = Some(answer.status);
        visit.bytes += answer.bytes;
        if answer.status == 503 {
            return Outcome::RefusedStatus;
        }
        if answer.status >= 400 {
            return Outcome::WrongStatus;
        }
        let Some(expected) = &self.expected else { return Outcome::Completed };
        match memchr::memmem::find(&answer.kept, expected[visit.host].as_bytes()) {
            Some(_) => Outcome::Completed,
            None => Outcome::WrongBody,
        }
    }
}
