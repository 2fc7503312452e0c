//! What RFC 9113 calls an error is one, of the kind it says. In the order of the RFC.
//!
//! A connection error may end the connection without its reason being read (5.4.1), and a stream
//! error may be treated as one of the connection (5.4.2); the reason is checked where it is told.

use crate::support::client::Client;
use crate::support::frames::{
    self, ACK, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, Frame, GOAWAY, HEADERS, PING, PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS,
    STREAM_CLOSED, WINDOW_UPDATE, block, frame, get_block, get_frame,
};
use crate::support::origin::ok;
use crate::support::{Edge, Origin, eventually};

/// Sends frames on a connection of its own: it must end, for one of these reasons.
#[track_caller]
fn ends(edge: &Edge, what: &str, sent: &[Vec<u8>], reasons: &[u32]) {
    let mut client = frames::open(edge, "a.test");
    client.send_what_is_taken(sent.iter().cloned());
    let reason = client.goodbye().unwrap_or_else(|| panic!("{what}: no reason is given"));
    assert!(reasons.contains(&reason), "{what}: ended with {reason}, expected {reasons:?}");
}

/// A stream that never ends at the site, so that it is open while the error comes.
fn open_stream(stream: u32) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test")];
    let fields = [&fields[..], &[(":path", "/")]].concat();
    frame(HEADERS, END_HEADERS, stream, block(&fields))
}

fn echoing() -> (Origin, Edge) {
    let origin = Origin::answering(|request| ok(&request.body));
    let edge = Edge::before(origin.url());
    (origin, edge)
}

/// 3.4: "Clients and servers MUST treat an invalid connection preface as a connection error".
#[test]
fn a_connection_begins_with_its_preface() {
    let (_origin, edge) = echoing();
    for preface in ["GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut client = frames::silent(&edge, "a.test");
        client.send(preface);
        client.send_what_is_taken([get_frame(1, "a.test", "/")]);
        while let Some(frame) = client.frame() {
            assert_ne!(frame.kind, HEADERS, "an answer to {preface:?}");
        }
    }
}

/// 4.1: "Implementations MUST ignore and discard frames of unknown types", and flags that nobody
/// knows; 5.5.
#[test]
fn what_is_unknown_is_ignored() {
    let (_origin, edge) = echoing();
    let mut client = frames::open(&edge, "a.test");
    client.send(frame(0x7f, 0xff, 0, [0; 100]));
    client.send(frame(0x7f, 0xff, 1, [0; 100]));
    client.send(frame(SETTINGS, 0, 0, [0xff, 0xff, 0, 0, 0, 1]));
    client.send(frame(PING, 0xfe, 0, [7; 8]));
    let pong = client.frame_where(|frame| frame.kind == PING).expect("an answer");
    assert_eq!((pong.flags & ACK, pong.payload), (ACK, vec![7; 8]));
    client.send(get_frame(1, "a.test", "/"));
    client.stream_data(1);
}

/// 4.2 and the lengths of 6.
#[test]
fn a_frame_has_the_size_of_its_kind() {
    let (_origin, edge) = echoing();
    let too_long = frame(HEADERS, END_HEADERS, 1, vec![0; 16_385]);
    ends(&edge, "HEADERS over SETTINGS_MAX_FRAME_SIZE", &[too_long], &[FRAME_SIZE_ERROR]);
    let data = frame(DATA, 0, 1, vec![0; 16_385]);
    ends(&edge, "DATA over it", &[open_stream(1), data], &[FRAME_SIZE_ERROR]);
    // h2 names every malformed frame of these kinds a PROTOCOL_ERROR; it ends the connection.
    let either = [FRAME_SIZE_ERROR, PROTOCOL_ERROR];
    for (what, wrong) in [
        ("PING", frame(PING, 0, 0, [0; 7])),
        ("SETTINGS", frame(SETTINGS, 0, 0, [0; 5])),
        ("SETTINGS with ACK", frame(SETTINGS, ACK, 0, [0; 6])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, [0, 0, 1])),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, [0; 3])),
        ("PRIORITY", frame(PRIORITY, 0, 1, [0; 4])),
    ] {
        ends(&edge, what, &[open_stream(1), wrong], &either);
    }
}

/// 4.3: "Field blocks MUST be transmitted as a contiguous sequence of frames"; 6.2, 6.10.
#[test]
fn nothing_stands_between_the_frames_of_a_field_block() {
    let (_origin, edge) = echoing();
    let begun = frame(HEADERS, END_STREAM, 1, get_block("a.test", "/"));
    for (what, between) in [
        ("DATA", frame(DATA, 0, 1, b"x")),
        ("another stream's HEADERS", get_frame(3, "a.test", "/")),
        ("PING", frame(PING, 0, 0, [0; 8])),
        ("another stream's CONTINUATION", frame(CONTINUATION, END_HEADERS, 3, [])),
        ("an unknown frame", frame(0x7f, 0, 1, [])),
    ] {
        ends(&edge, what, &[begun.clone(), between], &[PROTOCOL_ERROR]);
    }
    let alone = frame(CONTINUATION, END_HEADERS, 1, get_block("a.test", "/"));
    ends(&edge, "CONTINUATION behind nothing", &[alone], &[PROTOCOL_ERROR]);
    // h2 names it a PROTOCOL_ERROR.
    let reasons = [COMPRESSION_ERROR, PROTOCOL_ERROR];
    ends(&edge, "no HPACK", &[frame(HEADERS, END_HEADERS, 1, [0xff; 12])], &reasons);
}

/// 5.1: frames in a state that does not allow them.
#[test]
fn a_frame_needs_its_stream() {
    let (_origin, edge) = echoing();
    for (what, early) in [
        ("DATA", frame(DATA, 0, 1, b"x")),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, [0; 4])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1])),
    ] {
        ends(&edge, &format!("{what} on an idle stream"), &[early], &[PROTOCOL_ERROR]);
    }
    let mut client = frames::open(&edge, "a.test");
    client.send([get_frame(1, "a.test", "/"), frame(DATA, 0, 1, b"x")].concat());
    let reset = |frame: &Frame| [RST_STREAM, GOAWAY].contains(&frame.kind);
    let error = client.frame_where(reset).expect("an error").error();
    // h2 ends the connection, as 5.4.2 lets it, and names it a PROTOCOL_ERROR.
    let either = [STREAM_CLOSED, PROTOCOL_ERROR];
    assert!(either.contains(&error), "DATA behind the end of the request: {error}");
}

/// 5.1.1: identifiers are odd for clients, and only grow.
#[test]
fn streams_are_numbered_upwards_by_odd_numbers() {
    let (_origin, edge) = echoing();
    ends(&edge, "an even stream", &[get_frame(2, "a.test", "/")], &[PROTOCOL_ERROR]);
    let back = [get_frame(5, "a.test", "/"), get_frame(3, "a.test", "/")];
    ends(&edge, "a lower stream", &back, &[PROTOCOL_ERROR, STREAM_CLOSED]);
    let mut client = frames::open(&edge, "a.test");
    client.send(get_frame(1, "a.test", "/"));
    client.stream_data(1);
    client.send_what_is_taken([get_frame(1, "a.test", "/")]);
    let reset = |frame: &Frame| [RST_STREAM, GOAWAY].contains(&frame.kind);
    let error = client.frame_where(reset).expect("an error").error();
    assert!([PROTOCOL_ERROR, STREAM_CLOSED].contains(&error), "a stream again: {error}");
}

/// 6.1 to 6.9: which frames belong to a stream, which to the connection.
#[test]
fn a_frame_stands_on_the_stream_of_its_kind() {
    let (_origin, edge) = echoing();
    for (what, wrong) in [
        ("DATA on 0", frame(DATA, 0, 0, b"x")),
        ("HEADERS on 0", get_frame(0, "a.test", "/")),
        ("PRIORITY on 0", frame(PRIORITY, 0, 0, [0; 5])),
        ("RST_STREAM on 0", frame(RST_STREAM, 0, 0, [0; 4])),
        ("SETTINGS on 1", frame(SETTINGS, 0, 1, [])),
        ("PING on 1", frame(PING, 0, 1, [0; 8])),
        ("GOAWAY on 1", frame(GOAWAY, 0, 1, [0; 8])),
        ("PUSH_PROMISE by a client", frame(5, END_HEADERS, 1, [0, 0, 0, 2])),
    ] {
        ends(&edge, what, &[open_stream(1), wrong], &[PROTOCOL_ERROR]);
    }
}

/// 6.1, 6.2: padding that is longer than its frame.
#[test]
fn padding_fits_into_its_frame() {
    let (_origin, edge) = echoing();
    let data = frame(DATA, 8, 1, [5, 0, 0]);
    ends(&edge, "DATA", &[open_stream(1), data], &[PROTOCOL_ERROR]);
    ends(&edge, "HEADERS", &[frame(HEADERS, 8 | END_HEADERS, 1, [5, 0])], &[PROTOCOL_ERROR]);
}

/// 6.5.2: values out of range. h2 names the window's a PROTOCOL_ERROR, too.
#[test]
fn settings_are_within_their_range() {
    let (_origin, edge) = echoing();
    for (what, setting, reasons) in [
        ("ENABLE_PUSH 2", [0, 2, 0, 0, 0, 2], &[PROTOCOL_ERROR][..]),
        ("window 2^31", [0, 4, 0x80, 0, 0, 0], &[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ("frames of 16,383", [0, 5, 0, 0, 0x3f, 0xff], &[PROTOCOL_ERROR]),
        ("frames of 2^24", [0, 5, 1, 0, 0, 0], &[PROTOCOL_ERROR]),
    ] {
        ends(&edge, what, &[frame(SETTINGS, 0, 0, setting)], reasons);
    }
}

/// 6.9: an increment of nothing; 6.9.1: a window over 2^31 - 1; 6.9.2: data over the window.
#[test]
fn windows_are_kept() {
    let (_origin, edge) = echoing();
    let nothing = |stream| frame(WINDOW_UPDATE, 0, stream, [0; 4]);
    let most = |stream| frame(WINDOW_UPDATE, 0, stream, [0x7f, 0xff, 0xff, 0xff]);
    ends(&edge, "nothing, connection", &[nothing(0)], &[PROTOCOL_ERROR]);
    ends(&edge, "nothing, stream", &[open_stream(1), nothing(1)], &[PROTOCOL_ERROR]);
    ends(&edge, "too much, connection", &[most(0)], &[FLOW_CONTROL_ERROR]);
    let mut client = frames::open(&edge, "a.test");
    client.send([open_stream(1), most(1)].concat());
    let reset = client.frame_where(|frame| frame.kind == RST_STREAM).expect("a reset");
    assert_eq!((reset.stream, reset.error()), (1, FLOW_CONTROL_ERROR));
    // The site never answers, so nothing opens the window again.
    let silent = Origin::scripted(|mut connection| {
        connection.head();
        connection.exactly(usize::MAX); // Stays, and says nothing, until the edge closes.
    });
    let edge = Edge::before(silent.url());
    let data = frame(DATA, 0, 1, [0; 16_384]);
    let mut sent = vec![open_stream(1)];
    sent.extend(std::iter::repeat_n(data, 100));
    let mut client = frames::open(&edge, "a.test");
    client.send_what_is_taken(sent);
    let error = |frame: &Frame| {
        [RST_STREAM, GOAWAY].contains(&frame.kind) && frame.error() == FLOW_CONTROL_ERROR
    };
    assert!(client.frame_where(error).is_some(), "data over the window");
}

/// Whether the request is refused: reset, or answered with 400, or with it the connection. Returns
/// the kind of the frame that told.
#[track_caller]
fn is_malformed(client: &mut Client, what: &str) -> u8 {
    let end = |frame: &Frame| [HEADERS, RST_STREAM, GOAWAY].contains(&frame.kind);
    let end = client.frame_where(end).unwrap_or_else(|| panic!("{what}: no reason is given"));
    if end.kind != HEADERS {
        assert_eq!(end.error(), PROTOCOL_ERROR, "{what}");
        return end.kind;
    }
    // Behind changes of the table's size (RFC 7541 6.3) stands `:status: 400`, entry 12.
    let first = end.payload.iter().find(|byte| **byte & 0xe0 != 0x20);
    assert_eq!(first, Some(&0x8c), "{what}: answered otherwise than with 400");
    HEADERS
}

/// 8.1.1, 8.2, 8.3: a malformed request is an error of its stream and reaches no site.
#[test]
fn malformed_requests_reach_no_site() {
    let (origin, edge) = echoing();
    let method = (":method", "GET");
    let scheme = (":scheme", "https");
    let authority = (":authority", "a.test");
    let path = (":path", "/");
    let good = [method, scheme, authority, path];
    let with = |more: &[(&'static str, &'static str)]| [&good[..], more].concat();
    let cases = [
        ("upper case", with(&[("X-Upper", "1")])),
        ("Connection", with(&[("connection", "close")])),
        ("Keep-Alive", with(&[("keep-alive", "timeout=5")])),
        ("Proxy-Connection", with(&[("proxy-connection", "close")])),
        ("Transfer-Encoding", with(&[("transfer-encoding", "chunked")])),
        ("Upgrade", with(&[("upgrade", "h2c")])),
        ("TE", with(&[("te", "gzip")])),
        ("a pseudo-header behind a field", [&good[..3], &[("x", "1"), path]].concat()),
        ("a pseudo-header twice", with(&[path])),
        ("an unknown pseudo-header", with(&[(":color", "red")])),
        ("a response's pseudo-header", with(&[(":status", "200")])),
        ("no method", [scheme, authority, path].to_vec()),
        ("no scheme", [method, authority, path].to_vec()),
        ("no path", [method, scheme, authority].to_vec()),
        ("an empty path", [method, scheme, authority, (":path", "")].to_vec()),
        ("a field without a name", with(&[("", "1")])),
        ("a line break in a value", with(&[("x", "a\r\nb: c")])),
        ("a control byte in a value", with(&[("x", "a\x01")])),
        ("NUL in a value", with(&[("x", "a\0")])),
        ("a blank in a name", with(&[("x y", "1")])),
        ("a blank in the method", [(":method", "GET /x"), scheme, authority, path].to_vec()),
        ("a length and no body", with(&[("content-length", "3")])),
    ];
    let (mut unseen, mut answers) = (0, 0);
    for (what, fields) in cases {
        let mut client = frames::open(&edge, "a.test");
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&fields)));
        match is_malformed(&mut client, what) {
            HEADERS => answers += 1,
            _ => unseen += 1, // h2 makes some of them errors of the connection.
        }
    }
    assert_eq!(origin.accepted(), 0, "none of them");
    // Those of which h2 tells nobody, too.
    eventually("all are counted", || edge.refused("head-malformed") == f64::from(unseen + answers));
    let found = edge.metric("sluss_header_findings_total", &["rule=\"message-malformed\""]);
    assert_eq!(found, f64::from(unseen));
    let malformed = |line: &serde_json::Value| line["error.type"] == "head-malformed";
    edge.logged("a line of the access log", malformed);
}

/// 8.1: trailers are no less judged than heads, and what they end with them is told.
#[test]
fn malformed_trailers_end_the_connection_and_are_told() {
    let (_origin, edge) = echoing();
    for field in [("x", "a\x01"), ("X-Upper", "1"), ("", "1")] {
        let mut client = frames::open(&edge, "a.test");
        let post = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test")];
        let post = block(&[&post[..], &[(":path", "/")]].concat());
        client.send(frame(HEADERS, END_HEADERS, 1, post));
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&[field])));
        assert_ne!(is_malformed(&mut client, field.0), HEADERS);
    }
    eventually("all are counted", || edge.refused("head-malformed") == 3.0);
}

/// 8.1.1: the length that is told and the DATA that comes.
#[test]
fn a_body_has_the_length_it_was_said_to_have() {
    let (_origin, edge) = echoing();
    let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test")];
    let fields = [&fields[..], &[(":path", "/"), ("content-length", "3")]].concat();
    for (body, good) in [("abc", true), ("ab", false), ("abcd", false)] {
        let mut client = frames::open(&edge, "a.test");
        client.send(frame(HEADERS, END_HEADERS, 1, block(&fields)));
        client.send_what_is_taken([frame(DATA, END_STREAM, 1, body)]);
        match good {
            true => assert_eq!(client.stream_data(1), b"abc"),
            false => _ = is_malformed(&mut client, body),
        }
    }
}
