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
//! - **Order inside a sort.** First in first out while its oldest is younger than half the
//!   deadline, then newest first: when not all can be served in time, some are served soon rather
//!   than all late.
//! - **Standing lines.** A line is the entries of one key and sort. One of which, for a whole
//!   deadline, each that was served found the oldest waiting for `patience` or longer is offered
//!   more than it is served, and waiting will not mend that: it stands. From then on none of it
//!   waits longer than `patience`: those who cannot be served are told soon (CoDel: Nichols,
//!   Jacobson 2012). A newcomer is told at once where as many wait as were served lately in three
//!   quarters of that: to take it in would cost more than it has to hope for. The line stands until it
//!   is served within half of `patience` and has told no newcomer so for a deadline, or is empty. A line that is never empty but served in time
//!   does not stand, however busy, nor does a burst; and no line is touched by another's standing.
//!   With `patience` no shorter than the deadline there is no such rule. An entry put out for its age
//!   leaves at its key's turn, or at any push or `expire` while its key is the fattest.
//!
//! States of an entry: *waiting* from `push` until it leaves, exactly once, by `pop` ([`Why::Turn`],
//! [`Why::Gone`], [`Why::Expired`], [`Why::Standing`]), by another's `push` or by `shed` (these and
//! [`Why::Displaced`]), by `expire`, or by `remove` of its [`Ticket`], which is stale from then on.
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

mod late;
mod list;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use slab::Slab;

use late::Late;
use list::{Links, List};

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
    serial: u64,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Entries that may wait, over all keys; 0 refuses everything.
    pub depth: usize,
    /// Age past which an entry is not served.
    pub deadline: Duration,
    /// The same in a line that stands; no rule of its own where it is no shorter.
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
    /// Its line stands, and this was its oldest, or a newcomer without hope.
    Standing,
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
    /// How long whoever was served has found the oldest waiting for too long.
    late: Option<Late>,
    /// Cost served; comparable with the other sort's while both wait.
    served: u64,
}

impl<T> Line<T> {
    fn new() -> Line<T> {
        let waiting = List::new(|waiter: &mut Waiter<T>| &mut waiter.of_sort);
        Line { waiting, count: 0, late: None, served: 0 }
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
            line.late = None;
        }
        line.waiting.push_back(&mut self.entries, at);
        line.count += 1;
        self.settle_fatness(key);
        let left = match self.is_hopeless(key, entry.sort, now) {
            true => Some(self.leave(at, Why::Standing, now)),
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
        if let Some(oldest) = self.out_of_patience(waiter.key, now) {
            return Some(self.leave(oldest, Why::Standing, now));
        }
        if gone(&waiter.item) {
            return Some(self.leave(at, Why::Gone, now));
        }
        let Waiter { key, sort, cost, .. } = *waiter;
        self.judge(key, sort, now);
        let owner = &mut self.keys[key];
        owner.credit -= cost;
        owner.lines[sort as usize].served += cost;
        Some(self.leave(at, Why::Turn, now))
    }

    /// Charges a key for an entry that was served and cost so much more than was said: its next turns
    /// pay for it, while others wait as well. A key that has no entries has nothing to pay with.
    pub fn charge(&mut self, key: &K, sort: Sort, cost: u32) {
        let Some(&at) = self.index.get(key) else { return };
        let owner = &mut self.keys[at];
        owner.debt += u64::from(cost);
        owner.lines[sort as usize].served += u64::from(cost);
    }

    /// Puts out the entry that was pushed first, if its deadline has passed, else the oldest of the
    /// fattest key, if that key stands and it has waited too long for that.
    pub fn expire(&mut self, now: Instant) -> Option<Left<T>> {
        let at = self.ages.first()?;
        if is_past(self.entries[at].since, self.limits.deadline, now) {
            return Some(self.leave(at, Why::Expired, now));
        }
        let key = self.fatness.get(self.fattest)?.first()?;
        let oldest = self.out_of_patience(key, now)?;
        Some(self.leave(oldest, Why::Standing, now))
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
        let late = is_past(self.entries[oldest].since, self.limits.deadline / 2, now);
        if late { line.waiting.last() } else { Some(oldest) }
    }

    /// Whether the line has been offered more than it is served for a whole deadline.
    fn stands(&self, line: &Line<T>, now: Instant) -> bool {
        let Limits { deadline, patience, .. } = self.limits;
        patience < deadline && line.late.is_some_and(|late| is_past(late.since, deadline, now))
    }

    /// Whether the line's last has too many before it.
    fn is_hopeless(&mut self, key: usize, sort: Sort, now: Instant) -> bool {
        let time = self.limits.patience * 3 / 4;
        let line = &self.keys[key].lines[sort as usize];
        let before = line.count - 1;
        let is_beyond = line.late.is_some_and(|late| late.is_beyond(before, time, now));
        let is_hopeless = is_beyond && self.stands(line, now);
        if is_hopeless && let Some(late) = &mut self.keys[key].lines[sort as usize].late {
            late.hopeless_at = Some(now);
        }
        is_hopeless
    }

    /// Looks how long the line makes wait, as one of it is served.
    fn judge(&mut self, key: usize, sort: Sort, now: Instant) {
        let line = &self.keys[key].lines[sort as usize];
        let patience = self.limits.patience / if self.stands(line, now) { 2 } else { 1 };
        let oldest = line.waiting.first().map(|at| self.entries[at].since);
        let is_lately = |at| !is_past(at, self.limits.deadline, now);
        let is_late = oldest.is_some_and(|since| is_past(since, patience, now))
            || line.late.and_then(|late| late.hopeless_at).is_some_and(is_lately);
        let late = &mut self.keys[key].lines[sort as usize].late;
        let serve = |late: Late| late.serve(self.limits.deadline, now);
        *late = is_late.then(|| late.map_or_else(|| Late::begin(now), serve));
    }

    /// An entry of the key that has waited for longer than it may in a line that stands.
    fn out_of_patience(&self, key: usize, now: Instant) -> Option<usize> {
        let standing = self.keys[key].lines.iter().filter(|line| self.stands(line, now));
        let mut oldest = standing.filter_map(|line| line.waiting.first());
        oldest.find(|at| is_past(self.entries[*at].since, self.limits.patience, now))
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
        self.settle_fatness(key);
        if self.keys[key].count == 0 {
            self.forget_key(key);
        }
        if self.keys.is_empty() {
            self.quantum = 0;
        }
        self.entries.remove(at)
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
