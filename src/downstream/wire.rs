//! The bytes of one HTTP/1 client connection: what was read and not consumed, and the deadlines.
//!
//! The connection's loop and the request body it hands out share a wire (one thread, one task:
//! a `RefCell` borrowed only within a poll). The wire holds no buffer while nothing is unread.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;

use super::Transport;
use super::body::Progress;
use crate::buffers;
use crate::refusal::Refusal;
use crate::timers::{Deadline, Timers};

/// Pipelined bytes read ahead while a response is on its way; more waits in the kernel.
const READ_AHEAD_MAX: usize = buffers::BUFFER_BYTES;

/// Output buffers kept for reuse on one thread.
const OUTPUTS_MAX: usize = 256;

thread_local! {
    static OUTPUTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// One client connection's bytes.
pub struct Wire<T> {
    /// The transport.
    pub io: T,
    /// Read, not yet consumed.
    pub input: BytesMut,
    /// The client has sent its last byte (close_notify or FIN).
    pub ended: bool,
    /// Where the current request's body stands.
    pub body: Progress,
    /// Bounds waiting for the client's bytes.
    pub reading: Deadline,
    /// Bounds waiting for the client to take ours.
    pub writing: Deadline,
}

/// A wire and its sharers.
pub type Shared<T> = Rc<RefCell<Wire<T>>>;

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// The client has sent its last byte.
    Ended,
    /// The connection broke.
    Broken,
    /// The reading deadline passed.
    Elapsed,
}

impl<T: Transport> Wire<T> {
    /// A wire around a fresh connection.
    pub fn new(io: T, timers: &Rc<Timers>) -> Wire<T> {
        Wire {
            io,
            input: BytesMut::new(),
            ended: false,
            body: Progress::default(),
            reading: timers.deadline(),
            writing: timers.deadline(),
        }
    }

    /// Reads what is there into `input`. Pending leaves no empty buffer behind.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if self.ended {
            return Poll::Ready(Err(Stop::Ended));
        }
        // Most looks find nothing, and take no buffer for that.
        if self.io.poll_readable(cx).is_pending() {
            return self.poll_nothing_read(cx);
        }
        if self.input.capacity() == 0 {
            self.input = buffers::take();
        }
        // Reclaims the buffer in place where the pieces given out are gone.
        self.input.reserve(if self.input.is_empty() { buffers::BUFFER_BYTES } else { 1_024 });
        match self.io.poll_read_some(cx, &mut self.input) {
            Poll::Ready(Ok(0)) => {
                self.ended = true;
                Poll::Ready(Err(Stop::Ended))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => {
                self.ended = true;
                Poll::Ready(Err(Stop::Broken))
            }
            Poll::Pending => self.poll_nothing_read(cx),
        }
    }

    fn poll_nothing_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if self.input.is_empty() && self.input.capacity() > 0 {
            buffers::give_back(&mut self.input);
        }
        self.reading.poll_elapsed(cx).map(|_| Err(Stop::Elapsed))
    }

    /// Ready once the client is gone, to be polled while a response is awaited and the request's
    /// body is complete. Reads ahead what a pipelining client sends, up to a bound.
    ///
    /// A close_notify alone is a half-close (RFC 8446 6.1): the response is still wanted. A FIN or
    /// reset is not: no client that waits for a response closes its socket.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended {
            if self.input.len() >= READ_AHEAD_MAX {
                return Poll::Pending;
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Stop::Broken)) => return Poll::Ready(()),
                Poll::Ready(Err(Stop::Ended)) => break,
                Poll::Ready(Err(Stop::Elapsed)) | Poll::Pending => return Poll::Pending,
            }
        }
        self.io.poll_gone(cx)
    }

    fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        written: &mut usize,
        patience: Duration,
    ) -> Poll<Result<(), Refusal>> {
        while *written < bytes.len() {
            match Pin::new(&mut self.io).poll_write(cx, &bytes[*written..]) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Refusal::ClientGone)),
                Poll::Ready(Ok(count)) => {
                    *written += count;
                    self.writing.disarm();
                }
                Poll::Pending => return self.poll_stalled(cx, patience),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
        patience: Duration,
    ) -> Poll<Result<(), Refusal>> {
        if !self.writing.is_armed() {
            self.writing.arm(patience);
        }
        self.writing.poll_elapsed(cx).map(|_| Err(Refusal::ClientStalled))
    }
}

/// Writes all of `bytes`. *Cancel safety*: none; a part may have been written.
///
/// # Errors
/// `ClientGone`, or `ClientStalled` where nothing was taken for `patience`.
pub async fn write_all<T: Transport>(
    wire: &RefCell<Wire<T>>,
    bytes: &[u8],
    patience: Duration,
) -> Result<(), Refusal> {
    let mut written = 0;
    poll_fn(|cx| wire.borrow_mut().poll_write_all(cx, bytes, &mut written, patience)).await
}

/// Sends what the TLS layer still holds.
///
/// # Errors
/// As [`write_all`].
pub async fn flush<T: Transport>(
    wire: &RefCell<Wire<T>>,
    patience: Duration,
) -> Result<(), Refusal> {
    poll_fn(|cx| {
        let wire = &mut *wire.borrow_mut();
        match Pin::new(&mut wire.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                wire.writing.disarm();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Refusal::ClientGone)),
            Poll::Pending => wire.poll_stalled(cx, patience),
        }
    })
    .await
}

/// Says goodbye so that the last response arrives (RFC 9112 9.6): closes the writing side, then
/// reads and throws away what the client still sends, up to `bytes_max` and within the deadline.
pub async fn close<T: Transport>(wire: &RefCell<Wire<T>>, patience: Duration, bytes_max: usize) {
    wire.borrow().reading.arm(patience);
    wire.borrow().writing.arm(patience);
    let mut shut = false;
    let mut left = bytes_max;
    poll_fn(|cx| {
        let wire = &mut *wire.borrow_mut();
        if !shut {
            match Pin::new(&mut wire.io).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    ready!(wire.writing.poll_elapsed(cx));
                    return Poll::Ready(());
                }
            }
        }
        loop {
            left = left.saturating_sub(wire.input.len());
            wire.input.clear();
            if left == 0 || ready!(wire.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
    })
    .await;
    buffers::give_back(&mut wire.borrow_mut().input);
}

/// An empty buffer for what goes to a client.
pub(super) fn output() -> Vec<u8> {
    OUTPUTS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(buffers::BUFFER_BYTES + 1024))
}

/// Keeps a buffer for the next response.
pub(super) fn output_done(mut out: Vec<u8>) {
    out.clear();
    OUTPUTS.with_borrow_mut(|kept| {
        if kept.len() < OUTPUTS_MAX && out.capacity() <= 4 * buffers::BUFFER_BYTES {
            kept.push(out);
        }
    });
}
