//! HTTP/2 field lists: what is let through is a sound HTTP/1 head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluss_fuzz::screen::{
    Policy, RequestHead, RequestMethod, Scan, Storage, request, request_list, response_list,
};
use sluss_fuzz::{Outcome, outcome, thorough};

/// Each name may be one of these, or what the input says.
const NAMES: &[&str] = &[
    ":method", ":path", ":scheme", ":authority", ":status", "host", "te", "content-length",
    "transfer-encoding", "connection", "cookie", "expect", "upgrade", "x_forwarded_for", "Host",
];

fuzz_target!(|data: &[u8]| {
    let [options, input @ ..] = data else { return };
    let mut fields: Vec<(&[u8], &[u8])> = Vec::new();
    if options & 1 == 0 {
        let sound = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
        fields.extend(sound.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    }
    for line in input.split(|b| *b == 0xfe) {
        let at = line.iter().position(|b| *b == 0xfd).unwrap_or(line.len());
        let (name, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        let name = match name {
            [index] => NAMES.get(usize::from(*index)).map_or(name, |name| name.as_bytes()),
            _ => name,
        };
        fields.push((name, value));
    }
    let (policy, end) = (thorough(), options & 2 == 0);
    let list = || fields.iter().copied();
    if let Ok(screened) = request_list(list(), end, &policy, Storage::default()) {
        let head = screened.head.canonical();
        let len = head.len();
        let again = request(&head, &mut Scan::default(), &policy, Storage::default());
        let expects = screened.head.expects_continue();
        let again = outcome(again, RequestHead::canonical);
        // An HTTP/2 stream may expect 100 and then have no content; HTTP/1 may not.
        if !expects {
            assert_eq!(again, Outcome::Complete(head, Vec::new(), len));
        }
    }
    let _ = response_list(list(), (RequestMethod::Get, end), &Policy::default(), Storage::default());
});
