//! `sluss findings`: what the header rules found, by site and rule, with an example each.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::client::EdgeArguments;
use super::table::{Colour, Table, colours, failed, numbers, paint, print, print_json, words};
use crate::admin::FindingRow;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    edge: EdgeArguments,
    /// Only this site's
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let path = match &arguments.site {
        // A site's name has no character that would have to be encoded but `+`.
        Some(site) => format!("/api/findings?site={}", site.replace('+', "%2B")),
        None => "/api/findings".to_owned(),
    };
    let answer: anyhow::Result<(serde_json::Value, Vec<FindingRow>)> = (|| {
        let value: serde_json::Value = arguments.edge.find()?.json(&path)?;
        let rows = serde_json::from_value(value.clone())?;
        Ok((value, rows))
    })();
    match answer {
        Ok((value, _)) if arguments.json => print_json(&value),
        Ok((_, rows)) => print(&text(&rows, colours())),
        Err(error) => return failed(&error),
    }
    ExitCode::SUCCESS
}

/// The counts as a table, then what each rule means with an example.
fn text(rows: &[FindingRow], colours: bool) -> String {
    if rows.is_empty() {
        return "no odd head was seen\n".to_owned();
    }
    let mut table = Table::new([
        words("site"),
        words("direction"),
        words("rule"),
        words("action"),
        numbers("count"),
        numbers("shadow refused"),
        numbers("reject would"),
    ]);
    let plain = |text: &str| (text.to_owned(), Colour::Plain);
    for row in rows {
        let colour = match row.action.as_str() {
            "refuse" => Colour::Bad,
            "repair" => Colour::Warn,
            _ => Colour::Plain,
        };
        table.row([
            plain(site(row)),
            plain(&row.direction),
            plain(&row.rule),
            (row.action.clone(), colour),
            plain(&row.count.to_string()),
            plain(&row.shadow_refused.to_string()),
            plain(&stricter(row).to_string()),
        ]);
    }
    let mut out = table.text(colours);
    let stricter: u64 = rows.iter().map(stricter).sum();
    let _ = writeln!(out, "\nthe profile \"reject\" would refuse {stricter} that went through");
    for row in rows {
        example(&mut out, row, colours);
    }
    out
}

/// What `reject` would refuse that went through: it refuses every defect.
fn stricter(row: &FindingRow) -> u64 {
    if row.action == "refuse" { 0 } else { row.count }
}

fn site(row: &FindingRow) -> &str {
    if row.site.is_empty() { "(none)" } else { &row.site }
}

fn example(out: &mut String, row: &FindingRow, colours: bool) {
    let quiet = |text: &str| paint(text, Colour::Quiet, colours);
    let clean = |text: &str| paint(text, Colour::Plain, false);
    let section =
        if row.section.is_empty() { String::new() } else { format!(" ({})", row.section) };
    let _ =
        writeln!(out, "\n{} {} {}: {}{section}", site(row), row.direction, row.rule, row.explain);
    let _ = writeln!(out, "    what to do: {}", row.remedy);
    let Some(example) = row.examples.first() else { return };
    let field = match example.field.as_str() {
        "" => String::new(),
        field => format!("{}: ", clean(field)),
    };
    let _ = writeln!(out, "    {} {field}{}", quiet("example:"), clean(&example.excerpt));
    let upstream = example.upstream.as_deref().map_or(String::new(), |u| format!(" from {u}"));
    let (request, id) = (clean(&example.request_line), clean(&example.request_id));
    let _ = writeln!(out, "    {} {request}{upstream}, request {id}", quiet("seen with:"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::FindingExample;

    #[test]
    fn findings_come_with_an_example_each() {
        let row = FindingRow {
            site: "shop".into(),
            direction: "response".into(),
            rule: "obs-fold".into(),
            action: "repair".into(),
            count: 12,
            section: "RFC 9112 5.2".into(),
            explain: "a folded line".into(),
            remedy: "send it in one line".into(),
            examples: vec![FindingExample {
                field: "x-a".into(),
                excerpt: "b\u{7}".into(),
                request_line: "GET /".into(),
                request_id: "1f".into(),
                ..FindingExample::default()
            }],
            ..FindingRow::default()
        };
        let text = text(&[row], false);
        assert!(
            text.contains(
                "shop  response   obs-fold  repair     12               0            12\n"
            ),
            "{text}"
        );
        assert!(text.contains("\"reject\" would refuse 12 that"), "{text}");
        assert!(text.contains("shop response obs-fold: a folded line (RFC 9112 5.2)\n"));
        assert!(
            text.contains("    example: x-a: b?\n    seen with: GET /, request 1f\n"),
            "{text}"
        );
    }
}
