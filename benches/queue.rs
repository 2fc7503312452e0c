//! What admission costs on the way of a handshake and of a request.
//!
//! `cargo bench --bench queue`; docs/queues.md has the figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use sluss::admission::{Permit, Rate, RequestGate, RequestLimits};
use sluss::queue::{Entry, FairQueue, Lane, Limits, Sort};

fn main() {
    divan::main();
}

fn entry(key: u32, since: Instant) -> Entry<u32, u64> {
    Entry { key, weight: 1, cost: 150, lane: Lane::InOrder, sort: Sort::Heavy, since, item: 0 }
}

/// A queue of 512 places with 511 taken by so many keys.
fn queue(keys: u32, now: Instant) -> FairQueue<u32, u64> {
    let hour = Duration::from_secs(3_600);
    let mut queue = FairQueue::new(Limits { depth: 512, deadline: hour, patience: hour });
    for item in 0..511 {
        queue.push(entry(item % keys, now), now);
    }
    queue
}

#[divan::bench(args = [1, 20, 500])]
fn push_and_pop(bencher: Bencher, keys: u32) {
    let now = Instant::now();
    let (mut queue, mut key) = (queue(keys, now), 0);
    bencher.bench_local(|| {
        key = (key + 1) % keys;
        queue.push(entry(key, now), now);
        queue.pop(now, |_| false)
    });
}

/// The queue is full: each push displaces one.
#[divan::bench(args = [1, 20, 500])]
fn push_into_a_full_queue(bencher: Bencher, keys: u32) {
    let now = Instant::now();
    let (mut queue, mut key) = (queue(keys, now), 0);
    queue.push(entry(0, now), now);
    bencher.bench_local(|| {
        // Half of all pushes are the flooding key's.
        key = (key + 1) % (2 * keys);
        queue.push(entry(key.saturating_sub(keys), now), now)
    });
}

fn gate(in_flight: Option<u32>) -> Arc<RequestGate> {
    RequestGate::new(RequestLimits { in_flight, depth: 256, deadline: Duration::from_secs(10) })
}

#[divan::bench(threads = [1, 2])]
fn enter_and_leave_a_fixed_gate(bencher: Bencher) {
    let gate = gate(Some(1_000));
    bencher.bench(|| drop(gate.try_enter()));
}

#[divan::bench(threads = [1, 2])]
fn enter_and_leave_an_adaptive_gate(bencher: Bencher) {
    let gate = gate(None);
    bencher.bench(|| {
        gate.try_enter().map(|permit: Permit| permit.succeeded(Duration::from_millis(3)))
    });
}

#[divan::bench(threads = [1, 2])]
fn take_a_token(bencher: Bencher) {
    let now = Instant::now();
    let rate = Rate::new(1_000_000_000, u32::MAX, now);
    bencher.bench(|| rate.take(now));
}
