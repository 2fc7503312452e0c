//! The process-wide series as plain numbers, and what happened between two readings.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::refusal::Refusal;

use super::histogram::{FineTimes, Times};
use super::labels::{
    CODES, ConnectionState, HandshakeResult, HandshakeVersion, QueueName, ReloadResult, Resumption,
    UpstreamResult, is_server_error,
};
use super::sites::SiteTotals;
use super::{
    HANDSHAKES, HandshakeOutcome, QUEUES, REFUSALS, RELOADS, STATES, Shard, UPSTREAM_RESULTS,
    handshake_slot,
};

/// One reading of everything process-wide.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Client connections since the start.
    pub accepted: u64,
    /// Idle connections ended to make room for new ones.
    pub ended_idle: u64,
    /// Requests by [`CODES`].
    pub requests: [u64; CODES.len()],
    /// From a request's head to its response's end.
    pub request_seconds: FineTimes,
    /// Successful handshakes, without the wait for them.
    pub handshake_seconds: FineTimes,
    /// From a request sent to an endpoint to the response head.
    pub upstream_seconds: FineTimes,
    /// Bytes of request bodies.
    pub received_bytes: u64,
    /// Bytes of response bodies.
    pub sent_bytes: u64,
    pub(super) connections: [u64; STATES],
    pub(super) handshakes: [u64; HANDSHAKES],
    pub(super) queue_refused: [[u64; REFUSALS]; QUEUES],
    pub(super) queue_wait: [FineTimes; QUEUES],
    pub(super) refused: [u64; REFUSALS],
    pub(super) refused_nameless: [u64; REFUSALS],
    pub(super) requests_nameless: [u64; CODES.len()],
    pub(super) reloads: [u64; RELOADS],
    pub(super) upstream: [u64; UPSTREAM_RESULTS],
}

impl Default for Totals {
    fn default() -> Totals {
        Totals {
            accepted: 0,
            ended_idle: 0,
            requests: [0; CODES.len()],
            request_seconds: FineTimes::default(),
            handshake_seconds: FineTimes::default(),
            upstream_seconds: FineTimes::default(),
            received_bytes: 0,
            sent_bytes: 0,
            connections: [0; STATES],
            handshakes: [0; HANDSHAKES],
            queue_refused: [[0; REFUSALS]; QUEUES],
            queue_wait: [FineTimes::default(); QUEUES],
            refused: [0; REFUSALS],
            refused_nameless: [0; REFUSALS],
            requests_nameless: [0; CODES.len()],
            reloads: [0; RELOADS],
            upstream: [0; UPSTREAM_RESULTS],
        }
    }
}

impl Totals {
    pub(super) fn add(&mut self, shard: &Shard) {
        self.accepted += shard.accepted.load(Relaxed);
        self.ended_idle += shard.ended_idle.load(Relaxed);
        self.received_bytes += shard.received_bytes.load(Relaxed);
        self.sent_bytes += shard.sent_bytes.load(Relaxed);
        add(&mut self.connections, &shard.connections);
        add(&mut self.handshakes, &shard.handshakes);
        add(&mut self.refused, &shard.refused);
        add(&mut self.refused_nameless, &shard.refused_nameless);
        add(&mut self.requests, &shard.requests);
        add(&mut self.requests_nameless, &shard.requests_nameless);
        add(&mut self.upstream, &shard.upstream);
        for queue in 0..QUEUES {
            add(&mut self.queue_refused[queue], &shard.queue_refused[queue]);
            shard.queue_wait[queue].add_to(&mut self.queue_wait[queue]);
        }
        shard.request_seconds.add_to(&mut self.request_seconds);
        shard.handshake_seconds.add_to(&mut self.handshake_seconds);
        shard.upstream_seconds.add_to(&mut self.upstream_seconds);
    }

    /// What belongs to sites, and what belongs to none.
    pub(super) fn by_site(&self) -> (SiteTotals, SiteTotals) {
        let all = SiteTotals {
            requests: self.requests,
            seconds: self.request_seconds.for_sites(),
            refused: self.refused,
        };
        let nameless = SiteTotals {
            requests: self.requests_nameless,
            seconds: Times::default(),
            refused: self.refused_nameless,
        };
        (all.minus(&nameless), nameless)
    }

    /// Connections that are in `state` now.
    pub fn connections(&self, state: ConnectionState) -> u64 {
        // Leaving is counted on another thread than coming, perhaps before it is seen here.
        let count = self.connections[state as usize];
        if count > u64::MAX / 2 { 0 } else { count }
    }

    /// Handshakes that ended so.
    pub fn handshakes(&self, result: HandshakeResult) -> u64 {
        let mut sum = 0;
        for version in HandshakeVersion::ALL {
            for resumption in Resumption::ALL {
                let (version, resumption) = (*version, *resumption);
                sum += self.handshakes
                    [handshake_slot(HandshakeOutcome { result, version, resumption })];
            }
        }
        sum
    }

    /// Successful handshakes that continued a session.
    pub fn resumed(&self) -> u64 {
        let (result, resumption) = (HandshakeResult::Ok, Resumption::Resumed);
        let slot = |version| handshake_slot(HandshakeOutcome { result, version, resumption });
        HandshakeVersion::ALL.iter().map(|version| self.handshakes[slot(*version)]).sum()
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.requests.iter().sum()
    }

    /// Requests answered with 5xx.
    pub fn server_errors(&self) -> u64 {
        let failed = self.requests.iter().enumerate().filter(|(slot, _)| is_server_error(*slot));
        failed.map(|(_, count)| count).sum()
    }

    /// Times that entries let in by a queue waited.
    pub fn queue_wait(&self, queue: QueueName) -> &FineTimes {
        &self.queue_wait[queue as usize]
    }

    /// Entries that a queue let in.
    pub fn queue_admitted(&self, queue: QueueName) -> u64 {
        self.queue_wait[queue as usize].count()
    }

    /// Entries that a queue itself refused or discarded for this reason.
    pub fn queue_refused(&self, queue: QueueName, refusal: Refusal) -> u64 {
        self.queue_refused[queue as usize][refusal as usize]
    }

    /// Refusals for this reason, on any stage.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize]
    }

    /// Those of them for which no site was known.
    pub fn refused_without_site(&self, refusal: Refusal) -> u64 {
        self.refused_nameless[refusal as usize]
    }

    /// Attempts at endpoints that ended so.
    pub fn upstream(&self, result: UpstreamResult) -> u64 {
        self.upstream[result as usize]
    }

    /// Reloads that ended so.
    pub fn reloads(&self, result: ReloadResult) -> u64 {
        self.reloads[result as usize]
    }
}

fn add(totals: &mut [u64], counters: &[AtomicU64]) {
    for (total, counter) in totals.iter_mut().zip(counters) {
        *total = total.wrapping_add(counter.load(Relaxed));
    }
}
