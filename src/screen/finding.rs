//! What was found in a head, told so that it can be shown anywhere: escaped, bounded, redacted.
//!
//! A [`Judge`] stands beside one head while it is read. It asks the policy, collects the findings
//! (at most [`FINDINGS_MAX`]; the actions of all of them count) and remembers the first refusal.

use std::fmt::Write as _;

use serde::Serialize;

use super::policy::Policy;
use super::rule::{Action, Direction, Rule};

/// Findings kept of one head. A head of 256 broken lines is one broken program; 32 examples tell it.
pub const FINDINGS_MAX: usize = 32;

/// Bytes of a name or value shown. Enough to recognise the line in the site's code.
const EXCERPT_BYTES_MAX: usize = 64;

/// Bytes shown as hex around the defect.
const HEX_BYTES_MAX: usize = 24;

/// Words in a field's name after which its value is nobody's business.
const SECRET_WORDS: [&str; 11] = [
    "apikey",
    "auth",
    "cookie",
    "credential",
    "csrf",
    "passw",
    "secret",
    "session",
    "signature",
    "token",
    "jwt",
];

/// One defect of one head.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// What was done.
    pub action: Action,
    /// Whether the shadow profile would refuse the message.
    pub shadow_refuses: bool,
    /// The field's name as it came, escaped and bounded; empty for a start line.
    pub field: String,
    /// The value or line around the defect, escaped, bounded, redacted.
    pub excerpt: String,
    /// The bytes around the defect in hex; empty where they are redacted.
    pub hex: String,
}

impl Finding {
    pub(super) fn new(rule: Rule, action: Action, field: &[u8], bytes: &[u8]) -> Finding {
        Finding::at(rule, action, field, Defect { bytes, at: 0 })
    }

    fn at(rule: Rule, action: Action, field: &[u8], defect: Defect<'_>) -> Finding {
        let (excerpt, hex) = if is_secret(field) || is_credential(defect.bytes) {
            (format!("[{} bytes redacted]", defect.bytes.len()), String::new())
        } else {
            (
                escape(window(defect, EXCERPT_BYTES_MAX), EXCERPT_BYTES_MAX),
                hex(window(defect, HEX_BYTES_MAX)),
            )
        };
        let field = escape(field, EXCERPT_BYTES_MAX);
        Finding { rule, action, shadow_refuses: false, field, excerpt, hex }
    }

    pub(super) fn with_shadow(mut self, refuses: bool) -> Finding {
        self.shadow_refuses = refuses;
        self
    }
}

/// Bytes, and where in them the defect is.
#[derive(Clone, Copy)]
pub(super) struct Defect<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> From<&'a [u8]> for Defect<'a> {
    fn from(bytes: &'a [u8]) -> Defect<'a> {
        Defect { bytes, at: 0 }
    }
}

/// Collects the findings of one head.
#[derive(Debug)]
pub(super) struct Judge<'p> {
    policy: &'p Policy,
    direction: Direction,
    findings: Vec<Finding>,
    /// The first rule that refused.
    refused_by: Option<Rule>,
    /// One bit a rule: found at least once.
    found: u64,
}

impl<'p> Judge<'p> {
    pub(super) fn new(policy: &'p Policy, direction: Direction) -> Judge<'p> {
        Judge { policy, direction, findings: Vec::new(), refused_by: None, found: 0 }
    }

    pub(super) fn policy(&self) -> &'p Policy {
        self.policy
    }

    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    /// Records a finding and says what to do about it.
    pub(super) fn find<'a>(
        &mut self,
        rule: Rule,
        field: &[u8],
        bytes: impl Into<Defect<'a>>,
    ) -> Action {
        let action = self.policy.action(rule, self.direction);
        self.record(rule, action, field, bytes.into());
        action
    }

    /// Records a finding that refuses whatever the policy says.
    pub(super) fn refuse<'a>(&mut self, rule: Rule, field: &[u8], bytes: impl Into<Defect<'a>>) {
        self.record(rule, Action::Refuse, field, bytes.into());
    }

    /// As `find`, for defects of which a head shows many and one tells all.
    pub(super) fn find_once(&mut self, rule: Rule, bytes: &[u8]) {
        if self.found & (1 << rule as u64) == 0 {
            self.find(rule, b"", bytes);
        }
    }

    fn record(&mut self, rule: Rule, action: Action, field: &[u8], defect: Defect<'_>) {
        self.found |= 1 << rule as u64;
        if action == Action::Refuse {
            self.refused_by.get_or_insert(rule);
        }
        if self.findings.len() < FINDINGS_MAX {
            let shadow =
                action == Action::Refuse && self.policy.action(rule, self.direction) != action;
            let finding = Finding::at(rule, action, field, defect);
            self.findings.push(
                finding.with_shadow(shadow || self.policy.shadow_refuses(rule, self.direction)),
            );
        }
    }

    pub(super) fn refused_by(&self) -> Option<Rule> {
        self.refused_by
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}

/// Whether a field's value must not be shown; names are compared by their letters and digits.
fn is_secret(field: &[u8]) -> bool {
    let letters: String = field
        .iter()
        .filter(|b| b.is_ascii_alphanumeric())
        .map(|b| char::from(b.to_ascii_lowercase()))
        .collect();
    SECRET_WORDS.iter().any(|word| letters.contains(word))
}

/// Whether bytes of unknown meaning look as if they held a credential: a line that is no field, or
/// a value with an authentication scheme.
fn is_credential(bytes: &[u8]) -> bool {
    let text = bytes.to_ascii_lowercase();
    let holds = |word: &str| memchr::memmem::find(&text, word.as_bytes()).is_some();
    holds("bearer ") || holds("basic ") || SECRET_WORDS.iter().any(|word| holds(word))
}

fn window(defect: Defect<'_>, len_max: usize) -> &[u8] {
    let Defect { bytes, at } = defect;
    if bytes.len() <= len_max {
        return bytes;
    }
    let start = at.saturating_sub(len_max / 2).min(bytes.len() - len_max);
    &bytes[start..start + len_max]
}

/// Printable ASCII as it is, everything else as `\r`, `\x01`; at most `len_max` bytes of the input.
pub(super) fn escape(bytes: &[u8], len_max: usize) -> String {
    let shown = &bytes[..bytes.len().min(len_max)];
    let mut text = shown.escape_ascii().to_string();
    if shown.len() < bytes.len() {
        let _ = write!(text, "... ({} bytes)", bytes.len());
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        if !text.is_empty() {
            text.push(' ');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A start line for the log: escaped, bounded, without its query, which may hold a token.
pub(super) fn start_line(line: &[u8]) -> String {
    /// What the access log shows of a target, too.
    const START_LINE_BYTES_MAX: usize = 256;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Some(query) = memchr::memchr(b'?', line) else {
        return escape(line, START_LINE_BYTES_MAX);
    };
    let end = line[query..].iter().rposition(|b| *b == b' ').map_or(line.len(), |at| query + at);
    let mut text = escape(&line[..query], START_LINE_BYTES_MAX);
    let _ = write!(text, "?[{} bytes redacted]", end - query - 1);
    text + &escape(&line[end..], START_LINE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(field: &str, bytes: &[u8]) -> String {
        Finding::new(Rule::FieldValueControl, Action::Note, field.as_bytes(), bytes).excerpt
    }

    #[test]
    fn secrets_are_not_shown() {
        for field in ["Cookie", "Set-Cookie ", "AUTHORIZATION", "X-Api_Key", "X-CSRF-Token"] {
            assert_eq!(excerpt(field, b"abc\x01"), "[4 bytes redacted]", "{field}");
        }
        assert_eq!(excerpt("", b"Authorization Bearer abc"), "[24 bytes redacted]");
        assert_eq!(excerpt("X-Whatever", b"Bearer abc"), "[10 bytes redacted]");
    }

    #[test]
    fn excerpts_are_escaped_and_bounded() {
        assert_eq!(excerpt("X", b"a\x01\r\xffb"), r"a\x01\r\xffb");
        let long = vec![b'a'; 100_000];
        assert!(excerpt("X", &long).len() < 100);
        let at =
            Finding::at(Rule::Oversize, Action::Note, b"", Defect { bytes: &long, at: 99_999 });
        assert_eq!(at.excerpt.len(), EXCERPT_BYTES_MAX);
    }

    #[test]
    fn start_lines_show_no_query() {
        assert_eq!(start_line(b"GET /a?token=x HTTP/1.1\r"), "GET /a?[7 bytes redacted] HTTP/1.1");
        assert_eq!(start_line(b"\x16\x03\x01"), r"\x16\x03\x01");
    }
}
