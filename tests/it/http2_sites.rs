//! Sites that speak HTTP/2 and say what they should not.

use std::sync::{Mutex, mpsc};

use crate::support::frames::{
    ACK, CANCEL, DATA, END_HEADERS, END_STREAM, HEADERS, NO_ERROR, SETTINGS, block, frame,
    get_frame, open, reset_frame,
};
use crate::support::{Edge, End, Origin, eventually, get};

/// A fake response, as it would be put behind a head that has no content.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";

/// A site over h2c that answers every request with the frames that `answer` makes for its stream.
fn site(answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Origin {
    Origin::scripted(move |mut connection| {
        connection.exactly(24);
        connection.send([frame(SETTINGS, 0, 0, []), frame(SETTINGS, ACK, 0, [])].concat());
        while let Some(request) = connection.frame_where(|frame| frame.kind == HEADERS) {
            if connection.try_send(answer(request.stream)).is_err() {
                return;
            }
        }
    })
}

fn edge(origin: &Origin) -> Edge {
    Edge::before(format!("h2c://{}", origin.address()))
}

/// A head that goes on, and a body.
fn head_and_content(stream: u32, fields: &[(&str, &str)], content: &str) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, block(fields));
    [head, frame(DATA, END_STREAM, stream, content)].concat()
}

/// How often a rule was found in answers, by action.
fn found(edge: &Edge, rule: &str, action: &str) -> u64 {
    let rows = edge.admin_json("/api/findings");
    let matching = rows.as_array().unwrap().iter().filter(|row| {
        row["direction"] == "response" && row["rule"] == rule && row["action"] == action
    });
    matching.map(|row| row["count"].as_u64().unwrap()).sum()
}

/// RFC 9112 6.3: to an HTTP/1 client the content would be the next response.
#[test]
fn content_behind_a_head_without_content_reaches_nobody() {
    for fields in [
        &[(":status", "204")][..],
        &[(":status", "304")],
        &[(":status", "304"), ("content-length", "42")],
    ] {
        let origin = site(move |stream| head_and_content(stream, fields, EVIL));
        let edge = edge(&origin);
        let mut client = edge.connect("a.test");
        for _ in 0..3 {
            let answer = client.ask(get("a.test", "/"));
            assert_eq!(answer.status().to_string(), fields[0].1);
        }
        assert_eq!(client.unread(), "");
        let mut client = open(&edge, "a.test");
        client.send(get_frame(1, "a.test", "/"));
        assert_eq!(client.stream_data(1), b"");
        eventually("each is found", || found(&edge, "body-forbidden", "repair") == 4);
    }
}

#[test]
fn content_of_an_answer_to_head_reaches_nobody() {
    let fields = [(":status", "200"), ("content-length", "42")];
    let origin = site(move |stream| head_and_content(stream, &fields, EVIL));
    let edge = edge(&origin);
    let mut client = edge.connect("a.test");
    for _ in 0..3 {
        client.send("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let head = client.head().expect("a head");
        assert_eq!((head.status(), head.field("content-length")), (200, Some("42")));
    }
    assert_eq!(client.unread(), "");
    eventually("each is found", || found(&edge, "body-forbidden", "repair") == 3);
}

/// RFC 9113 8.1: an empty DATA frame ends a stream as well as the head does.
#[test]
fn an_empty_frame_that_ends_a_stream_is_no_content() {
    let origin = site(|stream| head_and_content(stream, &[(":status", "204")], ""));
    let edge = edge(&origin);
    let mut client = edge.connect("a.test");
    for _ in 0..3 {
        assert_eq!(client.ask(get("a.test", "/")).status(), 204);
    }
    assert_eq!(edge.admin_json("/api/findings").as_array().unwrap().len(), 0);
}

/// RFC 9113 8.1.1: h2 refuses it and tells nobody why; it is told as what it is.
#[test]
fn a_malformed_answer_is_refused_and_told() {
    for fields in [
        &[(":status", "200"), ("content-length", "x")][..],
        &[(":status", "200"), ("X-Upper", "1")],
        &[(":status", "200"), ("x", "a\r\nb: c")],
        &[("x", "1")],
    ] {
        let origin = site(move |stream| head_and_content(stream, fields, "ok"));
        let edge = edge(&origin);
        let mut client = edge.connect("a.test");
        let answer = client.ask(get("a.test", "/"));
        assert_eq!((answer.status(), answer.refused()), (502, Some("upstream-head-malformed")));
        client.end();
        eventually("it is found", || found(&edge, "message-malformed", "refuse") == 1);
    }
}

#[test]
fn a_malformed_end_of_an_answer_is_told() {
    let origin = site(|stream| {
        let head = frame(HEADERS, END_HEADERS, stream, block(&[(":status", "200")]));
        let data = frame(DATA, 0, stream, "ok");
        let trailers = block(&[("X-Upper", "1")]);
        [head, data, frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers)].concat()
    });
    let edge = edge(&origin);
    let mut client = edge.connect("a.test");
    client.send(get("a.test", "/"));
    // The head may be refused with it.
    client.rest();
    eventually("it is found", || found(&edge, "message-malformed", "refuse") == 1);
}

/// RFC 9113 8.1: NO_ERROR may only follow a whole answer. To hyper it is the body's end at any place.
#[test]
fn an_answer_that_is_reset_in_its_middle_never_looks_whole() {
    for reason in [NO_ERROR, CANCEL] {
        let origin = site(move |stream| {
            let head = frame(HEADERS, END_HEADERS, stream, block(&[(":status", "200")]));
            [head, frame(DATA, 0, stream, "part"), reset_frame(stream, reason)].concat()
        });
        let edge = edge(&origin);
        let mut client = edge.connect("a.test");
        client.send(get("a.test", "/"));
        let answer = client.response();
        assert_ne!(answer.end, End::Whole, "{reason}");
        let line = edge.logged("its line", |line| line["url.path"] == "/");
        assert_eq!(line["error.type"], "upstream-closed", "{reason}");
    }
}

/// The same where the answer was whole: the site wants no more of the request.
#[test]
fn an_answer_that_is_reset_behind_its_end_is_whole() {
    let origin = site(|stream| {
        let whole = head_and_content(stream, &[(":status", "200")], "whole");
        [whole, reset_frame(stream, NO_ERROR)].concat()
    });
    let edge = edge(&origin);
    let mut client = edge.connect("a.test");
    for _ in 0..3 {
        assert_eq!(client.ask(get("a.test", "/")).text(), "whole");
    }
}

/// A client that resets its upload has not ended it, whatever reason it gives.
#[test]
fn an_upload_that_is_reset_in_its_middle_never_looks_whole() {
    for reason in [NO_ERROR, CANCEL] {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let origin = Origin::scripted(move |mut connection| {
            let head = connection.head().expect("a head");
            assert_eq!(head.field("transfer-encoding"), Some("chunked"));
            let (first, _) = connection.exactly("4\r\npart\r\n".len());
            tell.lock().unwrap().send(first).unwrap();
            tell.lock().unwrap().send(connection.exactly(usize::MAX).0).unwrap();
        });
        let edge = Edge::before(origin.url());
        let mut client = open(&edge, "a.test");
        let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test")];
        let fields = [&fields[..], &[(":path", "/")]].concat();
        client.send(frame(HEADERS, END_HEADERS, 1, block(&fields)));
        client.send(frame(DATA, 0, 1, "part"));
        assert_eq!(told.recv().unwrap(), b"4\r\npart\r\n");
        client.send(reset_frame(1, reason));
        let rest = told.recv().unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "", "no last chunk follows: {reason}");
    }
}
