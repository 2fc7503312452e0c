//! A handshake between its threads: panics, cancellation, and who computes it.

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

/// A connection that no site has the name for: TLS refuses it, but it is looked at.
fn guest(proxy: &Arc<Proxy>, socket: Socket) -> Guest {
    let slot = ConnectionSlot::take(proxy, 10).unwrap();
    let gauge = proxy.metrics.connection(ConnectionState::Queued);
    let holding = Holding { slot, gauge, place: None };
    Guest { socket, server_name: None, site: None, holding, believed: None, is_brief: false }
}

fn push(proxy: &Arc<Proxy>, socket: Socket) -> mpsc::Receiver<Started> {
    let (home, started) = mpsc::channel(1);
    let customer = CustomerId::parse("a").unwrap();
    let believed = Some(Believed { customer: customer.clone(), cost: 1 });
    let guest = Guest { believed, ..guest(proxy, socket) };
    let item = Waiting::Begin(Box::new(guest), home);
    let since = Instant::now();
    let entry = Entry { customer, weight: 1, cost: 1, sort: Sort::Heavy, since, item };
    assert!(proxy.handshakes.push(entry, false).is_empty());
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
    let next = push(&proxy, socket).recv().await;
    assert!(next.is_some(), "the thread works on, and the place is free");
}

fn admissible(is_brief: bool) -> Admissible {
    let customer = CustomerId::parse("a").unwrap();
    let (cost, otherwise, sort, since) = (100, 0, Sort::Heavy, Instant::now());
    Admissible { customer, weight: 1, cost, otherwise, sort, is_brief, since }
}

/// Without a handshake thread: what has begun was begun by the serving thread.
#[tokio::test]
async fn a_serving_thread_begins_what_is_brief_while_it_has_time() {
    let now = Instant::now();
    for (is_brief, not_before, begins) in
        [(true, now, true), (false, now, false), (true, now + BOUND, false)]
    {
        let proxy = proxy();
        let (thread, mut started) = Thread::new(proxy.clone());
        let (socket, _client) = said_hello();
        thread.asides.not_before.set(Some(not_before));
        queue(&thread, guest(&proxy, socket), admissible(is_brief));
        assert_eq!(given_up_after(1, help(thread), || ()).await, None, "it never ends");
        assert_eq!(started.try_recv().is_ok(), begins, "{is_brief}");
        assert_eq!(proxy.handshakes.state().depth, usize::from(!begins), "{is_brief}");
    }
}

#[test]
fn a_serving_thread_rarely_computes_what_is_long() {
    let (asides, now) = (Asides::default(), Instant::now());
    let at = |micros| now + Duration::from_micros(micros);
    assert!(asides.has_time(now));
    asides.spent(now, at(500));
    assert!(asides.has_time(at(500)));
    asides.spent(now, at(600));
    assert!(!asides.has_time(at(9_599)));
    assert!(asides.has_time(at(9_600)));
}

/// Its one version, and `root` as the one authority.
fn client(version: &'static SupportedProtocolVersion, root: &rcgen::Certificate) -> ClientConfig {
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
