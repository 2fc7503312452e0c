//! Which part of a sharded value the current thread writes.
//!
//! Counters and the access log's buffers have one shard a thread, so that threads do not pull one
//! cache line to and fro. A thread tells its number once; threads that never do share shard 0.
//! The number only spreads the load: a value is right whichever shard was written.

use std::cell::Cell;

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
}
