//! Frames of HTTP/2 by which a client makes work and gets nothing done (RFC 9113 10.5): each such
//! flood ends its connection with ENHANCE_YOUR_CALM, and no other.

use crate::support::frames::{
    self, ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS,
    PING, PRIORITY, SETTINGS, WINDOW_UPDATE, block, frame, get_frame, reset_frame,
};
use crate::support::origin::ok;
use crate::support::{Edge, Origin, eventually};

/// Far above every bound, and little enough to be sent in one go.
const MANY: usize = 5_000;

/// Whether each of these floods ends its connection so, is counted once and logged.
#[track_caller]
fn check(name: &str, frames: impl IntoIterator<Item = Vec<u8>>) {
    let origin = Origin::scripted(|mut connection| {
        connection.request();
        connection.rest(); // Never answers.
    });
    let edge = Edge::before(origin.url());
    let mut client = frames::open(&edge, "a.test");
    client.send_what_is_taken(frames);
    assert_eq!(client.goodbye(), Some(ENHANCE_YOUR_CALM), "{name}");
    eventually("it is counted", || edge.refused("http2-flood") == 1.0);
    let line = edge.logged("its line", |line| line["error.type"] == "http2-flood");
    assert_eq!(line["client.address"], "127.0.0.1");
    eventually("nothing is left at the site", || origin.accepted() == origin.ended());
}

#[test]
fn a_flood_of_pings_is_ended() {
    check("pings", std::iter::repeat_n(frame(PING, 0, 0, [0; 8]), MANY));
    check("their answers", std::iter::repeat_n(frame(PING, ACK, 0, [0; 8]), MANY));
}

#[test]
fn a_flood_of_settings_is_ended() {
    check("empty", std::iter::repeat_n(frame(SETTINGS, 0, 0, []), MANY));
    let table_size = [0, 1, 0, 0, 0, 0];
    check("header table", std::iter::repeat_n(frame(SETTINGS, 0, 0, table_size), MANY));
}

#[test]
fn a_flood_of_priorities_is_ended() {
    check("priorities", (0..MANY as u32).map(|n| frame(PRIORITY, 0, 2 * n + 1, [0, 0, 0, 0, 9])));
}

#[test]
fn a_flood_of_frames_that_nobody_knows_is_ended() {
    check("unknown", std::iter::repeat_n(frame(0xbe, 0, 0, []), MANY));
}

#[test]
fn a_flood_of_window_updates_is_ended() {
    check("connection", std::iter::repeat_n(frame(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1]), MANY));
    let on_a_stream = std::iter::repeat_n(frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]), MANY);
    check("stream", std::iter::once(get_frame(1, "a.test", "/")).chain(on_a_stream));
}

#[test]
fn a_flood_of_empty_data_is_ended() {
    let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test")];
    let head = block(&[&fields[..], &[(":path", "/")]].concat());
    let begun = std::iter::once(frame(HEADERS, END_HEADERS, 1, head));
    check("empty data", begun.chain(std::iter::repeat_n(frame(DATA, 0, 1, []), MANY)));
}

#[test]
fn a_header_block_that_never_ends_is_ended() {
    let begun = std::iter::once(frame(HEADERS, END_STREAM, 1, []));
    check("continuation", begun.chain(std::iter::repeat_n(frame(CONTINUATION, 0, 1, []), MANY)));
}

/// CVE-2023-44487: each request is begun and thrown away.
#[test]
fn a_flood_of_resets_is_ended() {
    let pair = |n: u32| {
        let stream = 2 * n + 1;
        [get_frame(stream, "a.test", "/"), reset_frame(stream, CANCEL)].concat()
    };
    check("resets", (0..MANY as u32).map(pair));
}

/// The same by a client that waits until each request has been taken up: h2 alone lets it go on.
#[test]
fn a_patient_flood_of_resets_is_ended() {
    let origin = Origin::scripted(|mut connection| {
        connection.request();
        connection.rest();
    });
    let edge = Edge::before(origin.url());
    let mut client = frames::open(&edge, "a.test");
    let mut resets = 0;
    while resets < MANY as u32 {
        let stream = 2 * resets + 1;
        let asked = [get_frame(stream, "a.test", "/"), frame(PING, 0, 0, [0; 8])].concat();
        if client.try_send(asked).is_err() {
            break;
        }
        let heard = |frame: &frames::Frame| frame.kind == PING && frame.flags == ACK;
        if client.frame_where(heard).is_none() {
            break;
        }
        if client.try_send(reset_frame(stream, CANCEL)).is_err() {
            break;
        }
        resets += 1;
    }
    assert!((100..400).contains(&resets), "{resets} resets");
    eventually("it is counted", || edge.refused("http2-flood") == 1.0);
    eventually("nothing is left at the site", || origin.accepted() == origin.ended());
}

/// CVE-2025-8671: the client makes the edge reset each, by opening the window too far.
#[test]
fn a_flood_of_provoked_resets_is_ended() {
    let pair = |n: u32| {
        let stream = 2 * n + 1;
        let too_far = frame(WINDOW_UPDATE, 0, stream, [0x7f, 0xff, 0xff, 0xff]);
        [get_frame(stream, "a.test", "/"), too_far].concat()
    };
    check("provoked", (0..MANY as u32).map(pair));
}

/// More of everything than the allowance, each frame for its purpose.
#[test]
fn a_client_that_gets_something_done_may_go_on() {
    let body = vec![b'x'; 64 * 1024];
    let origin = Origin::answering(move |request| match request.target() {
        "/long" => ok(&body),
        _ => ok("hi"),
    });
    let edge = Edge::before(origin.url());
    let mut client = frames::open(&edge, "a.test");
    for n in 0..1_000 {
        let stream = 2 * n + 1;
        client.send(frame(PING, 0, 0, [0; 8]));
        client.send(frame(PRIORITY, 0, stream, [0, 0, 0, 0, 9]));
        client.send(get_frame(stream, "a.test", "/short"));
        assert_eq!(client.stream_data(stream), b"hi");
        client.send(frame(WINDOW_UPDATE, 0, 0, [0, 0, 0, 2]));
    }
    for n in 1_000..1_050 {
        let stream = 2 * n + 1;
        client.send(get_frame(stream, "a.test", "/long"));
        // A reader that says of every KiB it has taken that there is room again, twice.
        let mut taken = 0;
        while taken < 64 * 1024 {
            let frame = client.frame_where(|frame| frame.kind == DATA).expect("it goes on");
            taken += frame.payload.len();
            for _ in 0..frame.payload.len().div_ceil(1024) {
                client.send(frames::frame(WINDOW_UPDATE, 0, stream, [0, 0, 4, 0]));
                client.send(frames::frame(WINDOW_UPDATE, 0, 0, [0, 0, 4, 0]));
            }
        }
    }
    assert_eq!(edge.refused("http2-flood"), 0.0);
}

/// Leaving a page resets what is open; that is no flood.
#[test]
fn a_client_may_change_its_mind() {
    let origin = Origin::answering(|request| match request.target() {
        "/never" => Vec::new(),
        _ => ok("hi"),
    });
    let edge = Edge::before(origin.url());
    let mut client = frames::open(&edge, "a.test");
    let mut stream = 1;
    for _page in 0..5 {
        let first = stream;
        for _ in 0..15 {
            client.send(get_frame(stream, "a.test", "/never"));
            stream += 2;
        }
        for open in (first..stream).step_by(2) {
            client.send(reset_frame(open, CANCEL));
        }
        client.send(get_frame(stream, "a.test", "/"));
        assert_eq!(client.stream_data(stream), b"hi");
        stream += 2;
    }
    assert_eq!(edge.refused("http2-flood"), 0.0);
}
