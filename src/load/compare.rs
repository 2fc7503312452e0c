//! Two reports side by side. Pure.
//!
//! Traffics are paired by name. A change is worth a look where it is larger than what two runs of
//! the same plan differ by; that is for whoever reads it to know, so everything is shown.

use std::fmt::Write as _;

use crate::load::outcome::{Outcome, Span};
use crate::load::report::{Report, TrafficReport};

/// What changed from `before` to `after`, as a table.
pub fn text(before: &Report, after: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "A  {}  {}\nB  {}  {}",
        before.began, before.target, after.began, after.target
    );
    for traffic in &after.traffics {
        let old = before.traffics.iter().find(|old| old.name == traffic.name);
        match old {
            Some(old) => write_traffic(&mut out, old, traffic),
            None => {
                let _ = writeln!(out, "\n{}: only in B", traffic.name);
            }
        }
    }
    for old in &before.traffics {
        if after.traffics.iter().all(|traffic| traffic.name != old.name) {
            let _ = writeln!(out, "\n{}: only in A", old.name);
        }
    }
    out
}

fn write_traffic(out: &mut String, old: &TrafficReport, new: &TrafficReport) {
    let _ = writeln!(out, "\n{:<32}{:>13}{:>13}{:>10}", new.name, "A", "B", "change");
    row(out, "offered/s", old.offered_per_second, new.offered_per_second);
    row(out, "completed/s", old.completed_per_second, new.completed_per_second);
    for outcome in Outcome::ALL {
        let share = |traffic: &TrafficReport| {
            traffic.count(outcome) as f64 / traffic.offered.max(1) as f64 * 100.0
        };
        let (a, b) = (share(old), share(new));
        if a > 0.0 || b > 0.0 {
            let _ =
                writeln!(out, "  {:<30}{a:>11.2} %{b:>11.2} %{:>+8.2} %", outcome.title(), b - a);
        }
    }
    for span in Span::ALL {
        let (a, b) = (old.span(span), new.span(span));
        if a.count > 0 && b.count > 0 {
            row(out, &format!("{} p50, ms", span.name()), a.p50, b.p50);
            row(out, &format!("{} p99, ms", span.name()), a.p99, b.p99);
        }
    }
    for (label, traffic) in [("A", old), ("B", new)] {
        for reason in &traffic.generator.behind {
            let _ = writeln!(out, "  {label} IS NOT TO BE TRUSTED: {reason}");
        }
    }
}

fn row(out: &mut String, name: &str, a: f64, b: f64) {
    let change = match a {
        0.0 => String::new(),
        _ => format!("{:+.1} %", (b / a - 1.0) * 100.0),
    };
    let _ = writeln!(out, "  {name:<30}{a:>13.3}{b:>13.3}{change:>10}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::table::tests::report;

    #[test]
    fn changes_are_shown_by_traffic() {
        let before = report();
        let mut after = report();
        after.traffics[0].completed_per_second = 100.0;
        after.traffics[0].outcomes = [("completed".to_owned(), 1000)].into();
        let mut more = after.traffics[0].clone();
        more.name = "flood".into();
        after.traffics.push(more);
        let text = text(&before, &after);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for part in ["+25.0 %", "+20.00 %", "-20.00 %", "flood: only in B", "total p99, ms"] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
