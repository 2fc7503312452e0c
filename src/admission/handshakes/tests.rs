//! The handshake queue between threads: bounds, deadlines, clients that left, places.

use std::sync::Arc;

use super::*;

#[derive(Debug)]
struct Client {
    number: u64,
    gone: bool,
    brief: bool,
}

impl Waiting for Client {
    fn is_gone(&self) -> bool {
        self.gone
    }

    fn is_brief(&self) -> bool {
        self.brief
    }
}

const LIMITS: HandshakeLimits = HandshakeLimits { depth: 4, deadline: Duration::from_secs(1) };

/// More than any test begins.
const PLACES: usize = 1 << 20;

/// Long enough for any machine.
const BOUND: Duration = Duration::from_secs(10);

fn entry(customer: &str, number: u64) -> Entry<Client> {
    Entry {
        customer: CustomerId::parse(customer).unwrap(),
        weight: 1,
        cost: 100,
        sort: Sort::Heavy,
        since: now(),
        item: Client { number, gone: false, brief: false },
    }
}

fn numbers(refused: Refused<Client>) -> Vec<(u64, Refusal)> {
    refused.into_iter().map(|(client, refusal)| (client.number, refusal)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_customer_cannot_fill_the_handshake_queue() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    for number in 0..4 {
        assert!(queue.push(entry("flood", number), false).is_empty());
    }
    let out = queue.push(entry("quiet", 10), false);
    assert_eq!(numbers(out), [(0, Refusal::HandshakeQueueFull)]);
    assert_eq!(queue.state().fattest, Some(("flood".to_owned(), 3)));
    assert_eq!(queue.next(|_, _| ()).0.number, 1);
    assert_eq!(queue.next(|_, _| ()).0.number, 10);
}

#[tokio::test(start_paused = true)]
async fn no_crypto_is_spent_on_who_is_gone_or_late() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    queue.push(entry("a", 0), false);
    tokio::time::advance(Duration::from_millis(700)).await;
    queue.push(
        Entry { item: Client { number: 1, gone: true, brief: false }, ..entry("b", 0) },
        false,
    );
    queue.push(entry("c", 2), false);
    assert_eq!(queue.state().oldest, Duration::from_millis(700));
    tokio::time::advance(Duration::from_millis(300)).await;
    let mut discarded = Vec::new();
    let (client, waited) = queue.next(|client, refusal| discarded.push((client.number, refusal)));
    assert_eq!((client.number, waited), (2, Duration::from_millis(300)));
    assert_eq!(discarded, [(0, Refusal::HandshakeDeadline), (1, Refusal::ClientGone)]);
}

#[tokio::test(start_paused = true)]
async fn the_backlog_is_what_those_that_wait_will_cost() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    assert_eq!(queue.backlog(), Duration::ZERO);
    queue.push(entry("a", 0), false);
    queue.push(Entry { cost: 445, ..entry("b", 1) }, false);
    assert_eq!(queue.backlog(), Duration::from_micros(545));
    queue.next(|_, _| ());
    queue.next(|_, _| ());
    assert_eq!(queue.backlog(), Duration::ZERO);
}

fn brief(customer: &str, number: u64) -> Entry<Client> {
    Entry { item: Client { number, gone: false, brief: true }, ..entry(customer, number) }
}

fn next_brief(queue: &HandshakeQueue<Client>) -> Option<u64> {
    queue.next_brief(|_, _| ()).map(|(client, _)| client.number)
}

#[tokio::test(start_paused = true)]
async fn a_serving_thread_takes_brief_ones_in_the_order_of_all() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    assert_eq!(next_brief(&queue), None);
    for (customer, number) in [("a", 0), ("a", 1), ("b", 2)] {
        queue.push(brief(customer, number), false);
    }
    queue.push(entry("b", 3), false);
    assert_eq!([(); 4].map(|()| next_brief(&queue)), [Some(0), Some(2), Some(1), None]);
    assert_eq!(queue.next(|_, _| ()).0.number, 3, "a costly one is left to the workers");
}

#[tokio::test(start_paused = true)]
async fn a_serving_thread_takes_none_without_a_place_or_before_a_step_that_waits() {
    let queue = HandshakeQueue::new(LIMITS, 1);
    queue.push(brief("a", 0), false);
    queue.push(brief("a", 1), false);
    assert_eq!(next_brief(&queue), Some(0));
    assert_eq!(next_brief(&queue), None, "no place is free");
    queue.end();
    queue.go_on(Client { number: 2, gone: false, brief: true });
    assert_eq!(next_brief(&queue), None, "a step waits");
    assert_eq!(queue.next(|_, _| ()).0.number, 2);
    assert_eq!(next_brief(&queue), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_serving_thread_leaves_a_flood_to_the_workers() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    let most = HELPED_MAX.as_micros() as u32;
    queue.push(Entry { cost: most, ..brief("a", 0) }, false);
    queue.push(brief("b", 1), false);
    assert_eq!(next_brief(&queue), None);
    assert_eq!(queue.next(|_, _| ()).0.number, 0);
    assert_eq!(next_brief(&queue), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_serving_thread_turns_away_who_is_gone_or_late_as_workers_do() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    queue.push(brief("a", 0), false);
    tokio::time::advance(LIMITS.deadline).await;
    queue.push(
        Entry { item: Client { number: 1, gone: true, brief: true }, ..brief("b", 1) },
        false,
    );
    queue.push(brief("c", 2), false);
    let mut discarded = Vec::new();
    let next = queue.next_brief(|client, refusal| discarded.push((client.number, refusal)));
    assert_eq!(next.map(|(client, waited)| (client.number, waited)), Some((2, Duration::ZERO)));
    assert_eq!(discarded, [(1, Refusal::ClientGone)], "the late one left as another came");
}

#[test]
fn a_worker_sleeps_until_a_serving_thread_leaves_something() {
    let queue = Arc::new(HandshakeQueue::new(LIMITS, PLACES));
    let (taken, takes) = std::sync::mpsc::channel();
    let worker: Arc<HandshakeQueue<Client>> = queue.clone();
    std::thread::spawn(move || taken.send(worker.next(|_, _| ()).0.number));
    while lock(&queue.state).sleeping == 0 {
        std::thread::yield_now();
    }
    queue.push(brief("a", 7), true);
    assert_eq!(next_brief(&queue), Some(7));
    queue.push(brief("a", 8), true);
    queue.leave();
    assert_eq!(takes.recv_timeout(BOUND), Ok(8));
}

#[tokio::test(start_paused = true)]
async fn a_clock_clears_what_no_worker_pulls() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    queue.push(entry("a", 0), false);
    assert!(queue.expire().is_empty());
    tokio::time::advance(LIMITS.deadline).await;
    assert_eq!(numbers(queue.expire()), [(0, Refusal::HandshakeDeadline)]);
    assert_eq!(queue.state().depth, 0);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_bound_turns_away_what_has_no_room() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    for number in 0..4 {
        queue.push(entry("a", number), false);
    }
    let out = queue.reconfigure(HandshakeLimits { depth: 3, ..LIMITS });
    assert_eq!(numbers(out), [(0, Refusal::HandshakeQueueFull)]);
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_goes_on_before_all_that_wait() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    queue.push(entry("a", 0), false);
    queue.push(entry("a", 1), false);
    let (begun, _) = queue.next(|_, _| ());
    queue.go_on(begun);
    assert_eq!(queue.next(|_, _| ()).0.number, 0);
    assert_eq!(queue.next(|_, _| ()).0.number, 1);
}

/// A worker that finds no place free is woken when one is.
#[test]
fn no_more_begin_than_there_are_places() {
    let queue = Arc::new(HandshakeQueue::new(LIMITS, 1));
    queue.push(entry("a", 0), false);
    queue.push(entry("a", 1), false);
    let (begun, began) = std::sync::mpsc::channel();
    let workers = queue.clone();
    std::thread::spawn(move || {
        loop {
            begun.send(workers.next(|_, _| ()).0.number).unwrap();
        }
    });
    assert_eq!(began.recv_timeout(BOUND), Ok(0));
    while lock(&queue.state).sleeping == 0 {
        std::thread::yield_now();
    }
    assert!(began.try_recv().is_err());
    queue.end();
    assert_eq!(began.recv_timeout(BOUND), Ok(1));
}

/// Each entry comes out exactly once, whichever worker takes it, and none is left behind.
#[test]
fn many_threads_lose_no_entry() {
    const PUSHED: u64 = 20_000;
    let limits = HandshakeLimits { depth: 1 << 20, deadline: Duration::from_secs(60) };
    let queue = Arc::new(HandshakeQueue::new(limits, 8));
    let (done, finished) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let (queue, done) = (queue.clone(), done.clone());
        std::thread::spawn(move || {
            loop {
                let (client, _) = queue.next(|_: Client, _| ());
                // An odd one takes another step, on any thread.
                match client.number % 2 == 1 {
                    true => queue.go_on(Client { number: client.number - 1, ..client }),
                    false => {
                        queue.end();
                        done.send(client.number).unwrap();
                    }
                }
            }
        });
    }
    for number in 0..PUSHED {
        let odd = number % 3 % 2;
        queue.push(entry(if number % 5 == 0 { "a" } else { "b" }, number * 2 + odd), false);
        if number % 64 == 0 {
            std::thread::yield_now();
        }
    }
    let next = |_| finished.recv_timeout(BOUND).expect("every entry comes out");
    let mut numbers: Vec<u64> = (0..PUSHED).map(next).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq((0..PUSHED).map(|number| number * 2)));
    assert_eq!(lock(&queue.state).begun, 0);
}

/// No timer helps here: a lost wake-up would hang, and the bound would tell.
#[test]
fn a_push_from_another_thread_always_wakes_a_sleeping_worker() {
    let queue = Arc::new(HandshakeQueue::new(LIMITS, PLACES));
    let (done, finished) = std::sync::mpsc::channel();
    let workers = queue.clone();
    std::thread::spawn(move || {
        loop {
            done.send(workers.next(|_: Client, _| ()).0.number).unwrap();
        }
    });
    for number in 0..5_000 {
        queue.push(entry("a", number), false);
        assert_eq!(finished.recv_timeout(BOUND), Ok(number), "the worker was woken");
    }
}
