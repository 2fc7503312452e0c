//! From measured capacity and the operator's goals to the sizes of the queues, each with its
//! arithmetic and its reason. Pure: who measures and who writes the file is `sluss size`.
//!
//! One law does most of it. Little: what waits = rate x time. A queue that holds more than the
//! rate times the patience of those who wait holds work that nobody will want when it is done; one
//! that holds less turns away what could have been served. So depth = capacity x deadline, for the
//! slowest work in use; and what is in flight = rate x the time that each takes.
//!
//! What always holds: a [`Sizing`] has one [`Figure`] for each key it writes, and the file's
//! comments and `--explain` show the same arithmetic, made from the numbers that were used.

mod file;
mod goals;
mod keys;
mod measured;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use goals::{Goal, Goals};
pub use keys::{KeyRate, KeyType, Known, Signatures, labels};
pub use measured::{Measured, Run, SPREAD_MAX, Unusable};

/// What the edge can do on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// Serving threads of the edge that was measured; the sizes are for those of [`Bounds`].
    pub threads: usize,
    /// Full handshakes with one small request, for each key type in use.
    pub full_handshakes: Vec<KeyRate>,
    /// Resumed handshakes with one small request.
    pub resumptions: Measured,
    /// Small requests over HTTP/1.1.
    pub requests_h1: Measured,
    /// Small requests over HTTP/2.
    pub requests_h2: Measured,
    /// Memory of one idle connection, bytes.
    pub connection_bytes: u64,
}

/// The machine and the program that were measured, as `queues.toml` keeps them. What is not known
/// is `None`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Machine {
    /// Cores the edge could use.
    pub cores: Option<usize>,
    /// The CPU's model.
    pub cpu: Option<String>,
    /// sluss' version.
    pub version: Option<String>,
    /// The key types that were in use.
    pub key_types: Option<String>,
    /// When.
    pub measured: Option<String>,
}

/// What the kernel and the machine allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Serving threads; as many handshake threads stand beside them.
    pub threads: usize,
    /// Memory of the machine or the control group, bytes.
    pub memory_bytes: u64,
    /// RLIMIT_NOFILE, hard.
    pub descriptors: u64,
    /// net.core.somaxconn.
    pub somaxconn: u32,
    /// net.ipv4.tcp_max_syn_backlog.
    pub syn_backlog: u32,
}

/// Everything that was computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizing {
    /// What it rests on, a sentence each.
    pub notes: Vec<String>,
    /// What goes into the file, in its order.
    pub figures: Vec<Figure>,
    /// Bounds of the kernel that are tighter than the figures, with the command that raises each.
    pub advice: Vec<String>,
}

/// One key of `queues.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The table it stands in.
    pub section: &'static str,
    /// The key.
    pub key: &'static str,
    /// What is written.
    pub value: Value,
    /// The formula with its numbers.
    pub arithmetic: String,
    /// Why this formula.
    pub reason: &'static str,
}

/// A value of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Value {
    /// The word `auto`.
    Auto,
    /// A number.
    Count(u64),
    /// A duration.
    Time(Duration),
}

impl Machine {
    /// How the machine differs from the one that was measured, a sentence for each; the figures
    /// hold where there is none.
    pub fn differences(&self, measured: &Machine) -> Vec<String> {
        let cores = |machine: &Machine| machine.cores.map(|cores| cores.to_string());
        let pairs = [
            ("cores", cores(measured), cores(self)),
            ("the CPU", measured.cpu.clone(), self.cpu.clone()),
            ("sluss", measured.version.clone(), self.version.clone()),
            ("the key types", measured.key_types.clone(), self.key_types.clone()),
        ];
        let differ = |(what, was, is): (&str, Option<String>, Option<String>)| {
            let (was, is) = (was?, is?);
            (was != is).then(|| format!("{what}: measured {was}, now {is}"))
        };
        pairs.into_iter().filter_map(differ).collect()
    }
}

/// The CPU's model from the text of `/proc/cpuinfo`; arm has none.
pub fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Computes all sizes.
pub fn size(capacity: &Capacity, goals: &Goals, bounds: &Bounds) -> Sizing {
    let slowest = &slowest_handshake(capacity);
    let threads = bounds.threads.max(1);
    let mut figures = Vec::new();
    figures.push(backlog(goals));
    figures.push(connections(capacity, goals, bounds));
    let concurrency = concurrency(slowest, goals);
    let in_flight = concurrency.value.count() * threads as u64;
    figures.push(concurrency);
    figures.push(handshake_depth(slowest, goals, threads, in_flight));
    figures.push(deadline("handshake_deadline", goals.handshake_deadline));
    figures.push(request_depth(goals));
    figures.push(deadline("request_deadline", goals.request_deadline));
    figures.push(Figure {
        section: "queues",
        key: "in_flight",
        value: Value::Auto,
        arithmetic: "no measurement of the edge tells it".to_owned(),
        reason: "each site's endpoints have their own; the edge finds it from their latency",
    });
    figures.push(age_alarm(goals));
    figures.extend(costs(capacity));
    let advice = advice(&figures, bounds);
    let rates: Vec<String> = capacity.full_handshakes.iter().map(KeyRate::to_string).collect();
    let Capacity { resumptions, requests_h1, requests_h2, .. } = capacity;
    let notes = vec![
        format!("Full handshakes: {}", rates.join("; ")),
        format!(
            "Also: resumed handshakes {resumptions}; requests over HTTP/1.1 {requests_h1}, over \
             HTTP/2 {requests_h2}"
        ),
    ];
    Sizing { notes, figures, advice }
}

/// The rate that a queue of handshakes is emptied at, by each serving thread.
struct Slowest {
    name: String,
    per_thread: f64,
}

/// Of the key types in use: sized for the fastest, a flood against the slowest would hold work for
/// longer than the deadline.
fn slowest_handshake(capacity: &Capacity) -> Slowest {
    let rate = |name: String, measured: Measured| {
        let per_thread = measured.per_second / capacity.threads.max(1) as f64;
        Slowest { name, per_thread }
    };
    let full = capacity.full_handshakes.iter().map(|one| rate(one.key.to_string(), one.rate));
    full.fold(rate("resumed".to_owned(), capacity.resumptions), |one, other| {
        if other.per_thread < one.per_thread { other } else { one }
    })
}

fn backlog(goals: &Goals) -> Figure {
    let Goals { burst_per_second, accept_stall, .. } = goals;
    let burst = burst_per_second.value * accept_stall.value.as_secs_f64();
    let value = (burst.ceil() as u64).next_power_of_two().clamp(1_024, 65_536);
    Figure {
        section: "listen",
        key: "backlog",
        value: Value::Count(value),
        arithmetic: format!(
            "{} in a burst x {} ({}) of stall = {burst:.0}, to the next power of two from 1024 to \
             65536",
            burst_per_second.rate(),
            Time(accept_stall.value),
            accept_stall.origin()
        ),
        reason: "the kernel must hold what comes while accept stands still; past it, it drops \
                 visitors without a word",
    }
}

fn connections(capacity: &Capacity, goals: &Goals, bounds: &Bounds) -> Figure {
    let each = capacity.connection_bytes.max(1);
    let by_memory = (bounds.memory_bytes as f64 * goals.memory_share.value) as u64 / each;
    // An eighth of the descriptors, 64 to 1024, stays for listeners, logs and files.
    let reserve = (bounds.descriptors / 8).clamp(64, 1_024);
    let by_descriptors = bounds.descriptors.saturating_sub(reserve) / 2;
    Figure {
        section: "runtime",
        key: "max_connections",
        value: Value::Count(by_memory.min(by_descriptors).clamp(1, 1_000_000)),
        arithmetic: format!(
            "the smaller of {} MiB x {} / {each} bytes = {by_memory} and ({} descriptors - \
             {reserve}) / 2 = {by_descriptors}",
            bounds.memory_bytes >> 20,
            goals.memory_share.percent(),
            bounds.descriptors
        ),
        reason: "a connection costs memory, and two descriptors where it has its own to an endpoint",
    }
}

fn concurrency(slowest: &Slowest, goals: &Goals) -> Figure {
    let held = (goals.handshake_deadline + goals.round_trips).as_secs_f64();
    let silent = slowest.per_thread * held;
    Figure {
        section: "queues",
        key: "handshake_concurrency",
        value: Value::Count((silent.ceil() as u64).clamp(32, 16_384)),
        arithmetic: format!(
            "{:.0} {} handshakes/s on each thread x ({} + {} of round trips) = {silent:.0}, at \
             least 32",
            slowest.per_thread,
            slowest.name,
            Time(goals.handshake_deadline),
            Time(goals.round_trips)
        ),
        reason: "Little's law: a client that falls silent holds its place until the deadline; with \
                 fewer places such clients would leave the thread idle",
    }
}

fn handshake_depth(slowest: &Slowest, goals: &Goals, threads: usize, in_flight: u64) -> Figure {
    let share = 1.0 - goals.established_share.value.clamp(0.0, 0.95);
    let deadline = goals.handshake_deadline.as_secs_f64();
    let work = threads as f64 * slowest.per_thread * share * deadline;
    Figure {
        section: "queues",
        key: "handshake_depth",
        value: Value::Count((work.round() as u64).clamp(64, 65_536)),
        arithmetic: format!(
            "{threads} threads x {:.0} {} handshakes/s x {:.0} % x {} = {work:.0}, at least 64; {} \
             is kept for established visitors; {in_flight} more are in flight",
            slowest.per_thread,
            slowest.name,
            100.0 * share,
            Time(goals.handshake_deadline),
            goals.established_share.percent()
        ),
        reason: "Little's law: what would wait longer than the deadline is refused at once instead",
    }
}

fn deadline(key: &'static str, value: Duration) -> Figure {
    Figure {
        section: "queues",
        key,
        value: Value::Time(value),
        arithmetic: "as the configuration has it".to_owned(),
        reason: "what is older has given up, or will be served too late to matter",
    }
}

fn request_depth(goals: &Goals) -> Figure {
    let work = goals.slow_site_per_second.value * goals.request_deadline.as_secs_f64();
    Figure {
        section: "queues",
        key: "request_depth",
        value: Value::Count((work.ceil() as u64).clamp(16, 65_536)),
        arithmetic: format!(
            "{} of requests to a slow site x {} = {work:.0}, at least 16",
            goals.slow_site_per_second.rate(),
            Time(goals.request_deadline)
        ),
        reason: "Little's law, per site; a site's endpoints are the bottleneck, not the edge",
    }
}

fn age_alarm(goals: &Goals) -> Figure {
    Figure {
        section: "queues",
        key: "age_alarm",
        value: Value::Time((goals.request_deadline / 5).max(Duration::from_millis(100))),
        arithmetic: format!("{} of request deadline / 5", Time(goals.request_deadline)),
        reason: "told while there is time to act, and not for every short burst",
    }
}

/// What fairness charges: microseconds of a core, from the same measurements.
fn costs(capacity: &Capacity) -> Vec<Figure> {
    let threads = capacity.threads.max(1);
    let figure = |key, of: String, rate: Measured| {
        let cost = threads as f64 * 1e6 / rate.per_second.max(1.0);
        Figure {
            section: "costs",
            key,
            value: Value::Count((cost.round() as u64).clamp(1, 1_000_000)),
            arithmetic: format!(
                "{threads} threads x 1,000,000 us / {:.0} {of} a second",
                rate.per_second
            ),
            reason: "a customer is charged for the time its handshakes take, not for their number; \
                     of several kinds of keys the slowest counts",
        }
    };
    let slowest = |rsa: bool| {
        let family = capacity.full_handshakes.iter().filter(move |one| one.key.is_rsa() == rsa);
        family.min_by(|one, other| one.rate.per_second.total_cmp(&other.rate.per_second))
    };
    let full = [("full_ecdsa", slowest(false)), ("full_rsa", slowest(true))];
    let full = full
        .into_iter()
        .filter_map(|(name, one)| one.map(|one| figure(name, one.key.to_string(), one.rate)));
    full.chain([figure("resumed", "resumed".to_owned(), capacity.resumptions)]).collect()
}

fn advice(figures: &[Figure], bounds: &Bounds) -> Vec<String> {
    let count = |key: &str| {
        figures.iter().find(|figure| figure.key == key).map_or(0, |figure| figure.value.count())
    };
    let (backlog, connections) = (count("backlog"), count("max_connections"));
    let mut advice = Vec::new();
    if u64::from(bounds.somaxconn) < backlog {
        advice.push(format!(
            "the kernel cuts the backlog to {}: sysctl -w net.core.somaxconn={backlog}",
            bounds.somaxconn
        ));
    }
    if u64::from(bounds.syn_backlog) < backlog {
        advice.push(format!(
            "unfinished TCP handshakes are bounded by {}: sysctl -w \
             net.ipv4.tcp_max_syn_backlog={backlog}",
            bounds.syn_backlog
        ));
    }
    // Two a connection and an eighth in reserve.
    let wanted = (2 * connections + 1_024).max(65_536);
    if bounds.descriptors < 65_536 {
        advice.push(format!(
            "{} file descriptors allow {connections} connections: LimitNOFILE={wanted} in the \
             unit, or ulimit -Hn {wanted}",
            bounds.descriptors
        ));
    }
    advice
}

impl Value {
    /// The number, where it is one.
    pub fn as_count(self) -> Option<u64> {
        match self {
            Value::Count(count) => Some(count),
            Value::Auto | Value::Time(_) => None,
        }
    }

    fn count(self) -> u64 {
        self.as_count().unwrap_or(0)
    }
}

impl fmt::Display for Value {
    /// As it stands in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Auto => f.write_str("\"auto\""),
            Value::Count(count) => write!(f, "{count}"),
            Value::Time(time) => write!(f, "\"{}\"", Time(*time)),
        }
    }
}

/// A duration as files have it: whole seconds, else milliseconds.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}
