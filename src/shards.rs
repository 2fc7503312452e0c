//! Which part of a sharded value the current thread writes.
//!
//! Counters and the access log's buffers have one shard a thread, so that threads do not pull one
//! cache line to and fro. A thread tells its number once; threads that never do share shard 0.
//! The number spreads the load: a value is right whichever shard was written, as long as two threads
//! of one number do not live at the same time.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Gives the current thread its number among the serving and handshake threads, from 0.
pub fn register_thread(number: usize) {
    // Shard 0 stays with the threads without a number: control, blocking pool, tests.
    SHARD.set(number + 1);
}

/// The shard of the current thread among `count`, which is at least 1.
#[inline]
pub fn current(count: usize) -> usize {
    let shard = SHARD.get();
    if shard < count { shard } else { shard % count }
}

/// How the current thread may write to its shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Writes {
    /// Nobody else does.
    Alone,
    /// Others may.
    Shared,
}

impl Writes {
    /// To the shard that [`current`] gives, of a value that has one for every number.
    #[inline]
    pub fn of_current(count: usize) -> Writes {
        if (1..count).contains(&SHARD.get()) { Writes::Alone } else { Writes::Shared }
    }

    /// Counts, modulo 2^64. An atomic add would hold up the core until all earlier stores are done,
    /// which takes longer than counting: alone, a load and a store do.
    #[inline]
    pub fn add(self, counter: &AtomicU64, count: u64) {
        match self {
            Writes::Alone => counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed),
            Writes::Shared => {
                counter.fetch_add(count, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_finds_a_shard_within_the_count() {
        assert_eq!(current(4), 0);
        let found = std::thread::spawn(|| {
            register_thread(6);
            (current(8), current(4), current(1))
        });
        assert_eq!(found.join().unwrap(), (7, 3, 0));
    }

    #[test]
    fn a_thread_writes_alone_where_each_number_has_a_shard() {
        let counter = AtomicU64::new(u64::MAX);
        assert_eq!(Writes::of_current(4), Writes::Shared);
        Writes::Shared.add(&counter, 3);
        let found = std::thread::scope(|scope| {
            let numbered = scope.spawn(|| {
                register_thread(2);
                Writes::of_current(4).add(&counter, 5);
                (Writes::of_current(4), Writes::of_current(3))
            });
            numbered.join().unwrap()
        });
        assert_eq!(found, (Writes::Alone, Writes::Shared));
        assert_eq!(counter.into_inner(), 7);
    }
}
