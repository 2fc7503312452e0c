//! A handshake: queued, computed on a handshake thread, finished on the serving thread.
//!
//! A handshake thread stands beside each serving thread at lower priority (nice +10): when both
//! want the core, established traffic goes first. It computes and nothing else: the connection
//! stays registered with its serving thread, which waits for the client and bounds that wait. In
//! TLS 1.3 the server's one flight holds all the costly work, so one step does it, and the client's
//! answer is checked where it arrives. Whatever else needs asymmetric crypto (a hello retried, TLS
//! 1.2, a client's certificate) goes back to the handshake threads for each step.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Proxy, Thread, certificate};
use crate::admission::{self, Entry};
use crate::metrics::{
    ConnectionGauge, ConnectionState, HandshakeOutcome, HandshakeResult, HandshakeVersion,
    QueueName, Resumption,
};
use crate::names::{CustomerId, Hostname};
use crate::queue::Sort;
use crate::refusal::Refusal;
use crate::sites::{SiteTls, TlsVersion};
use crate::tls::{self, Settled, Socket};

/// What a handshake thread adds to the process's niceness. Measured: with 10, established requests keep
/// their unloaded p99 under five times the capacity; with 0 they do not.
pub const NICENESS: i32 = 10;

/// The client's own flight is one round trip; a distant client's takes about 300 ms. It gets this
/// much on top of the deadline, since the wait for it costs nothing.
const ROUND_TRIPS: Duration = Duration::from_millis(600);

/// What the handshake queue is told of a connection.
pub struct Admissible {
    /// Whom it is counted for.
    pub customer: CustomerId,
    /// The customer's share.
    pub weight: u32,
    /// What the handshake will cost, microseconds of a core.
    pub cost: u32,
    /// Whether the client offers to resume a session.
    pub sort: Sort,
    /// When the client began to wait.
    pub since: Instant,
}

/// A connection whose handshake is done.
pub struct Handshaken {
    /// The encrypted connection.
    pub stream: tls::Stream,
    /// What the handshake settled.
    pub settled: Settled,
    /// The SNI.
    pub server_name: Option<Hostname>,
    /// What the site asked of TLS then; a later reload may ask for more.
    pub tls: Option<SiteTls>,
}

/// A connection that waits for a handshake thread.
pub struct Waiting {
    next: Next,
    answer: oneshot::Sender<Result<Stepped, Refusal>>,
}

enum Next {
    /// To be begun for this server name.
    Begin(Socket, Option<Hostname>),
    GoOn(Box<Begun>),
}

/// A handshake that has begun.
struct Begun {
    handshake: tls::Handshake,
    tls: Option<SiteTls>,
    at: Instant,
    /// Of the deadline and the client's round trips.
    until: Instant,
    _place: Place,
}

/// A handshake after a step, and whether it is over.
struct Stepped {
    begun: Box<Begun>,
    over: Option<Result<tls::Established, Refusal>>,
}

/// A place among the handshakes that have begun.
struct Place(Arc<Proxy>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.handshakes.end();
    }
}

impl Waiting {
    fn new(next: Next) -> (Waiting, oneshot::Receiver<Result<Stepped, Refusal>>) {
        let (answer, stepped) = oneshot::channel();
        (Waiting { next, answer }, stepped)
    }

    /// Ends it with a reset, at once; its serving thread counts that.
    pub fn turn_away(self, refusal: Refusal) {
        if let Next::Begin(socket, _) = &self.next {
            socket.reset_on_close();
        }
        drop(self.next);
        // Nobody listens where the serving thread has ended.
        let _ = self.answer.send(Err(refusal));
    }

    /// Takes one step, on a handshake thread.
    fn step(self, proxy: &Arc<Proxy>, waited: Duration) {
        let mut begun = match self.next {
            Next::GoOn(begun) => begun,
            Next::Begin(socket, server_name) => {
                proxy.metrics.queue_wait(QueueName::Handshake, waited);
                Box::new(Begun::new(proxy, socket, server_name.as_ref(), waited))
            }
        };
        // Its serving thread polls it again, with a waker of its own.
        let over = match begun.handshake.poll_step(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(over) => Some(over),
        };
        let _ = self.answer.send(Ok(Stepped { begun, over }));
    }
}

impl admission::Waiting for Waiting {
    fn is_gone(&self) -> bool {
        matches!(&self.next, Next::Begin(socket, _) if socket.is_gone())
    }
}

impl Begun {
    fn new(
        proxy: &Arc<Proxy>,
        socket: Socket,
        server_name: Option<&Hostname>,
        waited: Duration,
    ) -> Begun {
        // First: whatever happens, the place is given back.
        let place = Place(proxy.clone());
        let live = proxy.live();
        let site = server_name.and_then(|name| live.site(name.as_str())).map(|(site, _)| &**site);
        let config = live.snapshot.certs.server_config(certificate::tls_policy(site));
        let left = live.snapshot.queues.handshake_deadline.saturating_sub(waited);
        let at = Instant::now();
        Begun {
            handshake: tls::Handshake::begin(config, socket),
            tls: site.map(|site| site.tls.clone()),
            at,
            until: at + left + ROUND_TRIPS,
            _place: place,
        }
    }

    /// Whether what is left is symmetric crypto alone.
    fn is_nearly_over(&self) -> bool {
        let verifies = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        self.handshake.has_signed() && !verifies
    }
}

/// A handshake thread's work, for as long as the process runs. It takes one step at a time, so
/// the queue is left in its own order and no faster than the thread computes.
pub fn work(proxy: &Arc<Proxy>) {
    loop {
        let (waiting, waited) = proxy.handshakes.next(Waiting::turn_away);
        // A panic costs its own connection, as in a task of a serving thread: the answer's sender is
        // dropped, and the place with it.
        let _ = catch_unwind(AssertUnwindSafe(|| waiting.step(proxy, waited)));
    }
}

/// Takes a connection through the queue and its handshake; the gauge follows it. Counts how that
/// ends, but for the site. *Cancel safety*: dropping it gives the handshake up, at its next step.
///
/// # Errors
/// Why there is no handshake.
pub async fn run(
    thread: &Thread,
    socket: Socket,
    server_name: Option<Hostname>,
    admissible: Admissible,
    gauge: &mut ConnectionGauge,
) -> Result<Handshaken, Refusal> {
    let proxy = &thread.proxy;
    let (item, stepped) = Waiting::new(Next::Begin(socket, server_name.clone()));
    let Admissible { customer, weight, cost, sort, since } = admissible;
    let entry = Entry { customer, weight, cost, sort, since, item };
    for (waiting, refusal) in proxy.handshakes.push(entry) {
        waiting.turn_away(refusal);
    }
    let first = match stepped.await.unwrap_or(Err(Refusal::HandshakeFailed)) {
        Ok(first) => first,
        Err(refusal) => {
            proxy.metrics.refused(QueueName::Handshake, refusal);
            count(proxy, ended(refusal, HandshakeResult::Refused), None, Duration::ZERO);
            return Err(refusal);
        }
    };
    gauge.set(ConnectionState::Handshake);
    let (at, tls) = (first.begun.at, first.begun.tls.clone());
    match finish(thread, first).await {
        Ok(tls::Established { stream, settled }) => {
            gauge.set(ConnectionState::Idle);
            count(proxy, HandshakeResult::Ok, Some(settled), at.elapsed());
            Ok(Handshaken { stream, settled, server_name, tls })
        }
        Err(refusal) => {
            count(proxy, ended(refusal, HandshakeResult::Failed), None, at.elapsed());
            Err(refusal)
        }
    }
}

/// Waits for the client, within the deadline, and lets what it says be worked on.
async fn finish(thread: &Thread, mut stepped: Stepped) -> Result<tls::Established, Refusal> {
    let deadline = thread.timers.deadline();
    deadline.arm(stepped.begun.until.saturating_duration_since(Instant::now()));
    loop {
        let mut begun = match stepped {
            Stepped { over: Some(over), .. } => return over,
            Stepped { begun, over: None } => begun,
        };
        if begun.is_nearly_over() {
            let over = deadline.bound(poll_fn(|cx| begun.handshake.poll_step(cx))).await;
            return over.map_err(|_| Refusal::HandshakeDeadline)?;
        }
        let ready = deadline.bound(poll_fn(|cx| begun.handshake.poll_ready(cx))).await;
        ready.map_err(|_| Refusal::HandshakeDeadline)?;
        let (waiting, next) = Waiting::new(Next::GoOn(begun));
        thread.proxy.handshakes.go_on(waiting);
        stepped = next.await.unwrap_or(Err(Refusal::HandshakeFailed))?;
    }
}

/// How a handshake ended that was refused for this reason; `otherwise` for any that has no result
/// of its own.
fn ended(refusal: Refusal, otherwise: HandshakeResult) -> HandshakeResult {
    match refusal {
        Refusal::ClientGone => HandshakeResult::Gone,
        Refusal::HandshakeDeadline => HandshakeResult::Deadline,
        _ => otherwise,
    }
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

#[cfg(test)]
mod tests {
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::accesslog::{AccessLog, Format, Target};
    use crate::metrics::Metrics;

    /// A defect of ours in the middle of a handshake.
    #[derive(Debug)]
    struct Defective;

    impl ResolvesServerCert for Defective {
        fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            panic!("injected: no certificate can be chosen")
        }
    }

    fn defective() -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        Arc::new(config.with_no_client_auth().with_cert_resolver(Arc::new(Defective)))
    }

    /// A proxy without sites, in which one handshake at a time may be under way.
    fn proxy() -> Arc<Proxy> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sites", "certs"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let main = folder.path().join("sluss.toml");
        std::fs::write(&main, "runtime.threads = 1\nqueues.handshake_concurrency = 1\n").unwrap();
        let snapshot = crate::config::load(&main, None).snapshot.expect("a configuration");
        let access = AccessLog::new(Format::Text, Target::Off, 1).unwrap();
        Proxy::new(snapshot, Metrics::new(1), Arc::new(access))
    }

    /// A connection whose client has sent its hello.
    fn said_hello() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = "a.test".try_into().unwrap();
        let mut hello = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        hello.write_tls(&mut client).unwrap();
        let (stream, from) = listener.accept().unwrap();
        stream.peek(&mut [0]).unwrap();
        stream.set_nonblocking(true).unwrap();
        (Socket::new(stream, from, address), client)
    }

    fn push(proxy: &Proxy, socket: Socket) -> oneshot::Receiver<Result<Stepped, Refusal>> {
        let (item, stepped) = Waiting::new(Next::Begin(socket, None));
        let since = Instant::now();
        let customer = CustomerId::parse("a").unwrap();
        let entry = Entry { customer, weight: 1, cost: 1, sort: Sort::Heavy, since, item };
        assert!(proxy.handshakes.push(entry).is_empty());
        stepped
    }

    #[tokio::test]
    async fn a_panic_in_a_handshake_costs_that_connection_alone() {
        let proxy = proxy();
        let (socket, _client) = said_hello();
        // Takes the only place, as a handshake thread would, and meets the defect at the next step.
        let _first = push(&proxy, socket);
        let (waiting, waited) = proxy.handshakes.next(Waiting::turn_away);
        let Next::Begin(socket, _) = waiting.next else { panic!("it has not begun") };
        let (spare, _client) = said_hello();
        let mut begun = Begun::new(&proxy, spare, None, waited);
        begun.handshake = tls::Handshake::begin(defective(), socket);
        let (waiting, stepped) = Waiting::new(Next::GoOn(Box::new(begun)));
        proxy.handshakes.go_on(waiting);
        let worker = proxy.clone();
        // Works for as long as the test's process runs.
        std::thread::spawn(move || work(&worker));
        assert!(stepped.await.is_err(), "its connection is told that nothing will come");

        let (socket, _client) = said_hello();
        let next = push(&proxy, socket).await.expect("the thread works on, and the place is free");
        // No site has the name, so TLS refuses it; what counts is that it was looked at.
        assert!(next.is_ok());
    }
}
