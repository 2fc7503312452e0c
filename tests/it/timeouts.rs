//! Each bound in time acts. The bound under test is short, all others are far away; what is
//! asserted is the outcome and its reason, never how long it took.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::support::client::tcp;
use crate::support::frames::{
    self, DATA, END_HEADERS, HEADERS, NO_ERROR, PING, SETTINGS, block, frame, get_frame,
};
use crate::support::origin::{nobody, ok};
use crate::support::{Edge, End, Origin, Setup, eventually, get};

#[track_caller]
fn with(origin: &Origin, key: &str) -> Edge {
    Setup::default().set(key, r#""250ms""#).site("a.test", origin.url()).start()
}

/// Whatever was said before, the connection ends with a reset.
#[track_caller]
fn assert_reset(mut stream: TcpStream) {
    let end = stream.read_to_end(&mut Vec::new());
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_client_that_says_no_hello_is_reset() {
    let origin = Origin::echo();
    let edge = with(&origin, "timeouts.hello");
    let mut half = edge.tcp();
    half.write_all(&[22, 3, 1, 2]).unwrap(); // The beginning of a record.
    let silent = edge.tcp(); // The kernel hands it over after a second.
    assert_reset(half);
    assert_reset(silent);
    eventually("they are counted", || edge.refused("hello-timeout") == 2.0);
}

#[test]
fn what_turns_out_to_be_no_hello_is_reset() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let mut stream = edge.tcp();
    stream.write_all(&[22, 3, 1]).unwrap();
    let reads = || edge.metric("sluss_connections", &[r#"state="hello""#]) == 1.0;
    eventually("the edge waits for more", reads);
    stream.write_all(&[0, 0, 0, 0, 0]).unwrap();
    assert_reset(stream);
    eventually("it is counted", || edge.refused("hello-malformed") == 1.0);
}

/// On either kind of listener, whether it is wrong or never whole.
#[test]
fn who_is_not_introduced_is_reset() {
    let origin = Origin::echo();
    let edge = Setup::default()
        .set("listen.proxy_protocol_from", r#"["127.0.0.0/8"]"#)
        .set("timeouts.hello", r#""250ms""#)
        .site("a.test", origin.url())
        .start();
    for (at, address) in [edge.https[0], edge.http[0]].into_iter().enumerate() {
        for begin in ["PROXY TCP4 192", "GET / HTTP/1.1\r\n"] {
            let mut stream = tcp(address);
            stream.write_all(begin.as_bytes()).unwrap();
            assert_reset(stream);
        }
        let both = 2.0 * (at + 1) as f64;
        eventually("they are counted", || edge.refused("proxy-header") == both);
    }
}

#[test]
fn a_handshake_that_is_never_finished_is_reset() {
    let origin = Origin::echo();
    let edge = with(&origin, "queues.handshake_deadline");
    let config = crate::support::authority::authority().client(&[]);
    let name = "a.test".try_into().unwrap();
    let mut hello = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut record = Vec::new();
    hello.write_tls(&mut record).unwrap();
    let mut streams: Vec<TcpStream> = (0..5).map(|_| edge.tcp()).collect();
    for stream in &mut streams {
        stream.write_all(&record).unwrap();
    }
    // The edge's flight comes; ours never does.
    streams.into_iter().for_each(assert_reset);
    eventually("they are counted", || edge.refused("handshake-deadline") == 5.0);
    let of_queue = [r#"queue="handshake""#, r#"reason="handshake-deadline""#];
    assert_eq!(edge.metric("sluss_queue_refused_total", &of_queue), 0.0, "none of them waited");
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
