//! `sluss status`: one screen of state and alarms. Exit code 1 where the edge is not running, 3
//! where an alarm stands.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::client::EdgeArguments;
use super::table::{
    Colour, bytes, colours, count, counted, failed, milliseconds, paint, print, print_json,
};
use crate::admin::{FailingEndpoint, Health, LatencyRow, Phase, Status};
use crate::alarms::{Standing, Urgency, readable};

/// Exit code where an alarm stands.
const ALARMED: u8 = 3;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    edge: EdgeArguments,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let answer: anyhow::Result<(serde_json::Value, Status)> = (|| {
        let value: serde_json::Value = arguments.edge.find()?.json("/api/status")?;
        let status = serde_json::from_value(value.clone())?;
        Ok((value, status))
    })();
    let (value, status) = match answer {
        Ok(answer) => answer,
        Err(error) => return failed(&error),
    };
    if arguments.json {
        print_json(&value);
    } else {
        print(&text(&status, colours()));
    }
    match status.health {
        Health::Ok => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(ALARMED),
    }
}

/// The whole screen.
fn text(status: &Status, colours: bool) -> String {
    let mut out = String::new();
    head(&mut out, status, colours);
    for alarm in &status.alarms {
        write_alarm(&mut out, alarm, status.now_unix, colours);
    }
    if !status.alarms.is_empty() {
        out.push('\n');
    }
    traffic(&mut out, status);
    for queue in status.queues.iter().filter(|q| q.depth > 0 || q.site.is_none()) {
        let site = queue.site.as_deref().map_or(String::new(), |site| format!(" of {site}"));
        let oldest = match queue.depth {
            0 => String::new(),
            _ => format!(", the oldest for {}", milliseconds(queue.oldest_seconds * 1_000.0)),
        };
        let (name, depth, limit) = (&queue.queue, queue.depth, queue.limit);
        line(&mut out, "queue", &format!("{name}{site}: {depth} of {limit} wait{oldest}"));
    }
    for listener in &status.listeners {
        let (name, length, limit) = (&listener.listener, listener.length, listener.limit);
        line(&mut out, "kernel", &format!("{name}: {length} of {limit} wait to be accepted"));
    }
    line(
        &mut out,
        "endpoints",
        &format!("{} up, {} down", status.endpoints_up, status.endpoints_down),
    );
    for endpoint in &status.failing_endpoints {
        let FailingEndpoint { site, url, state, last_failure } = endpoint;
        let failure = last_failure.as_ref().map_or(String::new(), |why| format!("; {why}"));
        line(&mut out, "", &format!("{url} of {site}: {state}{failure}"));
    }
    refusals(&mut out, status);
    process(&mut out, status);
    out.push_str("\na second and percentiles: of the last ten seconds; in all: since the start\n");
    out
}

/// The most frequent now; where nothing is refused now, what was most often, for who comes later.
fn refusals(out: &mut String, status: &Status) {
    let mut now = status.refusals.iter().filter(|r| r.per_second > 0.0).take(5).peekable();
    if now.peek().is_none() {
        let most = status.refusals.iter().max_by_key(|refusal| refusal.total);
        let most = most.map_or(String::new(), |refusal| {
            let all: u64 = status.refusals.iter().map(|refusal| refusal.total).sum();
            format!("; {all} in all, most often {} ({})", refusal.reason, refusal.total)
        });
        line(out, "refused", &format!("nothing now{most}"));
    }
    for refusal in now {
        let (reason, rate) = (&refusal.reason, count(refusal.per_second));
        line(out, "refused", &format!("{rate}/s {reason}, {} in all", refusal.total));
    }
}

fn head(out: &mut String, status: &Status, colours: bool) {
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Draining => "draining",
    };
    let health = match status.health {
        Health::Ok => paint("well", Colour::Good, colours),
        Health::Degraded => paint(&counted(status.alarms.len(), "alarm"), Colour::Bad, colours),
    };
    let up = readable(span(status.now_unix, status.started_unix));
    let _ = writeln!(
        out,
        "sluss {}: {phase}, {health}; up {up}, generation {}, {}, {}\n",
        status.version,
        status.generation,
        counted(status.sites, "site"),
        counted(status.certificates, "certificate")
    );
}

/// An alarm in three lines: what, what it means, what to do.
fn write_alarm(out: &mut String, alarm: &Standing, now_unix: i64, colours: bool) {
    let (sign, colour) = match alarm.urgency {
        Urgency::Critical => ("CRITICAL", Colour::Bad),
        Urgency::Warning => ("WARNING", Colour::Warn),
    };
    let sign = paint(sign, colour, colours);
    let clean = |text: &str| paint(text, Colour::Plain, false);
    let subject = match alarm.subject.as_str() {
        "" => String::new(),
        subject => format!(" {}", clean(subject)),
    };
    let since = readable(span(now_unix, alarm.since_unix)) + &alarm.last_seen(now_unix);
    let detail = clean(&alarm.detail);
    let _ = writeln!(out, "{sign} {}{subject}, for {since}: {detail}", alarm.alarm);
    let _ = writeln!(out, "    visitors: {}", alarm.meaning);
    let _ = writeln!(out, "    what to do: {}", alarm.remedy);
}

fn traffic(out: &mut String, status: &Status) {
    let rate = |name: &str| count(status.rates.get(name).copied().unwrap_or(0.0));
    let open: u64 = status.connections.values().sum();
    let states: Vec<String> = status
        .connections
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(state, number)| format!("{number} {state}"))
        .collect();
    let states =
        if states.is_empty() { String::new() } else { format!(" ({})", states.join(", ")) };
    line(out, "connections", &format!("{open} open{states}, {}/s new", rate("accepted")));
    let latency = |what: &str| {
        let row = status.latencies.iter().find(|row| row.what == what);
        row.filter(|row| row.per_second > 0.0).map_or(String::new(), percentiles)
    };
    let requests = format!("{}/s, {}/s with 5xx", rate("requests"), rate("server_errors"));
    line(out, "requests", &format!("{requests}{}", latency("request")));
    let handshakes = format!(
        "{}/s, {}/s of them resumed, {}/s refused, {}/s failed",
        rate("handshakes_ok"),
        rate("handshakes_resumed"),
        rate("handshakes_refused"),
        rate("handshakes_failed")
    );
    line(out, "handshakes", &format!("{handshakes}{}", latency("handshake")));
}

fn percentiles(row: &LatencyRow) -> String {
    let [p50, p90, p99] = [row.p50_ms, row.p90_ms, row.p99_ms].map(milliseconds);
    format!("; p50 {p50}, p90 {p90}, p99 {p99}")
}

fn process(out: &mut String, status: &Status) {
    let process = &status.process;
    let memory = bytes(process.resident_bytes);
    let text = format!(
        "{memory}, {:.2} cores, {} of {} descriptors",
        process.cpu_cores, process.descriptors, process.descriptors_max
    );
    line(out, "process", &text);
    let log = &status.access_log;
    let failure = log.failure.as_ref().map_or(String::new(), |failure| format!("; {failure}"));
    line(out, "access log", &format!("{} lines, {} lost{failure}", log.written, log.dropped));
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:<12}{}", paint(text, Colour::Plain, false));
}

fn span(now_unix: i64, then_unix: i64) -> Duration {
    Duration::from_secs(now_unix.saturating_sub(then_unix).max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{QueueRow, RefusalRow};

    #[test]
    fn a_screen_tells_state_alarms_and_traffic() {
        let mut status = Status {
            version: "1.2.3".into(),
            phase: Phase::Serving,
            now_unix: 1_000,
            started_unix: 100,
            generation: 4,
            sites: 2,
            certificates: 3,
            ..Status::default()
        };
        status.rates.insert("requests".into(), 1_234.0);
        status.connections.insert("idle".into(), 7);
        let well = text(&status, false);
        assert!(well.starts_with(
            "sluss 1.2.3: serving, well; up 15 min, generation 4, 2 sites, 3 certificates\n"
        ));
        assert!(well.contains("connections 7 open (7 idle), 0/s new\n"), "{well}");
        assert!(well.contains("requests    1234/s, 0/s with 5xx\n"), "{well}");
        assert!(well.contains("refused     nothing now\n"), "{well}");
        status.health = Health::Degraded;
        status.alarms.push(Standing {
            alarm: "upstreams-down".into(),
            urgency: Urgency::Critical,
            subject: "shop".into(),
            site: Some("shop".into()),
            detail: "refused".into(),
            since_unix: 970,
            seen_unix: 1_000,
            meaning: "503".into(),
            remedy: "start it".into(),
        });
        status.endpoints_down = 1;
        status.failing_endpoints.push(FailingEndpoint {
            site: "shop".into(),
            url: "http://10.0.0.1".into(),
            state: "ejected".into(),
            last_failure: Some("refused".into()),
        });
        let degraded = text(&status, false);
        let endpoint = "            http://10.0.0.1 of shop: ejected; refused\n";
        assert!(degraded.contains(endpoint), "{degraded}");
        assert!(degraded.contains("serving, 1 alarm;"));
        let alarm = "CRITICAL upstreams-down shop, for 30 s: refused\n    visitors: 503\n    \
                     what to do: start it\n";
        assert!(degraded.contains(alarm), "{degraded}");
        assert!(text(&status, true).contains("\u{1b}[31mCRITICAL\u{1b}[0m"));
    }

    #[test]
    fn queues_and_refusals_say_what_is_now_and_what_was() {
        let queue = |depth| QueueRow {
            queue: "handshake".into(),
            site: None,
            depth,
            limit: 512,
            oldest_seconds: 0.2,
        };
        let refusal = |reason: &str, total, per_second| RefusalRow {
            reason: reason.into(),
            side: "edge".into(),
            total,
            per_second,
        };
        let mut status = Status { sites: 1, certificates: 1, ..Status::default() };
        status.queues = vec![queue(0)];
        status.refusals =
            vec![refusal("client-gone", 2, 0.0), refusal("handshake-queue-full", 7, 0.0)];
        let calm = text(&status, false);
        assert!(calm.contains("generation 0, 1 site, 1 certificate\n"), "{calm}");
        assert!(calm.contains("queue       handshake: 0 of 512 wait\n"), "{calm}");
        let before = "refused     nothing now; 9 in all, most often handshake-queue-full (7)\n";
        assert!(calm.contains(before), "{calm}");
        status.queues = vec![queue(3)];
        status.refusals[0].per_second = 0.5;
        let busy = text(&status, false);
        assert!(busy.contains(" 3 of 512 wait, the oldest for 200 ms\n"), "{busy}");
        assert!(busy.contains("refused     0.50/s client-gone, 2 in all\n"), "{busy}");
        assert!(!busy.contains("nothing now"), "{busy}");
    }
}
