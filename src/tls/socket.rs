//! A client's TCP connection that can move between threads.
//!
//! A socket is *live* on the runtime that polls it, or *parked*: taken out of every runtime, so
//! that it may be sent to another thread, with or without a TLS session around it. Bytes already
//! read from it (the ClientHello, or what followed a PROXY header) are handed out again first.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A client's TCP connection.
#[derive(Debug)]
pub struct Socket {
    place: Place,
    unread: Bytes,
    /// The client, as the kernel or a trusted PROXY header names it.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
}

#[derive(Debug)]
enum Place {
    Live(TcpStream),
    Parked(std::net::TcpStream),
    /// Only while moving, or after moving failed: every use is an error.
    Lost,
}

impl Socket {
    /// Takes an accepted connection that lives on the current runtime.
    pub fn new(stream: TcpStream, client: SocketAddr, local: SocketAddr) -> Socket {
        Socket { place: Place::Live(stream), unread: Bytes::new(), client, local }
    }

    /// Bytes to be handed out before those still in the kernel.
    pub fn push_back(&mut self, unread: Bytes) {
        self.unread = unread;
    }

    /// Takes it out of its runtime, so that it may be sent to another thread.
    ///
    /// # Errors
    /// Those of the kernel; the connection is lost then.
    pub fn park(&mut self) -> io::Result<()> {
        if let Place::Live(stream) = std::mem::replace(&mut self.place, Place::Lost) {
            self.place = Place::Parked(stream.into_std()?);
        }
        Ok(())
    }

    /// Brings it to life on the current runtime.
    ///
    /// # Errors
    /// Those of the kernel; the connection is lost then.
    pub fn unpark(&mut self) -> io::Result<()> {
        if let Place::Parked(stream) = std::mem::replace(&mut self.place, Place::Lost) {
            self.place = Place::Live(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    /// Whether the client has closed or reset the connection: a look that consumes nothing.
    /// One system call.
    pub fn is_gone(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = match &self.place {
            Place::Live(stream) => SockRef::from(stream).peek(&mut byte),
            Place::Parked(stream) => SockRef::from(stream).peek(&mut byte),
            Place::Lost => return true,
        };
        match peeked {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Ready once the client has closed or reset the connection; pending while bytes are unread.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Place::Live(stream) = &self.place else { return Poll::Ready(()) };
        loop {
            if ready!(stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let peek = || SockRef::from(stream).peek(&mut byte);
            match stream.try_io(Interest::READABLE, peek) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => return Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Makes the next close a reset: the peer learns at once, and no state stays in the kernel.
    pub fn reset_on_close(&self) {
        // Failing only makes the close a polite one.
        let _ = self.with_socket(|socket| SockRef::from(&socket).set_linger(Some(Duration::ZERO)));
    }

    /// Runs `work` on the kernel's socket, wherever it lives.
    ///
    /// # Errors
    /// Those of `work`; `NotConnected` where the socket was lost while moving.
    pub fn with_socket<T>(
        &self,
        work: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match &self.place {
            Place::Live(stream) => work(stream.as_fd()),
            Place::Parked(stream) => work(stream.as_fd()),
            Place::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn live(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.place {
            Place::Live(stream) => Ok(Pin::new(stream)),
            Place::Parked(_) | Place::Lost => Err(not_live()),
        }
    }
}

fn not_live() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is between two threads")
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread[..count]);
            self.unread.advance(count);
            if self.unread.is_empty() {
                self.unread = Bytes::new(); // Lets the hello's memory go.
            }
            return Poll::Ready(Ok(()));
        }
        self.live()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_shutdown(cx)
    }
}
