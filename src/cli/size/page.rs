//! The report of `sluss size --html`: figures, arithmetic and proof as one page. Pure.

use std::time::Duration;

use super::proof::Proof;
use super::prove::Row;
use crate::load::page::{escape, table, whole};
use crate::load::plot::{Axis, Colour, Curve, Draw, Scale, figure};
use crate::sizing::{Machine, Sizing};

const TIMES: Axis = Axis { scale: Scale::Linear, label: "new visitors, times the capacity" };
const MILLISECONDS: Axis = Axis { scale: Scale::Log, label: "ms" };
const PER_SECOND: Axis = Axis { scale: Scale::Linear, label: "per second" };
const VISITORS: Axis = Axis { scale: Scale::Linear, label: "visitors" };

/// What was found out.
pub struct Findings<'f> {
    /// Where.
    pub machine: &'f Machine,
    /// The figures.
    pub sizing: &'f Sizing,
    /// What was shown.
    pub proof: &'f Proof,
    /// Every bound that does not hold.
    pub broken: &'f [String],
}

/// The whole page.
pub fn html(findings: &Findings<'_>) -> String {
    let Findings { machine, proof, .. } = findings;
    let promise = &proof.promise;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let cores = machine.cores.map_or(String::new(), |cores| cores.to_string());
    let mut body = format!(
        "<h1>sluss size</h1><p class=\"quiet\">{} · {cores} cores · {} · sluss {} · {}</p>",
        escape(&text(&machine.measured)),
        escape(&text(&machine.cpu)),
        escape(&text(&machine.version)),
        escape(&text(&machine.key_types))
    );
    for broken in findings.broken {
        body += &format!("<p class=\"behind\">Does not hold: {}</p>", escape(broken));
    }
    body += &format!(
        "<h2>Proof</h2><p>New visitors with {} handshakes, {:.0} a second being the capacity, \
         beside {:.0} requests a second of established ones.</p><div class=\"plots\">{}</div>\
         <p>{}</p>",
        promise.key,
        promise.per_second,
        promise.established_per_second,
        plots(proof),
        escape(&proof.told())
    );
    for (title, rows) in [("Before", &proof.before), ("With the new figures", &proof.after)] {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(promise).into()).collect();
        body += &format!("<h2>{title}</h2>{}", table(&Row::HEADS, &cells));
    }
    body += &format!("<h2>Figures</h2><pre>{}</pre>", escape(&findings.sizing.explain()));
    whole("sluss size", &body)
}

fn plots(proof: &Proof) -> String {
    let Proof { promise, before, after, .. } = proof;
    let over = |name, colour, rows: &[Row], value: &dyn Fn(&Row) -> Option<f64>| Curve {
        name,
        colour,
        points: rows.iter().map(|row| (row.factor, value(row))).collect(),
    };
    let both = |value: &dyn Fn(&Row) -> Option<f64>| {
        vec![
            over("before", Colour::Orange, before, value),
            over("with the new figures", Colour::Green, after, value),
        ]
    };
    let bound = |name, limit: Duration| {
        over(name, Colour::Red, after, &|_| Some(limit.as_secs_f64() * 1_000.0))
    };
    let new = |row: &Row, value: f64| (row.factor > 0.0).then_some(value);
    let mut wait = both(&|row| new(row, row.wait_p99));
    wait.push(bound("deadline", promise.deadline));
    let mut established = both(&|row| row.established.p99);
    established.push(bound("objective", promise.request.limit));
    let capacity = over("capacity", Colour::Blue, after, &|_| Some(promise.per_second));
    let mut goodput = both(&|row| new(row, row.goodput));
    goodput.push(capacity);
    let refused = both(&|row| new(row, row.refused as f64));
    let draw = |title, axis, curves: &[Curve]| figure(title, (TIMES, axis), Draw::Lines, curves);
    [
        draw("Wait of new visitors that were served, p99", MILLISECONDS, &wait),
        draw("Wait of established visitors, p99", MILLISECONDS, &established),
        draw("New visitors served", PER_SECOND, &goodput),
        draw("New visitors refused", VISITORS, &refused),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::super::proof::tests::proof;
    use super::*;

    fn page() -> String {
        html(&Findings {
            machine: &Machine { cpu: Some("<CPU>".into()), ..Machine::default() },
            sizing: &Sizing { notes: Vec::new(), figures: Vec::new(), advice: Vec::new() },
            proof: &proof(),
            broken: &["at 2 x capacity: too late".into()],
        })
    }

    #[test]
    fn the_page_shows_bounds_before_and_after_and_loads_nothing() {
        let page = page();
        assert_eq!(page.matches("<figure>").count(), 4);
        let parts = ["&lt;CPU&gt;", "Does not hold: at 2 x", "deadline", "Before", "990 ms"];
        for part in parts.into_iter().chain(["never answers, 308 requests"]) {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["<script", "src=", "href=", "NaN"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
