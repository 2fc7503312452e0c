//! What a request pays to be seen: its metrics, and its line in the access log.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sluss::accesslog::{AccessLog, AccessRecord, Format, Target};
use sluss::metrics::{
    ConnectionState, Metrics, QueueName, SiteMetrics, UpstreamResult, register_thread,
};
use sluss::names::SiteId;
use sluss::screen::ClientText;

fn main() {
    register_thread(0);
    divan::main();
}

fn site(metrics: &Arc<Metrics>) -> Arc<SiteMetrics> {
    let id = SiteId::parse("shop").expect("the name is valid");
    metrics.sites_reconcile(&[id]).remove(0)
}

/// Everything that one proxied request counts.
#[divan::bench]
fn metrics_of_a_request(bencher: divan::Bencher<'_, '_>) {
    let metrics = Metrics::new(2);
    let site = site(&metrics);
    let mut connection = metrics.connection(ConnectionState::Idle);
    bencher.bench_local(move || {
        connection.set(ConnectionState::Active);
        metrics.queue_wait(QueueName::Request, Duration::ZERO);
        site.upstream(UpstreamResult::Answered, black_box(Duration::from_micros(900)));
        site.request(black_box(200), black_box(Duration::from_micros(1_200)));
        site.bytes(black_box(0), black_box(1_024));
        connection.set(ConnectionState::Idle);
    });
}

/// One line, while the writer takes the buffers away.
#[divan::bench(args = [Format::Text, Format::Json], sample_count = 50, sample_size = 500)]
fn line_of_a_request(bencher: divan::Bencher<'_, '_>, format: Format) {
    let target = Target::File("/dev/null".into());
    let log = AccessLog::new(format, target, 2).expect("/dev/null can be written");
    let record = AccessRecord {
        time: SystemTime::now(),
        site: "shop",
        host: "shop.example",
        client: &ClientText::new([203, 0, 113, 9].into(), 443, "https"),
        client_port: 50_123,
        method: "GET",
        path: "/some/path/of/usual/length.html?page=2",
        start_line: "",
        protocol: "1.1",
        status: 200,
        bytes_in: 0,
        bytes_out: 12_345,
        queue: Duration::ZERO,
        upstream: Duration::from_micros(1_500),
        total: Duration::from_micros(2_001),
        tls_version: "1.3",
        resumed: false,
        refusal: None,
        request_id: "f827eb5d51667bbe0000000000000041",
        endpoint: "http://127.0.0.1:8001",
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        referer: b"https://shop.example/",
    };
    bencher.bench_local(|| log.log(black_box(&record)));
    assert_eq!(log.state().dropped, 0, "a dropped line would be too cheap");
}

/// A scrape with 50,000 sites that were all visited.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn scrape_of_50_000_sites(bencher: divan::Bencher<'_, '_>) {
    let metrics = Metrics::new(2);
    let ids = (0..50_000).map(|at| SiteId::parse(&format!("site-{at}")).expect("a valid name"));
    for site in metrics.sites_reconcile(&ids.collect::<Vec<_>>()) {
        site.request(200, Duration::from_millis(1));
    }
    metrics.sites_tick(Duration::from_secs(10), &[]);
    bencher.bench_local(|| metrics.render(&sluss::metrics::ScrapeInput::default()));
}
