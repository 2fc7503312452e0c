//! Properties of screening, on made-up and on mutilated heads.

use proptest::prelude::*;

use super::*;

/// Pieces of heads, sound and broken; a made-up head is a row of them.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "OPTIONS * HTTP/1.0\r\n",
    "GET http://a.test/ HTTP/1.1\r\n",
    "Host: a.test\r\n",
    "host:b.test:81\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length : 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: x\r\n",
    "Connection: close\r\n",
    "Connection: upgrade, x-a\r\n",
    "Upgrade: websocket\r\n",
    "Expect: 100-continue\r\n",
    "X-A: b\r\n",
    "X_Forwarded_For: 1\r\n",
    "X-Forwarded-For: 1\r\n",
    "x: \x01\u{e4}\r\n",
    "Cookie: a=1\r\n",
    "Set-Cookie: a=1\r\n",
    "Content-Type: text/html\r\n",
    "Content-Type: x\r\n",
    "no colon\r\n",
    ": empty\r\n",
    "A B: c\r\n",
    " folded\r\n",
    "\tfolded: x\r\n",
    "Date: never\r\n",
    "\r\n",
    "\n",
    "\r",
    ":",
    " ",
    "\0",
    "Proxy: x\r\n",
    "x-tab: a\tb \r\n",
    "TE: trailers\r\n",
    "Keep-Alive: 1\r\n",
    "Server: x\n",
    "Via: 1.1 x\r\n",
];

fn made_up() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..12);
    let noise = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let starts = prop::sample::select(&PIECES[..7]);
    (starts, pieces, noise, any::<bool>()).prop_map(|(start, pieces, noise, ended)| {
        let mut bytes = [start.as_bytes(), pieces.concat().as_bytes()].concat();
        for (place, byte) in noise {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if ended {
            bytes.extend_from_slice(b"\r\n\r\n");
        }
        bytes
    })
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => made_up(), 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// What a call came to, comparable.
#[derive(Debug, PartialEq)]
enum Outcome {
    Partial,
    Complete(Vec<u8>, Vec<Finding>, usize),
    Refused(Vec<Finding>, Refusal, String),
}

type Judged = Result<Reading<Vec<u8>>, Box<Refused>>;

fn outcome(judged: Judged) -> Outcome {
    match judged {
        Ok(Reading::Partial(_)) => Outcome::Partial,
        Ok(Reading::Complete { screened, consumed }) => {
            Outcome::Complete(screened.head, screened.findings, consumed)
        }
        Err(refused) => Outcome::Refused(refused.findings, refused.reason, refused.start_line),
    }
}

fn canonical<H>(read: Reading<H>, text: impl Fn(&H) -> Vec<u8>) -> Reading<Vec<u8>> {
    match read {
        Reading::Partial(storage) => Reading::Partial(storage),
        Reading::Complete { screened: Screened { head, findings }, consumed } => {
            Reading::Complete { screened: Screened { head: text(&head), findings }, consumed }
        }
    }
}

fn judge(direction: Direction, policy: &Policy, input: &[u8], scan: &mut Scan) -> Outcome {
    let storage = Storage::default();
    outcome(match direction {
        Direction::Request => request(input, scan, policy, storage)
            .map(|read| canonical(read, RequestHead::canonical)),
        Direction::Response => response(input, scan, policy, RequestMethod::Get, storage)
            .map(|read| canonical(read, ResponseHead::canonical)),
    })
}

fn policies() -> [Policy; 3] {
    [Profile::Observe, Profile::Repair, Profile::Reject].map(|profile| {
        let spec = PolicySpec {
            requests: profile,
            responses: profile,
            shadow: Some(Profile::Reject),
            // Small, so that made-up heads reach the limits.
            head_bytes_max: 120,
            fields_max: 8,
            ..PolicySpec::default()
        };
        Policy::new(&spec).unwrap()
    })
}

proptest! {

    /// A canonical head has nothing to find and stays as it is.
    #[test]
    fn canonical_heads_are_clean_and_stay_as_they_are(input in anything()) {
        let policy = Policy::new(&PolicySpec {
            // Bytes above 0x7F are noted and forwarded, a bad type likewise: found again each time.
            rules: vec![(Rule::FieldValueObsText, Action::Repair), (Rule::DateInvalid, Action::Repair),
                        (Rule::ShadowedField, Action::Repair)],
            ..PolicySpec::default()
        }).unwrap();
        for direction in Direction::ALL {
            let first = judge(direction, &policy, &input, &mut Scan::default());
            if let Outcome::Complete(head, _, _) = first {
                let second = judge(direction, &policy, &head, &mut Scan::default());
                let odd_status = direction == Direction::Response && !(b'1'..b'6').contains(&head[9]);
                if !odd_status {
                    let len = head.len();
                    prop_assert_eq!(second, Outcome::Complete(head, vec![], len), "{}", input.escape_ascii());
                }
            }
        }
    }

    /// However the bytes arrive, the verdict is the same, down to the last finding.
    #[test]
    fn pieces_change_nothing(input in anything(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..6)) {
        for policy in policies().iter().chain([&Policy::default()]) {
            for direction in Direction::ALL {
                let whole = judge(direction, policy, &input, &mut Scan::default());
                let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
                ends.sort_unstable();
                ends.push(input.len());
                let mut scan = Scan::default();
                let mut pieces = Outcome::Partial;
                for end in ends {
                    pieces = judge(direction, policy, &input[..end], &mut scan);
                    if pieces != Outcome::Partial {
                        break;
                    }
                }
                prop_assert_eq!(pieces, whole, "{}", input.escape_ascii());
            }
        }
    }

    /// Byte by byte, too.
    #[test]
    fn single_bytes_change_nothing(input in anything()) {
        for direction in Direction::ALL {
            let policy = Policy::default();
            let whole = judge(direction, &policy, &input, &mut Scan::default());
            let mut scan = Scan::default();
            let pieces = (0..=input.len())
                .map(|end| judge(direction, &policy, &input[..end], &mut scan))
                .find(|outcome| *outcome != Outcome::Partial);
            prop_assert_eq!(pieces.unwrap_or(Outcome::Partial), whole);
        }
    }

    /// What is forwarded, another parser reads alike.
    #[test]
    fn what_is_forwarded_reads_alike_elsewhere(input in anything()) {
        let forward = Forward {
            client: &ClientText::new([192, 0, 2, 1].into(), 443, "https"), trusted: true,
            request_id: "i", host_header: None, keep_upgrade: true,
        };
        let read = request(&input, &mut Scan::default(), &Policy::default(), Storage::default());
        if let Ok(Reading::Complete { screened, .. }) = read {
            let mut out = Vec::new();
            screened.head.write_h1(&mut out, &forward);
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut fields);
            prop_assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
            prop_assert_eq!(parsed.method, Some(screened.head.method()));
            prop_assert_eq!(parsed.path, Some(screened.head.target()));
            let count = |name: &str| parsed.headers.iter().filter(|field| field.name == name).count();
            prop_assert_eq!(count("host"), 1);
            prop_assert!(count("content-length") + count("transfer-encoding") <= 1);
            let values = |name: &str| -> Vec<&[u8]> {
                parsed.headers.iter().filter(|field| field.name == name).map(|field| field.value).collect()
            };
            for (name, value) in screened.head.fields().filter(|(name, _)| !name.starts_with("x-") && *name != "forwarded") {
                prop_assert!(values(name).contains(&value), "{} {:?}", name, value);
            }
            prop_assert!(screened.head.to_h2(&forward, "http").is_ok());
        }
        let to = ResponseTo { version: Version::H11, close: false, chunked: true, request_id: None };
        let read = response(&input, &mut Scan::default(), &Policy::default(), RequestMethod::Get, Storage::default());
        if let Ok(Reading::Complete { screened, .. }) = read {
            let mut out = Vec::new();
            screened.head.write_h1(&mut out, &to);
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Response::new(&mut fields);
            prop_assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
            prop_assert_eq!(parsed.code, Some(screened.head.status()));
            let count = |name: &str| parsed.headers.iter().filter(|field| field.name == name).count();
            prop_assert!(count("content-length") + count("transfer-encoding") <= 1);
            prop_assert!(screened.head.to_h2(None).is_ok());
        }
    }

    /// The same rules over HTTP/2 let nothing through that HTTP/1 could not carry.
    #[test]
    fn field_lists_become_sound_heads(
        fields in prop::collection::vec((prop::sample::select(&[
            ":method", ":path", ":scheme", ":authority", ":x", "host", "Host", "te", "x-a", "content-length",
            "transfer-encoding", "connection", "cookie", "a b", "", "expect", "upgrade", "x_forwarded_for",
        ][..]), prop::sample::select(&[
            "GET", "/", "https", "a.test", "5", "trailers", "", "x\r\nHost: b", "\u{e4}", " x", "a\0", "chunked", "*",
        ][..])), 0..12),
        end_stream in any::<bool>(),
    ) {
        let start = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")];
        let list = start.iter().chain(&fields).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let policy = Policy::default();
        if let Ok(screened) = request_list(list, end_stream, &policy, Storage::default()) {
            let head = screened.head.canonical();
            let again = judge(Direction::Request, &policy, &head, &mut Scan::default());
            let is_same = matches!(&again, Outcome::Complete(same, _, _) if *same == head);
            prop_assert!(is_same, "{:?} {}", again, head.escape_ascii());
        }
    }

    /// A decoder never panics, and pieces change nothing.
    #[test]
    fn chunks_in_pieces_are_the_same(input in "[0-9a-f;=\" \r\nx]{0,60}", cut in any::<prop::sample::Index>()) {
        let input = input.as_bytes();
        let run = |ends: &[usize]| {
            let (mut decoder, mut content, mut start) = (chunk::Chunked::default(), Vec::new(), 0);
            for end in ends {
                loop {
                    match decoder.step(&input[start..*end]) {
                        Err(malformed) => return (content, format!("error {}", start + malformed.at)),
                        Ok(chunk::ChunkStep::NeedMore { consumed }) => { start += consumed; break }
                        Ok(chunk::ChunkStep::Data { skip, len }) => {
                            content.extend_from_slice(&input[start + skip..start + skip + len]);
                            start += skip + len;
                        }
                        Ok(chunk::ChunkStep::End { skip }) => return (content, format!("end {}", start + skip)),
                        Ok(chunk::ChunkStep::Trailers { skip }) => return (content, format!("trailers {}", start + skip)),
                    }
                }
            }
            (content, "more".to_owned())
        };
        prop_assert_eq!(run(&[input.len()]), run(&[cut.index(input.len() + 1), input.len()]));
    }
}
