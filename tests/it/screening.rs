//! Header screening in live traffic: what is mended arrives, what is in doubt does not, and what a
//! stricter profile would refuse is told before anybody is hurt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::{Edge, End, Origin, Setup, get, origin, wait_for};

/// The heads that `benches/peers/heads.py` sends through other proxies as well.
const HEADS: &str = include_str!("../../benches/peers/heads.txt");

/// A line of `HEADS`.
#[derive(Clone)]
struct Item {
    direction: &'static str,
    kind: &'static str,
    rule: &'static str,
    text: &'static str,
    bytes: Vec<u8>,
}

fn items(direction: &str) -> Vec<Item> {
    let lines = HEADS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let items = lines.map(|line| {
        let mut columns = line.splitn(3, " | ");
        let mut next = || columns.next().expect("three columns");
        let (what, rule, text) = (next(), next(), next());
        let (direction, kind) = what.split_once(' ').expect("direction and kind");
        Item { direction, kind, rule, text, bytes: unescape(text) }
    });
    items.filter(|item| item.direction == direction).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next().expect("an escape goes on") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b's' => b' ',
                b'0' => 0,
                b'x' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => panic!("unknown escape {}", char::from(other)),
            },
            plain => plain,
        });
    }
    out
}

/// A sound message around the item; the file says how.
fn message(item: &Item, (start, first): (&str, &str), content: &[u8]) -> Vec<u8> {
    let plain = item.bytes.clone();
    let length = format!("Content-Length: {}\r\n", content.len()).into_bytes();
    let chunked =
        [format!("{:x}\r\n", content.len()).as_bytes(), content, b"\r\n0\r\n\r\n"].concat();
    let is_chunked = item.text.contains("hunked");
    let (start, first) = (start.as_bytes().to_vec(), first.as_bytes().to_vec());
    let none = Vec::new;
    let (start, lead, item, length, content) = match item.kind {
        "field" | "refuse" => (start, none(), plain, length, content.to_vec()),
        "first" | "lead" => (start, plain, none(), length, content.to_vec()),
        "start" => (plain, none(), none(), length, content.to_vec()),
        "framing" if is_chunked => (start, none(), plain, none(), chunked),
        "framing" => (start, none(), plain, none(), content.to_vec()),
        "chunks" => (start, none(), none(), b"Transfer-Encoding: chunked\r\n".to_vec(), plain),
        other => panic!("unknown kind {other}"),
    };
    let before = b"X-Before: 1\r\nCookie: a=1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n".to_vec();
    let after = b"X-After: 2\r\n".to_vec();
    [start, lead, first, before, item, after, length, b"\r\n".to_vec(), content].concat()
}

/// Findings by rule, of one direction.
fn findings(edge: &Edge, direction: &str) -> BTreeMap<String, u64> {
    let rows = edge.admin_json("/api/findings");
    let mut counts = BTreeMap::new();
    for row in rows.as_array().expect("rows") {
        if row["direction"] == direction {
            let rule = row["rule"].as_str().expect("a rule").to_owned();
            *counts.entry(rule).or_default() += row["count"].as_u64().expect("a count");
        }
    }
    counts
}

/// What was found since, once something was.
fn found_since(
    edge: &Edge,
    direction: &str,
    before: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    wait_for("a finding", || {
        let since: BTreeMap<_, _> = findings(edge, direction)
            .into_iter()
            .map(|(rule, count)| (rule.clone(), count - before.get(&rule).copied().unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        (!since.is_empty()).then_some(since)
    })
}

#[test]
fn every_malformed_response_that_can_be_mended_arrives_and_no_other_does() {
    let all = items("response");
    let served = all.clone();
    let origin = Origin::scripted(move |mut connection| {
        let request = connection.request().expect("a request");
        let at: usize = request.target()[1..].parse().expect("a number");
        let start = ("HTTP/1.1 200 OK\r\n", "Connection: close\r\n");
        connection.send(message(&served[at], start, b"hello world"));
    });
    let edge = Edge::before(origin.url());
    for (at, item) in all.iter().enumerate() {
        let before = findings(&edge, "response");
        let response = edge.get("a.test", &format!("/{at}"));
        let found = found_since(&edge, "response", &before);
        match item.kind {
            "field" | "first" | "start" => {
                assert_eq!(response.status(), 200, "{}", item.text);
                let whole = (response.body.as_slice(), response.end);
                assert_eq!(whole, (&b"hello world"[..], End::Whole), "{}", item.text);
                for field in ["x-before: 1", "set-cookie: a=1", "set-cookie: b=2", "x-after: 2"] {
                    let (name, value) = field.split_once(": ").unwrap();
                    let holds = response.fields.iter().any(|(n, v)| n == name && v == value);
                    assert!(holds, "{field} is lost: {}", item.text);
                }
                assert_eq!(found, [(item.rule.to_owned(), 1)].into(), "{}", item.text);
            }
            "chunks" => {
                assert_ne!(response.end, End::Whole, "{}", item.text);
                assert!(found.contains_key(item.rule), "{found:?}: {}", item.text);
            }
            _ => {
                assert_eq!(response.status(), 502, "{}", item.text);
                assert!(found.contains_key(item.rule), "{found:?}: {}", item.text);
            }
        }
    }
}

#[test]
fn every_malformed_request_that_can_be_mended_arrives_and_no_other_does() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    for item in &items("request") {
        let before = findings(&edge, "request");
        let start = ("POST / HTTP/1.1\r\n", "Host: a.test\r\n");
        let response = edge.connect("a.test").ask(message(item, start, b"hello"));
        let found = found_since(&edge, "request", &before);
        if item.kind == "field" {
            assert_eq!(response.status(), 200, "{}", item.text);
            let seen = response.text();
            for sound in ["\nx-before: 1\n", "\ncookie: a=1\n", "\nx-after: 2\n", "\n\nhello"] {
                assert!(seen.contains(sound), "{sound} is lost: {}: {seen}", item.text);
            }
            assert_eq!(found, [(item.rule.to_owned(), 1)].into(), "{}", item.text);
        } else {
            assert_eq!(response.status(), 400, "{}", item.text);
            assert!(found.contains_key(item.rule), "{found:?}: {}", item.text);
        }
    }
}

#[test]
fn what_a_stricter_profile_would_refuse_is_told_while_all_of_it_goes_through() {
    let odd = Origin::saying("HTTP/1.1 200 OK\r\nExpires : 0\r\nContent-Length: 4\r\n\r\nbody");
    let sound = Origin::answering(|_| origin::ok("body"));
    let mut edge = Setup::default()
        .site("odd.test", odd.url())
        .site("sound.test", sound.url())
        .site_with("unjudged.test", odd.url(), r#"headers = { shadow = "" }"#)
        .start();
    // Live traffic from before the shadow profile is set until it has been looked at.
    let stop = Arc::new(AtomicBool::new(false));
    let visitors = ["odd.test", "sound.test", "unjudged.test"].map(|host| {
        let (mut client, stop) = (edge.connect(host), stop.clone());
        thread::spawn(move || {
            let mut request = get(host, "/");
            if host == "odd.test" {
                request = request.replace("\r\n\r\n", "\r\nX_Real_IP: 192.0.2.1\r\n\r\n");
            }
            while !stop.load(Ordering::Relaxed) {
                let response = client.ask(&request);
                assert_eq!((response.status(), response.text().as_str()), (200, "body"), "{host}");
            }
        })
    });
    let told = wait_for("findings", || {
        let (code, _) = edge.command("findings");
        let (_, told) = edge.command("findings --would-refuse");
        (code == 0 && told.contains("odd.test")).then_some(told)
    });
    assert!(told.starts_with("nothing that went through would have been refused\n"), "{told}");
    assert!(told.contains("no shadow profile judges the heads of odd.test"), "{told}");

    edge.set("headers.shadow", r#""reject""#);
    assert_eq!(edge.command("reload").0, 0);
    let told = wait_for("what would break", || {
        let (code, told) = edge.command("findings --would-refuse");
        let has = |rule| told.contains(rule);
        (code == 0 && has("field-name-trailing-space") && has("shadowed-field")).then_some(told)
    });
    let (told, unjudged) = told.split_once("sluss: ").expect("who is not judged");
    assert!(told.contains("sites that would break: odd.test\n"), "{told}");
    assert!(
        told.contains("    example: Expires : 0\n    in hex: 30\n    seen with: GET /"),
        "{told}"
    );
    assert!(told.contains(&format!("from {}", odd.url())), "the endpoint is named: {told}");
    assert!(!told.contains("sound.test") && !told.contains("unjudged.test"), "{told}");
    assert!(unjudged.starts_with("no shadow profile judges the heads of unjudged.test;"), "{told}");

    let (code, json) = edge.command("findings --would-refuse --json --site odd.test");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON alone");
    let listed: Vec<_> = rows
        .iter()
        .map(|row| (row["site"].as_str(), row["rule"].as_str(), row["action"].as_str()))
        .collect();
    let row = |rule, action| (Some("odd.test"), Some(rule), Some(action));
    let expected = [row("shadowed-field", "repair"), row("field-name-trailing-space", "repair")];
    assert_eq!((code, listed), (0, expected.to_vec()));
    for row in &rows {
        assert!(row["shadow"] == "reject" && row["shadow_refused"].as_u64() > Some(0), "{row}");
        assert!(row["count"].as_u64() >= row["shadow_refused"].as_u64(), "{row}");
        assert!(!row["examples"].as_array().unwrap().is_empty(), "{row}");
    }

    stop.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.join().expect("nothing was refused");
    }
}

/// The response is whole and goes through: a stricter profile does not change that.
#[test]
fn bytes_behind_a_response_are_told_as_what_is_done_about_them() {
    let origin = Origin::answering(|request| match request.target() {
        "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\noksecret=1",
    });
    let strict = r#"headers = { responses = "reject", shadow = "reject" }"#;
    let edge = Setup::default().site_with("a.test", origin.url(), strict).start();
    assert_eq!(edge.get("a.test", "/").text(), "ok");
    let mut client = edge.connect("a.test");
    client.send("HEAD /head HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.head().expect("a head").status(), 200);
    let told = || {
        let rows = edge.admin_json("/api/findings");
        let rows = rows.as_array().unwrap();
        let told = |row: &serde_json::Value| {
            let excerpts = row["examples"].as_array().unwrap().iter();
            let excerpts: Vec<_> =
                excerpts.map(|it| it["excerpt"].as_str().unwrap().to_owned()).collect();
            let action = row["action"].as_str().unwrap().to_owned();
            (action, row["count"].as_u64(), row["shadow_refused"].as_u64(), excerpts)
        };
        rows.iter().map(told).collect::<Vec<_>>()
    };
    wait_for("both are told", || (told().first().map(|it| it.1) == Some(Some(2))).then_some(()));
    let mut excerpts = told()[0].3.clone();
    excerpts.sort();
    assert_eq!(excerpts, ["[2 bytes redacted]", "[8 bytes redacted]"]);
    let (action, _, shadow_refused, _) = told().remove(0);
    assert_eq!((action.as_str(), shadow_refused), ("repair", Some(0)));
}
