//! The handshake queue between threads: bounds, deadlines, clients that left, cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use super::*;

#[derive(Debug)]
struct Client {
    number: u64,
    gone: bool,
}

impl Waiting for Client {
    fn is_gone(&self) -> bool {
        self.gone
    }
}

const LIMITS: HandshakeLimits = HandshakeLimits { depth: 4, deadline: Duration::from_secs(1) };

fn entry(customer: &str, number: u64) -> Entry<Client> {
    Entry {
        customer: CustomerId::parse(customer).unwrap(),
        weight: 1,
        cost: 100,
        since: now(),
        item: Client { number, gone: false },
    }
}

fn numbers(refused: Refused<Client>) -> Vec<(u64, Refusal)> {
    refused.into_iter().map(|(client, refusal)| (client.number, refusal)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_customer_cannot_fill_the_handshake_queue() {
    let queue = HandshakeQueue::new(LIMITS);
    for number in 0..4 {
        assert!(queue.push(entry("flood", number)).is_empty());
    }
    let out = queue.push(entry("quiet", 10));
    assert_eq!(numbers(out), [(0, Refusal::HandshakeQueueFull)]);
    assert_eq!(queue.state().fattest, Some(("flood".to_owned(), 3)));
    assert_eq!(queue.next(|_, _, _| ()).await.0.number, 1);
    assert_eq!(queue.next(|_, _, _| ()).await.0.number, 10);
}

#[tokio::test(start_paused = true)]
async fn no_crypto_is_spent_on_who_is_gone_or_late() {
    let queue = HandshakeQueue::new(LIMITS);
    queue.push(entry("a", 0));
    tokio::time::advance(Duration::from_millis(700)).await;
    queue.push(Entry { item: Client { number: 1, gone: true }, ..entry("b", 0) });
    queue.push(entry("c", 2));
    assert_eq!(queue.state().oldest, Duration::from_millis(700));
    tokio::time::advance(Duration::from_millis(300)).await;
    let mut discarded = Vec::new();
    let (client, waited) =
        queue.next(|client, refusal, _| discarded.push((client.number, refusal))).await;
    assert_eq!((client.number, waited), (2, Duration::from_millis(300)));
    assert_eq!(discarded, [(0, Refusal::HandshakeDeadline), (1, Refusal::ClientGone)]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_clears_what_no_worker_pulls() {
    let queue = HandshakeQueue::new(LIMITS);
    queue.push(entry("a", 0));
    assert!(queue.expire().is_empty());
    tokio::time::advance(LIMITS.deadline).await;
    assert_eq!(numbers(queue.expire()), [(0, Refusal::HandshakeDeadline)]);
    assert_eq!(queue.state().depth, 0);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_bound_turns_away_what_has_no_room() {
    let queue = HandshakeQueue::new(LIMITS);
    for number in 0..4 {
        queue.push(entry("a", number));
    }
    let out = queue.reconfigure(HandshakeLimits { depth: 3, ..LIMITS });
    assert_eq!(numbers(out), [(0, Refusal::HandshakeQueueFull)]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_worker_passes_its_wake_up_on() {
    let queue = Arc::new(HandshakeQueue::new(LIMITS));
    let mut first = Box::pin(queue.next(|_, _, _| ()));
    let mut second = Box::pin(queue.next(|_, _, _| ()));
    let mut context = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(second.as_mut().poll(&mut context).is_pending());
    queue.push(entry("a", 7));
    drop(first);
    assert_eq!(second.await.0.number, 7);
}

/// Each entry comes out exactly once, with workers on several runtimes that give up at random
/// moments, and none is left behind.
#[test]
fn many_threads_lose_no_entry_and_no_wake_up() {
    const PUSHED: u64 = 20_000;
    let limits = HandshakeLimits { depth: 1 << 20, deadline: Duration::from_secs(60) };
    let queue = Arc::new(HandshakeQueue::new(limits));
    let (served, sum) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let (queue, served, sum) = (queue.clone(), served.clone(), sum.clone());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let give_up = Duration::from_micros(300);
                let until = Instant::now() + Duration::from_secs(30);
                while served.load(Ordering::SeqCst) < PUSHED && Instant::now() < until {
                    let next = queue.next(|_: Client, _, _| ());
                    let next = async { tokio::time::timeout(give_up, next).await };
                    if let Ok((client, _)) = runtime.block_on(next) {
                        sum.fetch_add(client.number, Ordering::SeqCst);
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    for number in 0..PUSHED {
        queue.push(entry(if number % 3 == 0 { "a" } else { "b" }, number));
        if number % 64 == 0 {
            std::thread::yield_now();
        }
    }
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(served.load(Ordering::SeqCst), PUSHED);
    assert_eq!(sum.load(Ordering::SeqCst), PUSHED * (PUSHED - 1) / 2);
}

/// No timer helps here: a lost wake-up would hang, and the deadline below would tell.
#[test]
fn a_push_from_another_thread_always_wakes_a_sleeping_worker() {
    let queue = Arc::new(HandshakeQueue::new(LIMITS));
    let (done, finished) = std::sync::mpsc::channel();
    let worker_queue = queue.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for number in 0..5_000 {
            let (client, _) = runtime.block_on(worker_queue.next(|_: Client, _, _| ()));
            assert_eq!(client.number, number);
            done.send(()).unwrap();
        }
    });
    for number in 0..5_000 {
        queue.push(entry("a", number));
        finished.recv_timeout(Duration::from_secs(10)).expect("the worker was woken");
    }
}
