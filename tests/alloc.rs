//! A clean head costs no allocation: neither to screen nor to write, whole or in pieces. Alone in
//! its file and without the test harness, whose own thread allocates when it likes: the counting
//! allocator counts for the whole process.

#![expect(clippy::unwrap_used, reason = "a head that cannot be read fails the test")]

use std::alloc::System;

use sluss::screen::{
    ClientText, Forward, Policy, Profile, Reading, RequestMethod, ResponseTo, Scan, Storage,
    Version, request, response,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] = b"GET /articles/2026/11/header-screening?utm_source=feed HTTP/1.1\r\n\
Host: www.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Connection: keep-alive\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
Content-Length: 5\r\n\
\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Date: Mon, 23 Nov 2026 10:00:00 GMT\r\n\
Content-Length: 1024\r\n\
Set-Cookie: a=1\r\n\
Set-Cookie: b=2\r\n\
Content-Type: text/html; charset=utf-8\r\n\
\r\n";

/// Screens and writes a request that arrives in pieces that end at `ends`.
fn screen_request(
    policy: &Policy,
    client: &ClientText,
    ends: &[usize],
    room: (Storage, &mut Vec<u8>),
) -> Storage {
    let forward = Forward {
        client,
        trusted: false,
        request_id: "0123456789abcdef",
        host_header: None,
        keep_upgrade: false,
    };
    let (mut storage, out) = room;
    let mut scan = Scan::default();
    for end in ends {
        match request(&REQUEST[..*end], &mut scan, policy, storage).unwrap() {
            Reading::Partial(back) => storage = back,
            Reading::Complete { screened, .. } => {
                assert!(screened.findings.is_empty());
                out.clear();
                screened.head.write_h1(out, &forward);
                return screened.head.into_storage();
            }
        }
    }
    unreachable!("the last piece is the whole head");
}

fn screen_response(policy: &Policy, (storage, out): (Storage, &mut Vec<u8>)) -> Storage {
    let to = ResponseTo { version: Version::H11, close: false, chunked: false, request_id: None };
    let read = response(RESPONSE, &mut Scan::default(), policy, RequestMethod::Get, storage);
    let Reading::Complete { screened, .. } = read.unwrap() else { unreachable!("a whole head") };
    assert!(screened.findings.is_empty());
    out.clear();
    screened.head.write_h1(out, &to);
    screened.head.into_storage()
}

fn main() {
    clean_heads_cost_no_allocation();
    println!("test clean_heads_cost_no_allocation ... ok");
}

fn clean_heads_cost_no_allocation() {
    let shadowed = sluss::screen::PolicySpec {
        shadow: Some(Profile::Reject),
        ..sluss::screen::PolicySpec::default()
    };
    let policy = Policy::new(&shadowed).unwrap();
    let client = ClientText::new([192, 0, 2, 1].into(), 443, "https");
    let (mut storage, mut out) = (Storage::default(), Vec::new());
    let ends: [&[usize]; 3] =
        [&[REQUEST.len()], &[1, 30, 70, 200, REQUEST.len()], &[REQUEST.len() - 1, REQUEST.len()]];
    let mut round = |storage| {
        let storage = ends.iter().fold(storage, |storage, ends| {
            screen_request(&policy, &client, ends, (storage, &mut out))
        });
        screen_response(&policy, (storage, &mut out))
    };
    // The first round makes the room that all others use.
    storage = round(storage);
    let region = Region::new(ALLOCATOR);
    for _ in 0..100 {
        storage = round(storage);
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
    drop(storage);
}
