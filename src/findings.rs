//! What screening found in live traffic: counts, a few examples of each defect, sparse log lines.
//!
//! Everything is bounded and kept apart by site. Whoever floods one site with malformed heads can
//! push out that site's examples and no other's: at most [`EXAMPLES_PER_RULE`] are kept of a rule
//! and direction, [`EXAMPLES_PER_SITE`] of a site, none of them larger than about a kilobyte.
//! Whoever floods many sites finds [`EXAMPLES_MAX`] kept in all; from then on a site that has
//! [`EXAMPLES_ALWAYS`] gives up one of its own for each new one. Counts take 32 bytes for each rule
//! and action seen at a site. One log line a minute goes out for a site's rule, direction and
//! action, and [`LINES_PER_SECOND`] in all; what is left out is counted in the next line.
//!
//! Clean heads never come here. The clock is the caller's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::names::SiteId;
use crate::screen::{Action, Direction, Finding, Rule};

/// Examples kept of one rule and direction at one site.
pub const EXAMPLES_PER_RULE: usize = 3;

/// Examples kept of one site.
pub const EXAMPLES_PER_SITE: usize = 48;

/// Examples kept of all sites together: some 12 MiB.
pub const EXAMPLES_MAX: usize = 16_384;

/// Examples that a site may have whatever is kept of others.
pub const EXAMPLES_ALWAYS: usize = 2;

/// Log lines a second, all sites together.
pub const LINES_PER_SECOND: u32 = 20;

/// Between two log lines of a site's rule, direction and action, in seconds.
const LINE_INTERVAL: u64 = 60;

/// Bytes kept of the texts that come from outside.
const TEXT_BYTES_MAX: usize = 256;

/// The findings of all sites. Shared by all threads; outlives reloads.
#[derive(Debug, Default)]
pub struct FindingsStore {
    /// `None` gathers heads whose site is not known: refused before their Host was read.
    sites: RwLock<HashMap<Option<SiteId>, Arc<Mutex<SiteFindings>>>>,
    /// Examples of all sites. Threads that look at it at once may go beyond the bound by one each.
    examples: AtomicUsize,
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

/// What a rule's findings come to: which way the head went, which rule, what was done.
type Kind = (Direction, Rule, Action);

#[derive(Debug, Default)]
struct SiteFindings {
    /// One for each kind that was seen: a site's code has few defects.
    seen: Vec<Seen>,
    examples: Vec<Kept>,
}

#[derive(Debug)]
struct Seen {
    kind: Kind,
    count: u64,
    shadow_refused: u64,
    line: Line,
}

#[derive(Debug)]
struct Kept {
    kind: Kind,
    example: Example,
}

/// Logging of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Unix time, seconds; 0 before the first.
    last: u32,
    left_out: u32,
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
        let of_site = self.site(site);
        for finding in findings {
            let kind = (direction, finding.rule, finding.action);
            let mut kept = unpoisoned(of_site.lock());
            kept.keep(kind, finding, (context, &self.examples));
            let seen = kept.seen(kind);
            seen.count += 1;
            seen.shadow_refused += u64::from(finding.shadow_refuses);
            if let Some(left_out) = seen.line.due(context.now, &self.lines) {
                drop(kept);
                log(site, direction, finding, (context, left_out));
            }
        }
    }

    /// Every count that is not 0, by site, direction, rule, action; with examples.
    pub fn report(&self) -> Vec<FindingCount> {
        self.collect(SiteFindings::examples)
    }

    /// As `report`, without examples: for metrics.
    pub fn counts(&self) -> Vec<FindingCount> {
        self.collect(|_, _| Vec::new())
    }

    /// Forgets the sites that are gone. Call after a reload.
    pub fn retain(&self, is_present: impl Fn(&SiteId) -> bool) {
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        sites.retain(|site, kept| {
            let stays = site.as_ref().is_none_or(&is_present);
            if !stays {
                // What a request that is on its way adds to it now stays counted: at most a few.
                self.examples.fetch_sub(unpoisoned(kept.lock()).examples.len(), Relaxed);
            }
            stays
        });
    }

    fn site(&self, site: Option<&SiteId>) -> Arc<Mutex<SiteFindings>> {
        let key = site.cloned();
        let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = sites.get(&key) {
            return Arc::clone(found);
        }
        drop(sites);
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sites.entry(key).or_default())
    }

    fn collect(&self, examples: impl Fn(&SiteFindings, Kind) -> Vec<Example>) -> Vec<FindingCount> {
        let sites: Vec<_> = {
            let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
            sites.iter().map(|(name, site)| (name.clone(), Arc::clone(site))).collect()
        };
        let mut counts = Vec::new();
        for (name, site) in sites {
            let kept = unpoisoned(site.lock());
            counts.extend(kept.seen.iter().map(|seen| FindingCount {
                site: name.as_ref().map(|site| site.as_str().to_owned()),
                direction: seen.kind.0,
                rule: seen.kind.1,
                action: seen.kind.2,
                count: seen.count,
                shadow_refused: seen.shadow_refused,
                examples: examples(&kept, seen.kind),
            }));
        }
        counts.sort_by(|a, b| {
            (&a.site, a.direction, a.rule, a.action).cmp(&(&b.site, b.direction, b.rule, b.action))
        });
        counts
    }
}

impl SiteFindings {
    fn seen(&mut self, kind: Kind) -> &mut Seen {
        let at = self.seen.iter().position(|seen| seen.kind == kind).unwrap_or_else(|| {
            self.seen.push(Seen { kind, count: 0, shadow_refused: 0, line: Line::default() });
            self.seen.len() - 1
        });
        &mut self.seen[at]
    }

    fn keep(
        &mut self,
        kind: Kind,
        finding: &Finding,
        (context, total): (FindingContext<'_>, &AtomicUsize),
    ) {
        let now = unix(context.now);
        let same = self.examples.iter_mut().find(|kept| {
            kept.kind == kind
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
        let kept = Kept { kind, example };
        match self.victim(kind, total.load(Relaxed) < EXAMPLES_MAX) {
            Some(at) => self.examples[at] = kept,
            None => {
                self.examples.push(kept);
                total.fetch_add(1, Relaxed);
            }
        }
    }

    /// Which example gives way to a new one of `kind`: the oldest of its rule and direction where
    /// they have their share; where the site has its share, or more than it always may and there is
    /// no room in all, the oldest of all.
    fn victim(&self, (direction, rule, _): Kind, is_room: bool) -> Option<usize> {
        let oldest = |of: &dyn Fn(&Kept) -> bool| {
            let candidates = self.examples.iter().enumerate().filter(|(_, kept)| of(kept));
            candidates.min_by_key(|(_, kept)| kept.example.last_seen).map(|(at, _)| at)
        };
        let same = |kept: &Kept| (kept.kind.0, kept.kind.1) == (direction, rule);
        let share = if is_room { EXAMPLES_PER_SITE } else { EXAMPLES_ALWAYS };
        if self.examples.iter().filter(|kept| same(kept)).count() >= EXAMPLES_PER_RULE {
            return oldest(&same);
        }
        if self.examples.len() >= share { oldest(&|_| true) } else { None }
    }

    fn examples(&self, kind: Kind) -> Vec<Example> {
        let of_kind = self.examples.iter().filter(|kept| kept.kind == kind);
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
    fn due(&mut self, now: SystemTime, budget: &Mutex<LineBudget>) -> Option<u32> {
        let second = unix(now);
        let waits = self.last > 0 && second.saturating_sub(u64::from(self.last)) < LINE_INTERVAL;
        if waits || !unpoisoned(budget.lock()).spend(second) {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.last = u32::try_from(second).unwrap_or(u32::MAX);
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
    (context, left_out): (FindingContext<'_>, u32),
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
    use std::time::Duration;

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
    fn a_flood_over_many_sites_is_bounded_and_a_site_behind_it_still_has_its_examples() {
        let store = FindingsStore::default();
        let all = || store.report().iter().map(|row| row.examples.len()).sum::<usize>();
        let sites = 5_000;
        let rules = [Rule::ObsFold, Rule::FieldValueControl, Rule::FieldNameInvalid];
        for at in 0..sites {
            let site = site(&format!("s{at}"));
            for (rule, field) in rules.iter().flat_map(|rule| [(rule, "x"), (rule, "y")]) {
                let found = [finding(*rule, field)];
                store.record(Some(&site), Direction::Request, &found, context(1));
            }
        }
        let flooded = all();
        assert!(flooded >= EXAMPLES_MAX, "{flooded}");
        assert!(flooded <= EXAMPLES_MAX + sites * EXAMPLES_ALWAYS, "{flooded}");
        let own = site("last");
        for (second, field) in [(2, "first"), (3, "second"), (4, "third")] {
            let found = [finding(Rule::ObsFold, field)];
            store.record(Some(&own), Direction::Response, &found, context(second));
        }
        let row = store.report().into_iter().find(|row| row.site.as_deref() == Some("last"));
        let row = row.unwrap();
        let fields: Vec<_> = row.examples.iter().map(|example| example.field.as_str()).collect();
        assert_eq!((row.count, fields), (3, vec!["third", "second"]));
        store.retain(|site| *site == own);
        assert_eq!((all(), store.examples.load(Relaxed)), (2, 2));
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
