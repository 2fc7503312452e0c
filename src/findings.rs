//! What screening found in live traffic: counts, a few examples of each defect, sparse log lines.
//!
//! Everything is bounded and kept apart by site. Whoever floods one site with malformed heads can
//! push out that site's examples of the same rule and nothing else: at most [`EXAMPLES_PER_RULE`]
//! are kept of a rule and direction, [`EXAMPLES_PER_SITE`] of a site, none of them larger than
//! about a kilobyte. One log line a minute goes out for a site's rule and direction, and
//! [`LINES_PER_SECOND`] in all; what is left out is counted in the next line.
//!
//! Clean heads never come here. The clock is the caller's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::names::SiteId;
use crate::screen::{Action, Direction, Finding, Rule};

/// Examples kept of one rule and direction at one site.
pub const EXAMPLES_PER_RULE: usize = 3;

/// Examples kept of one site.
pub const EXAMPLES_PER_SITE: usize = 48;

/// Log lines a second, all sites together.
pub const LINES_PER_SECOND: u32 = 20;

/// Between two log lines of a site's rule and direction.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes kept of the texts that come from outside.
const TEXT_BYTES_MAX: usize = 256;

const RULES: usize = Rule::ALL.len();
const KINDS: usize = RULES * 2;
const ACTIONS: [Action; 3] = [Action::Note, Action::Repair, Action::Refuse];

/// The findings of all sites. Shared by all threads; outlives reloads.
#[derive(Debug, Default)]
pub struct FindingsStore {
    /// `None` gathers heads whose site is not known: refused before their Host was read.
    sites: RwLock<HashMap<Option<SiteId>, Arc<SiteFindings>>>,
    lines: Mutex<LineBudget>,
}

/// Where and when a finding was made.
#[derive(Clone, Copy, Debug)]
pub struct FindingContext<'a> {
    /// The request line, escaped, without its query: what `Refused::start_line` holds, or method
    /// and path.
    pub request_line: &'a str,
    /// The endpoint, for a response.
    pub upstream: Option<&'a str>,
    /// The request's id.
    pub request_id: &'a str,
    /// The time.
    pub now: SystemTime,
}

/// One line of the report: how often a site broke a rule, and what was done.
#[derive(Clone, Debug, Serialize)]
pub struct FindingCount {
    /// `None` where no site was known.
    pub site: Option<String>,
    /// Which way the heads went.
    pub direction: Direction,
    /// Which rule.
    pub rule: Rule,
    /// What was done.
    pub action: Action,
    /// How often since the start.
    pub count: u64,
    /// How often the shadow profile would have refused.
    pub shadow_refused: u64,
    /// The latest few, newest first.
    pub examples: Vec<Example>,
}

/// One odd head: redacted, escaped, bounded.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Example {
    /// The field's name.
    pub field: String,
    /// The bytes around the defect.
    pub excerpt: String,
    /// The same in hex; empty where they are redacted.
    pub hex: String,
    /// The last request line it was seen with.
    pub request_line: String,
    /// The endpoint it came from.
    pub upstream: Option<String>,
    /// The last request it was seen with.
    pub request_id: String,
    /// Unix time, seconds.
    pub first_seen: u64,
    /// Unix time, seconds.
    pub last_seen: u64,
    /// How often this very defect was seen since `first_seen`.
    pub times: u64,
}

#[derive(Debug)]
struct SiteFindings {
    /// By kind and action.
    counts: [[AtomicU64; ACTIONS.len()]; KINDS],
    shadow_refused: [[AtomicU64; ACTIONS.len()]; KINDS],
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    examples: Vec<Kept>,
    lines: [Line; KINDS],
}

#[derive(Debug)]
struct Kept {
    kind: usize,
    action: Action,
    example: Example,
}

/// Logging of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    last: Option<SystemTime>,
    left_out: u64,
}

#[derive(Debug, Default)]
struct LineBudget {
    second: u64,
    spent: u32,
}

impl FindingsStore {
    /// Takes the findings of one head or body.
    pub fn record(
        &self,
        site: Option<&SiteId>,
        direction: Direction,
        findings: &[Finding],
        context: FindingContext<'_>,
    ) {
        if findings.is_empty() {
            return;
        }
        let kept = self.site(site);
        for finding in findings {
            let kind = kind(finding.rule, direction);
            let action = finding.action as usize;
            kept.counts[kind][action].fetch_add(1, Ordering::Relaxed);
            if finding.shadow_refuses {
                kept.shadow_refused[kind][action].fetch_add(1, Ordering::Relaxed);
            }
            let mut recent = unpoisoned(kept.recent.lock());
            recent.keep(kind, finding, context);
            if let Some(left_out) = recent.lines[kind].due(context.now, &self.lines) {
                drop(recent);
                log(site, direction, finding, (context, left_out));
            }
        }
    }

    /// Every count that is not 0, by site, direction, rule, action; with examples.
    pub fn report(&self) -> Vec<FindingCount> {
        self.collect(Recent::examples)
    }

    /// As `report`, without examples: for metrics.
    pub fn counts(&self) -> Vec<FindingCount> {
        self.collect(|_, _, _| Vec::new())
    }

    /// Forgets the sites that are gone. Call after a reload.
    pub fn retain(&self, is_present: impl Fn(&SiteId) -> bool) {
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        sites.retain(|site, _| site.as_ref().is_none_or(&is_present));
    }

    fn site(&self, site: Option<&SiteId>) -> Arc<SiteFindings> {
        let key = site.cloned();
        let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = sites.get(&key) {
            return Arc::clone(found);
        }
        drop(sites);
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sites.entry(key).or_default())
    }

    fn collect(
        &self,
        examples: impl Fn(&Recent, usize, Action) -> Vec<Example>,
    ) -> Vec<FindingCount> {
        let sites: Vec<_> = {
            let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
            sites.iter().map(|(name, site)| (name.clone(), Arc::clone(site))).collect()
        };
        let mut counts = Vec::new();
        for (name, site) in sites {
            let recent = unpoisoned(site.recent.lock());
            for (direction, rule, action) in all_kinds() {
                let kind = kind(rule, direction);
                let count = site.counts[kind][action as usize].load(Ordering::Relaxed);
                if count > 0 {
                    let shadow = &site.shadow_refused[kind][action as usize];
                    counts.push(FindingCount {
                        site: name.as_ref().map(|site| site.as_str().to_owned()),
                        direction,
                        rule,
                        action,
                        count,
                        shadow_refused: shadow.load(Ordering::Relaxed),
                        examples: examples(&recent, kind, action),
                    });
                }
            }
        }
        counts.sort_by(|a, b| {
            (&a.site, a.direction, a.rule, a.action).cmp(&(&b.site, b.direction, b.rule, b.action))
        });
        counts
    }
}

impl Default for SiteFindings {
    fn default() -> SiteFindings {
        let zeroes = || std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        let recent = Recent { examples: Vec::new(), lines: [Line::default(); KINDS] };
        SiteFindings { counts: zeroes(), shadow_refused: zeroes(), recent: Mutex::new(recent) }
    }
}

impl Recent {
    fn keep(&mut self, kind: usize, finding: &Finding, context: FindingContext<'_>) {
        let now = unix(context.now);
        let same = self.examples.iter_mut().find(|kept| {
            kept.kind == kind
                && kept.action == finding.action
                && kept.example.field == finding.field
                && kept.example.excerpt == finding.excerpt
        });
        if let Some(kept) = same {
            kept.example.seen_again(context, now);
            return;
        }
        let example = Example {
            field: finding.field.clone(),
            excerpt: finding.excerpt.clone(),
            hex: finding.hex.clone(),
            request_line: bounded(context.request_line),
            upstream: context.upstream.map(bounded),
            request_id: bounded(context.request_id),
            first_seen: now,
            last_seen: now,
            times: 1,
        };
        let kept = Kept { kind, action: finding.action, example };
        match self.victim(kind) {
            Some(at) => self.examples[at] = kept,
            None => self.examples.push(kept),
        }
    }

    /// Which example gives way to a new one of `kind`: the oldest of the kind where it has its
    /// share; where the site has its share, the oldest of all.
    fn victim(&self, kind: usize) -> Option<usize> {
        let oldest = |of: &dyn Fn(&Kept) -> bool| {
            let candidates = self.examples.iter().enumerate().filter(|(_, kept)| of(kept));
            candidates.min_by_key(|(_, kept)| kept.example.last_seen).map(|(at, _)| at)
        };
        let of_kind = self.examples.iter().filter(|kept| kept.kind == kind).count();
        if of_kind >= EXAMPLES_PER_RULE {
            return oldest(&|kept| kept.kind == kind);
        }
        if self.examples.len() >= EXAMPLES_PER_SITE { oldest(&|_| true) } else { None }
    }

    fn examples(&self, kind: usize, action: Action) -> Vec<Example> {
        let of_kind =
            self.examples.iter().filter(|kept| kept.kind == kind && kept.action == action);
        let mut examples: Vec<Example> = of_kind.map(|kept| kept.example.clone()).collect();
        examples.sort_by_key(|example| std::cmp::Reverse(example.last_seen));
        examples
    }
}

impl Example {
    fn seen_again(&mut self, context: FindingContext<'_>, now: u64) {
        self.last_seen = now;
        self.times += 1;
        again(&mut self.request_line, context.request_line);
        again(&mut self.request_id, context.request_id);
        match (&mut self.upstream, context.upstream) {
            (Some(kept), Some(upstream)) => again(kept, upstream),
            (kept, upstream) => *kept = upstream.map(bounded),
        }
    }
}

impl Line {
    /// Whether a line is due: then how many were left out since the last.
    fn due(&mut self, now: SystemTime, budget: &Mutex<LineBudget>) -> Option<u64> {
        let waits = self
            .last
            .is_some_and(|last| now.duration_since(last).is_ok_and(|since| since < LINE_INTERVAL));
        if waits || !unpoisoned(budget.lock()).spend(unix(now)) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl LineBudget {
    fn spend(&mut self, second: u64) -> bool {
        if self.second != second {
            *self = LineBudget { second, spent: 0 };
        }
        self.spent += 1;
        self.spent <= LINES_PER_SECOND
    }
}

fn log(
    site: Option<&SiteId>,
    direction: Direction,
    finding: &Finding,
    (context, left_out): (FindingContext<'_>, u64),
) {
    let site = site.map_or("", SiteId::as_str);
    let (rule, action) = (finding.rule.code(), finding.action.label());
    let (direction, upstream) = (direction.label(), context.upstream.unwrap_or_default());
    // A refused message is somebody's broken page: it is told louder than what was mended.
    if finding.action == Action::Refuse {
        tracing::warn!(
            site,
            direction,
            rule,
            action,
            field = finding.field,
            excerpt = finding.excerpt,
            request = context.request_line,
            upstream,
            request_id = context.request_id,
            left_out,
            "malformed head refused"
        );
    } else {
        tracing::info!(
            site,
            direction,
            rule,
            action,
            field = finding.field,
            excerpt = finding.excerpt,
            request = context.request_line,
            upstream,
            request_id = context.request_id,
            left_out,
            "malformed head"
        );
    }
}

fn kind(rule: Rule, direction: Direction) -> usize {
    direction as usize * RULES + rule as usize
}

fn all_kinds() -> impl Iterator<Item = (Direction, Rule, Action)> {
    Direction::ALL.into_iter().flat_map(|direction| {
        Rule::ALL
            .into_iter()
            .flat_map(move |rule| ACTIONS.into_iter().map(move |action| (direction, rule, action)))
    })
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// [`bounded`] into the memory that is there.
fn again(kept: &mut String, text: &str) {
    kept.clear();
    kept.push_str(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)]);
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The data is only ever replaced whole: a panic elsewhere leaves nothing half done.
fn unpoisoned<'a, T>(
    locked: Result<MutexGuard<'a, T>, PoisonError<MutexGuard<'a, T>>>,
) -> MutexGuard<'a, T> {
    locked.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::Policy;

    fn finding(rule: Rule, field: &str) -> Finding {
        Policy::default().find(rule, Direction::Response, field, b"x\x01")
    }

    fn context(seconds: u64) -> FindingContext<'static> {
        FindingContext {
            request_line: "GET /a",
            upstream: Some("http://127.0.0.1:1"),
            request_id: "id",
            now: UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    fn site(name: &str) -> SiteId {
        SiteId::parse(name).unwrap()
    }

    #[test]
    fn the_same_defect_is_one_example_seen_often() {
        let store = FindingsStore::default();
        for second in 10..20 {
            let found = [finding(Rule::FieldValueControl, "x-note")];
            store.record(Some(&site("a")), Direction::Response, &found, context(second));
        }
        let report = store.report();
        assert_eq!((report.len(), report[0].count), (1, 10));
        let example = &report[0].examples[0];
        assert_eq!((example.first_seen, example.last_seen, example.times), (10, 19, 10));
        assert_eq!(example.excerpt, r"x\x01");
        assert_eq!(example.hex, "78 01");
    }

    #[test]
    fn a_flood_at_one_rule_leaves_other_rules_and_sites_alone() {
        let store = FindingsStore::default();
        let quiet = [finding(Rule::ObsFold, "x-quiet")];
        store.record(Some(&site("a")), Direction::Response, &quiet, context(1));
        store.record(Some(&site("b")), Direction::Response, &quiet, context(1));
        for at in 0..1000 {
            let loud = [finding(Rule::FieldValueControl, &format!("x-{at}"))];
            store.record(Some(&site("a")), Direction::Response, &loud, context(2 + at));
        }
        let report = store.report();
        let examples: Vec<_> =
            report.iter().map(|row| (row.site.as_deref(), row.rule, row.examples.len())).collect();
        assert_eq!(
            examples,
            [
                (Some("a"), Rule::FieldValueControl, EXAMPLES_PER_RULE),
                (Some("a"), Rule::ObsFold, 1),
                (Some("b"), Rule::ObsFold, 1),
            ]
        );
        assert_eq!(report[0].examples[0].field, "x-999");
    }

    #[test]
    fn a_site_keeps_a_bounded_number_of_examples() {
        let store = FindingsStore::default();
        for rule in Rule::ALL {
            for at in 0..EXAMPLES_PER_RULE {
                for direction in Direction::ALL {
                    let found = [finding(rule, &at.to_string())];
                    store.record(None, direction, &found, context(at as u64));
                }
            }
        }
        let kept: usize = store.report().iter().map(|row| row.examples.len()).sum();
        assert_eq!(kept, EXAMPLES_PER_SITE);
        assert!(store.counts().iter().all(|row| row.examples.is_empty() && row.site.is_none()));
    }

    #[test]
    fn log_lines_are_rare_and_tell_what_was_left_out() {
        let budget = Mutex::default();
        let mut line = Line::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(line.due(at(100), &budget), Some(0));
        assert_eq!(line.due(at(101), &budget), None);
        assert_eq!(line.due(at(159), &budget), None);
        assert_eq!(line.due(at(160), &budget), Some(2));
        let mut others = [Line::default(); 2 * LINES_PER_SECOND as usize];
        let written = others.iter_mut().filter_map(|line| line.due(at(200), &budget)).count();
        assert_eq!(written, LINES_PER_SECOND as usize);
    }

    #[test]
    fn sites_that_are_gone_are_forgotten() {
        let store = FindingsStore::default();
        let found = [finding(Rule::ObsFold, "x")];
        for name in ["a", "b"] {
            store.record(Some(&site(name)), Direction::Response, &found, context(1));
        }
        store.record(None, Direction::Response, &found, context(1));
        store.retain(|site| site.as_str() == "b");
        let left: Vec<_> = store.report().into_iter().map(|row| row.site).collect();
        assert_eq!(left, [None, Some("b".to_owned())]);
    }
}
