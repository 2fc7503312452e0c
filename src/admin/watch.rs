//! Looks at the edge once a second and remembers enough to tell rates, percentiles and alarms.
//!
//! Pure: the time, what was [`Gathered`] and the process's sample are arguments. Bounded: eleven
//! readings of the counters (rates are over ten seconds) and five minutes of chart points.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::alarms::{AcceptQueue, AccessLogHealth, Alarms, Change, QueueSample, Sample};
use crate::metrics::{
    AccessLogCounts, ConnectionState, FineTimes, HandshakeResult, ProcessSample, QueueGauge,
    QueueName, ScrapeInput, Totals,
};
use crate::refusal::{Refusal, Side};

use super::data::{
    AccessLogRow, Gathered, Health, LatencyRow, ListenerRow, Point, ProcessRow, QueueNow, QueueRow,
    RefusalRow, Serving, Status,
};

/// Readings kept: rates are over the ten seconds between the oldest and the newest.
const READINGS: usize = 11;

/// Points kept for the charts, one a second.
const POINTS_MAX: usize = 300;

/// Request queues shown in the status, the fullest ones.
const QUEUES_SHOWN_MAX: usize = 20;

/// The memory of the once-a-second look.
#[derive(Default)]
pub(super) struct Watch {
    alarms: Alarms,
    readings: VecDeque<Reading>,
    points: VecDeque<Point>,
    gathered: Gathered,
    refused: RefusedAt,
}

struct Reading {
    at: Instant,
    totals: Totals,
    process: ProcessSample,
}

/// One look at the edge.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) unix: i64,
    pub(super) gathered: Gathered,
    pub(super) totals: Totals,
    /// Absent where nothing was refused since the last look.
    pub(super) refused: Option<RefusedAt>,
    pub(super) process: ProcessSample,
}

/// What queues refused since the start, by site.
#[derive(Default)]
pub(super) struct RefusedAt {
    pub(super) handshakes: Vec<(String, u64)>,
    pub(super) requests: Vec<(String, u64)>,
}

/// Reasons for which the handshake queue refuses.
pub(super) const HANDSHAKES_REFUSED: [Refusal; 2] =
    [Refusal::HandshakeQueueFull, Refusal::HandshakeDeadline];

/// Reasons for which a request queue refuses.
pub(super) const REQUESTS_REFUSED: [Refusal; 2] =
    [Refusal::RequestQueueFull, Refusal::RequestDeadline];

impl Watch {
    /// Takes a look; tells which alarms came and went.
    pub(super) fn take(&mut self, look: Look) -> Vec<Change> {
        let Look { at, unix, gathered, totals, refused, process } = look;
        self.refused = refused.unwrap_or_else(|| std::mem::take(&mut self.refused));
        let sample = sample(&gathered, &totals, &self.refused, &process);
        let changes = self.alarms.observe(at, unix, &sample);
        self.gathered = gathered;
        let point = self.point(at, unix, &totals);
        self.points.push_back(point);
        if self.points.len() > POINTS_MAX {
            self.points.pop_front();
        }
        self.readings.push_back(Reading { at, totals, process });
        if self.readings.len() > READINGS {
            self.readings.pop_front();
        }
        changes
    }

    /// Whether queues have refused anything since the last look: then where is worth a walk.
    pub(super) fn has_new_refusals(&self, totals: &Totals) -> bool {
        let reasons = HANDSHAKES_REFUSED.iter().chain(&REQUESTS_REFUSED);
        let count = |totals: &Totals| reasons.clone().map(|why| totals.refused(*why)).sum::<u64>();
        let before = self.readings.back().map_or(0, |reading| count(&reading.totals));
        count(totals) != before
    }

    pub(super) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// What is served, and what the last look showed; `since` asks for the chart points after that
    /// time.
    pub(super) fn status(&self, serving: Serving, unix: i64, since: Option<i64>) -> Status {
        let gathered = &self.gathered;
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: serving.phase,
            health: if self.alarms.any() { Health::Degraded } else { Health::Ok },
            now_unix: unix,
            generation: serving.generation,
            sites: serving.sites,
            certificates: serving.certificates,
            alarms: self.alarms.standing(),
            listeners: listeners(gathered),
            listen_overflows: gathered.listen_overflows,
            queues: queues(gathered),
            endpoints_up: gathered.upstreams.up,
            endpoints_down: gathered.upstreams.down,
            failing_endpoints: gathered.failing_endpoints.clone(),
            access_log: access_log(gathered),
            ..Status::default()
        };
        if let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) {
            let span = Span { first, last };
            let states = ConnectionState::ALL.iter();
            let open = |state: &ConnectionState| {
                (state.label().to_owned(), last.totals.connections(*state))
            };
            status.connections = states.map(open).collect();
            status.started_unix = last.process.started as i64;
            status.rates = span.rates();
            status.latencies = span.latencies();
            status.refusals = span.refusals();
            status.process = span.process();
        }
        if let Some(since) = since {
            status.history = self.points.iter().filter(|p| p.t > since).cloned().collect();
        }
        status
    }

    fn point(&self, at: Instant, unix: i64, totals: &Totals) -> Point {
        let Some(before) = self.readings.back() else {
            return Point { t: unix, ..Point::default() };
        };
        let seconds = at.duration_since(before.at).as_secs_f64().max(0.001);
        let old = &before.totals;
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let handshakes = |result| rate(totals.handshakes(result), old.handshakes(result));
        let resumed = rate(totals.resumed(), old.resumed());
        let gathered = &self.gathered;
        let fullest = fullest(gathered);
        let oldest = gathered.request_queues.iter().map(|(_, queue)| queue.oldest).max();
        let window = totals.request_seconds.since(&old.request_seconds);
        let ms = |quantile| window.quantile(quantile).map(|time| time.as_secs_f64() * 1_000.0);
        Point {
            t: unix,
            accepted: rate(totals.accepted, old.accepted),
            full: (handshakes(HandshakeResult::Ok) - resumed).max(0.0),
            resumed,
            failed: handshakes(HandshakeResult::Failed)
                + handshakes(HandshakeResult::Deadline)
                + handshakes(HandshakeResult::Gone),
            refused: handshakes(HandshakeResult::Refused),
            handshake_queue: (gathered.handshake_queue.depth, gathered.handshake_queue.limit),
            request_queue: (fullest.depth, fullest.limit),
            oldest: (
                gathered.handshake_queue.oldest.as_secs_f64(),
                oldest.unwrap_or_default().as_secs_f64(),
            ),
            accept_queue: accept_queue(gathered),
            requests: rate(totals.requests(), old.requests()),
            errors: rate(totals.server_errors(), old.server_errors()),
            latency: ms(0.5).zip(ms(0.9)).zip(ms(0.99)).map(|((a, b), c)| (a, b, c)),
            refusals: Refusal::ALL
                .iter()
                .map(|refusal| (*refusal, rate(totals.refused(*refusal), old.refused(*refusal))))
                .filter(|(_, rate)| *rate > 0.0)
                .map(|(refusal, rate)| (refusal.label().to_owned(), rate))
                .collect(),
        }
    }
}

/// Two readings, up to ten seconds apart.
struct Span<'a> {
    first: &'a Reading,
    last: &'a Reading,
}

impl Span<'_> {
    fn rate(&self, of: impl Fn(&Totals) -> u64) -> f64 {
        let seconds = self.last.at.duration_since(self.first.at).as_secs_f64();
        if seconds == 0.0 {
            return 0.0;
        }
        of(&self.last.totals).saturating_sub(of(&self.first.totals)) as f64 / seconds
    }

    fn rates(&self) -> BTreeMap<String, f64> {
        let mut rates = BTreeMap::new();
        let mut put = |name: &str, rate: f64| rates.insert(name.to_owned(), rate);
        put("accepted", self.rate(|totals| totals.accepted));
        put("requests", self.rate(Totals::requests));
        put("server_errors", self.rate(Totals::server_errors));
        put("handshakes_resumed", self.rate(Totals::resumed));
        for result in HandshakeResult::ALL {
            let name = format!("handshakes_{}", result.label());
            put(&name, self.rate(|totals| totals.handshakes(*result)));
        }
        put("received_bytes", self.rate(|totals| totals.received_bytes));
        put("sent_bytes", self.rate(|totals| totals.sent_bytes));
        rates
    }

    fn latencies(&self) -> Vec<LatencyRow> {
        let handshake_queue = |totals: &Totals| *totals.queue_wait(QueueName::Handshake);
        let request_queue = |totals: &Totals| *totals.queue_wait(QueueName::Request);
        vec![
            self.latency("request", |totals| totals.request_seconds),
            self.latency("upstream", |totals| totals.upstream_seconds),
            self.latency("handshake", |totals| totals.handshake_seconds),
            self.latency("handshake-queue", handshake_queue),
            self.latency("request-queue", request_queue),
        ]
    }

    fn latency(&self, what: &str, of: impl Fn(&Totals) -> FineTimes) -> LatencyRow {
        let window = of(&self.last.totals).since(&of(&self.first.totals));
        let ms = |quantile| window.quantile(quantile).unwrap_or_default().as_secs_f64() * 1_000.0;
        LatencyRow {
            what: what.to_owned(),
            per_second: self.rate(|totals| of(totals).count()),
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
        }
    }

    fn refusals(&self) -> Vec<RefusalRow> {
        let row = |refusal: &Refusal| RefusalRow {
            reason: refusal.label().to_owned(),
            side: match refusal.side() {
                Side::Downstream => "downstream",
                Side::Upstream => "upstream",
                Side::Edge => "edge",
            }
            .to_owned(),
            total: self.last.totals.refused(*refusal),
            per_second: self.rate(|totals| totals.refused(*refusal)),
        };
        let mut rows: Vec<RefusalRow> = Refusal::ALL.iter().map(row).collect();
        rows.retain(|row| row.total > 0);
        rows.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then(b.total.cmp(&a.total)));
        rows
    }

    fn process(&self) -> ProcessRow {
        let (first, last) = (&self.first.process, &self.last.process);
        let seconds = self.last.at.duration_since(self.first.at).as_secs_f64().max(0.001);
        ProcessRow {
            resident_bytes: last.resident_bytes,
            memory_limit_bytes: last.memory_limit_bytes.unwrap_or(0),
            descriptors: last.descriptors.unwrap_or(0),
            descriptors_max: last.descriptors_max,
            cpu_cores: last.cpu.saturating_sub(first.cpu).as_secs_f64() / seconds,
        }
    }
}

/// What the alarms are judged by.
fn sample(
    gathered: &Gathered,
    totals: &Totals,
    refused_at: &RefusedAt,
    process: &ProcessSample,
) -> Sample {
    let queue = |name: QueueName, site: Option<&String>, now: &QueueNow| QueueSample {
        queue: name.label(),
        site: site.cloned(),
        depth: now.depth,
        oldest: now.oldest,
        admitted: now.admitted,
    };
    let admitted = totals.queue_admitted(QueueName::Handshake);
    let handshakes = QueueNow { admitted, ..gathered.handshake_queue };
    let mut queues = vec![queue(QueueName::Handshake, None, &handshakes)];
    let waiting = gathered.request_queues.iter();
    queues.extend(waiting.map(|(site, now)| queue(QueueName::Request, Some(site), now)));
    let refused = |reasons: &[Refusal]| reasons.iter().map(|reason| totals.refused(*reason)).sum();
    let accept = gathered.listeners.iter().map(|l| AcceptQueue {
        listener: l.listener.clone(),
        length: l.length,
        limit: l.limit,
    });
    Sample {
        accept_queues: accept.collect(),
        overflows: gathered.overflows_own,
        overflowing: gathered.overflowing.clone(),
        queues,
        unanswered: gathered.unanswered.clone(),
        age_alarm: gathered.age_alarm,
        connections: gathered.connections,
        // The queue's own: who falls silent in a handshake that has begun is nobody's alarm.
        handshakes_refused: HANDSHAKES_REFUSED
            .iter()
            .map(|reason| totals.queue_refused(QueueName::Handshake, *reason))
            .sum(),
        requests_refused: refused(&REQUESTS_REFUSED),
        handshakes_refused_at: refused_at.handshakes.clone(),
        requests_refused_at: refused_at.requests.clone(),
        sites_down: gathered.sites_down.clone(),
        certificates_kept: gathered.certificates_kept.clone(),
        certificates: gathered.certificates.clone(),
        certificate_sites: gathered.certificate_sites.clone(),
        reload_refused: gathered.reload_refused.clone(),
        parts_kept: gathered.parts_kept.clone(),
        parts_absent: gathered.parts_absent.clone(),
        machine_differs: gathered.machine_differs.clone(),
        descriptors: (process.descriptors.unwrap_or(0), process.descriptors_max),
        memory: (process.resident_bytes, process.memory_limit_bytes.unwrap_or(0)),
        access_log: AccessLogHealth {
            failure: gathered.access_log.failure.clone(),
            dropped: gathered.access_log.dropped,
        },
    }
}

/// What Prometheus is shown besides the counters.
pub(super) fn scrape_input(
    serving: Serving,
    gathered: Gathered,
    alarms: Vec<(&'static str, u64)>,
    process: ProcessSample,
) -> ScrapeInput {
    let handshakes = gathered.handshake_queue;
    let requests = fullest(&gathered);
    let oldest = gathered.request_queues.iter().map(|(_, queue)| queue.oldest).max();
    let gauge = |queue, now: QueueNow, oldest: Duration| QueueGauge {
        queue,
        depth: now.depth,
        limit: now.limit,
        oldest,
    };
    ScrapeInput {
        queues: vec![
            gauge(QueueName::Handshake, handshakes, handshakes.oldest),
            gauge(QueueName::Request, requests, oldest.unwrap_or_default()),
        ],
        listeners: gathered.listeners,
        listen_overflows: gathered.listen_overflows,
        listen_drops: gathered.listen_drops,
        upstreams: gathered.upstreams,
        findings: gathered.findings,
        generation: serving.generation,
        certificates: gathered.certificates,
        certificates_kept: gathered.certificates_kept.len() as u64,
        alarms,
        access_log: AccessLogCounts {
            written: gathered.access_log.written,
            dropped: gathered.access_log.dropped,
            errors: gathered.access_log.errors,
        },
        process,
    }
}

/// The request queue with the most waiting; an empty one where none waits.
fn fullest(gathered: &Gathered) -> QueueNow {
    let empty = QueueNow { limit: gathered.request_depth, ..QueueNow::default() };
    let queues = gathered.request_queues.iter().map(|(_, queue)| *queue);
    queues.max_by_key(|queue| queue.depth).unwrap_or(empty)
}

/// Length and limit of the accept queue that is fullest by share.
fn accept_queue(gathered: &Gathered) -> (u64, u64) {
    let queues = gathered.listeners.iter().map(|l| (l.length, l.limit));
    queues.max_by_key(|(length, limit)| length * 1_000 / (*limit).max(1)).unwrap_or_default()
}

fn listeners(gathered: &Gathered) -> Vec<ListenerRow> {
    let row = |l: &crate::metrics::ListenerGauge| ListenerRow {
        listener: l.listener.clone(),
        length: l.length,
        limit: l.limit,
        drops: l.drops,
    };
    gathered.listeners.iter().map(row).collect()
}

fn queues(gathered: &Gathered) -> Vec<QueueRow> {
    let row = |queue: QueueName, site: Option<&String>, now: &QueueNow| QueueRow {
        queue: queue.label().to_owned(),
        site: site.cloned(),
        depth: now.depth,
        limit: now.limit,
        oldest_seconds: now.oldest.as_secs_f64(),
    };
    let mut waiting: Vec<&(String, QueueNow)> = gathered.request_queues.iter().collect();
    waiting.sort_by_key(|(_, queue)| std::cmp::Reverse(queue.depth));
    let mut rows = vec![row(QueueName::Handshake, None, &gathered.handshake_queue)];
    let fullest = waiting.into_iter().take(QUEUES_SHOWN_MAX);
    rows.extend(fullest.map(|(site, queue)| row(QueueName::Request, Some(site), queue)));
    rows
}

fn access_log(gathered: &Gathered) -> AccessLogRow {
    let state = &gathered.access_log;
    AccessLogRow {
        written: state.written,
        dropped: state.dropped,
        errors: state.errors,
        failure: state.failure.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::names::SiteId;

    #[test]
    fn a_look_tells_what_happened_a_second() {
        let metrics = Metrics::new(1);
        let site = metrics.sites_reconcile(&[SiteId::parse("a").unwrap()]).remove(0);
        let (mut watch, start) = (Watch::default(), Instant::now());
        for second in 0..20_u32 {
            for _ in 0..100 {
                site.request(200, Duration::from_millis(10));
            }
            site.request(502, Duration::from_millis(900));
            site.refused(Refusal::RequestRate);
            watch.take(Look {
                at: start + Duration::from_secs(second.into()),
                unix: 1_000 + i64::from(second),
                gathered: Gathered {
                    age_alarm: Duration::from_secs(2),
                    request_depth: 256,
                    ..Gathered::default()
                },
                totals: metrics.totals(),
                refused: None,
                process: ProcessSample::default(),
            });
        }
        let status = watch.status(Serving::default(), 1_020, Some(1_009));
        assert_eq!(status.rates["requests"].round(), 101.0);
        assert_eq!(status.rates["server_errors"].round(), 1.0);
        let request = &status.latencies[0];
        assert!((8.0..=11.0).contains(&request.p50_ms), "{request:?}");
        assert_eq!(status.refusals[0].reason, "request-rate");
        assert_eq!(status.refusals[0].total, 20);
        assert_eq!(status.history.len(), 10);
        let point = &status.history[9];
        assert_eq!((point.t, point.requests, point.errors), (1_019, 101.0, 1.0));
        assert_eq!(point.request_queue, (0, 256));
        assert_eq!(status.health, Health::Ok);
    }

    #[test]
    fn before_the_first_look_there_is_a_status_too() {
        let status = Watch::default().status(Serving::default(), 5, Some(0));
        assert_eq!((status.now_unix, status.history.len()), (5, 0));
        let text = serde_json::to_string(&status).unwrap();
        let read: Status = serde_json::from_str(&text).unwrap();
        assert_eq!(read.health, Health::Ok);
    }

    #[test]
    fn the_fullest_request_queue_stands_for_all() {
        let queue = |depth, oldest| QueueNow {
            depth,
            limit: 10,
            oldest: Duration::from_secs(oldest),
            admitted: 0,
        };
        let gathered = Gathered {
            request_queues: vec![("a".into(), queue(2, 9)), ("b".into(), queue(7, 3))],
            ..Gathered::default()
        };
        assert_eq!(queues(&gathered)[1].site.as_deref(), Some("b"));
        let input =
            scrape_input(Serving::default(), gathered, Vec::new(), ProcessSample::default());
        assert_eq!((input.queues[1].depth, input.queues[1].oldest.as_secs()), (7, 9));
    }
}
