//! What may be tried again, and how often. Pure: the time is an argument.
//!
//! The cases (RFC 9110 9.2.2, RFC 9112 9.3.1):
//!
//! 1. No connection: nothing was sent. Another endpoint, always; no budget is needed, because a
//!    connection attempt is no request.
//! 2. A kept-alive connection died before any byte of the answer: the endpoint closed it while the
//!    request was on its way. Once more on a fresh connection, whatever the method.
//! 3. A fresh connection died before any byte of the answer: the endpoint may have begun the work.
//!    Another endpoint, for an idempotent method only.
//! 4. The endpoint said that it processed nothing (HTTP/2 REFUSED_STREAM, GOAWAY): as 2.
//! 5. Anything was answered, the time is up, or the head was malformed: never.
//!
//! In every case no byte of the request body may have been taken from the client: it is relayed,
//! not kept. 2 to 4 draw on the site's [`Budget`], and a request is sent at most [`SENDS_MAX`]
//! times.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::refusal::Refusal;

/// How often one request is sent at most, the first time included.
pub const SENDS_MAX: u32 = 3;

/// How far an attempt came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// No connection was made.
    Connecting,
    /// Sent, wholly or in part, over a fresh connection; nothing answered.
    SentFresh,
    /// Sent, wholly or in part, over a connection that had served before; nothing answered.
    SentReused,
    /// The endpoint told that it did not process the request.
    Unprocessed,
    /// Part of an answer came.
    Answered,
}

/// What is known of a failed attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// How far it came.
    pub stage: Stage,
    /// Why it failed.
    pub refusal: Refusal,
    /// Sending the request twice does what sending it once does (RFC 9110 9.2.2).
    pub idempotent: bool,
    /// A byte of the request body was taken from the client.
    pub body_consumed: bool,
    /// How often the request was sent so far.
    pub sends: u32,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Tell the client.
    GiveUp,
    /// Try another endpoint, or wait for one; costs no budget.
    Elsewhere,
    /// Send it again on a fresh connection to the same endpoint, within the budget.
    AgainFresh,
    /// Send it to another endpoint, within the budget.
    AgainElsewhere,
}

/// What to do after a failed attempt; see the cases above.
pub fn next(attempt: Attempt) -> Next {
    if attempt.body_consumed {
        return Next::GiveUp;
    }
    if attempt.stage == Stage::Connecting {
        return Next::Elsewhere;
    }
    if attempt.refusal != Refusal::UpstreamClosed || attempt.sends >= SENDS_MAX {
        return Next::GiveUp;
    }
    match attempt.stage {
        Stage::SentReused | Stage::Unprocessed => Next::AgainFresh,
        Stage::SentFresh if attempt.idempotent => Next::AgainElsewhere,
        Stage::SentFresh | Stage::Connecting | Stage::Answered => Next::GiveUp,
    }
}

/// What one retry costs: with one token for each request, a retry for every fifth (20 %).
const RETRY_TOKENS: i64 = 5;

/// Retries that can be saved up: what a busy second earns, so that a quiet hour does not pay for a
/// storm.
const SAVED_RETRIES_MAX: i64 = 100;

/// Retries a second that a site with few requests has in any case.
const FLOOR_PER_SECOND: i64 = 3;

/// A site's retry budget, shared by all threads; one atomic operation for a request.
///
/// In any stretch of time a site's retries are at most a fifth of its requests, plus
/// `FLOOR_PER_SECOND` for each second, plus `SAVED_RETRIES_MAX`. Threads that race for the
/// bound may exceed it by one each. tower's `TpsBudget` has the same purpose but takes a lock and
/// reads the clock for every request.
#[derive(Debug)]
pub struct Budget {
    tokens: AtomicI64,
    /// The second, of the caller's clock, whose floor was paid last.
    floor_paid: AtomicU64,
    /// Retries that the budget denied.
    denied: AtomicU64,
    /// Retries that it granted.
    granted: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            tokens: AtomicI64::new(FLOOR_PER_SECOND * RETRY_TOKENS),
            floor_paid: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            granted: AtomicU64::new(0),
        }
    }
}

impl Budget {
    /// A request came.
    pub fn deposit(&self) {
        if self.tokens.load(Ordering::Relaxed) < SAVED_RETRIES_MAX * RETRY_TOKENS {
            self.tokens.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a retry out, at the given second of any steady clock; `false` where there is none.
    pub fn withdraw(&self, second: u64) -> bool {
        self.pay_floor(second);
        let taken = self.tokens.try_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
            (tokens >= RETRY_TOKENS).then(|| tokens - RETRY_TOKENS)
        });
        let counter = if taken.is_ok() { &self.granted } else { &self.denied };
        counter.fetch_add(1, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Retries granted and denied since the site was first loaded.
    pub fn counts(&self) -> (u64, u64) {
        (self.granted.load(Ordering::Relaxed), self.denied.load(Ordering::Relaxed))
    }

    fn pay_floor(&self, second: u64) {
        let paid = self.floor_paid.swap(second, Ordering::Relaxed);
        if paid < second {
            // Only up to the floor of one second: an idle hour does not add up.
            let floor = FLOOR_PER_SECOND * RETRY_TOKENS;
            self.tokens.fetch_max(floor, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Attempt = Attempt {
        stage: Stage::SentReused,
        refusal: Refusal::UpstreamClosed,
        idempotent: false,
        body_consumed: false,
        sends: 1,
    };

    #[track_caller]
    fn check(attempt: Attempt, expected: Next) {
        assert_eq!(next(attempt), expected, "{attempt:?}");
    }

    #[test]
    fn no_connection_means_another_endpoint_whatever_the_method() {
        let refusal = Refusal::UpstreamConnect;
        check(Attempt { stage: Stage::Connecting, refusal, ..STALE }, Next::Elsewhere);
        check(Attempt { stage: Stage::Connecting, refusal, sends: 99, ..STALE }, Next::Elsewhere);
    }

    #[test]
    fn a_stale_connection_is_replaced_whatever_the_method() {
        check(STALE, Next::AgainFresh);
        check(Attempt { stage: Stage::Unprocessed, ..STALE }, Next::AgainFresh);
    }

    #[test]
    fn a_fresh_connection_that_dies_is_retried_only_where_twice_is_as_once() {
        let fresh = Attempt { stage: Stage::SentFresh, ..STALE };
        check(fresh, Next::GiveUp);
        check(Attempt { idempotent: true, ..fresh }, Next::AgainElsewhere);
    }

    #[test]
    fn what_was_answered_timed_out_or_consumed_is_never_sent_twice() {
        let idempotent = Attempt { idempotent: true, ..STALE };
        check(Attempt { stage: Stage::Answered, ..idempotent }, Next::GiveUp);
        check(Attempt { refusal: Refusal::UpstreamTimeout, ..idempotent }, Next::GiveUp);
        check(Attempt { refusal: Refusal::UpstreamHeadMalformed, ..idempotent }, Next::GiveUp);
        check(Attempt { body_consumed: true, ..idempotent }, Next::GiveUp);
        check(Attempt { sends: SENDS_MAX, ..idempotent }, Next::GiveUp);
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried_beyond_the_floor() {
        let budget = Budget::default();
        let mut granted = 0;
        for _ in 0..1_000 {
            budget.deposit();
            granted += u32::from(budget.withdraw(0));
        }
        assert_eq!(granted, 1_000 / 5 + FLOOR_PER_SECOND as u32);
        assert_eq!(budget.counts(), (203, 797));
    }

    #[test]
    fn the_floor_is_paid_once_a_second_and_does_not_add_up() {
        let budget = Budget::default();
        let drain = |second| (0..100).filter(|_| budget.withdraw(second)).count();
        assert_eq!(drain(1), 3);
        assert_eq!(drain(1), 0);
        assert_eq!(drain(2), 3);
        assert_eq!(drain(1_000), 3);
    }

    #[test]
    fn savings_are_bounded() {
        let budget = Budget::default();
        for _ in 0..100_000 {
            budget.deposit();
        }
        assert_eq!((0..1_000).filter(|_| budget.withdraw(5)).count(), SAVED_RETRIES_MAX as usize);
    }
}
