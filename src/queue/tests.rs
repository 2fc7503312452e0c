//! The fair queue: scenarios with time passed in, and properties under random operations.

mod forecast;

use super::*;

const DEADLINE: Duration = Duration::from_millis(1_000);

/// Numbers from a seed (splitmix64): a failure names the seed, and the run can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn queue(depth: usize) -> FairQueue<u32, u64> {
    FairQueue::new(Limits { depth, deadline: DEADLINE, patience: DEADLINE })
}

fn entry(key: u32, item: u64, since: Instant) -> Entry<u32, u64> {
    Entry { key, weight: 1, cost: 1, lane: Lane::InOrder, sort: Sort::Heavy, since, item }
}

/// All that leaves at `now`, with its reason.
fn drain(queue: &mut FairQueue<u32, u64>, now: Instant) -> Vec<(u64, Why)> {
    std::iter::from_fn(|| queue.pop(now, |_| false)).map(|left| (left.item, left.why)).collect()
}

fn items(queue: &mut FairQueue<u32, u64>, now: Instant) -> Vec<u64> {
    drain(queue, now).into_iter().map(|(item, _)| item).collect()
}

#[test]
fn keys_take_turns_however_many_entries_one_has() {
    let (mut queue, now) = (queue(16), Instant::now());
    for item in 0..6 {
        queue.push(entry(1, item, now), now);
    }
    queue.push(entry(2, 20, now), now);
    queue.push(entry(3, 30, now), now);
    assert_eq!(items(&mut queue, now), [0, 20, 30, 1, 2, 3, 4, 5]);
}

#[test]
fn a_key_of_weight_three_is_served_three_times_a_turn() {
    let (mut queue, now) = (queue(16), Instant::now());
    for item in 0..6 {
        queue.push(Entry { weight: 3, ..entry(1, item, now) }, now);
        queue.push(entry(2, 10 + item, now), now);
    }
    assert_eq!(items(&mut queue, now)[..8], [0, 1, 2, 10, 3, 4, 5, 11]);
}

#[test]
fn cheap_entries_are_charged_less() {
    let (mut queue, now) = (queue(32), Instant::now());
    for item in 0..4 {
        queue.push(Entry { cost: 400, ..entry(1, item, now) }, now);
    }
    for item in 10..20 {
        queue.push(Entry { cost: 100, ..entry(2, item, now) }, now);
    }
    assert_eq!(items(&mut queue, now)[..10], [0, 10, 11, 12, 13, 1, 14, 15, 16, 17]);
}

#[test]
fn a_full_queue_sheds_the_flooding_keys_oldest_and_takes_the_quiet_newcomer() {
    let (mut queue, now) = (queue(4), Instant::now());
    for item in 0..4 {
        assert!(queue.push(entry(1, item, now), now).left.is_none());
    }
    let left = queue.push(entry(2, 20, now), now).left.unwrap();
    assert_eq!((left.item, left.why), (0, Why::Displaced));
    // The flooding key's own newcomer displaces its own oldest.
    assert_eq!(queue.push(entry(1, 4, now), now).left.unwrap().item, 1);
    assert_eq!(queue.fattest(), Some((&1, 3)));
    assert_eq!(queue.len(), 4);
}

#[test]
fn a_heavier_key_may_hold_more_before_it_counts_as_fat() {
    let (mut queue, now) = (queue(6), Instant::now());
    for item in 0..4 {
        queue.push(Entry { weight: 4, ..entry(1, item, now) }, now);
    }
    queue.push(entry(2, 20, now), now);
    queue.push(entry(2, 21, now), now);
    assert_eq!(queue.push(entry(3, 30, now), now).left.unwrap().item, 20);
}

#[test]
fn an_expired_entry_goes_before_a_live_one_is_displaced() {
    let (mut queue, now) = (queue(2), Instant::now());
    queue.push(entry(1, 0, now), now);
    let later = now + DEADLINE;
    queue.push(entry(2, 20, later), later);
    let left = queue.push(entry(2, 21, later), later).left.unwrap();
    assert_eq!((left.item, left.why, left.waited), (0, Why::Expired, DEADLINE));
}

#[test]
fn what_is_past_its_deadline_on_arrival_displaces_nobody() {
    let (mut queue, now) = (queue(1), Instant::now());
    let late = now + DEADLINE;
    queue.push(entry(1, 0, late), late);
    let pushed = queue.push(entry(2, 20, now), late);
    assert_eq!(pushed.left.map(|left| (left.item, left.why)), Some((20, Why::Expired)));
    assert_eq!(queue.remove(pushed.ticket), None);
    assert_eq!(items(&mut queue, late), [0]);
}

#[test]
fn newest_first_once_the_oldest_is_past_half_the_deadline() {
    let (mut queue, now) = (queue(8), Instant::now());
    for item in 0..3 {
        queue.push(entry(1, item, now), now);
    }
    let before = now + DEADLINE / 2 - Duration::from_millis(1);
    assert_eq!(queue.pop(before, |_| false).unwrap().item, 0);
    let half = now + DEADLINE / 2;
    queue.push(entry(1, 3, half), half);
    assert_eq!(items(&mut queue, half), [3, 2, 1]);
}

#[test]
fn the_moment_an_entry_expires_is_its_deadline() {
    let (mut queue, now) = (queue(8), Instant::now());
    queue.push(entry(1, 0, now), now);
    assert!(queue.expire(now + DEADLINE - Duration::from_nanos(1)).is_none());
    assert_eq!(drain(&mut queue, now + DEADLINE), [(0, Why::Expired)]);
}

#[test]
fn what_nobody_waits_for_leaves_without_being_charged() {
    let (mut queue, now) = (queue(8), Instant::now());
    for item in 0..3 {
        queue.push(entry(1, item, now), now);
    }
    queue.push(entry(2, 20, now), now);
    let left = queue.pop(now, |item| *item == 0).unwrap();
    assert_eq!((left.item, left.why), (0, Why::Gone));
    assert_eq!(items(&mut queue, now), [1, 20, 2]);
}

#[test]
fn an_urgent_key_waits_for_one_turn_and_starves_nobody() {
    let (mut queue, now) = (queue(64), Instant::now());
    for item in 0..4 {
        queue.push(entry(1, 10 + item, now), now);
        queue.push(entry(2, 20 + item, now), now);
    }
    assert_eq!(queue.pop(now, |_| false).unwrap().item, 10);
    for item in 0..5 {
        let urgent = Entry { weight: 2, lane: Lane::Ahead, ..entry(9, 90 + item, now) };
        queue.push(urgent, now);
    }
    assert_eq!(items(&mut queue, now)[..8], [90, 91, 20, 92, 93, 11, 94, 21]);
}

#[test]
fn a_ticket_removes_its_own_entry_only_and_once() {
    let (mut queue, now) = (queue(8), Instant::now());
    let first = queue.push(entry(1, 0, now), now).ticket;
    assert_eq!(queue.remove(first), Some(0));
    // The same slot, another entry.
    queue.push(entry(1, 1, now), now);
    assert_eq!(queue.remove(first), None);
    assert_eq!(items(&mut queue, now), [1]);
}

#[test]
fn a_queue_of_no_depth_refuses_everything() {
    let (mut queue, now) = (queue(0), Instant::now());
    let left = queue.push(entry(1, 7, now), now).left.unwrap();
    assert_eq!((left.item, left.why), (7, Why::Displaced));
    assert!(queue.is_empty() && queue.keys.is_empty());
}

#[test]
fn a_smaller_depth_sheds_down_to_it() {
    let (mut queue, now) = (queue(8), Instant::now());
    for item in 0..6 {
        queue.push(entry(1, item, now), now);
    }
    queue.push(entry(2, 20, now), now);
    queue.set_limits(Limits { depth: 3, deadline: DEADLINE, patience: DEADLINE });
    let shed: Vec<u64> = std::iter::from_fn(|| queue.shed(now)).map(|left| left.item).collect();
    assert_eq!(shed, [0, 1, 2, 3]);
}

#[test]
fn a_change_of_weight_finds_the_fattest_anew() {
    let (mut queue, now) = (queue(64), Instant::now());
    for item in 0..20 {
        queue.push(entry(1, item, now), now);
    }
    for item in 0..5 {
        queue.push(entry(2, 100 + item, now), now);
    }
    queue.push(Entry { weight: 10, ..entry(1, 20, now) }, now);
    assert_eq!(queue.fattest(), Some((&2, 5)));
}

#[test]
fn many_of_one_sort_do_not_shut_out_the_few_of_the_other() {
    let (mut queue, now) = (queue(8), Instant::now());
    let light = |item| Entry { sort: Sort::Light, cost: 100, ..entry(1, item, now) };
    let heavy = |item| Entry { cost: 300, ..entry(1, item, now) };
    for item in 0..6 {
        queue.push(heavy(item), now);
    }
    for item in 10..14 {
        queue.push(light(item), now);
    }
    // Two had to go, of the more numerous sort; then 300 of cost for 300 of cost.
    assert_eq!(items(&mut queue, now), [2, 10, 11, 12, 3, 13, 4, 5]);
}

#[derive(Clone, Copy)]
struct Waits {
    key: u32,
    sort: Sort,
    cost: u32,
    item: u64,
    since: Instant,
}

#[derive(Clone, Copy)]
struct Paced {
    since: Instant,
    counted_since: Instant,
    served: u64,
    told_at: Option<Instant>,
}

/// The same queue, thought of in the plainest way: what each key holds, in the order of pushes.
struct Model {
    queue: FairQueue<u32, u64>,
    /// In the order of pushes.
    waiting: Vec<Waits>,
    /// Of each line, by key and sort: since when it is not empty; since when its served are counted, and
    /// how many; when a newcomer to it last had no hope.
    lines: [[Option<Paced>; 2]; 12],
    patience: Duration,
    weights: [u32; 12],
    now: Instant,
    depth: usize,
    next_item: u64,
    told: u32,
    seed: u64,
}

impl Model {
    fn new(seed: u64, random: &mut Random) -> Model {
        let depth = 1 + random.below(24) as usize;
        let patience = DEADLINE / (1 + random.below(5) as u32);
        Model {
            queue: FairQueue::new(Limits { depth, deadline: DEADLINE, patience }),
            waiting: Vec::new(),
            lines: [[None; 2]; 12],
            patience,
            weights: std::array::from_fn(|_| 1 + random.below(4) as u32),
            now: Instant::now(),
            depth,
            next_item: 0,
            told: 0,
            seed,
        }
    }

    fn push(&mut self, random: &mut Random) {
        // Key 0 floods.
        let key = if random.below(2) == 0 { 0 } else { random.below(12) as u32 };
        let since = self.now - Duration::from_millis(random.below(60));
        let sort = if random.below(4) == 0 { Sort::Light } else { Sort::Heavy };
        self.next_item += 1;
        let cost = 1 + random.below(500) as u32;
        let pushed = self.queue.push(
            Entry {
                key,
                weight: self.weights[key as usize],
                cost,
                lane: if key == 11 { Lane::Ahead } else { Lane::InOrder },
                sort,
                since,
                item: self.next_item,
            },
            self.now,
        );
        let seed = self.seed;
        let hopeless = self.is_hopeless(key, sort);
        let now = self.now;
        let begun = || Paced { since: now, counted_since: now, served: 0, told_at: None };
        self.lines[key as usize][sort as usize].get_or_insert_with(begun);
        self.waiting.push(Waits { key, sort, cost, item: self.next_item, since });
        let leaves = hopeless || self.waiting.len() > self.depth;
        assert_eq!(pushed.left.is_some(), leaves, "seed {seed}");
        if hopeless {
            let left = pushed.left.expect("one leaves");
            assert_eq!((left.item, left.why), (self.next_item, Why::Hopeless), "seed {seed}");
            assert_eq!(left.waited, self.now - since, "seed {seed}");
            self.waiting.pop();
            let line = self.lines[key as usize][sort as usize].as_mut().expect("it is not empty");
            line.told_at = Some(self.now);
            self.told += 1;
            return;
        }
        if let Some(left) = pushed.left {
            self.check_left(&left);
        }
        if random.below(8) == 0 {
            let removed = self.queue.remove(pushed.ticket);
            let stood = self.waiting.iter().position(|waiter| waiter.item == self.next_item);
            assert_eq!(removed, stood.map(|at| self.waiting.remove(at).item), "seed {seed}");
            self.forget_empty();
        }
    }

    /// Whether as many wait as were served, lately, in the time that one may wait.
    fn is_hopeless(&self, key: u32, sort: Sort) -> bool {
        let waiting = self.waiting.iter().filter(|w| w.key == key && w.sort == sort).count();
        let Some(line) = self.lines[key as usize][sort as usize] else { return false };
        let is_known = line.served >= 8 || self.now - line.since >= DEADLINE * 2;
        let is_burst = self.now - line.since < DEADLINE / 16;
        let counted = (self.now - line.counted_since).as_nanos();
        let time = self.patience.as_nanos();
        let is_long = waiting as u128 * counted >= u128::from(line.served) * time;
        self.patience < DEADLINE && is_known && !is_burst && is_long
    }

    fn forget_empty(&mut self) {
        for key in 0..12 {
            for sort in [Sort::Heavy, Sort::Light] {
                if !self.waiting.iter().any(|w| w.key == key && w.sort == sort) {
                    self.lines[key as usize][sort as usize] = None;
                }
            }
        }
    }

    fn check_left(&mut self, left: &Left<u64>) {
        let seed = self.seed;
        let at = self.waiting.iter().position(|waiter| waiter.item == left.item);
        let Waits { key, sort, since, .. } = self.waiting[at.expect("an entry leaves once")];
        let line: Vec<Waits> =
            self.waiting.iter().copied().filter(|w| w.key == key && w.sort == sort).collect();
        let waited = self.now - since;
        let paced = self.lines[key as usize][sort as usize].as_mut().expect("it is not empty");
        assert_eq!(left.waited, waited, "seed {seed}");
        match left.why {
            Why::Expired => assert!(waited >= DEADLINE, "seed {seed}"),
            Why::Hopeless => panic!("only a newcomer, seed {seed}"),
            Why::Displaced => {
                assert_eq!(left.item, line[0].item, "the oldest of its sort, seed {seed}");
                let others = self.waiting.iter().filter(|w| w.key == key && w.sort != sort).count();
                assert!(line.len() >= others, "of the more numerous sort, seed {seed}");
                assert_eq!(self.fatness(key), (0..12).map(|key| self.fatness(key)).max().unwrap());
            }
            Why::Turn | Why::Gone => {
                assert!(waited < DEADLINE, "seed {seed}");
                let oldest = self.now - line[0].since;
                let has_told = paced.told_at.is_some_and(|at| self.now - at < DEADLINE);
                let in_order = if has_told { DEADLINE * 7 / 8 } else { DEADLINE / 2 };
                let due = if oldest >= in_order { line.last() } else { line.first() };
                assert_eq!(Some(left.item), due.map(|waiter| waiter.item), "seed {seed}");
                if left.why == Why::Turn {
                    let counted = self.now - paced.counted_since;
                    paced.served += 1;
                    if counted >= DEADLINE * 2 {
                        paced.served /= 2;
                        paced.counted_since += counted / 2;
                    }
                }
            }
        }
        self.waiting.retain(|waiter| waiter.item != left.item);
        self.forget_empty();
    }

    fn fatness(&self, key: u32) -> usize {
        let count = self.waiting.iter().filter(|waiter| waiter.key == key).count();
        count.div_ceil(self.weights[key as usize] as usize)
    }

    fn check_state(&self) {
        let seed = self.seed;
        let queue = &self.queue;
        assert!(queue.len() <= self.depth, "the bound is exact, seed {seed}");
        assert_eq!(queue.len(), self.waiting.len(), "seed {seed}");
        let work: u64 = self.waiting.iter().map(|waiter| u64::from(waiter.cost)).sum();
        assert_eq!(queue.work(), work, "seed {seed}");
        let keys: std::collections::HashSet<u32> =
            self.waiting.iter().map(|waiter| waiter.key).collect();
        assert_eq!(queue.keys.len(), keys.len(), "a key is there while it waits, seed {seed}");
        assert_eq!(queue.index.len(), keys.len(), "seed {seed}");
        let fattest = (0..12).map(|key| self.fatness(key)).max().unwrap();
        assert_eq!(queue.fattest, fattest, "seed {seed}");
        // One more for the newcomer before the fattest key's oldest leaves.
        assert!(queue.fatness.len() <= self.depth + 2, "seed {seed}");
        assert_eq!(queue.oldest(), self.waiting.first().map(|waiter| waiter.since), "seed {seed}");
    }
}

#[test]
fn every_rule_holds_under_random_operations() {
    let mut told = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut model = Model::new(seed, &mut random);
        for _ in 0..400 {
            match random.below(11) {
                0..5 => model.push(&mut random),
                5..8 => {
                    let gone = random.below(6) == 0;
                    // Looking changes nothing, and tells who is served next.
                    let next = match random.below(2) == 0 {
                        true => model.queue.peek(model.now).copied(),
                        false => None,
                    };
                    let is_next = |left: &Left<u64>| next.is_none_or(|next| next == left.item);
                    match model.queue.pop(model.now, |_| gone) {
                        Some(left) => {
                            assert!(left.why == Why::Expired || is_next(&left), "seed {seed}");
                            model.check_left(&left);
                        }
                        None => assert!(model.waiting.is_empty(), "work-conserving, seed {seed}"),
                    }
                }
                8 => {
                    if let Some(left) = model.queue.expire(model.now) {
                        model.check_left(&left);
                    }
                }
                9 => {
                    let sort = if random.below(2) == 0 { Sort::Heavy } else { Sort::Light };
                    model.queue.charge(&(random.below(12) as u32), sort, random.below(20) as u32);
                }
                _ => model.now += Duration::from_millis(random.below(200)),
            }
            model.check_state();
        }
        told += model.told;
    }
    assert!(told > 100, "some newcomers had no hope: {told}");
}

#[test]
fn keys_that_always_wait_get_cost_by_weight_within_three_quanta() {
    for seed in 0..50 {
        let mut random = Random(seed);
        let now = Instant::now();
        let mut queue = queue(1_000);
        let weights: [u32; 5] = std::array::from_fn(|_| 1 + random.below(5) as u32);
        let push = |queue: &mut FairQueue<u32, u64>, random: &mut Random, key: u32| {
            let cost = 1 + random.below(450);
            let weight = weights[key as usize];
            let item = u64::from(key) << 32 | cost;
            queue.push(Entry { weight, cost: cost as u32, ..entry(key, item, now) }, now);
        };
        for key in 0..5 {
            for _ in 0..10 {
                push(&mut queue, &mut random, key);
            }
        }
        let mut served = [0.0; 5];
        for _ in 0..3_000 {
            let item = queue.pop(now, |_| false).unwrap().item;
            let key = (item >> 32) as u32;
            served[key as usize] += (item & 0xFFFF_FFFF) as f64 / f64::from(weights[key as usize]);
            push(&mut queue, &mut random, key);
            let most = served.iter().copied().fold(f64::MIN, f64::max);
            let least = served.iter().copied().fold(f64::MAX, f64::min);
            assert!(most - least <= 3.0 * queue.quantum as f64, "seed {seed}: {served:?}");
        }
    }
}

/// Key 1 says that its entries cost 120, and they cost 445, which is told `late` entries later.
#[test]
fn a_key_whose_entries_cost_more_than_was_said_pays_for_it() {
    for late in [0, 1, 40] {
        let (mut queue, now) = (queue(1_000), Instant::now());
        let push = |queue: &mut FairQueue<u32, u64>, key: u32| {
            let (cost, sort) = if key == 1 { (120, Sort::Light) } else { (445, Sort::Heavy) };
            queue.push(Entry { cost, sort, ..entry(key, key.into(), now) }, now);
        };
        for _ in 0..20 {
            push(&mut queue, 1);
            push(&mut queue, 2);
        }
        let (mut served, mut owed) = ([0_u64, 0], 0);
        for _ in 0..4_000 {
            let key = queue.pop(now, |_| false).unwrap().item as u32;
            served[key as usize - 1] += 1;
            push(&mut queue, key);
            owed += if key == 1 { 1 } else { 0 };
            if owed > late {
                owed -= 1;
                queue.charge(&1, Sort::Light, 445 - 120);
            }
        }
        let [lying, honest] = served;
        assert!(honest.abs_diff(lying) <= late + 8, "{late} late: {served:?}");
    }
}

#[test]
fn what_was_not_paid_is_forgiven_where_nobody_else_waits() {
    let (mut queue, now) = (queue(16), Instant::now());
    queue.charge(&1, Sort::Light, 7); // It has no entries.
    for item in 0..4 {
        queue.push(entry(1, item, now), now);
    }
    queue.charge(&1, Sort::Heavy, 1_000_000);
    assert_eq!(items(&mut queue, now), [0, 1, 2, 3]);
    queue.push(entry(1, 4, now), now);
    queue.push(entry(2, 20, now), now);
    queue.push(entry(2, 21, now), now);
    queue.push(entry(2, 22, now), now);
    queue.charge(&1, Sort::Heavy, 2);
    assert_eq!(items(&mut queue, now), [20, 21, 4, 22], "two turns late");
}

#[test]
fn no_key_waits_longer_than_two_rounds() {
    // Costs 1 and weights up to 3, key 7 urgent and never empty: between two turns of a plain key
    // lie the turns of the six others, and an urgent turn before each.
    let bound = 7 * (3 + 3);
    for seed in 0..100 {
        let mut random = Random(seed);
        let now = Instant::now();
        let mut queue = queue(64);
        let mut waits = [0; 8];
        for step in 0..2_000_u64 {
            for _ in 0..2 {
                let key = if random.below(3) == 0 { 7 } else { random.below(8) as u32 };
                let lane = if key == 7 { Lane::Ahead } else { Lane::InOrder };
                let weight = 1 + key % 3;
                let item = step << 8 | u64::from(key);
                queue.push(Entry { weight, lane, ..entry(key, item, now) }, now);
            }
            let key = queue.pop(now, |_| false).unwrap().item & 0xFF;
            for (waiting, wait) in waits.iter_mut().enumerate() {
                let stands = queue.index.contains_key(&(waiting as u32));
                *wait = if stands && waiting as u64 != key { *wait + 1 } else { 0 };
                assert!(*wait <= bound, "seed {seed}, key {waiting}");
            }
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_keys_ever_seen() {
    let (mut queue, now) = (queue(32), Instant::now());
    for item in 0..100_000 {
        queue.push(entry(item as u32, item, now), now);
        if item % 3 == 0 {
            queue.pop(now, |_| false);
        }
    }
    assert!(queue.entries.capacity() <= 64 && queue.keys.capacity() <= 64);
    assert!(queue.index.capacity() <= 128);
    assert!(queue.fatness.len() <= 3);
}
