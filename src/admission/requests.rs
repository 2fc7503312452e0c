//! The gate in front of a site's endpoints: so many requests at one time, the others wait by
//! class, within a bound and a deadline.
//!
//! While there is room and nobody waits, entering is one compare-and-swap and leaving one
//! subtraction. Past the limit a request gets a place in a [`FairQueue`] keyed by class:
//! `critical` has its turn after at most one turn of another class, and the shares
//! ([`share`]) are a guarantee both of service and of places: a class within its share of the
//! queue is not shed while another exceeds its own, so `bulk` goes first.
//!
//! A place of the limit is in one of these states: *free*; *held* by a [`Permit`], of a request at
//! the endpoints or inside the answer channel of a waiter on its way there; *in transit* inside
//! `grant`, under the lock. `in_flight` counts all that are not free, and is raised by
//! compare-and-swap below the limit only: the limit is never exceeded, though it may fall below
//! what is in flight, which then drains.
//!
//! An adaptive limit is what the endpoints can do, and a client that takes its time is none of
//! their work: a download, a stream of events, an upload at its own pace. The gate counts those
//! ([`Paced`]). Once somebody has waited for [`STARTING_PATIENCE`] they no longer use up the limit,
//! until they are few and nobody waits. A fixed limit is a number of workers, which such a client
//! does occupy: it counts them always.
//!
//! No waiter is forgotten. A waiter enters the queue, publishes `waiting`, and then looks at
//! `in_flight` once more; a leaver lowers `in_flight` and then looks at `waiting`. All four are
//! sequentially consistent, so at least one of them sees the other, takes the lock and grants.
//!
//! A waiter's answer travels in a channel made for it. A permit is inside the answer: whoever drops
//! the channel, at whatever moment, drops the permit, which gives its place to the next.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::adaptation::Adaptation;
use super::gradient::{LIMIT_INITIAL, STARTING_PATIENCE};
use super::{QueueState, lock};
use crate::queue::{Entry, FairQueue, Lane, Limits, Sort, Ticket, Why};
use crate::refusal::Refusal;
use crate::sites::Class;

/// The bounds of a site's requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestLimits {
    /// Requests at the endpoints at one time, at least 1; `None` adapts to the observed latency.
    pub in_flight: Option<u32>,
    /// Requests that may wait.
    pub depth: usize,
    /// How long one may wait.
    pub deadline: Duration,
}

/// A site's gate; lives as long as the site, across reloads.
pub struct RequestGate {
    in_flight: AtomicU32,
    limit: AtomicU32,
    waiting: AtomicUsize,
    granted: AtomicU64,
    adapts: AtomicBool,
    adaptation: Adaptation,
    /// Of those in flight, the ones whose client sets the pace.
    paced: AtomicU32,
    /// Whether those use up nothing of the limit.
    lenient: AtomicBool,
    line: Mutex<FairQueue<Class, Answer>>,
}

type Answer = oneshot::Sender<Result<Permit, Refusal>>;

/// One request may be at the endpoints. Dropping it gives the place back.
pub struct Permit {
    gate: Arc<RequestGate>,
    paced: Option<Paced>,
}

/// A request in flight waits for its client. Over when dropped.
pub struct Paced(Arc<RequestGate>);

impl RequestGate {
    /// A gate that nobody has passed.
    pub fn new(limits: RequestLimits) -> Arc<RequestGate> {
        let gate = RequestGate {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(LIMIT_INITIAL),
            waiting: AtomicUsize::new(0),
            granted: AtomicU64::new(0),
            adapts: AtomicBool::new(true),
            adaptation: Adaptation::new(),
            paced: AtomicU32::new(0),
            lenient: AtomicBool::new(false),
            line: Mutex::new(FairQueue::new(of_line(limits))),
        };
        gate.set_limit(limits.in_flight);
        Arc::new(gate)
    }

    /// Other bounds from now on. An adaptive limit that stays adaptive keeps what it has learnt.
    pub fn reconfigure(self: &Arc<Self>, limits: RequestLimits) {
        self.set_limit(limits.in_flight);
        let mut answers = Answers::new();
        {
            let mut line = lock(&self.line);
            line.set_limits(of_line(limits));
            let now = now();
            while let Some(left) = line.shed(now) {
                answers.push((left.item, Err(refusal(left.why))));
            }
            self.publish(&line);
        }
        send(answers);
        self.grant();
    }

    /// Enters if there is room and nobody waits: atomics only.
    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        if self.waiting.load(Ordering::SeqCst) > 0 || !self.take_place() {
            return None;
        }
        Some(Permit::new(self))
    }

    /// Enters, waiting its turn where there is no room. `since` is when the request began to wait.
    /// Needs a runtime with a timer once it waits.
    ///
    /// *Cancel safety*: dropping the future at any point gives back the place in the queue, or the
    /// permit that was just granted.
    ///
    /// # Errors
    /// [`Refusal::RequestQueueFull`] at once or when shed later, [`Refusal::RequestDeadline`].
    pub async fn enter(self: &Arc<Self>, class: Class, since: Instant) -> Result<Permit, Refusal> {
        if let Some(permit) = self.try_enter() {
            return Ok(permit);
        }
        // Boxed: the timer is large, and most requests never wait.
        Box::pin(self.wait(class, since)).await
    }

    /// What the operator is shown of the waiting requests.
    pub fn state(&self) -> QueueState {
        let line = lock(&self.line);
        QueueState {
            depth: line.len(),
            limit: line.limits().depth,
            oldest: line.oldest().map_or(Duration::ZERO, |since| now() - since),
            fattest: line.fattest().map(|(class, count)| (class.label().to_owned(), count)),
        }
    }

    /// Whether anybody waits: one look, without the queue's lock.
    pub fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Requests that waited and were let in, since the gate was made: stands still while nobody
    /// moves, whatever is refused meanwhile.
    pub fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// Requests at the endpoints now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The limit in force.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    async fn wait(self: &Arc<Self>, class: Class, since: Instant) -> Result<Permit, Refusal> {
        let (answer, mut answered) = oneshot::channel();
        let (place, due) = self.join_line(class, since, answer);
        for until in [due.min(since + STARTING_PATIENCE), due] {
            tokio::select! {
                biased;
                answer = &mut answered => {
                    place.left();
                    return answer.unwrap_or(Err(Refusal::RequestDeadline));
                }
                () = tokio::time::sleep_until(until.into()) => self.relent(),
            }
        }
        match place.give_up() {
            Stood::Waiting => Err(Refusal::RequestDeadline),
            // Taken out of the line before we came: its answer is sent, or is being sent now.
            Stood::Answered => answered.await.unwrap_or(Err(Refusal::RequestDeadline)),
        }
    }

    /// Puts the waiter into the queue, refuses whom it displaced, and looks for room once more.
    fn join_line(
        self: &Arc<Self>,
        class: Class,
        since: Instant,
        answer: Answer,
    ) -> (Place, Instant) {
        let now = now();
        let mut answers = Answers::new();
        let (ticket, deadline) = {
            let mut line = lock(&self.line);
            let (weight, lane) = share(class);
            let entry =
                Entry { key: class, weight, cost: 1, lane, sort: Sort::Heavy, since, item: answer };
            let pushed = line.push(entry, now);
            if let Some(left) = pushed.left {
                answers.push((left.item, Err(refusal(left.why))));
            }
            self.publish(&line);
            (pushed.ticket, line.limits().deadline)
        };
        send(answers);
        self.grant();
        (Place { gate: self.clone(), ticket: Some(ticket) }, since + deadline)
    }

    /// Hands free places to those whose turn it is.
    fn grant(self: &Arc<Self>) {
        let mut answers = Answers::new();
        {
            let mut line = lock(&self.line);
            let now = now();
            let mut place = InTransit::None;
            while !line.is_empty() {
                if matches!(place, InTransit::None) {
                    if !self.take_place() {
                        break;
                    }
                    place = InTransit::One;
                }
                let Some(left) = line.pop(now, oneshot::Sender::is_closed) else { break };
                match left.why {
                    Why::Turn => {
                        place = InTransit::None;
                        self.granted.fetch_add(1, Ordering::Relaxed);
                        answers.push((left.item, Ok(Permit::new(self))));
                    }
                    Why::Gone => {}
                    Why::Displaced | Why::Expired | Why::Hopeless => {
                        answers.push((left.item, Err(refusal(left.why))));
                    }
                }
            }
            self.publish(&line);
            // Nobody waits: who comes later takes the lock after us and looks for room himself.
            if matches!(place, InTransit::One) {
                self.in_flight.fetch_sub(1, Ordering::SeqCst);
            }
            let are_few = 2 * self.paced.load(Ordering::SeqCst) < self.limit();
            if are_few && line.is_empty() {
                self.lenient.store(false, Ordering::SeqCst);
            }
        }
        send(answers);
    }

    /// Somebody has waited for long: whose client sets the pace uses up nothing of the limit; and
    /// while the start is not over, the requests are slow, as far as can be told.
    fn relent(self: &Arc<Self>) {
        if !self.adapts.load(Ordering::Relaxed) {
            return;
        }
        if let Some(limit) = self.adaptation.widen() {
            self.limit.store(limit, Ordering::SeqCst);
        }
        self.lenient.store(true, Ordering::SeqCst);
        self.grant();
    }

    /// How many may be in flight now.
    fn allowed(&self) -> u32 {
        let limit = self.limit.load(Ordering::SeqCst);
        let is_lenient = self.lenient.load(Ordering::SeqCst) && self.adapts.load(Ordering::SeqCst);
        if is_lenient { limit.saturating_add(self.paced.load(Ordering::SeqCst)) } else { limit }
    }

    fn take_place(&self) -> bool {
        let allowed = self.allowed();
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                (count < allowed).then_some(count + 1)
            })
            .is_ok()
    }

    /// There may be room for who waits.
    fn look_at_line(self: &Arc<Self>) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.grant();
        }
    }

    fn publish(&self, line: &FairQueue<Class, Answer>) {
        self.waiting.store(line.len(), Ordering::SeqCst);
    }

    fn set_limit(&self, fixed: Option<u32>) {
        self.adapts.store(fixed.is_none(), Ordering::SeqCst);
        let limit = fixed.map_or_else(|| self.adaptation.limit(), |limit| limit.max(1));
        self.limit.store(limit, Ordering::SeqCst);
    }
}

impl Permit {
    fn new(gate: &Arc<RequestGate>) -> Permit {
        Permit { gate: gate.clone(), paced: None }
    }

    /// The endpoint has begun to answer, and the rest takes as long as its client wants.
    pub fn streams(&mut self) {
        self.paced = Some(self.waits_for_client());
    }

    /// Its client has not sent all of it yet; until that is dropped.
    pub fn waits_for_client(&self) -> Paced {
        let gate = &self.gate;
        gate.paced.fetch_add(1, Ordering::SeqCst);
        gate.look_at_line();
        Paced(gate.clone())
    }

    /// The endpoint answered, `latency` after the request was sent: teaches the adaptive limit.
    pub fn succeeded(self, latency: Duration) {
        self.observe(Some(latency));
    }

    /// The endpoint refused, broke off or did not answer in time.
    pub fn failed(self) {
        self.observe(None);
    }

    fn observe(&self, latency: Option<Duration>) {
        let gate = &self.gate;
        if !gate.adapts.load(Ordering::Relaxed) {
            return;
        }
        let in_flight = gate.in_flight.load(Ordering::Relaxed);
        let Some(limit) = gate.adaptation.observe(latency, in_flight) else { return };
        // A reload to a fixed limit may come between; the next reload or window mends it.
        if gate.adapts.load(Ordering::SeqCst) {
            gate.limit.store(limit, Ordering::SeqCst);
            gate.look_at_line();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // First: what is allowed must not count one that is no longer in flight.
        self.paced = None;
        self.gate.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.gate.look_at_line();
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.0.paced.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A class's share of service and of places, and its lane. Where all three wait always, `critical`
/// has 16 of 19 turns, `normal` 2, `bulk` 1; a full queue leaves them 8, 2 and 1 of 11 places. An
/// urgent request waits for at most two others: the turn of `normal`.
pub fn share(class: Class) -> (u32, Lane) {
    match class {
        Class::Critical => (8, Lane::Ahead),
        Class::Normal => (2, Lane::InOrder),
        Class::Bulk => (1, Lane::InOrder),
    }
}

/// A waiter's place in the queue; leaves it when dropped.
struct Place {
    gate: Arc<RequestGate>,
    ticket: Option<Ticket>,
}

enum Stood {
    Waiting,
    Answered,
}

enum InTransit {
    None,
    One,
}

impl Place {
    /// The answer has come: the entry is out already.
    fn left(mut self) {
        self.ticket = None;
    }

    fn give_up(mut self) -> Stood {
        self.leave()
    }

    fn leave(&mut self) -> Stood {
        let Some(ticket) = self.ticket.take() else { return Stood::Answered };
        let removed = {
            let mut line = lock(&self.gate.line);
            let removed = line.remove(ticket);
            self.gate.publish(&line);
            removed
        };
        if removed.is_some() { Stood::Waiting } else { Stood::Answered }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Sent outside the lock: an answer nobody takes drops its permit, which takes the lock.
type Answers = SmallVec<[(Answer, Result<Permit, Refusal>); 2]>;

fn send(answers: Answers) {
    for (answer, result) in answers {
        // An error means that the waiter is gone; the answer, and a permit in it, is dropped here.
        drop(answer.send(result));
    }
}

fn refusal(why: Why) -> Refusal {
    match why {
        Why::Displaced | Why::Hopeless => Refusal::RequestQueueFull,
        Why::Expired | Why::Gone | Why::Turn => Refusal::RequestDeadline,
    }
}

fn of_line(limits: RequestLimits) -> Limits {
    // While no endpoint answers all wait, up to the deadline: a line that stands is no flood here.
    Limits { depth: limits.depth, deadline: limits.deadline, patience: limits.deadline }
}

/// tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
