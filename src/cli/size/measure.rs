//! Finds the capacity of a running edge, kind by kind.
//!
//! Each step offers one rate in an open loop for a fixed time; the objective judges what visitors
//! saw. A first search finds the neighbourhood, shorter ones from there are the runs. Runs that
//! contradict each other are repeated, a bounded number of times: the last ones must agree, and no
//! run is left out from between them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bounds;
use super::look::Look;
use super::objective::Objective;
use super::progress::Progress;
use super::search::{Search, Try};
use crate::load::arrivals::{Arrivals, Shape, Spacing};
use crate::load::hosts::Hosts;
use crate::load::report::{Generator, OfAll, THREAD_CPU_MAX, TrafficReport};
use crate::load::sources::Sources;
use crate::load::target::{Target, Url};
use crate::load::trust::{Group, Trust, Versions};
use crate::load::{self, Kind, LoadError, Plan, Protocol, Then, Traffic};
use crate::sizing::{Capacity, KeyRate, KeyType, Measured, Run};

/// Of the generator, each traffic.
const IN_FLIGHT_MAX: usize = 20_000;
/// Loopback addresses that visitors come from: more connections than one has ports for.
const SOURCES: u32 = 32;
/// Standing connections that carry the requests.
const CONNECTIONS: usize = 16;
/// Streams on each of them over HTTP/2.
const STREAMS: usize = 16;
/// No idle connection costs less: two sockets in the kernel, which the process does not show.
const CONNECTION_BYTES_MIN: u64 = 8 * 1_024;

/// Taken for a connection's memory where the edge's process cannot be seen.
const CONNECTION_BYTES_ASSUMED: u64 = 64 * 1_024;

/// The edge that is measured.
#[derive(Debug)]
pub struct Subject {
    /// Where it serves.
    pub address: SocketAddr,
    /// Its process, where it runs on this machine.
    pub process: Option<u32>,
    /// Where it tells of itself, where it is our own.
    pub admin: Option<SocketAddr>,
    /// Its serving threads.
    pub threads: usize,
    /// A page of a site whose upstream never answers, where it has one.
    pub silent: Option<Url>,
    /// A page for each key type that is measured, ECDSA first.
    pub pages: Vec<(KeyType, Url)>,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Of one step.
    pub step: Duration,
    /// Held and broken rate differ by this part at most.
    pub resolution: f64,
    /// Runs that must agree.
    pub runs: usize,
    /// Runs made at most until the last ones agree.
    pub runs_max: usize,
    /// Kinds of keys whose handshakes are measured; those of others are computed.
    pub kinds: usize,
    /// Idle connections held open to weigh them.
    pub idle: usize,
    /// Of one traffic of the proof.
    pub proof: Duration,
}

impl Pace {
    /// For figures to keep: some five minutes.
    pub const FULL: Pace = Pace {
        step: Duration::from_millis(1_500),
        resolution: 0.04,
        runs: 3,
        runs_max: 10,
        kinds: 3,
        idle: 400,
        proof: Duration::from_secs(5),
    };
    /// For a look: a minute or two.
    pub const QUICK: Pace = Pace {
        step: Duration::from_millis(400),
        resolution: 0.07,
        runs: 2,
        runs_max: 4,
        kinds: 2,
        idle: 200,
        proof: Duration::from_millis(1_500),
    };

    /// The same with another length of a step; all others keep their proportion.
    pub fn with_step(self, step: Duration) -> Pace {
        let proof = self.proof.mul_f64(step.as_secs_f64() / self.step.as_secs_f64());
        Pace { step, proof, ..self }
    }
}

/// What is measured, and how.
pub struct Measurement<'m> {
    pub subject: &'m Subject,
    pub handshake: Objective,
    pub request: Objective,
    pub pace: Pace,
    /// No step begins after this.
    pub end: Instant,
    pub progress: &'m Progress,
}

/// One kind of work.
struct Job<'j> {
    name: String,
    kind: Kind,
    protocol: Protocol,
    page: &'j Url,
    objective: &'j Objective,
    from: Guess,
}

/// What is known of a rate before it is measured.
#[derive(Clone, Copy)]
enum Guess {
    /// About what another kind had: no first search.
    Near(f64),
    /// Nothing; the search begins here.
    Rough(f64),
}

/// A rate at which the objective held.
struct Held {
    /// Arrivals a second.
    offered: f64,
    /// What the edge does in a second at that rate.
    done: f64,
    /// Beyond it the generator was at its own end: the edge may do more.
    at_least: bool,
}

/// What one try of a rate has shown.
enum Seen {
    /// The objective held, and this is what the edge did in a second.
    Held(f64),
    /// It broke.
    Broke {
        /// The generator was at its own end, so the edge may not have been.
        generator: bool,
    },
}

impl Measurement<'_> {
    /// All of it.
    pub fn run(&self) -> Result<Capacity> {
        let connection_bytes = self.weigh_connections()?;
        let handshakes = |name: String, kind, page, from| {
            let (protocol, objective) = (Protocol::H1, &self.handshake);
            self.rate(&Job { name, kind, protocol, page, objective, from })
        };
        let mut fastest: f64 = 0.0;
        let mut full_handshakes = Vec::new();
        for (key, page) in &self.subject.pages {
            let name = format!("{key} full handshakes");
            let kind = Kind::Handshakes(Then::Request);
            let rate = handshakes(name, kind, page, Guess::Rough(500.0))?;
            fastest = fastest.max(rate.per_second);
            full_handshakes.push(KeyRate::measured(*key, rate));
        }
        let first = self.subject.first()?;
        let resumed = "resumed handshakes".to_owned();
        // Each step first fetches the tickets that it offers: few steps, so from near by.
        let near = Guess::Near(fastest);
        let resumptions = handshakes(resumed, Kind::Resumed(Then::Request), first, near)?;
        let requests = |name: &str, streams, protocol| {
            let kind = Kind::Requests { connections: CONNECTIONS, streams };
            let (name, from) = (name.to_owned(), Guess::Rough(2_000.0));
            let objective = &self.request;
            self.rate(&Job { name, kind, protocol, page: first, objective, from })
        };
        Ok(Capacity {
            threads: self.subject.threads,
            full_handshakes,
            resumptions,
            requests_h1: requests("requests over HTTP/1.1", 1, Protocol::H1)?,
            requests_h2: requests("requests over HTTP/2", STREAMS, Protocol::H2)?,
            connection_bytes,
        })
    }

    /// The rate of one kind, from runs that agree.
    fn rate(&self, job: &Job<'_>) -> Result<Measured> {
        let unheld = || format!("{}: {} holds at no rate", job.name, job.objective);
        let mut from = match job.from {
            Guess::Near(rate) => rate,
            Guess::Rough(from) => {
                let resolution = 3.0 * self.pace.resolution;
                let first = Search { from, factor: 2.0, resolution, tries: 1 };
                self.search(job, &first)?.with_context(unheld)?.offered
            }
        };
        let (mut runs, mut judged) = (Vec::new(), None);
        while runs.len() < self.pace.runs_max {
            let resolution = self.pace.resolution;
            let factor = 1.0 + 2.0 * resolution;
            let near = Search { from, factor, resolution, tries: 2 };
            let held = self.search(job, &near)?.with_context(unheld)?;
            from = held.offered;
            runs.push(Run { per_second: held.done, at_least: held.at_least });
            let Some(start) = runs.len().checked_sub(self.pace.runs) else { continue };
            match Measured::from_runs(&runs[start..]) {
                Ok(measured) => {
                    self.progress.done(&format!("{}: {measured}", job.name));
                    return Ok(measured);
                }
                Err(unusable) => judged = Some(unusable),
            }
        }
        let runs: Vec<String> = runs.iter().map(|run| format!("{:.0}/s", run.per_second)).collect();
        let told = format!("{}, found at {}", job.name, runs.join(", "));
        match judged {
            Some(unusable) => Err(unusable).context(told),
            None => bail!("{told}: too few runs"),
        }
    }

    fn search(&self, job: &Job<'_>, search: &Search) -> Result<Option<Held>> {
        let (mut held, mut broken) = (Vec::new(), Vec::new());
        let best = search.run(|offered| {
            Ok::<Try, anyhow::Error>(match self.attempt(job, offered)? {
                Seen::Held(done) => {
                    held.push(Held { offered, done, at_least: false });
                    Try::Held
                }
                Seen::Broke { generator } => {
                    broken.push((offered, generator));
                    Try::Broke
                }
            })
        })?;
        let found = held.into_iter().find(|held| Some(held.offered) == best);
        Ok(found.map(|held| {
            // The last rate that was given up stands next above; it broke as often as it was tried.
            let above = broken.iter().rev().filter(|(rate, _)| *rate > held.offered);
            let at_least = above.take(search.tries).all(|(_, generator)| *generator);
            Held { at_least, ..held }
        }))
    }

    /// Offers one rate.
    fn attempt(&self, job: &Job<'_>, rate: f64) -> Result<Seen> {
        if Instant::now() >= self.end {
            bail!("{} took longer than a measurement may; is the machine busy?", job.name);
        }
        self.progress.now(&format!("{}: {rate:.0}/s", job.name));
        let mut traffic = traffic(&job.name, job.kind, rate, job.page);
        traffic.protocol = job.protocol;
        traffic.length = self.pace.step;
        // Whoever waits twice as long as the objective allows has broken it already.
        traffic.patience = (2 * job.objective.limit).max(Duration::from_millis(100));
        let report = match load::run(&self.subject.plan(vec![traffic])?, |_, _| {}) {
            Ok(report) => report,
            // Not even the connections or tickets were to be had that it begins with.
            Err(LoadError::Prepare { .. }) => return Ok(Seen::Broke { generator: false }),
            Err(error) => return Err(error.into()),
        };
        let part = report.traffics.first().context("the load told nothing of its traffic")?;
        Ok(match job.objective.holds(&part.of_all) {
            true => Seen::Held(sustained(part, self.pace.step)),
            false => {
                Seen::Broke { generator: was_at_its_end(&part.generator, job.objective.limit) }
            }
        })
    }

    /// Memory of an idle connection: what the edge grows by while many stand.
    fn weigh_connections(&self) -> Result<u64> {
        let Some(process) = self.subject.process else {
            let assumed = CONNECTION_BYTES_ASSUMED / 1_024;
            self.progress.done(&format!("memory of a connection: {assumed} KiB assumed"));
            return Ok(CONNECTION_BYTES_ASSUMED);
        };
        self.progress.now("memory of a connection");
        let unread = "cannot read the memory of the edge from /proc";
        let before = bounds::resident(process).context(unread)?;
        let kind = Kind::Requests { connections: self.pace.idle, streams: 1 };
        let mut idle = traffic("idle", kind, 10.0, self.subject.first()?);
        idle.length = Duration::from_secs(1);
        let mut most = before;
        load::run(&self.subject.plan(vec![idle])?, |_, _| {
            most = most.max(bounds::resident(process).unwrap_or(before));
        })?;
        let each = ((most - before) / self.pace.idle as u64).max(CONNECTION_BYTES_MIN);
        self.progress.done(&format!("memory of a connection: {} KiB", each / 1_024));
        Ok(each)
    }
}

/// Work a second without end. A short step lets a rate pass that is too high: what it leaves behind
/// is done after its end, in the time that the last ones wait. So what came within the step was done
/// within the step and that wait.
fn sustained(part: &TrafficReport, step: Duration) -> f64 {
    let OfAll { p50, p90, p99 } = part.of_all;
    let wait = p99.or(p90).or(p50).unwrap_or_default() / 1_000.0;
    part.completed_per_second * step.as_secs_f64() / (step.as_secs_f64() + wait)
}

/// A step may break by the generator's doing: it had no time left on its core, or half of the time
/// that the objective allows was over before an arrival was begun.
fn was_at_its_end(generator: &Generator, limit: Duration) -> bool {
    let occupied = generator.thread_cpu + generator.thread_starved.unwrap_or_default();
    let late = generator.lateness.p99 / 1_000.0;
    occupied > THREAD_CPU_MAX || 2.0 * late > limit.as_secs_f64()
}

impl Subject {
    /// The page of the first key type.
    pub fn first(&self) -> Result<&Url> {
        self.pages.first().map(|(_, page)| page).context("there is no page to ask for")
    }

    /// What the edge says of itself; nothing where it cannot be asked.
    pub fn look(&self) -> Result<Look> {
        self.admin.map_or(Ok(Look::default()), Look::take)
    }

    /// These traffics side by side. Whose certificates it shows is not what is measured.
    pub fn plan(&self, mut traffics: Vec<Traffic>) -> Result<Plan> {
        if Sources::are_there_for(self.address) {
            traffics.iter_mut().for_each(|traffic| traffic.sources = SOURCES);
        }
        let target = Target { url: self.first()?.clone(), address: self.address };
        let duration = traffics.iter().map(|one| one.length).max().unwrap_or_default();
        Ok(Plan {
            target,
            traffics,
            duration,
            seed: 1,
            trust: Trust::Nobody,
            in_flight_max: IN_FLIGHT_MAX,
        })
    }
}

/// A traffic with the usual rest.
pub fn traffic(name: &str, kind: Kind, rate: f64, page: &Url) -> Traffic {
    Traffic {
        name: name.to_owned(),
        kind,
        arrivals: Arrivals { shape: Shape::Flat { rate }, spacing: Spacing::Poisson },
        start: Duration::ZERO,
        length: Duration::ZERO,
        patience: Duration::from_secs(2),
        hosts: Hosts::single(page.host.clone()),
        path: page.path.clone(),
        protocol: Protocol::H1,
        versions: Versions::Both,
        group: Group::X25519,
        expect: None,
        // Beside an edge of ours they are those that it does not have.
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        sources: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::Quantiles;

    #[test]
    fn a_generator_without_time_or_half_as_late_as_allowed_is_at_its_end() {
        let limit = Duration::from_millis(250);
        let told = |thread_cpu, thread_starved, p99| {
            let lateness = Quantiles { p99, ..Quantiles::default() };
            Generator { lateness, thread_cpu, thread_starved, ..Generator::default() }
        };
        assert!(!was_at_its_end(&told(0.6, None, 120.0), limit));
        assert!(!was_at_its_end(&told(0.6, Some(0.2), 0.1), limit));
        assert!(was_at_its_end(&told(0.6, Some(0.35), 0.1), limit), "beside the endpoint");
        assert!(was_at_its_end(&told(0.95, None, 0.1), limit));
        assert!(was_at_its_end(&told(0.1, None, 126.0), limit));
    }
}
