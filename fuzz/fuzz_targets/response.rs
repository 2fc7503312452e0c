//! Response heads: pieces change nothing, canonical heads stay, httparse reads alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluss_fuzz::screen::{
    Policy, Reading, RequestMethod, ResponseHead, ResponseTo, Scan, Storage, Version, response,
};
use sluss_fuzz::{check, outcome};

fuzz_target!(|data: &[u8]| {
    check(data, |input, scan, policy| {
        let to = RequestMethod::Get;
        outcome(response(input, scan, policy, to, Storage::default()), ResponseHead::canonical)
    });
    let (policy, storage) = (Policy::default(), Storage::default());
    let read = response(data, &mut Scan::default(), &policy, RequestMethod::Get, storage);
    let Ok(Reading::Complete { screened, .. }) = read else { return };
    let to = ResponseTo { version: Version::H11, close: false, chunked: true, request_id: None };
    let mut out = Vec::new();
    screened.head.write_h1(&mut out, &to);
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut parsed = httparse::Response::new(&mut fields);
    assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
    assert_eq!(parsed.code, Some(screened.head.status()));
    let count = |name: &str| parsed.headers.iter().filter(|field| field.name == name).count();
    assert!(count("content-length") + count("transfer-encoding") <= 1);
    assert!(screened.head.to_h2(None).is_ok());
});
