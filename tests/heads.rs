//! Runs the transcripts of `tests/heads/`; their format is told in `tests/heads/README.md`.

#![expect(clippy::unwrap_used, reason = "a transcript that cannot be read fails the test")]

#[path = "heads/cost.rs"]
mod cost;
#[path = "heads/parsers.rs"]
mod parsers;
#[path = "heads/strict.rs"]
mod strict;

use std::fmt::Write as _;
use std::path::Path;

use sluss::screen::chunk::{ChunkStep, Chunked};
use sluss::screen::{
    Direction, Finding, Policy, PolicySpec, Profile, Reading, Refused, RequestHead, RequestMethod,
    ResponseHead, Scan, Screened, Storage, request, request_list, response, response_list,
    trailers, write_trailers,
};

/// A line of a transcript.
struct Case<'a> {
    kind: &'a str,
    option: &'a str,
    policy: Policy,
    input: Vec<u8>,
    findings: &'a str,
    outcome: &'a str,
    rest: Vec<u8>,
}

/// What a judgement came to, in the transcripts' words.
#[derive(Debug, PartialEq)]
struct Verdict {
    findings: String,
    outcome: Vec<u8>,
    rest: Vec<u8>,
}

#[test]
fn every_transcript_comes_out_as_written() {
    let mut count = 0;
    let mut failures = String::new();
    for (name, text) in files() {
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            count += 1;
            if let Err(failure) = check(&parse(line)) {
                writeln!(failures, "{name}:{}: {line}\n{failure}\n", at + 1).unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(count >= 300, "only {count} transcripts");
}

/// The transcripts' files and what stands in them.
fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/heads");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// The inputs of all transcripts of these kinds.
fn inputs(kinds: &[&str]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (_, text) in files() {
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let cases = lines.map(parse).filter(|case| kinds.contains(&case.kind));
        inputs.extend(cases.map(|case| case.input));
    }
    inputs
}

fn parse(line: &str) -> Case<'_> {
    let mut columns = line.split(" |").map(str::trim);
    let mut next = || columns.next().unwrap_or_else(|| panic!("a column is missing: {line}"));
    let (kind, input, findings, outcome) = (next(), next(), next(), next());
    let (kind, profile) = kind.split_once('@').unwrap_or((kind, "repair"));
    let (kind, option) = kind.split_once('/').unwrap_or((kind, ""));
    let profile: Profile = profile.parse().unwrap();
    let policy =
        Policy::new(&PolicySpec { requests: profile, responses: profile, ..PolicySpec::default() });
    Case {
        kind,
        option,
        policy: policy.unwrap(),
        input: bytes(input),
        findings,
        outcome,
        rest: columns.next().map(bytes).unwrap_or_default(),
    }
}

/// Undoes the escapes.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let (escape, tail) = rest.split_first().expect("an escape goes on");
        rest = tail;
        match escape {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b's' => out.push(b' '),
            b'0' => out.push(0),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &rest[2..];
            }
            b'(' => {
                let end = rest.iter().position(|b| *b == b')').expect("a repetition ends");
                let inner = std::str::from_utf8(&rest[..end]).unwrap();
                let (unit, times) = inner.rsplit_once('*').unwrap();
                out.extend(bytes(unit).repeat(times.parse().unwrap()));
                rest = &rest[end + 1..];
            }
            _ => panic!("unknown escape \\{}", char::from(*escape)),
        }
    }
    out
}

fn check(case: &Case<'_>) -> Result<(), String> {
    let (input, outcome) = completed(case);
    let expected = Verdict {
        findings: String::from_utf8(bytes(case.findings)).unwrap(),
        outcome,
        rest: case.rest.clone(),
    };
    let whole = judge(case, &input);
    if whole != expected {
        let show = |verdict: &Verdict| {
            format!("{} -> {}", verdict.findings, verdict.outcome.escape_ascii())
        };
        return Err(format!("  expected {}\n  got      {}", show(&expected), show(&whole)));
    }
    Ok(())
}

/// The input as it goes in, the outcome as it must come out: short kinds get their start line.
fn completed(case: &Case<'_>) -> (Vec<u8>, Vec<u8>) {
    let (input, outcome) = (&case.input, bytes(case.outcome));
    let refused = ["400", "431", "502"].contains(&case.outcome);
    let (before, behind, canonical): (&str, &str, &str) = match case.kind {
        "request" => {
            ("GET / HTTP/1.1\r\nHost: a.test\r\n", "\r\n", "GET / HTTP/1.1\r\nhost: a.test\r\n")
        }
        "response" => ("HTTP/1.1 200 OK\r\n", "\r\n", "HTTP/1.1 200 OK\r\n"),
        "h2-request" => (
            ":method: GET\n:scheme: https\n:authority: a.test\n:path: /\n",
            "",
            "GET / HTTP/1.1\r\nhost: a.test\r\n",
        ),
        "h2-response" => (":status: 200\n", "", "HTTP/1.1 200 \r\n"),
        _ => return (input.clone(), outcome),
    };
    let whole = [before.as_bytes(), input, behind.as_bytes()].concat();
    if refused {
        return (whole, outcome);
    }
    (whole, [canonical.as_bytes(), &outcome, b"\r\n"].concat())
}

fn judge(case: &Case<'_>, input: &[u8]) -> Verdict {
    let (policy, to) = (&case.policy, RequestMethod::from_token(case.option.as_bytes()));
    match case.kind {
        "request" | "raw-request" => by_pieces(input, |input, scan| {
            map(request(input, scan, policy, Storage::default())?, RequestHead::canonical)
        }),
        "response" | "raw-response" => by_pieces(input, |input, scan| {
            map(response(input, scan, policy, to, Storage::default())?, ResponseHead::canonical)
        }),
        "trailers" => by_pieces(input, |input, scan| {
            map(trailers(input, scan, policy, Direction::Request)?, |map| {
                let mut out = Vec::new();
                write_trailers(map, &mut out);
                out
            })
        }),
        "h2-request" | "raw-h2-request" => {
            let fields = list(input);
            let fields = fields.iter().map(|(name, value)| (&name[..], &value[..]));
            let judged = request_list(fields, case.option != "open", policy, Storage::default());
            verdict(judged.map(|screened| (screened.head.canonical(), screened.findings)))
        }
        "h2-response" | "raw-h2-response" => {
            let fields = list(input);
            let fields = fields.iter().map(|(name, value)| (&name[..], &value[..]));
            let (to, end) = (to, case.option != "open");
            let judged = response_list(fields, (to, end), policy, Storage::default());
            verdict(judged.map(|screened| (screened.head.canonical(), screened.findings)))
        }
        "chunks" => chunks(input, policy),
        other => panic!("unknown kind {other}"),
    }
}

fn map<H>(
    read: Reading<H>,
    text: impl Fn(&H) -> Vec<u8>,
) -> Result<Reading<Vec<u8>>, Box<Refused>> {
    Ok(match read {
        Reading::Partial(storage) => Reading::Partial(storage),
        Reading::Complete { screened: Screened { head, findings }, consumed } => {
            Reading::Complete { screened: Screened { head: text(&head), findings }, consumed }
        }
    })
}

/// Judges the input whole, then in pieces: both must come to the same.
fn by_pieces(
    input: &[u8],
    judge: impl Fn(&[u8], &mut Scan) -> Result<Reading<Vec<u8>>, Box<Refused>>,
) -> Verdict {
    let run = |step: usize| {
        let mut scan = Scan::default();
        let mut end = step.min(input.len());
        loop {
            match judge(&input[..end], &mut scan) {
                Ok(Reading::Partial(_)) if end == input.len() => {
                    return Verdict {
                        findings: "-".into(),
                        outcome: b"partial".into(),
                        rest: Vec::new(),
                    };
                }
                Ok(Reading::Partial(_)) => end = (end + step).min(input.len()),
                Ok(Reading::Complete { screened, consumed }) => {
                    let mut verdict = verdict(Ok((screened.head, screened.findings)));
                    verdict.rest = input[consumed..].to_vec();
                    return verdict;
                }
                Err(refused) => return verdict(Err(refused)),
            }
        }
    };
    let whole = run(usize::MAX);
    let step = if input.len() > 4096 { 1009 } else { 1 };
    assert_eq!(run(step), whole, "in pieces: {}", input[..input.len().min(200)].escape_ascii());
    whole
}

fn verdict(judged: Result<(Vec<u8>, Vec<Finding>), Box<Refused>>) -> Verdict {
    let (outcome, found) = match judged {
        Ok(judged) => judged,
        Err(refused) => {
            let status = refused.reason.status().expect("a malformed head has a status");
            (status.to_string().into_bytes(), refused.findings)
        }
    };
    Verdict { findings: findings(&found), outcome, rest: Vec::new() }
}

fn findings(found: &[Finding]) -> String {
    let words = found.iter().map(|one| format!("{} {}", one.rule, one.action.label()));
    let words: Vec<String> = words.collect();
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

/// `name: value` lines; a pseudo-header field's name has a colon of its own.
fn list(input: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = input.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let at = line.windows(2).position(|pair| pair == b": ").expect("a field has a colon");
            // \x1e stands for a LF inside a value, which HTTP/2 can carry.
            let value = line[at + 2..].iter().map(|b| if *b == 0x1e { b'\n' } else { *b });
            (line[..at].to_vec(), value.collect())
        })
        .collect()
}

fn chunks(input: &[u8], policy: &Policy) -> Verdict {
    let (mut decoder, mut content, mut at) = (Chunked::default(), Vec::new(), 0);
    let mut findings_ = "-".to_owned();
    let end = loop {
        match decoder.step(&input[at..]) {
            Ok(ChunkStep::Data { skip, len }) => {
                content.extend_from_slice(&input[at + skip..at + skip + len]);
                at += skip + len;
            }
            Ok(ChunkStep::End { skip }) => {
                at += skip;
                break "end";
            }
            Ok(ChunkStep::Trailers { skip }) => {
                at += skip;
                break "trailers";
            }
            Ok(ChunkStep::NeedMore { .. }) => {
                at = input.len();
                break "more";
            }
            Err(malformed) => {
                let found = malformed.finding(&input[at..], policy, Direction::Request);
                findings_ = findings(&[found]);
                at = input.len();
                break "refused";
            }
        }
    };
    let outcome = [b"[", &content[..], b"] ", end.as_bytes()].concat();
    Verdict { findings: findings_, outcome, rest: input[at..].to_vec() }
}
