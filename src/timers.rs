//! Coarse deadlines for everything that one serving thread waits for.
//!
//! A timer of the runtime costs an allocation in its wheel for each wait, half a microsecond for
//! each request. A connection here owns one [`Deadline`] for its whole life; arming and disarming
//! it is one store. A sweep per thread, every [`RESOLUTION`], wakes the tasks whose deadline has
//! passed. A deadline therefore acts at its time or up to `RESOLUTION` later, never before; one around
//! an idle wait up to twice that.
//!
//! States of a slot: disarmed (`due` is `None`); armed; expired (armed, and `due` had passed at the
//! last sweep), which stays so until it is armed anew or disarmed. Only its owner arms; the sweep
//! only wakes.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

/// How late a deadline may act: 20 sweeps a second over 10,000 slots cost less than 0.1 % of a core.
pub const RESOLUTION: Duration = Duration::from_millis(50);

/// All deadlines of one thread.
pub struct Timers {
    slots: RefCell<Slab<Slot>>,
    /// When the last sweep was: nothing is due before the next.
    swept: Cell<Instant>,
}

struct Slot {
    due: Option<Instant>,
    waker: Option<Waker>,
    kind: Kind,
}

/// What a deadline bounds.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    /// Work in progress.
    Work,
    /// A keep-alive connection without a request: may be ended early to make room.
    Idle,
}

/// The wait was given up because its deadline passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Elapsed;

impl Timers {
    /// An empty table; its thread must run [`Timers::sweep`].
    pub fn new() -> Rc<Timers> {
        Rc::new(Timers { slots: RefCell::default(), swept: Cell::new(Instant::now()) })
    }

    /// A new, disarmed deadline.
    pub fn deadline(self: &Rc<Timers>) -> Deadline {
        let key = self.slots.borrow_mut().insert(Slot { due: None, waker: None, kind: Kind::Work });
        Deadline { timers: self.clone(), key }
    }

    /// Wakes every task that waits under an armed deadline, so that it looks around: the edge is
    /// about to end.
    pub fn wake_all(&self) {
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    /// When the last sweep was: now, for what may be wrong by [`RESOLUTION`].
    pub fn swept(&self) -> Instant {
        self.swept.get()
    }

    /// Lets the `count` longest idle waits end now; returns how many there were to end. Linear in
    /// the number of deadlines: for the moment when room is needed, not for every request.
    pub fn end_longest_idle(&self, count: usize) -> usize {
        let now = Instant::now();
        let mut slots = self.slots.borrow_mut();
        let mut idle: Vec<(Instant, usize)> = slots
            .iter()
            .filter(|(_, slot)| slot.kind == Kind::Idle && slot.due.is_some_and(|due| due > now))
            .filter_map(|(key, slot)| slot.due.map(|due| (due, key)))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle.iter().take(count) {
            let slot = &mut slots[*key];
            // Passed already for whoever looks now.
            slot.due = Some(self.swept.get());
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
        idle.len().min(count)
    }

    /// Wakes what is due, until the thread ends. Dropping the future stops all deadlines.
    pub async fn sweep(self: Rc<Timers>) {
        let mut tick = tokio::time::interval(RESOLUTION);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = tick.tick().await;
            self.swept.set(now);
            for (_, slot) in self.slots.borrow_mut().iter_mut() {
                if slot.due.is_some_and(|due| due <= now)
                    && let Some(waker) = slot.waker.take()
                {
                    waker.wake();
                }
            }
        }
    }
}

/// One reusable deadline; gives its slot back when dropped.
pub struct Deadline {
    timers: Rc<Timers>,
    key: usize,
}

impl Deadline {
    /// Arms it: what waits under it is given up `after` from now.
    pub fn arm(&self, after: Duration) {
        self.arm_at(Instant::now() + after);
    }

    /// Arms it for a point in time.
    pub fn arm_at(&self, due: Instant) {
        let slot = &mut self.timers.slots.borrow_mut()[self.key];
        slot.due = Some(due);
        slot.kind = Kind::Work;
    }

    /// Arms it around an idle wait, which [`Timers::end_longest_idle`] may cut short.
    /// Counted from the last sweep and one [`RESOLUTION`], so that no clock is read.
    pub fn arm_idle(&self, after: Duration) {
        let slot = &mut self.timers.slots.borrow_mut()[self.key];
        slot.due = Some(self.timers.swept.get() + RESOLUTION + after);
        slot.kind = Kind::Idle;
    }

    /// Another deadline of the same thread.
    pub fn sibling(&self) -> Deadline {
        self.timers.deadline()
    }

    /// Disarms it: waits under it are unbounded until it is armed again.
    pub fn disarm(&self) {
        self.timers.slots.borrow_mut()[self.key].due = None;
    }

    /// Whether it was last armed around an idle wait.
    pub fn is_idle(&self) -> bool {
        self.timers.slots.borrow()[self.key].kind == Kind::Idle
    }

    /// Whether it is armed, be it expired or not.
    pub fn is_armed(&self) -> bool {
        self.timers.slots.borrow()[self.key].due.is_some()
    }

    /// Whether the last sweep found the armed time passed: no clock is read. Registers the
    /// task to be woken when it does. For use in hand-written `poll` functions after everything else was pending.
    pub fn poll_elapsed(&self, cx: &mut Context<'_>) -> Poll<Elapsed> {
        let mut slots = self.timers.slots.borrow_mut();
        let slot = &mut slots[self.key];
        let Some(due) = slot.due else { return Poll::Pending };
        if due <= self.timers.swept.get() {
            return Poll::Ready(Elapsed);
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Disarms it and lets go of the task that waited last: for an owner that goes idle, which must
    /// not keep a finished task in memory.
    pub fn rest(&self) {
        let slot = &mut self.timers.slots.borrow_mut()[self.key];
        slot.due = None;
        slot.waker = None;
    }

    /// Runs `work` under the deadline. *Cancel safety*: that of `work`; the deadline stays armed.
    ///
    /// # Errors
    /// [`Elapsed`] where the deadline passed first; `work` is dropped then.
    pub async fn bound<F: Future>(&self, work: F) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_elapsed(cx).map(Err),
        })
        .await
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.timers.slots.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_acts_at_its_time_and_not_before() {
        let local = tokio::task::LocalSet::new();
        let timers = Timers::new();
        local.spawn_local(timers.clone().sweep());
        local
            .run_until(async move {
                let deadline = timers.deadline();
                let start = Instant::now();
                deadline.arm(Duration::from_secs(2));
                assert_eq!(deadline.bound(std::future::pending::<()>()).await, Err(Elapsed));
                let waited = start.elapsed();
                assert!(waited >= Duration::from_secs(2) && waited <= Duration::from_millis(2_060));
                deadline.arm(Duration::from_secs(2));
                assert_eq!(deadline.bound(std::future::ready(7)).await, Ok(7));
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_deadline_gives_its_slot_back() {
        let timers = Timers::new();
        drop((timers.deadline(), timers.deadline()));
        assert!(timers.slots.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_waits_are_ended_first_and_work_is_not() {
        let local = tokio::task::LocalSet::new();
        let timers = Timers::new();
        local.spawn_local(timers.clone().sweep());
        local
            .run_until(async move {
                let (old, young, work) = (timers.deadline(), timers.deadline(), timers.deadline());
                old.arm_idle(Duration::from_secs(10));
                young.arm_idle(Duration::from_secs(20));
                work.arm(Duration::from_secs(5));
                assert_eq!(timers.end_longest_idle(1), 1);
                assert_eq!(old.bound(std::future::pending::<()>()).await, Err(Elapsed));
                let start = Instant::now();
                assert_eq!(work.bound(std::future::pending::<()>()).await, Err(Elapsed));
                assert!(start.elapsed() >= Duration::from_secs(4));
                assert_eq!(timers.end_longest_idle(5), 1);
            })
            .await;
    }
}
