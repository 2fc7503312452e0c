//! How many connections one client address holds to one site.
//!
//! An address is one IPv4 address or one IPv6 /64 (the smallest network a provider gives to one
//! household: RFC 6177; whoever has it has all its addresses). The table has an entry exactly for
//! each address that holds a connection now, so it is bounded by the connections of the process.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use super::lock;

/// The connections of one site, by client address.
#[derive(Debug, Default)]
pub struct ClientConnections {
    counts: Mutex<HashMap<IpAddr, u32>>,
}

/// One counted connection; dropping it counts it out.
#[derive(Debug)]
pub struct ClientConnection {
    table: Arc<ClientConnections>,
    client: IpAddr,
}

impl ClientConnections {
    /// Counts a connection of `client`, unless it holds `max` already.
    pub fn enter(self: &Arc<Self>, client: IpAddr, max: u32) -> Option<ClientConnection> {
        let client = network(client);
        let mut counts = lock(&self.counts);
        let held = counts.get(&client).copied().unwrap_or(0);
        if held >= max {
            return None;
        }
        counts.insert(client, held + 1);
        Some(ClientConnection { table: self.clone(), client })
    }

    /// Addresses that hold a connection.
    pub fn len(&self) -> usize {
        lock(&self.counts).len()
    }

    /// Whether nobody holds one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let mut counts = lock(&self.table.counts);
        match counts.get_mut(&self.client) {
            Some(held) if *held > 1 => *held -= 1,
            _ => {
                counts.remove(&self.client);
            }
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_holds_so_many_and_another_its_own() {
        let table = Arc::new(ClientConnections::default());
        let held = [0; 2].map(|_| table.enter(address("192.0.2.1"), 2).unwrap());
        assert!(table.enter(address("192.0.2.1"), 2).is_none());
        assert!(table.enter(address("::ffff:192.0.2.1"), 2).is_none());
        assert!(table.enter(address("192.0.2.2"), 2).is_some());
        drop(held);
        assert!(table.is_empty());
    }

    #[test]
    fn a_whole_ipv6_network_of_64_bits_counts_as_one_client() {
        let table = Arc::new(ClientConnections::default());
        let _held = table.enter(address("2001:db8:0:1::1"), 1).unwrap();
        assert!(table.enter(address("2001:db8:0:1:ffff::2"), 1).is_none());
        assert!(table.enter(address("2001:db8:0:2::1"), 1).is_some());
    }
}
