//! What is turned away, and what the client is told.

use crate::support::client::ServerNameSent;
use crate::support::origin::{nobody, ok};
use crate::support::{Edge, End, Origin, Setup, eventually, get};

/// The request gets 400, no byte of it reaches the site, and nothing behind it is read.
#[track_caller]
fn is_refused(edge: &Edge, origin: &Origin, request: &str) {
    let before = origin.accepted();
    let mut client = edge.connect("a.test");
    client.send(request);
    client.send(get("a.test", "/smuggled"));
    let response = client.response();
    assert_eq!(response.status(), 400, "{request:?}: {}", response.text());
    assert_eq!(response.refused(), Some("head-malformed"), "{request:?}");
    assert_eq!(response.field("connection"), Some("close"), "{request:?}");
    assert!(response.field("x-request-id").is_some());
    assert_eq!(client.end(), End::ClosedEarly, "{request:?}");
    assert_eq!(origin.accepted(), before, "{request:?} reached the site");
}

#[test]
fn requests_whose_end_is_in_doubt_are_refused_and_the_connection_closed() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding\0: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
    ] {
        is_refused(&edge, &origin, &format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    }
}

#[test]
fn requests_whose_host_is_in_doubt_are_refused() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test@b.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\0: a.test\r\n\r\n",
    ] {
        is_refused(&edge, &origin, head);
    }
}

#[test]
fn requests_that_begin_wrongly_are_refused() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    for line in [
        "GET  / HTTP/1.1",
        "GET /",
        "GET / HTTP/2.0",
        "GET / HTTP/1.1 x",
        "CONNECT b.test:443 HTTP/1.1",
    ] {
        is_refused(&edge, &origin, &format!("{line}\r\nHost: a.test\r\n\r\n"));
    }
}

#[test]
fn a_chunked_request_that_breaks_off_its_rules_is_never_continued() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    for body in ["zz\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "ffffffffffffffffff\r\n", "5 \n\nhello\r\n"]
    {
        let mut client = edge.connect("a.test");
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(body);
        client.send(get("a.test", "/smuggled"));
        let response = client.response();
        assert_eq!(
            (response.status(), response.refused()),
            (400, Some("body-malformed")),
            "{body:?}"
        );
        assert_eq!(client.end(), End::ClosedEarly, "{body:?}");
    }
}

#[test]
fn odd_but_clear_requests_are_repaired() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let seen = client
        .ask("GET / HTTP/1.1\nHost: A.TEST.\nProxy: evil\r\nX_Forwarded_For: 1.2.3.4\r\nBad Name: 1\r\nX-Good: 1\r\n\r\n")
        .text();
    assert!(seen.contains("\nx-good: 1\n"), "{seen}");
    for dropped in ["proxy:", "x_forwarded_for", "bad name"] {
        assert!(!seen.contains(dropped), "{seen}");
    }
}

#[test]
fn a_malformed_response_head_is_repaired_and_its_body_stays() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nContent-Type : text/plain\r\nX Broken: 1\r\nnonsense\r\n: empty\r\n\
         X-Folded: a\r\n b\r\nX-Control: a\x01b\r\nContent-Length: 4\r\nX-Good: yes\r\n\r\nbody",
    );
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for _ in 0..2 {
        let response = client.ask(get("a.test", "/"));
        assert_eq!((response.status(), response.text().as_str()), (200, "body"));
        assert_eq!(response.field("content-type"), Some("text/plain"));
        assert_eq!(response.field("x-good"), Some("yes"));
        assert_eq!(response.field("x-folded"), Some("a b"));
        assert_eq!(response.field("x-control"), Some("a b"));
        assert_eq!(response.field("x broken"), None);
    }
    assert_eq!(origin.accepted(), 1, "a repaired response keeps its connection");
    let findings = edge.admin_json("/api/findings").to_string();
    assert!(findings.contains("field-name-trailing-space"), "{findings}");
}

#[test]
fn the_same_head_is_refused_where_the_site_asks_for_it() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nX Broken: 1\r\nContent-Length: 4\r\n\r\nbody");
    let edge = Setup::default()
        .site_with("a.test", origin.url(), r#"headers = { responses = "reject" }"#)
        .start();
    let response = edge.get("a.test", "/");
    assert_eq!((response.status(), response.refused()), (502, Some("upstream-head-malformed")));
}

#[test]
fn a_response_whose_end_is_in_doubt_is_a_502() {
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: x",
    ] {
        let origin = Origin::answering(move |_| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nbody"));
        let edge = Edge::before(origin.url());
        let response = edge.get("a.test", "/");
        assert_eq!(
            (response.status(), response.refused()),
            (502, Some("upstream-head-malformed")),
            "{fields}"
        );
        assert!(!response.text().contains("127.0.0.1"), "no internals: {}", response.text());
    }
}

#[test]
fn a_site_that_hangs_up_a_site_that_is_silent_and_a_site_that_is_gone_are_told_apart() {
    let rude = Origin::scripted(|mut connection| drop(connection.request()));
    let silent = Origin::scripted(|mut connection| drop(connection.rest()));
    let edge = Setup::default()
        .set("timeouts.response", r#""300ms""#)
        .set("queues.request_deadline", r#""300ms""#)
        .site("rude.test", rude.url())
        .site("silent.test", silent.url())
        .site("gone.test", format!("http://{}", nobody().unwrap()))
        .start();
    for (host, status, reason) in [
        ("rude.test", 502, "upstream-closed"),
        ("silent.test", 504, "upstream-timeout"),
        ("gone.test", 503, "no-endpoint"),
    ] {
        let mut client = edge.connect(host);
        let response = client.ask(get(host, "/"));
        assert_eq!((response.status(), response.refused()), (status, Some(reason)), "{host}");
        let id = response.field("x-request-id").expect("an id").to_owned();
        assert!(response.text().contains(&id), "the page names the request: {}", response.text());
        assert_eq!(response.field("retry-after").is_some(), status == 503);
        // The client's connection is as good as before.
        assert_eq!(client.ask(get(host, "/")).status(), status);
        let line = edge.logged("its line", |line| line["sluss.request.id"] == id.as_str());
        assert_eq!(line["error.type"], reason);
        // The second is counted once it is written, which its client may be told before.
        eventually(&format!("the metrics count {reason}"), || edge.refused(reason) >= 2.0);
    }
}

#[test]
fn a_host_that_no_site_serves_is_a_404_and_one_beyond_the_certificate_a_421() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = Setup::default().site("a.test", origin.url()).site("b.test", origin.url()).start();
    let mut client = edge.connect("a.test");
    for (host, status, reason) in [
        ("c.test", 404, Some("unknown-host")),
        ("b.test", 421, Some("misdirected")),
        ("a.test", 200, None),
    ] {
        let response = client.ask(get(host, "/"));
        assert_eq!((response.status(), response.refused()), (status, reason), "{host}");
    }
}

#[test]
fn a_host_that_the_certificate_covers_is_served_on_the_same_connection() {
    let origin = Origin::answering(|request| ok(request.field("host").unwrap()));
    let setup = Setup::default().site("a.test", origin.url()).site("b.test", origin.url());
    setup.issue("a.test", &["a.test", "b.test"]);
    let edge = setup.start();
    let mut client = edge.connect("a.test");
    for host in ["a.test", "b.test"] {
        assert_eq!(client.ask(get(host, "/")).text(), host);
    }
}

#[test]
fn connections_that_are_turned_away_are_summed_up_in_the_log() {
    let origin = Origin::echo();
    let one = "limits = { handshakes_per_second = 1 }";
    let edge = Setup::default().site_with("a.test", origin.url(), one).start();
    let refused = |reason: &str, site: Option<&str>| {
        let told = edge.told();
        let lines = told.lines().filter_map(|line| serde_json::from_str(line).ok());
        let is_it = |line: &serde_json::Value| {
            line["message"] == "refused"
                && line["reason"] == reason
                && line["site"].as_str() == site
        };
        lines.filter(is_it).filter_map(|line| line["count"].as_u64()).sum::<u64>()
    };
    for _ in 0..3 {
        assert!(edge.try_connect(ServerNameSent::Name("nobody.test")).is_err());
    }
    eventually("strangers are told", || refused("unknown-server-name", None) == 3);
    eventually("a site's bound is met", || {
        let _ = edge.try_connect(ServerNameSent::Name("a.test"));
        edge.refused("handshake-rate") >= 2.0
    });
    eventually("it is told with its site", || refused("handshake-rate", Some("a.test")) > 0);
}
