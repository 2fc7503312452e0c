//! Read buffers of one thread, given back while a connection is idle.
//!
//! An idle connection holds no buffer; one that reads borrows it from here. At most
//! [`KEPT_MAX`] buffers are kept, so a burst's memory is given back.

use std::cell::RefCell;

use bytes::BytesMut;

/// One TLS record (RFC 8446 5.1); also what a head usually fits in.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers kept for reuse on one thread: 4 MiB.
pub const KEPT_MAX: usize = 256;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`BUFFER_BYTES`].
pub fn take() -> BytesMut {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
}

/// Gives a buffer back; leaves `buffer` empty without memory. A buffer that somebody still reads
/// from (a piece of a body on its way) is let go instead.
pub fn give_back(buffer: &mut BytesMut) {
    let mut buffer = std::mem::take(buffer);
    buffer.clear();
    if buffer.try_reclaim(BUFFER_BYTES) && buffer.capacity() <= 4 * BUFFER_BYTES {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < KEPT_MAX {
                kept.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_one_still_read_from_does_not() {
        let mut buffer = take();
        buffer.extend_from_slice(b"piece");
        let piece = buffer.split_to(5).freeze();
        give_back(&mut buffer);
        assert_eq!(KEPT.with_borrow(Vec::len), 0);
        drop(piece);

        let mut buffer = take();
        buffer.extend_from_slice(b"piece");
        drop(buffer.split_to(5).freeze());
        give_back(&mut buffer);
        assert_eq!(KEPT.with_borrow(Vec::len), 1);
        assert!(take().capacity() >= BUFFER_BYTES);
    }
}
