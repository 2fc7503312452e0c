//! Certificates by host. Pure; made anew by each load, immutable from then on.
//!
//! A host has up to two certificates: one on an elliptic curve and one with RSA. Where more claim
//! it, one is chosen by rules that do not depend on the order of files: valid now before not yet
//! or no longer valid, then the later end, then the name that sorts first. A lookup is two hash
//! lookups at most, whatever the number of certificates.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::mem;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::defect::Defect;
use super::folder::Name;
use super::host_key::{HostKey, HostMap};
use super::identity::Identity;
use crate::background::drop_aside;
use crate::identity::unix_now;
use crate::names::HostPattern;

/// So many are given back in less time than a thread takes to start.
const ENTRIES_DROPPED_IN_PLACE_MAX: usize = 500;

/// A certificate as a load found it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) certificate: Arc<Certificate>,
    /// Of the files that `certificate` was read from.
    pub(super) identity: Identity,
    /// When the identity was taken, Unix seconds.
    pub(super) taken: i64,
    /// The key's file mode where others than its owner may read it.
    pub(super) exposed: Option<u32>,
    /// Where the files are broken and `certificate` is their last good version.
    pub(super) kept: Option<Kept>,
}

/// Why and since when a certificate stands at its last good version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Kept {
    /// Unix seconds.
    pub(super) since: i64,
    /// From when it is not served any more; `None` where the operator sets no bound.
    pub(super) until: Option<i64>,
    pub(super) defect: Defect,
    pub(super) part: super::defect::Part,
}

impl Entry {
    /// Whether it is served now: not once its time at the last good version is over.
    pub(super) fn is_served(&self) -> bool {
        // The clock is asked only for what has such a bound.
        self.kept_until().is_none_or(|until| unix_now() < until)
    }

    /// Whether there is more to tell of it than how long it is valid.
    fn is_marked(&self) -> bool {
        self.kept.is_some() || self.exposed.is_some() || !self.certificate.oddities.is_empty()
    }

    /// Its name in the folder.
    pub(super) fn file_name(&self) -> Name<'_> {
        Name { name: &self.certificate.name, layout: self.certificate.layout }
    }

    fn kept_until(&self) -> Option<i64> {
        self.kept.as_ref().and_then(|kept| kept.until)
    }
}

/// A certificate that is not used for some hosts because another is.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Overlap {
    pub(super) unused: u32,
    pub(super) used: u32,
    /// One of the hosts, and how many there are.
    pub(super) host: HostPattern,
    pub(super) hosts: usize,
}

/// All certificates, by name and by host.
pub(super) struct Catalogue {
    /// Sorted by name.
    entries: Vec<Arc<Entry>>,
    /// Exact hosts and wildcards; shared from load to load while no certificate's hosts change.
    hosts: Arc<HostMap<Slots>>,
    /// Whether a certificate is not used for a host because another is.
    has_overlaps: bool,
    /// Whether one stands at its last good version for a time.
    has_bounded: bool,
    /// The certificate for clients without a name or with an unknown one.
    default: Option<u32>,
    /// Positions by the end of validity, soonest first; shared while no end moves.
    by_expiry: Arc<Vec<u32>>,
    /// Positions of those that are [marked](Entry::is_marked), in order.
    marked: Vec<u32>,
    /// None begins to be valid later than this.
    begins_max: i64,
}

/// A host's certificates, as positions.
#[derive(Clone, Copy, Default)]
struct Slots {
    /// Positions plus one, so that a slot takes four bytes.
    curve: Option<std::num::NonZeroU32>,
    rsa: Option<std::num::NonZeroU32>,
}

impl Slots {
    fn slot(&mut self, is_rsa: bool) -> &mut Option<std::num::NonZeroU32> {
        if is_rsa { &mut self.rsa } else { &mut self.curve }
    }

    fn positions(self) -> impl Iterator<Item = u32> {
        [self.curve, self.rsa].into_iter().flatten().map(|slot| slot.get() - 1)
    }
}

impl Catalogue {
    /// Indexes `entries`, which are sorted by name.
    pub(super) fn new(
        entries: Vec<Arc<Entry>>,
        default: Option<&str>,
        now: i64,
        previous: Option<&Catalogue>,
    ) -> (Catalogue, Vec<Overlap>) {
        let moved = previous.and_then(|previous| previous.moved(&entries));
        let before = previous.zip(moved.as_deref());
        let shared = before.filter(|(before, moved)| before.is_index_of(&entries, moved));
        let (hosts, overlaps) = match shared {
            Some((before, _)) => (before.hosts.clone(), Vec::new()),
            None => {
                let (hosts, overlaps) = index(&entries, now);
                (Arc::new(hosts), overlaps)
            }
        };
        let by_expiry = match before.filter(|(before, moved)| before.has_ends_of(&entries, moved)) {
            Some((before, _)) => before.by_expiry.clone(),
            None => Arc::new(by_expiry(&entries)),
        };
        let (marked, begins_max) = marks(&entries, before);
        let has_bounded = marked.iter().any(|at| entries[*at as usize].kept_until().is_some());
        let mut catalogue = Catalogue {
            entries,
            hosts,
            has_overlaps: !overlaps.is_empty(),
            has_bounded,
            default: None,
            by_expiry,
            marked,
            begins_max,
        };
        catalogue.default = default.and_then(|name| catalogue.position(name));
        (catalogue, overlaps)
    }

    /// Whether names, hosts and default are those of `other`, and time alone changes nothing of it.
    pub(super) fn shares_index(&self, other: &Catalogue) -> bool {
        Arc::ptr_eq(&self.hosts, &other.hosts)
            && self.default == other.default
            && !self.has_bounded
            && !other.has_bounded
    }

    /// The positions at which `entries` has another one; `None` where it has more or fewer.
    fn moved(&self, entries: &[Arc<Entry>]) -> Option<Vec<u32>> {
        let both = || self.entries.iter().zip(entries).zip(0..);
        let moved = || both().filter(|((one, other), _)| !Arc::ptr_eq(one, other));
        (self.entries.len() == entries.len()).then(|| moved().map(|(_, at)| at).collect())
    }

    /// Both entries of each position that `moved` names.
    fn pairs<'a>(
        &'a self,
        entries: &'a [Arc<Entry>],
        moved: &'a [u32],
    ) -> impl Iterator<Item = (&'a Certificate, &'a Certificate)> {
        let at = |at: &u32| *at as usize;
        moved.iter().map(at).map(|at| (&*self.entries[at].certificate, &*entries[at].certificate))
    }

    /// Whether the hosts of `entries`, which differ where `moved` says, are those that are indexed
    /// here, position for position. Not where two claim one: who has it depends on more than the
    /// hosts.
    fn is_index_of(&self, entries: &[Arc<Entry>], moved: &[u32]) -> bool {
        let is_same = |(one, other)| has_same_hosts(one, other);
        !self.has_overlaps && self.pairs(entries, moved).all(is_same)
    }

    fn has_ends_of(&self, entries: &[Arc<Entry>], moved: &[u32]) -> bool {
        self.pairs(entries, moved).all(|(one, other)| one.not_after == other.not_after)
    }

    /// All of which there may be more to tell than their validity.
    pub(super) fn marked(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.marked.iter().map(|position| &self.entries[*position as usize])
    }

    /// All that are marked, end within `seconds` or are not valid yet, by name.
    pub(super) fn to_tell(&self, now: i64, seconds: i64) -> Vec<&Arc<Entry>> {
        if now < self.begins_max {
            return self.entries.iter().collect();
        }
        let end = |at: u32| self.entries[at as usize].certificate.not_after;
        let soon = self.by_expiry.iter().copied();
        let soon = soon.take_while(|at| end(*at).saturating_sub(now) < seconds);
        let mut positions: Vec<u32> = soon.chain(self.marked.iter().copied()).collect();
        positions.sort_unstable();
        positions.dedup();
        positions.into_iter().map(|at| &self.entries[at as usize]).collect()
    }

    /// All certificates, sorted by name.
    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// All certificates, the soonest to expire first.
    pub(super) fn by_expiry(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_expiry.iter().map(|position| &self.entries[*position as usize])
    }

    /// How many of them, the first ones, have ended.
    pub(super) fn expired(&self, now: i64) -> usize {
        let end = |position: &u32| self.entries[*position as usize].certificate.not_after;
        self.by_expiry.partition_point(|position| end(position) <= now)
    }

    /// The certificate of that name, where it is served.
    pub(super) fn named(&self, name: &str) -> Option<&Arc<Entry>> {
        self.served(self.position(name)?)
    }

    fn served(&self, position: u32) -> Option<&Arc<Entry>> {
        Some(&self.entries[position as usize]).filter(|entry| entry.is_served())
    }

    fn position(&self, name: &str) -> Option<u32> {
        let at = self.entries.binary_search_by(|entry| (*entry.certificate.name).cmp(name)).ok()?;
        u32::try_from(at).ok()
    }

    /// Whether there is a default certificate.
    pub(super) fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// The certificates among which a client's signature schemes choose: one or two, or none.
    pub(super) fn candidates(
        &self,
        server_name: Option<&str>,
    ) -> impl Iterator<Item = &Arc<Certificate>> {
        let slots = server_name.and_then(|name| self.slots(&canonical(name)));
        let positions = slots.unwrap_or_default().positions();
        let mut own = positions.filter_map(|position| self.served(position)).peekable();
        let default = if own.peek().is_some() { None } else { self.default };
        let default = default.and_then(|position| self.served(position));
        own.chain(default).map(|entry| &entry.certificate)
    }

    fn slots(&self, host: &str) -> Option<Slots> {
        if let Some(slots) = self.hosts.get(&HostKey::exact(host)) {
            return Some(*slots);
        }
        let (label, parent) = host.split_once('.')?;
        if label.is_empty() { None } else { self.hosts.get(&HostKey::wildcard(parent)).copied() }
    }

    /// The certificates for a client that sent this name, the best first: one whose kind of key it
    /// takes before one that it does not, then one that is valid now, then the curve before RSA.
    /// Where it takes neither, the handshake fails.
    pub(super) fn choices(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> impl Iterator<Item = &Arc<Certificate>> {
        let mut candidates = self.candidates(server_name);
        let (first, second) = (candidates.next(), candidates.next());
        let (Some(curve), Some(rsa)) = (first, second) else {
            return [first, second].into_iter().flatten();
        };
        // The clock is asked only where there is a choice.
        let now = unix_now();
        let rank = |one: &Certificate| (one.key.is_taken_by(schemes), one.is_valid_at(now));
        let rsa_first = rank(rsa) > rank(curve);
        if rsa_first { [Some(rsa), Some(curve)] } else { [Some(curve), Some(rsa)] }
            .into_iter()
            .flatten()
    }

    /// The best of the [`choices`](Catalogue::choices) whose key can be used.
    pub(super) fn certified_key(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.choices(server_name, schemes).find_map(|certificate| certificate.certified_key())
    }
}

/// The entries by host, and those that are not used for some.
fn index(entries: &[Arc<Entry>], now: i64) -> (HostMap<Slots>, Vec<Overlap>) {
    let hosts = entries.iter().map(|entry| entry.certificate.hosts.len()).sum();
    let mut index = HostMap::with_capacity_and_hasher(hosts, BuildHasherDefault::default());
    let mut overlaps = BTreeMap::new();
    for (position, entry) in (0..).zip(entries) {
        let certificate = &entry.certificate;
        let is_rsa = certificate.key.is_rsa();
        for (host, key) in certificate.hosts.iter().zip(&certificate.host_keys) {
            let slots: &mut Slots = index.entry(*key).or_default();
            let slot = slots.slot(is_rsa);
            let Some(other) = *slot else {
                *slot = std::num::NonZeroU32::new(position + 1);
                continue;
            };
            let other = other.get() - 1;
            let rank = |at: u32| rank(&entries[at as usize].certificate, now);
            // Positions follow the names: on a tie the one that is there already stays.
            let (unused, used) =
                if rank(position) > rank(other) { (other, position) } else { (position, other) };
            *slot = std::num::NonZeroU32::new(used + 1);
            overlaps
                .entry((unused, used))
                .and_modify(|overlap: &mut Overlap| overlap.hosts += 1)
                .or_insert_with(|| Overlap { unused, used, host: host.clone(), hosts: 1 });
        }
    }
    (index, overlaps.into_values().collect())
}

/// Whether one stands for the other in the index.
fn has_same_hosts(one: &Certificate, other: &Certificate) -> bool {
    one.name == other.name && one.key.is_rsa() == other.key.is_rsa() && one.hosts == other.hosts
}

/// The positions that are marked and the latest begin of all; of entries that stayed as `before`, a
/// catalogue and the positions at which it differs, has them.
fn marks(entries: &[Arc<Entry>], before: Option<(&Catalogue, &[u32])>) -> (Vec<u32>, i64) {
    let all: Vec<u32>;
    let (mut marked, mut begins_max, fresh) = match before {
        None => {
            all = (0..).zip(entries).map(|(at, _)| at).collect();
            (Vec::new(), i64::MIN, &*all)
        }
        Some((before, moved)) => {
            let stayed = before.marked.iter().filter(|at| moved.binary_search(at).is_err());
            (stayed.copied().collect(), before.begins_max, moved)
        }
    };
    for at in fresh {
        let entry = &entries[*at as usize];
        begins_max = begins_max.max(entry.certificate.not_before);
        if entry.is_marked() {
            marked.push(*at);
        }
    }
    marked.sort_unstable();
    (marked, begins_max)
}

fn by_expiry(entries: &[Arc<Entry>]) -> Vec<u32> {
    // The ends are copied out first: sorting would otherwise look each up many times.
    let ends = entries.iter().map(|entry| entry.certificate.not_after).zip(0..);
    let mut ends: Vec<(i64, u32)> = ends.collect();
    ends.sort_unstable();
    ends.into_iter().map(|(_, position)| position).collect()
}

/// Larger is preferred.
fn rank(certificate: &Certificate, now: i64) -> (bool, i64) {
    (certificate.is_valid_at(now), certificate.not_after)
}

/// A server name as the catalogue has it; the usual one is so already.
fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Cow::Owned(name.to_ascii_lowercase());
    }
    Cow::Borrowed(name)
}

/// Given back by a thread of its own: the last to let go of a catalogue may be a connection, and a
/// hundred thousand certificates take milliseconds.
impl Drop for Catalogue {
    fn drop(&mut self) {
        if self.entries.len() < ENTRIES_DROPPED_IN_PLACE_MAX {
            return;
        }
        drop_aside((mem::take(&mut self.entries), mem::take(&mut self.hosts)));
    }
}

/// A hundred thousand certificates are not for printing.
impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue")
            .field("certificates", &self.entries.len())
            .finish_non_exhaustive()
    }
}
