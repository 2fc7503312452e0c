//! The handshake queue: serving threads push what has sent its ClientHello, handshake threads pull
//! what they can compute.
//!
//! The order, the bound and the shedding are [`FairQueue`]'s, keyed by customer. Each operation
//! holds the mutex for a few dozen nanoseconds, `next` also for one [`Waiting::is_gone`].
//!
//! No wake-up is lost. A worker registers with `wake` *before* it looks into the queue, and sleeps
//! only if it found the queue empty after that. So a push either happened before the look, which
//! then finds the entry, or after the registration, and then its `notify_one` wakes a worker that
//! is registered. A worker that was woken and is dropped before it looked passes the wake-up on
//! (tokio's `Notify` promises that); one that finds the entry taken by another looks again.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{QueueState, lock};
use crate::names::CustomerId;
use crate::queue::{self, FairQueue, Lane, Left, Why};
use crate::refusal::Refusal;

/// The bounds of the queue.
pub use crate::queue::Limits as HandshakeLimits;

/// Something that somebody waits for.
pub trait Waiting {
    /// Whether the one who waited is gone. Asked once, under the queue's lock: it may make a
    /// system call, but must not block.
    fn is_gone(&self) -> bool;
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
    /// When the client began to wait, not when accept returned.
    pub since: Instant,
    /// The connection.
    pub item: T,
}

/// The handshakes of the process that wait.
pub struct HandshakeQueue<T> {
    queue: Mutex<FairQueue<CustomerId, T>>,
    wake: Notify,
}

/// Entries that were turned away, and why; to be reset by the caller.
pub type Refused<T> = SmallVec<[(T, Refusal); 1]>;

impl<T: Waiting> HandshakeQueue<T> {
    /// An empty queue.
    pub fn new(limits: HandshakeLimits) -> HandshakeQueue<T> {
        HandshakeQueue { queue: Mutex::new(FairQueue::new(limits)), wake: Notify::new() }
    }

    /// Other bounds from now on; gives what no longer has room.
    pub fn reconfigure(&self, limits: HandshakeLimits) -> Refused<T> {
        let now = now();
        let mut queue = lock(&self.queue);
        queue.set_limits(limits);
        std::iter::from_fn(|| queue.expire(now).or_else(|| queue.shed(now))).map(refused).collect()
    }

    /// Takes an entry in; gives those that had to go for it or whose deadline has passed. The
    /// newcomer may be among them.
    pub fn push(&self, entry: Entry<T>) -> Refused<T> {
        let now = now();
        let entry = queue::Entry {
            key: entry.customer,
            weight: entry.weight,
            cost: entry.cost,
            lane: Lane::InOrder,
            since: entry.since,
            item: entry.item,
        };
        let out = {
            let mut queue = lock(&self.queue);
            let pushed = queue.push(entry, now).left;
            let expired = std::iter::from_fn(|| queue.expire(now));
            pushed.into_iter().chain(expired).map(refused).collect()
        };
        self.wake.notify_one();
        out
    }

    /// The next handshake to do and how long it waited. Entries that are past their deadline or
    /// that nobody waits for go to `discard`, outside the lock. Any number of tasks on any threads
    /// may wait here.
    ///
    /// *Cancel safety*: an entry is taken only on return; dropping the future loses none.
    pub async fn next(&self, mut discard: impl FnMut(T, Refusal, Duration)) -> (T, Duration) {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            while let Some(left) = self.pop() {
                match reason(left.why) {
                    None => return (left.item, left.waited),
                    Some(refusal) => discard(left.item, refusal, left.waited),
                }
            }
            woken.await;
        }
    }

    /// Takes out all that is past its deadline. Workers do so as they pull; this is for a clock
    /// beside them, so that nobody is left hanging where all workers are busy.
    pub fn expire(&self) -> Refused<T> {
        let now = now();
        let mut queue = lock(&self.queue);
        std::iter::from_fn(|| queue.expire(now)).map(refused).collect()
    }

    /// What the operator is shown.
    pub fn state(&self) -> QueueState {
        let queue = lock(&self.queue);
        QueueState {
            depth: queue.len(),
            limit: queue.limits().depth,
            oldest: queue.oldest().map_or(Duration::ZERO, |since| now() - since),
            fattest: queue.fattest().map(|(customer, count)| (customer.to_string(), count)),
        }
    }

    fn pop(&self) -> Option<Left<T>> {
        lock(&self.queue).pop(now(), T::is_gone)
    }
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
        Why::Displaced => Some(Refusal::HandshakeQueueFull),
    }
}

#[cfg(test)]
mod tests;
