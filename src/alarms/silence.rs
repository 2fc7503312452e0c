//! Which sites are waited for and answer nothing, longer than is usual there.
//!
//! A stopped server and one at which every request is a long poll look alike from here: requests
//! are sent, nothing comes. What tells them apart is how it went before. A silence that ended in an
//! answer was no standstill, so the next one at that site is told only once it is longer by
//! [`SILENCE`]. A site of long polls is thus told once after the edge's start, and then no more.
//! Where requests wait in the site's queue too, that queue's own ten seconds hold whatever is here.
//!
//! Bounded by the sites that were waited for in the last minute, and those that were silent in the
//! last day.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::sample::AwaitingSite;

/// A site whose endpoints are waited for and answer nothing for so long is silent: short enough that
/// the alarm stands within ten seconds, whatever the second in which a look falls.
const SILENCE: Duration = Duration::from_millis(7_500);

/// A pause between two polls that is no longer does not hide that the first was answered.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long a silence that ended well counts: visitors of one kind may come by night alone.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of the sites' silence.
#[derive(Default)]
pub(super) struct Silences {
    looked: Option<Instant>,
    waiting: BTreeMap<String, Waiting>,
    /// The longest silence of a site that ended in an answer, and when one did last.
    borne: BTreeMap<String, (Duration, Instant)>,
}

/// A site that is waited for, or was lately.
#[derive(Clone, Copy)]
struct Waiting {
    /// When it last answered.
    answered: Option<Instant>,
    /// Since when it is looked at in vain.
    since: Instant,
    /// The last look at which it was waited for.
    seen: Instant,
}

impl Silences {
    /// Takes the sites that are waited for now, and tells of those that are silent too long and for
    /// how long they are.
    pub(super) fn observe<'a>(
        &mut self,
        now: Instant,
        unanswered: &'a [AwaitingSite],
    ) -> Vec<(&'a AwaitingSite, Duration)> {
        let before = self.looked.replace(now);
        self.borne.retain(|_, (_, last)| now.duration_since(*last) < REMEMBERED);
        self.waiting.retain(|_, waiting| now.duration_since(waiting.seen) < PAUSE_MAX);
        let mut silent = Vec::new();
        for site in unanswered {
            let answered = site.answered;
            let known = self.waiting.get(&site.site).copied();
            if let Some(known) = known.filter(|known| known.answered != answered) {
                self.bore(&site.site, known.seen.duration_since(known.since), now);
            }
            let goes_on =
                known.filter(|known| known.answered == answered && Some(known.seen) == before);
            let since = goes_on.map_or(now, |known| known.since);
            self.waiting.insert(site.site.clone(), Waiting { answered, since, seen: now });
            let usual = self.borne.get(&site.site).map_or(Duration::ZERO, |(longest, _)| *longest);
            let lasts = now.duration_since(since);
            if lasts >= usual + SILENCE {
                silent.push((site, lasts));
            }
        }
        silent
    }

    fn bore(&mut self, site: &str, silence: Duration, now: Instant) {
        if silence < SILENCE {
            return;
        }
        let (longest, last) = self.borne.entry(site.to_owned()).or_insert((silence, now));
        (*longest, *last) = ((*longest).max(silence), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Site {
        silences: Silences,
        start: Instant,
        second: u64,
    }

    impl Site {
        fn new() -> Site {
            Site { silences: Silences::default(), start: Instant::now(), second: 0 }
        }

        /// Looks once a second while an answer is waited for; in how many of the looks it is told.
        fn waits(&mut self, seconds: u64) -> usize {
            let answered = Some(self.start + Duration::from_secs(self.second));
            let site = AwaitingSite { site: "chat".into(), awaited: 1, answered };
            let looks = (0..seconds).map(|_| self.look(std::slice::from_ref(&site)));
            looks.sum()
        }

        fn rests(&mut self, seconds: u64) {
            (0..seconds).for_each(|_| assert_eq!(self.look(&[]), 0));
        }

        fn look(&mut self, unanswered: &[AwaitingSite]) -> usize {
            let now = self.start + Duration::from_secs(self.second);
            self.second += 1;
            self.silences.observe(now, unanswered).len()
        }
    }

    #[test]
    fn a_site_of_long_polls_is_told_once_and_then_no_more() {
        let mut site = Site::new();
        assert!(site.waits(30) > 0, "nothing is known of it");
        for _ in 0..100 {
            assert_eq!(site.waits(30), 0);
            // A visitor who stops for a moment.
            site.rests(5);
        }
        assert_eq!(site.waits(37), 0);
        assert_eq!(site.waits(60), 60 - (36 + 8), "longer than ever");
    }

    #[test]
    fn who_was_never_slow_is_told_within_ten_seconds() {
        let mut site = Site::new();
        (0..20).for_each(|_| assert_eq!(site.waits(7), 0));
        assert_eq!(site.waits(9), 1);
    }

    #[test]
    fn a_silence_that_ended_without_an_answer_teaches_nothing() {
        let mut site = Site::new();
        let waited_in_vain = AwaitingSite { site: "chat".into(), awaited: 1, answered: None };
        for _ in 0..3 {
            let told: usize =
                (0..30).map(|_| site.look(std::slice::from_ref(&waited_in_vain))).sum();
            assert_eq!(told, 30 - 8);
            site.rests(1);
        }
    }

    #[test]
    fn what_was_usual_is_forgotten_after_a_day() {
        let mut site = Site::new();
        site.waits(30);
        assert_eq!(site.waits(30), 0);
        site.second += 24 * 60 * 60;
        assert!(site.waits(30) > 0);
    }
}
