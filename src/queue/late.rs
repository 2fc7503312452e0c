//! How long a line has made wait for too long, and how fast it was served meanwhile.

use std::time::{Duration, Instant};

use super::is_past;

/// A line that makes wait for too long.
#[derive(Clone, Copy)]
pub(super) struct Late {
    pub(super) since: Instant,
    /// Entries served, and since when they are counted: one to two deadlines ago, or `since`.
    served: u64,
    counted_since: Instant,
    /// When a newcomer last had no hope.
    pub(super) hopeless_at: Option<Instant>,
}

impl Late {
    pub(super) fn begin(now: Instant) -> Late {
        Late { since: now, served: 0, counted_since: now, hopeless_at: None }
    }

    /// One more was served. What is long past counts for less and less.
    pub(super) fn serve(mut self, deadline: Duration, now: Instant) -> Late {
        self.served += 1;
        if is_past(self.counted_since, deadline * 2, now) {
            self.served /= 2;
            self.counted_since += now.saturating_duration_since(self.counted_since) / 2;
        }
        self
    }

    /// Whether `count` are as many as were served in `time`.
    pub(super) fn is_beyond(&self, count: u64, time: Duration, now: Instant) -> bool {
        let counted = now.saturating_duration_since(self.counted_since);
        u128::from(count) * counted.as_nanos() >= u128::from(self.served) * time.as_nanos()
    }
}
