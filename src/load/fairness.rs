//! How evenly contended service was shared between hosts. Pure.
//!
//! Jain's index of shares x: `(Σx)² / (n·Σx²)`; 1 where all are equal, 1/n where one has all (Jain,
//! Chiu, Hawe: "A quantitative measure of fairness", 1984). Who asked for less than an equal part
//! must not lower it, so a share is what a host got over what max-min fairness would have given
//! it: each host's demand is met up to a common level, and the level is as high as the total
//! served allows.

/// What one host asked for and got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Service {
    /// Work offered.
    pub demand: f64,
    /// Work done.
    pub served: f64,
}

/// Jain's index of `shares`; `None` where there are none or nothing was shared.
pub fn jain(shares: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for share in shares {
        count += 1.0;
        sum += share;
        squares += share * share;
    }
    (squares > 0.0).then(|| sum * sum / (count * squares))
}

/// Jain's index of served work over the max-min fair allocation of the same total.
pub fn max_min_index(services: &[Service]) -> Option<f64> {
    let demands: Vec<f64> = services.iter().map(|service| service.demand).collect();
    let level = water_level(&demands, services.iter().map(|service| service.served).sum());
    let asking = services.iter().filter(|service| service.demand > 0.0);
    jain(asking.map(|service| service.served / service.demand.min(level)))
}

/// The common level up to which all demands can be met with `total`.
fn water_level(demands: &[f64], total: f64) -> f64 {
    let mut sorted: Vec<f64> = demands.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut left = total;
    for (index, demand) in sorted.iter().enumerate() {
        let sharing = (sorted.len() - index) as f64;
        if demand * sharing >= left {
            return left / sharing;
        }
        left -= demand;
    }
    sorted.last().copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(services: &[(f64, f64)], expected: Option<f64>) {
        let services: Vec<Service> =
            services.iter().map(|&(demand, served)| Service { demand, served }).collect();
        let index = max_min_index(&services);
        assert_eq!(index.map(|i| (i * 1e6).round()), expected.map(|i| (i * 1e6).round()));
    }

    #[test]
    fn equal_shares_are_fair_and_one_taker_is_not() {
        assert_eq!(jain([5.0, 5.0, 5.0].into_iter()), Some(1.0));
        assert_eq!(jain([9.0, 0.0, 0.0].into_iter()), Some(1.0 / 3.0));
        assert_eq!(jain([0.0, 0.0].into_iter()), None);
        assert_eq!(jain(std::iter::empty()), None);
    }

    #[test]
    fn a_small_demand_that_was_met_is_no_unfairness() {
        // 100 served: the small ones get their 10, the flood gets the 80 that are left.
        check(&[(10.0, 10.0), (10.0, 10.0), (500.0, 80.0)], Some(1.0));
        // All met: nothing was contended.
        check(&[(10.0, 10.0), (500.0, 500.0)], Some(1.0));
    }

    #[test]
    fn a_flood_that_starves_the_others_shows() {
        // Shares in proportion to demand: each small host has 2 of its fair 10, the flood 96 of 80.
        let shares: [f64; 3] = [0.2, 0.2, 1.2];
        let expected = shares.iter().sum::<f64>().powi(2) / (3.0 * (0.04 + 0.04 + 1.44));
        check(&[(10.0, 2.0), (10.0, 2.0), (500.0, 96.0)], Some(expected));
    }

    #[test]
    fn hosts_that_asked_for_nothing_do_not_count() {
        check(&[(0.0, 0.0), (5.0, 5.0)], Some(1.0));
        check(&[(0.0, 0.0)], None);
    }
}
