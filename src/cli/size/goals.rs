//! The operator's goals as options: shares as `20%` or `0.2`, rates as `4000` or `4000/s`, times as
//! `500ms`.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use crate::config::Snapshot;
use crate::sizing::Goals;

const BURST: RangeInclusive<f64> = 1.0..=1_000_000.0;
const SLOW_SITE: RangeInclusive<f64> = 0.1..=100_000.0;
/// Of what is kept for established visitors; new ones get some in any case.
const ESTABLISHED: RangeInclusive<f64> = 0.0..=0.95;
/// The system needs some memory as well.
const MEMORY: RangeInclusive<f64> = 0.01..=0.9;
const STALL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);

/// What is to hold; each has a default.
#[derive(Args, Clone, Debug, Default)]
pub struct Stated {
    /// New connections a second in the worst burst to expect, 1/s to 1000000/s; with --accept-stall
    /// it makes the backlog [default: 4000/s]
    #[arg(long, value_name = "RATE", value_parser = burst)]
    burst: Option<f64>,
    /// The longest that the edge may not accept: a stopped virtual machine, a storm of page faults;
    /// 1ms to 10s [default: 500ms]
    #[arg(long, value_name = "TIME", value_parser = stall)]
    accept_stall: Option<Duration>,
    /// The part of the machine kept for established visitors while new ones flood, 0% to 95%
    /// [default: 20%]
    #[arg(long, value_name = "SHARE", value_parser = established)]
    established_share: Option<f64>,
    /// Requests a second of the slowest site that is still worth waiting for, 0.1/s to 100000/s
    /// [default: 25/s]
    #[arg(long, value_name = "RATE", value_parser = slow_site)]
    slow_site: Option<f64>,
    /// The part of the memory that connections may take, 1% to 90% [default: 50%]
    #[arg(long, value_name = "SHARE", value_parser = memory)]
    memory_share: Option<f64>,
}

impl Stated {
    /// The goals: the configuration's deadlines, these, and the defaults for the rest.
    pub fn goals(&self, snapshot: &Snapshot) -> Goals {
        let usual = Goals::default();
        Goals {
            handshake_deadline: snapshot.queues.handshake_deadline,
            request_deadline: snapshot.queues.request_deadline,
            round_trips: usual.round_trips,
            established_share: usual.established_share.or_stated(self.established_share),
            burst_per_second: usual.burst_per_second.or_stated(self.burst),
            accept_stall: usual.accept_stall.or_stated(self.accept_stall),
            slow_site_per_second: usual.slow_site_per_second.or_stated(self.slow_site),
            memory_share: usual.memory_share.or_stated(self.memory_share),
        }
    }
}

fn burst(text: &str) -> Result<f64, String> {
    rate(text, BURST)
}

fn slow_site(text: &str) -> Result<f64, String> {
    rate(text, SLOW_SITE)
}

fn established(text: &str) -> Result<f64, String> {
    share(text, ESTABLISHED)
}

fn memory(text: &str) -> Result<f64, String> {
    share(text, MEMORY)
}

fn rate(text: &str, allowed: RangeInclusive<f64>) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix("/s").unwrap_or(text).trim().parse().ok();
    let bounds = format!("a rate is from {}/s to {}/s", allowed.start(), allowed.end());
    number.filter(|rate| allowed.contains(rate)).ok_or(bounds)
}

fn share(text: &str, allowed: RangeInclusive<f64>) -> Result<f64, String> {
    let number: Option<f64> = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().ok().map(|percent: f64| percent / 100.0),
        None => text.trim().parse().ok(),
    };
    let [least, most] = [allowed.start(), allowed.end()].map(|share| 100.0 * share);
    let bounds = format!("a share is from {least:.0}% to {most:.0}%, as 20% or 0.2");
    number.filter(|share| allowed.contains(share)).ok_or(bounds)
}

fn stall(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if STALL.contains(&time) { Ok(time) } else { Err("a stall takes from 1ms to 10s".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_written_with_their_units_and_bounded() {
        assert_eq!((burst("4000"), burst("12000/s")), (Ok(4_000.0), Ok(12_000.0)));
        assert_eq!((established("20%"), established("0.2")), (Ok(0.2), Ok(0.2)));
        assert_eq!((memory("1 %"), slow_site("0.5/s")), (Ok(0.01), Ok(0.5)));
        assert_eq!(stall("2s"), Ok(Duration::from_secs(2)));
        for wrong in [burst("0"), burst("4000/m"), burst("NaN"), slow_site("-1")] {
            assert!(wrong.unwrap_err().starts_with("a rate is from "));
        }
        for wrong in [established("96%"), established("20"), memory("0%"), memory("x")] {
            assert!(wrong.unwrap_err().starts_with("a share is from "));
        }
        assert_eq!(stall("11s").unwrap_err(), "a stall takes from 1ms to 10s");
        assert!(stall("soon").is_err());
    }
}
