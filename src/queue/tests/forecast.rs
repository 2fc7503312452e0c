//! Newcomers that a line cannot serve in time, by its pace.

use super::*;

const PATIENCE: Duration = DEADLINE.checked_div(4).expect("four is not zero");
const STEP: Duration = DEADLINE.checked_div(1_000).expect("a thousand is not zero");

fn forecasting() -> FairQueue<u32, u64> {
    FairQueue::new(Limits { depth: 2_000, deadline: DEADLINE, patience: PATIENCE })
}

/// What a flood of key 1 comes to: one a step, and one in `every` steps is served.
#[derive(Default)]
struct Flood {
    told: usize,
    /// When each of the served came, and how long it waited.
    served: Vec<(Instant, Duration)>,
    /// In other ways.
    left: Vec<Why>,
}

impl Flood {
    fn goes_on(&mut self, queue: &mut FairQueue<u32, u64>, from: Instant, steps: u32, every: u32) {
        for step in 1..=steps {
            let at = from + STEP * step;
            let item = u64::from(step);
            match queue.push(entry(1, item, at), at).left {
                Some(left) if left.why == Why::Hopeless => {
                    assert_eq!((left.item, left.waited), (item, Duration::ZERO));
                    self.told += 1;
                }
                Some(left) => self.left.push(left.why),
                None => {}
            }
            while step % every == 0
                && let Some(left) = queue.pop(at, |_| false)
            {
                if left.why == Why::Turn {
                    self.served.push((at - left.waited, left.waited));
                    break;
                }
                self.left.push(left.why);
            }
        }
    }
}

#[test]
fn in_a_flood_whoever_cannot_be_served_in_time_is_told_at_once_and_the_others_are() {
    let (mut queue, now) = (forecasting(), Instant::now());
    // Until it is known how fast it is served, all are taken in: these wait longer.
    let mut flood = Flood::default();
    flood.goes_on(&mut queue, now, 2_000, 5);
    let (mut flood, now) = (Flood::default(), now + STEP * 2_000);
    flood.goes_on(&mut queue, now, 3_000, 5);
    assert_eq!(
        (flood.served.len(), flood.left.len()),
        (600, 0),
        "nobody who was let in waits in vain"
    );
    assert!((2_390..=2_410).contains(&flood.told), "{}", flood.told);
    assert!(flood.served.is_sorted_by_key(|(came, _)| *came), "in their order");
    let longest = flood.served.iter().map(|(_, waited)| *waited).max().unwrap();
    assert!(longest <= PATIENCE * 11 / 10, "{longest:?}");
    // Another's newcomers are taken in, and wait for their turn alone.
    let at = now + STEP * 3_000;
    for item in 0..50 {
        assert!(queue.push(entry(2, 10_000 + item, at), at).left.is_none());
    }
    assert!(items(&mut queue, at).iter().position(|item| *item == 10_049).unwrap() < 100);
}

#[test]
fn whoever_was_let_in_is_served_even_where_the_pace_falls_by_half() {
    let (mut queue, now) = (forecasting(), Instant::now());
    Flood::default().goes_on(&mut queue, now, 3_000, 5);
    let mut flood = Flood::default();
    flood.goes_on(&mut queue, now + STEP * 3_000, 2_000, 10);
    assert_eq!((flood.served.len(), flood.left.len()), (200, 0));
    let longest = flood.served.iter().map(|(_, waited)| *waited).max().unwrap();
    assert!(longest > PATIENCE * 3 / 2, "it was felt: {longest:?}");
}

#[test]
fn a_burst_is_taken_in_and_an_empty_line_begins_anew() {
    let (mut queue, now) = (forecasting(), Instant::now());
    for round in 0..3 {
        let now = now + DEADLINE * round;
        for item in 0..300 {
            let at = now + DEADLINE * item as u32 / 6_000;
            assert!(queue.push(entry(1, item, at), at).left.is_none(), "{round}: {item}");
            if item % 5 == 4 {
                queue.pop(at, |_| false);
            }
        }
        let late = now + DEADLINE / 5;
        let newcomer = queue.push(entry(1, 300, late), late).left.map(|left| left.why);
        assert_eq!(newcomer, Some(Why::Hopeless), "{round}: the burst is over, and this one late");
        assert_eq!(items(&mut queue, late).len(), 240, "{round}");
    }
}

#[test]
fn a_line_that_is_not_served_takes_in_while_it_is_not_known_how_fast_it_is() {
    let (mut queue, now) = (forecasting(), Instant::now());
    for item in 0..7 {
        queue.push(entry(1, item, now), now);
        queue.pop(now, |_| false);
    }
    for item in 0..100 {
        let at = now + DEADLINE * item as u32 / 100;
        assert!(queue.push(entry(1, item, at), at).left.is_none(), "{item}");
    }
}

#[test]
fn where_newcomers_are_told_to_go_those_who_wait_go_in_their_order_for_longer() {
    let (mut queue, now) = (forecasting(), Instant::now());
    Flood::default().goes_on(&mut queue, now, 3_000, 5);
    let waits = queue.len();
    let now = now + STEP * 3_000;
    let oldest = queue.oldest().unwrap();
    let late = oldest + DEADLINE * 7 / 8;
    let told = now + DEADLINE;
    assert!(told > late, "it has told one to go within the deadline");
    let first = queue.pop(late - STEP, |_| false).unwrap().waited;
    let second = queue.pop(late + STEP * 10, |_| false).unwrap();
    assert_eq!(first, DEADLINE * 7 / 8 - STEP);
    assert!(second.waited < DEADLINE * 7 / 8 - STEP * waits as u32, "the newest: {second:?}");
}
