//! Each bound in time acts. The bound under test is short, all others are far away; what is
//! asserted is the outcome and its reason, never how long it took.

use std::io::Write as _;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::support::frames::{
    self, DATA, END_HEADERS, HEADERS, NO_ERROR, PING, SETTINGS, block, frame, get_frame,
};
use crate::support::origin::{nobody, ok};
use crate::support::wire::Wire;
use crate::support::{Edge, End, Origin, Setup, eventually, get};

#[track_caller]
fn with(origin: &Origin, key: &str) -> Edge {
    Setup::default().set(key, r#""250ms""#).site("a.test", origin.url()).start()
}

#[test]
fn a_client_that_says_no_hello_is_hung_up_on() {
    let origin = Origin::echo();
    let edge = with(&origin, "timeouts.hello");
    let mut stream = edge.tcp();
    stream.write_all(&[22, 3, 1, 2]).unwrap(); // The beginning of a record.
    Wire::new(stream).end();
    eventually("it is counted", || edge.refused("hello-timeout") == 1.0);
}

#[test]
fn a_handshake_that_is_never_finished_is_given_up() {
    let origin = Origin::echo();
    let edge = with(&origin, "queues.handshake_deadline");
    let config = crate::support::authority::authority().client(&[]);
    let name = "a.test".try_into().unwrap();
    let mut hello = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut stream = edge.tcp();
    hello.write_tls(&mut stream).unwrap();
    // The edge's flight comes; ours never does.
    let _ = Wire::new(stream).rest();
    eventually("it is counted", || edge.refused("handshake-deadline") == 1.0);
}

#[test]
fn a_head_that_is_never_finished_is_a_408() {
    let origin = Origin::echo();
    let edge = with(&origin, "timeouts.head");
    let mut client = edge.connect("a.test");
    let response = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow");
    assert_eq!((response.status(), response.refused()), (408, Some("head-timeout")));
    assert_eq!(client.end(), End::ClosedEarly);
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::echo();
    let edge = with(&origin, "timeouts.idle");
    let mut client = edge.connect("a.test");
    assert_eq!(client.ask(get("a.test", "/")).status(), 200);
    assert_eq!(client.end(), End::ClosedEarly);
    let mut never = edge.connect("a.test");
    assert_eq!(never.end(), End::ClosedEarly, "nor may it wait before its first request");
}

#[test]
fn a_request_body_that_stops_is_a_408() {
    let origin = Origin::echo();
    let edge = with(&origin, "timeouts.body");
    let mut client = edge.connect("a.test");
    let response = client.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!((response.status(), response.refused()), (408, Some("body-timeout")));
    assert_eq!(client.end(), End::ClosedEarly);
    eventually("the site's connection ends too", || origin.accepted() == origin.ended());
}

#[test]
fn a_response_body_that_stops_is_cut() {
    let origin = Origin::scripted(|mut connection| {
        connection.request().unwrap();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        connection.rest();
    });
    let edge = with(&origin, "timeouts.body");
    let response = edge.get("a.test", "/");
    assert_eq!((response.text().as_str(), response.end), ("half", End::Cut));
    let line = edge.logged("its line", |line| line["url.path"] == "/");
    assert_eq!(line["error.type"], "upstream-body-timeout");
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let origin = Origin::scripted(|mut connection| {
        connection.request().unwrap();
        connection.send("HTTP/1.1 200 OK\r\n\r\n");
        while connection.try_send(vec![b'x'; 1 << 20]).is_ok() {}
    });
    let edge = with(&origin, "timeouts.body");
    let mut client = edge.connect("a.test");
    client.send(get("a.test", "/"));
    let line = edge.logged("its line", |line| line["url.path"] == "/");
    assert_eq!(line["error.type"], "client-stalled");
    eventually("the site is told", || origin.ended() == 1);
    assert_eq!(client.rest().1, End::Cut);
}

/// Each side hears at once that the other has ended, and has `timeouts.body` for its last words.
#[test]
fn a_tunnel_of_which_one_side_has_ended_is_not_kept_for_the_other() {
    const UPGRADE: &str =
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    const SWITCHED: &str =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let site_ends = Origin::scripted(|mut connection| {
        connection.head().unwrap();
        connection.send(SWITCHED);
    });
    let edge = with(&site_ends, "timeouts.body");
    let mut client = edge.connect("a.test");
    assert_eq!(client.ask(UPGRADE).status(), 101);
    // The client says nothing, and never closes.
    edge.logged("its line", |line| line["http.response.status_code"] == 101);
    assert_eq!(client.end(), End::ClosedEarly);

    let held = Arc::new(Barrier::new(2));
    let holds = held.clone();
    let client_ends = Origin::scripted(move |mut connection| {
        connection.head().unwrap();
        connection.send(SWITCHED);
        assert_eq!(connection.end(), End::ClosedEarly);
        connection.send("last words");
        holds.wait(); // The site never closes.
    });
    // Time enough for the last words on a crowded machine.
    let edge = Setup::default().set("timeouts.body", r#""5s""#);
    let edge = edge.site("a.test", client_ends.url()).start();
    let mut client = edge.connect("a.test");
    assert_eq!(client.ask(UPGRADE).status(), 101);
    client.half_close();
    assert_eq!(client.exactly(10).0, b"last words");
    edge.logged("its line", |line| line["http.response.status_code"] == 101);
    held.wait();
}

/// hyper asks for nothing to be sent to a client whose window is closed from the beginning.
#[test]
fn a_client_that_never_opens_its_window_is_cut() {
    let origin = Origin::answering(|_| ok("taken by nobody"));
    let edge = with(&origin, "timeouts.body");
    // The answer of a site, and one of the edge's own.
    for host in ["a.test", "c.test"] {
        let mut client = frames::open(&edge, "a.test");
        client.send(frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 0]));
        client.send(get_frame(1, host, "/"));
        assert!(client.frame_where(|frame| frame.kind == HEADERS).is_some(), "{host}: a head");
        assert!(client.frame_where(|frame| frame.kind == DATA).is_none(), "{host}: then the end");
    }
}

#[test]
fn an_idle_http_2_connection_is_told_and_closed() {
    let origin = Origin::answering(|_| ok("hi"));
    let edge = with(&origin, "timeouts.idle");
    let mut client = frames::open(&edge, "a.test");
    client.send(get_frame(1, "a.test", "/"));
    assert_eq!(client.stream_data(1), b"hi");
    assert_eq!(client.goodbye(), Some(NO_ERROR));
    let mut busy = frames::open(&edge, "a.test");
    let pings = || {
        let sent = busy.try_send(frame(PING, 0, 0, [0; 8]));
        sent.is_err() || busy.frame_where(|frame| frame.kind == PING).is_none()
    };
    eventually("pings do not keep it", pings);
    assert_eq!(edge.refused("http2-flood"), 0.0);
}

#[test]
fn a_request_body_that_stops_ends_its_http_2_stream() {
    let origin = Origin::echo();
    let edge = with(&origin, "timeouts.body");
    let mut client = frames::open(&edge, "a.test");
    let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test")];
    let head = block(&[&fields[..], &[(":path", "/")]].concat());
    client.send(frame(HEADERS, END_HEADERS, 1, head));
    client.send(frame(DATA, 0, 1, "half"));
    let line = edge.logged("its line", |line| line["url.path"] == "/");
    assert_eq!(line["error.type"], "body-timeout");
    eventually("the site's connection ends too", || origin.accepted() == origin.ended());
}

#[test]
fn a_site_that_does_not_answer_is_a_504_and_its_connection_is_closed() {
    let origin = Origin::scripted(|mut connection| drop(connection.rest()));
    let edge = with(&origin, "timeouts.response");
    let response = edge.get("a.test", "/");
    assert_eq!((response.status(), response.refused()), (504, Some("upstream-timeout")));
    let line = edge.logged("the time-out", |line| line["http.response.status_code"] == 504);
    assert!(line["sluss.upstream.duration"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(line["sluss.endpoint"], origin.url());
    eventually("the site is told", || origin.ended() == 1);
}

#[test]
fn a_request_waits_for_a_site_that_is_gone_until_its_deadline() {
    let gone = format!("http://{}", nobody().unwrap());
    let edge =
        Setup::default().set("queues.request_deadline", r#""250ms""#).site("a.test", gone).start();
    let response = edge.get("a.test", "/");
    assert_eq!((response.status(), response.refused()), (503, Some("no-endpoint")));
}

/// The bounds are between two pieces: what moves, however slowly, is not cut.
#[test]
fn a_slow_but_steady_body_is_not_cut() {
    let origin = Origin::answering(|request| ok(&request.body));
    let edge =
        Setup::default().set("timeouts.body", r#""1s""#).site("a.test", origin.url()).start();
    let mut client = edge.connect("a.test");
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        client.send("1\r\nx\r\n");
        sent += 1;
        std::thread::sleep(Duration::from_millis(20)); // Its pace, not a wait.
    }
    assert_eq!(client.ask("0\r\n\r\n").text().len(), sent);
}
