//! The places for client connections in the process, and how room is made where all are taken.
//!
//! A newcomer may be accepted by any serving thread, and the idle connections may all belong to
//! another: so whoever wants a place tells all threads, and each ends its own longest idle ones. A
//! thread that is told when nobody wants a place any more ends nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Proxy, Thread};

/// While all places are taken, a newcomer looks this often whether one is free.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// How many places are taken, and how many more are wanted.
#[derive(Default)]
pub struct Places {
    taken: AtomicUsize,
    /// Newcomers that wait for one.
    wanted: AtomicUsize,
    /// Told again and again while one waits: none need be kept for who does not listen now.
    wish: Notify,
}

impl Places {
    /// Client connections the process holds now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A newcomer that waits.
struct Wish<'a>(&'a Places);

impl Wish<'_> {
    fn new(places: &Places) -> Wish<'_> {
        places.wanted.fetch_add(1, Ordering::Relaxed);
        Wish(places)
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place among those the process may hold; given back when dropped.
pub struct ConnectionSlot(Arc<Proxy>);

impl ConnectionSlot {
    /// Takes a place; `None` where all are taken.
    pub fn take(proxy: &Arc<Proxy>, connections_max: usize) -> Option<ConnectionSlot> {
        let taken = proxy.places.taken.fetch_add(1, Ordering::Relaxed);
        let slot = ConnectionSlot(proxy.clone());
        (taken < connections_max).then_some(slot)
    }

    /// Takes a place, and waits for one where all are taken. *Cancel safety*: whoever drops it
    /// wants none any more.
    pub async fn wait(thread: &Thread) -> ConnectionSlot {
        let take = || {
            let connections_max = thread.live().snapshot.runtime.connections_max;
            ConnectionSlot::take(&thread.proxy, connections_max)
        };
        if let Some(slot) = take() {
            return slot;
        }
        let wish = Wish::new(&thread.proxy.places);
        loop {
            wish.0.wish.notify_waiters();
            tokio::time::sleep(FULL_PAUSE).await;
            if let Some(slot) = take() {
                return slot;
            }
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends the thread's longest idle connections while places are wanted, for as long as the thread
/// runs: a hundredth of all places at a time, over all threads, and one at least.
pub async fn make_room(thread: Rc<Thread>) {
    let places = &thread.proxy.places;
    loop {
        places.wish.notified().await;
        // It may have been told a moment ago, and be about to end the one that got the place.
        if places.wanted.load(Ordering::Relaxed) > 0 {
            let live = thread.live();
            let runtime = &live.snapshot.runtime;
            let share = (runtime.connections_max / (100 * runtime.threads.max(1))).max(1);
            let ended = thread.timers.end_longest_idle(share);
            thread.proxy.metrics.ended_idle(ended as u64);
        }
    }
}
