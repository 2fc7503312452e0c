//! No head costs more than in proportion to its length, however it is made. Thirty-two short heads
//! are compared with one as long as all of them: what grows with the square of the length would
//! make it thirty-two times as dear. Both take as long as each other, so a busy machine harms both.

use std::time::{Duration, Instant};

use sluss::screen::{Policy, PolicySpec, RequestMethod, Scan, Storage, request, response};

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

fn cost(bytes: &[u8], times: usize, policy: &Policy) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        let scan = &mut Scan::default();
        if bytes.starts_with(b"HTTP/") {
            let _ = response(bytes, scan, policy, RequestMethod::Get, Storage::default());
        } else {
            let _ = request(bytes, scan, policy, Storage::default());
        }
    }
    begun.elapsed()
}

#[test]
fn no_head_costs_more_than_in_proportion_to_its_length() {
    let spec = PolicySpec { head_bytes_max: 1 << 20, fields_max: 10_000, ..PolicySpec::default() };
    let policy = Policy::new(&spec).unwrap();
    for start in [&b"GET / HTTP/1.1\r\n"[..], b"HTTP/1.1 200 OK\r\n"] {
        for front in FRONTS {
            for piece in PIECES {
                let short = head(start, (front, piece), LONG / TIMES);
                let long = head(start, (front, piece), LONG);
                // Ever more of each, so that one slow moment cannot fill all tries.
                let is_in_proportion = |more| {
                    cost(&long, more, &policy) < cost(&short, more * TIMES, &policy) * RATIO_MAX
                };
                let made = [start, front, piece].concat();
                assert!((1..=TRIES_MAX).any(is_in_proportion), "{}", made.escape_ascii());
            }
        }
    }
}
