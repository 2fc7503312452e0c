//! The doors: which certificate a server name gets, plain HTTP on either port, who a client is.

use std::io::Write as _;

use crate::support::client::{ServerNameSent, handshake, tcp};
use crate::support::wire::Wire;
use crate::support::{Edge, End, Origin, Setup, eventually, get};

#[test]
fn a_name_is_found_exactly_then_by_wildcard() {
    let origin = Origin::echo();
    let edge = Setup::default()
        .site("a.test", origin.url())
        .site("*.wild.test", origin.url())
        .site("own.wild.test", origin.url())
        .start();
    let exact = edge.connect("own.wild.test").certificate();
    let wild = edge.connect("other.wild.test").certificate();
    assert_ne!(exact, wild);
    assert_eq!(edge.connect("third.wild.test").certificate(), wild);
    assert_eq!(edge.get("other.wild.test", "/").status(), 200);
    assert!(edge.try_connect(ServerNameSent::Name("two.labels.wild.test")).is_err());
}

#[test]
fn a_name_that_no_site_has_gets_the_alert_for_it() {
    let edge = Edge::before(Origin::echo().url());
    for name in [ServerNameSent::Name("unknown.test"), ServerNameSent::None("a.test")] {
        let error = edge.try_connect(name).map(drop).expect_err("no handshake");
        assert!(error.to_string().contains("UnrecognisedName"), "{name:?}: {error}");
    }
    eventually("both are counted", || edge.refused("unknown-server-name") == 2.0);
    assert_eq!(edge.connect("a.test").ask(get("c.test", "/")).status(), 404, "others are served");
}

/// The site is there, its certificate was broken at the start.
#[test]
fn a_site_without_a_certificate_gets_the_alert_for_it() {
    let origin = Origin::echo();
    let setup = Setup::default().site("a.test", origin.url()).site("b.test", origin.url());
    setup.write("certs/b.test/fullchain.pem", "");
    let edge = setup.start();
    let refused = edge.try_connect(ServerNameSent::Name("b.test")).map(drop);
    let error = refused.expect_err("no handshake").to_string();
    assert!(error.contains("InternalError"), "{error}");
    eventually("it is counted at its site", || {
        let labels = [r#"site="b.test""#, r#"reason="no-certificate""#];
        edge.metric("sluss_refused_total", &labels) == 1.0
    });
    assert_eq!(edge.get("a.test", "/").status(), 200, "the others are served");
}

#[test]
fn the_default_certificate_greets_clients_without_a_name() {
    let origin = Origin::echo();
    let edge = Setup::default()
        .set("certificates.default", r#""a.test""#)
        .site("a.test", origin.url())
        .start();
    let mut client = edge.try_connect(ServerNameSent::None("a.test")).unwrap();
    assert_eq!(client.ask(get("a.test", "/")).status(), 200);
}

#[test]
fn plain_http_on_the_tls_port_is_redirected() {
    let edge = Edge::before(Origin::echo().url());
    let port = edge.https[0].port();
    let mut client = Wire::new(edge.tcp());
    let response = client.ask(get("a.test", "/x?y=1"));
    assert_eq!(response.status(), 308);
    let expected = format!("https://a.test:{port}/x?y=1");
    assert_eq!(response.field("location"), Some(expected.as_str()));
    assert_eq!(client.end(), End::ClosedEarly);
    eventually("it is counted", || edge.refused("plain-http") == 1.0);
    let line = edge.logged("its line", |line| line["http.response.status_code"] == 308);
    assert_eq!(line["error.type"], "plain-http");
}

/// What is not redirected has its own reason, and that alone.
#[test]
fn plain_http_on_the_tls_port_is_refused_for_one_reason() {
    let origin = Origin::echo();
    let edge = Setup::default().set("timeouts.hello", r#""1s""#).site("a.test", origin.url());
    let edge = edge.start();
    for (head, status, reason) in [
        ("GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow", 408, "head-timeout"),
        ("GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", 400, "head-malformed"),
    ] {
        let response = Wire::new(edge.tcp()).ask(head);
        assert_eq!((response.status(), response.refused()), (status, Some(reason)));
        eventually("it is counted", || edge.refused(reason) == 1.0);
    }
    assert_eq!(edge.refused("plain-http"), 0.0);
}

#[test]
fn nobody_is_redirected_to_a_host_that_no_site_has() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    for address in [edge.https[0], edge.http[0]] {
        for path in ["/", "/.well-known/acme-challenge/token"] {
            let response = Wire::new(tcp(address)).ask(get("evil.example", path));
            assert_eq!((response.status(), response.refused()), (404, Some("unknown-host")));
            assert_eq!(response.field("location"), None);
        }
    }
    eventually("they are counted", || edge.refused("unknown-host") == 4.0);
    assert_eq!((edge.refused("plain-http"), origin.accepted()), (0.0, 0));
}

#[test]
fn the_plain_port_redirects_and_lets_acme_through() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let port = edge.https[0].port();
    for (path, location) in [("/x?y=1", "/x?y=1"), ("//evil.test/", "//evil.test/")] {
        let mut client = Wire::new(tcp(edge.http[0]));
        let response = client.ask(get("a.test", path));
        let expected = format!("https://a.test:{port}{location}");
        assert_eq!((response.status(), response.field("location")), (308, Some(expected.as_str())));
    }
    assert_eq!(origin.accepted(), 0);
    let mut client = Wire::new(tcp(edge.http[0]));
    let challenge = client.ask(get("a.test", "/.well-known/acme-challenge/token"));
    assert_eq!(challenge.status(), 200);
    assert!(challenge.text().contains("x-forwarded-proto: http\n"), "{}", challenge.text());
}

#[test]
fn bytes_that_are_no_hello_are_hung_up_on() {
    let edge = Edge::before(Origin::echo().url());
    let mut stream = edge.tcp();
    stream.write_all(b"\x80\x2e\x01\x00\x02 an SSLv2 hello").unwrap();
    assert_eq!(Wire::new(stream).end(), End::Cut);
    let mut stream = edge.tcp();
    stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    assert_eq!(Wire::new(stream).end(), End::Cut);
    eventually("they are counted", || edge.refused("hello-malformed") == 2.0);
    assert_eq!(edge.refused("plain-http"), 0.0);
}

/// The site sees the client that the header names, and only from a trusted network.
#[test]
fn the_proxy_protocol_names_the_client_from_a_trusted_network() {
    let origin = Origin::echo();
    let edge = Setup::default()
        .set("listen.proxy_protocol_from", r#"["127.0.0.0/8"]"#)
        .site("a.test", origin.url())
        .start();
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend_from_slice(&[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb]);
    for header in [v1, v2] {
        let mut stream = edge.tcp();
        stream.write_all(&header).unwrap();
        let mut client = handshake(stream, ServerNameSent::Name("a.test")).unwrap();
        let seen = client.ask(get("a.test", "/")).text();
        assert!(seen.contains("\nx-forwarded-for: 192.0.2.7\n"), "{seen}");
    }
    assert!(edge.try_connect(ServerNameSent::Name("a.test")).is_err(), "it must be sent");
    eventually("its lack is counted", || edge.refused("proxy-header") == 1.0);
}

#[test]
fn a_proxy_header_from_elsewhere_is_no_hello() {
    let edge = Edge::before(Origin::echo().url());
    let mut stream = edge.tcp();
    stream.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n").unwrap();
    assert!(handshake(stream, ServerNameSent::Name("a.test")).is_err());
}

#[test]
fn forwarding_fields_are_ours_and_a_clients_own_are_dropped() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
                   X-Forwarded-Proto: gopher\r\nForwarded: for=6.6.6.6\r\nX-Request-Id: forged\r\n\
                   Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\r\n";
    let response = edge.connect("a.test").ask(request);
    let seen = response.text();
    let port = edge.https[0].port();
    for expected in [
        "host: a.test\n".to_owned(),
        "x-forwarded-for: 127.0.0.1\n".to_owned(),
        "x-forwarded-proto: https\n".to_owned(),
        "x-forwarded-host: a.test\n".to_owned(),
        format!("x-forwarded-port: {port}\n"),
        "via: 1.1 sluss\n".to_owned(),
        format!("x-request-id: {}\n", response.field("x-request-id").unwrap()),
    ] {
        assert!(seen.contains(&format!("\n{expected}")), "{expected:?} in {seen}");
    }
    assert!(seen.contains("\nforwarded: "), "{seen}");
    for dropped in ["6.6.6.6", "gopher", "forged", "x-hop", "keep-alive"] {
        assert!(!seen.contains(dropped), "{dropped:?} in {seen}");
    }
}

/// RFC 9110 7.6.2: for whom an OPTIONS or TRACE is, and only these.
#[test]
fn max_forwards_is_counted_down() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let ask = |method: &str, value: &str| {
        let head = format!("{method} / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: {value}\r\n\r\n");
        edge.connect("a.test").ask(head)
    };
    for (method, value, seen) in [
        ("OPTIONS", "7", "6"),
        ("TRACE", "1", "0"),
        ("GET", "1", "1"),
        ("GET", "0", "0"),
        ("OPTIONS", "many", "many"),
    ] {
        let text = ask(method, value).text();
        assert!(text.contains(&format!("\nmax-forwards: {seen}\n")), "{method} {value}: {text}");
    }
    for method in ["OPTIONS", "TRACE"] {
        let response = ask(method, "0");
        assert_eq!((response.status(), response.refused()), (501, Some("max-forwards")));
    }
}

#[test]
fn a_trusted_proxys_fields_are_kept_and_extended() {
    let origin = Origin::echo();
    let edge = Setup::default()
        .set("listen.trusted_proxies", r#"["127.0.0.1/32"]"#)
        .site("a.test", origin.url())
        .start();
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.1\r\n\
                   X-Request-Id: from-outside\r\n\r\n";
    let response = edge.connect("a.test").ask(request);
    let seen = response.text();
    assert!(seen.contains("\nx-forwarded-for: 192.0.2.1, 127.0.0.1\n"), "{seen}");
    assert!(seen.contains("\nx-request-id: from-outside\n"), "{seen}");
    assert_eq!(response.field("x-request-id"), Some("from-outside"));
}

#[test]
fn a_site_may_be_asked_under_another_name() {
    let origin = Origin::echo();
    let edge =
        Setup::default().site_with("a.test", origin.url(), r#"host_header = "inner.test""#).start();
    let seen = edge.get("a.test", "/").text();
    assert!(seen.contains("\nhost: inner.test\n"), "{seen}");
    assert!(seen.contains("\nx-forwarded-host: a.test\n"), "{seen}");
}
