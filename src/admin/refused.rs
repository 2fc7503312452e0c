//! Log lines about connections that were turned away: they have no line in the access log.
//!
//! Pure: time and counters are arguments. The lines are drawn from the counters, once a second, so
//! that a flood costs no line of its own on the way of a connection. Bounded: a reason is told at
//! most every [`EVERY`], with at most [`SITES_MAX`] sites by name.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::refusal::Refusal;

/// Between two tellings of one reason.
const EVERY: Duration = Duration::from_secs(10);

/// Sites of one reason that have a line of their own, those with the most first.
const SITES_MAX: usize = 10;

/// Reasons for which a connection ends before there is a request that could be logged.
pub(super) const CONNECTIONS_REFUSED: &[Refusal] = &[
    Refusal::ConnectionLimit,
    Refusal::ClientConnectionLimit,
    Refusal::SiteConnectionLimit,
    Refusal::ProxyHeader,
    Refusal::HelloTimeout,
    Refusal::HelloMalformed,
    Refusal::UnknownServerName,
    Refusal::NoCertificate,
    Refusal::HandshakeQueueFull,
    Refusal::HandshakeDeadline,
    Refusal::HandshakeRate,
    Refusal::ClientHandshakeRate,
    Refusal::HandshakeFailed,
];

/// The counters of one reason since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// Where no site was known.
    pub(super) nameless: u64,
    /// By site.
    pub(super) by_site: Vec<(String, u64)>,
}

/// How many were refused since the last line about them.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Line {
    pub(super) reason: Refusal,
    pub(super) of: Of,
    pub(super) count: u64,
}

/// Whose connections a line is about.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Of {
    /// No site was known.
    Nobody,
    /// The site's.
    Site(String),
    /// So many more sites', which are not named.
    Others(u64),
}

/// What was told of each reason.
#[derive(Default)]
pub(super) struct RefusedLog {
    told: BTreeMap<Refusal, Told>,
}

struct Told {
    at: Instant,
    all: u64,
    nameless: u64,
    by_site: HashMap<String, u64>,
}

impl RefusedLog {
    /// The lines that are due. `all` is a reason's whole count; `counted` walks over all sites, and
    /// is asked only about reasons that are due.
    pub(super) fn due(
        &mut self,
        now: Instant,
        all: impl Fn(Refusal) -> u64,
        counted: impl Fn(Refusal) -> Counted,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        for reason in CONNECTIONS_REFUSED {
            let (all, told) = (all(*reason), self.told.get(reason));
            let is_told = |told: &Told| told.all == all || now.duration_since(told.at) < EVERY;
            if all == 0 || told.is_some_and(is_told) {
                continue;
            }
            let Counted { nameless, by_site } = counted(*reason);
            let news = news(told, nameless, &by_site);
            lines.extend(news.into_iter().map(|(of, count)| Line { reason: *reason, of, count }));
            let by_site = by_site.into_iter().collect();
            self.told.insert(*reason, Told { at: now, all, nameless, by_site });
        }
        lines
    }
}

/// What is new since it was told.
fn news(told: Option<&Told>, nameless: u64, by_site: &[(String, u64)]) -> Vec<(Of, u64)> {
    let before = |site: &String| told.and_then(|told| told.by_site.get(site)).copied();
    let mut sites: Vec<(&String, u64)> = (by_site.iter())
        .map(|(site, count)| (site, since(*count, before(site).unwrap_or(0))))
        .filter(|(_, new)| *new > 0)
        .collect();
    sites.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let others = sites.split_off(sites.len().min(SITES_MAX));
    let mut news = vec![(Of::Nobody, since(nameless, told.map_or(0, |told| told.nameless)))];
    news.extend(sites.into_iter().map(|(site, new)| (Of::Site(site.clone()), new)));
    let rest = others.iter().map(|(_, new)| new).sum();
    news.push((Of::Others(others.len() as u64), rest));
    news.retain(|(_, new)| *new > 0);
    news
}

/// The counter of a site that went and came back begins anew.
fn since(now: u64, before: u64) -> u64 {
    if now < before { now } else { now - before }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines at that second for counters of one reason, as `site count`.
    fn told(
        log: &mut RefusedLog,
        at: Instant,
        nameless: u64,
        sites: &[(&str, u64)],
    ) -> Vec<String> {
        let by_site: Vec<(String, u64)> =
            sites.iter().map(|(site, count)| ((*site).to_owned(), *count)).collect();
        let all = nameless + by_site.iter().map(|(_, count)| count).sum::<u64>();
        let is_it = |reason| reason == Refusal::HandshakeQueueFull;
        let lines = log.due(
            at,
            |reason| if is_it(reason) { all } else { 0 },
            |reason| {
                assert!(is_it(reason), "a walk for nothing: {reason}");
                Counted { nameless, by_site: by_site.clone() }
            },
        );
        let text = |line: Line| match line.of {
            Of::Nobody => format!("- {}", line.count),
            Of::Site(site) => format!("{site} {}", line.count),
            Of::Others(sites) => format!("({sites} more) {}", line.count),
        };
        lines.into_iter().map(text).collect()
    }

    #[test]
    fn a_reason_is_told_at_once_and_then_every_ten_seconds_with_what_came_since() {
        let (mut log, start) = (RefusedLog::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let none: [&str; 0] = [];
        assert_eq!(told(&mut log, at(0), 0, &[]), none);
        assert_eq!(told(&mut log, at(1), 2, &[("a", 1), ("b", 7)]), ["- 2", "b 7", "a 1"]);
        assert_eq!(told(&mut log, at(10), 2, &[("a", 900), ("b", 7)]), none, "too soon");
        assert_eq!(told(&mut log, at(11), 3, &[("a", 1_001), ("b", 7)]), ["- 1", "a 1000"]);
        assert_eq!(told(&mut log, at(60), 3, &[("a", 1_001), ("b", 7)]), none, "nothing new");
        // A site was taken away and added again.
        assert_eq!(told(&mut log, at(61), 3, &[("a", 5), ("b", 7)]), ["a 5"]);
    }

    #[test]
    fn a_flood_over_many_sites_is_a_few_lines() {
        let names: Vec<String> = (0..1_000).map(|at| format!("site-{at:03}")).collect();
        let sites: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 3)).collect();
        let lines = told(&mut RefusedLog::default(), Instant::now(), 0, &sites);
        assert_eq!(lines.len(), SITES_MAX + 1);
        assert_eq!((&*lines[0], &*lines[SITES_MAX]), ("site-000 3", "(990 more) 2970"));
    }

    /// `plain-http` is a request, and has its line.
    #[test]
    fn the_documentation_s_reasons_before_a_request_are_these() {
        let page = include_str!("../../docs/refusals.md");
        let rows = page.split("## Before a request").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = rows.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: Vec<&str> = rows.filter(|reason| *reason != "plain-http").collect();
        let told: Vec<&str> = CONNECTIONS_REFUSED.iter().map(|reason| reason.label()).collect();
        assert_eq!(told, documented);
    }
}
