//! A client's TCP connection.
//!
//! It is accepted *fresh*: read and written by its descriptor alone. Its serving thread's runtime
//! learns of it when it first has to wait for it, and is its home from then on; a connection that
//! is turned away at once never troubles the runtime. It may be polled on another thread
//! meanwhile: a handshake step reads and writes it there, without a runtime. Bytes already read
//! from it (a ClientHello that came in pieces, what followed a PROXY header) are handed out again
//! first; most hellos are only [looked at](Socket::peek) and stay in the kernel.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::hello::HELLO_BYTES_MAX;

/// The content type of an encrypted TLS 1.3 record (RFC 8446 5.2).
const APPLICATION_DATA: u8 = 23;

/// A client's TCP connection.
#[derive(Debug)]
pub struct Socket {
    link: Link,
    unread: Bytes,
    /// Bytes that were looked at are in the kernel still.
    peeked: bool,
    /// The client, as the kernel or a trusted PROXY header names it.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    encrypts: bool,
    write_stalled: bool,
    /// What is written now is held back.
    holds: bool,
    /// Written, to go out in front of the next write.
    held: Vec<u8>,
}

#[derive(Debug)]
enum Link {
    /// Known to no runtime.
    Fresh(std::net::TcpStream),
    /// At home with its serving thread's runtime.
    Settled(TcpStream),
    /// The runtime did not take it.
    Lost,
}

impl Socket {
    /// Takes an accepted connection in nonblocking mode.
    pub fn new(stream: std::net::TcpStream, client: SocketAddr, local: SocketAddr) -> Socket {
        let (link, unread) = (Link::Fresh(stream), Bytes::new());
        let (peeked, encrypts, write_stalled, holds) = (false, false, false, false);
        let held = Vec::new();
        Socket { link, unread, peeked, client, local, encrypts, write_stalled, holds, held }
    }

    /// Copies out what the client has sent and nobody has read, and leaves it where it is.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` where there is nothing yet.
    pub fn peek(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let descriptor = self.descriptor().ok_or(io::ErrorKind::NotConnected)?;
        let (count, _) = recv(descriptor, bytes, RecvFlags::PEEK)?;
        self.peeked = count > 0;
        Ok(count)
    }

    /// Bytes to be handed out before those still in the kernel.
    pub fn push_back(&mut self, unread: Bytes) {
        self.unread = unread;
    }

    /// Reads what has come and lets it go, as far as a hello may reach.
    pub fn discard(&mut self) {
        let Some(descriptor) = self.descriptor() else { return };
        let mut bytes = [0; 4_096];
        let mut all = 0;
        while all < HELLO_BYTES_MAX {
            match recv(descriptor, &mut bytes, RecvFlags::empty()) {
                Ok((count, _)) if count > 0 => all += count,
                _ => break,
            }
        }
        self.peeked = false;
    }

    /// Whether encrypted records have been written, and nothing is left to be.
    pub fn has_sent_flight(&self) -> bool {
        self.encrypts && !self.write_stalled
    }

    /// Makes it at home with the current runtime, where it is fresh: from now on it can be waited
    /// for.
    ///
    /// # Errors
    /// The kernel's, where epoll(7) takes no more.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn settle(&mut self) -> io::Result<&mut TcpStream> {
        if let Link::Fresh(_) = self.link
            && let Link::Fresh(stream) = std::mem::replace(&mut self.link, Link::Lost)
        {
            self.link = Link::Settled(TcpStream::from_std(stream)?);
        }
        match &mut self.link {
            Link::Settled(stream) => Ok(stream),
            Link::Fresh(_) | Link::Lost => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }

    /// Does what can be done at once; where nothing can, lets the runtime wait for it. A handshake
    /// thread has none: there it stays pending, and its serving thread waits by
    /// [`poll_ready`](Socket::poll_ready).
    fn poll_io<B, R>(
        &mut self,
        cx: &mut Context<'_>,
        mut bytes: B,
        at_once: fn(&std::net::TcpStream, &mut B) -> io::Result<R>,
        settled: fn(Pin<&mut TcpStream>, &mut Context<'_>, &mut B) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if let Link::Fresh(stream) = &self.link {
            match at_once(stream, &mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            if Handle::try_current().is_err() {
                return Poll::Pending;
            }
        }
        match self.settle() {
            Ok(stream) => settled(Pin::new(stream), cx, &mut bytes),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Ready once there is something to read, or room for a write that did not fit. On the serving
    /// thread only.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let write_stalled = self.write_stalled;
        // An error shows itself to whoever reads or writes next.
        let Ok(stream) = self.settle() else { return Poll::Ready(()) };
        let ready = match write_stalled {
            true => stream.poll_write_ready(cx),
            false => stream.poll_read_ready(cx),
        };
        ready.map(drop)
    }

    /// The descriptor, for looks and options; `None` where the runtime did not take the connection.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            Link::Fresh(stream) => Some(stream.as_fd()),
            Link::Settled(stream) => Some(stream.as_fd()),
            Link::Lost => None,
        }
    }

    /// Whether the client has closed or reset the connection, whatever it has sent before. One
    /// system call.
    pub fn is_gone(&self) -> bool {
        let Some(descriptor) = self.descriptor() else { return true };
        let mut look = [PollFd::from_borrowed_fd(descriptor, PollFlags::RDHUP)];
        // Failing, it shows itself to whoever reads.
        poll(&mut look, Some(&Timespec::default())).is_ok_and(|events| events > 0)
    }

    /// Ready where a read may find something.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.link {
            Link::Settled(stream) if self.unread.is_empty() => stream.poll_read_ready(cx).map(drop),
            // Whoever reads finds out.
            Link::Fresh(_) | Link::Settled(_) | Link::Lost => Poll::Ready(()),
        }
    }

    /// Ready once the client has closed or reset the connection; pending while bytes are unread.
    /// For a connection that has [settled](Socket::settle).
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Link::Settled(stream) = &self.link else {
            return if self.is_gone() { Poll::Ready(()) } else { Poll::Pending };
        };
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
    /// Where the client's bytes are unread it is one already (RFC 1122 4.2.2.13).
    pub fn reset_on_close(&self) {
        if !self.peeked
            && let Some(descriptor) = self.descriptor()
        {
            // Failing only makes the close a polite one.
            let _ = SockRef::from(&descriptor).set_linger(Some(Duration::ZERO));
        }
    }

    /// From now on (`true`) what is written is held back, to go out in front of the first write
    /// after that, by the same system call. For some hundred bytes that nobody waits for.
    pub fn hold(&mut self, holds: bool) {
        self.holds = holds;
    }

    /// Sends what is held, as far as it goes at once; the rest stays in front of the next write.
    pub fn release(&mut self) {
        if self.held.is_empty() {
            return;
        }
        if let Some(descriptor) = self.descriptor()
            && let Ok(count) = SockRef::from(&descriptor).send(&self.held)
        {
            self.held.drain(..count);
        }
        if self.held.is_empty() {
            self.held = Vec::new(); // Lets the memory go.
        }
    }

    fn poll_write_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_io(
            cx,
            slices,
            |mut stream, slices| stream.write_vectored(slices),
            |stream, cx, slices| stream.poll_write_vectored(cx, slices),
        );
        self.write_stalled = written.is_pending();
        written
    }

    /// Writes `slices` behind what is held.
    fn poll_write_behind(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = std::mem::take(&mut self.held);
        loop {
            let all: Vec<_> =
                [io::IoSlice::new(&held)].into_iter().chain(slices.iter().copied()).collect();
            match self.poll_write_slices(cx, &all) {
                Poll::Ready(Ok(count)) if count > held.len() => {
                    return Poll::Ready(Ok(count - held.len()));
                }
                Poll::Ready(Ok(count)) if count > 0 => drop(held.drain(..count)),
                otherwise => {
                    self.held = held;
                    return otherwise;
                }
            }
        }
    }

    fn hold_back(&mut self, slices: &[io::IoSlice<'_>]) -> usize {
        let before = self.held.len();
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        self.held.len() - before
    }
}

impl Drop for Socket {
    /// An alert may be held: the client of a handshake that failed is to hear why.
    fn drop(&mut self) {
        self.release();
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
        self.peeked = false;
        if self.encrypts && matches!(self.link, Link::Fresh(_)) {
            // The client answers a round trip after the server's flight: it need not be looked for.
            if Handle::try_current().is_err() {
                return Poll::Pending;
            }
            self.settle()?;
        }
        self.poll_io(
            cx,
            buffer,
            |mut stream, buffer| {
                let count = stream.read(buffer.initialize_unfilled())?;
                buffer.advance(count);
                Ok(())
            },
            |stream, cx, buffer| stream.poll_read(cx, buffer),
        )
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.encrypts = self.encrypts || bytes.first() == Some(&APPLICATION_DATA);
        if self.holds {
            return Poll::Ready(Ok(self.hold_back(&[io::IoSlice::new(bytes)])));
        }
        if !self.held.is_empty() {
            return self.poll_write_behind(cx, &[io::IoSlice::new(bytes)]);
        }
        let written = self.poll_io(
            cx,
            bytes,
            |mut stream, bytes| stream.write(bytes),
            |stream, cx, bytes| stream.poll_write(cx, bytes),
        );
        self.write_stalled = written.is_pending();
        written
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
        if self.holds {
            return Poll::Ready(Ok(self.hold_back(slices)));
        }
        if !self.held.is_empty() {
            return self.poll_write_behind(cx, slices);
        }
        self.poll_write_slices(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The kernel holds nothing back; what is [held](Socket::hold) waits for a write.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io(
            cx,
            (),
            |stream, ()| stream.shutdown(Shutdown::Write),
            |stream, cx, ()| stream.poll_shutdown(cx),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as Peer};

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn pair() -> (Socket, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, client) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let local = stream.local_addr().unwrap();
        (Socket::new(stream, client, local), peer)
    }

    fn has_come(peer: &Peer) -> bool {
        peer.set_nonblocking(true).unwrap();
        let come = peer.peek(&mut [0]).is_ok();
        peer.set_nonblocking(false).unwrap();
        come
    }

    fn until_the_end(mut peer: Peer) -> Vec<u8> {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn what_is_held_goes_out_in_front_of_the_next_write() {
        let (mut socket, mut peer) = pair();
        socket.hold(true);
        socket.write_all(b"tic").await.unwrap();
        let slices = [io::IoSlice::new(b"k"), io::IoSlice::new(b"et")];
        assert_eq!(socket.write_vectored(&slices).await.unwrap(), 3);
        assert!(!has_come(&peer));
        socket.hold(false);
        socket.write_all(b" and response").await.unwrap();
        let mut bytes = [0; 64];
        let count = peer.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"ticket and response", "in one piece");
        socket.write_all(b"more").await.unwrap();
        drop(socket);
        assert_eq!(until_the_end(peer), b"more");
    }

    #[test]
    fn what_is_held_goes_out_alone_where_no_write_follows() {
        for release in [Socket::release, |_: &mut Socket| ()] {
            let (mut socket, peer) = pair();
            socket.hold_back(&[io::IoSlice::new(b"alert")]);
            release(&mut socket);
            drop(socket);
            assert_eq!(until_the_end(peer), b"alert");
        }
    }

    /// More than the kernel takes at once, before and behind: no byte is lost or changes its place.
    #[tokio::test]
    async fn much_that_is_held_keeps_its_place() {
        let (mut socket, peer) = pair();
        SockRef::from(&socket.descriptor().unwrap()).set_send_buffer_size(4_096).unwrap();
        let held: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let behind: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 241) as u8).collect();
        socket.hold(true);
        socket.write_all(&held).await.unwrap();
        socket.hold(false);
        socket.release();
        assert!(!socket.held.is_empty(), "the kernel did not take all of it");
        let reader = std::thread::spawn(move || until_the_end(peer));
        socket.write_all(&behind).await.unwrap();
        drop(socket);
        let read = reader.join().unwrap();
        assert!(read == [held, behind].concat());
    }
}
