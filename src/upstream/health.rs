//! An endpoint's standing from the outcomes of requests and of active checks. Pure: `now` is an
//! argument.
//!
//! States and who moves an endpoint between them:
//!
//! - **up**: serves. [`FAILURES_MAX`] failed requests in a row eject it, unless it is the last one
//!   that could serve; the `unhealthy` threshold of failed checks in a row takes it down.
//! - **ejected** until a point in time: serves only while nobody else can. When the time has come it
//!   serves again on probation: one more failure ejects it for twice as long
//!   ([`EJECTION_FIRST`], doubling up to [`EJECTION_MAX`]), one success clears its record.
//! - **down** by active checks: never serves. The `healthy` threshold of passed checks in a row
//!   brings it up and clears its record.
//!
//! A failure is: no connection, no answer in time, closed or malformed before the answer's head.
//! A status code, 5xx included, is an answer: it is the site's word, and taking an endpoint away
//! because of one broken page would make it everybody's.

use std::time::Duration;

use tokio::time::Instant;

use super::balance::Standing;

/// Failures in a row that eject: one may be an accident, three are none.
pub const FAILURES_MAX: u32 = 3;

/// The first ejection's length.
pub const EJECTION_FIRST: Duration = Duration::from_secs(1);

/// The longest ejection: an endpoint that is repaired gets requests again within a minute.
pub const EJECTION_MAX: Duration = Duration::from_secs(60);

/// Thresholds of the active check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thresholds {
    /// Passed checks in a row that bring an endpoint up.
    pub healthy: u32,
    /// Failed checks in a row that take it down.
    pub unhealthy: u32,
}

/// Whether somebody else could serve in an endpoint's stead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Others {
    /// At least one other endpoint is up.
    Stand,
    /// It is the last one.
    Gone,
}

/// What a failure led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is counted; nothing changes.
    Counted,
    /// The endpoint is ejected.
    Ejected,
    /// It would be ejected now, were it not the last one; told once in a row of failures.
    Kept,
}

/// What is known of one endpoint's health.
#[derive(Clone, Debug, Default)]
pub struct Health {
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
    down: bool,
    checks_passed: u32,
    checks_failed: u32,
}

impl Health {
    /// The standing at `now`.
    pub fn standing(&self, now: Instant) -> Standing {
        if self.down {
            return Standing::Down;
        }
        match self.ejected_until {
            Some(until) if now < until => Standing::Ejected,
            _ => Standing::Up,
        }
    }

    /// Whether an active check took it out.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// When the latest ejection ends or ended; a success forgets it.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejected_until
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether there is nothing that a success would clear.
    pub fn is_spotless(&self) -> bool {
        self.failures == 0 && self.ejections == 0
    }

    /// A request got its answer.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.ejections = 0;
        self.ejected_until = None;
    }

    /// A request failed.
    pub fn failed(&mut self, now: Instant, others: Others) -> Verdict {
        self.failures = self.failures.saturating_add(1);
        let on_probation = self.ejections > 0;
        if self.standing(now) != Standing::Up || (self.failures < FAILURES_MAX && !on_probation) {
            return Verdict::Counted;
        }
        if others == Others::Gone {
            return if self.failures == FAILURES_MAX { Verdict::Kept } else { Verdict::Counted };
        }
        let doubled = EJECTION_FIRST * 2u32.saturating_pow(self.ejections.min(16));
        self.ejected_until = Some(now + doubled.min(EJECTION_MAX));
        self.ejections += 1;
        Verdict::Ejected
    }

    /// An active check has passed.
    pub fn check_passed(&mut self, thresholds: Thresholds) {
        self.checks_failed = 0;
        self.checks_passed = self.checks_passed.saturating_add(1);
        if self.down && self.checks_passed >= thresholds.healthy {
            self.down = false;
            self.succeeded();
        }
    }

    /// An active check has failed.
    pub fn check_failed(&mut self, thresholds: Thresholds) {
        self.checks_passed = 0;
        self.checks_failed = self.checks_failed.saturating_add(1);
        if self.checks_failed >= thresholds.unhealthy {
            self.down = true;
        }
    }

    /// The site has no active check any more: what one has said is forgotten.
    pub fn check_removed(&mut self) {
        (self.down, self.checks_passed, self.checks_failed) = (false, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { healthy: 2, unhealthy: 3 };

    #[test]
    fn three_failures_in_a_row_eject_for_a_second() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.failed(now, Others::Stand), Verdict::Counted);
        assert_eq!(health.failed(now, Others::Stand), Verdict::Counted);
        assert_eq!(health.standing(now), Standing::Up);
        assert_eq!(health.failed(now, Others::Stand), Verdict::Ejected);
        assert_eq!(health.standing(now), Standing::Ejected);
        assert_eq!(health.standing(now + EJECTION_FIRST), Standing::Up);
    }

    #[test]
    fn a_success_between_failures_clears_the_record() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..10 {
            health.failed(now, Others::Stand);
            health.failed(now, Others::Stand);
            health.succeeded();
        }
        assert_eq!(health.standing(now), Standing::Up);
        assert!(health.is_spotless());
    }

    #[test]
    fn ejections_grow_on_probation_up_to_their_bound() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        health.failed(now, Others::Stand);
        health.failed(now, Others::Stand);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(health.failed(now, Others::Stand), Verdict::Ejected);
            assert_eq!(health.ejected_until(), Some(now + Duration::from_secs(expected)));
            // What fails while ejected changes nothing: it was tried for want of anybody else.
            assert_eq!(health.failed(now, Others::Stand), Verdict::Counted);
            now += Duration::from_secs(expected);
        }
        health.succeeded();
        health.failed(now, Others::Stand);
        assert_eq!(health.standing(now), Standing::Up);
    }

    #[test]
    fn the_last_one_standing_is_never_ejected() {
        let (mut health, now) = (Health::default(), Instant::now());
        for count in 1..100 {
            let expected = if count == FAILURES_MAX { Verdict::Kept } else { Verdict::Counted };
            assert_eq!(health.failed(now, Others::Gone), expected);
        }
        assert_eq!(health.standing(now), Standing::Up);
    }

    #[test]
    fn checks_take_down_and_bring_up_at_their_thresholds() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.check_failed(THRESHOLDS);
        health.check_failed(THRESHOLDS);
        health.check_passed(THRESHOLDS);
        health.check_failed(THRESHOLDS);
        health.check_failed(THRESHOLDS);
        assert_eq!(health.standing(now), Standing::Up);
        health.check_failed(THRESHOLDS);
        assert_eq!(health.standing(now), Standing::Down);
        health.check_passed(THRESHOLDS);
        assert_eq!(health.standing(now), Standing::Down);
        health.check_passed(THRESHOLDS);
        assert_eq!(health.standing(now), Standing::Up);
    }

    #[test]
    fn a_request_that_succeeds_does_not_overrule_the_check() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..3 {
            health.check_failed(THRESHOLDS);
        }
        health.succeeded();
        assert_eq!(health.standing(now), Standing::Down);
        health.check_removed();
        assert_eq!(health.standing(now), Standing::Up);
    }
}
