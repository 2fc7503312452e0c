//! What is forwarded, read by parsers that know nothing of sluss: httparse, hyper (a server and a
//! client, over memory) and the reader in `strict`. All of them must see the message that screening
//! saw, and behind it the one that follows.

use std::cell::RefCell;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use sluss::screen::{
    ClientText, Forward, Framing, Policy, Reading, RequestHead, RequestMethod, ResponseHead,
    ResponseTo, Scan, Storage, Version, request, response,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::strict::{self, Ends};

/// Follows each request: whoever sees another end of the request does not see this.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: next.test\r\n\r\n";

/// Longer content is not sent: the head is compared all the same.
const CONTENT_BYTES_MAX: u64 = 4096;

/// hyper's and the tests' bound.
const FIELDS_MAX: usize = 90;

/// A message as some parser saw it: start, fields by name, content.
#[derive(Debug, PartialEq)]
struct Seen {
    start: String,
    fields: Vec<(String, Vec<u8>)>,
    content: Vec<u8>,
}

impl Seen {
    fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        start: String,
        fields: impl IntoIterator<Item = (N, V)>,
        content: &[u8],
    ) -> Seen {
        let field = |(name, value): (N, V)| {
            let name = String::from_utf8_lossy(name.as_ref()).to_ascii_lowercase();
            (name, value.as_ref().trim_ascii().to_vec())
        };
        let mut fields: Vec<_> = fields.into_iter().map(field).collect();
        // Fields of one name keep their order.
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        Seen { start, fields, content: content.to_vec() }
    }
}

fn content(ends: Ends) -> (Vec<u8>, Vec<u8>) {
    match ends {
        Ends::Length(length) => (vec![b'x'; length], vec![b'x'; length]),
        Ends::Chunked => (b"abc".to_vec(), b"3\r\nabc\r\n0\r\n\r\n".to_vec()),
        Ends::Close => (b"to the end".to_vec(), b"to the end".to_vec()),
    }
}

/// Whether all parsers see this request alike.
pub fn check_request(input: &[u8]) {
    let read = request(input, &mut Scan::default(), &Policy::default(), Storage::default());
    let Ok(Reading::Complete { screened, .. }) = read else { return };
    let forward = Forward {
        client: &ClientText::new([192, 0, 2, 1].into(), 443, "https"),
        trusted: true,
        request_id: "id",
        host_header: None,
        keep_upgrade: false,
    };
    let head: RequestHead = screened.head;
    let mut bytes = Vec::new();
    head.write_h1(&mut bytes, &forward);
    let ends = match head.framing() {
        Framing::None => Ends::Length(0),
        Framing::Length(length) if length > CONTENT_BYTES_MAX => return,
        Framing::Length(length) => Ends::Length(length as usize),
        Framing::Chunked => Ends::Chunked,
        Framing::Stream | Framing::UntilClose => panic!("HTTP/1 requests have a framing"),
    };
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut parsed = httparse::Request::new(&mut fields);
    assert_eq!(parsed.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
    let (text, wire) = content(ends);
    let start = format!("{} {}", head.method(), head.target());
    assert_eq!(format!("{} {}", parsed.method.unwrap(), parsed.path.unwrap()), start);
    let sent = Seen::new(start, parsed.headers.iter().map(|f| (f.name, f.value)), &text);

    bytes.extend_from_slice(&wire);
    bytes.extend_from_slice(NEXT);
    let seen = strict::request(&bytes).unwrap_or_else(|e| panic!("{e}: {}", bytes.escape_ascii()));
    let start = String::from_utf8(seen.start).unwrap();
    let start = start.strip_suffix(" HTTP/1.1").unwrap().to_owned();
    assert_eq!(Seen::new(start, seen.fields, &seen.content), sent);
    assert_eq!(seen.rest, NEXT);

    // hyper refuses some targets that others take; it reads none of them otherwise.
    if sent.fields.len() < FIELDS_MAX && head.target().parse::<hyper::Uri>().is_ok() {
        let seen = by_hyper_server(&bytes);
        assert_eq!(seen.len(), 2, "{}", bytes.escape_ascii());
        assert_eq!((&seen[0], seen[1].start.as_str()), (&sent, "GET /next"));
    }
}

/// Whether all parsers see this response alike.
pub fn check_response(input: &[u8]) {
    let (scan, policy) = (&mut Scan::default(), &Policy::default());
    let read = response(input, scan, policy, RequestMethod::Get, Storage::default());
    let Ok(Reading::Complete { screened, .. }) = read else { return };
    let head: ResponseHead = screened.head;
    let to = ResponseTo { version: Version::H11, close: false, chunked: true, request_id: None };
    let mut bytes = Vec::new();
    head.write_h1(&mut bytes, &to);
    let ends = strict::response_end(&bytes).unwrap_or_else(|e| panic!("{e}"));
    if matches!(ends, Ends::Length(length) if length as u64 > CONTENT_BYTES_MAX) {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut parsed = httparse::Response::new(&mut fields);
    assert_eq!(parsed.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!(parsed.code, Some(head.status()));
    let (text, wire) = content(ends);
    let start = head.status().to_string();
    let sent = Seen::new(start.clone(), parsed.headers.iter().map(|f| (f.name, f.value)), &text);

    bytes.extend_from_slice(&wire);
    let seen = strict::response(&bytes).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(seen.rest, b"");
    assert_eq!(Seen::new(start, seen.fields, &seen.content), sent);

    // An interim response is no answer to hyper's client.
    if sent.fields.len() < FIELDS_MAX && head.status() >= 200 {
        assert_eq!(by_hyper_client(&bytes), sent, "{}", bytes.escape_ascii());
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// The requests that a hyper server sees in these bytes.
fn by_hyper_server(bytes: &[u8]) -> Vec<Seen> {
    let seen = RefCell::new(Vec::new());
    let see = async |request: hyper::Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let content = body.collect().await?.to_bytes();
        let start = format!("{} {}", parts.method, parts.uri);
        seen.borrow_mut().push(Seen::new(start, &parts.headers, &content));
        Ok::<_, hyper::Error>(hyper::Response::new(Empty::<Bytes>::new()))
    };
    block_on(async {
        let (mut client, server) = duplex(1 << 20);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut builder = hyper::server::conn::http1::Builder::new();
        let service = hyper::service::service_fn(&see);
        // How the connection ends does not matter: what was seen on it does.
        let _ = builder.half_close(true).serve_connection(TokioIo::new(server), service).await;
    });
    seen.into_inner()
}

/// The response that a hyper client sees in these bytes.
fn by_hyper_client(bytes: &[u8]) -> Seen {
    block_on(async {
        let (client, server) = duplex(1 << 20);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
        let asked = async {
            let request = hyper::Request::get("/").body(Empty::<Bytes>::new()).unwrap();
            let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
            let content = body.collect().await.unwrap().to_bytes();
            Seen::new(parts.status.as_u16().to_string(), &parts.headers, &content)
        };
        let (seen, _, ()) = tokio::join!(asked, connection, answer(server, bytes));
        seen
    })
}

/// Takes a request, gives the bytes, closes.
async fn answer(mut server: DuplexStream, bytes: &[u8]) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(server.read_buf(&mut request).await.unwrap(), 0);
    }
    server.write_all(bytes).await.unwrap();
    server.shutdown().await.unwrap();
}

/// Heads made of the transcripts' field lines, with a few bytes changed.
fn heads(start: &'static str, kind: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<Vec<u8>> =
        super::inputs(&[kind]).into_iter().filter(|l| l.len() < 400).collect();
    let chosen = prop::collection::vec(prop::sample::select(lines), 0..6);
    let noise = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (chosen, noise).prop_map(move |(lines, noise)| {
        let mut bytes = [start.as_bytes(), &lines.concat(), b"\r\n"].concat();
        for (place, byte) in noise {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes
    })
}

#[test]
fn what_is_forwarded_of_the_transcripts_reads_alike_in_all_parsers() {
    for input in super::inputs(&["request", "raw-request"]) {
        check_request(&input);
        check_request(&[b"POST / HTTP/1.1\r\nHost: a.test\r\n", &input[..], b"\r\n"].concat());
    }
    for input in super::inputs(&["response", "raw-response"]) {
        check_response(&input);
        check_response(&[b"HTTP/1.1 200 OK\r\n", &input[..], b"\r\n"].concat());
    }
}

proptest! {
    #[test]
    fn made_up_requests_read_alike_in_all_parsers(
        input in heads("POST /a?b HTTP/1.1\r\nHost: a.test\r\n", "request"),
    ) {
        check_request(&input);
    }

    #[test]
    fn made_up_responses_read_alike_in_all_parsers(
        input in heads("HTTP/1.1 200 OK\r\n", "response"),
    ) {
        check_response(&input);
    }
}
