//! Waits for an instant more exactly than the runtime's timers.
//!
//! tokio's timers have a resolution of one millisecond, five times the schedule error we allow
//! ourselves. A timerfd fires from the kernel's high-resolution timer and is one more socket to
//! the runtime's poll, so it wakes the thread without spinning: a generator that burns its core
//! while it waits would take it from the server under test.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// One timer of one task.
#[derive(Debug)]
pub struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// A timer of the current runtime.
    ///
    /// # Errors
    /// Where the kernel gives no timer (out of file descriptors).
    pub fn new() -> io::Result<Pacer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd names one open file for life, as `register` asks"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Pacer { timer })
    }

    /// Returns at `due`, at once where it is past. *Cancel safety*: dropping it only leaves a
    /// timer set that the next call sets anew.
    ///
    /// # Errors
    /// Where the kernel refuses to set the timer.
    pub async fn until(&self, due: Instant) -> io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.set(left)?;
            // The expiry is never read: setting the timer anew discards it, and each expiry is a
            // new edge for the runtime's edge-triggered poll.
            self.timer.readable().await?.clear_ready();
        }
    }

    fn set(&self, left: Duration) -> io::Result<()> {
        let span = |length: Duration| Timespec {
            tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: length.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: span(Duration::ZERO), it_value: span(left) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wakes_after_the_instant_and_soon() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pacer = Pacer::new().unwrap();
            // Other tests share the cores: only the best wait is a property of the timer. The
            // runtime's own would never be less than 300 us late.
            let begun = Instant::now();
            let mut best = Duration::MAX;
            while best >= Duration::from_micros(200) {
                assert!(begun.elapsed() < Duration::from_secs(30), "{best:?} late at best");
                let due = Instant::now() + Duration::from_micros(700);
                pacer.until(due).await.unwrap();
                best = best.min(Instant::now().checked_duration_since(due).expect("not too early"));
            }
            pacer.until(Instant::now()).await.unwrap();
        });
    }
}
