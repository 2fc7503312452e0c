//! How many a second from each client: a bucket for each, in a table with a bound.
//!
//! A client is one IPv4 address or one IPv6 /64 (the smallest network a provider gives to one
//! household: RFC 6177; whoever has it has all its addresses). The buckets hold a second's worth
//! and are counted as in [`rate`](super::rate).
//!
//! An entry says when its bucket will be full again, which is a second ahead at most; a full bucket
//! needs no entry. So what the table must know are the clients of the last second. Where these are
//! more than `CLIENTS_MAX`, a newcomer takes the place of another, who may begin anew: what comes
//! from that many addresses is no single client's doing, and the site's own bounds act. A sweep, at
//! most once a second, takes out whose bucket is full.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use super::rate::Bucket;

/// Clients remembered of one site and kind: about 3 MiB.
const CLIENTS_MAX: usize = 1 << 16;
/// Fewer entries are not worth a sweep.
const SWEPT_MIN: usize = 1 << 10;
/// After so long every bucket is full that nobody took from.
const REFILLED_NANOS: u64 = 1_000_000_000;

/// The rates of the clients of one site.
#[derive(Debug)]
pub struct ClientRates {
    /// Time is counted from here, nanoseconds.
    epoch: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    full_at: HashMap<IpAddr, u64>,
    swept_at: u64,
}

impl ClientRates {
    /// No client has taken anything.
    pub fn new(now: Instant) -> ClientRates {
        ClientRates { epoch: now, table: Mutex::default() }
    }

    /// Takes a token of the client's bucket, which holds `per_second` and gets as many in a second.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&self, client: IpAddr, per_second: u32, now: Instant) -> Result<(), Duration> {
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        let bucket = Bucket::new(per_second, per_second);
        let client = one_client(client);
        let mut table = lock(&self.table);
        if let Some(full_at) = table.full_at.get_mut(&client) {
            *full_at = bucket.take(*full_at, now)?;
            return Ok(());
        }
        table.make_room(now);
        table.full_at.insert(client, bucket.take(0, now)?);
        Ok(())
    }
}

impl Table {
    fn make_room(&mut self, now: u64) {
        if self.full_at.len() >= SWEPT_MIN && now >= self.swept_at + REFILLED_NANOS {
            self.swept_at = now;
            self.full_at.retain(|_, full_at| *full_at > now);
            self.full_at.shrink_to(SWEPT_MIN.max(self.full_at.len() * 2));
        }
        if self.full_at.len() >= CLIENTS_MAX {
            let any = self.full_at.keys().next().copied();
            any.map(|client| self.full_at.remove(&client));
        }
    }
}

/// The client behind an address.
pub fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn taken(rates: &ClientRates, client: &str, now: Instant) -> usize {
        let client = client.parse().unwrap();
        std::iter::from_fn(|| rates.take(client, 3, now).ok()).count()
    }

    #[test]
    fn each_client_has_its_own_rate() {
        let start = Instant::now();
        let rates = ClientRates::new(start);
        assert_eq!(taken(&rates, "192.0.2.1", start), 3);
        assert_eq!(taken(&rates, "::ffff:192.0.2.1", start), 0);
        assert_eq!(taken(&rates, "192.0.2.2", start), 3);
        assert_eq!(taken(&rates, "192.0.2.1", start + Duration::from_millis(334)), 1);
        assert_eq!(taken(&rates, "192.0.2.1", start + Duration::from_secs(9)), 3);
    }

    #[test]
    fn a_whole_ipv6_network_of_64_bits_is_one_client() {
        let start = Instant::now();
        let rates = ClientRates::new(start);
        assert_eq!(taken(&rates, "2001:db8:0:1::1", start), 3);
        assert_eq!(taken(&rates, "2001:db8:0:1:ffff::2", start), 0);
        assert_eq!(taken(&rates, "2001:db8:0:2::1", start), 3);
    }

    #[test]
    fn memory_is_bounded_however_many_addresses_come() {
        let start = Instant::now();
        let rates = ClientRates::new(start);
        let come = |from: u32, count: u32, now| {
            for address in from..from + count {
                let client = IpAddr::V4(Ipv4Addr::from_bits(address));
                assert!(rates.take(client, 1, now).is_ok(), "a newcomer is let in");
            }
        };
        come(0, 3 * CLIENTS_MAX as u32, start);
        assert_eq!(lock(&rates.table).full_at.len(), CLIENTS_MAX);
        come(1 << 30, 10, start + Duration::from_secs(2));
        let table = lock(&rates.table);
        assert_eq!(table.full_at.len(), 10, "the others' buckets are full again");
        assert!(table.full_at.capacity() <= 4 * SWEPT_MIN);
    }
}
