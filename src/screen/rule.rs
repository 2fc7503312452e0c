//! The rules: every defect of a head sluss knows, as one closed list with its facts.
//!
//! A rule's code is its name in configuration, log, metrics and `docs/screening.md`. Codes and
//! default actions of a published rules version never change; a new rule or another default comes
//! with a new version. The facts stand in `facts.rs`, in the order of the enum.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::facts::{FACTS, Facts};

/// A defect of a head, in the order of `docs/screening.md`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// A byte that is no tchar in a field name.
    FieldNameInvalid,
    /// A name that a gateway would turn into a variable it trusts.
    FieldNameReserved,
    /// A line that begins with its colon.
    FieldNameEmpty,
    /// A line without colon.
    FieldNoColon,
    /// White space between name and colon.
    FieldNameTrailingSpace,
    /// A control byte in a value.
    FieldValueControl,
    /// A name that some reader takes for a framing name or Host.
    NearMissFraming,
    /// A Content-Type that is no media type.
    ContentTypeInvalid,
    /// Bytes above 0x7F in a value.
    FieldValueObsText,
    /// A value that goes on in the next line.
    ObsFold,
    /// White space before the first field.
    LeadingFold,
    /// A bare LF ends a line of the head.
    LineEnding,
    /// A field defined once stands twice.
    DuplicateSingleton,
    /// The same length stands more than once.
    ContentLengthList,
    /// A Content-Length that is no number, too large, or one of several that differ.
    ContentLengthInvalid,
    /// Transfer-Encoding and Content-Length together.
    FramingConflict,
    /// A Transfer-Encoding other than `chunked`, or one where none may be.
    TransferEncodingInvalid,
    /// Host or authority is missing, repeated, malformed or contradicted by the target.
    Host,
    /// The request line is malformed.
    RequestLine,
    /// The status line is malformed.
    StatusLine,
    /// A chunk's size, extension or end is malformed.
    Chunk,
    /// Connection names a field it must not, or no field at all.
    ConnectionOption,
    /// A name that imitates a trusted or framing one by `_` for `-`.
    ShadowedField,
    /// A field, or the head, is too large.
    Oversize,
    /// Content where none may be.
    BodyForbidden,
    /// A field that must not stand in a trailer.
    TrailerForbidden,
    /// HTTP/2: pseudo-header fields are missing, repeated, unknown or out of place.
    PseudoHeader,
    /// HTTP/2: a field that belongs to an HTTP/1 connection.
    ConnectionSpecific,
    /// HTTP/2: a message that the protocol's library resets before screening sees it.
    MessageMalformed,
    /// Upgrade without its connection option, or where none may be.
    UpgradeInvalid,
    /// An expectation that does not exist, or without content.
    ExpectInvalid,
    /// A date that is none.
    DateInvalid,
}

impl Rule {
    /// All rules, in the order of `docs/screening.md`.
    pub const ALL: [Rule; FACTS.len()] = {
        let mut all = [Rule::FieldNameInvalid; FACTS.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = FACTS[at].rule;
            assert!(all[at] as usize == at, "FACTS must stand in the order of Rule");
            at += 1;
        }
        all
    };

    fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }

    /// The name in configuration, log, metrics and docs.
    pub fn code(self) -> &'static str {
        self.facts().code
    }

    /// Where it is written.
    pub fn section(self) -> &'static str {
        self.facts().section
    }

    /// What is wrong and why it matters, for operators.
    pub fn explain(self) -> &'static str {
        self.facts().explain
    }

    /// How the site's code is mended.
    pub fn remedy(self) -> &'static str {
        self.facts().remedy
    }

    /// A line that breaks the rule, escaped.
    pub fn example(self) -> &'static str {
        self.facts().example
    }

    /// The action of profile `repair`; `None` where the rule does not exist in that direction.
    pub fn default_action(self, direction: Direction) -> Option<Action> {
        match direction {
            Direction::Request => self.facts().request,
            Direction::Response => self.facts().response,
        }
    }

    /// The laxest action the rule can be given. What cannot be forwarded as it is, and what
    /// concerns framing or authority, has its default action as the least.
    pub fn least_action(self, direction: Direction) -> Option<Action> {
        let default = self.default_action(direction)?;
        Some(if self.facts().cosmetic { Action::Note } else { default })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Rule {
    type Err = UnknownName;

    fn from_str(code: &str) -> Result<Rule, UnknownName> {
        Rule::ALL.into_iter().find(|rule| rule.code() == code).ok_or(UnknownName("rule"))
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// What follows from a finding, laxest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Report, forward as it is.
    Note,
    /// Report, drop or normalise the field, forward.
    Repair,
    /// Report, answer 400 to a client or 502 for an endpoint, close the connection.
    Refuse,
}

impl Action {
    /// As in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Action::Note => "note",
            Action::Repair => "repair",
            Action::Refuse => "refuse",
        }
    }
}

impl FromStr for Action {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Action, UnknownName> {
        [Action::Note, Action::Repair, Action::Refuse]
            .into_iter()
            .find(|action| action.label() == name)
            .ok_or(UnknownName("action"))
    }
}

/// Which way the head goes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a client.
    Request,
    /// From an endpoint.
    Response,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Request, Direction::Response];

    /// As in metrics and reports.
    pub fn label(self) -> &'static str {
        match self {
            Direction::Request => "request",
            Direction::Response => "response",
        }
    }
}

/// A name the configuration uses for nothing we know; says of what kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no such {0}")]
pub struct UnknownName(pub &'static str);

#[cfg(test)]
mod tests {
    use super::super::policy::{PolicySpec, RulesVersion};
    use super::*;

    #[test]
    fn codes_are_unique_and_found_again() {
        let mut seen = std::collections::BTreeSet::new();
        for rule in Rule::ALL {
            assert!(seen.insert(rule.code()), "{rule} stands twice");
            assert_eq!(rule.code().parse(), Ok(rule));
            assert!(
                rule.default_action(Direction::Request).is_some()
                    || rule.default_action(Direction::Response).is_some()
            );
            for text in [rule.section(), rule.explain(), rule.remedy(), rule.example()] {
                assert!(!text.is_empty(), "{rule} lacks a text");
            }
        }
        assert_eq!("obs-folded".parse::<Rule>(), Err(UnknownName("rule")));
    }

    /// Code, default action for requests and for responses, and whether it is cosmetic, as edition
    /// 2026-11 has them for good: what is to be otherwise is a new edition.
    const EDITION_2026_11: &str = "\
field-name-invalid repair repair
field-name-reserved repair -
field-name-empty repair repair
field-no-colon repair repair
field-name-trailing-space refuse repair
field-value-control repair repair
near-miss-framing refuse refuse
content-type-invalid repair repair cosmetic
field-value-obs-text note note cosmetic
obs-fold repair repair
leading-fold refuse repair
line-ending repair repair
duplicate-singleton repair repair cosmetic
content-length-list repair repair
content-length-invalid refuse refuse
framing-conflict refuse refuse
transfer-encoding-invalid refuse refuse
host refuse -
request-line refuse -
status-line - repair
chunk refuse refuse
connection-option repair repair
shadowed-field repair note
oversize repair repair
body-forbidden refuse repair
trailer-forbidden repair repair
pseudo-header refuse refuse
connection-specific refuse refuse
message-malformed refuse refuse
upgrade-invalid repair repair
expect-invalid repair -
date-invalid note note cosmetic
";

    #[test]
    fn the_first_edition_stays_as_it_is_and_is_what_judges_where_none_is_named() {
        let action =
            |rule: Rule, direction| rule.default_action(direction).map_or("-", Action::label);
        let mut edition = String::new();
        for rule in Rule::ALL {
            let (request, response) =
                (action(rule, Direction::Request), action(rule, Direction::Response));
            let cosmetic = if rule.facts().cosmetic { " cosmetic" } else { "" };
            edition += &format!("{rule} {request} {response}{cosmetic}\n");
        }
        assert_eq!(edition, EDITION_2026_11);
        assert_eq!(PolicySpec::default().rules_version.label(), "2026-11");
        assert_eq!(RulesVersion::default().label(), "2026-11");
    }

    #[test]
    fn the_docs_tell_each_rule_as_it_is() {
        let docs = include_str!("../../docs/screening.md");
        for rule in Rule::ALL {
            let (_, told) = docs.split_once(&format!("### `{rule}`\n")).unwrap();
            let told = told.split("\n### ").next().unwrap();
            let action = |direction| rule.default_action(direction).map_or("–", Action::label);
            let cosmetic = if rule.facts().cosmetic { "; cosmetic" } else { "" };
            for line in [
                format!("- Where it is written: {}\n", rule.section()),
                format!(
                    "- Default: request {}, response {}{cosmetic}\n",
                    action(Direction::Request),
                    action(Direction::Response)
                ),
                format!("- Example: `{}`\n", rule.example()),
                format!("- How the site mends it: {}", rule.remedy()),
            ] {
                assert!(told.contains(&line), "{rule} lacks {line}");
            }
        }
    }
}
