//! A report as a table for a terminal of 80 columns. Pure.

use std::fmt::Write as _;

use crate::load::outcome::{Outcome, Span};
use crate::load::report::{Quantiles, Report, TrafficReport};

/// The hosts shown; the JSON report has more.
const HOSTS_SHOWN_MAX: usize = 10;

/// The whole report as text, ending in a line end.
pub fn text(report: &Report) -> String {
    let mut out = format!("{}, {} s, seed {}\n", report.target, report.seconds, report.seed);
    for traffic in &report.traffics {
        out.push('\n');
        write_traffic(&mut out, traffic);
    }
    out
}

fn write_traffic(out: &mut String, traffic: &TrafficReport) {
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("{} ({}, {})", traffic.name, traffic.kind, traffic.arrivals));
    line(format!(
        "  offered {} ({:.1}/s), completed {:.1}/s",
        traffic.offered, traffic.offered_per_second, traffic.completed_per_second
    ));
    for outcome in Outcome::ALL {
        let count = traffic.count(outcome);
        if count > 0 {
            let share = count as f64 / traffic.offered as f64 * 100.0;
            line(format!("  {:<22} {count:>9}  {share:>6.2} %", outcome.title()));
        }
    }
    if !traffic.statuses.is_empty() {
        let statuses = traffic.statuses.iter().map(|(status, count)| format!("{status}: {count}"));
        line(format!("  status {}", statuses.collect::<Vec<_>>().join(", ")));
    }
    if traffic.resumed > 0 {
        line(format!("  resumed sessions {}", traffic.resumed));
    }
    if traffic.reconnects > 0 {
        line(format!("  connections made anew {}", traffic.reconnects));
    }
    write_spans(out, traffic);
    write_hosts(out, traffic);
    write_generator(out, traffic);
}

fn write_spans(out: &mut String, traffic: &TrafficReport) {
    if traffic.spans.is_empty() && traffic.refused.count == 0 {
        return;
    }
    let _ = writeln!(
        out,
        "  {:<12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}  ms",
        "completed", "mean", "p50", "p90", "p99", "p99.9", "max"
    );
    for span in Span::ALL {
        let quantiles = traffic.span(span);
        if quantiles.count > 0 {
            let _ = writeln!(out, "  {:<12}{}", span.name(), columns(&quantiles));
        }
    }
    if traffic.refused.count > 0 {
        let _ = writeln!(out, "  {:<12}{}", "refused", columns(&traffic.refused));
    }
    let all = &traffic.of_all;
    let shown = |value: Option<f64>| value.map_or("never".to_owned(), milliseconds);
    let _ = writeln!(
        out,
        "  {:<12}{:>9}{:>9}{:>9}{:>9}",
        "of all",
        "",
        shown(all.p50),
        shown(all.p90),
        shown(all.p99)
    );
}

fn columns(quantiles: &Quantiles) -> String {
    let Quantiles { mean, p50, p90, p99, p999, max, .. } = *quantiles;
    [mean, p50, p90, p99, p999, max].map(|value| format!("{:>9}", milliseconds(value))).concat()
}

/// Three digits that matter: no one reads the microseconds of a second.
pub(super) fn milliseconds(time: f64) -> String {
    match time {
        1000.0.. => format!("{time:.0}"),
        10.0.. => format!("{time:.1}"),
        _ => format!("{time:.2}"),
    }
}

fn write_hosts(out: &mut String, traffic: &TrafficReport) {
    let Some(fairness) = &traffic.fairness else { return };
    let _ = writeln!(
        out,
        "  fairness (Jain) {:.3} of what max-min gives, {:.3} of what was asked",
        fairness.max_min, fairness.served_ratio
    );
    for host in traffic.hosts.iter().take(HOSTS_SHOWN_MAX) {
        let completed = host.outcomes.get(Outcome::Completed.name()).copied().unwrap_or(0);
        let p99 = host.p99.map_or("-".to_owned(), milliseconds);
        let _ = writeln!(
            out,
            "  {:<36} {:>8} offered {:>6.1} %  p99 {p99:>8}",
            host.host,
            host.offered,
            completed as f64 / host.offered as f64 * 100.0
        );
    }
    if let Some(more) = traffic.hosts.len().checked_sub(HOSTS_SHOWN_MAX + 1) {
        let _ = writeln!(out, "  and {} hosts more", more + 1);
    }
}

fn write_generator(out: &mut String, traffic: &TrafficReport) {
    let generator = &traffic.generator;
    let starved = generator
        .thread_starved
        .map_or(String::new(), |share| format!(", {:.0} % without a CPU", share * 100.0));
    let _ = writeln!(
        out,
        "  generator: p99 {} ms late, busiest thread {:.0} % busy{starved}",
        milliseconds(generator.lateness.p99),
        generator.thread_cpu * 100.0
    );
    for reason in &generator.behind {
        let _ = writeln!(out, "  NOT TO BE TRUSTED: {reason}");
    }
    for (note, count) in &traffic.notes {
        let _ = writeln!(out, "  {count} × {note}");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::report::{Fairness, HostReport, Point};

    /// A report with one of everything.
    pub(crate) fn report() -> Report {
        let mut traffic: TrafficReport = serde_json::from_str(
            r#"{"name":"visitors","kind":"handshakes","arrivals":"poisson 100/s","offered":1000,
                "offered_per_second":100.0,"completed_per_second":80.0,
                "outcomes":{"completed":800,"refused_reset":200},"statuses":{},
                "spans":{"total":{"count":800,"mean":3.0,"min":1.0,"p50":2.5,"p90":5.0,"p95":6.0,
                                  "p99":12.34,"p999":1234.5,"max":1300.0}},
                "refused":{"count":200,"mean":1.0,"min":1.0,"p50":1.0,"p90":1.0,"p95":1.0,
                           "p99":2.5,"p999":2.5,"max":77.7},
                "of_all":{"p50":2.9,"p90":null,"p99":null},"resumed":0,"bytes":0,"reconnects":0,
                "fairness":null,"hosts":[],"series":[],"curves":{},
                "generator":{"lateness":{"count":1,"mean":0,"min":0,"p50":0,"p90":0,"p95":0,
                    "p99":0.11,"p999":0,"max":0},"thread_cpu":0.5,"thread_starved":null,
                    "behind":["too slow"]},
                "notes":{"TLS: odd":3}}"#,
        )
        .unwrap();
        traffic.fairness = Some(Fairness { served_ratio: 0.9, max_min: 1.0 });
        let host = HostReport {
            host: "a.example".into(),
            offered: 50,
            outcomes: [("completed".to_owned(), 25)].into(),
            p50: None,
            p99: Some(9.0),
        };
        traffic.hosts = vec![host; 12];
        traffic.series = Vec::<Point>::new();
        Report {
            version: "0".into(),
            began: "now".into(),
            target: "https://a.example".into(),
            seconds: 10.0,
            seed: 1,
            slot_seconds: 0.1,
            generator_cpu_seconds: 1.0,
            traffics: vec![traffic],
        }
    }

    #[test]
    fn a_table_fits_a_terminal_and_hides_nothing_that_matters() {
        let text = text(&report());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
        for part in [
            "refused by reset             200   20.00 %",
            "12.3     1234     1300",
            "2.50     77.7",
            "never",
            "NOT TO BE TRUSTED: too slow",
            "3 × TLS: odd",
            "and 2 hosts more",
            "50.0 %  p99     9.00",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
