//! After `101 Switching Protocols`: bytes both ways, until one side ends or both fall silent.

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

/// Runs the tunnel. `first` (the 101 head) goes to the client before anything else, `leftover`
/// (what the client sent behind its request) to the endpoint. Returns the bytes received from the
/// client and sent to it.
pub async fn run<T, U>(wire: &Shared<T>, upstream: U, first: &[u8], leftover: Bytes) -> (u64, u64)
where
    T: Transport,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Rc::new(Cell::new(Instant::now()));
    let mut client = Watched { io: Client(wire.clone()), unread: leftover, moved: moved.clone() };
    let mut endpoint = Watched { io: upstream, unread: Bytes::new(), moved: moved.clone() };
    let deadline: Deadline = wire.borrow().reading.sibling();
    let work = async {
        tokio::io::AsyncWriteExt::write_all(&mut client, first).await?;
        tokio::io::copy_bidirectional(&mut client, &mut endpoint).await
    };
    let mut work = pin!(work);
    deadline.arm(TUNNEL_IDLE);
    let copied = poll_fn(|cx| {
        if let Poll::Ready(copied) = work.as_mut().poll(cx) {
            return Poll::Ready(copied.ok());
        }
        loop {
            if deadline.poll_elapsed(cx).is_pending() {
                return Poll::Pending;
            }
            if moved.get().elapsed() >= TUNNEL_IDLE {
                return Poll::Ready(None);
            }
            deadline.arm_at(moved.get() + TUNNEL_IDLE);
        }
    })
    .await;
    copied.unwrap_or_default()
}

/// The client's side of a tunnel.
struct Client<T>(Rc<RefCell<Wire<T>>>);

/// Notes when a byte last moved.
struct Watched<T> {
    io: T,
    unread: Bytes,
    moved: Rc<Cell<Instant>>,
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
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if polled.is_ready() {
            self.moved.set(Instant::now());
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
            self.moved.set(Instant::now());
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
