//! Lines, escapes, and a log that never makes anybody wait.

use std::fs;
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use super::*;
use crate::refusal::Refusal;
use crate::screen::ClientText;

static CLIENT: LazyLock<ClientText> =
    LazyLock::new(|| ClientText::new([203, 0, 113, 9].into(), 443, "https"));

fn record() -> AccessRecord<'static> {
    AccessRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_794_000_000_123),
        site: "shop",
        host: "shop.example",
        client: &CLIENT,
        client_port: 50_123,
        method: "GET",
        path: "/a/b?q=1",
        start_line: "",
        protocol: "1.1",
        status: 200,
        bytes_in: 0,
        bytes_out: 1_234,
        queue: Duration::ZERO,
        upstream: Duration::from_micros(1_500),
        total: Duration::from_micros(2_000_001),
        tls_version: "1.3",
        resumed: false,
        refusal: None,
        request_id: "0a1b",
        endpoint: "http://127.0.0.1:8001",
        user_agent: b"curl/8",
        referer: b"",
    }
}

fn line(record: &AccessRecord<'_>, format: Format) -> String {
    let mut out = Vec::new();
    record.write(format, &mut Clock::default(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_text_line_reads_as_nginx_s_with_more_behind_it() {
    assert_eq!(
        line(&record(), Format::Text),
        "203.0.113.9 - - [06/Nov/2026:21:20:00 +0000] \"GET /a/b?q=1 HTTP/1.1\" 200 1234 \"-\" \
         \"curl/8\" site=shop host=shop.example in=0 queue=0.000000 upstream=0.001500 \
         total=2.000001 tls=1.3 resumed=0 refused=- id=0a1b endpoint=http://127.0.0.1:8001\n"
    );
}

#[test]
fn a_json_line_has_opentelemetry_s_names() {
    let refused = AccessRecord {
        refusal: Some(Refusal::RequestQueueFull),
        status: 503,
        endpoint: "",
        resumed: true,
        client: &ClientText::new("::ffff:192.0.2.1".parse().unwrap(), 443, "https"),
        ..record()
    };
    let value: serde_json::Value = serde_json::from_str(&line(&refused, Format::Json)).unwrap();
    let expected = serde_json::json!({
        "timestamp": "2026-11-06T21:20:00.123Z",
        "client.address": "192.0.2.1",
        "client.port": 50_123,
        "http.request.method": "GET",
        "url.scheme": "https",
        "server.address": "shop.example",
        "url.path": "/a/b",
        "url.query": "q=1",
        "network.protocol.version": "1.1",
        "http.response.status_code": 503,
        "http.request.body.size": 0,
        "http.response.body.size": 1_234,
        "http.server.request.duration": 2.000001,
        "sluss.queue.duration": 0.0,
        "sluss.upstream.duration": 0.0015,
        "tls.protocol.version": "1.3",
        "tls.resumed": true,
        "sluss.site": "shop",
        "error.type": "request-queue-full",
        "sluss.request.id": "0a1b",
        "user_agent.original": "curl/8",
    });
    assert_eq!(value, expected);
}

#[test]
fn no_client_can_forge_a_line_or_a_field() {
    let hostile = "a\" 200 9 \"-\"\r\n10.0.0.1 - - \\ \u{1b}[2J \u{9b}2J \u{2028} é";
    let all = AccessRecord {
        method: hostile,
        path: hostile,
        host: hostile,
        endpoint: hostile,
        protocol: "1.1",
        user_agent: b"\xff\x00\x9b\"\n\\",
        referer: hostile.as_bytes(),
        ..record()
    };
    let text = line(&all, Format::Text);
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.trim_end().bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text:?}");
    assert_eq!(text.matches('"').count(), 6, "{text}");
    assert_eq!(text.split(' ').filter(|word| word.starts_with("refused=")).count(), 1);
    let json = line(&all, Format::Json);
    assert_eq!(json.matches('\n').count(), 1);
    assert!(!json.trim_end().chars().any(char::is_control), "{json:?}");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["http.request.method"], hostile);
    assert_eq!(value["user_agent.original"], "\u{fffd}\0\u{fffd}\"\n\\");
}

#[test]
fn numbers_and_times_have_all_their_digits() {
    for (bytes, micros) in [
        (0, 0),
        (9, 1),
        (10, 10),
        (99, 101),
        (100, 999_999),
        (12_345, 1_000_000),
        (u64::MAX, 61_002_003),
    ] {
        let total = Duration::from_micros(micros);
        let text = line(&AccessRecord { bytes_out: bytes, total, ..record() }, Format::Json);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["http.response.body.size"], bytes);
        let seconds = format!("\"http.server.request.duration\":{:.6},", total.as_secs_f64());
        assert!(text.contains(&seconds), "{seconds} {text}");
    }
}

#[test]
fn a_text_is_clean_only_where_each_byte_is() {
    for length in 1..70 {
        for at in 0..length {
            let mut agent = vec![b'a'; length];
            agent[at] = b'"';
            let text = line(&AccessRecord { user_agent: &agent, ..record() }, Format::Json);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["user_agent.original"], std::str::from_utf8(&agent).unwrap());
        }
    }
}

#[test]
fn a_log_in_the_place_of_another_counts_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| Target::File(folder.path().join(name));
    let first = AccessLog::new(Format::Text, file("a"), 1).unwrap();
    first.log(&record());
    wait_until("a line", || first.state().written == 1);
    let second = first.replacement(Format::Json, file("b"), 1).unwrap();
    first.log(&record());
    second.log(&record());
    drop(first);
    wait_until("all three", || second.state().written == 3);
    let off = second.replacement(Format::Json, Target::Off, 1).unwrap();
    assert_eq!(off.state().written, 3);
}

#[test]
fn a_head_that_was_not_understood_is_logged_as_it_began() {
    let odd =
        AccessRecord { method: "", path: "", start_line: "GET /a?[3 bytes redacted]", ..record() };
    assert!(line(&odd, Format::Text).contains(r#"] "GET /a?[3 bytes redacted]" 200 "#));
    let nothing = AccessRecord { start_line: "", ..odd };
    assert!(line(&nothing, Format::Text).contains(r#"] "-" 200 "#));
    let value: serde_json::Value = serde_json::from_str(&line(&odd, Format::Json)).unwrap();
    assert_eq!(value["sluss.start_line"], "GET /a?[3 bytes redacted]");
}

#[test]
fn the_longest_line_is_within_its_bound() {
    let long = "\u{1}".repeat(100_000);
    let all = AccessRecord {
        method: &long,
        path: &long,
        host: &long,
        request_id: &"i".repeat(128),
        protocol: "1.1",
        user_agent: long.as_bytes(),
        referer: long.as_bytes(),
        endpoint: &long,
        site: &"s".repeat(253),
        ..record()
    };
    for format in [Format::Text, Format::Json] {
        let line = line(&all, format);
        assert!(line.len() <= record::LINE_BYTES_MAX, "{}", line.len());
        assert!(line.contains("..."));
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn lines_of_all_threads_arrive_whole_and_a_rename_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let log = AccessLog::new(Format::Text, Target::File(path.clone()), 4).unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let log = &log;
            scope.spawn(move || {
                shards::register_thread(number);
                for _ in 0..500 {
                    log.log(&record());
                }
            });
        }
    });
    wait_until("2,000 lines", || log.state().written == 2_000);
    fs::rename(&path, &old).unwrap();
    log.log(&record());
    log.reopen();
    wait_until("the new file", || path.exists());
    log.log(&record());
    drop(log);
    let lines = |path| {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.lines().all(|l| l.starts_with("203.0.113.9") && l.ends_with(":8001")));
        text.lines().count()
    };
    assert_eq!((lines(&old), lines(&path)), (2_001, 1));
}

#[test]
fn a_line_is_written_whether_the_writer_rests_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::File(folder.path().join("access.log"));
    let log = AccessLog::new(Format::Text, target, 1).unwrap();
    let shared = log.shared.clone().unwrap();
    for count in 1..=12 {
        log.log(&record());
        wait_until("the line", || log.state().written == count);
        if count % 2 == 0 {
            wait_until("the writer's rest", || !shared.pending.load(Relaxed));
        }
    }
}

#[test]
fn a_stalled_pipe_costs_lines_but_never_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    // Opened for reading and writing, so that opening waits for nobody; nobody reads.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let log = AccessLog::new(Format::Text, Target::File(path), 1).unwrap();
    let began = Instant::now();
    for _ in 0..50_000 {
        log.log(&record());
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(log.state().dropped > 10_000, "{:?}", log.state());
    wait_until("the stall is told", || log.state().failure.is_some());
    log.close(Duration::from_millis(10));
    drop(reader);
}

#[test]
fn a_full_disk_costs_lines_and_says_so() {
    let log = AccessLog::new(Format::Json, Target::File("/dev/full".into()), 1).unwrap();
    log.log(&record());
    wait_until("the failure is told", || log.state().failure.is_some());
    let state = log.state();
    assert_eq!((state.written, state.dropped, state.errors), (0, 1, 1));
    assert!(state.failure.unwrap().contains("/dev/full"));
}

#[test]
fn a_log_that_is_off_costs_nothing_and_a_bad_path_is_an_error() {
    let log = AccessLog::new(Format::Text, Target::Off, 1).unwrap();
    log.log(&record());
    assert_eq!(log.state(), AccessLogState::default());
    let missing = Target::File("/nonexistent/folder/access.log".into());
    assert!(AccessLog::new(Format::Text, missing, 1).is_err());
}

#[test]
fn a_pipe_that_nobody_reads_is_an_error_and_no_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(AccessLog::new(Format::Text, Target::File(path), 1).is_err());
}
