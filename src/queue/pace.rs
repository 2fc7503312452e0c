//! How fast a line has been served since it was last empty, and what a newcomer can hope for by that.

use std::time::{Duration, Instant};

use super::is_past;

/// So many served tell the pace of a line.
const SERVED_MIN: u64 = 8;
/// And a line that has not been empty for this part of the deadline; a shorter one is a burst.
const BURST: u32 = 16;

/// The pace of a line that is not empty.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// When it was last empty.
    since: Instant,
    /// Served since `counted_since`: `since`, or one to two deadlines ago.
    served: u64,
    counted_since: Instant,
    /// When a newcomer was last told that it has no hope.
    told_at: Option<Instant>,
}

impl Pace {
    /// The line has its first entry.
    pub(super) fn begin(now: Instant) -> Pace {
        Pace { since: now, served: 0, counted_since: now, told_at: None }
    }

    /// One more was served. What is long past counts for less and less.
    pub(super) fn serve(&mut self, deadline: Duration, now: Instant) {
        self.served += 1;
        if is_past(self.counted_since, deadline * 2, now) {
            self.served /= 2;
            self.counted_since += now.saturating_duration_since(self.counted_since) / 2;
        }
    }

    /// Whether a newcomer behind `count` would be served later than `patience`, at this pace; it is to
    /// be told so.
    pub(super) fn tell(
        &mut self,
        count: u64,
        patience: Duration,
        deadline: Duration,
        now: Instant,
    ) -> bool {
        let is_known = self.served >= SERVED_MIN || is_past(self.since, deadline * 2, now);
        if !is_known || !is_past(self.since, deadline / BURST, now) {
            return false;
        }
        let counted = now.saturating_duration_since(self.counted_since);
        let is_late =
            u128::from(count) * counted.as_nanos() >= u128::from(self.served) * patience.as_nanos();
        if is_late {
            self.told_at = Some(now);
        }
        is_late
    }

    /// Whether a newcomer was told so in the last `time`.
    pub(super) fn has_told(&self, time: Duration, now: Instant) -> bool {
        self.told_at.is_some_and(|at| !is_past(at, time, now))
    }
}
