//! The request gate: limits, classes, deadlines, cancellation.

use std::sync::atomic::AtomicU64;
use std::task::{Context, Waker};

use super::*;

const LIMITS: RequestLimits =
    RequestLimits { in_flight: Some(2), depth: 4, deadline: Duration::from_secs(10) };

type Entering = std::pin::Pin<Box<dyn Future<Output = Result<Permit, Refusal>>>>;

fn enter(gate: &Arc<RequestGate>, class: Class) -> Entering {
    let gate = gate.clone();
    let mut entering: Entering = Box::pin(async move { gate.enter(class, now()).await });
    // The first poll puts it into the queue.
    let polled = entering.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "the gate has room");
    entering
}

#[track_caller]
fn is_refused(result: Result<Permit, Refusal>, expected: Refusal) {
    assert_eq!(result.err(), Some(expected));
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_exact_and_a_permit_gives_its_place_back() {
    let gate = RequestGate::new(LIMITS);
    let first = gate.try_enter().unwrap();
    let second = gate.enter(Class::Bulk, now()).await.unwrap();
    assert!(gate.try_enter().is_none());
    assert_eq!((gate.in_flight(), gate.limit()), (2, 2));
    drop(first);
    let third = gate.try_enter().unwrap();
    second.failed();
    third.succeeded(Duration::from_millis(3));
    assert_eq!(gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_freed_place_goes_to_who_waits_and_not_to_a_newcomer() {
    let gate = RequestGate::new(LIMITS);
    let held = gate.try_enter().unwrap();
    let _other = gate.try_enter().unwrap();
    let waiting = enter(&gate, Class::Normal);
    drop(held);
    assert!(gate.try_enter().is_none());
    assert!(waiting.await.is_ok());
    assert_eq!((gate.in_flight(), gate.state().depth), (1, 0));
    assert_eq!(gate.granted(), 1, "those who did not wait are no movement of the queue");
}

#[tokio::test(start_paused = true)]
async fn critical_goes_first_and_bulk_still_has_its_share() {
    let gate = RequestGate::new(RequestLimits { in_flight: Some(1), depth: 64, ..LIMITS });
    let mut held = gate.try_enter();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for class in [Class::Bulk, Class::Normal, Class::Critical] {
        for _ in 0..20 {
            let (gate, order) = (gate.clone(), order.clone());
            tasks.spawn(async move {
                let permit = gate.enter(class, now()).await.unwrap();
                lock(&order).push(class);
                tokio::task::yield_now().await;
                drop(permit);
            });
        }
    }
    while gate.state().depth < 60 {
        tokio::task::yield_now().await;
    }
    drop(held.take());
    while tasks.join_next().await.is_some() {}
    let order = lock(&order);
    let first: Vec<Class> = order[..19].to_vec();
    let count = |class| first.iter().filter(|seen| **seen == class).count();
    assert_eq!((count(Class::Critical), count(Class::Normal), count(Class::Bulk)), (16, 2, 1));
    assert_eq!(first[..8], [Class::Critical; 8]);
}

#[tokio::test(start_paused = true)]
async fn bulk_is_shed_first_when_the_queue_is_full() {
    let gate = RequestGate::new(LIMITS);
    let _held = [gate.try_enter().unwrap(), gate.try_enter().unwrap()];
    let _critical = [enter(&gate, Class::Critical), enter(&gate, Class::Critical)];
    let bulk = [enter(&gate, Class::Bulk), enter(&gate, Class::Bulk)];
    let _normal = enter(&gate, Class::Normal);
    let [first, second] = bulk;
    is_refused(first.await, Refusal::RequestQueueFull);
    assert_eq!(gate.state().depth, 4);
    drop(second);
    assert_eq!(gate.state().depth, 3);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_deadline_and_age_counts_from_since() {
    let gate = RequestGate::new(LIMITS);
    let _held = [gate.try_enter().unwrap(), gate.try_enter().unwrap()];
    let start = tokio::time::Instant::now();
    is_refused(enter(&gate, Class::Critical).await, Refusal::RequestDeadline);
    assert_eq!(start.elapsed(), LIMITS.deadline);
    assert_eq!(gate.state().depth, 0);
    // One that has waited elsewhere past the deadline is refused without waiting here.
    let since = start.into_std();
    is_refused(gate.enter(Class::Normal, since).await, Refusal::RequestDeadline);
    assert_eq!(start.elapsed(), LIMITS.deadline);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_gives_back_its_place_or_its_permit() {
    let gate = RequestGate::new(RequestLimits { in_flight: Some(1), ..LIMITS });
    let held = gate.try_enter().unwrap();
    let (first, second, third) =
        (enter(&gate, Class::Normal), enter(&gate, Class::Normal), enter(&gate, Class::Normal));
    drop(second);
    assert_eq!(gate.state().depth, 2);
    // The permit is granted to the first, who is dropped before it has seen it.
    drop(held);
    assert_eq!((gate.in_flight(), gate.state().depth), (1, 1));
    drop(first);
    assert_eq!((gate.in_flight(), gate.state().depth), (1, 0));
    drop(third.await.unwrap());
    assert_eq!(gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_grants_and_refuses_at_once() {
    let gate = RequestGate::new(LIMITS);
    let _held = [gate.try_enter().unwrap(), gate.try_enter().unwrap()];
    let mut waiting: Vec<Entering> = (0..4).map(|_| enter(&gate, Class::Normal)).collect();
    gate.reconfigure(RequestLimits { depth: 2, ..LIMITS });
    is_refused(waiting.remove(0).await, Refusal::RequestQueueFull);
    is_refused(waiting.remove(0).await, Refusal::RequestQueueFull);
    gate.reconfigure(RequestLimits { in_flight: Some(4), depth: 2, ..LIMITS });
    assert!(waiting.remove(0).await.is_ok());
    gate.reconfigure(RequestLimits { in_flight: None, ..LIMITS });
    assert_eq!(gate.limit(), LIMIT_INITIAL);
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_follows_the_latency() {
    let gate = RequestGate::new(RequestLimits { in_flight: None, ..LIMITS });
    let run = async |latency: Duration| {
        for _ in 0..40 {
            let held: Vec<Permit> = std::iter::from_fn(|| gate.try_enter()).collect();
            tokio::time::advance(Duration::from_millis(50)).await;
            held.into_iter().for_each(|permit| permit.succeeded(latency));
        }
        gate.limit()
    };
    let grown = run(Duration::from_millis(10)).await;
    assert!(grown > LIMIT_INITIAL, "{grown}");
}

/// As many long ones as the start allows, of which nothing is known yet.
#[tokio::test(start_paused = true)]
async fn who_waits_behind_requests_that_do_not_end_gets_in() {
    let deadline = 2 * STARTING_PATIENCE;
    let gate = RequestGate::new(RequestLimits { in_flight: None, deadline, ..LIMITS });
    let held: Vec<Permit> = std::iter::from_fn(|| gate.try_enter()).collect();
    assert_eq!(held.len(), LIMIT_INITIAL as usize);
    let begun = tokio::time::Instant::now();
    assert!(enter(&gate, Class::Normal).await.is_ok());
    assert!(begun.elapsed() >= STARTING_PATIENCE);
    assert!(gate.try_enter().is_some(), "and who comes later need not wait");
}

/// Threads enter, hold, give up and time out at random: the limit is never exceeded, nothing is
/// left in the queue, and every place comes back.
#[test]
fn many_threads_leak_no_place_and_never_exceed_the_limit() {
    const LIMIT: u32 = 3;
    let gate = RequestGate::new(RequestLimits {
        in_flight: Some(LIMIT),
        depth: 8,
        deadline: Duration::from_millis(5),
    });
    let (inside, entered) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let (gate, inside, entered) = (gate.clone(), inside.clone(), entered.clone());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let work = async |turn: u64| {
                    let class = [Class::Critical, Class::Normal, Class::Bulk][turn as usize % 3];
                    // Some give up at once, some soon, some never.
                    let patience = Duration::from_micros([0, 30, 100_000][turn as usize / 3 % 3]);
                    let entering = tokio::time::timeout(patience, gate.enter(class, now()));
                    if let Ok(Ok(permit)) = entering.await {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < LIMIT);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        entered.fetch_add(1, Ordering::SeqCst);
                        drop(permit);
                    }
                };
                runtime.block_on(async {
                    for turn in 0..400 {
                        let step = thread + 10 * turn;
                        let six = (0..6).map(|at| work(step + at));
                        futures_util::future::join_all(six).await;
                    }
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((gate.in_flight(), gate.state().depth), (0, 0));
    assert!(entered.load(Ordering::SeqCst) > 400);
    assert_eq!(gate.waiting.load(Ordering::SeqCst), 0);
}

/// One leaves just as the other comes, at every distance in time. Nobody else comes or leaves: a
/// waiter that both overlook would wait for its deadline, an hour.
#[test]
fn a_leaver_on_another_thread_always_sees_the_waiter() {
    const TURNS: u32 = 4_000;
    let limits =
        RequestLimits { in_flight: Some(1), depth: 8, deadline: Duration::from_secs(3_600) };
    let gate = RequestGate::new(limits);
    let (begun, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let until = |counter: &AtomicU32, turn: u32| {
        let give_up = Instant::now() + Duration::from_secs(20);
        while counter.load(Ordering::SeqCst) < turn && Instant::now() < give_up {
            // Spinning hits the moment; yielding lets the other go on where the cores are taken.
            let spun = (0..500).any(|_| {
                std::hint::spin_loop();
                counter.load(Ordering::SeqCst) >= turn
            });
            if !spun {
                std::thread::yield_now();
            }
        }
        counter.load(Ordering::SeqCst) >= turn
    };
    let comer = (gate.clone(), begun.clone(), done.clone());
    std::thread::spawn(move || {
        let (gate, begun, done) = comer;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for turn in 1..=TURNS {
            until(&begun, turn);
            let entered = runtime.block_on(gate.enter(Class::Normal, now()));
            drop(entered.unwrap());
            done.store(turn, Ordering::SeqCst);
        }
    });
    for turn in 1..=TURNS {
        let permit = gate.try_enter().unwrap();
        begun.store(turn, Ordering::SeqCst);
        (0..turn % 400).for_each(|_| std::hint::spin_loop());
        drop(permit);
        assert!(until(&done, turn), "turn {turn}: the waiter was forgotten");
    }
}

/// What can happen to two waiters at a gate of one place, in every order of five steps: entered,
/// polled, dropped; the place given back; the deadline passed.
#[tokio::test(start_paused = true)]
async fn whatever_happens_in_whatever_order_no_place_is_lost() {
    const STEPS: u32 = 5;
    const KINDS: u32 = 6;
    // With one place in the queue the second waiter displaces the first.
    for depth in [1, 2] {
        for sequence in 0..KINDS.pow(STEPS) {
            let mut scene = Scene::new(depth);
            for step in 0..STEPS {
                scene.act(sequence / KINDS.pow(step) % KINDS).await;
                scene.check(&format!("depth {depth}, sequence {sequence}, step {step}"));
            }
            let gate = scene.gate.clone();
            drop(scene);
            assert_eq!((gate.in_flight(), gate.state().depth), (0, 0), "sequence {sequence}");
            assert_eq!(gate.waiting.load(Ordering::SeqCst), 0, "sequence {sequence}");
        }
    }
}

/// A gate of one place that is taken, and two who may come.
struct Scene {
    gate: Arc<RequestGate>,
    held: Vec<Permit>,
    waiters: [Option<Entering>; 2],
}

impl Scene {
    fn new(depth: usize) -> Scene {
        let gate = RequestGate::new(RequestLimits { in_flight: Some(1), depth, ..LIMITS });
        let held = gate.try_enter().into_iter().collect();
        Scene { gate, held, waiters: [None, None] }
    }

    async fn act(&mut self, kind: u32) {
        match kind {
            // Enters, or is polled if it has entered.
            0 | 1 => {
                let gate = self.gate.clone();
                let waiter = &mut self.waiters[kind as usize];
                let entering = waiter.get_or_insert_with(|| {
                    Box::pin(async move { gate.enter(Class::Normal, now()).await })
                });
                let mut context = Context::from_waker(Waker::noop());
                if let std::task::Poll::Ready(result) = entering.as_mut().poll(&mut context) {
                    *waiter = None;
                    self.held.extend(result);
                }
            }
            2 | 3 => self.waiters[kind as usize - 2] = None,
            4 => drop(self.held.pop()),
            _ => tokio::time::advance(LIMITS.deadline).await,
        }
    }

    /// The limit holds, and nobody waits before a free place.
    fn check(&self, at: &str) {
        assert!(self.held.len() <= 1 && self.gate.in_flight() <= 1, "{at}");
        assert_eq!(self.gate.waiting.load(Ordering::SeqCst), self.gate.state().depth, "{at}");
        assert!(self.gate.state().depth == 0 || self.gate.in_flight() == 1, "{at}");
    }
}

/// As many as there is room for, each with a client that takes its time.
fn paced(gate: &Arc<RequestGate>) -> Vec<Permit> {
    let mut permits: Vec<Permit> = std::iter::from_fn(|| gate.try_enter()).collect();
    permits.iter_mut().for_each(Permit::streams);
    permits
}

#[tokio::test(start_paused = true)]
async fn slow_clients_use_up_nothing_of_an_adaptive_limit_once_somebody_has_waited() {
    let gate = RequestGate::new(RequestLimits { in_flight: None, ..LIMITS });
    let mut downloads = paced(&gate);
    // The first who waits makes the limit of the start a usual one, the second counts the others out.
    for _ in 0..2 {
        let start = tokio::time::Instant::now();
        let mut permit = enter(&gate, Class::Normal).await.unwrap();
        assert_eq!(start.elapsed(), STARTING_PATIENCE);
        permit.streams();
        downloads.push(permit);
        downloads.extend(paced(&gate));
    }
    let (limit, slow) = (gate.limit(), downloads.len() as u32);
    assert!(slow > limit, "{slow} of {limit}");
    let mut others: Vec<Permit> = std::iter::from_fn(|| gate.try_enter()).collect();
    assert_eq!((others.len() as u32, gate.in_flight()), (limit, limit + slow));
    // One that was fast becomes slow: its place is for who waits.
    let waiting = enter(&gate, Class::Normal);
    others[0].streams();
    let last = waiting.await.unwrap();
    // Once they are few and nobody waits, they count again.
    downloads.clear();
    let waiting = enter(&gate, Class::Normal);
    drop(last);
    drop(waiting.await);
    others.extend(std::iter::from_fn(|| gate.try_enter()));
    assert_eq!((others.len() as u32, gate.in_flight()), (limit, limit));
}

#[tokio::test(start_paused = true)]
async fn slow_clients_occupy_the_workers_of_a_fixed_limit() {
    let gate = RequestGate::new(LIMITS);
    let mut held = [gate.try_enter().unwrap(), gate.try_enter().unwrap()];
    held.iter_mut().for_each(Permit::streams);
    is_refused(enter(&gate, Class::Normal).await, Refusal::RequestDeadline);
}

#[tokio::test(start_paused = true)]
async fn an_upload_counts_as_slow_until_its_end_only() {
    let gate = RequestGate::new(RequestLimits { in_flight: None, ..LIMITS });
    let permit = gate.try_enter().unwrap();
    let upload = permit.waits_for_client();
    assert_eq!(gate.paced.load(Ordering::SeqCst), 1);
    drop(upload);
    assert_eq!((gate.paced.load(Ordering::SeqCst), gate.in_flight()), (0, 1));
}
