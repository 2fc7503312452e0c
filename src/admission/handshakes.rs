//! The handshake queue: serving threads push what has sent its ClientHello, handshake threads pull
//! what they can compute.
//!
//! The order, the bound and the shedding are [`FairQueue`]'s, keyed by customer; its sorts are full
//! handshakes and resumptions. Each operation holds the mutex for a few dozen nanoseconds, `next`
//! also for one [`Waiting::is_gone`].
//!
//! A handshake that has begun holds a place until [`end`](HandshakeQueue::end); the places bound
//! what is between its first step and its last. One that needs another step goes on before all that
//! wait: its client has been served already.
//!
//! Brief ones are computed by serving threads, too, while little waits: each asks for the next one
//! between two looks at its sockets.
//!
//! No wake-up is lost: a worker looks, counts itself among the sleeping and sleeps under one lock,
//! and whoever adds work looks at that count under the same lock. A serving thread that said it would
//! help wakes a worker where it leaves something.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use super::{QueueState, lock};
use crate::names::CustomerId;
use crate::queue::{self, FairQueue, Lane, Left, Limits, Sort, Why};
use crate::refusal::Refusal;

/// Where a customer's line would make a newcomer wait for more than this part of the deadline, it is
/// turned away at once (see [`queue`]). Those let in are served in time even where the pace falls by
/// half, since another customer comes or the machine slows down; and the threads never run out of
/// work between two looks of a serving thread.
const PATIENCE: (u32, u32) = (3, 8);

/// While what waits takes a core no longer than this, serving threads compute brief handshakes
/// themselves, and no handshake thread is woken for them. A visitor does not notice it, and a flood
/// is soon past it.
const HELPED_MAX: Duration = Duration::from_millis(10);

/// The bounds of the queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HandshakeLimits {
    /// Handshakes that may wait.
    pub depth: usize,
    /// Age past which one is not begun.
    pub deadline: Duration,
}

/// Something that somebody waits for.
pub trait Waiting {
    /// Whether the one who waited is gone. Asked once, under the queue's lock: it may make a
    /// system call, but must not block.
    fn is_gone(&self) -> bool;

    /// Whether a serving thread may begin it (see [`HandshakeQueue::next_brief`]).
    fn is_brief(&self) -> bool;
}

/// What comes into the queue.
#[derive(Debug)]
pub struct Entry<T> {
    /// Whom it is counted for; unknown server names share one.
    pub customer: CustomerId,
    /// The customer's share.
    pub weight: u32,
    /// What the handshake will cost, microseconds of a core.
    pub cost: u32,
    /// [`Sort::Light`] where the client offers to resume a session.
    pub sort: Sort,
    /// When the client began to wait, not when accept returned.
    pub since: Instant,
    /// The connection.
    pub item: T,
}

/// The handshakes of the process that wait.
pub struct HandshakeQueue<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    places: usize,
}

struct State<T> {
    waiting: FairQueue<CustomerId, T>,
    /// They hold a place; so there are no more than places.
    going_on: VecDeque<T>,
    /// Places taken.
    begun: usize,
    /// Workers that wait for work.
    sleeping: usize,
}

impl<T> State<T> {
    fn is_little(&self) -> bool {
        u128::from(self.waiting.work()) <= HELPED_MAX.as_micros()
    }
}

/// Entries that were turned away, and why; to be reset by the caller.
pub type Refused<T> = SmallVec<[(T, Refusal); 1]>;

impl<T: Waiting> HandshakeQueue<T> {
    /// An empty queue; `places` handshakes may be between their first step and their end.
    pub fn new(limits: HandshakeLimits, places: usize) -> HandshakeQueue<T> {
        let state = State {
            waiting: FairQueue::new(of_queue(limits)),
            going_on: VecDeque::new(),
            begun: 0,
            sleeping: 0,
        };
        HandshakeQueue { state: Mutex::new(state), work: Condvar::new(), places }
    }

    /// Other bounds from now on; gives what no longer has room.
    pub fn reconfigure(&self, limits: HandshakeLimits) -> Refused<T> {
        let now = now();
        let queue = &mut lock(&self.state).waiting;
        queue.set_limits(of_queue(limits));
        std::iter::from_fn(|| queue.expire(now).or_else(|| queue.shed(now))).map(refused).collect()
    }

    /// Takes an entry in; gives those that had to go for it or whose deadline has passed. The
    /// newcomer may be among them. With `helps` it is brief, and the caller's thread will ask for the
    /// [next brief one](HandshakeQueue::next_brief) soon, or [leave](HandshakeQueue::leave) it.
    pub fn push(&self, entry: Entry<T>, helps: bool) -> Refused<T> {
        let now = now();
        let entry = queue::Entry {
            key: entry.customer,
            weight: entry.weight,
            cost: entry.cost,
            lane: Lane::InOrder,
            sort: entry.sort,
            since: entry.since,
            item: entry.item,
        };
        let mut state = lock(&self.state);
        let pushed = state.waiting.push(entry, now).left;
        let expired = std::iter::from_fn(|| state.waiting.expire(now));
        let out = pushed.into_iter().chain(expired).map(refused).collect();
        if !(helps && state.is_little()) {
            self.wake_one(state);
        }
        out
    }

    /// What is next, for a serving thread, and how long it waited: `None` unless it is brief, little
    /// waits and there is a place. Whatever is not for serving threads has woken a worker as it came.
    /// Otherwise as [`next`](HandshakeQueue::next).
    pub fn next_brief(&self, mut discard: impl FnMut(T, Refusal)) -> Option<(T, Duration)> {
        loop {
            let mut state = lock(&self.state);
            let now = now();
            let is_free = state.begun < self.places && state.going_on.is_empty();
            if !is_free || !state.is_little() || !state.waiting.peek(now)?.is_brief() {
                return None;
            }
            let left = state.waiting.pop(now, T::is_gone)?;
            let begins = begin(state, left, &mut discard);
            if begins.is_some() {
                return begins;
            }
        }
    }

    /// What is left is for the handshake threads: the caller's thread does not ask any more.
    pub fn leave(&self) {
        let state = lock(&self.state);
        if !state.waiting.is_empty() {
            self.wake_one(state);
        }
    }

    /// Charges a customer for a handshake that cost so much more than its entry said.
    pub fn charge(&self, customer: &CustomerId, sort: Sort, cost: u32) {
        lock(&self.state).waiting.charge(customer, sort, cost);
    }

    /// Lets a handshake that has begun take another step, before all that wait.
    pub fn go_on(&self, item: T) {
        let mut state = lock(&self.state);
        state.going_on.push_back(item);
        self.wake_one(state);
    }

    /// A handshake that has begun is over: its place is free, for one that waited for it.
    pub fn end(&self) {
        let mut state = lock(&self.state);
        let was_full = state.begun == self.places;
        state.begun -= 1;
        if was_full && !state.waiting.is_empty() {
            self.wake_one(state);
        }
    }

    /// The next step to do, and how long its entry waited for it; one that goes on has not. Entries
    /// past their deadline or that nobody waits for go to `discard`, outside the lock. Blocks the
    /// thread until there is one. An entry that has not gone on yet takes a place.
    pub fn next(&self, mut discard: impl FnMut(T, Refusal)) -> (T, Duration) {
        let mut state = lock(&self.state);
        loop {
            if let Some(item) = state.going_on.pop_front() {
                return (item, Duration::ZERO);
            }
            let free = state.begun < self.places;
            match free.then(|| state.waiting.pop(now(), T::is_gone)).flatten() {
                Some(left) => {
                    if let Some(begins) = begin(state, left, &mut discard) {
                        return begins;
                    }
                    state = lock(&self.state);
                }
                None => {
                    state.sleeping += 1;
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.sleeping -= 1;
                }
            }
        }
    }

    /// Takes out all that is past its deadline. Workers do so as they pull; this is for a clock
    /// beside them, so that nobody is left hanging where all workers are busy.
    pub fn expire(&self) -> Refused<T> {
        let now = now();
        let queue = &mut lock(&self.state).waiting;
        std::iter::from_fn(|| queue.expire(now)).map(refused).collect()
    }

    /// How long one worker would compute for all that wait, by what their entries say; zero where
    /// none waits.
    pub fn backlog(&self) -> Duration {
        Duration::from_micros(lock(&self.state).waiting.work())
    }

    /// What the operator is shown.
    pub fn state(&self) -> QueueState {
        let queue = &lock(&self.state).waiting;
        QueueState {
            depth: queue.len(),
            limit: queue.limits().depth,
            oldest: queue.oldest().map_or(Duration::ZERO, |since| now() - since),
            fattest: queue.fattest().map(|(customer, count)| (customer.to_string(), count)),
        }
    }

    /// Where all workers compute, each looks again before it sleeps: no system call then.
    fn wake_one(&self, state: MutexGuard<'_, State<T>>) {
        let sleeping = state.sleeping > 0;
        drop(state);
        if sleeping {
            self.work.notify_one();
        }
    }
}

/// What has its turn takes a place; anything else goes to `discard`, outside the lock.
fn begin<T>(
    mut state: MutexGuard<'_, State<T>>,
    left: Left<T>,
    discard: &mut impl FnMut(T, Refusal),
) -> Option<(T, Duration)> {
    let Some(refusal) = reason(left.why) else {
        state.begun += 1;
        return Some((left.item, left.waited));
    };
    drop(state);
    discard(left.item, refusal);
    None
}

/// tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn refused<T>(left: Left<T>) -> (T, Refusal) {
    (left.item, reason(left.why).unwrap_or(Refusal::HandshakeQueueFull))
}

fn reason(why: Why) -> Option<Refusal> {
    match why {
        Why::Turn => None,
        Why::Gone => Some(Refusal::ClientGone),
        Why::Expired => Some(Refusal::HandshakeDeadline),
        Why::Displaced | Why::Hopeless => Some(Refusal::HandshakeQueueFull),
    }
}

fn of_queue(limits: HandshakeLimits) -> Limits {
    let HandshakeLimits { depth, deadline } = limits;
    let (parts, of) = PATIENCE;
    Limits { depth, deadline, patience: deadline * parts / of }
}

#[cfg(test)]
#[path = "handshakes/tests.rs"]
mod tests;
