//! Each alarm raised by its real cause within ten seconds, and over once the cause is gone.
//!
//! What takes a crowd - full queues, the kernel's among them - is in `incidents.rs`; a site whose
//! server ends, in `failover.rs`.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluss::alarms::Alarm;

use crate::support::{Edge, Origin, Setup, eventually, get, wait_for};

/// Within this a cause is told, and its end, once the alarm's own hold is over.
const PROMPTLY: Duration = Duration::from_secs(10);

/// It stands within ten seconds, and log, API, health and command tell.
#[track_caller]
pub fn raised(edge: &Edge, alarm: &str) {
    let begun = Instant::now();
    eventually(alarm, || edge.alarms(alarm) >= 1.0);
    assert!(begun.elapsed() < PROMPTLY, "{alarm} after {:?}", begun.elapsed());
    let standing = standing(edge, alarm);
    for key in ["detail", "meaning", "remedy"] {
        assert!(standing[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {standing}");
    }
    let health = edge.admin("/healthz");
    assert!(health.status() == 200 && health.text().contains(alarm), "{}", health.text());
    let (code, text) = edge.command("status");
    assert!(code == 3 && text.contains(alarm), "{code}: {text}");
    logged(edge, "alarm raised", alarm);
}

/// The alarm in the status.
#[track_caller]
fn standing(edge: &Edge, alarm: &str) -> serde_json::Value {
    let status = edge.admin_json("/api/status");
    let all = status["alarms"].as_array().unwrap();
    all.iter().find(|one| one["alarm"] == alarm).expect("it is in the status").clone()
}

/// It is over within ten seconds behind its hold, and the log tells.
#[track_caller]
pub fn cleared(edge: &Edge, alarm: &str) {
    let begun = Instant::now();
    let kind = Alarm::ALL.iter().find(|kind| kind.label() == alarm).expect("its kind");
    while edge.alarms(alarm) > 0.0 {
        let so_far = begun.elapsed();
        assert!(so_far < kind.hold() + PROMPTLY, "{alarm} stands on for {so_far:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    logged(edge, "alarm cleared", alarm);
}

/// The program's own log, JSON here, has a line of it.
#[track_caller]
fn logged(edge: &Edge, message: &str, alarm: &str) {
    let is_it = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        line["message"] == message && line["alarm"] == alarm
    };
    eventually(message, || edge.told().lines().any(is_it));
}

fn site() -> Origin {
    Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
}

#[test]
fn a_broken_certificate_is_told_until_it_is_mended() {
    let edge = Edge::before(site().url());
    edge.write("certs/a.test/fullchain.pem", "-----BEGIN CERTIFICATE-----\nbroken\n");
    edge.command("reload");
    raised(&edge, "certificate-kept");
    let alarm = standing(&edge, "certificate-kept");
    assert_eq!(alarm["site"], "a.test");
    let detail = alarm["detail"].as_str().unwrap();
    assert!(detail.contains("certs/a.test/fullchain.pem:1: is cut"), "file and reason: {detail}");
    edge.issue("a.test");
    assert_eq!(edge.command("reload").0, 0);
    cleared(&edge, "certificate-kept");
}

#[test]
fn a_certificate_is_told_before_its_end_and_after() {
    let edge = Edge::before(site().url());
    for (days, alarm, urgency) in
        [(20, "certificate-expiring", "warning"), (5, "certificate-ends-soon", "critical")]
    {
        edge.issue_until("a.test", days);
        assert_eq!(edge.command("reload").0, 0);
        raised(&edge, alarm);
        let standing = standing(&edge, alarm);
        assert_eq!((&standing["site"], &standing["urgency"]), (&"a.test".into(), &urgency.into()));
    }
    cleared(&edge, "certificate-expiring");
    // In the place of a valid one it would be kept out.
    std::fs::remove_dir_all(edge.folder().join("certs/a.test")).unwrap();
    assert_eq!(edge.command("reload").0, 0);
    edge.issue_until("a.test", -1);
    assert_eq!(edge.command("reload").0, 0, "a browser's warning beats a dead connection");
    raised(&edge, "certificate-expired");
    cleared(&edge, "certificate-ends-soon");
    edge.issue("a.test");
    assert_eq!(edge.command("reload").0, 0);
    cleared(&edge, "certificate-expired");
}

#[test]
fn a_refused_reload_is_told_until_one_succeeds() {
    let mut edge = Edge::before(site().url());
    edge.set("queues.request_depth", r#""many""#);
    assert_eq!(edge.command("reload").0, 1);
    raised(&edge, "reload-refused");
    edge.set("queues.request_depth", "100");
    assert_eq!(edge.command("reload").0, 0);
    cleared(&edge, "reload-refused");
}

#[test]
fn a_reload_that_left_a_site_as_it_was_is_told_until_it_is_mended() {
    let origin = site();
    let edge = Edge::before(origin.url());
    edge.write("sites/a.test.toml", "hosts = [\"a.test\"\n");
    assert_eq!(edge.command("reload").0, 3);
    raised(&edge, "reload-partly");
    let alarm = standing(&edge, "reload-partly");
    assert_eq!(alarm["site"], "a.test");
    let detail = alarm["detail"].as_str().unwrap();
    assert!(detail.contains("sites/a.test.toml"), "file and reason: {detail}");
    edge.site("a.test", origin.url(), "");
    assert_eq!(edge.command("reload").0, 0);
    cleared(&edge, "reload-partly");
}

#[test]
fn queues_that_were_sized_on_another_machine_are_told() {
    let edge = Edge::before(site().url());
    edge.write("queues.toml", "[machine]\ncores = 4099\n");
    assert_eq!(edge.command("reload").0, 0);
    raised(&edge, "machine-differs");
    let cores = std::thread::available_parallelism().unwrap();
    edge.write("queues.toml", &format!("[machine]\ncores = {cores}\n"));
    assert_eq!(edge.command("reload").0, 0);
    cleared(&edge, "machine-differs");
}

/// A server that is stopped still accepts: its silence alone tells.
#[test]
fn a_server_that_is_stopped_is_told_until_it_goes_on() {
    // Another edge is the site's server: its plain listener answers with a redirect.
    let server = Edge::before(site().url());
    let edge = Setup::default()
        .set("timeouts.response", r#""300ms""#)
        .site("a.test", format!("http://{}", server.http[0]))
        .start();
    assert_eq!(edge.get("a.test", "/").status(), 308);
    server.signal(Signal::STOP);
    for _ in 0..3 {
        assert_eq!(edge.get("a.test", "/").status(), 504);
    }
    raised(&edge, "upstreams-down");
    let (_, text) = edge.command("status");
    let endpoint = format!("http://{} of a.test: failing; ", server.http[0]);
    assert!(text.contains(&endpoint), "status names it: {text}");
    let status = edge.admin_json("/api/status");
    assert_eq!(status["failing_endpoints"][0]["site"], "a.test");
    assert!(edge.tells_down("a.test"), "figures, rows and commands agree with the alarm");
    assert!(text.contains("0 up, 1 down"), "status counts it: {text}");
    server.signal(Signal::CONT);
    eventually("the server's return", || edge.get("a.test", "/").status() == 308);
    cleared(&edge, "upstreams-down");
    assert_eq!(edge.metric("sluss_upstream_endpoints", &["state=\"down\""]), 0.0);
    let troubled = edge.admin_json("/api/sites?troubled=1");
    assert_eq!(troubled["total"], 0, "{troubled}");
    // Whoever reads the log at night sees whose it is.
    let told = edge.told();
    let lines = told.lines().filter_map(|line| serde_json::from_str(line).ok());
    let lines: Vec<serde_json::Value> = lines.collect();
    for event in ["the last endpoint fails", "endpoint answers again", "alarm raised"] {
        let line = lines.iter().find(|line| line["message"] == event).expect(event);
        assert_eq!(line["site"], "a.test", "{line}");
    }
}

/// Nobody fails meanwhile, and no queue is full: three visitors wait within the usual bounds in time.
#[test]
fn a_server_that_falls_silent_is_told_before_anything_fails() {
    let server = Edge::before(site().url());
    let usual = Setup::default().site("a.test", format!("http://{}", server.http[0]));
    let edge = usual.set("timeouts.connect", r#""2s""#).start();
    assert_eq!(edge.get("a.test", "/").status(), 308);
    server.signal(Signal::STOP);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let mut client = edge.connect("a.test");
            client.send(get("a.test", "/slow"));
            client
        })
        .collect();
    raised(&edge, "queue-stalled");
    assert_eq!(standing(&edge, "queue-stalled")["site"], "a.test");
    // Whoever leaves was at that endpoint all the time: the log says so.
    drop(waiting);
    let line = edge.logged("a visitor who left", |line| line["url.path"] == "/slow");
    assert_eq!(line["http.response.status_code"], 499);
    assert!(line["sluss.endpoint"].as_str().unwrap().starts_with("http://"), "{line}");
    assert!(line["sluss.upstream.duration"].as_f64().unwrap() > 1.0, "{line}");
    server.signal(Signal::CONT);
    cleared(&edge, "queue-stalled");
}

/// Scarce resources and lost lines stand for a minute: all of them at one time.
#[test]
fn resources_near_their_bound_and_lost_log_lines_are_told() {
    std::thread::scope(|scope| {
        scope.spawn(connections_near_their_bound);
        scope.spawn(descriptors_near_their_bound);
        scope.spawn(a_full_log_device);
        scope.spawn(a_log_pipe_that_nobody_reads);
    });
}

fn connections_near_their_bound() {
    let origin = site();
    let bounded = Setup::default().set("runtime.max_connections", "10");
    let edge = bounded.site("a.test", origin.url()).start();
    let mut clients: Vec<_> = (0..8).map(|_| edge.connect("a.test")).collect();
    eventually("eight are open", || edge.metric("sluss_connections", &[]) == 8.0);
    assert_eq!(edge.alarms("connections"), 0.0);
    clients.push(edge.connect("a.test"));
    raised(&edge, "connections");
    assert_eq!(standing(&edge, "connections")["detail"], "9 of 10 connections in use");
    drop(clients);
    cleared(&edge, "connections");
}

fn descriptors_near_their_bound() {
    let edge = Edge::before(site().url());
    let open = || edge.metric("process_open_fds", &[]);
    let before = wait_for("the open descriptors", || Some(open()).filter(|count| *count > 0.0));
    edge.limit_descriptors(before as u64 + 40);
    let mut clients = Vec::new();
    // Whoever asks has descriptors of its own meanwhile, which the edge's next look may not find.
    while open() < 0.9 * (before + 40.0) + 2.0 {
        // Whole connections: nothing ends them early, however slow the machine.
        clients.push(edge.connect("a.test"));
        eventually("it is accepted", || {
            edge.metric("sluss_connections", &[]) >= clients.len() as f64
        });
    }
    raised(&edge, "descriptors");
    drop(clients);
    cleared(&edge, "descriptors");
}

fn a_full_log_device() {
    let edge = Setup::default();
    std::os::unix::fs::symlink("/dev/full", edge.folder().join("access.log")).unwrap();
    let origin = site();
    let edge = edge.site("a.test", origin.url()).start();
    assert_eq!(edge.get("a.test", "/").status(), 200, "serving goes on");
    raised(&edge, "access-log");
    assert!(edge.metric("sluss_access_log_lines_total", &["dropped"]) >= 1.0);
    std::fs::remove_file(edge.folder().join("access.log")).unwrap();
    edge.signal(Signal::HUP);
    edge.metric_becomes("sluss_snapshot_generation", &[], |generation| generation == 2.0);
    edge.get("a.test", "/again");
    edge.logged("a line after the mending", |line| line["url.path"] == "/again");
    cleared(&edge, "access-log");
}

fn a_log_pipe_that_nobody_reads() {
    let edge = Setup::default();
    let path = edge.folder().join("access.log");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    // Somebody holds the reading end and reads nothing.
    let mut held = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let origin = site();
    let edge = edge.site("a.test", origin.url()).start();
    let mut client = edge.connect("a.test");
    let long = format!("/{}", "a".repeat(4_000));
    eventually("lines are dropped", || {
        assert_eq!(client.ask(get("a.test", &long)).status(), 200, "serving goes on");
        edge.metric("sluss_access_log_lines_total", &["dropped"]) >= 1.0
    });
    raised(&edge, "access-log");
    std::thread::spawn(move || std::io::copy(&mut held, &mut std::io::sink()));
    cleared(&edge, "access-log");
}
