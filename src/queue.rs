//! A bounded queue that is fair between keys and does not serve what nobody waits for any more.
//!
//! Pure: time is passed in, nothing blocks. Handshakes wait in one keyed by customer, the requests
//! of a site in one keyed by class.
//!
//! - **Bound.** At most `depth` entries between two calls, over all keys. A push into a full queue
//!   takes the newcomer in and puts one entry out: one past its deadline if there is one, else the
//!   oldest of the *fattest* key, the newcomer counted (most entries by weight, `ceil(entries /
//!   weight)`; among equally fat ones the one that has been so longest). So a quiet key gets in,
//!   and a flooding one displaces only itself.
//! - **Turns.** Deficit round-robin (Shreedhar, Varghese 1995): a turn gives a key `weight` quanta
//!   of credit, an entry is charged its `cost`. The quantum is the largest cost pushed since the
//!   queue was last empty; with it each turn serves at least one entry, and `pop` passes at most
//!   one key over. Over any time in which two keys always have entries, the costs served by weight
//!   differ by at most three quanta. Entries that are put out charge nobody. Of one that turned out
//!   to cost more than was said, [`FairQueue::charge`] takes the rest from its key's next turns.
//! - **Lanes.** Keys of [`Lane::Ahead`] have turns before those of [`Lane::InOrder`], but never two
//!   together while one of the latter waits: an urgent key waits for one turn at most (and those of
//!   other urgent keys), and a plain one is delayed, never starved.
//! - **Sorts.** Entries of a key are [`Sort::Heavy`] or [`Sort::Light`]. While both sorts wait, the
//!   key's turns go to the one that has been served less cost, so that many of one sort do not shut
//!   out the few of the other; a key is put out of its more numerous sort first. Between keys sorts
//!   make no difference.
//! - **Forecast.** A line is the entries of one key and sort. Its pace, how fast it was served since
//!   it was last empty, lately above all, tells how long a newcomer will wait. Where that is longer than
//!   `patience`, the newcomer is told at once: that costs least, and whoever was let in is served in
//!   time, unless the pace falls below `patience / deadline` of what it was. While less than a
//!   sixteenth of the deadline has passed since the line was empty, or fewer than eight were served
//!   since (within two deadlines), everybody is let in: a burst. With `patience` no shorter than the
//!   deadline there is no such rule.
//! - **Order inside a sort.** First in first out while its oldest is younger than half the deadline,
//!   then newest first: when not all can be served in time, some are served soon rather than all late
//!   (adaptive LIFO). Where the line has told a newcomer to go within the last deadline, those in it can
//!   be served, and it is first in first out up to seven eighths.
//!
//! States of an entry: *waiting* from `push` until it leaves, exactly once, by `pop` ([`Why::Turn`],
//! [`Why::Gone`], [`Why::Expired`]), by its own `push` ([`Why::Expired`], [`Why::Hopeless`]), by
//! another's or by `shed` ([`Why::Expired`], [`Why::Displaced`]), by `expire`, or by `remove` of its
//! [`Ticket`], which is stale from then on.
//! A key exists exactly while it has entries: memory depends on `depth`, not on the keys ever seen.
//! Credit left when a key's last entry leaves is forgotten.
//!
//! Cost of each operation: O(1), the hash of the key included; over all pops, one step more for
//! each quantum that was charged later. The fattest key stands first in the highest bucket of keys
//! by fatness; one entry more or less moves a key by at most one bucket, so
//! the highest one is always known. The exception: where a push brings another `weight` for a key
//! that is waiting (a reload), finding the highest bucket anew costs up to `depth` steps, once.
//!
//! "Oldest" means pushed first. `since` may be earlier for one pushed later (another thread's
//! client waited in the kernel); such an entry is judged by its own `since` when its turn comes,
//! so nothing past its deadline is ever served, but it may hold its place until then.

mod list;
mod pace;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use slab::Slab;

use list::{Links, List};
use pace::Pace;

/// A bounded queue, fair between keys. The file's header has the rules.
pub struct FairQueue<K, T> {
    limits: Limits,
    entries: Slab<Waiter<T>>,
    keys: Slab<Key<K, T>>,
    index: HashMap<K, usize>,
    /// All entries in the order of their pushes.
    ages: List<Waiter<T>>,
    ahead: List<Key<K, T>>,
    in_order: List<Key<K, T>>,
    /// The key that has its turn; it stands first in its lane.
    current: Option<usize>,
    last_lane: Lane,
    /// Keys by fatness; none has fatness 0.
    fatness: Vec<List<Key<K, T>>>,
    fattest: usize,
    quantum: u64,
    /// Cost of all entries.
    work: u64,
    serial: u64,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Entries that may wait, over all keys; 0 refuses everything.
    pub depth: usize,
    /// Age past which an entry is not served.
    pub deadline: Duration,
    /// A newcomer that has longer to wait, by the pace of its line, is told at once; no rule where it is
    /// no shorter than the deadline.
    pub patience: Duration,
}

/// What comes into the queue.
#[derive(Clone, Debug)]
pub struct Entry<K, T> {
    /// Fairness is between keys.
    pub key: K,
    /// The key's share; 0 counts as 1. Holds for the whole key from now on.
    pub weight: u32,
    /// What its service costs, in any unit that all entries share; 0 counts as 1.
    pub cost: u32,
    /// The key's lane; holds for as long as the key has entries.
    pub lane: Lane,
    /// Which of the key's two lines it waits in.
    pub sort: Sort,
    /// When the wait began.
    pub since: Instant,
    /// The thing that waits.
    pub item: T,
}

/// Which keys go first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lane {
    /// Has its turn after at most one turn of the other lane.
    Ahead,
    /// Has its turn when the round comes to it.
    InOrder,
}

/// Two sorts of work of one key that must not shut each other out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sort {
    /// What costs most, and all work where no difference is made.
    Heavy,
    /// What costs little.
    Light,
}

/// Names one entry for as long as it waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket {
    at: usize,
    serial: u64,
}

/// What a push did.
#[derive(Debug)]
pub struct Pushed<T> {
    /// The newcomer's ticket; stale where the newcomer itself is what left.
    pub ticket: Ticket,
    /// What had to go.
    pub left: Option<Left<T>>,
}

/// An entry that left the queue.
#[derive(Debug)]
pub struct Left<T> {
    /// The thing that waited.
    pub item: T,
    /// How long it did.
    pub waited: Duration,
    /// Why it left.
    pub why: Why,
}

/// Why an entry left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// It was its key's turn: serve it.
    Turn,
    /// It was its key's turn, but nobody waits for it any more.
    Gone,
    /// Its deadline has passed.
    Expired,
    /// The queue was full, and this was the fattest key's oldest.
    Displaced,
    /// A newcomer that its line cannot serve in time.
    Hopeless,
}

struct Waiter<T> {
    item: T,
    since: Instant,
    cost: u64,
    key: usize,
    sort: Sort,
    serial: u64,
    of_sort: Links,
    of_ages: Links,
}

struct Key<K, T> {
    key: K,
    weight: u64,
    lane: Lane,
    /// Charged later, and not yet paid by turns.
    debt: u64,
    credit: u64,
    /// By sort.
    lines: [Line<T>; 2],
    count: u64,
    /// Its bucket in `FairQueue::fatness`.
    fatness: usize,
    of_lane: Links,
    of_fatness: Links,
}

/// The waiting entries of one key and sort.
struct Line<T> {
    waiting: List<Waiter<T>>,
    count: u64,
    /// Of a line that is not empty.
    pace: Option<Pace>,
    /// Cost served; comparable with the other sort's while both wait.
    served: u64,
}

impl<T> Line<T> {
    fn new() -> Line<T> {
        let waiting = List::new(|waiter: &mut Waiter<T>| &mut waiter.of_sort);
        Line { waiting, count: 0, pace: None, served: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// An empty queue.
    pub fn new(limits: Limits) -> FairQueue<K, T> {
        FairQueue {
            limits,
            entries: Slab::new(),
            keys: Slab::new(),
            index: HashMap::new(),
            ages: List::new(|waiter| &mut waiter.of_ages),
            ahead: List::new(|key| &mut key.of_lane),
            in_order: List::new(|key| &mut key.of_lane),
            current: None,
            last_lane: Lane::InOrder,
            fatness: Vec::new(),
            fattest: 0,
            quantum: 0,
            work: 0,
            serial: 0,
        }
    }

    /// Takes an entry in, and puts one out where the queue was full, or the newcomer itself where it
    /// is already past its deadline or has no hope.
    pub fn push(&mut self, entry: Entry<K, T>, now: Instant) -> Pushed<T> {
        self.serial += 1;
        let serial = self.serial;
        if is_past(entry.since, self.limits.deadline, now) {
            let left = Left {
                item: entry.item,
                waited: now.saturating_duration_since(entry.since),
                why: Why::Expired,
            };
            return Pushed { ticket: Ticket { at: usize::MAX, serial }, left: Some(left) };
        }
        let key = self.key_for(&entry);
        let cost = u64::from(entry.cost.max(1));
        self.quantum = self.quantum.max(cost);
        self.work += cost;
        let at = self.entries.insert(Waiter {
            item: entry.item,
            since: entry.since,
            cost,
            key,
            sort: entry.sort,
            serial,
            of_sort: Links::UNLINKED,
            of_ages: Links::UNLINKED,
        });
        self.ages.push_back(&mut self.entries, at);
        let owner = &mut self.keys[key];
        owner.count += 1;
        // What was not there has no claim from before.
        let other = owner.lines[1 - entry.sort as usize].served;
        let line = &mut owner.lines[entry.sort as usize];
        if line.count == 0 {
            line.served = line.served.max(other);
            line.pace = Some(Pace::begin(now));
        }
        line.waiting.push_back(&mut self.entries, at);
        line.count += 1;
        self.settle_fatness(key);
        let left = match self.is_hopeless(key, entry.sort, now) {
            true => Some(self.leave(at, Why::Hopeless, now)),
            false => self.shed(now),
        };
        Pushed { ticket: Ticket { at, serial }, left }
    }

    /// The next entry to leave: one past its deadline first, else the one whose turn it is. `gone`
    /// is asked about the latter; it must not block. Call again until [`Why::Turn`] or `None`.
    pub fn pop(&mut self, now: Instant, gone: impl FnOnce(&T) -> bool) -> Option<Left<T>> {
        if let Some(expired) = self.expire(now) {
            return Some(expired);
        }
        let at = self.next_turn(now)?;
        let waiter = &self.entries[at];
        if is_past(waiter.since, self.limits.deadline, now) {
            return Some(self.leave(at, Why::Expired, now));
        }
        if gone(&waiter.item) {
            return Some(self.leave(at, Why::Gone, now));
        }
        let Waiter { key, sort, cost, .. } = *waiter;
        let owner = &mut self.keys[key];
        owner.credit -= cost;
        let line = &mut owner.lines[sort as usize];
        line.served += cost;
        if let Some(pace) = &mut line.pace {
            pace.serve(self.limits.deadline, now);
        }
        Some(self.leave(at, Why::Turn, now))
    }

    /// Whose turn it is, unless a deadline passes or a key of the lane ahead comes before it is
    /// popped.
    pub fn peek(&mut self, now: Instant) -> Option<&T> {
        self.next_turn(now).map(|at| &self.entries[at].item)
    }

    /// Charges a key for an entry that was served and cost so much more than was said: its next turns
    /// pay for it, while others wait as well. A key that has no entries has nothing to pay with.
    pub fn charge(&mut self, key: &K, sort: Sort, cost: u32) {
        let Some(&at) = self.index.get(key) else { return };
        let owner = &mut self.keys[at];
        owner.debt += u64::from(cost);
        owner.lines[sort as usize].served += u64::from(cost);
    }

    /// Puts out the entry that was pushed first, if its deadline has passed.
    pub fn expire(&mut self, now: Instant) -> Option<Left<T>> {
        let at = self.ages.first()?;
        let is_late = is_past(self.entries[at].since, self.limits.deadline, now);
        is_late.then(|| self.leave(at, Why::Expired, now))
    }

    /// Puts out one entry if more than `depth` wait, as they may after [`FairQueue::set_limits`].
    pub fn shed(&mut self, now: Instant) -> Option<Left<T>> {
        if self.entries.len() <= self.limits.depth {
            return None;
        }
        if let Some(expired) = self.expire(now) {
            return Some(expired);
        }
        let key = self.fatness.get(self.fattest)?.first()?;
        let [heavy, light] = &self.keys[key].lines;
        let line = if heavy.count >= light.count { heavy } else { light };
        let at = line.waiting.first()?;
        Some(self.leave(at, Why::Displaced, now))
    }

    /// Takes an entry out, where it still waits.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let waiter = self.entries.get(ticket.at)?;
        (waiter.serial == ticket.serial).then(|| self.unlink(ticket.at).item)
    }

    /// Changes the bounds. Where `depth` shrank, [`FairQueue::shed`] has work.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Entries that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What those that wait cost together, in the unit of their [`Entry::cost`].
    pub fn work(&self) -> u64 {
        self.work
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When the wait of the entry that was pushed first began.
    pub fn oldest(&self) -> Option<Instant> {
        self.ages.first().map(|at| self.entries[at].since)
    }

    /// The key that would be shed from, and how many entries it has.
    pub fn fattest(&self) -> Option<(&K, usize)> {
        let key = &self.keys[self.fatness.get(self.fattest)?.first()?];
        Some((&key.key, key.count as usize))
    }

    fn key_for(&mut self, entry: &Entry<K, T>) -> usize {
        let weight = u64::from(entry.weight.max(1));
        if let Some(&at) = self.index.get(&entry.key) {
            self.keys[at].weight = weight;
            return at;
        }
        let at = self.keys.insert(Key {
            key: entry.key.clone(),
            weight,
            lane: entry.lane,
            debt: 0,
            credit: 0,
            lines: [Line::new(), Line::new()],
            count: 0,
            fatness: 0,
            of_lane: Links::UNLINKED,
            of_fatness: Links::UNLINKED,
        });
        self.index.insert(entry.key.clone(), at);
        match entry.lane {
            Lane::Ahead => self.ahead.push_back(&mut self.keys, at),
            Lane::InOrder => self.in_order.push_back(&mut self.keys, at),
        }
        at
    }

    /// The entry whose turn it is; its key has the credit for it.
    fn next_turn(&mut self, now: Instant) -> Option<usize> {
        if let Some(key) = self.current {
            let at = self.next_of(key, now)?;
            if self.entries[at].cost <= self.keys[key].credit {
                return Some(at);
            }
            self.end_turn(key);
        }
        let mut key = self.begin_turn()?;
        while !self.pays(key) {
            self.end_turn(key);
            key = self.begin_turn()?;
        }
        self.next_of(key, now)
    }

    /// Whether the key, at the beginning of its turn, can pay what it owes and has a turn left.
    /// Where nobody else waits, nobody was harmed by what it did not pay.
    fn pays(&mut self, key: usize) -> bool {
        let is_alone = self.keys.len() == 1;
        let owner = &mut self.keys[key];
        if is_alone {
            owner.debt = 0;
        }
        let paid = owner.debt.min(owner.credit);
        owner.debt -= paid;
        owner.credit -= paid;
        // What is left must be enough for any entry.
        owner.credit >= self.quantum
    }

    fn next_of(&self, key: usize, now: Instant) -> Option<usize> {
        let line = match &self.keys[key].lines {
            [heavy, light] if heavy.count == 0 => light,
            [heavy, light] if light.count == 0 => heavy,
            [heavy, light] if heavy.served <= light.served => heavy,
            [_, light] => light,
        };
        let oldest = line.waiting.first()?;
        let deadline = self.limits.deadline;
        let in_order = match line.pace {
            Some(pace) if pace.has_told(deadline, now) => deadline * 7 / 8,
            _ => deadline / 2,
        };
        let is_late = is_past(self.entries[oldest].since, in_order, now);
        if is_late { line.waiting.last() } else { Some(oldest) }
    }

    /// Whether the line's last, a newcomer, cannot be served in time.
    fn is_hopeless(&mut self, key: usize, sort: Sort, now: Instant) -> bool {
        let Limits { deadline, patience, .. } = self.limits;
        let line = &mut self.keys[key].lines[sort as usize];
        let before = line.count - 1;
        let pace = line.pace.as_mut().filter(|_| patience < deadline);
        pace.is_some_and(|pace| pace.tell(before, patience, deadline, now))
    }

    fn begin_turn(&mut self) -> Option<usize> {
        let (lane, key) = match (self.ahead.first(), self.in_order.first(), self.last_lane) {
            (_, Some(key), Lane::Ahead) => (Lane::InOrder, key),
            (Some(key), _, _) => (Lane::Ahead, key),
            (None, key, Lane::InOrder) => (Lane::InOrder, key?),
            (None, None, Lane::Ahead) => return None,
        };
        self.last_lane = lane;
        self.current = Some(key);
        let owner = &mut self.keys[key];
        owner.credit += self.quantum * owner.weight;
        Some(key)
    }

    fn end_turn(&mut self, key: usize) {
        self.current = None;
        let lane = match self.keys[key].lane {
            Lane::Ahead => &mut self.ahead,
            Lane::InOrder => &mut self.in_order,
        };
        lane.unlink(&mut self.keys, key);
        lane.push_back(&mut self.keys, key);
    }

    fn leave(&mut self, at: usize, why: Why, now: Instant) -> Left<T> {
        let waiter = self.unlink(at);
        let waited = now.saturating_duration_since(waiter.since);
        Left { item: waiter.item, waited, why }
    }

    fn unlink(&mut self, at: usize) -> Waiter<T> {
        let key = self.entries[at].key;
        self.ages.unlink(&mut self.entries, at);
        let sort = self.entries[at].sort;
        let owner = &mut self.keys[key];
        owner.count -= 1;
        let line = &mut owner.lines[sort as usize];
        line.waiting.unlink(&mut self.entries, at);
        line.count -= 1;
        if line.count == 0 {
            line.pace = None;
        }
        self.settle_fatness(key);
        if self.keys[key].count == 0 {
            self.forget_key(key);
        }
        if self.keys.is_empty() {
            self.quantum = 0;
        }
        let waiter = self.entries.remove(at);
        self.work -= waiter.cost;
        waiter
    }

    fn forget_key(&mut self, at: usize) {
        if self.current == Some(at) {
            self.current = None;
        }
        match self.keys[at].lane {
            Lane::Ahead => self.ahead.unlink(&mut self.keys, at),
            Lane::InOrder => self.in_order.unlink(&mut self.keys, at),
        }
        let key = self.keys.remove(at);
        self.index.remove(&key.key);
    }

    /// Puts the key into the bucket of its fatness, and finds the highest bucket.
    fn settle_fatness(&mut self, at: usize) {
        let key = &mut self.keys[at];
        let (from, to) = (key.fatness, key.count.div_ceil(key.weight) as usize);
        if from == to {
            return;
        }
        key.fatness = to;
        if from > 0 {
            self.fatness[from].unlink(&mut self.keys, at);
        }
        while self.fatness.len() <= to {
            self.fatness.push(List::new(|key| &mut key.of_fatness));
        }
        if to > 0 {
            self.fatness[to].push_back(&mut self.keys, at);
        }
        self.fattest = self.fattest.max(to);
        while self.fattest > 0 && self.fatness[self.fattest].is_empty() {
            self.fattest -= 1;
        }
    }
}

fn is_past(since: Instant, patience: Duration, now: Instant) -> bool {
    now.saturating_duration_since(since) >= patience
}
