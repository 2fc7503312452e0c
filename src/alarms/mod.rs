//! What an operator must know now: alarms, raised and cleared on what a second's sample shows.
//!
//! Pure: the time and the [`Sample`] are arguments; logging a [`Change`] is the caller's. States of
//! an alarm for one subject (a queue, a site, a certificate): absent; standing; standing, with its
//! cause gone for less than [`Alarm::hold`]. The hold keeps a cause that comes and goes from
//! filling the log, and one that lasted a moment from being missed.
//!
//! Bounded: of each alarm at most [`SUBJECTS_MAX`] subjects stand by name, and one more entry tells
//! how many others there are. A day on which all sites fail is one page, not 50,000 lines.

mod kind;
mod refusals;
mod sample;
mod silence;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use kind::{About, Alarm, Urgency};
pub use sample::{AcceptQueue, AccessLogHealth, AwaitingSite, BrokenPart, QueueSample, Sample};

use sample::{Condition, Memory, conditions};

/// Subjects of one alarm that stand by name.
pub const SUBJECTS_MAX: usize = 50;

/// Looks come once a second; what was seen by the last few is the present.
const SEEN_NOW_SECONDS: i64 = 3;

/// The process's handshake queue, as a subject.
const HANDSHAKE_QUEUE: &str = "handshake";

/// The name under which the other subjects stand.
const OTHERS: &str = "(others)";

/// All standing alarms, and what the conditions must remember from second to second.
#[derive(Default)]
pub struct Alarms {
    standing: BTreeMap<(Alarm, String), Entry>,
    memory: Memory,
}

struct Entry {
    site: Option<String>,
    detail: String,
    since_unix: i64,
    /// When its cause was last seen.
    seen: Instant,
    seen_unix: i64,
}

/// One standing alarm as API, dashboard and commands show it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Standing {
    /// The alarm's label.
    pub alarm: String,
    /// `critical`: visitors are harmed now or within days; `warning`: not yet, or not visibly.
    pub urgency: Urgency,
    /// What is concerned: a listener, a queue, a site, a certificate; may be empty.
    pub subject: String,
    /// The site concerned, where it is one.
    pub site: Option<String>,
    /// What was seen, with figures.
    pub detail: String,
    /// Since when, Unix seconds.
    pub since_unix: i64,
    /// When its cause was last seen, Unix seconds: an alarm stands on for a while afterwards.
    #[serde(default)]
    pub seen_unix: i64,
    /// What it means for visitors.
    pub meaning: String,
    /// What to do.
    pub remedy: String,
}

/// An alarm came or went: one log line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It stands from now.
    Raised(Standing),
    /// It is over.
    Cleared(Standing),
}

impl Alarms {
    /// Takes one sample, meant for every second, and tells what changed. `now_unix` is in seconds.
    pub fn observe(&mut self, now: Instant, now_unix: i64, sample: &Sample) -> Vec<Change> {
        let mut changes = Vec::new();
        for condition in bounded(conditions(&mut self.memory, now, now_unix, sample)) {
            let Condition { alarm, subject, site, detail } = condition;
            let key = (alarm, subject);
            if let Some(entry) = self.standing.get_mut(&key) {
                *entry = Entry { site, detail, seen: now, seen_unix: now_unix, ..*entry };
                continue;
            }
            let (since_unix, seen_unix) = (now_unix, now_unix);
            let entry = Entry { site, detail, since_unix, seen: now, seen_unix };
            changes.push(Change::Raised(standing(&key, &entry)));
            self.standing.insert(key, entry);
        }
        self.standing.retain(|key, entry| {
            let stays = entry.seen == now || now.duration_since(entry.seen) < key.0.hold();
            if !stays {
                changes.push(Change::Cleared(standing(key, entry)));
            }
            stays
        });
        changes
    }

    /// All that stand, critical ones first, then the oldest first.
    pub fn standing(&self) -> Vec<Standing> {
        let mut all: Vec<Standing> =
            self.standing.iter().map(|(key, entry)| standing(key, entry)).collect();
        all.sort_by_key(|alarm| (alarm.urgency, alarm.since_unix));
        all
    }

    /// Each alarm's label, and how many of it stand.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let count = |alarm: &Alarm| self.standing.keys().filter(|(own, _)| own == alarm).count();
        Alarm::ALL.iter().map(|alarm| (alarm.label(), count(alarm) as u64)).collect()
    }

    /// Whether any stands.
    pub fn any(&self) -> bool {
        !self.standing.is_empty()
    }
}

fn standing(key: &(Alarm, String), entry: &Entry) -> Standing {
    let (alarm, subject) = key;
    Standing {
        alarm: alarm.label().to_owned(),
        urgency: alarm.urgency(),
        subject: subject.clone(),
        site: entry.site.clone(),
        detail: entry.detail.clone(),
        since_unix: entry.since_unix,
        seen_unix: entry.seen_unix,
        meaning: alarm.meaning().to_owned(),
        remedy: alarm.remedy(about(subject, entry)).to_owned(),
    }
}

/// Which queue an alarm about one is about.
fn about(subject: &str, entry: &Entry) -> About {
    let is_handshake = entry.site.is_none() && subject == HANDSHAKE_QUEUE;
    if is_handshake { About::Handshakes } else { About::Requests }
}

impl Standing {
    /// How long ago its cause was last seen, where that is worth telling: `, last seen 34 s ago`.
    pub fn last_seen(&self, now_unix: i64) -> String {
        match now_unix.saturating_sub(self.seen_unix) {
            ..SEEN_NOW_SECONDS => String::new(),
            ago => {
                let ago = Duration::from_secs(ago.unsigned_abs());
                format!(", last seen {} ago", readable(ago))
            }
        }
    }
}

/// Keeps the first [`SUBJECTS_MAX`] of each alarm and sums up the others. First is by name, so that
/// the same ones stay; of certificates that end, it is the end.
fn bounded(conditions: Vec<Condition>) -> Vec<Condition> {
    let mut by_alarm: BTreeMap<Alarm, Vec<Condition>> = BTreeMap::new();
    for condition in conditions {
        by_alarm.entry(condition.alarm).or_default().push(condition);
    }
    let mut kept = Vec::new();
    for (alarm, mut all) in by_alarm {
        if all.len() > SUBJECTS_MAX {
            if !is_by_end(alarm) {
                all.sort_by(|a, b| a.subject.cmp(&b.subject));
            }
            let others = all.len() - SUBJECTS_MAX;
            all.truncate(SUBJECTS_MAX);
            let detail = format!("{others} more");
            all.push(Condition { alarm, subject: OTHERS.to_owned(), site: None, detail });
        }
        kept.append(&mut all);
    }
    kept
}

/// Whether its causes come by the certificates' end, the soonest first.
fn is_by_end(alarm: Alarm) -> bool {
    use Alarm::{CertificateEndsSoon, CertificateExpired, CertificateExpiring};
    matches!(alarm, CertificateExpiring | CertificateEndsSoon | CertificateExpired)
}

/// A duration as people read it: `3 s`, `5 min`, `2 h`, `4 d`.
pub fn readable(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.is_zero() => "0 s".to_owned(),
        0 => format!("{} ms", time.as_millis()),
        1..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
