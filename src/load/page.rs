//! A report as one page that needs nothing from outside: text, tables and SVG figures. Pure.

use std::fmt::Write as _;

use crate::load::outcome::{Outcome, Span};
use crate::load::plot::{Axis, Colour, Curve, Draw, Scale, figure};
use crate::load::report::{HostReport, Point, Report, TrafficReport};
use crate::load::table::milliseconds;

const STYLE: &str = include_str!("page/style.css");
/// Hosts shown; the JSON report has more.
const HOSTS_SHOWN_MAX: usize = 50;

const SECONDS: Axis = Axis { scale: Scale::Linear, label: "seconds" };
const PER_SECOND: Axis = Axis { scale: Scale::Linear, label: "per second" };
const MILLISECONDS: Axis = Axis { scale: Scale::Log, label: "ms" };
const FRACTION: Axis = Axis { scale: Scale::Nines, label: "of the completed work" };

/// The whole page.
pub fn html(report: &Report) -> String {
    let mut out = format!(
        "<h1>sluss load</h1><p>{}</p><p class=\"quiet\">{} · {} s · seed {} · sluss {} · the \
         generator used {:.1} s of CPU time</p>",
        escape(&report.target),
        escape(&report.began),
        report.seconds,
        report.seed,
        escape(&report.version),
        report.generator_cpu_seconds
    );
    for traffic in &report.traffics {
        write_traffic(&mut out, traffic, report.slot_seconds);
    }
    whole("sluss load", &out)
}

/// A page of ours around what is in it: it has its style within and lets nothing in from outside.
pub fn whole(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\"><title>{title}</title><style>{STYLE}</style></head><body>\
         {body}</body></html>\n"
    )
}

/// A table that can be scrolled on a narrow screen.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> =
            cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{}</tr>", cells.concat())
    };
    let head = cells("th", &mut heads.iter().copied());
    let rows = rows.iter().map(|row| cells("td", &mut row.iter().map(String::as_str)));
    let rows: Vec<String> = rows.collect();
    format!("<div class=\"table\"><table>{head}{}</table></div>", rows.concat())
}

fn write_traffic(out: &mut String, traffic: &TrafficReport, slot_seconds: f64) {
    let _ = write!(
        out,
        "<h2>{}</h2><p class=\"quiet\">{}, {}</p>",
        escape(&traffic.name),
        escape(&traffic.kind),
        escape(&traffic.arrivals)
    );
    for reason in &traffic.generator.behind {
        let _ = write!(out, "<p class=\"behind\">Not to be trusted: {}</p>", escape(reason));
    }
    write_tiles(out, traffic);
    let _ = write!(out, "<div class=\"plots\">{}</div>", figures(traffic, slot_seconds));
    write_spans(out, traffic);
    write_hosts(out, traffic);
    for (note, count) in &traffic.notes {
        let _ = write!(out, "<p class=\"quiet\">{count} × {}</p>", escape(note));
    }
}

fn write_tiles(out: &mut String, traffic: &TrafficReport) {
    out.push_str("<dl class=\"tiles\">");
    let mut tile = |name: &str, value: String| {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    tile("offered", format!("{:.1}/s", traffic.offered_per_second));
    tile("completed", format!("{:.1}/s", traffic.completed_per_second));
    for outcome in Outcome::ALL {
        let count = traffic.count(outcome);
        if count > 0 && outcome != Outcome::Completed {
            tile(outcome.title(), count.to_string());
        }
    }
    if traffic.resumed > 0 {
        tile("resumed sessions", traffic.resumed.to_string());
    }
    if let Some(fairness) = &traffic.fairness {
        tile("fairness (Jain, max-min)", format!("{:.3}", fairness.max_min));
    }
    tile("generator p99 lateness", format!("{} ms", milliseconds(traffic.generator.lateness.p99)));
    out.push_str("</dl>");
}

/// The four figures of a traffic.
fn figures(traffic: &TrafficReport, slot_seconds: f64) -> String {
    let over_time = |name, colour, value: &dyn Fn(&Point) -> Option<f64>| Curve {
        name,
        colour,
        points: traffic.series.iter().map(|point| (point.at, value(point))).collect(),
    };
    let rate = |count: u64| Some(count as f64 / slot_seconds);
    let percentiles = |name, colour, span: Span| Curve {
        name,
        colour,
        points: traffic
            .curves
            .get(span.name())
            .into_iter()
            .flatten()
            .map(|(fraction, time)| (*fraction, Some(*time)))
            .collect(),
    };
    [
        figure(
            "Latency from when work was due",
            (SECONDS, MILLISECONDS),
            Draw::Lines,
            &[
                over_time("p50", Colour::Blue, &|point| point.p50),
                over_time("p99", Colour::Orange, &|point| point.p99),
            ],
        ),
        figure(
            "Latency by percentile",
            (FRACTION, MILLISECONDS),
            Draw::Lines,
            &[
                percentiles("open loop", Colour::Blue, Span::Total),
                percentiles("as a closed loop would tell it", Colour::Orange, Span::ClosedLoop),
            ],
        ),
        figure(
            "Outcomes",
            (SECONDS, PER_SECOND),
            Draw::Stack,
            &[
                over_time("done", Colour::Green, &|point| rate(point.done)),
                over_time("refused", Colour::Blue, &|point| rate(point.refused)),
                over_time("timed out", Colour::Orange, &|point| rate(point.timed_out)),
                over_time("failed", Colour::Red, &|point| rate(point.failed)),
            ],
        ),
        figure(
            "Offered and achieved",
            (SECONDS, PER_SECOND),
            Draw::Lines,
            &[
                over_time("offered", Colour::Orange, &|point| rate(point.offered)),
                over_time("done", Colour::Green, &|point| rate(point.done)),
            ],
        ),
    ]
    .concat()
}

fn write_spans(out: &mut String, traffic: &TrafficReport) {
    if traffic.spans.is_empty() {
        return;
    }
    out.push_str(
        "<div class=\"table\"><table><tr><th>completed work, ms</th><th>mean</th><th>p50</th>\
         <th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>",
    );
    for span in Span::ALL {
        let quantiles = traffic.span(span);
        if quantiles.count == 0 {
            continue;
        }
        let _ = write!(out, "<tr><td>{}</td>", span.name().replace('_', " "));
        for value in [
            quantiles.mean,
            quantiles.p50,
            quantiles.p90,
            quantiles.p99,
            quantiles.p999,
            quantiles.max,
        ] {
            let _ = write!(out, "<td>{}</td>", milliseconds(value));
        }
        out.push_str("</tr>");
    }
    let all = &traffic.of_all;
    let cell = |value: Option<f64>| value.map_or("never".to_owned(), milliseconds);
    let _ = write!(
        out,
        "<tr><td>total, of all arrivals</td><td></td><td>{}</td><td>{}</td><td>{}</td><td></td>\
         <td></td></tr></table></div>",
        cell(all.p50),
        cell(all.p90),
        cell(all.p99)
    );
}

fn write_hosts(out: &mut String, traffic: &TrafficReport) {
    if traffic.hosts.is_empty() {
        return;
    }
    let cell = |value: Option<f64>| value.map_or(String::new(), milliseconds);
    let row = |host: &HostReport| {
        let completed = host.outcomes.get(Outcome::Completed.name()).copied().unwrap_or(0);
        let part = completed as f64 / host.offered as f64 * 100.0;
        let (name, offered) = (host.host.clone(), host.offered.to_string());
        vec![name, offered, format!("{part:.1} %"), cell(host.p50), cell(host.p99)]
    };
    let rows: Vec<Vec<String>> = traffic.hosts.iter().take(HOSTS_SHOWN_MAX).map(row).collect();
    out.push_str(&table(&["host", "offered", "completed", "p50, ms", "p99, ms"], &rows));
}

/// Text between tags or in quotes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::table::tests::report;

    #[test]
    fn the_page_is_whole_and_loads_nothing_from_outside() {
        let mut report = report();
        report.target = "https://<script>alert(1)</script>".into();
        let page = html(&report);
        for outside in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for part in [
            "Not to be trusted: too slow",
            "refused by reset",
            "&lt;script&gt;",
            "a.example",
            "never",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<figure>").count(), 4);
        for tag in ["div", "table", "figure", "svg", "tr", "dl", "p", "figcaption"] {
            let open = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert!(!page.contains("NaN"));
    }
}
