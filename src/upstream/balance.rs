//! Which endpoint a request goes to. Pure: random numbers and loads are arguments.
//!
//! Candidates fall into tiers, and a method chooses inside the first tier that has anybody:
//!
//! 1. primaries in good standing, 2. backups in good standing, 3. ejected primaries, 4. ejected
//!    backups.
//!
//! The last two are the rule "never the last one standing": passive ejection alone leaves no
//! request without an endpoint. One that an active check took out (`Down`) is never chosen, nor is
//! one the request has tried before.

use std::time::Duration;

use smallvec::SmallVec;

/// Latencies below this count as equal: differences there are noise of the machine, not of the
/// endpoint.
const LATENCY_FLOOR: Duration = Duration::from_micros(500);

/// What the choice knows of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Share of the load, from 1.
    pub weight: u32,
    /// Used only while no primary can be.
    pub backup: bool,
    /// Whether it may be used.
    pub standing: Standing,
    /// The request has tried it before.
    pub tried: bool,
    /// Requests it is working on.
    pub in_flight: u32,
    /// How long its answers take of late.
    pub latency: Duration,
    /// Distinguishes endpoints in hashing; the same in every process and on every thread.
    pub identity: u64,
}

/// Whether an endpoint may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Nothing against it.
    Up,
    /// Requests failed on it; used only while nobody else can be.
    Ejected,
    /// An active check took it out; not used.
    Down,
}

impl Standing {
    /// The word for it in the admin API and on the dashboard.
    pub fn label(self) -> &'static str {
        match self {
            Standing::Up => "up",
            Standing::Ejected => "ejected",
            Standing::Down => "down",
        }
    }
}

/// How one of a tier is chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// The better of two drawn at random; holds the random number.
    LeastLoaded(u64),
    /// In turn by weight; holds the turn's number.
    RoundRobin(u64),
    /// Rendezvous hashing; holds the key.
    Hash(u64),
}

type Tier = SmallVec<[(usize, Candidate); 8]>;

/// The position of the endpoint to use; `None` where none may be.
pub fn choose(method: Method, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
    let tier = first_tier(candidates);
    match tier.as_slice() {
        [] => None,
        [(only, _)] => Some(*only),
        several => Some(match method {
            Method::LeastLoaded(random) => better_of_two(several, random),
            Method::RoundRobin(turn) => at_weight(several, turn % total_weight(several)),
            Method::Hash(key) => rendezvous(several, key),
        }),
    }
}

fn first_tier(candidates: impl Iterator<Item = Candidate>) -> Tier {
    let mut best = u8::MAX;
    let mut tier = Tier::new();
    for (at, candidate) in candidates.enumerate() {
        let rank = match (candidate.standing, candidate.backup) {
            (Standing::Down, _) => continue,
            _ if candidate.tried => continue,
            (Standing::Up, false) => 0,
            (Standing::Up, true) => 1,
            (Standing::Ejected, false) => 2,
            (Standing::Ejected, true) => 3,
        };
        if rank < best {
            best = rank;
            tier.clear();
        }
        if rank == best {
            tier.push((at, candidate));
        }
    }
    tier
}

/// Power of two choices: two are drawn by weight, the better one is taken. Drawing two bounds the
/// herd that a single "least loaded" would attract, and needs no order over all.
fn better_of_two(tier: &[(usize, Candidate)], random: u64) -> usize {
    let total = total_weight(tier);
    let first = at_weight(tier, u64::from((random >> 32) as u32) % total);
    let (_, one) = tier.iter().find(|(at, _)| *at == first).unwrap_or(&tier[0]);
    let rest: Tier = tier.iter().copied().filter(|(at, _)| *at != first).collect();
    let second = at_weight(&rest, u64::from(random as u32) % total_weight(&rest));
    let (_, other) = rest.iter().find(|(at, _)| *at == second).unwrap_or(&rest[0]);
    if is_better(other, one) { second } else { first }
}

/// Whether `other` is to be preferred to `drawn`. Latencies within a factor of two are taken as
/// equal, and then the requests in flight decide: a tie stays with the draw, which is what spreads
/// light load by weight. Else the product of both decides, so that a slow endpoint still gets the
/// requests that would have to wait longer on the fast one.
fn is_better(other: &Candidate, drawn: &Candidate) -> bool {
    let (other_latency, drawn_latency) =
        (other.latency.max(LATENCY_FLOOR), drawn.latency.max(LATENCY_FLOOR));
    // Cross-multiplied by the weights: a / w < b / v is a * v < b * w.
    let (other_weight, drawn_weight) = (u128::from(other.weight), u128::from(drawn.weight));
    if other_latency <= drawn_latency * 2 && drawn_latency <= other_latency * 2 {
        return u128::from(other.in_flight) * drawn_weight
            < u128::from(drawn.in_flight) * other_weight;
    }
    let cost = |latency: Duration, in_flight: u32| latency.as_micros() * u128::from(in_flight + 1);
    cost(other_latency, other.in_flight) * drawn_weight
        < cost(drawn_latency, drawn.in_flight) * other_weight
}

fn total_weight(tier: &[(usize, Candidate)]) -> u64 {
    tier.iter().map(|(_, candidate)| u64::from(candidate.weight.max(1))).sum()
}

/// The position of the candidate that covers `point` when all stand in a row, each as wide as its
/// weight.
fn at_weight(tier: &[(usize, Candidate)], mut point: u64) -> usize {
    for (at, candidate) in tier {
        let width = u64::from(candidate.weight.max(1));
        if point < width {
            return *at;
        }
        point -= width;
    }
    tier[tier.len() - 1].0
}

/// Weighted rendezvous hashing (Thaler and Ravishankar; weights by Schindelhauer and Schomaker):
/// the highest score of `weight / -ln(hash)` wins. Taking one endpoint away moves only its keys.
fn rendezvous(tier: &[(usize, Candidate)], key: u64) -> usize {
    let score = |candidate: &Candidate| {
        let hash = mix(key ^ mix(candidate.identity));
        // 53 bits, shifted by a half, are strictly inside (0, 1).
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        f64::from(candidate.weight.max(1)) / -unit.ln()
    };
    let mut best = (tier[0].0, score(&tier[0].1));
    for (at, candidate) in &tier[1..] {
        let value = score(candidate);
        if value > best.1 {
            best = (*at, value);
        }
    }
    best.0
}

/// A stable hash of bytes (FNV-1a, mixed): the same in every process, as hashing by client needs.
pub fn identity(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// The finaliser of SplitMix64: every input bit changes half of the output bits.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> Candidate {
        Candidate {
            weight: 1,
            backup: false,
            standing: Standing::Up,
            tried: false,
            in_flight: 0,
            latency: Duration::from_millis(5),
            identity: identity(name.as_bytes()),
        }
    }

    /// How often each of the candidates is chosen in 10,000 draws.
    fn shares(candidates: &[Candidate], method: fn(u64) -> Method) -> Vec<usize> {
        let mut shares = vec![0; candidates.len()];
        for draw in 0..10_000 {
            let random = match method(0) {
                Method::RoundRobin(_) => draw,
                Method::LeastLoaded(_) | Method::Hash(_) => mix(draw),
            };
            shares[choose(method(random), candidates.iter().copied()).unwrap()] += 1;
        }
        shares
    }

    #[track_caller]
    fn about(value: usize, expected: usize) {
        assert!(value.abs_diff(expected) < 300, "{value} is not about {expected}");
    }

    #[test]
    fn light_load_is_spread_by_weight() {
        let heavy = Candidate { weight: 3, ..endpoint("a") };
        for method in [Method::RoundRobin as fn(u64) -> Method, Method::LeastLoaded, Method::Hash] {
            let shares = shares(&[heavy, endpoint("b")], method);
            about(shares[0], 7_500);
        }
    }

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        let busy = Candidate { in_flight: 10, ..endpoint("a") };
        assert_eq!(shares(&[busy, endpoint("b")], Method::LeastLoaded)[0], 0);
        // Ten in flight at weight 10 weigh as much as one at weight 1.
        let (strong, weak) = (
            Candidate { in_flight: 10, weight: 10, ..endpoint("a") },
            Candidate { in_flight: 2, ..endpoint("b") },
        );
        assert_eq!(shares(&[strong, weak], Method::LeastLoaded)[1], 0);
    }

    #[test]
    fn a_slow_endpoint_gets_only_what_would_wait_longer_elsewhere() {
        let slow = Candidate { latency: Duration::from_millis(100), ..endpoint("a") };
        let fast = |in_flight| Candidate { in_flight, ..endpoint("b") };
        assert_eq!(shares(&[slow, fast(0)], Method::LeastLoaded)[0], 0);
        assert_eq!(shares(&[slow, fast(18)], Method::LeastLoaded)[0], 0);
        assert_eq!(shares(&[slow, fast(20)], Method::LeastLoaded)[1], 0);
    }

    #[test]
    fn of_three_the_most_loaded_is_never_taken() {
        let load = |name, in_flight| Candidate { in_flight, ..endpoint(name) };
        let shares = shares(&[load("a", 9), load("b", 1), load("c", 5)], Method::LeastLoaded);
        assert_eq!(shares[0], 0);
        assert!(shares[1] > shares[2]);
    }

    #[test]
    fn backups_serve_only_while_no_primary_is_up() {
        let backup = Candidate { backup: true, ..endpoint("b") };
        let ejected = Candidate { standing: Standing::Ejected, ..endpoint("a") };
        let method = Method::RoundRobin(7);
        assert_eq!(choose(method, [endpoint("a"), backup].into_iter()), Some(0));
        assert_eq!(choose(method, [ejected, backup].into_iter()), Some(1));
        let tried = Candidate { tried: true, ..backup };
        assert_eq!(choose(method, [ejected, tried].into_iter()), Some(0));
    }

    #[test]
    fn the_last_one_standing_is_used_though_ejected_but_never_one_that_is_down() {
        let ejected = Candidate { standing: Standing::Ejected, ..endpoint("a") };
        let down = Candidate { standing: Standing::Down, ..endpoint("b") };
        assert_eq!(choose(Method::LeastLoaded(1), [ejected, down].into_iter()), Some(0));
        assert_eq!(choose(Method::LeastLoaded(1), [down].into_iter()), None);
        assert_eq!(choose(Method::Hash(1), std::iter::empty()), None);
    }

    #[test]
    fn taking_an_endpoint_away_moves_only_its_keys() {
        let all = ["a", "b", "c", "d"].map(endpoint);
        let mut fewer = all;
        fewer[2].standing = Standing::Down;
        let mut moved = 0;
        for key in 0..1_000 {
            let method = Method::Hash(mix(key));
            let before = choose(method, all.into_iter()).unwrap();
            let after = choose(method, fewer.into_iter()).unwrap();
            if before == 2 {
                moved += 1;
                assert_ne!(after, 2);
            } else {
                assert_eq!(before, after);
            }
        }
        assert!((200..300).contains(&moved));
    }
}
