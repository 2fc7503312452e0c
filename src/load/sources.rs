//! The addresses from which a traffic's connections come.
//!
//! One address has some 28,000 ports towards one port of a server. With thousands of connections a
//! second most of them are in use or in TIME_WAIT, and connect(2) looks at one after the other for
//! a free one: at 6,000 a second more than half of a generator's core. Loopback has sixteen million
//! addresses; several of them make the search short.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::net::TcpSocket;

use crate::kernel;

/// The most that are of use: 28,000 connections from each a second would be seven million.
pub const SOURCES_MAX: u32 = 250;

/// Addresses that take turns.
#[derive(Debug)]
pub struct Sources {
    count: u32,
    turn: AtomicU32,
}

impl Sources {
    /// So many from 127.0.0.1 on; for 1 the kernel chooses, as for every other program.
    pub fn new(count: u32) -> Sources {
        Sources { count, turn: AtomicU32::new(0) }
    }

    /// Whether connections to `target` can come from several addresses.
    pub fn are_there_for(target: SocketAddr) -> bool {
        matches!(target.ip(), IpAddr::V4(address) if address.is_loopback())
    }

    /// Gives a new socket the address whose turn it is; its port is found when it connects.
    ///
    /// # Errors
    /// Of setsockopt(2) and bind(2).
    pub fn bind(&self, socket: &TcpSocket) -> io::Result<()> {
        if self.count <= 1 {
            return Ok(());
        }
        let turn = self.turn.fetch_add(1, Relaxed) % self.count;
        let address = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + turn);
        kernel::bind_address_alone(socket)?;
        socket.bind(SocketAddr::new(address.into(), 0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_take_turns() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let sources = Sources::new(3);
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            let _guard = runtime.enter();
            let socket = TcpSocket::new_v4().unwrap();
            sources.bind(&socket).unwrap();
            let _stream = runtime.block_on(socket.connect(target)).unwrap();
            seen.insert(listener.accept().unwrap().1.ip().to_string());
        }
        assert_eq!(Vec::from_iter(seen), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    }

    #[test]
    fn only_loopback_of_ipv4_has_several() {
        for (target, several) in [("127.0.0.9:1", true), ("[::1]:1", false), ("192.0.2.1:1", false)]
        {
            assert_eq!(Sources::are_there_for(target.parse().unwrap()), several);
        }
    }
}
