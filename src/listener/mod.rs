//! Listening sockets and the accept loop.
//!
//! A listener's socket belongs to the process; each serving thread accepts from a duplicate of it,
//! so that one kernel queue feeds all threads and the one that is free takes the next connection.
//! The accept loop never fails and never waits for anything but the kernel: on exhausted
//! descriptors it turns connections away with a descriptor held in reserve, instead of leaving
//! them in the kernel's queue where nobody sees them.

pub mod backlog;
pub mod proxy_protocol;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::kernel;

/// After an error that is not one connection's own, the loop pauses so long: it must not spin.
const PAUSE: Duration = Duration::from_millis(10);

/// What is younger need not be known more exactly: the kernel itself counts in ticks of 1 to 10 ms.
const MOMENT: Duration = Duration::from_millis(5);

/// A client that connects and says nothing is accepted after so long, and waited for then: the
/// bounds on hellos, heads and connections act on it.
const SILENT_SECONDS: i32 = 1;

/// Binds and listens. An address of `[::]` takes IPv4 as well; port 0 takes any free port.
///
/// # Errors
/// The kernel's; the caller names the address.
pub fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Goes on listening on a socket that another process has bound. What waits in its queue stays.
///
/// # Errors
/// The kernel's.
pub fn adopt(socket: TcpListener, backlog: u32) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    SockRef::from(&socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// A response's last piece must not wait for an acknowledgement (RFC 9293 3.7.4). Linux hands the
/// option of a listener down to what it accepts: one system call less for each connection.
///
/// Nobody is accepted before the first bytes are there: what a flood costs is mostly being woken,
/// and asking the kernel to wait, for each of its connections. A kernel that cannot do it (it may be
/// older, or another's) only wakes us more often.
fn prepare(listener: &impl AsFd) -> io::Result<()> {
    let _ = kernel::defer_accept(listener, SILENT_SECONDS);
    SockRef::from(listener).set_tcp_nodelay(true)
}

/// What one call of [`Acceptor::next`] came to.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Connection(Incoming),
    /// No descriptor was left; a waiting connection was closed at once.
    DescriptorsExhausted,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Incoming {
    /// In nonblocking mode.
    pub stream: TcpStream,
    /// Who made it.
    pub client: SocketAddr,
    /// When the queue was last seen empty, where that was a moment ago: it has waited no
    /// longer, and the kernel need not be asked.
    pub not_before: Option<Instant>,
}

/// A listener that the runtime waits for.
type Watch = Rc<AsyncFd<Rc<TcpListener>>>;

/// One thread's way to a listener.
#[derive(Debug)]
pub struct Acceptor {
    listener: Rc<TcpListener>,
    /// The runtime's watch over it, unless it [looks away](Acceptor::look_away).
    watched: RefCell<Option<Watch>>,
    /// When its queue was last seen empty.
    empty_at: Cell<Option<Instant>>,
    /// Given up for a moment to accept, and close, a connection that there is no descriptor for.
    reserve: RefCell<Option<File>>,
}

impl Acceptor {
    /// Accepts from a duplicate of `listener` on the current runtime.
    ///
    /// # Errors
    /// The kernel's, on duplicating the descriptor.
    pub fn new(listener: &TcpListener) -> io::Result<Acceptor> {
        let listener = Rc::new(listener.try_clone()?);
        let watched = RefCell::new(Some(Rc::new(kernel::watch(listener.clone())?)));
        let reserve = RefCell::new(File::open("/dev/null").ok());
        Ok(Acceptor { listener, watched, empty_at: Cell::new(None), reserve })
    }

    /// The next connection. *Cancel safe*: a connection not yet returned stays in the kernel.
    pub async fn next(&self) -> Accepted {
        loop {
            match self.wait().await {
                Ok(incoming) => return Accepted::Connection(incoming),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        self.turn_one_away();
                        tokio::time::sleep(PAUSE).await;
                        return Accepted::DescriptorsExhausted;
                    }
                    // The connection died in the queue, or its network did (accept(2)).
                    Some(libc::ECONNABORTED | libc::EPROTO | libc::ENETDOWN | libc::EINTR) => {}
                    _ => tokio::time::sleep(PAUSE).await,
                },
            }
        }
    }

    async fn wait(&self) -> io::Result<Incoming> {
        let watched = match self.watched.take() {
            Some(watched) => watched,
            None => Rc::new(kernel::watch(self.listener.clone())?),
        };
        self.watched.replace(Some(watched.clone()));
        watched.async_io(Interest::READABLE, |listener| self.accept(listener)).await
    }

    /// A connection that is there already, without waiting and without asking the kernel about
    /// anything else; errors are left to [`next`](Acceptor::next).
    pub fn try_next(&self) -> Option<Incoming> {
        match &*self.watched.borrow() {
            Some(watched) => watched.try_io(Interest::READABLE, |listener| self.accept(listener)),
            None => self.accept(&self.listener),
        }
        .ok()
    }

    /// Lets the kernel wake nobody for new connections until [`next`](Acceptor::next) is waited for
    /// again: for a thread that looks after them by itself.
    pub fn look_away(&self) {
        self.watched.take();
    }

    fn accept(&self, listener: &TcpListener) -> io::Result<Incoming> {
        let accepted = accept(listener);
        if accepted.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.empty_at.set(Some(Instant::now()));
        }
        let (stream, client) = accepted?;
        let not_before = self.empty_at.get().filter(|empty_at| empty_at.elapsed() < MOMENT);
        Ok(Incoming { stream, client, not_before })
    }

    fn turn_one_away(&self) {
        let mut reserve = self.reserve.borrow_mut();
        drop(reserve.take());
        if let Ok((stream, _)) = SockRef::from(&*self.listener).accept() {
            // A reset tells the client at once.
            let _ = stream.set_linger(Some(Duration::ZERO));
        }
        *reserve = File::open("/dev/null").ok();
    }
}

/// One accept4(2), which makes the connection nonblocking too.
fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (stream, client) = rustix::net::acceptfrom_with(listener, flags)?;
    let client = client.and_then(|client| SocketAddr::try_from(client).ok());
    let client = client.ok_or(io::ErrorKind::ConnectionAborted)?;
    // An IPv4 client of a dual-stack listener is an IPv4 client.
    Ok((stream.into(), SocketAddr::new(client.ip().to_canonical(), client.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dual_stack_listener_sees_ipv4_clients_as_such() {
        let Ok(listener) = bind("[::]:0".parse().unwrap(), 16) else {
            println!("skipped: no IPv6 on this machine");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let acceptor = Acceptor::new(&listener).unwrap();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        match acceptor.next().await {
            Accepted::Connection(Incoming { stream, client, .. }) => {
                assert!(client.ip().is_ipv4(), "{client}");
                assert!(stream.nodelay().unwrap(), "handed down by the listener");
            }
            Accepted::DescriptorsExhausted => panic!("there are descriptors"),
        }
    }
}
