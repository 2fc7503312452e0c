//! Who may go on, who waits, who is turned away: [`FairQueue`](crate::queue::FairQueue) made
//! usable from many threads.
//!
//! [`HandshakeQueue`] is one for the process: serving threads push, handshake threads pull.
//! [`RequestGate`] is one for each site: a limit of requests at the endpoints, fixed or found by
//! [`gradient`], and a queue by class in front of it. [`rate`] caps what comes to a site in a
//! second, [`clients`] what comes from one client, [`held`] what either holds at one time. Nothing
//! here knows a socket, a site's configuration or a metric: the caller hands in numbers and reads
//! [`QueueState`].
//!
//! What always holds: who waits has an entry in exactly one queue, and leaves it by its turn, by a
//! refusal, or by dropping its future; a permit is a value, and whoever drops it gives it back.

mod adaptation;
pub mod clients;
pub mod gradient;
pub mod handshakes;
pub mod held;
pub mod rate;
pub mod requests;

use std::time::Duration;

use serde::Serialize;

pub use clients::ClientRates;
pub use handshakes::{Entry, HandshakeLimits, HandshakeQueue, Waiting};
pub use held::{Held, HeldLimits, Hold, Reached};
pub use rate::Rate;
pub use requests::{Paced, Permit, RequestGate, RequestLimits};

use sync::{Mutex, MutexGuard, PoisonError};

/// Where threads meet. Named here, so that a scheduler that tries all orders can take the place of
/// the kernel's (tests/threads.rs).
mod sync {
    pub use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

/// What an operator is shown of a queue.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct QueueState {
    /// Entries that wait now.
    pub depth: usize,
    /// Entries that may wait.
    pub limit: usize,
    /// How long the oldest has waited; zero where none waits.
    pub oldest: Duration,
    /// The key that holds most by weight, and what it holds: the first to be shed from.
    pub fattest: Option<(String, usize)>,
}

/// Locks. A panic of another thread inside the lock leaves the data as it was between two
/// operations or one entry short; turning everybody away for that would be the greater harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
