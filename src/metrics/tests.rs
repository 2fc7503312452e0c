//! Counting from many threads, and the text that a scrape gets.

use std::collections::HashSet;

use super::*;

fn names(count: usize) -> Vec<SiteId> {
    (0..count).map(|at| SiteId::parse(&format!("site-{at:05}")).unwrap()).collect()
}

fn value(text: &str, series: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(&format!("{series} ")))?;
    line.rsplit_once(' ').unwrap().1.parse().ok()
}

fn count_series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

fn sum_of_requests(text: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with("sluss_requests_total{"));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// Everything that other rooms can bring, as much of it as they can.
fn full_input() -> ScrapeInput {
    let label = |at: usize| -> &'static str { ["a", "b", "c", "d"][at % 4] };
    ScrapeInput {
        queues: QueueName::ALL
            .iter()
            .map(|queue| QueueGauge {
                queue: *queue,
                depth: 1,
                limit: 2,
                oldest: Duration::from_millis(1),
            })
            .collect(),
        listeners: (0..100)
            .map(|at| ListenerGauge {
                listener: format!("[::]:{at}"),
                length: 0,
                limit: 1,
                drops: 0,
            })
            .collect(),
        upstreams: UpstreamGauges {
            down_names: (0..1_000).map(|at| (format!("s{at}"), "http://x".into())).collect(),
            ..UpstreamGauges::default()
        },
        findings: (0..10_000)
            .map(|at| FindingCount {
                site: format!("s{at}"),
                direction: label(at),
                rule: label(at / 4),
                action: label(at / 16),
                count: at as u64,
            })
            .collect(),
        certificates: (0..5_000).map(|at| (format!("c{at}"), 5_000 - at)).collect(),
        alarms: vec![("queue-age", 1); 20],
        ..ScrapeInput::default()
    }
}

#[test]
fn every_name_of_the_contract_is_declared_before_any_sample() {
    let text = Metrics::new(1).render(&ScrapeInput::default());
    let contract = "sluss_queue_depth sluss_queue_limit sluss_queue_oldest_age_seconds \
        sluss_queue_wait_seconds sluss_queue_refused_total sluss_kernel_accept_queue_length \
        sluss_kernel_accept_queue_limit sluss_kernel_listen_overflows_total \
        sluss_handshakes_total sluss_handshake_seconds sluss_connections sluss_requests_total \
        sluss_request_seconds sluss_header_findings_total sluss_reloads_total \
        sluss_snapshot_generation sluss_certificate_expiry_timestamp_seconds sluss_alarm";
    for name in contract.split_whitespace() {
        assert!(text.contains(&format!("\n# TYPE {name} ")) || text.starts_with(name), "{name}");
    }
}

#[test]
fn what_was_counted_is_shown() {
    let metrics = Metrics::new(2);
    let sites = metrics.sites_reconcile(&names(2));
    sites[0].request(200, Duration::from_millis(3));
    sites[0].request(502, Duration::from_millis(300));
    sites[1].refused(Refusal::RequestQueueFull);
    metrics.request_without_site(404, Duration::from_millis(1));
    metrics.turned_away(Refusal::UnknownServerName);
    metrics.refused(QueueName::Request, Refusal::RequestQueueFull);
    metrics.queue_wait(QueueName::Handshake, Duration::from_millis(2));
    let (result, version) = (HandshakeResult::Ok, HandshakeVersion::Tls13);
    let outcome = HandshakeOutcome { result, version, resumption: Resumption::Full };
    metrics.handshake(outcome, Duration::from_micros(400));
    let mut connection = metrics.connection(ConnectionState::Accepted);
    connection.set(ConnectionState::Active);
    let text = metrics.render(&ScrapeInput::default());
    let check = |series: &str, expected: u64| {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    };
    check("sluss_requests_total{site=\"site-00000\",code=\"200\"}", 1);
    check("sluss_requests_total{site=\"site-00000\",code=\"502\"}", 1);
    check("sluss_requests_total{site=\"(none)\",code=\"404\"}", 1);
    check("sluss_refused_total{site=\"site-00001\",reason=\"request-queue-full\"}", 1);
    check("sluss_refused_total{site=\"(none)\",reason=\"unknown-server-name\"}", 1);
    check("sluss_queue_refused_total{queue=\"request\",reason=\"request-queue-full\"}", 1);
    check("sluss_queue_wait_seconds_bucket{queue=\"handshake\",le=\"0.0025\"}", 1);
    check("sluss_queue_wait_seconds_bucket{queue=\"handshake\",le=\"0.001\"}", 0);
    check("sluss_handshakes_total{result=\"ok\",version=\"1.3\",resumed=\"false\"}", 1);
    check("sluss_handshake_seconds_bucket{le=\"0.0005\"}", 1);
    check("sluss_request_seconds_bucket{site=\"site-00000\",le=\"0.005\"}", 1);
    check("sluss_request_seconds_count{site=\"site-00000\"}", 2);
    check("sluss_request_seconds_count{site=\"(others)\"}", 1);
    check("sluss_connections{state=\"active\"}", 1);
    check("sluss_connections{state=\"accepted\"}", 0);
    drop(connection);
    assert_eq!(metrics.totals().connections(ConnectionState::Active), 0);
}

#[test]
fn a_connection_may_end_on_another_thread_than_it_began() {
    let metrics = Metrics::new(2);
    let gauge = metrics.connection(ConnectionState::Hello);
    let moved = std::thread::spawn(move || {
        register_thread(1);
        let mut gauge = gauge;
        gauge.set(ConnectionState::Idle);
        gauge
    });
    let gauge = moved.join().unwrap();
    let totals = metrics.totals();
    assert_eq!(totals.connections(ConnectionState::Hello), 0);
    assert_eq!(totals.connections(ConnectionState::Idle), 1);
    drop(gauge);
    assert_eq!(metrics.totals().connections(ConnectionState::Idle), 0);
}

#[test]
fn threads_that_count_at_once_lose_nothing() {
    let metrics = Metrics::new(4);
    let sites = metrics.sites_reconcile(&names(1));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let site = &sites[0];
            scope.spawn(move || {
                register_thread(number);
                for _ in 0..10_000 {
                    site.request(200, Duration::from_millis(1));
                }
            });
        }
    });
    let text = metrics.render(&ScrapeInput::default());
    let series = "sluss_requests_total{site=\"site-00000\",code=\"200\"}";
    assert_eq!(value(&text, series), Some(80_000));
    assert_eq!(metrics.totals().requests(), 80_000);
}

#[test]
fn counters_survive_a_reload_and_removed_sites_stay_in_the_sum() {
    let metrics = Metrics::new(1);
    let ids = names(3);
    let before = metrics.sites_reconcile(&ids);
    for site in &before {
        site.request(200, Duration::from_millis(1));
    }
    let input = ScrapeInput::default();
    assert_eq!(sum_of_requests(&metrics.render(&input)), 3);
    let after = metrics.sites_reconcile(&ids[..2]);
    assert!(Arc::ptr_eq(&before[0], &after[0]) && after.len() == 2);
    // A request that was in flight when its site was removed.
    before[2].request(200, Duration::from_millis(1));
    let text = metrics.render(&input);
    assert_eq!(value(&text, "sluss_requests_total{site=\"site-00000\",code=\"200\"}"), Some(1));
    assert_eq!(metrics.totals().requests(), 4);
    assert_eq!(sum_of_requests(&text), 3);
}

#[test]
fn fifty_thousand_sites_are_a_bounded_number_of_series() {
    let metrics = Metrics::new(2);
    let sites = metrics.sites_reconcile(&names(50_000));
    for (at, site) in sites.iter().enumerate() {
        for code in [200, 304, 400, 404, 405, 408, 413, 431, 499, 502, 503, 504] {
            site.request(code, Duration::from_millis(1));
        }
        if at % 2 == 0 {
            Refusal::ALL.iter().for_each(|refusal| site.refused(*refusal));
        }
    }
    Refusal::ALL.iter().for_each(|refusal| {
        metrics.turned_away(*refusal);
        QueueName::ALL.iter().for_each(|queue| metrics.refused(*queue, *refusal));
    });
    for result in HandshakeResult::ALL {
        for version in HandshakeVersion::ALL {
            for resumption in Resumption::ALL {
                let outcome = HandshakeOutcome {
                    result: *result,
                    version: *version,
                    resumption: *resumption,
                };
                metrics.handshake(outcome, Duration::ZERO);
            }
        }
    }
    (100..600).for_each(|code| metrics.request_without_site(code, Duration::ZERO));
    metrics.sites_tick(Duration::from_secs(10), &[]);
    let text = metrics.render(&full_input());
    let series = count_series(&text);
    assert!(series <= SERIES_MAX, "{series} series");
    // The sites that came onto a full board left their past in the rest as well.
    assert!(sum_of_requests(&text) >= 50_000 * 12 + 500);
}

#[test]
fn the_rest_never_falls_while_sites_come_and_go() {
    let metrics = Metrics::new(1);
    let sites = metrics.sites_reconcile(&names(SITES_MAX * 2));
    let (input, others) =
        (ScrapeInput::default(), "sluss_requests_total{site=\"(others)\",code=\"200\"}");
    let mut last = 0;
    let mut random = 7_u64;
    for round in 0..30 {
        for _ in 0..2_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let window = (round * 17) % SITES_MAX;
            let at = window + (random >> 33) as usize % SITES_MAX;
            sites[at].request(200, Duration::from_millis(1));
        }
        metrics.sites_tick(Duration::from_secs(10), &[]);
        let now = value(&metrics.render(&input), others).unwrap_or(0);
        assert!(now >= last, "{now} after {last} in round {round}");
        last = now;
    }
    assert!(last > 0);
}

#[test]
fn a_notable_site_is_shown_among_busier_ones() {
    let metrics = Metrics::new(1);
    let ids = names(SITES_MAX + 50);
    let sites = metrics.sites_reconcile(&ids);
    for (at, site) in sites.iter().enumerate() {
        (0..=at.min(40)).for_each(|_| site.request(200, Duration::from_millis(1)));
    }
    metrics.sites_tick(Duration::from_secs(10), &ids[..1]);
    let text = metrics.render(&ScrapeInput::default());
    assert!(text.contains("site=\"site-00000\""));
    assert!(!text.contains("site=\"site-00001\""));
}

#[test]
fn a_tick_gives_rates_and_percentiles_of_its_window() {
    let metrics = Metrics::new(1);
    let site = metrics.sites_reconcile(&names(1)).remove(0);
    (0..100).for_each(|_| site.request(200, Duration::from_millis(20)));
    metrics.sites_tick(Duration::from_secs(10), &[]);
    let summary = site.summary();
    assert_eq!((summary.requests, summary.requests_per_second), (100, 10.0));
    assert!((10.0..=25.0).contains(&summary.p50_ms.unwrap()), "{summary:?}");
    metrics.sites_tick(Duration::from_secs(10), &[]);
    assert_eq!(site.summary().requests_per_second, 0.0);
}

#[test]
fn the_documentation_lists_every_metric() {
    let text = Metrics::new(1).render(&ScrapeInput::default());
    let page = include_str!("../../docs/metrics.md");
    let declared: HashSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for name in &declared {
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
    }
}
