//! How long an exchange waits for its endpoint, whatever it waits for at the moment.
//!
//! One deadline serves a connection. It is armed anew when the exchange waits for something else,
//! or when there was progress; a clock is read at no other time.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Timeouts;
use crate::timers::Deadline;

/// How long a body is held back for the endpoint's `100 Continue`; curl's figure. Endpoints that
/// never send one are common, and RFC 9110 10.1.1 asks not to wait for ever.
pub const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waits {
    /// Nothing of the endpoint's: the client's next piece, which has a deadline of its own.
    Nothing,
    /// That the endpoint takes what was written.
    Writing,
    /// `100 Continue`.
    Continue,
    /// The response head.
    Answer,
    /// The next piece of the response body.
    Piece,
}

/// What the deadline was armed for.
#[derive(Debug)]
pub(super) struct Patience {
    waits: Waits,
    timeouts: Timeouts,
    /// The time, for the first wait alone: it begins a moment after.
    now: Option<Instant>,
}

impl Patience {
    /// Of an exchange that begins `now`, and is polled at once.
    pub(super) fn new(timeouts: Timeouts, now: Instant) -> Patience {
        Patience { waits: Waits::Nothing, timeouts, now: Some(now) }
    }

    /// Something moved: the time counts from the next wait on.
    pub(super) fn progressed(&mut self) {
        self.waits = Waits::Nothing;
    }

    /// Ready once `waits` has taken too long. To be polled after everything else was pending.
    pub(super) fn poll_exhausted(
        &mut self,
        deadline: &Deadline,
        waits: Waits,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let now = self.now.take();
        let patience = match waits {
            Waits::Nothing => {
                // Not by `self.waits`: progress says the same, and leaves the deadline as it was.
                deadline.disarm();
                self.waits = waits;
                return Poll::Pending;
            }
            Waits::Writing | Waits::Piece => self.timeouts.body,
            Waits::Continue => CONTINUE_PATIENCE,
            Waits::Answer => self.timeouts.response,
        };
        if self.waits != waits {
            self.waits = waits;
            deadline.arm_at(now.unwrap_or_else(Instant::now) + patience);
        }
        deadline.poll_elapsed(cx).map(drop)
    }
}
