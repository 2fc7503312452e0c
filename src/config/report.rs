//! The report of a reload: what was asked, what came of it, what is different now.
//!
//! Written by the edge, read by `sluss reload`, the admin page and scripts; so it is data first,
//! and [`Report::text`] is one way to show it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Snapshot;
use super::load::Outcome;
use crate::problem::Problem;
use crate::sites::Site;

/// Names told in the text, of each kind of change; the data has all of them.
const NAMES_SHOWN_MAX: usize = 20;

/// Problems told in the text, worst first; the data has all of them.
const PROBLEMS_SHOWN_MAX: usize = 50;

/// The outcome of one reload.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// Whether it was applied.
    pub result: ReloadResult,
    /// The generation that serves now.
    pub generation: u64,
    /// How long it took.
    pub seconds: f64,
    /// What is different now.
    pub changes: Changes,
    /// The parts whose last good version stays.
    pub kept: Vec<String>,
    /// The parts that are not served for want of one.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Everything that is wrong or worth knowing.
    pub problems: Vec<Problem>,
}

/// Whether a reload was applied.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// Everything as the files say.
    Applied,
    /// Some parts stay at their last good version, or are left out.
    Partly,
    /// Nothing changed: the old snapshot serves on.
    Refused,
}

/// What is different from one snapshot to the next.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Changes {
    /// Sites.
    pub sites: Difference,
    /// Certificates.
    pub certificates: Difference,
}

/// Names that came, changed or went.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Difference {
    /// New ones.
    pub added: Vec<String>,
    /// Those with other content.
    pub changed: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
}

impl Report {
    /// The report of an attempt that took `elapsed`; `generation` serves now.
    pub fn new(outcome: &Outcome, generation: u64, elapsed: Duration) -> Report {
        let broken = outcome.problems.iter().any(Problem::is_harmful);
        let result = match outcome.snapshot {
            None => ReloadResult::Refused,
            Some(_) if broken || !outcome.kept.is_empty() => ReloadResult::Partly,
            Some(_) => ReloadResult::Applied,
        };
        Report {
            result,
            generation,
            seconds: elapsed.as_secs_f64(),
            changes: outcome.changes.clone(),
            kept: outcome.kept.clone(),
            absent: outcome.absent.clone(),
            problems: outcome.problems.clone(),
        }
    }

    /// What of the configuration cannot be used and has no last good version, and why. Broken
    /// certificates are not among it: the store of certificates has them.
    pub fn unserved(&self) -> Vec<(String, String)> {
        let harmful = self.problems.iter().filter(|problem| problem.is_harmful());
        let part = |problem: &Problem| match &problem.site {
            Some(site) => Some(format!("site {site}")),
            None => Some(problem.key.clone()).filter(|key| !key.is_empty()),
        };
        let mut unserved: BTreeMap<String, String> = BTreeMap::new();
        for problem in harmful {
            let Some(part) = part(problem).filter(|part| !self.keeps(part, problem)) else {
                continue;
            };
            unserved.entry(part).or_insert_with(|| problem.to_string());
        }
        unserved.into_iter().collect()
    }

    fn keeps(&self, part: &str, problem: &Problem) -> bool {
        let file = problem.file.to_string_lossy();
        self.kept.iter().any(|kept| match kept.strip_prefix(part) {
            Some("") => true,
            // A key, and the one of its files or listeners that is kept.
            Some(rest) => {
                rest.strip_prefix(' ').is_some_and(|of| of == file || part.starts_with("listen."))
            }
            None => false,
        })
    }

    /// What `sluss reload` exits with.
    pub fn exit_code(&self) -> u8 {
        match self.result {
            ReloadResult::Applied => 0,
            ReloadResult::Refused => 1,
            ReloadResult::Partly => 3,
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.headline());
        for (kind, difference) in
            [("sites", &self.changes.sites), ("certificates", &self.changes.certificates)]
        {
            difference.write(kind, &mut text);
        }
        for kept in &self.kept {
            let _ = writeln!(text, "kept at its last good version: {kept}");
        }
        for absent in &self.absent {
            let _ = writeln!(text, "not served: {absent}");
        }
        let mut problems: Vec<&Problem> = self.problems.iter().collect();
        problems.sort_by_key(|problem| Reverse(problem.severity));
        for problem in problems.iter().take(PROBLEMS_SHOWN_MAX) {
            let _ = writeln!(text, "{}: {problem}", problem.severity.label());
        }
        let more = self.problems.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(text, "and {more} more: sluss check lists them");
        }
        text
    }

    fn headline(&self) -> String {
        let (generation, seconds) = (self.generation, self.seconds);
        match self.result {
            ReloadResult::Applied => {
                format!("applied: generation {generation} serves ({seconds:.3} s)")
            }
            ReloadResult::Partly => {
                format!(
                    "applied in part: generation {generation} serves, see below ({seconds:.3} s)"
                )
            }
            ReloadResult::Refused => {
                format!("refused: generation {generation} serves on ({seconds:.3} s)")
            }
        }
    }
}

impl Changes {
    /// Nothing is different.
    pub fn none() -> Changes {
        Changes::default()
    }
}

impl Difference {
    /// Of the sites; those that are shared with the previous snapshot did not change.
    pub fn of_sites(previous: Option<&Snapshot>, new: &Snapshot) -> Difference {
        if previous.is_some_and(|previous| previous.sites.shares_index(&new.sites)) {
            return Difference::default();
        }
        Difference::between(previous.map(sites).unwrap_or_default(), sites(new))
    }

    /// Compares two maps from a name to something that differs where the content does.
    pub fn between<T: PartialEq>(old: BTreeMap<&str, T>, new: BTreeMap<&str, T>) -> Difference {
        let mut difference = Difference::default();
        for (name, content) in &new {
            match old.get(name) {
                None => difference.added.push((*name).to_string()),
                Some(before) if before != content => {
                    difference.changed.push((*name).to_string());
                }
                Some(_) => {}
            }
        }
        let gone = old.keys().filter(|name| !new.contains_key(*name));
        difference.removed.extend(gone.map(|name| (*name).to_string()));
        difference
    }

    fn write(&self, kind: &str, text: &mut String) {
        let parts =
            [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        for (what, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
            let shown = &names[..names.len().min(NAMES_SHOWN_MAX)];
            let more = names.len() - shown.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = writeln!(text, "{kind} {what}: {}{more}", shown.join(", "));
        }
    }
}

/// The sites by name; two of one name are the same where their address is.
fn sites(snapshot: &Snapshot) -> BTreeMap<&str, *const Site> {
    snapshot.sites.all().iter().map(|site| (site.id.as_str(), Arc::as_ptr(site))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kept: &[&str]) -> Outcome {
        let kept = kept.iter().map(ToString::to_string).collect();
        Outcome { kept, ..Outcome::default() }
    }

    #[test]
    fn a_difference_names_what_came_changed_and_went() {
        let old = BTreeMap::from([("a", 1), ("b", 1), ("c", 1)]);
        let new = BTreeMap::from([("b", 1), ("c", 2), ("d", 1)]);
        let found = Difference::between(old, new);
        let names = |name: &str| vec![name.to_string()];
        let expected = Difference { added: names("d"), changed: names("c"), removed: names("a") };
        assert_eq!(found, expected);
    }

    #[test]
    fn without_a_snapshot_a_reload_is_refused() {
        let report = Report::new(&outcome(&[]), 7, Duration::from_millis(12));
        assert_eq!((report.result, report.exit_code()), (ReloadResult::Refused, 1));
        assert_eq!(report.text(), "refused: generation 7 serves on (0.012 s)\n");
    }

    #[test]
    fn a_report_survives_its_way_to_the_command() {
        let report = Report::new(&outcome(&["site a"]), 2, Duration::from_secs(1));
        let json = serde_json::to_string(&report).unwrap();
        let read: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(read.kept, ["site a"]);
        assert_eq!(read.generation, 2);
    }
}
