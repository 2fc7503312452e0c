//! How heads are judged: profiles, overrides, limits, resolved into one table of actions.

use std::fmt;
use std::str::FromStr;

use super::finding::Finding;
use super::rule::{Action, Direction, Rule, UnknownName};

/// A whole set of actions, by name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Profile {
    /// Cosmetic defects are only noted; all else is as in `Repair`.
    Observe,
    /// The default: what is unambiguous is repaired.
    #[default]
    Repair,
    /// What a strict server does: every defect refuses.
    Reject,
}

impl Profile {
    /// As in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Profile::Observe => "observe",
            Profile::Repair => "repair",
            Profile::Reject => "reject",
        }
    }

    fn action(self, rule: Rule, direction: Direction) -> Action {
        let action = match self {
            Profile::Observe => rule.least_action(direction),
            Profile::Repair => rule.default_action(direction),
            Profile::Reject => Some(Action::Refuse),
        };
        // A rule that does not exist in the direction is never asked for.
        action.unwrap_or(Action::Note)
    }
}

impl FromStr for Profile {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Profile, UnknownName> {
        [Profile::Observe, Profile::Repair, Profile::Reject]
            .into_iter()
            .find(|profile| profile.label() == name)
            .ok_or(UnknownName("profile"))
    }
}

/// Which edition of the rules judges. An update of sluss brings new editions and leaves the old
/// ones as they are: a verdict changes only when the operator changes this.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RulesVersion {
    /// The first edition.
    #[default]
    V2026_11,
}

impl RulesVersion {
    /// As in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            RulesVersion::V2026_11 => "2026-11",
        }
    }
}

impl FromStr for RulesVersion {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<RulesVersion, UnknownName> {
        if name == RulesVersion::V2026_11.label() {
            return Ok(RulesVersion::V2026_11);
        }
        Err(UnknownName("rules version"))
    }
}

/// `[headers]` of the configuration, or of one site over it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicySpec {
    /// Heads from clients.
    pub requests: Profile,
    /// Heads from endpoints.
    pub responses: Profile,
    /// A profile judged at the same time and reported, not enforced.
    pub shadow: Option<Profile>,
    /// Bytes of a canonical head; four times as many are read.
    pub head_bytes_max: usize,
    /// Field lines of a head.
    pub fields_max: usize,
    /// Single rules; later entries win. Each holds for the directions in which the rule allows it.
    pub rules: Vec<(Rule, Action)>,
    /// The edition of the rules.
    pub rules_version: RulesVersion,
}

impl Default for PolicySpec {
    fn default() -> PolicySpec {
        PolicySpec {
            requests: Profile::Repair,
            responses: Profile::Repair,
            shadow: None,
            head_bytes_max: 64 * 1024,
            fields_max: 256,
            rules: Vec::new(),
            rules_version: RulesVersion::V2026_11,
        }
    }
}

/// An override that would forward what no two readers read alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub struct LaxerThanAllowed {
    /// The rule.
    pub rule: Rule,
    /// For which direction it is too lax.
    pub direction: Direction,
    /// What was asked for.
    pub asked: Action,
    /// The laxest action the rule can have there.
    pub least: Action,
}

impl fmt::Display for LaxerThanAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cannot be laxer than \"{}\" for {}s (\"{}\" was asked): {}",
            self.rule,
            self.least.label(),
            self.direction.label(),
            self.asked.label(),
            self.rule.explain()
        )
    }
}

/// Places in a head are counted in 32 bits.
const HEAD_BYTES_CEILING: usize = 64 << 20;

type Actions = [[Action; Rule::ALL.len()]; 2];

/// What is judged at the same time and not enforced.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Shadow {
    profile: Profile,
    actions: Actions,
}

/// How heads are judged: an action for each rule and direction, and the limits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    actions: Actions,
    shadow: Option<Shadow>,
    head_bytes_max: usize,
    fields_max: usize,
}

impl Policy {
    /// Resolves what the configuration says.
    ///
    /// # Errors
    /// Every override that would be laxer than its rule allows in any direction.
    pub fn new(spec: &PolicySpec) -> Result<Policy, Vec<LaxerThanAllowed>> {
        // One edition so far: the match makes the next one say which table it takes.
        match spec.rules_version {
            RulesVersion::V2026_11 => {}
        }
        let refused: Vec<_> =
            spec.rules.iter().flat_map(|(rule, asked)| too_lax(*rule, *asked)).collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        Ok(Policy {
            actions: actions(spec.requests, spec.responses, &spec.rules),
            shadow: spec
                .shadow
                .map(|profile| Shadow { profile, actions: actions(profile, profile, &spec.rules) }),
            head_bytes_max: spec.head_bytes_max.min(HEAD_BYTES_CEILING),
            fields_max: spec.fields_max,
        })
    }

    /// What a finding leads to.
    pub fn action(&self, rule: Rule, direction: Direction) -> Action {
        self.actions[direction as usize][rule as usize]
    }

    /// Whether the shadow profile would refuse.
    pub fn shadow_refuses(&self, rule: Rule, direction: Direction) -> bool {
        self.shadow
            .as_ref()
            .is_some_and(|it| it.actions[direction as usize][rule as usize] == Action::Refuse)
    }

    /// The profile that is judged at the same time and not enforced.
    pub fn shadow(&self) -> Option<Profile> {
        self.shadow.as_ref().map(|shadow| shadow.profile)
    }

    /// A finding made outside of a head: of a body, a chunk, bytes after a message's end. `bytes`
    /// are the odd ones; they come out redacted, escaped and bounded.
    pub fn find(&self, rule: Rule, direction: Direction, field: &str, bytes: &[u8]) -> Finding {
        Finding::new(rule, self.action(rule, direction), field.as_bytes(), bytes)
            .with_shadow(self.shadow_refuses(rule, direction))
    }

    /// Bytes of a canonical head.
    pub fn head_bytes_max(&self) -> usize {
        self.head_bytes_max
    }

    /// Bytes read in search of a head's end: a read buffer must be able to hold as many.
    pub fn raw_bytes_max(&self) -> usize {
        self.head_bytes_max.saturating_mul(4)
    }

    /// Field lines of a head.
    pub fn fields_max(&self) -> usize {
        self.fields_max
    }
}

impl Default for Policy {
    /// Profile `repair`, default limits.
    fn default() -> Policy {
        let spec = PolicySpec::default();
        Policy {
            actions: actions(spec.requests, spec.responses, &[]),
            shadow: None,
            head_bytes_max: spec.head_bytes_max,
            fields_max: spec.fields_max,
        }
    }
}

/// Nothing where the rule allows the action in one direction: there it holds, in the other it does
/// not concern.
fn too_lax(rule: Rule, asked: Action) -> Vec<LaxerThanAllowed> {
    let least = |direction| Some((direction, rule.least_action(direction)?));
    let directions = || Direction::ALL.into_iter().filter_map(least);
    if directions().any(|(_, least)| asked >= least) {
        return Vec::new();
    }
    directions()
        .map(|(direction, least)| LaxerThanAllowed { rule, direction, asked, least })
        .collect()
}

fn actions(requests: Profile, responses: Profile, overrides: &[(Rule, Action)]) -> Actions {
    let mut actions = [[Action::Note; Rule::ALL.len()]; 2];
    for (direction, profile) in [(Direction::Request, requests), (Direction::Response, responses)] {
        for rule in Rule::ALL {
            actions[direction as usize][rule as usize] = profile.action(rule, direction);
        }
        for (rule, action) in overrides {
            if rule.least_action(direction).is_some_and(|least| *action >= least) {
                actions[direction as usize][*rule as usize] = *action;
            }
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(rules: &[(Rule, Action)]) -> Result<Policy, Vec<LaxerThanAllowed>> {
        Policy::new(&PolicySpec { rules: rules.to_vec(), ..PolicySpec::default() })
    }

    #[test]
    fn framing_and_authority_can_be_made_stricter_never_laxer() {
        for rule in [Rule::Host, Rule::FramingConflict, Rule::NearMissFraming, Rule::Chunk] {
            for action in [Action::Note, Action::Repair] {
                assert!(with(&[(rule, action)]).is_err(), "{rule} {action:?}");
            }
            assert!(with(&[(rule, Action::Refuse)]).is_ok(), "{rule}");
        }
        assert!(with(&[(Rule::ContentLengthList, Action::Note)]).is_err());
        let policy = with(&[(Rule::ContentLengthList, Action::Refuse)]).unwrap();
        assert_eq!(policy.action(Rule::ContentLengthList, Direction::Request), Action::Refuse);
    }

    #[test]
    fn every_override_that_is_too_lax_is_named() {
        let refused =
            with(&[(Rule::FieldNameTrailingSpace, Action::Note), (Rule::Host, Action::Note)])
                .unwrap_err();
        let named: Vec<_> = refused.iter().map(|one| (one.rule, one.direction)).collect();
        assert_eq!(
            named,
            [
                (Rule::FieldNameTrailingSpace, Direction::Request),
                (Rule::FieldNameTrailingSpace, Direction::Response),
                (Rule::Host, Direction::Request)
            ]
        );
    }

    /// So one rule can be exempted from a strict profile for responses, though requests must refuse.
    #[test]
    fn an_override_holds_for_the_directions_that_allow_it() {
        for rule in [
            Rule::FieldNameTrailingSpace,
            Rule::LeadingFold,
            Rule::BodyForbidden,
            Rule::ShadowedField,
        ] {
            let spec = PolicySpec {
                requests: Profile::Reject,
                responses: Profile::Reject,
                shadow: Some(Profile::Reject),
                rules: vec![(rule, rule.least_action(Direction::Response).unwrap())],
                ..PolicySpec::default()
            };
            let policy = Policy::new(&spec).unwrap();
            assert_eq!(policy.action(rule, Direction::Request), Action::Refuse, "{rule}");
            assert!(policy.action(rule, Direction::Response) < Action::Refuse, "{rule}");
            assert!(policy.shadow_refuses(rule, Direction::Request), "{rule}");
            assert!(!policy.shadow_refuses(rule, Direction::Response), "{rule}");
        }
    }

    #[test]
    fn profiles_differ_where_the_design_says_so() {
        let at = |profile: Profile, rule| profile.action(rule, Direction::Response);
        assert_eq!(at(Profile::Observe, Rule::ContentTypeInvalid), Action::Note);
        assert_eq!(at(Profile::Observe, Rule::ObsFold), Action::Repair);
        assert_eq!(at(Profile::Repair, Rule::ContentTypeInvalid), Action::Repair);
        for rule in Rule::ALL {
            assert_eq!(at(Profile::Reject, rule), Action::Refuse);
            for profile in [Profile::Observe, Profile::Repair] {
                assert!(Some(at(profile, rule)) >= rule.least_action(Direction::Response));
            }
        }
    }
}
