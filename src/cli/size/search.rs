//! The highest rate that holds, from single tries. Pure: who tries a rate is the caller.
//!
//! From a first guess the rate grows by a factor until it breaks (or shrinks until it holds), then
//! the gap is halved, geometrically, until it is within the resolution. A rate may be tried again
//! before it counts as broken: one hiccup of the machine shall not halve its capacity.
//!
//! What always holds: the result is a rate that held; there are at most [`STEPS_MAX`] steps.

/// Steps of one search: doubling from 1 to 4 million takes 22, halving to 1 % another 7.
pub const STEPS_MAX: usize = 40;
/// Below this nothing can be told in a step of a second or two.
const RATE_MIN: f64 = 4.0;

/// Where to begin and how closely to look.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The first rate.
    pub from: f64,
    /// From rate to rate until the first that breaks.
    pub factor: f64,
    /// Held and broken rate may differ by this part when the search ends.
    pub resolution: f64,
    /// A rate counts as broken when it broke so often in a row.
    pub tries: usize,
}

/// What became of one try.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Try {
    /// The objective broke.
    Broke,
    /// The objective held.
    Held,
}

impl Search {
    /// The highest rate that held; `None` where none did.
    ///
    /// # Errors
    /// The first of `attempt`.
    pub fn run<E>(&self, mut attempt: impl FnMut(f64) -> Result<Try, E>) -> Result<Option<f64>, E> {
        let mut judge = |rate| {
            for _ in 0..self.tries {
                if attempt(rate)? == Try::Held {
                    return Ok(Try::Held);
                }
            }
            Ok(Try::Broke)
        };
        let (mut held, mut broke) = (None, None);
        let mut rate = self.from.max(RATE_MIN);
        for _ in 0..STEPS_MAX {
            match judge(rate)? {
                Try::Held => held = Some(rate),
                Try::Broke => broke = Some(rate),
            }
            rate = match (held, broke) {
                (Some(held), None) => held * self.factor,
                (None, Some(broke)) if broke <= RATE_MIN => return Ok(None),
                (None, Some(broke)) => (broke / self.factor).max(RATE_MIN),
                (Some(held), Some(broke)) if broke / held <= 1.0 + self.resolution => break,
                (Some(held), Some(broke)) => (held * broke).sqrt(),
                (None, None) => rate,
            };
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const SEARCH: Search = Search { from: 100.0, factor: 2.0, resolution: 0.05, tries: 2 };

    fn find(search: Search, capacity: f64) -> (Option<f64>, Vec<f64>) {
        let mut tried = Vec::new();
        let found = search.run(|rate| {
            tried.push(rate);
            Ok::<Try, Infallible>(if rate <= capacity { Try::Held } else { Try::Broke })
        });
        (found.unwrap(), tried)
    }

    #[test]
    fn any_capacity_is_found_within_the_resolution() {
        for capacity in [5.0, 99.0, 100.0, 101.0, 1_630.0, 2_140.0, 60_000.0, 1e6] {
            let (found, tried) = find(SEARCH, capacity);
            let found = found.unwrap();
            assert!(found <= capacity && found * 1.05 >= capacity, "{found} of {capacity}");
            assert!(tried.len() <= STEPS_MAX, "{} tries", tried.len());
        }
    }

    #[test]
    fn a_search_near_the_answer_is_short() {
        let near = Search { from: 2_000.0, factor: 1.15, resolution: 0.04, tries: 2 };
        let (found, tried) = find(near, 2_140.0);
        assert!((2_050.0..=2_140.0).contains(&found.unwrap()), "{found:?}");
        assert!(tried.len() <= 8, "{tried:?}");
    }

    #[test]
    fn nothing_that_holds_is_no_capacity_and_ends() {
        let (found, tried) = find(SEARCH, 0.0);
        assert_eq!(found, None);
        assert!(tried.len() <= 12, "{tried:?}");
    }

    #[test]
    fn what_never_breaks_ends() {
        assert!(find(SEARCH, f64::MAX).1.len() <= STEPS_MAX);
    }

    #[test]
    fn one_hiccup_does_not_break_a_rate() {
        let mut tries = 0;
        let found = SEARCH.run(|rate| {
            tries += 1;
            let hiccup = tries == 3;
            Ok::<Try, Infallible>(if rate <= 1_000.0 && !hiccup { Try::Held } else { Try::Broke })
        });
        assert!(found.unwrap().unwrap() > 950.0);
    }

    #[test]
    fn a_failed_try_ends_the_search() {
        assert_eq!(SEARCH.run(|_| Err::<Try, &str>("no edge")), Err("no edge"));
    }
}
