//! How many a site holds at one time, in all and from one client: connections, and requests on
//! their way.
//!
//! The table has an entry exactly for each client ([`one_client`]) that holds something now, so it
//! is bounded by what the process holds. A site without a bound counts nothing; one that gets its
//! bound by a reload counts from then on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::clients::one_client;
use super::lock;

/// What one site holds of one kind.
#[derive(Debug, Default)]
pub struct Held {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    of_client: HashMap<IpAddr, u32>,
}

/// How many a site may hold; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HeldLimits {
    /// In all.
    pub all: Option<u32>,
    /// From one client.
    pub per_client: Option<u32>,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reached {
    /// The client's.
    Client,
    /// The site's.
    Site,
}

/// One that is counted; dropping it counts it out.
#[derive(Debug)]
pub struct Hold {
    table: Arc<Held>,
    client: IpAddr,
}

impl Held {
    /// Counts one more of `client`, where there is a bound.
    ///
    /// # Errors
    /// The bound that is reached, the client's first.
    pub fn enter(
        self: &Arc<Self>,
        client: IpAddr,
        limits: HeldLimits,
    ) -> Result<Option<Hold>, Reached> {
        if limits == HeldLimits::default() {
            return Ok(None);
        }
        let client = one_client(client);
        let mut counts = lock(&self.counts);
        let held = counts.of_client.get(&client).copied().unwrap_or(0);
        if limits.per_client.is_some_and(|max| held >= max) {
            return Err(Reached::Client);
        }
        if limits.all.is_some_and(|max| counts.all >= max) {
            return Err(Reached::Site);
        }
        counts.of_client.insert(client, held + 1);
        counts.all += 1;
        Ok(Some(Hold { table: self.clone(), client }))
    }
}

impl Drop for Hold {
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

#[cfg(test)]
mod tests {
    use super::*;

    const UNBOUND: HeldLimits = HeldLimits { all: None, per_client: None };

    fn enter(table: &Arc<Held>, client: &str, limits: HeldLimits) -> Result<Option<Hold>, Reached> {
        table.enter(client.parse().unwrap(), limits)
    }

    #[test]
    fn one_address_holds_so_many_and_another_its_own() {
        let table = Arc::default();
        let limits = HeldLimits { per_client: Some(2), ..UNBOUND };
        let held = [0; 2].map(|_| enter(&table, "192.0.2.1", limits).unwrap().unwrap());
        let refused = enter(&table, "192.0.2.1", limits);
        assert_eq!(refused.unwrap_err(), Reached::Client);
        assert!(enter(&table, "::ffff:192.0.2.1", limits).is_err());
        assert!(enter(&table, "192.0.2.2", limits).is_ok());
        drop(held);
        assert!(lock(&table.counts).of_client.is_empty());
    }

    #[test]
    fn a_whole_ipv6_network_of_64_bits_counts_as_one_client() {
        let table = Arc::default();
        let limits = HeldLimits { per_client: Some(1), ..UNBOUND };
        let _held = enter(&table, "2001:db8:0:1::1", limits).unwrap();
        assert!(enter(&table, "2001:db8:0:1:ffff::2", limits).is_err());
        assert!(enter(&table, "2001:db8:0:2::1", limits).is_ok());
    }

    #[test]
    fn a_site_holds_so_many_whoever_they_come_from() {
        let table = Arc::default();
        let limits = HeldLimits { all: Some(2), ..UNBOUND };
        let first = enter(&table, "192.0.2.1", limits).unwrap();
        let _second = enter(&table, "192.0.2.2", limits).unwrap();
        let refused = enter(&table, "192.0.2.3", limits);
        assert_eq!(refused.unwrap_err(), Reached::Site);
        drop(first);
        assert!(enter(&table, "192.0.2.3", limits).is_ok());
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let table = Arc::default();
        assert!(enter(&table, "192.0.2.1", UNBOUND).unwrap().is_none());
    }
}
