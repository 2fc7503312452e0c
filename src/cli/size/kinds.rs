//! Which kinds of keys are measured and which are computed, so that the time stays bounded whatever
//! is in use.
//!
//! The slowest is always measured, as the sizes rest on it, and then those that most certificates
//! have. An RSA key longer than any that is made here is computed from the longest of those.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::signing;
use crate::sizing::{KeyRate, KeyType};

/// The division.
#[derive(Debug)]
pub struct Kinds {
    /// A site each of the edge that is measured.
    pub measured: Vec<KeyType>,
    /// The others in use.
    pub computed: Vec<KeyType>,
    /// What one signature takes, where something is computed.
    signatures: BTreeMap<KeyType, Duration>,
}

impl Kinds {
    /// Divides what is in use, with the number of certificates of each; `limit` are measured at
    /// most, and one at least.
    pub fn choose(in_use: &BTreeMap<KeyType, usize>, limit: usize) -> Result<Kinds> {
        if in_use.len() <= limit && in_use.keys().all(|key| can_be_made(*key)) {
            let (measured, computed) = (in_use.keys().copied().collect(), Vec::new());
            return Ok(Kinds { measured, computed, signatures: BTreeMap::new() });
        }
        let longest = KeyType::Rsa(signing::RSA_BITS_MAX);
        let mut signatures = BTreeMap::new();
        for key in in_use.keys().copied().chain([longest]) {
            signatures.insert(key, signing::time(key)?);
        }
        Ok(Kinds::divide(in_use, limit, signatures))
    }

    fn divide(
        in_use: &BTreeMap<KeyType, usize>,
        limit: usize,
        signatures: BTreeMap<KeyType, Duration>,
    ) -> Kinds {
        let made = |key: &KeyType| match *key {
            key if can_be_made(key) => key,
            _ => KeyType::Rsa(signing::RSA_BITS_MAX),
        };
        let mut measured: Vec<KeyType> = in_use.keys().map(made).collect();
        measured.sort();
        measured.dedup();
        measured.sort_by_key(|key| std::cmp::Reverse(in_use.get(key).copied()));
        let slowest = (0..measured.len()).max_by_key(|at| signatures.get(&measured[*at]));
        measured[..=slowest.unwrap_or(0)].rotate_right(1);
        measured.truncate(limit.max(1));
        measured.sort();
        let computed = in_use.keys().copied().filter(|key| !measured.contains(key)).collect();
        Kinds { measured, computed, signatures }
    }

    /// The rates of all kinds in use, from those that so many threads were measured to do. One that
    /// is computed goes out from the measured one whose signature takes most nearly as long.
    pub fn rates(&self, measured: Vec<KeyRate>, threads: usize) -> Vec<KeyRate> {
        let signature = |key: KeyType| self.signatures.get(&key).copied().unwrap_or_default();
        let compute = |key: &KeyType| {
            let own = signature(*key);
            let base = measured.iter().min_by_key(|one| signature(one.key).abs_diff(own))?;
            Some(KeyRate::computed(*key, base, threads, [signature(base.key), own]))
        };
        let computed: Vec<KeyRate> = self.computed.iter().filter_map(compute).collect();
        let mut all = [measured, computed].concat();
        all.sort_by_key(|one| one.key);
        all
    }
}

fn can_be_made(key: KeyType) -> bool {
    match key {
        KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::EcdsaP521 | KeyType::Ed25519 => true,
        KeyType::Rsa(bits) => bits <= signing::RSA_BITS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizing::{Known, Measured};

    const TIMES: [(KeyType, u64); 6] = [
        (KeyType::EcdsaP256, 20),
        (KeyType::EcdsaP384, 120),
        (KeyType::Ed25519, 25),
        (KeyType::Rsa(2_048), 500),
        (KeyType::Rsa(4_096), 3_500),
        (KeyType::Rsa(8_192), 28_000),
    ];

    fn divide(in_use: &[(KeyType, usize)], limit: usize) -> Kinds {
        let signatures = TIMES.map(|(key, time)| (key, Duration::from_micros(time)));
        Kinds::divide(&in_use.iter().copied().collect(), limit, signatures.into())
    }

    #[test]
    fn the_slowest_is_measured_and_then_those_in_most_use() {
        let in_use = [
            (KeyType::EcdsaP256, 900),
            (KeyType::EcdsaP384, 3),
            (KeyType::Ed25519, 2),
            (KeyType::Rsa(2_048), 90),
            (KeyType::Rsa(4_096), 1),
        ];
        let kinds = divide(&in_use, 3);
        let measured = [KeyType::EcdsaP256, KeyType::Rsa(2_048), KeyType::Rsa(4_096)];
        assert_eq!(kinds.measured, measured);
        assert_eq!(kinds.computed, [KeyType::EcdsaP384, KeyType::Ed25519]);
        let rate = Measured { per_second: 4_000.0, spread: 0.0, runs: 3, at_least: false };
        let rates = kinds.rates(measured.map(|key| KeyRate::measured(key, rate)).into(), 1);
        assert_eq!(rates.len(), 5);
        assert!(rates.is_sorted_by_key(|one| one.key));
        let Known::Computed(from) = rates[1].known else { panic!("{}", rates[1]) };
        assert_eq!(from.base, KeyType::EcdsaP256);
        // 1 / (1 / 4,000 s - 20 us + 120 us)
        assert!((rates[1].rate.per_second - 1e6 / 350.0).abs() < 1e-6, "{}", rates[1]);
    }

    #[test]
    fn a_key_too_long_to_be_made_is_computed_from_the_longest() {
        let kinds = divide(&[(KeyType::Rsa(8_192), 1)], 3);
        assert_eq!(kinds.measured, [KeyType::Rsa(4_096)]);
        assert_eq!(kinds.computed, [KeyType::Rsa(8_192)]);
        let kinds = divide(&[(KeyType::EcdsaP256, 5), (KeyType::Rsa(8_192), 1)], 3);
        assert_eq!(kinds.measured, [KeyType::EcdsaP256, KeyType::Rsa(4_096)]);
    }

    #[test]
    fn what_few_kinds_are_in_use_is_all_measured() {
        let in_use = [(KeyType::EcdsaP256, 1), (KeyType::Rsa(2_048), 1)].into();
        let kinds = Kinds::choose(&in_use, 2).unwrap();
        assert_eq!((kinds.measured.len(), kinds.computed.len()), (2, 0));
    }
}
