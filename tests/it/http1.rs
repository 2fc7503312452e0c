//! HTTP/1 in order and in kind: keep-alive, pipelining, heads without bodies, interim responses,
//! upgrades, and clients that leave.

use std::io::{Read as _, Write as _};

use crate::support::origin::{ok, serve};
use crate::support::websocket::{self, BINARY, CLOSE, TEXT};
use crate::support::{Edge, End, Origin, eventually, get, pattern};

#[test]
fn a_connection_serves_one_request_after_another() {
    let origin = Origin::answering(|request| ok(request.target()));
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for path in ["/one", "/two", "/three"] {
        let response = client.ask(get("a.test", path));
        assert_eq!((response.status(), response.text().as_str()), (200, path));
    }
    assert_eq!(origin.accepted(), 1, "and so does the one behind it");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let origin = Origin::answering(|request| ok(request.target()));
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let together: String = (0..20).map(|n| get("a.test", &format!("/{n}"))).collect();
    client.send(together);
    for n in 0..20 {
        assert_eq!(client.response().text(), format!("/{n}"));
    }
}

#[test]
fn a_head_in_single_bytes_is_one_request() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for byte in get("a.test", "/slowly").bytes() {
        client.send([byte]);
    }
    assert!(client.response().text().starts_with("GET /slowly HTTP/1.1\n"));
}

#[test]
fn a_head_request_gets_the_length_and_no_body() {
    let origin = Origin::answering(|request| match request.start.as_str() {
        "HEAD /x HTTP/1.1" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nafter",
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send("HEAD /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!((head.status(), head.field("content-length")), (200, Some("1234")));
    assert_eq!(client.ask(get("a.test", "/")).text(), "after");
}

#[test]
fn responses_that_never_have_a_body_keep_the_connection() {
    let origin = Origin::answering(|request| match request.target() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
        "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\nETag: \"x\"\r\n\r\n",
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nafter",
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    assert_eq!(client.ask(get("a.test", "/204")).status(), 204);
    assert_eq!(client.ask(get("a.test", "/304")).field("etag"), Some("\"x\""));
    assert_eq!(client.ask(get("a.test", "/")).text(), "after");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn an_http_1_0_client_is_answered_and_closed() {
    let origin =
        Origin::saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(head.field("transfer-encoding"), None, "a 1.0 client knows no chunks");
    assert_eq!(client.rest(), (b"hi".to_vec(), End::ClosedEarly));
}

#[test]
fn an_http_1_0_client_may_ask_to_stay() {
    let origin = Origin::answering(|request| ok(request.target()));
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for path in ["/1", "/2"] {
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.ask(request).text(), path);
    }
}

#[test]
fn a_client_that_says_close_is_closed() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let response = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!((response.field("connection"), response.text().as_str()), (Some("close"), "hi"));
    assert_eq!(client.end(), End::ClosedEarly);
}

#[test]
fn a_body_is_sent_once_the_site_says_continue() {
    let origin = Origin::scripted(|mut connection| {
        let head = connection.head().unwrap();
        assert_eq!(head.field("expect"), Some("100-continue"));
        connection.send("HTTP/1.1 100 Continue\r\n\r\n");
        let (body, _) = connection.exactly(5);
        connection.send(ok(body));
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send(
        "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(client.response().status(), 100);
    assert_eq!(client.ask("hello").text(), "hello");
}

#[test]
fn a_body_that_the_site_declines_is_never_sent() {
    let origin = Origin::scripted(|mut connection| {
        connection.head().unwrap();
        connection.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
        assert!(connection.rest().0.is_empty(), "no byte of the body came");
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send(
        "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(client.response().status(), 417);
    assert_eq!(client.end(), End::ClosedEarly, "the client may send the body or not");
}

#[test]
fn early_hints_arrive_before_the_response() {
    let origin = Origin::saying(
        "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone",
    );
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let hints = client.ask(get("a.test", "/"));
    assert_eq!(hints.status(), 103);
    assert_eq!(hints.field("link"), Some("</style.css>; rel=preload"));
    assert_eq!(client.response().text(), "done");
}

#[test]
fn an_upgrade_becomes_a_tunnel_both_ways() {
    let origin = Origin::scripted(|mut connection| {
        let head = connection.head().unwrap();
        assert_eq!(head.field("upgrade"), Some("websocket"));
        assert_eq!(head.field("sec-websocket-key"), Some("abc"));
        // The first bytes of the new protocol stand right behind the head.
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n!",
        );
        while let (byte, End::Whole) = connection.exactly(1) {
            connection.send([byte[0].to_ascii_uppercase()]);
        }
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let switched = client.ask(
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n",
    );
    assert_eq!((switched.status(), switched.field("upgrade")), (101, Some("websocket")));
    assert_eq!(client.exactly(1).0, b"!");
    for word in ["hello", "tunnel"] {
        client.send(word);
        assert_eq!(client.exactly(word.len()).0, word.to_uppercase().as_bytes());
    }
    drop(client);
    eventually("the end of the tunnel at the site", || origin.ended() == 1);
}

#[test]
fn a_websocket_carries_messages_both_ways() {
    let origin = Origin::scripted(|mut connection| {
        let request = connection.head().unwrap();
        websocket::echo(&mut connection, &request);
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let switched = client.ask(
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(switched.status(), 101);
    // Key and answer are those of RFC 6455 1.3.
    assert_eq!(switched.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let mask = Some([0x37, 0xfa, 0x21, 0x3d]);
    let long = pattern(100_000);
    let messages = [(TEXT, &b"Hello"[..]), (BINARY, &long), (TEXT, b""), (CLOSE, &[3, 232])];
    for (kind, payload) in messages {
        client.send(websocket::frame(kind, payload, mask));
        assert!(websocket::take(&mut client) == Some((kind, payload.to_vec())));
    }
    eventually("the end of the tunnel at the site", || origin.ended() == 1);
    client.half_close();
    assert_eq!(client.end(), End::ClosedEarly);
    let line = edge.logged("its line", |line| line["url.path"] == "/chat");
    assert_eq!(line["http.response.status_code"], 101);
}

#[test]
fn a_tunnel_that_the_site_ends_ends_for_the_client() {
    let origin = Origin::scripted(|mut connection| {
        connection.head().unwrap();
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbye",
        );
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let switched =
        client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(switched.status(), 101);
    assert_eq!(client.exactly(3).0, b"bye");
    // What has been a tunnel ends both ways once both sides have said so.
    client.half_close();
    assert_eq!(client.end(), End::ClosedEarly);
}

#[test]
fn a_client_that_has_said_its_last_word_still_gets_its_answer() {
    let origin = Origin::scripted(|mut connection| {
        connection.request().unwrap();
        connection.send(ok("late"));
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send_last(get("a.test", "/"));
    assert_eq!(client.response().text(), "late");
    assert_eq!(client.end(), End::ClosedEarly);
}

#[test]
fn a_client_that_leaves_cancels_the_work_upstream() {
    let origin = Origin::scripted(|mut connection| {
        connection.request().unwrap();
        // Reads until the edge gives up; nothing is ever answered.
        connection.rest();
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send(get("a.test", "/long"));
    eventually("the request at the site", || origin.accepted() == 1);
    drop(client);
    eventually("the end of the work upstream", || origin.ended() == 1);
    let line = edge.logged("a line for it", |line| line["url.path"] == "/long");
    assert_eq!(line["http.response.status_code"], 499);
    assert_eq!(line["error.type"], "client-gone");
}

#[test]
fn a_connection_whose_answer_was_abandoned_is_never_used_again() {
    let origin = Origin::scripted(|mut connection| {
        let request = connection.request().unwrap();
        if request.target() == "/long" {
            // Half an answer; what would follow belongs to nobody.
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf");
            connection.rest();
            return;
        }
        connection.send(ok("clean"));
        serve(connection, &|_: &_| ok("clean"));
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send(get("a.test", "/long"));
    assert_eq!(client.head().unwrap().status(), 200);
    assert_eq!(client.exactly(4).0, b"half");
    drop(client);
    eventually("the end of the half-read connection", || origin.ended() == 1);
    assert_eq!(edge.get("a.test", "/").text(), "clean");
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn bytes_behind_a_response_never_become_the_next_one() {
    let origin = Origin::answering(|request| match request.target() {
        "/first" => {
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\
                     Content-Length: 6\r\n\r\nforged"
        }
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal",
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    assert_eq!(client.ask(get("a.test", "/first")).text(), "ok");
    assert_eq!(client.ask(get("a.test", "/second")).text(), "real");
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_kept_connection_that_the_site_closed_costs_no_request() {
    let origin = Origin::scripted(|mut connection| {
        connection.request().unwrap();
        connection.send(ok("one each")); // And closes, without having said so.
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for _ in 0..5 {
        assert_eq!(client.ask(get("a.test", "/")).text(), "one each");
    }
    assert_eq!(origin.accepted(), 5);
}

#[test]
fn garbage_after_the_handshake_ends_the_connection() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let mut sent = client.stream.sock.try_clone().unwrap();
    sent.write_all(b"this is no TLS record at all").unwrap();
    let mut rest = Vec::new();
    let _ = client.stream.sock.read_to_end(&mut rest);
    assert_eq!(origin.accepted(), 0);
    assert_eq!(edge.get("a.test", "/").status(), 200, "others are served");
}

#[test]
fn the_body_of_a_refused_request_is_never_taken_for_the_next_one() {
    let origin = Origin::answering(|request| ok(request.target()));
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let body = get("a.test", "/smuggled");
    let head = format!("POST / HTTP/1.1\r\nHost: c.test\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(client.ask(head + &body).status(), 404);
    assert_eq!(client.ask(get("a.test", "/next")).text(), "/next");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_site_may_listen_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut connection = crate::support::wire::Wire::new(stream.unwrap());
            while let Some(request) = connection.request() {
                connection.send(ok(request.target()));
            }
        }
    });
    let edge = Edge::before(format!("unix:{}", path.display()));
    let mut client = edge.connect("a.test");
    for target in ["/one", "/two"] {
        assert_eq!(client.ask(get("a.test", target)).text(), target);
    }
}
