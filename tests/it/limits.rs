//! What one client, one request or one site may take.

use crate::support::client::ServerNameSent;
use crate::support::frames::{self, PING, REFUSED_STREAM, RST_STREAM};
use crate::support::http2::{empty, full, http2, url};
use crate::support::origin::ok;
use crate::support::{Edge, End, Origin, Setup, eventually, get};

fn limited(origin: &Origin, limits: &str) -> Edge {
    Setup::default().site_with("a.test", origin.url(), &format!("limits = {{ {limits} }}")).start()
}

#[test]
fn a_body_over_the_sites_bound_is_a_413() {
    let origin = Origin::answering(|request| ok(&request.body));
    let edge = limited(&origin, r#"max_body = "1KiB""#);
    let mut client = edge.connect("a.test");
    let fits = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1024\r\n\r\n".to_owned()
        + &"x".repeat(1024);
    assert_eq!(client.ask(fits).body.len(), 1024);
    let response = client.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1025\r\n\r\n");
    assert_eq!((response.status(), response.refused()), (413, Some("body-too-large")));
    assert_eq!(client.end(), End::ClosedEarly);
    let mut client = edge.connect("a.test");
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let response = client.ask(format!("401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025)));
    assert_eq!((response.status(), response.refused()), (413, Some("body-too-large")), "chunked");
    let status = http2(&edge, "a.test", async |mut sender| {
        let request = http::Request::post(url("a.test", "/")).body(full(vec![0; 1025])).unwrap();
        sender.send_request(request).await.unwrap().status()
    });
    assert_eq!(status, 413, "over HTTP/2");
}

#[test]
fn a_head_over_the_bound_is_a_431() {
    let origin = Origin::echo();
    let edge =
        Setup::default().set("headers.max_head", r#""8KiB""#).site("a.test", origin.url()).start();
    let long = format!("/{}", "x".repeat(9 * 1024));
    let mut client = edge.connect("a.test");
    let response = client.ask(get("a.test", &long));
    assert_eq!((response.status(), response.refused()), (431, Some("head-too-large")));
    assert_eq!(client.end(), End::ClosedEarly);
    assert_eq!(origin.accepted(), 0);
}

/// Up to four times `max_head` the edge itself judges, tells and counts; h2 answers beyond that, and
/// ends the connection at four times its own bound.
#[test]
fn a_field_list_over_the_bound_is_ours_to_judge_and_one_far_over_it_ends_the_connection() {
    let origin = Origin::echo();
    let edge = Setup::default().set("headers.max_head", r#""8KiB""#);
    let edge = edge.site("a.test", origin.url()).start();
    let value = "x".repeat(1_000);
    let request = |fields: usize| {
        let mut request = http::Request::get(url("a.test", "/"));
        for n in 0..fields {
            request = request.header(format!("x-{n}"), &value);
        }
        request.body(empty()).unwrap()
    };
    http2(&edge, "a.test", async |mut sender| {
        for fields in [5, 30] {
            let response = sender.send_request(request(fields)).await.unwrap();
            assert_eq!(response.status(), 200, "{fields} fields, of which 7 go on");
        }
        let long = url("a.test", &format!("/{}", "x".repeat(9 * 1024)));
        let long = http::Request::get(long).body(empty()).unwrap();
        let response = sender.send_request(long).await.unwrap();
        assert_eq!(response.status(), 431);
        assert_eq!(response.headers()["sluss-refused"], "head-too-large");
        assert_eq!(sender.send_request(request(60)).await.unwrap().status(), 431);
        assert!(sender.send_request(request(300)).await.is_err());
    });
    assert_eq!(edge.refused("head-too-large"), 1.0);
    edge.logged("its line", |line| line["error.type"] == "head-too-large");
    eventually("the flood is counted", || edge.refused("http2-flood") == 1.0);
}

#[test]
fn streams_over_the_bound_are_refused() {
    let origin = Origin::scripted(|mut connection| drop(connection.rest()));
    let edge = Edge::before(origin.url());
    let mut client = frames::open(&edge, "a.test");
    for n in 0..129 {
        client.send(frames::get_frame(2 * n + 1, "a.test", "/"));
    }
    let refused = client.frame_where(|frame| frame.kind == RST_STREAM).expect("a reset");
    assert_eq!((refused.stream, refused.error()), (257, REFUSED_STREAM));
    client.send(frames::reset_frame(1, frames::CANCEL));
    client.send(frames::get_frame(259, "a.test", "/"));
    client.send(frames::frame(PING, 0, 0, [0; 8]));
    let next = client.frame_where(|frame| [PING, RST_STREAM].contains(&frame.kind));
    assert_eq!(next.expect("a frame").kind, PING, "there is room again");
}

/// Fields that nobody routes or frames by give way before the request does.
#[test]
fn fields_over_the_bound_are_left_out() {
    let origin = Origin::echo();
    let edge =
        Setup::default().set("headers.max_fields", "50").site("a.test", origin.url()).start();
    let many: String = (0..60).map(|n| format!("x-{n}: 1\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{many}\r\n");
    let seen = edge.connect("a.test").ask(request).text();
    assert!(seen.contains("\nx-40: 1\n") && !seen.contains("\nx-59: "), "{seen}");
}

#[test]
fn one_client_holds_no_more_connections_than_it_may() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = limited(&origin, "connections_per_client = 2");
    let (first, _second) = (edge.connect("a.test"), edge.connect("a.test"));
    assert!(edge.try_connect(ServerNameSent::Name("a.test")).is_err(), "the third");
    eventually("it is counted", || edge.refused("client-connection-limit") == 1.0);
    drop(first);
    eventually("the place is free again", || {
        edge.try_connect(ServerNameSent::Name("a.test")).is_ok()
    });
}

#[test]
fn a_site_holds_no_more_connections_than_it_may() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = Setup::default()
        .site_with("a.test", origin.url(), "limits = { connections = 2 }")
        .site("b.test", origin.url())
        .start();
    let (first, _second) = (edge.connect("a.test"), edge.connect("a.test"));
    assert!(edge.try_connect(ServerNameSent::Name("a.test")).is_err(), "the third");
    assert_eq!(edge.get("b.test", "/").status(), 200, "another site has its own");
    eventually("it is counted", || {
        edge.metric("sluss_refused_total", &["a.test", "site-connection-limit"]) == 1.0
    });
    drop(first);
    eventually("the place is free again", || {
        edge.try_connect(ServerNameSent::Name("a.test")).is_ok()
    });
}

#[test]
fn more_new_connections_a_second_than_allowed_are_reset() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = Setup::default()
        .site_with("a.test", origin.url(), "limits = { handshakes_per_second = 3 }")
        .site("b.test", origin.url())
        .start();
    let connect = || edge.try_connect(ServerNameSent::Name("a.test"));
    let mut first = connect().expect("the first of a burst");
    let refused = (0..50).filter(|_| connect().is_err()).count();
    assert!(refused > 0, "the burst is three, and another one a third of a second later");
    eventually("each is counted", || {
        let labels = ["a.test", "handshake-rate"];
        edge.metric("sluss_refused_total", &labels) == refused as f64
    });
    assert_eq!(first.ask(get("a.test", "/")).status(), 200, "who is in stays in");
    assert_eq!(edge.get("b.test", "/").status(), 200, "another site has its own");
    eventually("later ones are let in", || connect().is_ok());
}

#[test]
fn more_requests_a_second_than_allowed_are_429s() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = limited(&origin, "requests_per_second = 2");
    let mut client = edge.connect("a.test");
    let together: String = (0..50).map(|_| get("a.test", "/")).collect();
    client.send(together);
    let responses: Vec<_> = (0..50).map(|_| client.response()).collect();
    assert_eq!(responses[0].status(), 200);
    let refused = responses.iter().find(|response| response.status() != 200).expect("a refusal");
    assert_eq!((refused.status(), refused.refused()), (429, Some("request-rate")));
    assert!(refused.field("retry-after").is_some());
    eventually("later ones are let in", || client.ask(get("a.test", "/")).status() == 200);
}
