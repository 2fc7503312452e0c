//! `[headers]`, and a site's `headers` and `rules`: what the screener is told.

use std::sync::Arc;

use super::file::clamp_u32;
use super::walk::Table;
use crate::screen::{Policy, PolicySpec, Profile};

/// `[headers]` with a site's overrides applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Headers {
    requests: &'static str,
    responses: &'static str,
    shadow: Option<&'static str>,
    head_bytes_max: u64,
    fields_max: u32,
    rules: Vec<(&'static str, &'static str)>,
}

const PROFILES: &[(&str, &str)] =
    &[("observe", "observe"), ("repair", "repair"), ("reject", "reject")];

impl Default for Headers {
    fn default() -> Headers {
        Headers {
            requests: "repair",
            responses: "repair",
            shadow: None,
            head_bytes_max: 64 << 10,
            fields_max: 256,
            rules: Vec::new(),
        }
    }
}

impl Headers {
    /// These, with what `table` says instead.
    pub fn overridden(&self, table: &Table<'_>) -> Headers {
        let profile = |key| table.value(key).and_then(|value| value.one_of(PROFILES));
        Headers {
            requests: profile("requests").unwrap_or(self.requests),
            responses: profile("responses").unwrap_or(self.responses),
            shadow: self.shadow,
            head_bytes_max: table
                .value("max_head")
                .and_then(|value| value.size(1 << 10..=1 << 20))
                .unwrap_or(self.head_bytes_max),
            fields_max: clamp_u32(table.integer("max_fields", 1..=10_000, self.fields_max.into())),
            rules: self.rules.clone(),
        }
    }

    /// What the screener runs on.
    pub fn policy(&self) -> Arc<Policy> {
        let profile = |name: &str| name.parse::<Profile>().unwrap_or_default();
        let spec = PolicySpec {
            requests: profile(self.requests),
            responses: profile(self.responses),
            shadow: self.shadow.map(profile),
            head_bytes_max: usize::try_from(self.head_bytes_max).unwrap_or(usize::MAX),
            fields_max: self.fields_max as usize,
            ..PolicySpec::default()
        };
        Arc::new(Policy::new(&spec).unwrap_or_default())
    }
}
