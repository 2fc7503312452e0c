//! `sluss certs`: every certificate of the running edge, first those that are not served, then the
//! soonest to expire.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::client::EdgeArguments;
use super::table::{Colour, Table, colours, cut, failed, numbers, paint, print, print_json, words};
use crate::admin::CertificateRow;

/// Hosts shown in the table; `--json` has all.
const HOSTS_SHOWN: usize = 3;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    edge: EdgeArguments,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let answer: anyhow::Result<(serde_json::Value, Vec<CertificateRow>)> = (|| {
        let value: serde_json::Value = arguments.edge.find()?.json("/api/certificates")?;
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

/// The table, then the problems of those that have some.
fn text(rows: &[CertificateRow], colours: bool) -> String {
    let mut table = Table::new([
        words("name"),
        words("state"),
        numbers("days left"),
        words("expires"),
        words("key"),
        words("issuer"),
        words("hosts"),
    ]);
    let plain = |text: &str| (text.to_owned(), Colour::Plain);
    // Of one that is absent only the name is known.
    let known = |text: &str| plain(if text.is_empty() { "-" } else { text });
    for row in rows {
        let days = if row.validity == "absent" { "-" } else { &row.days_left.to_string() };
        table.row([
            plain(&row.name),
            state(row),
            plain(days),
            known(row.not_after.get(..10).unwrap_or(&row.not_after)),
            known(&row.key),
            known(&cut(&row.issuer, 28)),
            plain(&hosts(row)),
        ]);
    }
    let mut out = table.text(colours);
    for row in rows.iter().filter(|row| !row.problems.is_empty()) {
        let _ = writeln!(out, "\n{} ({})", row.name, row.file);
        for problem in &row.problems {
            let what = paint(&problem.what, Colour::Warn, colours);
            let _ = writeln!(out, "    {what}\n    what to do: {}", problem.remedy);
        }
    }
    out
}

fn state(row: &CertificateRow) -> (String, Colour) {
    let colour = match row.validity.as_str() {
        "valid" => Colour::Good,
        "expiring" => Colour::Warn,
        _ => Colour::Bad,
    };
    if row.kept_since.is_some() {
        return (format!("{}, last good version", row.validity), Colour::Warn);
    }
    (row.validity.clone(), colour)
}

fn hosts(row: &CertificateRow) -> String {
    if row.validity == "absent" {
        return "-".into();
    }
    let shown = row.hosts.iter().take(HOSTS_SHOWN).map(String::as_str).collect::<Vec<_>>();
    match row.hosts.len().saturating_sub(HOSTS_SHOWN) {
        0 => shown.join(" "),
        more => format!("{} +{more}", shown.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_lines_of_a_table() {
        let row = |name: &str, validity: &str, hosts: usize| CertificateRow {
            name: name.into(),
            validity: validity.into(),
            days_left: 9,
            not_after: "2026-12-24T00:00:00Z".into(),
            key: "ECDSA P-256".into(),
            issuer: "CA".into(),
            hosts: (0..hosts).map(|at| format!("h{at}")).collect(),
            ..CertificateRow::default()
        };
        let absent = CertificateRow {
            name: "c".into(),
            validity: "absent".into(),
            ..CertificateRow::default()
        };
        let text = text(&[absent, row("a", "expiring", 5), row("bb", "valid", 1)], false);
        assert_eq!(
            text,
            "NAME  STATE     DAYS LEFT  EXPIRES     KEY          ISSUER  HOSTS\n\
             c     absent            -  -           -            -       -\n\
             a     expiring          9  2026-12-24  ECDSA P-256  CA      h0 h1 h2 +2\n\
             bb    valid             9  2026-12-24  ECDSA P-256  CA      h0\n"
        );
    }
}
