//! The load generator: a [`Plan`] → a [`Report`].
//!
//! An open loop: each traffic's arrivals are fixed before the run ([`arrivals`]) and latency counts
//! from when work was due, so a server that stalls is charged for everybody who would have come
//! meanwhile. Several traffics run side by side, each on threads of its own, and are reported
//! apart: what a flood does to established visitors is the question this answers.
//!
//! What always holds: a run ends after its duration and its clients' patience; the work in flight
//! and the memory of the figures have bounds; every arrival has exactly one outcome; and when the
//! generator itself was too slow, the report says so. It shares no code with the proxy but names.

pub mod answer;
pub mod arrivals;
pub mod compare;
pub mod connect;
pub mod fairness;
pub mod h1;
pub mod h2;
pub mod hosts;
mod key_share;
pub mod lane;
pub mod odd;
pub mod outcome;
pub mod pacer;
pub mod page;
pub mod plot;
pub mod report;
pub mod requests;
pub mod sources;
pub mod table;
pub mod tally;
pub mod target;
pub mod trust;
pub mod visit;
pub mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::ServerName;

use crate::load::arrivals::Arrivals;
use crate::load::connect::Route;
use crate::load::hosts::Hosts;
use crate::load::odd::{Abort, Slow};
use crate::load::outcome::Family;
use crate::load::report::{About, Report, TrafficReport};
use crate::load::sources::Sources;
use crate::load::tally::Tally;
use crate::load::target::{Scheme, Target};
use crate::load::trust::{Group, InvalidTrust, Offer, Sessions, Trust, Versions};
use crate::load::worker::{Finished, Job};

/// Points of a series, at most: more than a plot has room for helps nobody.
const SLOTS_MAX: u32 = 240;
/// The shortest slot: below, a slot holds too few arrivals for a percentile.
const SLOT_MIN: Duration = Duration::from_millis(100);
/// From one look at the live figures to the next.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// The receive buffer of slow readers: the kernel would take the whole answer for them else.
const SIP_BUFFER: u32 = 4096;
/// File descriptors kept for files, timers and the terminal.
const DESCRIPTORS_RESERVED: u64 = 64;

/// What to offer to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The address and URL.
    pub target: Target,
    /// All of them run side by side.
    pub traffics: Vec<Traffic>,
    /// The length of the schedule.
    pub duration: Duration,
    /// The same seed offers the same schedule.
    pub seed: u64,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// Work under way at once in each traffic; arrivals beyond are counted as not sent.
    pub in_flight_max: usize,
}

/// One kind of visitors.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Its name in the report.
    pub name: String,
    /// What its visitors do.
    pub kind: Kind,
    /// When they come.
    pub arrivals: Arrivals,
    /// The first arrival's earliest time, from the start of the run.
    pub start: Duration,
    /// How long they come.
    pub length: Duration,
    /// How long one of them waits, from when it was due.
    pub patience: Duration,
    /// Whom they ask for.
    pub hosts: Hosts,
    /// What they ask for: path and query.
    pub path: String,
    /// How they ask.
    pub protocol: Protocol,
    /// TLS versions they offer.
    pub versions: Versions,
    /// The key exchange they offer first.
    pub group: Group,
    /// What a body must hold; `{host}` stands for the name asked for.
    pub expect: Option<String>,
    /// Threads that share the work.
    pub threads: usize,
    /// Addresses from which they come, see [`sources`].
    pub sources: u32,
}

/// What the visitors of a traffic do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Requests over connections that stand before the run begins.
    Requests {
        /// Connections, spread over hosts by their share, at least one a host.
        connections: usize,
        /// Requests at once on one connection (HTTP/2).
        streams: usize,
    },
    /// Each arrival opens a connection with a full handshake.
    Handshakes(Then),
    /// Each arrival opens a connection and resumes its host's session.
    Resumed(Then),
    /// Each arrival opens a connection and sends a byte each `step`.
    SlowSenders {
        /// Where it slows down.
        slow: Slow,
        /// From byte to byte.
        step: Duration,
    },
    /// Each arrival opens a connection, asks, and reads a little each `step`.
    SlowReaders {
        /// From sip to sip.
        step: Duration,
    },
    /// Each arrival opens a connection and sends a head that is wrong in one way.
    Malformed,
    /// Each arrival goes away with a reset.
    Aborts(Abort),
}

/// What follows a handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// Nothing.
    Close,
    /// One request.
    Request,
}

/// The application protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// How long a visitor stays; what the generator has to provide follows from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stay {
    /// On connections that stand before the run.
    Standing,
    /// On a connection of its own, until it is served or loses patience.
    Passing,
    /// On a connection of its own, until the server loses patience or the run ends.
    Lingering,
}

impl Kind {
    fn stay(self) -> Stay {
        match self {
            Kind::Requests { .. } => Stay::Standing,
            Kind::Handshakes(_) | Kind::Resumed(_) | Kind::Malformed | Kind::Aborts(_) => {
                Stay::Passing
            }
            Kind::SlowSenders { .. } | Kind::SlowReaders { .. } => Stay::Lingering,
        }
    }

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Requests { .. } => "requests",
            Kind::Handshakes(_) => "handshakes",
            Kind::Resumed(_) => "resumed",
            Kind::SlowSenders { .. } => "slow-senders",
            Kind::SlowReaders { .. } => "slow-readers",
            Kind::Malformed => "malformed",
            Kind::Aborts(_) => "aborts",
        }
    }
}

/// A traffic's figures while it runs; they only grow.
#[derive(Debug, Default)]
pub struct Live {
    pub(super) offered: AtomicU64,
    pub(super) ended: [AtomicU64; Family::ALL.len()],
    /// Sum of the completed work's total latency.
    pub(super) microseconds: AtomicU64,
}

impl Live {
    /// Arrivals so far.
    pub fn offered(&self) -> u64 {
        self.offered.load(Ordering::Relaxed)
    }

    /// Ends of one family so far.
    pub fn ended(&self, family: Family) -> u64 {
        self.ended[family as usize].load(Ordering::Relaxed)
    }

    /// Sum of the total latency of work done so far.
    pub fn latency_sum(&self) -> Duration {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }
}

/// Why a run did not take place.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connections or sessions that the run needs first were not to be had.
    #[error("traffic {name}: cannot prepare: {what}")]
    Prepare {
        /// The traffic.
        name: String,
        /// What went wrong.
        what: String,
    },
    /// A thread could not be started, or died.
    #[error("a generator thread failed")]
    Thread(#[source] std::io::Error),
    /// A host that TLS cannot ask for.
    #[error("{0} cannot be a TLS server name")]
    ServerName(String),
    /// No usable TLS settings.
    #[error(transparent)]
    Trust(#[from] InvalidTrust),
}

/// Runs the plan; `watch` sees the live figures of each traffic four times a second, with the time
/// since the schedule began. Blocks until all work has ended.
///
/// # Errors
/// [`LoadError`] where the run could not begin.
pub fn run(
    plan: &Plan,
    mut watch: impl FnMut(&[Arc<Live>], Duration),
) -> Result<Report, LoadError> {
    let in_flight_max = raise_descriptors(plan);
    let lives: Vec<Arc<Live>> = plan.traffics.iter().map(|_| Arc::default()).collect();
    let (ready, readiness) = mpsc::channel();
    let (start, started) = tokio::sync::watch::channel(None);
    let (finish, finished) = mpsc::channel();
    let mut threads = 0;
    for (index, traffic) in plan.traffics.iter().enumerate() {
        let traffic = Arc::new(traffic.clone());
        let route = Arc::new(route(plan, &traffic)?);
        for lane in 0..traffic.threads {
            worker::spawn(Job {
                index,
                lane,
                traffic: Arc::clone(&traffic),
                route: Arc::clone(&route),
                url: plan.target.url.clone(),
                seed: plan.seed.wrapping_add(index as u64),
                slot: slot(plan.duration),
                in_flight_max: (in_flight_max / traffic.threads).max(1),
                live: Arc::clone(&lives[index]),
                beside_established: established(plan) && !is_established(&traffic),
                ready: ready.clone(),
                start: started.clone(),
                finish: finish.clone(),
            })
            .map_err(LoadError::Thread)?;
            threads += 1;
        }
    }
    drop((ready, finish));
    for _ in 0..threads {
        readiness.recv().map_err(died)??;
    }
    let cpu_before = process_cpu();
    let began = SystemTime::now();
    // A little later than now: every thread must know before its first arrival is due.
    let epoch = Instant::now() + Duration::from_millis(20);
    start.send_replace(Some(epoch));
    let mut parts = Vec::new();
    while parts.len() < threads {
        match finished.recv_timeout(WATCH_EVERY) {
            Ok(part) => parts.push(part),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                watch(&lives, Instant::now().saturating_duration_since(epoch));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(died(mpsc::RecvError)),
        }
    }
    let cpu = process_cpu().saturating_sub(cpu_before);
    Ok(report(plan, began, cpu, &parts))
}

fn died(_: mpsc::RecvError) -> LoadError {
    LoadError::Thread(std::io::Error::other("a thread ended before its work"))
}

fn is_established(traffic: &Traffic) -> bool {
    traffic.kind.stay() == Stay::Standing
}

fn established(plan: &Plan) -> bool {
    plan.traffics.iter().any(is_established)
}

fn slot(duration: Duration) -> Duration {
    (duration / SLOTS_MAX).max(SLOT_MIN)
}

fn route(plan: &Plan, traffic: &Traffic) -> Result<Route, LoadError> {
    let resuming = matches!(traffic.kind, Kind::Resumed(_));
    let sessions = if resuming { Sessions::Offer } else { Sessions::Forget };
    let alpn: &[u8] = match traffic.protocol {
        Protocol::H1 => b"http/1.1",
        Protocol::H2 => b"h2",
    };
    let offer = Offer {
        versions: traffic.versions,
        group: traffic.group,
        alpn: vec![alpn.to_vec()],
        sessions,
    };
    let tls = match plan.target.url.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(trust::client_config(&plan.trust, &offer)?),
    };
    let server_name = |name: &crate::names::Hostname| {
        let bare = name.as_str().trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(bare.to_owned())
            .map_err(|_| LoadError::ServerName(name.as_str().to_owned()))
    };
    Ok(Route {
        address: plan.target.address,
        tls,
        server_names: traffic.hosts.names().iter().map(server_name).collect::<Result<_, _>>()?,
        receive_buffer: matches!(traffic.kind, Kind::SlowReaders { .. }).then_some(SIP_BUFFER),
        sources: Sources::new(traffic.sources),
    })
}

/// Asks for as many file descriptors as the kernel gives, and says how much may be in flight in
/// each traffic with them: what the standing connections leave is shared by those that open some.
fn raise_descriptors(plan: &Plan) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(current) = current else { return plan.in_flight_max };
    let connections = |traffic: &Traffic| {
        let Kind::Requests { connections, .. } = traffic.kind else { return 0 };
        // Each thread has one a host at least.
        connections.max(traffic.hosts.names().len() * traffic.threads) as u64
    };
    let standing: u64 = plan.traffics.iter().map(connections).sum();
    let opening = plan.traffics.iter().filter(|traffic| !is_established(traffic)).count() as u64;
    let standing = standing + DESCRIPTORS_RESERVED;
    let share = current.saturating_sub(standing) / opening.max(1);
    plan.in_flight_max.min(usize::try_from(share).unwrap_or(usize::MAX)).max(1)
}

fn process_cpu() -> Duration {
    worker::duration(clock_gettime(ClockId::ProcessCPUTime))
}

fn report(plan: &Plan, began: SystemTime, cpu: Duration, parts: &[Finished]) -> Report {
    let traffics = plan.traffics.iter().enumerate().map(|(index, traffic)| {
        let parts: Vec<&Finished> = parts.iter().filter(|part| part.index == index).collect();
        let mut tally: Tally = parts[0].tally.clone();
        for part in &parts[1..] {
            tally.merge(&part.tally);
        }
        let busiest = parts.iter().max_by(|a, b| a.cpu.total_cmp(&b.cpu));
        let about = About {
            name: traffic.name.clone(),
            kind: traffic.kind.name().to_owned(),
            arrivals: traffic.arrivals.to_string(),
            length: traffic.length,
            hosts: traffic.hosts.names().iter().map(ToString::to_string).collect(),
            thread_cpu: busiest.map_or(0.0, |part| part.cpu),
            thread_starved: busiest.and_then(|part| part.starved),
        };
        TrafficReport::new(about, &tally)
    });
    let url = &plan.target.url;
    let scheme = match url.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        began: humantime::format_rfc3339_millis(began).to_string(),
        target: format!(
            "{scheme}://{}{}{} at {}",
            url.host, url.port_suffix, url.path, plan.target.address
        ),
        seconds: plan.duration.as_secs_f64(),
        seed: plan.seed,
        slot_seconds: slot(plan.duration).as_secs_f64(),
        generator_cpu_seconds: cpu.as_secs_f64(),
        traffics: traffics.collect(),
    }
}

#[cfg(test)]
mod tests;
