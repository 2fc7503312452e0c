//! After `101 Switching Protocols`: bytes both ways, until both sides have ended or fall silent.
//!
//! The end of one side is passed on at once. The other may still say what it has to say, but is
//! waited for no longer than for a piece of a body: a client that has vanished must not keep a
//! tunnel whose site is gone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Transport;
use super::wire::{Shared, Wire};
use crate::timers::Deadline;

/// A tunnel in which no byte has moved for so long is ended. HAProxy's documentation suggests the
/// same for `timeout tunnel`: WebSocket applications send pings far more often.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(3_600);

/// Runs the tunnel; once a side has ended, `patience` bounds the silence of the other. `first` (the 101 head) goes to the client before anything else, `leftover`
/// (what the client sent behind its request) to the endpoint. Returns the bytes received from the
/// client and sent to it.
pub async fn run<T, U>(
    wire: &Shared<T>,
    upstream: U,
    first: &[u8],
    leftover: Bytes,
    patience: Duration,
) -> (u64, u64)
where
    T: Transport,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let pulse = Rc::new(Pulse::new(patience));
    let mut client = Watched { io: Client(wire.clone()), unread: leftover, pulse: pulse.clone() };
    let mut endpoint = Watched { io: upstream, unread: Bytes::new(), pulse: pulse.clone() };
    let deadline: Deadline = wire.borrow().reading.sibling();
    let work = async {
        tokio::io::AsyncWriteExt::write_all(&mut client, first).await?;
        tokio::io::copy_bidirectional(&mut client, &mut endpoint).await
    };
    let mut work = pin!(work);
    deadline.arm_at(pulse.due());
    let copied = poll_fn(|cx| {
        if let Poll::Ready(copied) = work.as_mut().poll(cx) {
            return Poll::Ready(copied.ok());
        }
        if pulse.just_ended() {
            deadline.arm_at(pulse.due());
        }
        loop {
            if deadline.poll_elapsed(cx).is_pending() {
                return Poll::Pending;
            }
            if pulse.due() <= Instant::now() {
                return Poll::Ready(None);
            }
            deadline.arm_at(pulse.due());
        }
    })
    .await;
    copied.unwrap_or_default()
}

/// When a tunnel was last alive, and how long it may be silent.
struct Pulse {
    moved: Cell<Instant>,
    silence_max: Cell<Duration>,
    /// Of a tunnel of which one side has ended.
    patience: Duration,
    just_ended: Cell<bool>,
}

impl Pulse {
    fn new(patience: Duration) -> Pulse {
        let (moved, silence_max) = (Cell::new(Instant::now()), Cell::new(TUNNEL_IDLE));
        Pulse { moved, silence_max, patience, just_ended: Cell::new(false) }
    }

    /// Notes that a byte has moved.
    fn beat(&self) {
        self.moved.set(Instant::now());
    }

    /// Notes that a side has ended.
    fn end(&self) {
        self.silence_max.set(self.patience.min(TUNNEL_IDLE));
        self.just_ended.set(true);
    }

    /// Whether a side has ended since the last question.
    fn just_ended(&self) -> bool {
        self.just_ended.take()
    }

    /// When the tunnel is given up, if nothing moves until then.
    fn due(&self) -> Instant {
        self.moved.get() + self.silence_max.get()
    }
}

/// The client's side of a tunnel.
struct Client<T>(Rc<RefCell<Wire<T>>>);

/// One side, and what was read of it before; notes its life.
struct Watched<T> {
    io: T,
    unread: Bytes,
    pulse: Rc<Pulse>,
}

impl<T: Transport> AsyncRead for Client<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buffer)
    }
}

impl<T: Transport> AsyncWrite for Client<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread[..count]);
            self.unread.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if polled.is_ready() {
            self.pulse.beat();
            if buffer.filled().len() == before {
                self.pulse.end();
            }
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if polled.is_ready() {
            self.pulse.beat();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
