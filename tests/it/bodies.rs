//! Bodies come through whole, whichever way they are framed, and cost no memory.

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::support::origin::ok;
use crate::support::wire::Wire;
use crate::support::{Edge, End, Origin, PATIENCE, eventually, pattern};

/// Over any buffer of the edge's and any TLS record.
const BODY_BYTES: usize = 3 * 1024 * 1024 + 17;

fn chunked(body: &[u8], size: usize, trailers: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    bytes
}

fn returning() -> Origin {
    Origin::answering(|request| ok(&request.body))
}

#[test]
fn a_counted_body_comes_through_both_ways() {
    let (origin, body) = (returning(), pattern(BODY_BYTES));
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for _ in 0..2 {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        let response = client.ask(&body);
        assert_eq!(response.end, End::Whole);
        assert!(response.body == body, "the body is the same");
    }
}

#[test]
fn a_chunked_body_comes_through_both_ways() {
    let origin = Origin::answering(|request| {
        assert_eq!(request.field("transfer-encoding"), Some("chunked"));
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        answer.extend_from_slice(&chunked(&request.body, 70_000, ""));
        answer
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for size in [1, 977, 65_536] {
        let body = pattern(if size == 1 { 2_000 } else { BODY_BYTES });
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        let response = client.ask(chunked(&body, size, ""));
        assert!(response.end == End::Whole && response.body == body, "in chunks of {size}");
    }
}

#[test]
fn a_body_that_ends_with_its_connection_is_chunked_for_the_client() {
    let origin = Origin::scripted(|mut connection| {
        connection.request().unwrap();
        connection.send("HTTP/1.1 200 OK\r\n\r\n");
        connection.send(pattern(100_000));
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for _ in 0..2 {
        let response = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(response.field("transfer-encoding"), Some("chunked"));
        assert!(response.end == End::Whole && response.body == pattern(100_000));
    }
}

#[test]
fn trailers_come_through_both_ways() {
    let origin = Origin::answering(|request| {
        assert_eq!(request.trailers, [("checksum".to_owned(), "1".to_owned())]);
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: status\r\n\r\n\
          2\r\nhi\r\n0\r\nStatus: fine\r\n\r\n"
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let response = client.ask(chunked(b"body", 4, "Checksum: 1\r\n"));
    assert_eq!((response.status(), response.text().as_str()), (200, "hi"));
    assert_eq!(response.trailers, [("status".to_owned(), "fine".to_owned())]);
}

#[test]
fn an_answer_may_come_before_the_body_is_whole() {
    let origin = Origin::scripted(|mut connection| {
        connection.head().unwrap();
        connection
            .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
        connection.rest();
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\nbegin");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (403, "no"));
}

/// Resident memory may grow by this much while a body many times as long waits for its reader:
/// socket buffers are the kernel's, ours are some tens of KiB.
const GROWTH_KIB_MAX: u64 = 8 * 1024;
const LONG_BYTES: usize = 64 * 1024 * 1024;

#[test]
fn a_download_waits_for_a_slow_reader_without_being_kept_in_memory() {
    let (finished, told) = mpsc::channel();
    let origin = Origin::scripted(move |mut connection| {
        connection.request().unwrap();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG_BYTES}\r\n\r\n"));
        let piece = pattern(1024 * 1024);
        for _ in 0..LONG_BYTES / piece.len() {
            connection.send(&piece);
        }
        finished.send(()).unwrap();
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let before = edge.resident_kib();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    let (mut taken, mut most) = (client.exactly(1).0.len(), 0);
    // A piece at a time, with a look at the edge between.
    let mut piece = vec![0; 256 * 1024];
    while taken < 8 * 1024 * 1024 {
        taken += client.stream.read(&mut piece).unwrap();
        most = most.max(edge.resident_kib());
    }
    assert!(told.try_recv().is_err(), "the site is held back");
    assert!(most - before.min(most) < GROWTH_KIB_MAX, "grew from {before} to {most} KiB");
    // `exactly` above may have read ahead; the rest counts that too.
    let (rest, end) = client.exactly(LONG_BYTES - taken);
    assert_eq!((rest.len(), end), (LONG_BYTES - taken, End::Whole));
    told.recv_timeout(PATIENCE).unwrap();
    let after = edge.resident_kib();
    assert!(after - before.min(after) < GROWTH_KIB_MAX, "grew from {before} to {after} KiB");
}

#[test]
fn an_upload_waits_for_a_slow_site_without_being_kept_in_memory() {
    let (go_on, told) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::scripted(move |mut connection: Wire<_>| {
        let head = connection.head().unwrap();
        assert_eq!(head.field("content-length"), Some(LONG_BYTES.to_string().as_str()));
        told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let (body, end) = connection.exactly(LONG_BYTES);
        assert_eq!(end, End::Whole);
        let expected = pattern(1024 * 1024);
        assert!(body.chunks(expected.len()).all(|piece| piece == expected));
        connection.send(ok("all of it"));
    });
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    let before = edge.resident_kib();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LONG_BYTES}\r\n\r\n"));
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let sender = thread::spawn(move || {
        let whole = pattern(1024 * 1024);
        for piece in (0..LONG_BYTES / whole.len()).flat_map(|_| whole.chunks(64 * 1024)) {
            client.send(piece);
            counted.fetch_add(1, Ordering::SeqCst);
        }
        client
    });
    let (mut most, mut last, mut same) = (0, 0, 0);
    eventually("the edge takes no more", || {
        most = most.max(edge.resident_kib());
        let now = sent.load(Ordering::SeqCst);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        now > 0 && same > 20
    });
    assert!(!sender.is_finished(), "the client is held back");
    assert!(most - before.min(most) < GROWTH_KIB_MAX, "grew from {before} to {most} KiB");
    go_on.send(()).unwrap();
    let mut client = sender.join().unwrap();
    assert_eq!(client.response().text(), "all of it");
}
