//! The handshake queue between threads: bounds, deadlines, clients that left, places.

use std::sync::Arc;

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
        item: Client { number, gone: false },
    }
}

fn numbers(refused: Refused<Client>) -> Vec<(u64, Refusal)> {
    refused.into_iter().map(|(client, refusal)| (client.number, refusal)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_customer_cannot_fill_the_handshake_queue() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    for number in 0..4 {
        assert!(queue.push(entry("flood", number)).is_empty());
    }
    let out = queue.push(entry("quiet", 10));
    assert_eq!(numbers(out), [(0, Refusal::HandshakeQueueFull)]);
    assert_eq!(queue.state().fattest, Some(("flood".to_owned(), 3)));
    assert_eq!(queue.next(|_, _| ()).0.number, 1);
    assert_eq!(queue.next(|_, _| ()).0.number, 10);
}

#[tokio::test(start_paused = true)]
async fn no_crypto_is_spent_on_who_is_gone_or_late() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    queue.push(entry("a", 0));
    tokio::time::advance(Duration::from_millis(700)).await;
    queue.push(Entry { item: Client { number: 1, gone: true }, ..entry("b", 0) });
    queue.push(entry("c", 2));
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
    queue.push(entry("a", 0));
    queue.push(Entry { cost: 445, ..entry("b", 1) });
    assert_eq!(queue.backlog(), Duration::from_micros(545));
    queue.next(|_, _| ());
    queue.next(|_, _| ());
    assert_eq!(queue.backlog(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_begins_at_once_where_it_overtakes_nobody_and_is_to_be_served() {
    let queue = HandshakeQueue::new(LIMITS, 1);
    let (here, gone) = (Client { number: 0, gone: false }, Client { number: 1, gone: true });
    let since = now();
    assert!(!queue.begin_at_once(&gone, since));
    queue.push(entry("a", 2));
    assert!(!queue.begin_at_once(&here, since), "somebody waits");
    let (begun, _) = queue.next(|_, _| ());
    assert!(!queue.begin_at_once(&here, since), "no place is free");
    queue.end();
    queue.go_on(begun);
    assert!(!queue.begin_at_once(&here, since), "a step waits");
    queue.next(|_, _| ());
    tokio::time::advance(LIMITS.deadline - Duration::from_millis(1)).await;
    assert!(queue.begin_at_once(&here, since));
    assert!(!queue.begin_at_once(&here, since), "it has the place");
    queue.end();
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!queue.begin_at_once(&here, since), "its deadline has passed");
}

#[tokio::test(start_paused = true)]
async fn a_clock_clears_what_no_worker_pulls() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    queue.push(entry("a", 0));
    assert!(queue.expire().is_empty());
    tokio::time::advance(LIMITS.deadline).await;
    assert_eq!(numbers(queue.expire()), [(0, Refusal::HandshakeDeadline)]);
    assert_eq!(queue.state().depth, 0);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_bound_turns_away_what_has_no_room() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    for number in 0..4 {
        queue.push(entry("a", number));
    }
    let out = queue.reconfigure(HandshakeLimits { depth: 3, ..LIMITS });
    assert_eq!(numbers(out), [(0, Refusal::HandshakeQueueFull)]);
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_goes_on_before_all_that_wait() {
    let queue = HandshakeQueue::new(LIMITS, PLACES);
    queue.push(entry("a", 0));
    queue.push(entry("a", 1));
    let (begun, _) = queue.next(|_, _| ());
    queue.go_on(begun);
    assert_eq!(queue.next(|_, _| ()).0.number, 0);
    assert_eq!(queue.next(|_, _| ()).0.number, 1);
}

/// A worker that finds no place free is woken when one is.
#[test]
fn no_more_begin_than_there_are_places() {
    let queue = Arc::new(HandshakeQueue::new(LIMITS, 1));
    queue.push(entry("a", 0));
    queue.push(entry("a", 1));
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
        queue.push(entry(if number % 5 == 0 { "a" } else { "b" }, number * 2 + odd));
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
        queue.push(entry("a", number));
        assert_eq!(finished.recv_timeout(BOUND), Ok(number), "the worker was woken");
    }
}
