//! What holds of whole heads. Single heads with their expected outcome are in `tests/heads/`.

use std::sync::LazyLock;

use super::*;
use crate::refusal::Refusal;

fn read(input: &[u8]) -> Result<Screened<RequestHead>, Box<Refused>> {
    match request(input, &mut Scan::default(), &Policy::default(), Storage::default())? {
        Reading::Complete { screened, .. } => Ok(screened),
        Reading::Partial(_) => panic!("not complete: {}", input.escape_ascii()),
    }
}

fn read_response(input: &[u8], to: RequestMethod) -> Result<Screened<ResponseHead>, Box<Refused>> {
    match response(input, &mut Scan::default(), &Policy::default(), to, Storage::default())? {
        Reading::Complete { screened, .. } => Ok(screened),
        Reading::Partial(_) => panic!("not complete: {}", input.escape_ascii()),
    }
}

static CLIENT: LazyLock<ClientText> =
    LazyLock::new(|| ClientText::new([192, 0, 2, 7].into(), 443, "https"));

fn forward() -> Forward<'static> {
    Forward {
        client: &CLIENT,
        trusted: false,
        request_id: "id-1",
        host_header: None,
        keep_upgrade: true,
    }
}

#[track_caller]
fn check_forwarded(input: &str, forward: &Forward<'_>, expected: &str) {
    let mut out = Vec::new();
    read(input.as_bytes()).unwrap().head.write_h1(&mut out, forward);
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn a_clean_request_is_taken_apart() {
    let input = b"POST /a/b?c=d HTTP/1.1\r\nHost: A.test:8443\r\nContent-Length: 5\r\nX-One: 1\r\n\r\nhello";
    let screened = read(input).unwrap();
    assert_eq!(screened.findings, []);
    let head = screened.head;
    assert_eq!((head.method(), head.target(), head.path()), ("POST", "/a/b?c=d", "/a/b"));
    assert_eq!((head.authority().host(), head.authority().port()), ("a.test", Some(8443)));
    assert_eq!(head.framing(), Framing::Length(5));
    assert!(head.persistent() && !head.expects_continue() && head.upgrade().is_none());
    assert_eq!(head.fields().collect::<Vec<_>>(), [("x-one", &b"1"[..])]);
}

#[test]
fn what_the_client_says_of_itself_is_replaced() {
    check_forwarded(
        "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=x\r\nX-Forwarded-Foo: y\r\n\
         X-Real-IP: 1\r\nX-Request-Id: theirs\r\nKeep-Alive: 5\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nA: b\r\n\r\n",
        &forward(),
        "GET / HTTP/1.1\r\nhost: a.test\r\na: b\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n\
         x-forwarded-port: 443\r\nx-forwarded-host: a.test\r\n\
         forwarded: for=192.0.2.7;host=\"a.test\";proto=https\r\nvia: 1.1 sluss\r\nx-request-id: id-1\r\n\r\n",
    );
}

#[test]
fn a_trusted_proxy_is_added_to() {
    let client = &ClientText::new("2001:db8::1".parse().unwrap(), 443, "https");
    check_forwarded(
        "GET / HTTP/1.1\r\nHost: a.test:444\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\
         X-Forwarded-Proto: http\r\nForwarded: for=x\r\nVia: 1.1 front\r\n\r\n",
        &Forward { client, trusted: true, ..forward() },
        "GET / HTTP/1.1\r\nhost: a.test:444\r\nx-forwarded-proto: http\r\nvia: 1.1 front\r\n\
         x-forwarded-for: 10.0.0.1, 10.0.0.2, 2001:db8::1\r\nx-forwarded-port: 443\r\n\
         x-forwarded-host: a.test:444\r\n\
         forwarded: for=x, for=\"[2001:db8::1]\";host=\"a.test:444\";proto=https\r\nvia: 1.1 sluss\r\n\
         x-request-id: id-1\r\n\r\n",
    );
}

#[test]
fn an_upgrade_goes_through_and_h2c_does_not() {
    let input = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(read(input.as_bytes()).unwrap().head.upgrade(), Some("websocket"));
    let input = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABk\r\n\r\n";
    let screened = read(input.as_bytes()).unwrap();
    assert_eq!(screened.head.upgrade(), None);
    assert_eq!(screened.findings[0].rule, Rule::UpgradeInvalid);
    let mut out = Vec::new();
    screened.head.write_h1(&mut out, &forward());
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains("upgrade") && !text.contains("http2-settings"), "{text}");
}

#[test]
fn a_response_is_written_for_each_kind_of_client() {
    let written = |input: &str, to: ResponseTo<'_>| {
        let mut out = Vec::new();
        read_response(input.as_bytes(), RequestMethod::Get).unwrap().head.write_h1(&mut out, &to);
        String::from_utf8(out).unwrap()
    };
    let to =
        ResponseTo { version: Version::H11, close: false, chunked: true, request_id: Some("id") };
    let until_close =
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: close\r\n\r\n";
    let fields = "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nvia: 1.1 sluss\r\nx-request-id: id\r\n";
    assert_eq!(written(until_close, to), format!("{fields}transfer-encoding: chunked\r\n\r\n"));
    let old = ResponseTo { version: Version::H10, close: true, ..to };
    assert_eq!(written(until_close, old), format!("{fields}\r\n"));
    let kept = ResponseTo { version: Version::H10, close: false, ..to };
    assert_eq!(
        written("HTTP/1.0 200 OK\r\nContent-Length: 05\r\n\r\n", kept),
        "HTTP/1.1 200 OK\r\nvia: 1.0 sluss\r\nx-request-id: id\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn a_head_too_large_is_431_and_a_malformed_one_400() {
    let reason = |input: &[u8]| read(input).unwrap_err().reason;
    assert_eq!(reason(b"GET / HTTP/1.1\r\n\r\n"), Refusal::HeadMalformed);
    assert_eq!(reason(&vec![b'a'; 4 * 64 * 1024]), Refusal::HeadTooLarge);
    let reason = read_response(b"HTTP/2 200\r\n\r\n", RequestMethod::Get).unwrap_err().reason;
    assert_eq!(reason, Refusal::UpstreamHeadMalformed);
}

#[test]
fn heads_over_both_versions_become_the_same() {
    let request = http::Request::builder()
        .method("GET")
        .uri("https://A.test/x?y")
        .version(http::Version::HTTP_2)
        .header("cookie", "a=1")
        .header("x-one", "1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    let (parts, ()) = request.into_parts();
    let screened = request_h2(&parts, true, &Policy::default(), Storage::default()).unwrap();
    assert_eq!(screened.findings, []);
    let head = screened.head;
    assert_eq!(
        head.canonical(),
        b"GET /x?y HTTP/1.1\r\nhost: a.test\r\ncookie: a=1; b=2\r\nx-one: 1\r\n\r\n"
    );
    let again = head.to_h2(&forward(), "http").unwrap();
    assert_eq!(again.uri(), "http://a.test/x?y");
    assert_eq!(again.headers()["cookie"], "a=1; b=2");
    assert_eq!(again.headers()["x-forwarded-for"], "192.0.2.7");
}

#[test]
fn trailers_lose_what_must_not_stand_there() {
    let input = b"X-Sum: abc\r\nContent-Length: 5\r\nHost: b\r\n\r\nrest";
    let read =
        trailers(input, &mut Scan::default(), &Policy::default(), Direction::Response).unwrap();
    let Reading::Complete { screened, consumed } = read else { panic!("not complete") };
    assert_eq!(consumed, input.len() - 4);
    assert_eq!(screened.head.len(), 1);
    assert_eq!(screened.findings.len(), 2);
    let mut out = Vec::new();
    write_trailers(&screened.head, &mut out);
    assert_eq!(out, b"x-sum: abc\r\n\r\n");
}

/// Were each call to begin anew, this would look at 20 billion bytes.
#[test]
fn a_large_head_in_single_bytes_is_looked_at_once() {
    let field = format!("x-{}: {}\r\n", "a".repeat(10), "b".repeat(1000));
    let input = ["GET / HTTP/1.1\r\nHost: a.test\r\n", &field.repeat(200), "\r\n"].concat();
    let (mut scan, policy) = (Scan::default(), Policy::default());
    let mut storage = Storage::default();
    for end in 0..=input.len() {
        match request(&input.as_bytes()[..end], &mut scan, &policy, storage).unwrap() {
            Reading::Partial(given_back) => storage = given_back,
            Reading::Complete { consumed, screened } => {
                assert_eq!((end, consumed), (input.len(), input.len()));
                assert_eq!(screened.findings[0].rule, Rule::Oversize);
                return;
            }
        }
    }
    panic!("the head never ended");
}
