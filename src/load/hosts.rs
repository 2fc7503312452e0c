//! The names that visitors ask for, and how often each. Pure.
//!
//! A hosts file has one name a line, with a weight behind it where it is not 1; `#` starts a
//! comment. With a Zipf exponent the weights come from the order instead: the n-th name weighs
//! `1 / n^s`, the shape of a hosting company's traffic.

use crate::load::arrivals::Random;
use crate::names::{Hostname, InvalidName};

/// Each host has its own figures in memory (about 8 KiB); more names than this are refused.
pub const HOSTS_MAX: usize = 10_000;

/// Names with their shares of the traffic; at least one.
#[derive(Clone, Debug)]
pub struct Hosts {
    names: Vec<Hostname>,
    /// Rising to 1: a uniform number falls to the first host whose bound lies above it.
    bounds: Vec<f64>,
}

impl Hosts {
    /// All traffic to one name.
    pub fn single(name: Hostname) -> Hosts {
        Hosts { names: vec![name], bounds: vec![1.0] }
    }

    /// Reads a hosts file's text; `zipf` replaces the weights.
    ///
    /// # Errors
    /// [`InvalidHosts`] with the line's number.
    pub fn parse(text: &str, zipf: Option<f64>) -> Result<Hosts, InvalidHosts> {
        let mut names = Vec::new();
        let mut weights = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or("");
            let mut words = content.split_whitespace();
            let Some(name) = words.next() else { continue };
            let line = index + 1;
            let name =
                Hostname::parse(name).map_err(|source| InvalidHosts::Name { line, source })?;
            let weight = words.next().map_or(Ok(1.0), str::parse::<f64>);
            let weight = weight
                .ok()
                .filter(|weight| weight.is_finite() && *weight > 0.0 && words.next().is_none())
                .ok_or(InvalidHosts::Weight { line })?;
            names.push(name);
            weights.push(zipf.map_or(weight, |s| 1.0 / (names.len() as f64).powf(s)));
        }
        if names.is_empty() {
            return Err(InvalidHosts::Empty);
        }
        if names.len() > HOSTS_MAX {
            return Err(InvalidHosts::TooMany);
        }
        Ok(Hosts { names, bounds: bounds(&weights) })
    }

    /// The host of one arrival.
    pub fn pick(&self, random: &mut Random) -> usize {
        if self.names.len() == 1 {
            return 0;
        }
        let unit = random.unit();
        self.bounds.partition_point(|bound| *bound <= unit).min(self.names.len() - 1)
    }

    /// The host's part of all arrivals, from 0 to 1.
    pub fn share(&self, host: usize) -> f64 {
        let below = host.checked_sub(1).map_or(0.0, |before| self.bounds[before]);
        self.bounds[host] - below
    }

    /// All names, in the file's order.
    pub fn names(&self) -> &[Hostname] {
        &self.names
    }
}

fn bounds(weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    weights
        .iter()
        .map(|weight| {
            sum += weight / total;
            sum
        })
        .collect()
}

/// Why a text is no hosts file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidHosts {
    /// Not one name in it.
    #[error("no host is named")]
    Empty,
    /// A line whose first word is no host name.
    #[error("line {line}: {source}")]
    Name {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: InvalidName,
    },
    /// More than [`HOSTS_MAX`].
    #[error("more than {HOSTS_MAX} hosts")]
    TooMany,
    /// A weight that is no number above zero, or words behind it.
    #[error("line {line}: expected a host and at most a weight above zero")]
    Weight {
        /// From 1.
        line: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(hosts: &Hosts) -> Vec<f64> {
        let mut random = Random::new(11);
        let mut counts = vec![0.0; hosts.names().len()];
        for _ in 0..100_000 {
            counts[hosts.pick(&mut random)] += 1e-5;
        }
        counts
    }

    #[track_caller]
    fn check(text: &str, zipf: Option<f64>, expected: &[f64]) {
        let shares = shares(&Hosts::parse(text, zipf).unwrap());
        assert_eq!(shares.len(), expected.len());
        for (got, want) in shares.iter().zip(expected) {
            assert!((got - want).abs() < 0.01, "{shares:?} for {expected:?}");
        }
    }

    #[test]
    fn weights_decide_the_shares() {
        check("a.example 3\nb.example # one\n\n# nobody\n", None, &[0.75, 0.25]);
        check("a.example\nb.example\nc.example\nd.example", None, &[0.25; 4]);
    }

    #[test]
    fn zipf_replaces_the_weights() {
        check(
            "a.example\nb.example 100\nc.example",
            Some(1.0),
            &[6.0 / 11.0, 3.0 / 11.0, 2.0 / 11.0],
        );
    }

    #[test]
    fn what_is_no_hosts_file_is_refused() {
        let parse = |text| Hosts::parse(text, None).unwrap_err();
        assert_eq!(parse("# nothing"), InvalidHosts::Empty);
        assert_eq!(parse("a.example\nb.example x"), InvalidHosts::Weight { line: 2 });
        assert_eq!(parse("a.example 1 2"), InvalidHosts::Weight { line: 1 });
        assert_eq!(parse("a.example 0"), InvalidHosts::Weight { line: 1 });
        assert_eq!(parse("a/b"), InvalidHosts::Name { line: 1, source: InvalidName::Byte });
    }
}
