//! Sessions resumed by clients that others wrote: over a reload, at another edge, never elsewhere.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;

use rustls::{ClientConnection, StreamOwned};

use crate::support::authority::authority;
use crate::support::client::Client;
use crate::support::origin::ok;
use crate::support::tools::tool;
use crate::support::wire::Wire;
use crate::support::{Edge, Origin, Setup, eventually, get};

/// Made at one edge and offered at others.
const SESSIONS: usize = 20;

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// One request by openssl, which reads until the edge closes: tickets come after the handshake.
/// Whether the session was resumed; `None` where there is no openssl.
#[track_caller]
fn is_resumed(edge: &Edge, name: &str, version: &str, session: [&str; 2]) -> Option<bool> {
    let mut openssl = tool("openssl")?;
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    edge.write("request", &request);
    openssl
        .args(["s_client", "-ign_eof", "-connect", &edge.https[0].to_string()])
        .args(["-servername", name, version])
        .args(session)
        .stdin(File::open(edge.folder().join("request")).unwrap());
    let output = openssl.output().expect("openssl runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("HTTP/1.1 200"), "{name}, {version}: {text} {told}");
    let (new, reused) = (text.contains("\nNew, "), text.contains("\nReused, "));
    assert!(new != reused, "{name}, {version}: {text}");
    Some(reused)
}

/// Tickets that have come, once the next of the edge's bytes are here; one read.
fn tickets(client: &mut Client) -> u32 {
    let stream = &mut client.stream;
    stream.conn.read_tls(&mut stream.sock).expect("the edge sends something");
    stream.conn.process_new_packets().expect("it is TLS");
    stream.conn.tls13_tickets_received()
}

#[test]
fn a_ticket_comes_to_a_client_that_asks_for_nothing() {
    let edge = Edge::before(Origin::echo().url());
    assert_eq!(tickets(&mut edge.connect("a.test")), 1);
}

#[test]
fn a_ticket_comes_in_one_piece_with_the_response() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let mut stream = edge.tcp();
    let name = "a.test".try_into().unwrap();
    let config = Arc::new(authority().client(&["http/1.1"]));
    let mut connection = ClientConnection::new(config, name).unwrap();
    connection.write_tls(&mut stream).unwrap();
    while connection.is_handshaking() {
        connection.read_tls(&mut stream).unwrap();
        connection.process_new_packets().unwrap();
    }
    connection.writer().write_all(get("a.test", "/").as_bytes()).unwrap();
    // Its Finished and the request.
    let mut last = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut last).unwrap();
    }
    stream.write_all(&last).unwrap();
    let mut client = Wire::new(StreamOwned::new(connection, stream));
    assert_eq!(tickets(&mut client), 1);
    assert!(!client.stream.conn.wants_read(), "the response is here already");
    assert_eq!(client.response().status(), 200);
}

/// Where a session of that version is kept.
fn session_file(edge: &Edge, version: &str) -> String {
    edge.folder().join(format!("session{version}")).display().to_string()
}

#[test]
fn a_session_resumes_after_a_reload_but_not_at_another_site() {
    let origin = Origin::answering(|_| ok("hi"));
    let edge = Setup::default().site("a.test", origin.url()).site("b.test", origin.url()).start();
    for version in VERSIONS {
        let file = session_file(&edge, version);
        let Some(first) = is_resumed(&edge, "a.test", version, ["-sess_out", &file]) else {
            return;
        };
        assert!(!first, "{version}");
        edge.issue("b.test");
        assert_eq!(edge.command("reload").0, 0);
        let then = |name| is_resumed(&edge, name, version, ["-sess_in", &file]);
        assert_eq!(then("a.test"), Some(true), "{version}: after a reload");
        assert_eq!(then("b.test"), Some(false), "{version}: at another site");
        edge.issue("a.test");
        assert_eq!(edge.command("reload").0, 0);
        assert_eq!(then("a.test"), Some(true), "{version}: after its certificate was renewed");
    }
}

#[test]
fn a_session_resumes_at_another_edge_with_the_same_ticket_keys_alone() {
    let origin = Origin::answering(|_| ok("hi"));
    let edge = |secret: &str| {
        let setup = Setup::default().set("certificates.ticket_keys", "\"ticket.keys\"");
        setup.write("ticket.keys", &format!("{}\n", secret.repeat(64)));
        setup.site("a.test", origin.url()).site("b.test", origin.url()).start()
    };
    let (first, second, stranger) = (edge("A"), edge("A"), edge("B"));
    for version in VERSIONS {
        for session in 1..=SESSIONS {
            let file = session_file(&first, &format!("{version}-{session}"));
            let made = is_resumed(&first, "a.test", version, ["-sess_out", &file]);
            if made.is_none() {
                return;
            }
            let at = |edge, name| is_resumed(edge, name, version, ["-sess_in", &file]);
            assert_eq!(at(&second, "a.test"), Some(true), "{version}: at the other edge");
            assert_eq!(at(&second, "b.test"), Some(false), "{version}: at its other site");
            assert_eq!(at(&stranger, "a.test"), Some(false), "{version}: with other keys");
        }
    }
}

#[test]
fn ninety_five_in_a_hundred_resume_around_a_reload() {
    let origin = Origin::answering(|_| ok("hi"));
    let edge = Edge::before(origin.url());
    let resumed = || edge.metric("sluss_handshakes_total", &["result=\"ok\"", "resumed=\"true\""]);
    let load = Command::new(env!("CARGO_BIN_EXE_sluss"))
        .args([
            "load",
            &format!("https://a.test:{}/", edge.https[0].port()),
            "--insecure",
            "--json",
        ])
        .args(["--connect", &edge.https[0].to_string(), "--duration", "2s"])
        .args(["--traffic", "kind=resumed,rate=20,then=request"])
        .stdout(File::create(edge.folder().join("report.json")).unwrap())
        .spawn();
    let mut load = load.unwrap();
    eventually("half of them", || resumed() >= 10.0 || load.try_wait().unwrap().is_some());
    edge.issue("a.test");
    let (reloaded, report) = edge.command("reload");
    let before = resumed();
    // 3: on a crowded machine the generator may be late itself.
    assert!(matches!(load.wait().unwrap().code(), Some(0 | 3)));
    assert_eq!(reloaded, 0, "{report}");
    assert!(resumed() > before, "the reload came too late");
    let report = std::fs::read_to_string(edge.folder().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let traffic = &report["traffics"][0];
    let completed = traffic["outcomes"]["completed"].as_f64().unwrap_or_default();
    let share = traffic["resumed"].as_f64().unwrap_or_default() / completed;
    assert!(completed >= 38.0 && share >= 0.95, "{traffic}");
}

#[test]
fn a_handshake_gets_as_many_tickets_as_the_operator_says() {
    let origin = Origin::answering(|_| ok("hi"));
    let config = Arc::new(authority().client(&[]));
    for tickets in [0, 1, 3] {
        let edge = Setup::default()
            .set("certificates.tickets", &tickets.to_string())
            .site("a.test", origin.url())
            .start();
        let name = "a.test".try_into().unwrap();
        let connection = ClientConnection::new(config.clone(), name).unwrap();
        let mut stream = StreamOwned::new(connection, edge.tcp());
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(b"hi"));
        assert_eq!(stream.conn.tls13_tickets_received(), tickets);
    }
}
