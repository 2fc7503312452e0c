//! A generator thread: prepares, waits for the start, dispatches its arrivals, waits for the ends.
//!
//! One single-threaded runtime a thread. Traffics do not share threads, so a flood's cryptography
//! does not delay the generator's own requests; and where established traffic is measured beside
//! it, the flood's threads step back in the kernel's eyes as well, for the same reason.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::sync::watch;

use crate::load::arrivals::Random;
use crate::load::connect::{self, Clock, Failure, Route};
use crate::load::h2::Shared;
use crate::load::lane::{Arrival, Lane, Visit};
use crate::load::outcome::Outcome;
use crate::load::pacer::Pacer;
use crate::load::requests::{self, Waiting};
use crate::load::tally::Tally;
use crate::load::target::Url;
use crate::load::{Kind, Live, LoadError, Protocol, Stay, Traffic, visit};

/// Tasks polled between two looks at sockets and timer. The runtime's own choice is 61; at the
/// cost of a handshake's half each, that would make the schedule 5 ms coarse.
const EVENT_INTERVAL: u32 = 4;
/// Arrivals dispatched in one go when several are due: then their tasks get a turn.
const BATCH: usize = 64;
/// Beyond all patience: only a fault of the generator's own leaves work unfinished that long.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// Of flood threads beside established traffic.
const STEP_BACK: i32 = 10;

/// One thread's part of the plan.
#[derive(Debug)]
pub(super) struct Job {
    /// The traffic's index in the plan.
    pub(super) index: usize,
    /// Which of the traffic's threads; it takes every n-th arrival.
    pub(super) lane: usize,
    pub(super) traffic: Arc<Traffic>,
    pub(super) route: Arc<Route>,
    pub(super) url: Url,
    pub(super) seed: u64,
    pub(super) slot: Duration,
    pub(super) in_flight_max: usize,
    pub(super) live: Arc<Live>,
    /// Whether established traffic is measured beside this.
    pub(super) beside_established: bool,
    pub(super) ready: mpsc::Sender<Result<(), LoadError>>,
    pub(super) start: watch::Receiver<Option<Instant>>,
    pub(super) finish: mpsc::Sender<Finished>,
}

/// What a thread gives back.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) index: usize,
    pub(super) tally: Tally,
    /// CPU time over the schedule's time.
    pub(super) cpu: f64,
    /// Time ready to run but without a CPU over the schedule's time.
    pub(super) starved: Option<f64>,
}

/// Starts the thread. It reports on the job's channels and needs no join.
pub(super) fn spawn(job: Job) -> io::Result<()> {
    let name = format!("load-{}-{}", job.index, job.lane);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build()?;
    thread::Builder::new().name(name).spawn(move || {
        if job.beside_established {
            // Refused only by an odd sandbox; then the lateness in the report tells.
            let me = Some(rustix::thread::gettid());
            let own = rustix::process::getpriority_process(me).unwrap_or(0);
            let _ = rustix::process::setpriority_process(me, own + STEP_BACK);
        }
        runtime.block_on(work(job));
    })?;
    Ok(())
}

async fn work(mut job: Job) {
    let prepared = match prepare(&job).await {
        Ok(prepared) => prepared,
        Err(failure) => {
            let what = failure.note.unwrap_or_else(|| failure.outcome.title().to_owned());
            let name = job.traffic.name.clone();
            let _ = job.ready.send(Err(LoadError::Prepare { name, what }));
            return;
        }
    };
    // A closed channel means that another thread failed and the run is off.
    if job.ready.send(Ok(())).is_err() {
        return;
    }
    let Ok(epoch) = job.start.wait_for(Option::is_some).await.map(|epoch| *epoch) else { return };
    let clock = Clock(epoch.unwrap_or_else(Instant::now));
    // It was made once before, from the same parts.
    let Ok(lane) = lane(&job, clock).map(Arc::new) else { return };
    let before = usage();
    let queues = begin(&lane, prepared);
    if let Err(error) = dispatch(&job, &lane, &queues).await {
        lane.tally().fail(&format!("the generator's timer failed: {error}"));
    }
    let after = usage();
    let grace = job.traffic.patience + DRAIN_GRACE;
    if tokio::time::timeout(grace, lane.drain()).await.is_err() {
        lane.tally().fail("work did not end");
    }
    let length = job.traffic.length.as_secs_f64();
    let tally = lane.tally().clone();
    let _ = job.finish.send(Finished {
        index: job.index,
        tally,
        cpu: after.cpu.saturating_sub(before.cpu).as_secs_f64() / length,
        starved: after
            .starved
            .zip(before.starved)
            .map(|(after, before)| after.saturating_sub(before).as_secs_f64() / length),
    });
}

fn lane(job: &Job, clock: Clock) -> Result<Lane, http::Error> {
    let traffic = Arc::clone(&job.traffic);
    let whole = traffic.start + traffic.length + traffic.patience;
    let tally = Tally::new(whole, job.slot, traffic.hosts.names().len());
    let figures = (tally, Arc::clone(&job.live));
    Lane::new(traffic, Arc::clone(&job.route), &job.url, clock, figures)
}

/// What stands before the run begins.
enum Prepared {
    Connections(Vec<(usize, Option<connect::Stream>)>),
    Shared(Vec<(usize, Arc<Shared>)>),
    Nothing,
}

async fn prepare(job: &Job) -> Result<Prepared, Failure> {
    // Nothing of what happens here is counted: the lane is thrown away.
    let lane =
        lane(job, Clock(Instant::now())).map_err(|error| Failure::noted(Outcome::Other, error))?;
    if let Kind::Requests { connections, .. } = job.traffic.kind {
        let streams = requests::establish(&lane, connections).await?;
        if job.traffic.protocol == Protocol::H1 {
            return Ok(Prepared::Connections(streams));
        }
        let mut shared = Vec::with_capacity(streams.len());
        for (host, stream) in streams {
            shared.push((host, Shared::new(host, stream).await?));
        }
        return Ok(Prepared::Shared(shared));
    }
    if let Kind::Resumed(then) = job.traffic.kind {
        visit::stock_tickets(&lane, then).await?;
    }
    Ok(Prepared::Nothing)
}

/// Sets the standing connections to work; their queues, by host.
fn begin(lane: &Arc<Lane>, prepared: Prepared) -> Vec<Arc<Waiting>> {
    let hosts = lane.traffic.hosts.names().len();
    let queues: Vec<Arc<Waiting>> = (0..hosts).map(|_| Arc::default()).collect();
    match prepared {
        Prepared::Connections(streams) => {
            for (host, stream) in streams {
                let waiting = Arc::clone(&queues[host]);
                tokio::spawn(requests::serve(Arc::clone(lane), host, waiting, stream));
            }
        }
        Prepared::Shared(connections) => {
            for (host, shared) in connections {
                for _ in 0..streams(lane.traffic.kind) {
                    let waiting = Arc::clone(&queues[host]);
                    let shared = Arc::clone(&shared);
                    tokio::spawn(requests::serve_stream(Arc::clone(lane), waiting, shared));
                }
            }
        }
        Prepared::Nothing => {}
    }
    queues
}

fn streams(kind: Kind) -> usize {
    let Kind::Requests { streams, .. } = kind else { return 0 };
    streams
}

async fn dispatch(job: &Job, lane: &Arc<Lane>, queues: &[Arc<Waiting>]) -> io::Result<()> {
    let pacer = Pacer::new()?;
    let traffic = &job.traffic;
    let mut chance = Random::new(job.seed ^ 0x686F_7374);
    let mut batch = 0;
    let schedule = traffic.arrivals.schedule(traffic.length, job.seed);
    for (number, after) in schedule.enumerate() {
        // Every thread draws every arrival's host, so that all agree on the same schedule.
        let host = traffic.hosts.pick(&mut chance);
        if number % traffic.threads != job.lane {
            continue;
        }
        let arrival = Arrival { due: traffic.start + after, host, number };
        let due = lane.clock.0 + arrival.due;
        if Instant::now() < due {
            pacer.until(due).await?;
            batch = 0;
        } else if batch >= BATCH {
            tokio::task::yield_now().await;
            batch = 0;
        }
        batch += 1;
        send(lane, arrival, queues, job.in_flight_max);
    }
    Ok(())
}

fn send(lane: &Arc<Lane>, arrival: Arrival, queues: &[Arc<Waiting>], in_flight_max: usize) {
    if lane.begin() > in_flight_max {
        lane.taken_up(arrival);
        lane.end(Visit::new(arrival), Ok(Outcome::NotSent));
        return;
    }
    match lane.traffic.kind.stay() {
        Stay::Standing => {
            // Its connection may be busy, which is the server's doing: late is what we are here.
            lane.taken_up(arrival);
            queues[arrival.host].push(arrival);
        }
        Stay::Lingering | Stay::Passing => {
            tokio::spawn(visit::visit(Arc::clone(lane), arrival));
        }
    }
}

struct Usage {
    cpu: Duration,
    starved: Option<Duration>,
}

/// This thread's CPU time, and how long it was ready without a CPU.
fn usage() -> Usage {
    // "time spent on the cpu, time spent waiting on a runqueue, timeslices" (Documentation/
    // scheduler/sched-stats.rst), in nanoseconds.
    let starved = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse().ok())
        .map(Duration::from_nanos);
    Usage { cpu: duration(clock_gettime(ClockId::ThreadCPUTime)), starved }
}

/// A clock's reading as a duration.
pub(super) fn duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}
