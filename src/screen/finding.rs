//! What was found in a head, told so that it can be shown anywhere: escaped, bounded, redacted.
//!
//! A [`Judge`] stands beside one head while it is read. It asks the policy, collects the findings
//! (at most [`FINDINGS_MAX`]; the actions of all of them count) and remembers the first refusal.

use serde::Serialize;

use super::excerpt::{self, Defect};
use super::policy::Policy;
use super::rule::{Action, Direction, Rule};

/// Findings kept of one head. A head of 256 broken lines is one broken program; 32 examples tell it.
pub const FINDINGS_MAX: usize = 32;

/// One defect of one head.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// What was done.
    pub action: Action,
    /// Whether the shadow profile would refuse the message.
    pub shadow_refuses: bool,
    /// The field's name, escaped and bounded, up to where it stops to be one; empty for a line.
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

    /// Content where none may be: told by its length, since it is nobody's business. It never gets
    /// through, and the message in front of it does, whatever the policy says.
    pub fn of_content(rule: Rule, len: usize) -> Finding {
        let (field, hex) = (String::new(), String::new());
        let excerpt = excerpt::redacted(len);
        Finding { rule, action: Action::Repair, shadow_refuses: false, field, excerpt, hex }
    }

    /// A response that is refused for what no single field of it says.
    pub fn refusal(rule: Rule, field: &str, bytes: &[u8]) -> Finding {
        Finding::new(rule, Action::Refuse, field.as_bytes(), bytes).with_shadow(true)
    }

    fn at(rule: Rule, action: Action, field: &[u8], defect: Defect<'_>) -> Finding {
        let (excerpt, hex) = excerpt::excerpt(field, defect);
        let field = excerpt::name(field);
        Finding { rule, action, shadow_refuses: false, field, excerpt, hex }
    }

    pub(super) fn with_shadow(mut self, refuses: bool) -> Finding {
        self.shadow_refuses = refuses;
        self
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
        if !self.has_found(rule) {
            self.find(rule, b"", bytes);
        }
    }

    fn record(&mut self, rule: Rule, action: Action, field: &[u8], defect: Defect<'_>) {
        self.found |= 1 << rule as u64;
        let refuses_first = action == Action::Refuse && self.refused_by.is_none();
        if refuses_first {
            self.refused_by = Some(rule);
        }
        if refuses_first && self.findings.len() == FINDINGS_MAX {
            self.findings.pop(); // Nothing that was mended hides why the head is refused.
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

    pub(super) fn has_found(&self, rule: Rule) -> bool {
        self.found & (1 << rule as u64) != 0
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing hides a refusal: it takes the place of what was mended before it.
    #[test]
    fn the_first_refusal_is_told_whatever_was_found_before() {
        let policy = Policy::default();
        let mut judge = Judge::new(&policy, Direction::Request);
        for _ in 0..FINDINGS_MAX + 8 {
            judge.find(Rule::FieldNoColon, b"", &b"x"[..]);
        }
        judge.refuse(Rule::FramingConflict, b"", &b""[..]);
        judge.refuse(Rule::Host, b"", &b""[..]);
        let findings = judge.into_findings();
        assert_eq!(findings.len(), FINDINGS_MAX);
        let rules: Vec<_> = findings[FINDINGS_MAX - 2..].iter().map(|found| found.rule).collect();
        assert_eq!(rules, [Rule::FieldNoColon, Rule::FramingConflict]);
    }
}
