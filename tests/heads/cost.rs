//! No head costs more than in proportion to its length, however it is made. Thirty-two short heads
//! are compared with one as long as all of them: what grows with the square of the length would
//! make it thirty-two times as dear. Both take as long as each other, so a busy machine harms both.

use std::time::Instant;

use sluss::screen::chunk::{ChunkStep, Chunked};
use sluss::screen::{
    Direction, Policy, PolicySpec, RequestMethod, Scan, Storage, request, request_list, response,
    trailers,
};

const TIMES: usize = 32;
const LONG: usize = 96 << 10;

/// Far from `TIMES`, and from 1: a finding about a long field reads it once more to redact it.
const RATIO_MAX: u32 = 11;

/// Comparisons until one is believed: a slow moment is not taken for a slow head.
const TRIES_MAX: usize = 20;

/// Pieces of which a whole head is made.
const PIECES: &[&[u8]] = &[
    b"A: b\r\n",
    b"A : b\r\n",
    b"A B: c\r\n",
    b"A_B: c\r\n",
    b"no colon\r\n",
    b": no name\r\n",
    b"a: b\r\n c\r\n",
    b" folded\r\n",
    b" \r\n",
    b"x",
    b" ",
    b":",
    b"\r",
    b"\t\r\n",
    b"a: b\n",
    b"a: \x01\x02\r\n",
    b"a: \xff\r\n",
    b"x-a,",
    b"Connection: x-a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Type: x\r\n",
    b"Cookie: a=1\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: a.test\r\n",
    b"Transfer-Encoding\r\n",
    b"Upgrade: websocket\r\n",
    b"X-Forwarded-For: 192.0.2.1\r\n",
];

/// Fronts that give the pieces another meaning.
const FRONTS: &[&[u8]] = &[b"", b"Connection: ", b"A: b\r\n ", b"Host: a.test\r\nX: "];

fn head(start: &[u8], (front, piece): (&[u8], &[u8]), len: usize) -> Vec<u8> {
    [start, front, &piece.repeat(len / piece.len()), b"\r\n\r\n"].concat()
}

/// Long and short, each a way to spend time on it. Ever more of each try, so that one slow moment
/// cannot fill all of them.
#[track_caller]
fn in_proportion(long: impl Fn(), short: impl Fn(), name: &[u8]) {
    let time = |work: &dyn Fn(), times| {
        let begun = Instant::now();
        (0..times).for_each(|_| work());
        begun.elapsed()
    };
    let holds = |more| time(&long, more) < time(&short, more * TIMES) * RATIO_MAX;
    assert!((1..=TRIES_MAX).any(holds), "{}", name.escape_ascii());
}

fn policy() -> Policy {
    let spec = PolicySpec { head_bytes_max: 1 << 20, fields_max: 10_000, ..PolicySpec::default() };
    Policy::new(&spec).unwrap()
}

#[test]
fn no_head_costs_more_than_in_proportion_to_its_length() {
    let policy = policy();
    let read = |bytes: &[u8]| {
        let scan = &mut Scan::default();
        if bytes.starts_with(b"HTTP/") {
            let _ = response(bytes, scan, &policy, RequestMethod::Get, Storage::default());
        } else {
            let _ = request(bytes, scan, &policy, Storage::default());
        }
    };
    for start in [&b"GET / HTTP/1.1\r\n"[..], b"HTTP/1.1 200 OK\r\n"] {
        for front in FRONTS {
            for piece in PIECES {
                let short = head(start, (front, piece), LONG / TIMES);
                let long = head(start, (front, piece), LONG);
                in_proportion(|| read(&long), || read(&short), &[start, front, piece].concat());
            }
        }
    }
}

#[test]
fn no_trailers_cost_more_than_in_proportion_to_their_length() {
    let policy = policy();
    let read = |bytes: &[u8]| {
        let _ = trailers(bytes, &mut Scan::default(), &policy, Direction::Request);
    };
    for piece in PIECES {
        let short = head(b"", (b"", piece), LONG / TIMES);
        let long = head(b"", (b"", piece), LONG);
        in_proportion(|| read(&long), || read(&short), piece);
    }
}

#[test]
fn no_field_list_costs_more_than_in_proportion_to_its_length() {
    let policy = policy();
    let sound =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")];
    let read = |piece: (&str, &str), times: usize| {
        let fields = sound.into_iter().chain(std::iter::repeat_n(piece, times));
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let _ = request_list(fields, true, &policy, Storage::default());
    };
    for piece in [
        ("a", "b"),
        ("A b", "c"),
        ("a_b", "c"),
        ("", "x"),
        (":path", "/"),
        ("x-a", "\u{1}\u{2}"),
        ("connection", "x-a"),
        ("content-length", "5"),
        ("cookie", "a=1"),
        ("expect", "100-continue"),
        ("host", "a.test"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        let times = LONG / 32;
        in_proportion(|| read(piece, times), || read(piece, times / TIMES), piece.0.as_bytes());
    }
}

#[test]
fn no_chunks_cost_more_than_in_proportion_to_their_length() {
    let read = |bytes: &[u8]| {
        let (mut decoder, mut at) = (Chunked::default(), 0);
        while let Ok(ChunkStep::Data { skip, len }) = decoder.step(&bytes[at..]) {
            at += skip + len;
        }
    };
    for piece in [
        &b"1\r\na\r\n"[..],
        b"01;x=y\r\na\r\n",
        b"1;x=\"y\"\r\na\r\n",
        b"10\r\n0123456789abcdef\r\n",
    ] {
        let (short, long) = (piece.repeat(LONG / TIMES / 8), piece.repeat(LONG / 8));
        in_proportion(|| read(&long), || read(&short), piece);
    }
}
