//! Small writes of a connection, gathered while more of them are on their way.
//!
//! h2 writes each piece of a body by itself: a TLS record, a system call, and at the client a packet
//! and a wake-up for each small response, though a client that asks for thirty at once gets the
//! next one some microseconds later. Here a flush of less than a record is put off. The connection's
//! supervisor settles when it comes: at once where no stream is open, so that a lone response never
//! waits; else when the thread has looked at its sockets again and found nothing new for any
//! connection, after `LOOKS_MAX` looks at most. A thread without other work looks at once; a busy
//! one writes as much as comes together meanwhile.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffers;

/// What is held at most: one TLS record (RFC 8446 5.1).
const HELD_BYTES_MAX: usize = buffers::BUFFER_BYTES;

/// A write that is not worth a copy.
const LARGE_BYTES: usize = 4 * 1024;

/// How often a thread looks for more before it writes what it has.
const LOOKS_MAX: usize = 3;

/// A connection's stream whose small writes are gathered.
#[derive(Debug)]
pub struct Batched<T> {
    io: T,
    held: BytesMut,
    put_off: Rc<PutOff>,
}

/// Whether a connection's flush is put off; shared between its stream and its supervisor.
#[derive(Debug, Default)]
pub struct PutOff(RefCell<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    No,
    /// Until the supervisor settles when it comes.
    Unsettled,
    /// Until its connection is woken for it.
    Until(Waker),
    /// The next flush writes.
    Due,
}

thread_local! {
    /// The connections of this thread that are to be woken.
    static WAITING: RefCell<Vec<Rc<PutOff>>> = const { RefCell::new(Vec::new()) };
    /// Whether anything was held since the last look.
    static NEWS: Cell<bool> = const { Cell::new(false) };
}

impl PutOff {
    /// Whether the flush that is asked for now is put off.
    fn asked(&self) -> bool {
        let mut state = self.0.borrow_mut();
        match *state {
            State::Due => *state = State::No,
            State::No => *state = State::Unsettled,
            State::Unsettled | State::Until(_) => {}
        }
        !matches!(*state, State::No)
    }

    /// Settles when a flush that was put off comes: now, where this tells `true`; else, since there
    /// is `more` to come, the task of `cx` is woken for it soon. Must run where `spawn_local` may be called.
    pub fn settle(self: &Rc<PutOff>, more: bool, cx: &Context<'_>) -> bool {
        let mut state = self.0.borrow_mut();
        match *state {
            State::No | State::Due => return false,
            State::Unsettled | State::Until(_) if !more => *state = State::Due,
            State::Until(_) => return false,
            State::Unsettled => {
                *state = State::Until(cx.waker().clone());
                let first = WAITING.with_borrow_mut(|waiting| {
                    waiting.push(self.clone());
                    waiting.len() == 1
                });
                if first {
                    tokio::task::spawn_local(flush_soon());
                }
                return false;
            }
        }
        true
    }
}

/// Looks for more, then lets all connections of this thread write what they hold.
async fn flush_soon() {
    for _ in 0..LOOKS_MAX {
        NEWS.set(false);
        // The runtime asks the kernel for events before it goes on here.
        tokio::task::yield_now().await;
        if !NEWS.get() {
            break;
        }
    }
    for put_off in WAITING.take() {
        let mut state = put_off.0.borrow_mut();
        if let State::Until(waker) = &*state {
            waker.wake_by_ref();
            *state = State::Due;
        }
    }
}

impl<T> Batched<T> {
    /// Gathers the writes of a connection whose supervisor settles when they come.
    pub fn new(io: T, put_off: Rc<PutOff>) -> Batched<T> {
        Batched { io, held: BytesMut::new(), put_off }
    }
}

impl<T: AsyncWrite + Unpin> Batched<T> {
    fn poll_write_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        if self.held.capacity() > 0 {
            buffers::give_back(&mut self.held);
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for a write of so many bytes; tells whether it is to be held.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        let large = bytes >= LARGE_BYTES;
        if large || self.held.len() + bytes > HELD_BYTES_MAX {
            ready!(self.poll_write_held(cx))?;
        }
        if !large && self.held.capacity() == 0 {
            self.held = buffers::take();
        }
        Poll::Ready(Ok(!large))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Batched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Batched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if !ready!(this.poll_room(cx, bytes))? {
            return Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        }
        NEWS.set(true);
        for slice in slices {
            this.held.extend_from_slice(slice);
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Tells that all is written also where that is put off: the connection flushes again then.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.held.is_empty() && this.put_off.asked() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_write_held(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::*;

    /// Writes that arrived, each by itself; takes no more than `room` bytes.
    #[derive(Debug)]
    struct Written {
        pieces: Vec<Vec<u8>>,
        room: usize,
    }

    impl AsyncWrite for Written {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.pieces.push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn batched(room: usize) -> (Batched<Written>, Rc<PutOff>) {
        let put_off = Rc::<PutOff>::default();
        (Batched::new(Written { pieces: Vec::new(), room }, put_off.clone()), put_off)
    }

    #[tokio::test]
    async fn a_lone_response_is_written_at_once_and_in_one_piece() {
        let (mut batched, put_off) = batched(usize::MAX);
        batched.write_all(b"head").await.unwrap();
        batched.write_all(b"body").await.unwrap();
        batched.flush().await.unwrap();
        assert!(batched.io.pieces.is_empty());
        assert!(poll_fn(|cx| Poll::Ready(put_off.settle(false, cx))).await, "it is time");
        batched.flush().await.unwrap();
        assert_eq!(batched.io.pieces, [b"headbody"]);
        assert_eq!(batched.held.capacity(), 0, "an idle connection holds no buffer");
    }

    /// Drives two connections as supervisors do; the second response comes a turn later.
    #[tokio::test]
    async fn what_comes_while_others_are_open_is_written_together_and_soon() {
        let turns = async {
            let (mut batched, put_off) = batched(usize::MAX);
            batched.write_all(b"one").await.unwrap();
            let mut woken = 0;
            poll_fn(|cx| {
                woken += 1;
                if woken == 2 {
                    assert!(pin!(batched.write_all(b"two")).poll(cx).is_ready());
                }
                assert!(Pin::new(&mut batched).poll_flush(cx).is_ready());
                assert!(!put_off.settle(true, cx));
                if woken == 1 {
                    assert!(batched.io.pieces.is_empty(), "put off");
                    cx.waker().wake_by_ref(); // Another stream has something.
                }
                if batched.io.pieces.is_empty() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            assert_eq!(batched.io.pieces, [b"onetwo"]);
        };
        LocalSet::new().run_until(turns).await;
    }

    #[tokio::test]
    async fn a_full_buffer_and_a_large_piece_go_out_without_being_asked() {
        let (mut batched, _) = batched(usize::MAX);
        for _ in 0..HELD_BYTES_MAX / 1_024 {
            batched.write_all(&[b's'; 1_024]).await.unwrap();
        }
        assert!(batched.io.pieces.is_empty());
        batched.write_all(b"more").await.unwrap();
        batched.write_all(&[b'l'; LARGE_BYTES]).await.unwrap();
        let lengths: Vec<usize> = batched.io.pieces.iter().map(Vec::len).collect();
        assert_eq!(lengths, [HELD_BYTES_MAX, 4, LARGE_BYTES]);
        batched.write_all(b"last").await.unwrap();
        batched.shutdown().await.unwrap();
        assert_eq!(batched.io.pieces[3], b"last");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_holds_the_writer_back() {
        let (mut batched, _) = batched(10);
        let mut taken = 0;
        let stuck = poll_fn(|cx| {
            while taken <= 2 * HELD_BYTES_MAX {
                match Pin::new(&mut batched).poll_write(cx, &[b'x'; 1_000]) {
                    Poll::Ready(count) => taken += count.unwrap(),
                    Poll::Pending => return Poll::Ready(()),
                }
            }
            panic!("held without bound");
        });
        stuck.await;
        assert!(batched.held.len() <= HELD_BYTES_MAX && taken <= HELD_BYTES_MAX);
        assert_eq!(batched.io.pieces.concat().len(), 10);
    }

    #[tokio::test]
    async fn reads_pass_through() {
        let (mut client, edge) = tokio::io::duplex(64);
        client.write_all(b"asked").await.unwrap();
        let mut read = [0; 5];
        Batched::new(edge, Rc::default()).read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"asked");
    }
}
