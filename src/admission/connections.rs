//! How many connections a site holds: in all, and from one client address.
//!
//! An address is one IPv4 address or one IPv6 /64 (the smallest network a provider gives to one
//! household: RFC 6177; whoever has it has all its addresses). The table has an entry exactly for
//! each address that holds a connection now, so it is bounded by the connections of the process.
//! A site without a bound counts nothing; one that gets its bound by a reload counts from then on.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::refusal::Refusal;

/// The connections of one site.
#[derive(Debug, Default)]
pub struct SiteConnections {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    of_client: HashMap<IpAddr, u32>,
}

/// How many a site may hold; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectionLimits {
    /// In all.
    pub all: Option<u32>,
    /// From one client address.
    pub per_client: Option<u32>,
}

/// One counted connection; dropping it counts it out.
#[derive(Debug)]
pub struct SiteConnection {
    table: Arc<SiteConnections>,
    client: IpAddr,
}

impl SiteConnections {
    /// Counts a connection of `client`, where there is a bound.
    ///
    /// # Errors
    /// `ClientConnectionLimit` or `SiteConnectionLimit`, where that bound is reached.
    pub fn enter(
        self: &Arc<Self>,
        client: IpAddr,
        limits: ConnectionLimits,
    ) -> Result<Option<SiteConnection>, Refusal> {
        if limits == ConnectionLimits::default() {
            return Ok(None);
        }
        let client = network(client);
        let mut counts = lock(&self.counts);
        let held = counts.of_client.get(&client).copied().unwrap_or(0);
        if limits.per_client.is_some_and(|max| held >= max) {
            return Err(Refusal::ClientConnectionLimit);
        }
        if limits.all.is_some_and(|max| counts.all >= max) {
            return Err(Refusal::SiteConnectionLimit);
        }
        counts.of_client.insert(client, held + 1);
        counts.all += 1;
        Ok(Some(SiteConnection { table: self.clone(), client }))
    }
}

impl Drop for SiteConnection {
    fn drop(&mut self) {
        let mut counts = lock(&self.table.counts);
        counts.all = counts.all.saturating_sub(1);
        match counts.of_client.get_mut(&self.client) {
            Some(held) if *held > 1 => *held -= 1,
            _ => {
                counts.of_client.remove(&self.client);
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

    const UNBOUND: ConnectionLimits = ConnectionLimits { all: None, per_client: None };

    fn enter(
        table: &Arc<SiteConnections>,
        client: &str,
        limits: ConnectionLimits,
    ) -> Result<Option<SiteConnection>, Refusal> {
        table.enter(client.parse().unwrap(), limits)
    }

    #[test]
    fn one_address_holds_so_many_and_another_its_own() {
        let table = Arc::default();
        let limits = ConnectionLimits { per_client: Some(2), ..UNBOUND };
        let held = [0; 2].map(|_| enter(&table, "192.0.2.1", limits).unwrap().unwrap());
        let refused = enter(&table, "192.0.2.1", limits);
        assert_eq!(refused.unwrap_err(), Refusal::ClientConnectionLimit);
        assert!(enter(&table, "::ffff:192.0.2.1", limits).is_err());
        assert!(enter(&table, "192.0.2.2", limits).is_ok());
        drop(held);
        assert!(lock(&table.counts).of_client.is_empty());
    }

    #[test]
    fn a_whole_ipv6_network_of_64_bits_counts_as_one_client() {
        let table = Arc::default();
        let limits = ConnectionLimits { per_client: Some(1), ..UNBOUND };
        let _held = enter(&table, "2001:db8:0:1::1", limits).unwrap();
        assert!(enter(&table, "2001:db8:0:1:ffff::2", limits).is_err());
        assert!(enter(&table, "2001:db8:0:2::1", limits).is_ok());
    }

    #[test]
    fn a_site_holds_so_many_whoever_they_come_from() {
        let table = Arc::default();
        let limits = ConnectionLimits { all: Some(2), ..UNBOUND };
        let first = enter(&table, "192.0.2.1", limits).unwrap();
        let _second = enter(&table, "192.0.2.2", limits).unwrap();
        let refused = enter(&table, "192.0.2.3", limits);
        assert_eq!(refused.unwrap_err(), Refusal::SiteConnectionLimit);
        drop(first);
        assert!(enter(&table, "192.0.2.3", limits).is_ok());
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let table = Arc::default();
        assert!(enter(&table, "192.0.2.1", UNBOUND).unwrap().is_none());
    }
}
