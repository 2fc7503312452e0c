//! Idle HTTP/1 connections of one thread, by endpoint.
//!
//! States of a connection: *in use* (owned by an exchange), *idle* (here). An exchange puts it here
//! only when both messages ended cleanly; a checkout takes the one that was used last, so that a
//! surplus ages out. An idle connection holds no buffer, and no task's waker.
//!
//! Bounds, each thread for itself: [`IDLE_MAX`] idle connections to one endpoint,
//! [`IDLE_TOTAL_MAX`] to all; idle for at most [`IDLE_TIMEOUT`], kept for at most [`LIFETIME`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::connect::Stream;
use super::endpoint::{Counted, Endpoint};
use crate::timers::Deadline;

/// Idle connections to one endpoint: what covers its peak of concurrent requests. With 64 of them
/// under 512 requests every request costs twice the CPU, because most connect anew.
pub const IDLE_MAX: usize = 1_024;

/// Idle connections to all endpoints.
pub const IDLE_TOTAL_MAX: usize = 4_096;

/// Shorter than what common servers grant (nginx 75 s, Apache's and Node's 5 s is caught at
/// checkout), so that a request rarely meets a connection about to be closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// After this a connection is not reused: a name that points elsewhere by then is followed.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// Connections to one endpoint that one thread makes at one time; more wait their turn.
pub const CONNECTING_MAX: usize = 64;

/// One HTTP/1 connection.
pub(super) struct Connection {
    pub(super) stream: Stream,
    /// Everything the connection waits for, one thing at a time.
    pub(super) deadline: Deadline,
    pub(super) counted: Counted,
    /// Whether it has served a request before.
    pub(super) reused: bool,
    /// When it has lived for [`LIFETIME`].
    dies: Instant,
    /// From when on it is not used again: that, or when it has been idle for [`IDLE_TIMEOUT`].
    expires: Instant,
}

impl Connection {
    pub(super) fn new(stream: Stream, deadline: Deadline, counted: Counted) -> Connection {
        let dies = Instant::now() + LIFETIME;
        Connection { stream, deadline, counted, reused: false, dies, expires: dies }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        self.counted.endpoint()
    }

    fn is_expired(&self, now: Instant) -> bool {
        now >= self.expires
    }
}

/// All idle connections of one thread.
#[derive(Default)]
pub(super) struct Pool {
    lines: HashMap<u64, Line>,
    idle: usize,
}

struct Line {
    /// In the order in which they became idle.
    idle: Vec<Connection>,
    connecting: Rc<Semaphore>,
}

impl Default for Line {
    fn default() -> Line {
        Line { idle: Vec::new(), connecting: Rc::new(Semaphore::new(CONNECTING_MAX)) }
    }
}

impl Pool {
    /// The idle connection used last that can still be used; what cannot is closed on the way.
    pub(super) fn take(&mut self, endpoint: &Endpoint, now: Instant) -> Option<Connection> {
        let line = self.lines.get_mut(&endpoint.id)?;
        while let Some(mut connection) = line.idle.pop() {
            self.idle -= 1;
            if !connection.is_expired(now) && connection.stream.is_quiet() {
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose messages have both ended cleanly, within the bounds.
    pub(super) fn put(&mut self, mut connection: Connection, now: Instant) {
        let line = self.lines.entry(connection.endpoint().id).or_default();
        if line.idle.len() >= IDLE_MAX || self.idle >= IDLE_TOTAL_MAX {
            return;
        }
        connection.deadline.rest();
        connection.expires = connection.dies.min(now + IDLE_TIMEOUT);
        if !connection.is_expired(now) {
            line.idle.push(connection);
            self.idle += 1;
        }
    }

    /// Closes all idle connections to an endpoint: one of them proved stale.
    pub(super) fn forget(&mut self, endpoint: &Endpoint) {
        if let Some(line) = self.lines.get_mut(&endpoint.id) {
            self.idle -= line.idle.len();
            line.idle.clear();
        }
    }

    /// What bounds the connections being made to an endpoint.
    pub(super) fn connecting(&mut self, endpoint: &Endpoint) -> Rc<Semaphore> {
        self.lines.entry(endpoint.id).or_default().connecting.clone()
    }

    /// Closes what has expired or was closed by the endpoint, and forgets endpoints without
    /// connections.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.lines.retain(|_, line| {
            line.idle.retain_mut(|idle| !idle.is_expired(now) && idle.stream.is_quiet());
            !line.idle.is_empty() || Rc::strong_count(&line.connecting) > 1
        });
        self.idle = self.lines.values().map(|line| line.idle.len()).sum();
    }

    /// Idle connections to all endpoints.
    pub(super) fn idle(&self) -> usize {
        self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SiteId;
    use crate::sites::{Address, EndpointSpec, Protocol};
    use crate::timers::Timers;
    use tokio::net::UnixStream;

    /// An endpoint of which only the connections matter, and the far ends of these.
    struct Bench {
        endpoint: Arc<Endpoint>,
        timers: Rc<Timers>,
        peers: Vec<UnixStream>,
    }

    impl Bench {
        fn new() -> Bench {
            let spec = EndpointSpec {
                url: "unix:a".into(),
                address: Address::Unix("a".into()),
                protocol: Protocol::Http1,
                tls_name: None,
                ca: None,
                weight: 1,
                backup: false,
            };
            let endpoint =
                Arc::new(Endpoint::new(&SiteId::parse("shop").unwrap(), spec, Instant::now()));
            Bench { endpoint, timers: Timers::new(), peers: Vec::new() }
        }

        fn connection(&mut self) -> Connection {
            let (near, far) = UnixStream::pair().unwrap();
            self.peers.push(far);
            let counted = Counted::new(self.endpoint.clone());
            Connection::new(Stream::Unix(near), self.timers.deadline(), counted)
        }

        fn open(&self) -> u32 {
            self.endpoint.summary(1, false, Instant::now()).connections
        }
    }

    #[tokio::test]
    async fn the_connection_used_last_is_taken_first() {
        let (mut bench, mut pool, now) = (Bench::new(), Pool::default(), Instant::now());
        let (one, two) = (bench.connection(), bench.connection());
        pool.put(one, now);
        pool.put(two, now + Duration::from_secs(1));
        let taken = pool.take(&bench.endpoint, now).unwrap();
        assert!(taken.reused);
        assert_eq!(taken.expires, now + Duration::from_secs(1) + IDLE_TIMEOUT);
        assert_eq!(pool.idle(), 1);
    }

    #[tokio::test]
    async fn idle_time_and_lifetime_are_bounded() {
        let (mut bench, mut pool, now) = (Bench::new(), Pool::default(), Instant::now());
        pool.put(bench.connection(), now);
        pool.sweep(now + IDLE_TIMEOUT / 2);
        assert_eq!(pool.idle(), 1);
        assert!(pool.take(&bench.endpoint, now + IDLE_TIMEOUT).is_none());
        assert_eq!((pool.idle(), bench.open()), (0, 0));
        let connection = bench.connection();
        // Busy all the time, so it is never idle for long.
        pool.put(connection, now + LIFETIME + Duration::from_secs(1));
        assert_eq!((pool.idle(), bench.open()), (0, 0));
        pool.put(bench.connection(), now);
        pool.sweep(now + IDLE_TIMEOUT);
        assert_eq!((pool.idle(), bench.open()), (0, 0));
    }

    #[tokio::test]
    async fn more_idle_connections_than_the_bound_are_closed() {
        // Each takes two descriptors: the bound itself is out of reach of a common limit.
        let (mut bench, mut pool, now) = (Bench::new(), Pool::default(), Instant::now());
        pool.put(bench.connection(), now);
        pool.idle = IDLE_TOTAL_MAX;
        pool.put(bench.connection(), now);
        assert_eq!(bench.open(), 1);
    }

    #[tokio::test]
    async fn what_the_endpoint_closed_or_wrote_to_is_not_taken() {
        let (mut bench, mut pool, now) = (Bench::new(), Pool::default(), Instant::now());
        for _ in 0..3 {
            pool.put(bench.connection(), now);
        }
        bench.peers.remove(2);
        bench.peers[1].try_write(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
        // One turn of the runtime, in which it sees what arrived.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(pool.take(&bench.endpoint, now).is_some());
        assert_eq!((pool.idle(), bench.open()), (0, 0), "only the quiet one was left, now dropped");
    }
}
