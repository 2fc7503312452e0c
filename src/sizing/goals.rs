//! What the operator wants to hold, and whether he said so. Pure.

use std::fmt;
use std::time::Duration;

/// One goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal<T> {
    /// What is to hold.
    pub value: T,
    /// Whether the operator stated it; else it is the default.
    pub stated: bool,
}

/// What the operator wants to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goals {
    /// A new visitor is served or refused within it; the configuration's.
    pub handshake_deadline: Duration,
    /// A request is at an endpoint or refused within it; the configuration's.
    pub request_deadline: Duration,
    /// What a handshake in flight gets on top of its deadline, for the client's round trips.
    pub round_trips: Duration,
    /// The part of the machine kept for established connections while handshakes flood, 0 to 1.
    pub established_share: Goal<f64>,
    /// New connections a second in the worst burst expected.
    pub burst_per_second: Goal<f64>,
    /// The longest that accept may stand still: a page fault storm, a stopped virtual machine.
    pub accept_stall: Goal<Duration>,
    /// Requests a second of the slowest site that is still worth waiting for.
    pub slow_site_per_second: Goal<f64>,
    /// The part of the memory that connections may take, 0 to 1.
    pub memory_share: Goal<f64>,
}

impl<T> Goal<T> {
    /// One that nobody stated.
    pub fn usual(value: T) -> Goal<T> {
        Goal { value, stated: false }
    }

    /// The stated one, where there is one.
    pub fn or_stated(self, stated: Option<T>) -> Goal<T> {
        stated.map_or(self, |value| Goal { value, stated: true })
    }

    /// Where it comes from, in a word.
    pub fn origin(&self) -> &'static str {
        if self.stated { "goal" } else { "default" }
    }
}

impl Goal<f64> {
    /// A part of a whole, with where it comes from.
    pub(super) fn percent(self) -> impl fmt::Display {
        format!("{:.0} % ({})", 100.0 * self.value, self.origin())
    }

    /// A rate, with where it comes from.
    pub(super) fn rate(self) -> impl fmt::Display {
        format!("{}/s ({})", self.value, self.origin())
    }
}

impl Default for Goals {
    /// DESIGN's deadlines; the others are what a hosting company's edge meets.
    fn default() -> Goals {
        Goals {
            handshake_deadline: Duration::from_secs(1),
            request_deadline: Duration::from_secs(10),
            round_trips: Duration::from_millis(600),
            established_share: Goal::usual(0.2),
            burst_per_second: Goal::usual(4_000.0),
            accept_stall: Goal::usual(Duration::from_millis(500)),
            slow_site_per_second: Goal::usual(25.0),
            memory_share: Goal::usual(0.5),
        }
    }
}
