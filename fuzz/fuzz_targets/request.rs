//! Request heads: pieces change nothing, canonical heads stay, httparse reads alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluss_fuzz::screen::{ClientText, Forward, Policy, Reading, RequestHead, Scan, Storage, request};
use sluss_fuzz::{check, outcome};

fuzz_target!(|data: &[u8]| {
    check(data, |input, scan, policy| {
        outcome(request(input, scan, policy, Storage::default()), RequestHead::canonical)
    });
    let read = request(data, &mut Scan::default(), &Policy::default(), Storage::default());
    let Ok(Reading::Complete { screened, .. }) = read else { return };
    let forward = Forward {
        client: &ClientText::new([192, 0, 2, 1].into(), 443, "https"),
        trusted: true,
        request_id: "id",
        host_header: None,
        keep_upgrade: true,
    };
    let mut out = Vec::new();
    screened.head.write_h1(&mut out, &forward);
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut parsed = httparse::Request::new(&mut fields);
    assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
    assert_eq!(parsed.method, Some(screened.head.method()));
    assert_eq!(parsed.path, Some(screened.head.target()));
    let count = |name: &str| parsed.headers.iter().filter(|field| field.name == name).count();
    assert_eq!(count("host"), 1);
    assert!(count("content-length") + count("transfer-encoding") <= 1);
    assert!(screened.head.to_h2(&forward, "https").is_ok());
});
