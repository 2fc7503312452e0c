//! A handshake: queued, computed on a handshake thread, finished on the serving thread.
//!
//! A handshake thread stands beside each serving thread at lower priority
//! (`runtime.handshake_nice`): when both want the core, established traffic goes first. It computes
//! and nothing else: the connection belongs to its serving thread, which waits for the client and
//! bounds that wait. In TLS 1.3 the server's one flight holds all the costly work, so one step does
//! it, and the client's answer is checked where it arrives. Whatever else needs asymmetric crypto (a
//! hello retried, TLS 1.2, a client's certificate) goes back to the handshake threads for each step.
//!
//! A connection that waits for its first step is a value in the queue and no task: under a flood most
//! are turned away there. Its serving thread gets it back once it has begun.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::connection::Holding;
use super::{Proxy, Thread, certificate};
use crate::admission::{self, Entry};
use crate::metrics::{
    ConnectionState, HandshakeOutcome, HandshakeResult, HandshakeVersion, QueueName, Resumption,
    SiteMetrics,
};
use crate::names::{CustomerId, Hostname};
use crate::queue::Sort;
use crate::refusal::Refusal;
use crate::sites::{SiteTls, TlsVersion};
use crate::tls::{self, Settled, Socket};

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
    /// How much more, where the session that the client offers is not resumed.
    pub otherwise: u32,
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

/// A connection that has sent its hello.
pub struct Guest {
    /// The connection, its hello unread.
    pub socket: Socket,
    /// The SNI.
    pub server_name: Option<Hostname>,
    /// Where a refusal is counted, if a site has the name.
    pub site: Option<Arc<SiteMetrics>>,
    /// What it holds from accept to close.
    pub holding: Holding,
    /// What was believed of it.
    pub believed: Option<Believed>,
}

/// A client's word that its handshake will be a cheap one. Anybody can say so: a ticket is some
/// bytes until it is looked into.
pub struct Believed {
    customer: CustomerId,
    /// What its customer is charged where it was not true.
    cost: u32,
}

/// A connection whose first step is taken: its serving thread goes on with it.
pub struct Started {
    stepped: Stepped,
    server_name: Option<Hostname>,
    site: Option<Arc<SiteMetrics>>,
    holding: Holding,
    believed: Option<Believed>,
}

/// A connection that waits for a handshake thread.
pub enum Waiting {
    /// No task of its serving thread waits for it: that gets it once it has begun.
    Begin(Box<Guest>, mpsc::Sender<Started>),
    /// Its task waits for the next step.
    GoOn(Box<Begun>, oneshot::Sender<Stepped>),
}

/// A handshake that has begun.
pub struct Begun {
    handshake: tls::Handshake,
    tls: Option<SiteTls>,
    at: Instant,
    /// Of the deadline and the client's round trips.
    until: Instant,
    _place: Place,
}

/// A handshake after a step, and whether it is over.
pub struct Stepped {
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

impl Guest {
    /// Counts why it is turned away, and ends it with a reset, at once.
    fn turn_away(self, proxy: &Proxy, refusal: Refusal) {
        self.socket.reset_on_close();
        turned_away(proxy, self.site.as_deref(), refusal);
    }
}

impl Waiting {
    /// Turns away what has not begun; nothing else is ever to be.
    pub fn turn_away(self, proxy: &Proxy, refusal: Refusal) {
        if let Waiting::Begin(guest, _) = self {
            guest.turn_away(proxy, refusal);
        }
    }

    /// Takes one step, on a handshake thread, and gives back what came of it.
    fn step(self, proxy: &Arc<Proxy>, waited: Duration) {
        match self {
            Waiting::Begin(guest, home) => {
                proxy.metrics.queue_wait(QueueName::Handshake, waited);
                let Guest { socket, server_name, site, holding, believed } = *guest;
                let name = server_name.as_ref();
                let Some(stepped) = guarded(|| Begun::new(proxy, socket, name, waited).step())
                else {
                    return turned_away(proxy, site.as_deref(), Refusal::HandshakeFailed);
                };
                // There is room for all that hold a place; a serving thread ends with the process.
                let started = Started { stepped, server_name, site, holding, believed };
                let _ = home.try_send(started);
            }
            Waiting::GoOn(begun, answer) => {
                if let Some(stepped) = guarded(|| begun.step()) {
                    // Nobody listens where the task has given it up.
                    let _ = answer.send(stepped);
                }
            }
        }
    }
}

/// A panic costs its own connection, as in a task of a serving thread.
fn guarded(step: impl FnOnce() -> Stepped) -> Option<Stepped> {
    catch_unwind(AssertUnwindSafe(step)).ok()
}

impl admission::Waiting for Waiting {
    fn is_gone(&self) -> bool {
        matches!(self, Waiting::Begin(guest, _) if guest.socket.is_gone())
    }
}

impl Begun {
    fn new(
        proxy: &Arc<Proxy>,
        socket: Socket,
        server_name: Option<&Hostname>,
        waited: Duration,
    ) -> Box<Begun> {
        // First: whatever happens, the place is given back.
        let place = Place(proxy.clone());
        let live = proxy.live();
        let site = server_name.and_then(|name| live.site(name.as_str())).map(|(site, _)| &**site);
        let config = live.snapshot.certs.server_config(certificate::tls_policy(site));
        let left = live.snapshot.queues.handshake_deadline.saturating_sub(waited);
        let at = Instant::now();
        Box::new(Begun {
            handshake: tls::Handshake::begin(config, socket),
            tls: site.map(|site| site.tls.clone()),
            at,
            until: at + left + ROUND_TRIPS,
            _place: place,
        })
    }

    /// Goes as far as the client's bytes allow.
    fn step(mut self: Box<Begun>) -> Stepped {
        // Its serving thread polls it again, with a waker of its own.
        let over = match self.handshake.poll_step(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(over) => Some(over),
        };
        Stepped { begun: self, over }
    }

    /// Its client took too long: there is nobody to be told in words.
    fn give_up(&self) -> Refusal {
        self.handshake.reset_on_close();
        Refusal::HandshakeDeadline
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
        let discard = |waiting: Waiting, refusal| waiting.turn_away(proxy, refusal);
        let (waiting, waited) = proxy.handshakes.next(discard);
        waiting.step(proxy, waited);
    }
}

/// Lets a connection wait for a handshake thread, or turns it or another away.
pub fn queue(thread: &Thread, mut guest: Guest, admissible: Admissible) {
    let proxy = &thread.proxy;
    let Admissible { customer, weight, cost, otherwise, sort, since } = admissible;
    if otherwise > 0 {
        guest.believed = Some(Believed { customer: customer.clone(), cost: otherwise });
    }
    let item = Waiting::Begin(Box::new(guest), thread.started.clone());
    let entry = Entry { customer, weight, cost, sort, since, item };
    for (waiting, refusal) in proxy.handshakes.push(entry) {
        waiting.turn_away(proxy, refusal);
    }
}

/// Finishes a handshake that has begun; the gauge follows it. `None` where it failed, which is
/// counted. *Cancel safety*: dropping it gives the handshake up, at its next step.
pub async fn finish(thread: &Thread, started: Started) -> Option<(Handshaken, Holding)> {
    let proxy = &thread.proxy;
    let Started { stepped, server_name, site, mut holding, believed } = started;
    holding.gauge.set(ConnectionState::Handshake);
    let (at, tls) = (stepped.begun.at, stepped.begun.tls.clone());
    let outcome = steps(thread, stepped).await;
    let is_resumed = outcome.as_ref().is_ok_and(|established| established.settled.resumed);
    if let Some(Believed { customer, cost }) = believed.filter(|_| !is_resumed) {
        proxy.handshakes.charge(&customer, Sort::Light, cost);
    }
    match outcome {
        Ok(tls::Established { stream, settled }) => {
            holding.gauge.set(ConnectionState::Idle);
            count(proxy, HandshakeResult::Ok, Some(settled), at.elapsed());
            Some((Handshaken { stream, settled, server_name, tls }, holding))
        }
        Err(refusal) => {
            count(proxy, ended(refusal, HandshakeResult::Failed), None, at.elapsed());
            proxy.metrics.refused_at(site.as_deref(), refusal);
            None
        }
    }
}

/// Waits for the client, within the deadline, and lets what it says be worked on.
async fn steps(thread: &Thread, mut stepped: Stepped) -> Result<tls::Established, Refusal> {
    let deadline = thread.timers.deadline();
    deadline.arm(stepped.begun.until.saturating_duration_since(Instant::now()));
    loop {
        let mut begun = match stepped {
            Stepped { over: Some(over), .. } => return over,
            Stepped { begun, over: None } => begun,
        };
        if begun.is_nearly_over() {
            let over = deadline.bound(poll_fn(|cx| begun.handshake.poll_step(cx))).await;
            return over.map_err(|_| begun.give_up())?;
        }
        let ready = deadline.bound(poll_fn(|cx| begun.handshake.poll_ready(cx))).await;
        ready.map_err(|_| begun.give_up())?;
        let (answer, next) = oneshot::channel();
        thread.proxy.handshakes.go_on(Waiting::GoOn(begun, answer));
        stepped = next.await.map_err(|_| Refusal::HandshakeFailed)?;
    }
}

/// Counts a connection whose handshake has not begun.
fn turned_away(proxy: &Proxy, site: Option<&SiteMetrics>, refusal: Refusal) {
    proxy.metrics.refused(QueueName::Handshake, refusal);
    count(proxy, ended(refusal, HandshakeResult::Refused), None, Duration::ZERO);
    proxy.metrics.refused_at(site, refusal);
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
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::pin::Pin;
    use std::thread;

    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

    use super::super::ConnectionSlot;
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
        proxy_with(|_| {})
    }

    /// The same, with what is put into the folder of its certificates.
    fn proxy_with(certificates: impl FnOnce(&Path)) -> Arc<Proxy> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sites", "certs"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        certificates(&folder.path().join("certs"));
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
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "a.test".try_into().unwrap();
        let mut hello = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        hello.write_tls(&mut client).unwrap();
        let (stream, from) = listener.accept().unwrap();
        stream.peek(&mut [0]).unwrap();
        stream.set_nonblocking(true).unwrap();
        (Socket::new(stream, from, address), client)
    }

    fn push(proxy: &Arc<Proxy>, socket: Socket) -> mpsc::Receiver<Started> {
        let (home, started) = mpsc::channel(1);
        let slot = ConnectionSlot::take(proxy, 10).unwrap();
        let gauge = proxy.metrics.connection(ConnectionState::Queued);
        let holding = Holding { slot, gauge, place: None };
        let customer = CustomerId::parse("a").unwrap();
        let believed = Some(Believed { customer: customer.clone(), cost: 1 });
        let guest = Guest { socket, server_name: None, site: None, holding, believed };
        let item = Waiting::Begin(Box::new(guest), home);
        let since = Instant::now();
        let entry = Entry { customer, weight: 1, cost: 1, sort: Sort::Heavy, since, item };
        assert!(proxy.handshakes.push(entry).is_empty());
        started
    }

    #[tokio::test]
    async fn a_panic_in_a_handshake_costs_that_connection_alone() {
        let proxy = proxy();
        let (socket, _client) = said_hello();
        // Takes the only place, as a handshake thread would, and meets the defect at the next step.
        let _first = push(&proxy, socket);
        let (waiting, waited) = proxy.handshakes.next(|_, _| panic!("nobody is turned away"));
        let Waiting::Begin(guest, _) = waiting else { panic!("it has not begun") };
        let (spare, _client) = said_hello();
        let mut begun = Begun::new(&proxy, spare, None, waited);
        begun.handshake = tls::Handshake::begin(defective(), guest.socket);
        let (answer, stepped) = oneshot::channel();
        proxy.handshakes.go_on(Waiting::GoOn(begun, answer));
        let worker = proxy.clone();
        // Works for as long as the test's process runs.
        thread::spawn(move || work(&worker));
        assert!(stepped.await.is_err(), "its connection is told that nothing will come");

        let (socket, _client) = said_hello();
        // No site has the name, so TLS refuses it; what counts is that it was looked at.
        let next = push(&proxy, socket).recv().await;
        assert!(next.is_some(), "the thread works on, and the place is free");
    }

    /// Its one version, and `root` as the one authority.
    fn client(
        version: &'static SupportedProtocolVersion,
        root: &rcgen::Certificate,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A connection whose client says hello, and goes on with its handshake, on a thread of its own,
    /// once it is told to.
    fn shakes_hands(config: ClientConfig) -> (Socket, std::sync::mpsc::Sender<()>) {
        let (go_on, told) = std::sync::mpsc::channel();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let name = "a.test".try_into().unwrap();
            let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(BOUND)).unwrap();
            connection.write_tls(&mut stream).unwrap();
            // What is given up before or meanwhile ends this one way or another.
            if told.recv().is_ok() {
                let _ = connection.complete_io(&mut stream);
            }
        });
        let (stream, from) = listener.accept().unwrap();
        stream.peek(&mut [0]).unwrap();
        stream.set_nonblocking(true).unwrap();
        (Socket::new(stream, from, address), go_on)
    }

    /// `work`, given up after so many polls; `waits` is called behind each that did not end it.
    async fn given_up_after<T>(
        polls: usize,
        work: impl Future<Output = T>,
        waits: impl Fn(),
    ) -> Option<T> {
        let (mut work, mut left) = (Box::pin(work), polls);
        poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            let polled = Pin::new(&mut work).poll(cx).map(Some);
            if polled.is_pending() {
                waits();
                if left == 0 {
                    return Poll::Ready(None);
                }
            }
            polled
        })
        .await
    }

    /// Long enough for any machine.
    const BOUND: Duration = Duration::from_secs(10);

    /// With one place: where it were not given back, the next would not begin.
    #[tokio::test]
    async fn a_handshake_that_is_dropped_at_any_poll_gives_back_all_it_holds() {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let proxy = proxy_with(|folder| {
            let folder = folder.join("a.test");
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("fullchain.pem"), cert.pem()).unwrap();
            std::fs::write(folder.join("privkey.pem"), signing_key.serialize_pem()).unwrap();
        });
        let (thread, _started) = Thread::new(proxy.clone());
        let worker = proxy.clone();
        // Works for as long as the test's process runs.
        thread::spawn(move || work(&worker));
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let mut polls = 0;
            loop {
                let (socket, go_on) = shakes_hands(client(version, &cert));
                let mut home = push(&proxy, socket);
                let started = tokio::time::timeout(BOUND, home.recv()).await;
                let started = started.expect("the place is free").expect("it has begun");
                let waits = || {
                    let _ = go_on.send(());
                };
                let finished = given_up_after(polls, finish(&thread, started), waits);
                let finished = tokio::time::timeout(BOUND, finished).await.expect("it goes on");
                let is_done = finished.is_some();
                assert!(finished.is_none_or(|done| done.is_some()), "{version:?} succeeds");
                assert_eq!(proxy.connections(), 0, "{version:?}, {polls} polls");
                if is_done {
                    break;
                }
                polls += 1;
            }
            assert!(polls > 1, "{version:?} waits for its client");
            let totals = proxy.metrics.totals();
            for state in ConnectionState::ALL {
                assert_eq!(totals.connections(*state), 0, "{version:?}: {state:?}");
            }
        }
    }
}
