//! The dashboard over an edge that is made up: for work on the page without a running edge.
//!
//! `cargo run --example dashboard [ADDRESS] [SITES]`, then open the address it prints. Load rises and
//! falls once a minute; at the top of each wave handshakes are refused and a site is down.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluss::admin::{
    Admin, CertificateRow, EndpointRow, FindingExample, FindingRow, Gathered, Listener, Phase,
    QueueNow, ReloadRow, Reloading, Security, Serving, SiteRow, View, serve,
};
use sluss::config::AdminAddress;
use sluss::config::report::{Changes, ReloadResult, Report};
use sluss::metrics::{
    ConnectionState, HandshakeOutcome, HandshakeResult, HandshakeVersion, ListenerGauge, Metrics,
    QueueName, Resumption, SiteMetrics, UpstreamGauges, UpstreamResult,
};
use sluss::names::SiteId;
use sluss::refusal::Refusal;

struct MadeUp {
    start: Instant,
    metrics: Arc<Metrics>,
    generation: AtomicU64,
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

impl MadeUp {
    /// 0 to 1, once a minute.
    fn wave(&self) -> f64 {
        0.5 - 0.5 * (self.start.elapsed().as_secs_f64() * TAU / 60.0).cos()
    }

    fn is_peak(&self) -> bool {
        self.wave() > 0.8
    }

    fn report(&self, result: ReloadResult) -> Report {
        let mut changes = Changes::none();
        changes.sites.changed = vec!["site-00003".into()];
        let generation = self.generation.load(Relaxed);
        let kept = vec!["certificate b.example".into()];
        let (absent, problems) = (Vec::new(), Vec::new());
        Report { result, generation, seconds: 0.21, changes, kept, absent, problems }
    }
}

impl View for MadeUp {
    fn serving(&self) -> Serving {
        let generation = self.generation.load(Relaxed);
        Serving { phase: Phase::Serving, generation, sites: 10_000, certificates: 10_000 }
    }

    fn gather(&self) -> Gathered {
        let wave = self.wave();
        let queue = |limit: u64, milliseconds: f64| QueueNow {
            depth: (wave * wave * limit as f64) as u64,
            limit,
            oldest: Duration::from_secs_f64(wave * wave * milliseconds / 1_000.0),
            admitted: self.start.elapsed().as_millis() as u64,
        };
        let down = self.is_peak().then(|| ("site-00007".to_owned(), "refused".to_owned()));
        Gathered {
            listeners: vec![ListenerGauge {
                listener: "[::]:443".into(),
                length: (wave * 300.0) as u64,
                limit: 4_096,
                drops: 0,
            }],
            handshake_queue: queue(512, 900.0),
            request_queues: vec![("site-00001".into(), queue(256, 3_000.0))],
            request_depth: 256,
            age_alarm: Duration::from_secs(2),
            upstreams: UpstreamGauges { up: 20_000, down: 3, ..UpstreamGauges::default() },
            sites_down: down.into_iter().collect(),
            certificates: vec![("soon.example".into(), unix_now() + 9 * 86_400)],
            ..Gathered::default()
        }
    }

    fn sites(&self) -> Vec<SiteRow> {
        let rows = self.metrics.sites().into_iter().enumerate().map(|(at, summary)| {
            let name = summary.site.clone();
            let is_down = self.is_peak() && name == "site-00007";
            let endpoint = |port: u16| EndpointRow {
                url: format!("http://127.0.0.1:{port}"),
                state: if is_down { "ejected" } else { "up" }.into(),
                in_flight: 2,
                latency_ms: Some(3.4),
                backup: port == 8_002,
                last_failure: is_down.then(|| "connection refused".into()),
            };
            SiteRow {
                customer: format!("customer-{}", at % 500),
                hosts: vec![format!("{name}.example"), format!("www.{name}.example")],
                waiting: 0,
                waiting_limit: 256,
                oldest_seconds: 0.0,
                in_flight: 3,
                in_flight_limit: 40,
                findings: (at % 7) as u64,
                kept: at % 1_000 == 3,
                endpoints: vec![endpoint(8_001), endpoint(8_002)],
                summary,
            }
        });
        rows.collect()
    }

    fn certificates(&self) -> Vec<CertificateRow> {
        let row = |(at, validity): (usize, &str)| CertificateRow {
            name: format!("cert-{at:03}.example"),
            hosts: vec![format!("cert-{at:03}.example"), format!("*.cert-{at:03}.example")],
            key: "ECDSA P-256".into(),
            issuer: "Example CA".into(),
            not_after: "2026-12-24T00:00:00Z".into(),
            days_left: at as i64 * 10 - 15,
            validity: validity.into(),
            kept_since: (at == 2).then(|| "2026-11-01T00:00:00Z".into()),
            ..CertificateRow::default()
        };
        let states = ["expired", "urgent", "expiring"].into_iter().chain(["valid"; 40]);
        states.enumerate().map(row).collect()
    }

    fn findings(&self) -> Vec<FindingRow> {
        vec![FindingRow {
            site: "site-00002".into(),
            direction: "response".into(),
            rule: "field-name-trailing-space".into(),
            action: "repair".into(),
            count: 1_234,
            shadow_refused: 1_234,
            shadow: "reject".into(),
            section: "RFC 9112 5.1".into(),
            explain: "white space stands between a field's name and its colon".into(),
            remedy: "mend the program that writes the field".into(),
            examples: vec![FindingExample {
                first_seen_unix: unix_now() - 500,
                last_seen_unix: unix_now(),
                times: 1_234,
                hex: String::new(),
                field: "x-powered-by".into(),
                excerpt: "<script>alert(1)</script>".into(),
                request_line: "GET /a HTTP/1.1".into(),
                upstream: Some("http://127.0.0.1:8001".into()),
                request_id: "0a1b2c".into(),
            }],
        }]
    }

    fn reloads(&self) -> Vec<ReloadRow> {
        let row = |result| ReloadRow { at_unix: unix_now() - 60, report: self.report(result) };
        vec![row(ReloadResult::Partly), row(ReloadResult::Applied)]
    }

    fn reload(&self) -> Reloading {
        self.generation.fetch_add(1, Relaxed);
        let report = self.report(ReloadResult::Applied);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(210)).await;
            report
        })
    }
}

/// A tenth of a second of traffic.
fn traffic(view: &MadeUp, sites: &[Arc<SiteMetrics>], round: usize) {
    let (metrics, wave) = (&view.metrics, view.wave());
    for at in 0..(20.0 + wave * 100.0) as usize {
        let site = &sites[(at * at + round) % sites.len().min(300)];
        let slow = 1.0 + wave * wave * 20.0 * ((at % 10) as f64 / 3.0);
        let elapsed = Duration::from_secs_f64(0.002 * slow);
        site.request(if at % 60 == 59 { 502 } else { 200 }, elapsed);
        site.bytes(300, 12_000);
        site.upstream(UpstreamResult::Answered, elapsed / 2);
        metrics.queue_wait(QueueName::Request, elapsed / 4);
    }
    for at in 0..(wave * 60.0) as usize {
        drop(metrics.connection(ConnectionState::Accepted));
        let is_refused = view.is_peak() && at % 3 == 0;
        if is_refused {
            metrics.refused(QueueName::Handshake, Refusal::HandshakeQueueFull);
            sites[1].refused(Refusal::HandshakeQueueFull);
        }
        let result = if is_refused { HandshakeResult::Refused } else { HandshakeResult::Ok };
        let resumption = if at % 2 == 0 { Resumption::Full } else { Resumption::Resumed };
        let outcome = HandshakeOutcome { result, version: HandshakeVersion::Tls13, resumption };
        metrics.queue_wait(QueueName::Handshake, Duration::from_millis(at as u64));
        metrics.handshake(outcome, Duration::from_micros(600));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9180".into());
    let count = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(10_000);
    let names = (0..count).filter_map(|at| SiteId::parse(&format!("site-{at:05}")).ok());
    let metrics = Metrics::new(1);
    let sites = metrics.sites_reconcile(&names.collect::<Vec<_>>());
    let start = Instant::now();
    let view = Arc::new(MadeUp { start, metrics: metrics.clone(), generation: AtomicU64::new(1) });
    let address = address.parse().map_err(std::io::Error::other)?;
    let listener = Listener::bind(&AdminAddress::Tcp(address)).await?;
    let security = Security { reach: listener.reach(), token: None };
    println!("http://{}/", listener.address()?);
    let admin = Admin::new(view.clone(), metrics, security);
    tokio::spawn(serve(listener, admin.clone()));
    tokio::spawn(admin.watch());
    for round in 0.. {
        traffic(&view, &sites, round);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
