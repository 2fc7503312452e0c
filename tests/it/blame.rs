//! Which site's rules judge a request, and in whose findings its defects stand.

use std::collections::BTreeSet;

use crate::support::frames::{END_HEADERS, END_STREAM, HEADERS, block, frame, open};
use crate::support::{Edge, Origin, Setup, eventually};

/// Two sites on one certificate: `a.test` repairs, `rej.test` refuses what is odd.
fn two_sites(origin: &Origin) -> Edge {
    let setup = Setup::default();
    for (host, requests) in [("a.test", "repair"), ("rej.test", "reject")] {
        let text = format!(
            "hosts = [\"{host}\"]\nupstreams = [\"{}\"]\nheaders = {{ requests = \"{requests}\" }}\n\
             certificate = \"both\"\n",
            origin.url()
        );
        setup.write(&format!("sites/{}.toml", host.split('.').next().unwrap()), &text);
    }
    setup.issue("both", &["a.test", "rej.test"]);
    setup.start()
}

/// Site, rule and action of every finding so far.
fn told(edge: &Edge) -> BTreeSet<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let rows = edge.admin_json("/api/findings");
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(&row["site"]), text(&row["rule"]), text(&row["action"]))).collect()
}

#[track_caller]
fn is_told(edge: &Edge, expected: &[(&str, &str, &str)]) {
    let expected: BTreeSet<_> = expected
        .iter()
        .map(|(site, rule, action)| ((*site).to_owned(), (*rule).to_owned(), (*action).to_owned()))
        .collect();
    eventually(&format!("{expected:?} is told"), || told(edge) == expected);
}

/// RFC 9110 7.4: a connection carries requests for every host of its certificate.
#[test]
fn the_hosts_site_judges_and_is_told_not_the_server_names() {
    let origin = Origin::echo();
    let edge = two_sites(&origin);
    let odd = |host: &str| format!("GET / HTTP/1.1\r\nX: \u{e4}\r\nHost: {host}\r\n\r\n");
    assert_eq!(edge.connect("rej.test").ask(odd("a.test")).status(), 200);
    is_told(&edge, &[("a", "field-value-obs-text", "note")]);
    assert_eq!(edge.connect("a.test").ask(odd("rej.test")).status(), 400);
    let expected =
        [("a", "field-value-obs-text", "note"), ("rej", "field-value-obs-text", "refuse")];
    is_told(&edge, &expected);
}

#[test]
fn over_http_2_the_hosts_site_judges_and_is_told_too() {
    let origin = Origin::echo();
    let edge = two_sites(&origin);
    let status = |name: &str, host: &str, path: &str| {
        let fields =
            [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)];
        let mut client = open(&edge, name);
        let head = block(&[&fields[..], &[("x", "\u{e4}")]].concat());
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head));
        client.stream_data(1)
    };
    assert!(status("rej.test", "a.test", "/").starts_with(b"GET / HTTP/1.1"));
    is_told(&edge, &[("a", "field-value-obs-text", "note")]);
    assert!(String::from_utf8_lossy(&status("a.test", "rej.test", "/")).contains("400 Bad"));
    let expected =
        [("a", "field-value-obs-text", "note"), ("rej", "field-value-obs-text", "refuse")];
    is_told(&edge, &expected);
}

/// What the edge answers itself is no less odd.
#[test]
fn requests_that_reach_no_site_are_found_odd_as_well() {
    let origin = Origin::echo();
    let edge = two_sites(&origin);
    let odd = "GET / HTTP/1.1\r\nX=1\r\nHost: a.test\r\n\r\n";
    let unknown = odd.replace("a.test", "nobody.test");
    assert_eq!(edge.connect("a.test").ask(unknown).status(), 404);
    is_told(&edge, &[("", "field-no-colon", "repair")]);
    let last = odd.replace("GET", "OPTIONS").replace("X=1", "X=1\r\nMax-Forwards: 0");
    assert_eq!(edge.connect("a.test").ask(last).status(), 501);
    let both = [("", "field-no-colon", "repair"), ("a", "field-no-colon", "repair")];
    is_told(&edge, &both);

    let edge = two_sites(&origin);
    let mut plain = crate::support::wire::Wire::new(crate::support::client::tcp(edge.http[0]));
    assert_eq!(plain.ask(odd).status(), 308);
    is_told(&edge, &[("a", "field-no-colon", "repair")]);
}

/// The rest of a body is read to keep the connection; what is odd in it is told.
#[test]
fn a_malformed_chunk_behind_an_early_answer_is_told() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        connection.rest();
    });
    let edge = two_sites(&origin);
    let mut client = edge.connect("a.test");
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.response().text(), "ok");
    client.send("5\nhello");
    is_told(&edge, &[("a", "chunk", "refuse")]);
    assert_eq!(edge.get("a.test", "/").text(), "ok");
}
