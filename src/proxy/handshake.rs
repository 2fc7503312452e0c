//! The handshake threads: they take from the queue, compute, and send the finished connection
//! back to the serving thread it came from.
//!
//! A handshake thread runs beside each serving thread at lower priority (nice +10): when both want
//! the core, established traffic goes first. Each handshake is given
//! up at its deadline, counted from when its client began to wait.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use super::connection::Holding;
use super::{Proxy, certificate};
use crate::admission;
use crate::metrics::{
    ConnectionState, HandshakeOutcome, HandshakeResult, HandshakeVersion, QueueName, Resumption,
};
use crate::names::Hostname;
use crate::refusal::Refusal;
use crate::sites::{SiteTls, TlsVersion};
use crate::tls::{self, Settled, Socket};

/// What a handshake thread's niceness is raised to. Measured: with 10, established requests keep
/// their unloaded p99 under five times the capacity; with 0 they do not.
pub const NICENESS: i32 = 10;

/// The client's own flight is one round trip; a distant client's takes about 300 ms. It gets this
/// much on top of the deadline, since the wait for it costs nothing.
const ROUND_TRIPS: Duration = Duration::from_millis(600);

/// A connection that waits for its handshake.
pub struct Waiting {
    socket: Socket,
    server_name: Option<Hostname>,
    holding: Holding,
    /// The serving thread that it came from and goes back to.
    home: usize,
}

/// A connection whose handshake is done, on its way to a serving thread.
pub struct Handshaken {
    /// Parked.
    pub stream: tls::Stream,
    /// What the handshake settled.
    pub settled: Settled,
    /// The SNI.
    pub server_name: Option<Hostname>,
    /// What the site asked of TLS then; a later reload may ask for more.
    pub tls: Option<SiteTls>,
    /// What the connection holds.
    pub holding: Holding,
}

impl Waiting {
    /// Parks the socket of a connection that has said hello.
    ///
    /// # Errors
    /// The kernel's; the connection is lost then.
    pub fn park(
        mut socket: Socket,
        server_name: Option<Hostname>,
        holding: Holding,
        home: usize,
    ) -> std::io::Result<Waiting> {
        socket.park()?;
        Ok(Waiting { socket, server_name, holding, home })
    }

    /// Ends it with a reset, counted under its reason and site.
    pub fn turn_away(self, proxy: &Proxy, refusal: Refusal) {
        self.socket.reset_on_close();
        proxy.metrics.refused(QueueName::Handshake, refusal);
        count_refusal(proxy, self.server_name.as_ref(), refusal);
        let result = match refusal {
            Refusal::ClientGone => HandshakeResult::Gone,
            Refusal::HandshakeDeadline => HandshakeResult::Deadline,
            _ => HandshakeResult::Refused,
        };
        count(proxy, result, None, Duration::ZERO);
    }
}

impl admission::Waiting for Waiting {
    fn is_gone(&self) -> bool {
        self.socket.is_gone()
    }
}

/// A handshake thread's work, until the process ends. `homes` leads to the serving threads.
///
/// One entry at a time is taken and computed up to the server's flight, which is nearly all the
/// work; what is left waits for the client's round trip beside the others. So the queue is left in
/// its own order and no faster than the thread computes, and a distant client holds a place, but
/// not the thread. The places are a bound on memory alone.
pub async fn work(proxy: Arc<Proxy>, homes: Vec<mpsc::Sender<Handshaken>>) {
    let places = Arc::new(Semaphore::new(proxy.live().snapshot.queues.handshake_concurrency));
    let homes: Rc<[_]> = homes.into();
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let discard = |waiting: Waiting, refusal, _waited| waiting.turn_away(&proxy, refusal);
        let (waiting, waited) = proxy.handshakes.next(discard).await;
        proxy.metrics.queue_wait(QueueName::Handshake, waited);
        let (proxy, homes) = (proxy.clone(), homes.clone());
        let mut whole = Box::pin(async move {
            run(proxy, waiting, waited, homes).await;
            drop(place);
        });
        if poll_fn(|cx| Poll::Ready(whole.as_mut().poll(cx).is_pending())).await {
            tokio::task::spawn_local(whole);
        }
        // Lets the others take their clients' answers in before the next is begun.
        tokio::task::yield_now().await;
    }
}

async fn run(
    proxy: Arc<Proxy>,
    waiting: Waiting,
    waited: Duration,
    homes: Rc<[mpsc::Sender<Handshaken>]>,
) {
    let home = waiting.home;
    let server_name = waiting.server_name.clone();
    match handshake(&proxy, waiting, waited).await {
        // A full channel keeps the place: backpressure, not a buffer.
        Ok(handshaken) => drop(homes[home].send(handshaken).await),
        Err(refusal) => count_refusal(&proxy, server_name.as_ref(), refusal),
    }
}

async fn handshake(
    proxy: &Proxy,
    waiting: Waiting,
    waited: Duration,
) -> Result<Handshaken, Refusal> {
    let begun = Instant::now();
    let result = within_deadline(proxy, waiting, waited).await;
    let elapsed = begun.elapsed();
    match &result {
        Ok(handshaken) => count(proxy, HandshakeResult::Ok, Some(handshaken.settled), elapsed),
        Err(Refusal::ClientGone) => count(proxy, HandshakeResult::Gone, None, elapsed),
        Err(Refusal::HandshakeDeadline) => count(proxy, HandshakeResult::Deadline, None, elapsed),
        Err(_) => count(proxy, HandshakeResult::Failed, None, elapsed),
    }
    result
}

async fn within_deadline(
    proxy: &Proxy,
    waiting: Waiting,
    waited: Duration,
) -> Result<Handshaken, Refusal> {
    let Waiting { mut socket, server_name, mut holding, home: _ } = waiting;
    holding.gauge.set(ConnectionState::Handshake);
    socket.unpark().map_err(|_| Refusal::ClientGone)?;
    let live = proxy.live();
    let site = server_name.as_ref().and_then(|name| live.site(name.as_str()));
    let config =
        live.snapshot.certs.server_config(certificate::tls_policy(site.map(|(site, _)| &**site)));
    let tls = site.map(|(site, _)| site.tls.clone());
    let left = live.snapshot.queues.handshake_deadline.saturating_sub(waited) + ROUND_TRIPS;
    drop(live);
    let done = tokio::time::timeout(left, tls::handshake(config, socket)).await;
    let (mut stream, settled) = done.map_err(|_| Refusal::HandshakeDeadline)??;
    holding.gauge.set(ConnectionState::Idle);
    stream.get_mut().0.park().map_err(|_| Refusal::ClientGone)?;
    Ok(Handshaken { stream, settled, server_name, tls, holding })
}

fn count(proxy: &Proxy, result: HandshakeResult, settled: Option<Settled>, elapsed: Duration) {
    let version = match settled.map(|settled| settled.version) {
        None => HandshakeVersion::None,
        Some(TlsVersion::Tls12) => HandshakeVersion::Tls12,
        Some(TlsVersion::Tls13) => HandshakeVersion::Tls13,
    };
    let resumed = settled.is_some_and(|settled| settled.resumed);
    let resumption = if resumed { Resumption::Resumed } else { Resumption::Full };
    proxy.metrics.handshake(HandshakeOutcome { result, version, resumption }, elapsed);
}

fn count_refusal(proxy: &Proxy, server_name: Option<&Hostname>, refusal: Refusal) {
    let live = proxy.live();
    match server_name.and_then(|name| live.site(name.as_str())) {
        Some((_, state)) => state.metrics.refused(refusal),
        None => proxy.metrics.turned_away(refusal),
    }
}
