//! What was refused lately, and where most of it.
//!
//! Bounded by the sites at which anything was refused: their totals, and for ten seconds what came
//! to them in each.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Refusals are judged over this window.
const WINDOW: Duration = Duration::from_secs(10);

/// The refusals of one queue in the last ten seconds.
#[derive(Default)]
pub(super) struct Window {
    /// Readings, the oldest first: the first is what the others are compared with.
    readings: VecDeque<Reading>,
    totals: HashMap<String, u64>,
}

struct Reading {
    at: Instant,
    all: u64,
    /// What came since the reading before, where anything did.
    by_site: Vec<(String, u64)>,
}

/// What the window holds.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Recent {
    /// At all sites, known or not.
    pub(super) all: u64,
    /// At how many sites.
    pub(super) sites: usize,
    /// The site with most of them, and how many; none where more came before a site was known.
    pub(super) most: Option<(String, u64)>,
}

impl Window {
    /// Takes the totals since the start, and tells of the last ten seconds.
    pub(super) fn observe(&mut self, now: Instant, all: u64, by_site: &[(String, u64)]) -> Recent {
        let is_first = self.readings.is_empty();
        let mut news = Vec::new();
        for (site, total) in by_site {
            let before = self.totals.insert(site.clone(), *total).unwrap_or(0);
            if *total > before && !is_first {
                news.push((site.clone(), total - before));
            }
        }
        // Sites that are gone.
        if self.totals.len() > by_site.len() {
            let kept: HashMap<String, u64> = by_site.iter().cloned().collect();
            self.totals = kept;
        }
        self.readings.push_back(Reading { at: now, all, by_site: news });
        while self.readings.len() > 1 && now.duration_since(self.readings[0].at) > WINDOW {
            self.readings.pop_front();
        }
        self.recent()
    }

    fn recent(&self) -> Recent {
        let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) else {
            return Recent { all: 0, sites: 0, most: None };
        };
        let mut sums: HashMap<&str, u64> = HashMap::new();
        for (site, count) in self.readings.iter().skip(1).flat_map(|reading| &reading.by_site) {
            *sums.entry(site).or_default() += count;
        }
        let most = sums.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        let most = most.map(|(site, count)| ((*site).to_owned(), *count));
        let all = last.all.saturating_sub(first.all);
        let nameless = all.saturating_sub(sums.values().sum());
        // A site's count may have some that are not of this alarm.
        let most = most.filter(|(_, count)| *count >= nameless);
        let most = most.map(|(site, count)| (site, count.min(all)));
        Recent { all, sites: sums.len(), most }
    }
}

impl Recent {
    /// Where they were, for the end of a sentence.
    pub(super) fn told(&self) -> String {
        match &self.most {
            None => ", most of them before a site was known".to_owned(),
            Some((site, count)) if self.sites == 1 && *count >= self.all => {
                format!(", all at {site}")
            }
            Some((site, count)) => format!(", most of them at {site}: {count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sites: &[(&str, u64)]) -> Vec<(String, u64)> {
        sites.iter().map(|(site, count)| ((*site).to_owned(), *count)).collect()
    }

    #[test]
    fn the_site_with_most_refusals_of_the_last_ten_seconds_is_named() {
        let (mut window, start) = (Window::default(), Instant::now());
        let mut tick = |second, all, sites: &[(&str, u64)]| {
            window.observe(start + Duration::from_secs(second), all, &at(sites))
        };
        assert_eq!(tick(0, 900, &[("old", 900)]).most, None, "what was before the first look");
        let one = tick(1, 903, &[("old", 900), ("shop", 3)]);
        assert_eq!((one.all, one.told().as_str()), (3, ", all at shop"));
        let two = tick(2, 910, &[("old", 901), ("shop", 9)]);
        assert_eq!(two.told(), ", most of them at shop: 9");
        let later = tick(12, 950, &[("old", 941), ("shop", 9)]);
        assert_eq!((later.all, later.told().as_str()), (40, ", all at old"));
        assert_eq!(tick(13, 955, &[("old", 941)]).all, 5);
        assert_eq!(tick(22, 962, &[("old", 942)]).told(), ", most of them before a site was known");
    }
}
