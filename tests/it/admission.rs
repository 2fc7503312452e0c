//! The request queue and the crowd at the door.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::authority::authority;
use crate::support::client::{ServerNameSent, handshake};
use crate::support::frames::{self, REFUSED_STREAM, RST_STREAM, get_frame};
use crate::support::origin::ok;
use crate::support::wire::Wire;
use crate::support::{Edge, Origin, Setup, eventually, get, tools, wait_for};

/// A site that answers one request at a time, once it is let go, and an edge where one may wait.
fn a_site_with_one_place_to_wait() -> (Arc<AtomicBool>, Origin, Edge) {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let origin = Origin::answering(move |_| {
        eventually("the site is let go", || gate.load(Ordering::SeqCst));
        ok("served")
    });
    let edge = Setup::default()
        .set("queues.request_depth", "1")
        .set("queues.request_deadline", r#""60s""#)
        .site_with("a.test", origin.url(), "limits = { in_flight = 1 }")
        .start();
    (open, origin, edge)
}

#[test]
fn a_full_request_queue_is_a_503_and_those_who_wait_are_served() {
    let (open, origin, edge) = a_site_with_one_place_to_wait();
    let (mut first, mut second) = (edge.connect("a.test"), edge.connect("a.test"));
    first.send(get("a.test", "/first"));
    eventually("the first is at the site", || origin.accepted() == 1);
    second.send(get("a.test", "/second"));
    edge.metric_becomes("sluss_queue_depth", &["queue=\"request\""], |depth| depth == 1.0);
    // Of one class the oldest makes room: the newcomer is likelier to be still waited for.
    let mut third = edge.connect("a.test");
    third.send(get("a.test", "/third"));
    let refused = second.response();
    assert_eq!((refused.status(), refused.refused()), (503, Some("request-queue-full")));
    assert!(refused.field("retry-after").is_some());
    assert!(edge.metric("sluss_queue_refused_total", &["request-queue-full"]) >= 1.0);
    open.store(true, Ordering::SeqCst);
    assert_eq!(first.response().text(), "served");
    assert_eq!(third.response().text(), "served");
    assert_eq!(second.ask(get("a.test", "/again")).text(), "served", "the connection stayed");
}

/// Over HTTP/2 the stream is refused instead, so that a client may ask again at once (RFC 9113 8.7).
#[test]
fn a_full_request_queue_refuses_the_stream_over_http_2() {
    let (open, origin, edge) = a_site_with_one_place_to_wait();
    let mut client = frames::open(&edge, "a.test");
    client.send(get_frame(1, "a.test", "/first"));
    eventually("the first is at the site", || origin.accepted() == 1);
    client.send(get_frame(3, "a.test", "/second"));
    edge.metric_becomes("sluss_queue_depth", &["queue=\"request\""], |depth| depth == 1.0);
    client.send(get_frame(5, "a.test", "/third"));
    let reset = client.frame_where(|frame| frame.kind == RST_STREAM).expect("a reset");
    assert_eq!((reset.stream, reset.error()), (3, REFUSED_STREAM), "the oldest that waits");
    assert_eq!(edge.metric("sluss_queue_refused_total", &["request-queue-full"]), 1.0);
    eventually("it is counted", || edge.refused("request-queue-full") == 1.0);
    let line = edge.logged("its line", |line| line["url.path"] == "/second");
    assert_eq!(line["error.type"], "request-queue-full");
    open.store(true, Ordering::SeqCst);
    for stream in [1, 5] {
        assert_eq!(client.stream_data(stream), b"served", "the others, on the same connection");
    }
}

/// More of them than an adaptive limit lets in while nothing is known of a site; then a visitor.
#[track_caller]
fn check_that_a_visitor_is_served_beside(slow: &str) {
    let origin = Origin::scripted(|mut connection| {
        let head = connection.head().expect("a request");
        match head.target() {
            "/quick" => connection.send(ok("served")),
            "/upload" => drop(connection.body(head)),
            "/chat" => connection.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            ),
            // A stream of events.
            _ => {
                connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n: \r\n");
            }
        }
        connection.rest();
    });
    let edge = Edge::before(origin.url());
    let open = |n| {
        let mut client = edge.connect("a.test");
        client.send(slow);
        eventually("it is at the site", || origin.accepted() == n);
        client
    };
    let clients: Vec<_> = (1..=80).map(open).collect();
    let response = edge.connect("a.test").ask(get("a.test", "/quick"));
    assert_eq!((response.status(), &*response.text()), (200, "served"), "beside {}", clients.len());
    assert_eq!(edge.refused("request-deadline"), 0.0);
}

#[test]
fn event_streams_keep_no_visitor_from_a_site() {
    check_that_a_visitor_is_served_beside(&get("a.test", "/events"));
}

#[test]
fn slow_uploads_keep_no_visitor_from_a_site() {
    let upload = "POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\npart";
    check_that_a_visitor_is_served_beside(upload);
}

#[test]
fn open_tunnels_keep_no_visitor_from_a_site() {
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    check_that_a_visitor_is_served_beside(upgrade);
}

#[test]
fn a_request_that_waits_past_its_deadline_is_a_503() {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::answering(move |_| {
        let _ = held.lock().unwrap().recv();
        ok("served")
    });
    let edge = Setup::default()
        .set("queues.request_deadline", r#""300ms""#)
        .site_with("a.test", origin.url(), "limits = { in_flight = 1 }")
        .start();
    let mut first = edge.connect("a.test");
    first.send(get("a.test", "/first"));
    eventually("the first is at the site", || origin.accepted() == 1);
    let refused = edge.get("a.test", "/second");
    assert_eq!((refused.status(), refused.refused()), (503, Some("request-deadline")));
    let line = edge.logged("the refusal", |line| line["url.path"] == "/second");
    assert!(line["sluss.queue.duration"].as_f64().unwrap() >= 0.3, "it has waited: {line}");
    release.send(()).unwrap();
    assert_eq!(first.response().text(), "served");
}

#[test]
fn a_client_that_leaves_the_queue_gives_its_place_back() {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let origin = Origin::answering(move |_| {
        let _ = held.lock().unwrap().recv();
        ok("served")
    });
    let edge = Setup::default()
        .set("queues.request_deadline", r#""60s""#)
        .site_with("a.test", origin.url(), "limits = { in_flight = 1 }")
        .start();
    let mut first = edge.connect("a.test");
    first.send(get("a.test", "/first"));
    eventually("the first is at the site", || origin.accepted() == 1);
    let mut waiting = edge.connect("a.test");
    waiting.send(get("a.test", "/second"));
    edge.metric_becomes("sluss_queue_depth", &["queue=\"request\""], |depth| depth == 1.0);
    drop(waiting);
    edge.metric_becomes("sluss_queue_depth", &["queue=\"request\""], |depth| depth == 0.0);
    release.send(()).unwrap();
    assert_eq!(first.response().text(), "served");
    assert_eq!(origin.accepted(), 1, "the site never heard of the second");
}

/// The median of some GETs on one connection.
fn median(edge: &Edge) -> Duration {
    let mut client = edge.connect("a.test");
    let mut times: Vec<Duration> = (0..60)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(client.ask(get("a.test", "/")).status(), 200);
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn five_hundred_slow_clients_do_not_slow_a_normal_one() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let edge = Edge::before(origin.url());
    let before = median(&edge);
    let mut slow: Vec<_> = (0..400).map(|_| edge.connect("a.test")).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nX-");
    }
    let silent: Vec<_> = (0..100).map(|_| edge.tcp()).collect();
    edge.metric_becomes("sluss_connections", &[], |count| count >= 500.0);
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let trickle = thread::spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            for client in &mut slow {
                client.send("a");
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let during = median(&edge);
    stop.store(true, Ordering::SeqCst);
    trickle.join().unwrap();
    drop(silent);
    // Loose on purpose: a slow client that held a thread would cost seconds.
    assert!(during < before * 20 + Duration::from_millis(200), "{before:?} became {during:?}");
}

/// What scanners and broken programs say on the TLS port; none of it is a hello.
const GARBAGE: &[&[u8]] = &[
    b"\x80\x2e\x01\x00\x02 an SSLv2 hello",
    b"\x16\x03\x01\xff\xff\x01 a record longer than records are",
    b"\x16\x03\x01\x00\x08\x01\x00\x00\x04hmm!",
    b"\x17\x03\x03\x00\x04data",
    b"\0\0\0\0\0\0\0\0",
];

/// The same with ten thousand is `benches/crowd`.
#[test]
fn crowds_at_the_door_do_not_harm_a_visitor() {
    const IDLE: usize = 500;
    const GARBLED: usize = 1_200;
    const HALF: usize = 500;
    tools::allow_descriptors(4_096);
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let edge = Edge::before(origin.url());
    let before = median(&edge);
    let lean = edge.resident_kib();
    let mut idle: Vec<_> = (0..IDLE).map(|_| edge.connect("a.test")).collect();
    let grown = edge.resident_kib().saturating_sub(lean);
    assert!(grown < 64 * IDLE as u64, "{grown} KiB for {IDLE} idle connections");
    let garbled: Vec<_> = (0..GARBLED).map(|n| said(&edge, GARBAGE[n % GARBAGE.len()])).collect();
    let half: Vec<_> = (0..HALF).map(|_| said(&edge, b"\x16\x03\x01\x02\x00\x01\x00")).collect();
    edge.metric_becomes("sluss_connections", &["state=\"hello\""], |count| count == HALF as f64);
    let during = median(&edge);
    assert!(during < before * 20 + Duration::from_millis(200), "{before:?} became {during:?}");
    eventually("the garbage is counted", || edge.refused("hello-malformed") == GARBLED as f64);
    for client in &mut idle {
        assert_eq!(client.ask(get("a.test", "/")).text(), "hi", "who was idle is still served");
    }
    drop((garbled, half));
    edge.metric_becomes("sluss_connections", &["state=\"hello\""], |count| count == 0.0);
}

/// A connection on which that was said, and nothing else.
fn said(edge: &Edge, bytes: &[u8]) -> TcpStream {
    let mut stream = edge.tcp();
    let _ = stream.write_all(bytes); // The edge may have hung up on a part of it.
    stream
}

/// A connection on which a whole ClientHello was said, and nothing else.
fn said_hello(edge: &Edge, name: &str) -> TcpStream {
    let config = authority().client(&[]);
    let name = name.to_owned().try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut stream = edge.tcp();
    session.write_tls(&mut stream).unwrap();
    stream
}

/// One handshake holds the only place and is never finished; the queue behind it holds one.
#[test]
fn a_full_handshake_queue_refuses_the_oldest_of_the_fattest() {
    let edge = Setup::default()
        .set("queues.handshake_concurrency", "1")
        .set("queues.handshake_depth", "1")
        .site("a.test", Origin::echo().url())
        .start();
    let hello = || said_hello(&edge, "a.test");
    let depth = |expected: f64| {
        let labels = ["queue=\"handshake\""];
        edge.metric_becomes("sluss_queue_depth", &labels, |depth| depth == expected);
    };
    let mut holds = hello();
    holds.read_exact(&mut [0; 5]).unwrap(); // The edge's flight: the place is taken.
    let mut waits = hello();
    depth(1.0);
    let newest = hello();
    let reset = waits.read(&mut [0; 1]).expect_err("a reset");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    let labels = ["queue=\"handshake\"", "handshake-queue-full"];
    assert_eq!(edge.metric("sluss_queue_refused_total", &labels), 1.0);
    depth(1.0);
    drop(newest);
    let mut last = hello();
    drop(holds);
    last.read_exact(&mut [0; 5]).expect("who is patient gets its turn");
    eventually("who left is no work", || edge.refused("client-gone") >= 1.0);
}

/// One of `b.test` waits, then two of `a.test`, where there is room for two: it is in nobody's way
/// where customers take turns, and the oldest where they do not.
#[test]
fn in_order_of_arrival_one_customers_flood_shuts_another_one_out() {
    for (order, b_stays) in [(r#""fair""#, true), (r#""arrival""#, false)] {
        let origin = Origin::echo();
        let edge = Setup::default()
            .set("queues.handshake_concurrency", "1")
            .set("queues.handshake_depth", "2")
            .set("queues.handshake_order", order)
            .site("a.test", origin.url())
            .site("b.test", origin.url())
            .start();
        let depth = |expected: f64| {
            let labels = ["queue=\"handshake\""];
            edge.metric_becomes("sluss_queue_depth", &labels, |depth| depth == expected);
        };
        let mut holds = said_hello(&edge, "a.test");
        holds.read_exact(&mut [0; 5]).unwrap(); // The edge's flight: the place is taken.
        let mut quiet = said_hello(&edge, "b.test");
        depth(1.0);
        let mut flooding = said_hello(&edge, "a.test");
        depth(2.0);
        let _newest = said_hello(&edge, "a.test");
        let reset = if b_stays { &mut flooding } else { &mut quiet };
        let reset = reset.read(&mut [0; 1]).expect_err("a reset");
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset, "{order}");
        depth(2.0);
    }
}

#[test]
fn a_handshake_that_waits_past_its_deadline_is_reset() {
    let edge = Setup::default()
        .set("queues.handshake_concurrency", "1")
        .set("queues.handshake_deadline", r#""300ms""#)
        .site("a.test", Origin::echo().url())
        .start();
    let mut holds = said_hello(&edge, "a.test");
    holds.read_exact(&mut [0; 5]).unwrap(); // The edge's flight: the place is taken.
    let reset = said_hello(&edge, "a.test").read(&mut [0; 1]).expect_err("a reset");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    let labels = ["queue=\"handshake\"", "handshake-deadline"];
    edge.metric_becomes("sluss_queue_refused_total", &labels, |count| count >= 1.0);
}

/// Linux has a niceness for each thread; those that serve keep that of the process.
#[test]
fn handshake_threads_stand_back_as_far_as_the_configuration_says() {
    for (configured, adds) in [(None, 10), (Some("0"), 0), (Some("7"), 7)] {
        let mut setup = Setup::default().set("runtime.threads", "2");
        if let Some(nice) = configured {
            setup = setup.set("runtime.handshake_nice", nice);
        }
        let edge = setup.site("a.test", Origin::echo().url()).start();
        // A thread takes its name itself, a moment after it was started.
        let serving = wait_for("both serving threads", || {
            Some(edge.niceness("sluss-serve-")).filter(|found| found.len() == 2)
        });
        let expected = serving.iter().map(|own| (own + adds).min(19)).collect::<Vec<_>>();
        eventually("they stand back", || edge.niceness("sluss-tls-") == expected);
    }
}

/// The site does one request at a time. Three bulk ones fill its queue; what comes then takes the
/// place of the oldest of them, and goes before the others.
#[test]
fn critical_requests_go_first_and_bulk_is_shed_first() {
    let open = Arc::new(AtomicBool::new(false));
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (gate, seen) = (open.clone(), order.clone());
    let origin = Origin::answering(move |request| {
        eventually("the site is let go", || gate.load(Ordering::SeqCst));
        seen.lock().unwrap().push(request.start.clone());
        ok("served")
    });
    let rules = r#"limits = { in_flight = 1 }
priority = [ { path = "/pay", class = "critical" }, { path = "/export/*", class = "bulk" } ]"#;
    let edge = Setup::default()
        .set("queues.request_depth", "3")
        .set("queues.request_deadline", r#""60s""#)
        .site_with("a.test", origin.url(), rules)
        .start();
    let send = |path: &str| {
        let mut client = edge.connect("a.test");
        client.send(get("a.test", path));
        client
    };
    let waiting = |expected: f64| {
        let labels = ["queue=\"request\""];
        edge.metric_becomes("sluss_queue_depth", &labels, |depth| depth == expected);
    };
    let mut served = vec![send("/first")];
    eventually("the first is at the site", || origin.accepted() == 1);
    let mut shed = send("/export/1");
    waiting(1.0);
    served.push(send("/export/2"));
    waiting(2.0);
    served.push(send("/export/3"));
    waiting(3.0);
    served.push(send("/pay"));
    let refused = shed.response();
    assert_eq!((refused.status(), refused.refused()), (503, Some("request-queue-full")));
    assert_eq!(edge.metric("sluss_queue_refused_total", &["request-queue-full"]), 1.0);
    open.store(true, Ordering::SeqCst);
    for client in &mut served {
        assert_eq!(client.response().text(), "served");
    }
    let order = order.lock().unwrap().join(" ");
    let at = |path: &str| order.find(path).expect("it came to the site");
    assert!(at("/first") < at("/pay") && at("/pay") < at("/export/2"), "{order}");
}

#[test]
fn an_edge_without_descriptors_refuses_and_recovers() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = Edge::before(origin.url());
    let open = wait_for("the open descriptors", || {
        Some(edge.metric("process_open_fds", &[])).filter(|count| *count > 0.0)
    });
    edge.limit_descriptors(open as u64 + 10);
    let crowd: Vec<_> = (0..40).map(|_| edge.tcp_that_greets()).collect();
    let last = crowd.last().unwrap().try_clone().unwrap();
    let _ = Wire::new(last).rest(); // Closed at once, not left waiting.
    drop(crowd);
    edge.limit_descriptors(open as u64 + 1_000);
    eventually("it is counted", || edge.refused("connection-limit") >= 1.0);
    assert_eq!(edge.get("a.test", "/").status(), 200);
}

/// Nobody is idle: the next waits in the kernel's queue and comes in when somebody leaves.
#[test]
fn a_full_edge_of_busy_connections_lets_the_next_wait() {
    let origin = Origin::scripted(|mut connection| {
        connection.request();
        connection.rest();
    });
    let edge =
        Setup::default().set("runtime.max_connections", "2").site("a.test", origin.url()).start();
    let busy = || {
        let mut client = edge.connect("a.test");
        client.send(get("a.test", "/"));
        client
    };
    let (first, _second) = (busy(), busy());
    eventually("both are busy", || origin.accepted() == 2);
    eventually("it is told", || edge.alarms("connections") == 1.0);
    let (told, came) = mpsc::channel();
    let waiting = edge.tcp();
    let third = thread::spawn(move || {
        let client = handshake(waiting, ServerNameSent::Name("a.test"));
        told.send(()).unwrap();
        client.is_ok()
    });
    assert!(came.recv_timeout(Duration::from_millis(300)).is_err(), "it waits");
    drop(first);
    assert!(third.join().unwrap(), "and comes in");
}

#[test]
fn a_full_edge_ends_idle_connections_for_new_ones() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let edge =
        Setup::default().set("runtime.max_connections", "10").site("a.test", origin.url()).start();
    let mut kept = Vec::new();
    for _ in 0..25 {
        let mut client = edge.connect("a.test");
        assert_eq!(client.ask(get("a.test", "/")).text(), "hi");
        kept.push(client);
    }
    assert_eq!(kept[0].end(), crate::support::End::ClosedEarly, "the longest idle one went");
    assert!(edge.metric("sluss_connections", &[]) <= 10.0);
    let ended = edge.metric("sluss_connections_ended_idle_total", &[]);
    assert!((15.0..=25.0).contains(&ended), "as many as came too many, hardly more: {ended}");
    eventually("it is told", || edge.alarms("connections") == 1.0);
}

/// Whichever thread accepts the newcomer, and whosever the idle one is: with one place, one in two is
/// the other thread's.
#[test]
fn a_full_edge_ends_idle_connections_of_every_thread() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let edge = Setup::default()
        .set("runtime.threads", "2")
        .set("runtime.max_connections", "1")
        .site("a.test", origin.url())
        .start();
    let mut kept = Vec::new();
    for _ in 0..40 {
        let mut client = edge.connect("a.test");
        assert_eq!(client.ask(get("a.test", "/")).text(), "hi");
        kept.push(client);
    }
    assert!(edge.metric("sluss_connections_ended_idle_total", &[]) >= 39.0);
}
