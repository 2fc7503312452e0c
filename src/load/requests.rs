//! Requests over connections that stand before the run begins.
//!
//! Arrivals wait in one queue a host; each connection takes the oldest when it is free, so work
//! that was due while all connections were busy is late by as much, and the latency holds it. A
//! server may end a connection between two requests: the request goes once more over a new one, as
//! browsers do. A connection that cannot be made anew fails the request that wanted it, and the
//! next request tries again. So do those of a host that the server refuses by its name while it
//! takes others: the run takes place, and each of its arrivals is counted as refused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::sync::Notify;

use crate::load::connect::{self, Failure, Stream};
use crate::load::h1;
use crate::load::h2::Shared;
use crate::load::lane::{Arrival, Lane, Visit};
use crate::load::outcome::{Outcome, Times};
use crate::load::visit::PREPARED_AT_ONCE;

/// Arrivals that wait for a free connection to one host. Its length is bounded by the lane's bound
/// on work in flight.
#[derive(Debug, Default)]
pub struct Waiting {
    arrivals: Mutex<VecDeque<Arrival>>,
    more: Notify,
}

impl Waiting {
    /// Adds the newest.
    pub fn push(&self, arrival: Arrival) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push_back(arrival);
        self.more.notify_one();
    }

    /// Takes the oldest, when there is one. *Cancel safety*: a dropped future has taken nothing.
    async fn next(&self) -> Arrival {
        loop {
            let oldest = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(arrival) = oldest {
                return arrival;
            }
            self.more.notified().await;
        }
    }
}

/// How many connections of a lane each host has: its share of `connections`, at least one.
pub fn spread(lane: &Lane, connections: usize) -> Vec<usize> {
    let mine = connections.div_ceil(lane.traffic.threads) as f64;
    let hosts = &lane.traffic.hosts;
    (0..hosts.names().len())
        .map(|host| ((hosts.share(host) * mine).round() as usize).max(1))
        .collect()
}

/// Opens the connections of all hosts, a few at a time; nothing stands for a host that is refused by
/// its name.
///
/// # Errors
/// [`Failure`] of the first that could not be opened, or of one where all were refused.
pub async fn establish(
    lane: &Lane,
    connections: usize,
) -> Result<Vec<(usize, Option<Stream>)>, Failure> {
    let spread = spread(lane, connections);
    let hosts: Vec<usize> =
        spread.iter().enumerate().flat_map(|(host, count)| vec![host; *count]).collect();
    let mut streams = Vec::with_capacity(hosts.len());
    let mut refused = None;
    for some in hosts.chunks(PREPARED_AT_ONCE) {
        let opened = some.iter().map(async |&host| (host, open(lane, host).await));
        for (host, opened) in join_all(opened).await {
            match opened {
                Ok(stream) => streams.push((host, Some(stream))),
                Err(failure) => {
                    refused = Some(lane.forgive(host, failure)?);
                    streams.push((host, None));
                }
            }
        }
    }
    match refused.filter(|_| streams.iter().all(|(_, stream)| stream.is_none())) {
        Some(failure) => Err(failure),
        None => Ok(streams),
    }
}

async fn open(lane: &Lane, host: usize) -> Result<Stream, Failure> {
    let mut times = Times::default();
    let opened = connect::open(&lane.route, host, lane.clock, &mut times);
    match tokio::time::timeout(lane.traffic.patience, opened).await {
        Ok(opened) => opened,
        Err(_) => Err(Failure::plain(connect::timed_out(&times))),
    }
}

/// Serves arrivals on one stream of a shared connection, until it is dropped.
pub async fn serve_stream(lane: Arc<Lane>, waiting: Arc<Waiting>, shared: Arc<Shared>) {
    loop {
        let visit = Visit::new(waiting.next().await);
        lane.see_through(visit, async |visit| shared.ask(&lane, visit).await).await;
    }
}

/// Serves the arrivals of `host` on one connection, anew where it ends, until it is dropped.
pub async fn serve(lane: Arc<Lane>, host: usize, waiting: Arc<Waiting>, stream: Option<Stream>) {
    let mut line = Line { stream, buffer: vec![0; h1::READ_BYTES] };
    loop {
        let arrival = waiting.next().await;
        let visit = Visit::new(arrival);
        let outcome = lane.see_through(visit, async |visit| line.ask(&lane, visit).await).await;
        match outcome {
            Outcome::Completed
            | Outcome::RefusedStatus
            | Outcome::WrongStatus
            | Outcome::WrongBody => {
                if line.stream.is_none() {
                    // The server closed it in order: the next arrival shall find a new one. Where
                    // that fails, it finds out itself, and counts it.
                    lane.reconnected();
                    line.stream = open(&lane, host).await.ok();
                }
            }
            Outcome::RefusedReset
            | Outcome::RefusedStream
            | Outcome::ConnectTimeout
            | Outcome::HandshakeTimeout
            | Outcome::ResponseTimeout
            | Outcome::Alert
            | Outcome::Closed
            | Outcome::CutOff
            | Outcome::Held
            | Outcome::NotSent
            | Outcome::Other => line.stream = None,
        }
    }
}

/// A connection that may be gone.
struct Line {
    stream: Option<Stream>,
    buffer: Vec<u8>,
}

impl Line {
    async fn ask(&mut self, lane: &Lane, visit: &mut Visit) -> Result<Outcome, Failure> {
        visit.times.started = Some(lane.clock.now());
        if let Some(stream) = self.stream.take() {
            match self.exchange(stream, lane, visit).await {
                // It ended while it was idle, before our request reached it.
                Err(failure)
                    if matches!(failure.outcome, Outcome::Closed | Outcome::RefusedReset)
                        && visit.times.first_byte.is_none() => {}
                ended => return ended,
            }
            visit.times.sent = None;
        }
        lane.reconnected();
        let stream = connect::open(&lane.route, visit.host, lane.clock, &mut visit.times).await?;
        self.exchange(stream, lane, visit).await
    }

    async fn exchange(
        &mut self,
        mut stream: Stream,
        lane: &Lane,
        visit: &mut Visit,
    ) -> Result<Outcome, Failure> {
        let request = &lane.requests[visit.host].h1;
        let reading = (lane.body(), self.buffer.as_mut_slice());
        let answer =
            h1::exchange(&mut stream, request, reading, lane.clock, &mut visit.times).await?;
        if answer.reusable {
            self.stream = Some(stream);
        }
        Ok(lane.judge(visit, &answer))
    }
}
