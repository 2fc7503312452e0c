//! Where threads meet: the handshake queue under thousands of schedules, compiled here from its own
//! source with shuttle's locks, which decide at each of them who runs next and find every deadlock.
//!
//! In the model serving threads push visitors, begin brief ones while little waits, wait for each
//! step's answer, push what goes on, and may leave at any moment; handshake threads pull, take a step
//! and answer. What must hold in every schedule: nobody who stays waits for ever (that would be a
//! deadlock), each is told exactly one end, and whatever was left by whomever at whatever moment, every
//! visitor is dropped and every place is free again.
//!
//! No test harness: its attribute is what brings the room's own tests in, which have real threads.

#[expect(dead_code, unused_imports, reason = "the model does not use all, nor its tests")]
#[path = "../src/admission/handshakes.rs"]
mod handshakes;

/// What the room finds in `admission`, with shuttle's locks.
mod sync {
    pub use std::sync::PoisonError;

    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
}

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::sync::atomic::AtomicBool;
use shuttle::sync::mpsc::{Sender, channel};
use shuttle::thread;

use sluss::admission::QueueState;
use sluss::names::CustomerId;
use sluss::queue::Sort;
use sluss::refusal::Refusal;
use sluss::{names, queue, refusal};

use handshakes::{Entry, HandshakeLimits, HandshakeQueue, Waiting};

/// So few that places and depth are often all taken.
const PLACES: usize = 2;
const DEPTH: usize = 2;
const VISITORS: usize = 4;
const WORKERS: usize = 2;
const SCHEDULES: usize = 3_000;

type Queue = HandshakeQueue<Item>;

/// What waits in the queue, and whom to answer.
struct Item {
    visitor: Visitor,
    to: Sender<Answer>,
}

/// A connection on its way through the queue and the handshake.
struct Visitor {
    kind: Kind,
    is_brief: bool,
    steps_left: u32,
    left: Arc<AtomicBool>,
    place: Option<Place>,
    _counted: Counted,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Visitor,
    /// Ends the worker that takes it.
    Last,
}

enum Answer {
    Stepped(Visitor),
    TurnedAway(Refusal),
}

/// A place among the handshakes that have begun.
struct Place(Arc<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Visitors that have not been dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Waiting for Item {
    fn is_gone(&self) -> bool {
        self.visitor.left.load(Ordering::SeqCst)
    }

    fn is_brief(&self) -> bool {
        self.visitor.is_brief
    }
}

fn lock<T>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(sync::PoisonError::into_inner)
}

fn turn_away(item: Item, refusal: Refusal) {
    let Item { visitor, to } = item;
    drop(visitor);
    // Nobody listens where the visitor has left.
    let _ = to.send(Answer::TurnedAway(refusal));
}

fn visitor(kind: Kind, alive: &Arc<AtomicUsize>) -> Visitor {
    alive.fetch_add(1, Ordering::SeqCst);
    Visitor {
        kind,
        is_brief: thread_rng().gen_bool(0.7),
        steps_left: thread_rng().gen_range(1..=3),
        left: Arc::new(AtomicBool::new(false)),
        place: None,
        _counted: Counted(alive.clone()),
    }
}

/// Lets an item wait, which may be so much that serving threads leave all to the workers.
fn push(queue: &Queue, customer: &str, item: Item, helps: bool) {
    let customer = CustomerId::parse(customer).expect("a valid name");
    let cost = if thread_rng().gen_bool(0.2) { 20_000 } else { 1 };
    let since = Instant::now();
    let entry = Entry { customer, weight: 1, cost, sort: Sort::Heavy, since, item };
    for (item, refusal) in queue.push(entry, helps) {
        turn_away(item, refusal);
    }
}

fn step(queue: &Arc<Queue>, item: Item) {
    let Item { mut visitor, to } = item;
    visitor.place.get_or_insert_with(|| Place(queue.clone()));
    visitor.steps_left -= 1;
    let _ = to.send(Answer::Stepped(visitor));
}

/// A handshake thread.
fn work(queue: &Arc<Queue>) {
    loop {
        let (item, _) = queue.next(turn_away);
        let is_last = item.visitor.kind == Kind::Last;
        step(queue, item);
        if is_last {
            return;
        }
    }
}

/// A serving thread begins what is brief, until it has had enough; one call may stand for several
/// visitors.
fn help(queue: &Arc<Queue>) {
    loop {
        if thread_rng().gen_bool(0.3) {
            return queue.leave();
        }
        let Some((item, _)) = queue.next_brief(turn_away) else { return };
        step(queue, item);
    }
}

/// A serving thread's part of one connection, and its help; leaves at any moment in every other
/// schedule.
fn visit(queue: &Arc<Queue>, customer: &str, alive: &Arc<AtomicUsize>) {
    let (to, mut answers) = channel();
    let visitor = visitor(Kind::Visitor, alive);
    let left = visitor.left.clone();
    let item = Item { visitor, to };
    let helps = item.is_brief() && thread_rng().gen_bool(0.7);
    push(queue, customer, item, helps);
    if helps {
        help(queue);
    }
    loop {
        if thread_rng().gen_bool(0.2) {
            left.store(true, Ordering::SeqCst);
            return;
        }
        match answers.recv().expect("who stays is answered") {
            Answer::TurnedAway(refusal) => {
                assert_eq!(refusal, Refusal::HandshakeQueueFull);
                return;
            }
            Answer::Stepped(visitor) if visitor.steps_left == 0 => return,
            Answer::Stepped(visitor) => {
                let (to, next) = channel();
                answers = next;
                queue.go_on(Item { visitor, to });
            }
        }
    }
}

fn model() {
    let deadline = Duration::from_secs(3_600);
    let queue = Arc::new(HandshakeQueue::new(HandshakeLimits { depth: DEPTH, deadline }, PLACES));
    let alive = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || work(&queue))
        })
        .collect();
    let visits: Vec<_> = (0..VISITORS)
        .map(|number| {
            let (queue, alive) = (queue.clone(), alive.clone());
            let customer = if number == 0 { "quiet" } else { "flood" };
            thread::spawn(move || visit(&queue, customer, &alive))
        })
        .collect();
    for visit in visits {
        visit.join().expect("no visit panics");
    }
    // What still waits was left by its visitor; then a last item for each worker.
    drop(queue.reconfigure(HandshakeLimits { depth: 0, deadline }));
    queue.reconfigure(HandshakeLimits { depth: WORKERS, deadline });
    for _ in 0..WORKERS {
        let last = Item { visitor: visitor(Kind::Last, &alive), to: channel().0 };
        push(&queue, "last", last, false);
    }
    for worker in workers {
        worker.join().expect("no worker panics");
    }
    assert_eq!(alive.load(Ordering::SeqCst), 0, "every visitor is dropped");
    // A place that was lost would make this wait for ever.
    let taken: Vec<Item> = (0..PLACES)
        .map(|_| {
            let visitor = visitor(Kind::Last, &alive);
            push(&queue, "after", Item { visitor, to: channel().0 }, false);
            queue.next(turn_away).0
        })
        .collect();
    assert_eq!(taken.len(), PLACES);
}

fn main() {
    shuttle::check_random(model, SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, 3);
    println!("the handshake queue holds in {} schedules", 2 * SCHEDULES);
}
