//! Memory of heads, kept by each thread for the next head.
//!
//! A request's head and its response's come and go with every request; their memory stays. At most
//! [`KEPT_MAX`] are kept, so a burst's memory is given back.

use std::cell::RefCell;

use crate::screen::Storage;

/// Storages kept for reuse on one thread; each keeps 16 KiB at most.
pub const KEPT_MAX: usize = 256;

thread_local! {
    static KEPT: RefCell<Vec<Storage>> = const { RefCell::new(Vec::new()) };
}

/// Memory for a head.
pub fn take() -> Storage {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps the memory of a head that is not needed any more.
pub fn give_back(storage: Storage) {
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            kept.push(storage.emptied());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_kept_than_the_bound() {
        for _ in 0..=KEPT_MAX {
            give_back(Storage::default());
        }
        assert_eq!(KEPT.with_borrow(Vec::len), KEPT_MAX);
        take();
        assert_eq!(KEPT.with_borrow(Vec::len), KEPT_MAX - 1);
    }
}
