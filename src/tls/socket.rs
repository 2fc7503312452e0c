//! A client's TCP connection.
//!
//! It stays registered with its serving thread's runtime for its whole life, and may be polled on
//! another thread meanwhile: a handshake step reads and writes it there, without a runtime. Bytes
//! already read from it (the ClientHello, or what followed a PROXY header) are handed out again
//! first.

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

/// The content type of an encrypted TLS 1.3 record (RFC 8446 5.2).
const APPLICATION_DATA: u8 = 23;

/// A client's TCP connection.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    unread: Bytes,
    /// The client, as the kernel or a trusted PROXY header names it.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    encrypts: bool,
    write_stalled: bool,
}

impl Socket {
    /// Takes an accepted connection that lives on the current runtime.
    pub fn new(stream: TcpStream, client: SocketAddr, local: SocketAddr) -> Socket {
        let unread = Bytes::new();
        Socket { stream, unread, client, local, encrypts: false, write_stalled: false }
    }

    /// Bytes to be handed out before those still in the kernel.
    pub fn push_back(&mut self, unread: Bytes) {
        self.unread = unread;
    }

    /// Whether an encrypted record has been written.
    pub fn encrypts(&self) -> bool {
        self.encrypts
    }

    /// Ready once there is something to read, or room for a write that did not fit.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = match self.write_stalled {
            true => self.stream.poll_write_ready(cx),
            false => self.stream.poll_read_ready(cx),
        };
        // An error shows itself to whoever reads or writes next.
        ready.map(drop)
    }

    /// Whether the client has closed or reset the connection: a look that consumes nothing.
    /// One system call.
    pub fn is_gone(&self) -> bool {
        match SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Ready once the client has closed or reset the connection; pending while bytes are unread.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let peek = || SockRef::from(&self.stream).peek(&mut byte);
            match self.stream.try_io(Interest::READABLE, peek) {
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
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        self.write_stalled = written.is_pending();
        written
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
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
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.encrypts = self.encrypts || bytes.first() == Some(&APPLICATION_DATA);
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    /// rustls hands over one slice a record. One alone goes out by send(2): writev(2) takes the
    /// longer way through the kernel.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        self.encrypts =
            self.encrypts || slices.iter().any(|slice| slice.first() == Some(&APPLICATION_DATA));
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
