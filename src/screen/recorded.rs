//! Judges recorded heads offline: what `sluss check --heads FILE` shows.
//!
//! A recording is heads one after the other, each with its empty line, as `curl -sI` or a packet
//! capture leaves them; no bodies. What begins with `HTTP/` is a response, all else a request.
//! Where a head is refused, reading goes on behind the next empty line.

use serde::Serialize;

use super::excerpt;
use super::policy::Policy;
use super::rule::Direction;
use super::{Finding, Reading, Refused, RequestMethod, Scan, Screened, Storage, request, response};
use crate::refusal::Refusal;

/// What became of one recorded head.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Recorded {
    /// The line it begins in, from 1.
    pub line: usize,
    /// What it was taken for.
    pub direction: Direction,
    /// Its first line, escaped and bounded, without its query.
    pub start_line: String,
    /// What was odd.
    pub findings: Vec<Finding>,
    /// What would be forwarded, escaped line by line; empty where it is refused.
    pub canonical: Vec<String>,
    /// Why it would be refused.
    pub refused: Option<Refusal>,
}

/// Judges every head of a recording.
pub fn judge_recorded(bytes: &[u8], policy: &Policy) -> Vec<Recorded> {
    let mut judged = Vec::new();
    let mut at = 0;
    loop {
        at += bytes[at..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if at == bytes.len() {
            return judged;
        }
        // The last head of a file often lacks its empty line.
        let end = at + head_len(&bytes[at..]);
        let mut head = bytes[at..end].to_vec();
        if end == bytes.len() && !ends(&head) {
            let line = if head.ends_with(b"\n") { &b"\r\n"[..] } else { b"\r\n\r\n" };
            head.extend_from_slice(line);
        }
        let line = 1 + memchr::memchr_iter(b'\n', &bytes[..at]).count();
        judged.push(judge(&head, line, policy));
        at = end;
    }
}

fn judge(head: &[u8], line: usize, policy: &Policy) -> Recorded {
    let (mut scan, storage) = (Scan::default(), Storage::default());
    let is_response = head.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"));
    let (direction, outcome) = if is_response {
        let read = response(head, &mut scan, policy, RequestMethod::Head, storage);
        (Direction::Response, outcome(read, super::ResponseHead::canonical))
    } else {
        let read = request(head, &mut scan, policy, storage);
        (Direction::Request, outcome(read, super::RequestHead::canonical))
    };
    let first = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let start_line = excerpt::start_line(first);
    let (canonical, findings, refused) = match outcome {
        Ok((canonical, findings)) => (canonical, findings, None),
        Err(refused) => (Vec::new(), refused.findings, Some(refused.reason)),
    };
    let lines =
        canonical.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let canonical =
        lines.filter(|line| !line.is_empty()).map(|line| line.escape_ascii().to_string()).collect();
    Recorded { line, direction, start_line, findings, canonical, refused }
}

type Outcome = Result<(Vec<u8>, Vec<Finding>), Box<Refused>>;

fn outcome<H>(read: Result<Reading<H>, Box<Refused>>, text: impl Fn(&H) -> Vec<u8>) -> Outcome {
    Ok(match read? {
        Reading::Complete { screened: Screened { head, findings }, .. } => (text(&head), findings),
        // The head was completed before: cannot be, and would show as a head without lines.
        Reading::Partial(_) => (Vec::new(), Vec::new()),
    })
}

/// Up to behind the first empty line, or all there is.
fn head_len(bytes: &[u8]) -> usize {
    let mut line = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        if matches!(&bytes[line..end], [] | [b'\r']) {
            return end + 1;
        }
        line = end + 1;
    }
    bytes.len()
}

fn ends(head: &[u8]) -> bool {
    head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;

    #[test]
    fn each_head_of_a_recording_is_judged() {
        let recording = b"GET /a?token=x HTTP/1.1\r\nHost: a\r\n\r\n\r\n\
            HTTP/1.1 200 OK\r\nExpires : 0\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n\
            HTTP/1.1 301 Moved\r\nLocation: /b";
        let judged = judge_recorded(recording, &Policy::default());
        let seen: Vec<_> = judged
            .iter()
            .map(|one| {
                (one.line, one.direction, one.findings.first().map(|found| found.rule), one.refused)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (1, Direction::Request, None, None),
                (5, Direction::Response, Some(Rule::FieldNameTrailingSpace), None),
                (
                    8,
                    Direction::Response,
                    Some(Rule::ContentLengthInvalid),
                    Some(Refusal::UpstreamHeadMalformed)
                ),
                (11, Direction::Response, None, None),
            ]
        );
        assert_eq!(judged[0].start_line, "GET /a?[7 bytes redacted] HTTP/1.1");
        assert_eq!(judged[3].canonical, ["HTTP/1.1 301 Moved", "location: /b"]);
    }

    #[test]
    fn nothing_recorded_is_nothing_judged() {
        assert!(judge_recorded(b"", &Policy::default()).is_empty());
        assert!(judge_recorded(b"\r\n\n", &Policy::default()).is_empty());
    }
}
