//! `[headers]`, and a site's `headers` and `rules`: what the screener is told.

use std::sync::Arc;

use super::walk::{Table, Value, nearest};
use crate::screen::{Action, Policy, PolicySpec, Profile, Rule, RulesVersion};

/// Smaller heads than this break browsers; larger ones are an attack.
const HEAD_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 20;

/// `[headers]`, with a site's overrides where it is a site's.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    spec: PolicySpec,
    policy: Arc<Policy>,
}

/// The policy follows from the rest.
impl PartialEq for Headers {
    fn eq(&self, other: &Headers) -> bool {
        self.spec == other.spec
    }
}

impl Headers {
    /// These, with what `table` and `rules` say instead; rules that stand in both are the latter's.
    pub fn overridden(&self, table: &Table<'_>, rules: Option<Value<'_>>) -> Headers {
        let base = &self.spec;
        let size = table.value("max_head").and_then(|value| value.size(HEAD_BYTES));
        let fields = table.value("max_fields").and_then(|value| value.integer(1..=10_000));
        let versions = [RulesVersion::V2026_11].map(|version| (version.label(), version));
        let version = table.value("rules_version").and_then(|value| value.one_of(&versions));
        let mut spec = PolicySpec {
            requests: profile(table, "requests").unwrap_or(base.requests),
            responses: profile(table, "responses").unwrap_or(base.responses),
            shadow: shadow(table, base.shadow),
            head_bytes_max: size.and_then(to_usize).unwrap_or(base.head_bytes_max),
            fields_max: fields.and_then(to_usize).unwrap_or(base.fields_max),
            rules: base.rules.clone(),
            rules_version: version.unwrap_or(base.rules_version),
        };
        let own = rules.map(|value| read_rules(&value)).unwrap_or_default();
        spec.rules.extend(own.iter().map(|(rule, action, _)| (*rule, *action)));
        if spec == *base {
            return self.clone();
        }
        match Policy::new(&spec) {
            Ok(policy) => Headers { spec, policy: Arc::new(policy) },
            Err(refused) => {
                // One for each direction; the first says enough.
                for (rule, _, value) in &own {
                    if let Some(laxer) = refused.iter().find(|laxer| laxer.rule == *rule) {
                        value.problem(laxer.to_string(), "take it out, or make it stricter");
                    }
                }
                self.clone()
            }
        }
    }

    /// What the screener runs on; the same one for all sites that override nothing.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }
}

fn profiles() -> [(&'static str, Profile); 3] {
    [Profile::Observe, Profile::Repair, Profile::Reject].map(|profile| (profile.label(), profile))
}

fn profile(table: &Table<'_>, key: &'static str) -> Option<Profile> {
    table.value(key)?.one_of(&profiles())
}

/// An empty text judges nothing beside, also where the main file does.
fn shadow(table: &Table<'_>, base: Option<Profile>) -> Option<Profile> {
    match table.value("shadow") {
        None => base,
        Some(_) => table.text("shadow").and_then(|(value, _)| value.one_of(&profiles())),
    }
}

/// The single rules, and where each stands.
fn read_rules<'d>(value: &Value<'d>) -> Vec<(Rule, Action, Value<'d>)> {
    let expected = "a table of rules, as { obs-fold = \"refuse\" }";
    let codes = Rule::ALL.map(Rule::code);
    let actions = [Action::Note, Action::Repair, Action::Refuse];
    let actions = actions.map(|action| (action.label(), action));
    let mut rules = Vec::new();
    for (name, value) in value.entries(expected).into_iter().flatten() {
        let Ok(rule) = name.parse::<Rule>() else {
            let near = nearest(name, &codes).map(|near| format!("did you mean {near}?"));
            let remedy = near.unwrap_or_else(|| "docs/screening.md lists the rules".to_string());
            value.problem("no such rule".to_string(), &remedy);
            continue;
        };
        if let Some(action) = value.one_of(&actions) {
            rules.push((rule, action, value));
        }
    }
    rules
}

fn to_usize(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}
