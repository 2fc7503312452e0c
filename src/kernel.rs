//! What the kernel does for our sockets and hands to a new process, where no safe wrapper exists:
//! the one file with `unsafe`.
//!
//! Nothing here keeps a pointer beyond its call. Most functions are a `getsockopt` into a plain
//! structure of integers from `libc`, one is a `setsockopt` of an integer; [`adopt_inherited`] makes
//! a descriptor that came over exec(2) an owned one, and [`watch`] tells the runtime of one.

#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's queue of finished TCP handshakes that nobody has accepted yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AcceptQueue {
    /// Connections in it.
    pub length: u32,
    /// The smaller of listen(2)'s backlog and net.core.somaxconn. Linux lets in one more than this
    /// before it drops.
    pub limit: u32,
}

/// The accept queue of a listening socket: `TCP_INFO` reports it in `tcpi_unacked` and
/// `tcpi_sacked` there (net/ipv4/tcp.c, `tcp_get_info`). Needs no privilege.
///
/// # Errors
/// Of getsockopt(2), as for a socket that is not TCP.
pub fn accept_queue(listener: impl AsFd) -> io::Result<AcceptQueue> {
    let (info, filled) = tcp_info(listener)?;
    require(filled, offset_of!(libc::tcp_info, tcpi_lost))?;
    Ok(AcceptQueue { length: info.tcpi_unacked, limit: info.tcpi_sacked })
}

/// Connections and segments that the kernel has dropped on a listening socket since it was made:
/// mostly SYNs and final ACKs that met a full queue.
///
/// # Errors
/// Of getsockopt(2); kernels before 4.12 have no `SO_MEMINFO`.
pub fn drops(listener: impl AsFd) -> io::Result<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let (counters, filled): ([u32; DROPS + 1], usize) =
        option(listener, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    require(filled, size_of::<[u32; DROPS + 1]>())?;
    Ok(counters[DROPS])
}

/// How long ago the last segment with data came in on a connection; before the first one, how long
/// ago the client finished the TCP handshake. Read right after accept it tells how long the
/// connection has waited in the kernel; the kernel counts in ticks of 1 to 10 ms.
///
/// # Errors
/// Of getsockopt(2).
pub fn since_last_segment(stream: impl AsFd) -> io::Result<Duration> {
    let (info, filled) = tcp_info(stream)?;
    require(filled, offset_of!(libc::tcp_info, tcpi_last_ack_recv))?;
    Ok(Duration::from_millis(info.tcpi_last_data_recv.into()))
}

/// Takes a descriptor that this process was started with. It is closed on the next exec(2).
///
/// A descriptor is taken only where it is not marked close-on-exec. What came over exec(2) cannot be
/// marked; everything that Rust's library, tokio and this crate open is, and so is what was taken
/// here before. So a wrong number is an error and never a second owner.
///
/// # Errors
/// Where the number is none of an inherited descriptor, or of a standard stream.
pub fn adopt_inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor <= libc::STDERR_FILENO {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: fcntl(2) with F_GETFD takes any number, open or not, and touches no memory.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it was not inherited"));
    }
    // SAFETY: as above; it changes the descriptor's flag alone.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and has no owner: owners in this process mark theirs, see above.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Lets a listener hand a connection over once its first bytes are there, or once it has said
/// nothing for about `seconds` (tcp(7), `TCP_DEFER_ACCEPT`).
///
/// # Errors
/// Of setsockopt(2).
pub fn defer_accept(listener: impl AsFd, seconds: c_int) -> io::Result<()> {
    set_integer(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Lets bind(2) with port 0 choose the address alone: the port is found by connect(2), which knows
/// the other end and can share it with other ends (ip(7), `IP_BIND_ADDRESS_NO_PORT`).
///
/// # Errors
/// Of setsockopt(2).
pub fn bind_address_alone(socket: impl AsFd) -> io::Result<()> {
    set_integer(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

fn set_integer(socket: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open while `socket` is borrowed; the kernel reads the integer,
    // which outlives the call, and keeps no pointer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the current runtime wait for a listener's connections, and for nothing else: whoever takes
/// one does it by accept(2), without troubling the runtime with each.
///
/// # Errors
/// The kernel's, where epoll(7) takes no more.
///
/// # Panics
/// Outside a runtime.
pub fn watch(listener: Rc<TcpListener>) -> io::Result<AsyncFd<Rc<TcpListener>>> {
    // SAFETY: the listener owns its descriptor, which is open and the same until it is dropped; the
    // `AsyncFd` keeps it from being dropped, and nobody can change a listener that is shared.
    let watched = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

fn tcp_info(socket: impl AsFd) -> io::Result<(libc::tcp_info, usize)> {
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)
}

/// Marks structures that any bytes, also all zero, are valid for.
///
/// # Safety
/// Only for types made of integers and arrays of them.
unsafe trait PlainIntegers: Copy {}

// SAFETY: libc declares it as a C structure of u8, u32 and u64.
unsafe impl PlainIntegers for libc::tcp_info {}
// SAFETY: an array of integers.
unsafe impl<const N: usize> PlainIntegers for [u32; N] {}

/// One getsockopt(2): the structure, zero where the kernel wrote nothing, and how many bytes it
/// wrote. An older kernel knows a shorter structure, a newer one cuts its own to our size.
fn option<T: PlainIntegers>(
    socket: impl AsFd,
    level: c_int,
    name: c_int,
) -> io::Result<(T, usize)> {
    let descriptor = socket.as_fd().as_raw_fd();
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed; `value` is writable for `length`
    // bytes, the kernel writes no more than that, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            level,
            name,
            value.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed as a whole, and `PlainIntegers` is valid for any bytes.
    Ok((unsafe { value.assume_init() }, length as usize))
}

fn require(filled: usize, wanted: usize) -> io::Result<()> {
    if filled < wanted {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Instant;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn listen(backlog: c_int) -> (Socket, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(backlog).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        (listener, address)
    }

    #[track_caller]
    fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < until, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_accept_queue_is_seen_filling_up_to_one_more_than_its_limit() {
        let (listener, address) = listen(4);
        assert_eq!(accept_queue(&listener).unwrap(), AcceptQueue { length: 0, limit: 4 });
        let clients: Vec<TcpStream> =
            (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        wait_for("all five wait", || accept_queue(&listener).unwrap().length == 5);
        assert_eq!(drops(&listener).unwrap(), 0);

        // One more: no error, no connection; the SYN is dropped and sent again after a second.
        let sixth = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        sixth.set_nonblocking(true).unwrap();
        assert!(sixth.connect(&address.into()).is_err());
        wait_for("the drop is counted", || drops(&listener).unwrap() > 0);
        assert_eq!(accept_queue(&listener).unwrap().length, 5);

        drop(listener.accept().unwrap());
        assert_eq!(accept_queue(&listener).unwrap(), AcceptQueue { length: 4, limit: 4 });
        drop(clients);
    }

    #[test]
    fn the_wait_in_the_kernel_shows_on_the_accepted_socket() {
        let (listener, address) = listen(4);
        let mut client = TcpStream::connect(address).unwrap();
        let connected = Instant::now();
        wait_for("40 ms pass", || connected.elapsed() > Duration::from_millis(40));
        let (accepted, _) = listener.accept().unwrap();
        let waited = since_last_segment(&accepted).unwrap();
        assert!(waited >= Duration::from_millis(20), "{waited:?}");
        assert!(waited <= connected.elapsed() + Duration::from_millis(20), "{waited:?}");
        client.write_all(b"x").unwrap();
        let written = Instant::now();
        wait_for("the segment makes it young again", || {
            let age = since_last_segment(&accepted).unwrap();
            age <= written.elapsed() + Duration::from_millis(20)
        });
    }

    #[test]
    fn only_inherited_descriptors_are_adopted_and_each_once() {
        let (reading, writing) = io::pipe().unwrap();
        assert!(adopt_inherited(reading.as_raw_fd()).is_err(), "it has an owner");
        assert!(adopt_inherited(0).is_err(), "standard input is the library's");
        assert!(adopt_inherited(RawFd::MAX).is_err(), "nothing is open there");
        // As it is after exec(2): open, unmarked, and nobody's.
        let inherited = std::os::fd::IntoRawFd::into_raw_fd(writing);
        // SAFETY: see `adopt_inherited`.
        assert_eq!(unsafe { libc::fcntl(inherited, libc::F_SETFD, 0) }, 0);
        let adopted = adopt_inherited(inherited).unwrap();
        assert!(adopt_inherited(inherited).is_err(), "it has an owner now");
        drop(adopted);
        assert_eq!(io::read_to_string(reading).unwrap(), "", "it was closed");
    }

    #[test]
    fn a_socket_that_is_not_tcp_is_an_error() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(accept_queue(&socket).is_err());
    }
}
