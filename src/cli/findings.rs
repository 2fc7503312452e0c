//! `sluss findings`: what the header rules found, by site and rule, with an example each; with
//! `--would-refuse` what would break under the shadow profile.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Edge, EdgeArguments};
use super::table::{Colour, Table, colours, failed, numbers, paint, print, print_json, words};
use crate::admin::{FindingExample, FindingRow, SitesPage};

/// Sites named in one message; the rest are counted.
const SITES_NAMED: usize = 8;

/// Findings shown where no other number is asked for: what a person reads.
const SHOWN: usize = 50;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    edge: EdgeArguments,
    /// Only this site's
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Show so many at most, the most frequent; --json has all of them
    #[arg(long, value_name = "NUMBER", default_value_t = SHOWN)]
    limit: usize,
    /// Only what went through and the shadow profile would have refused
    #[arg(long)]
    would_refuse: bool,
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
    let answer: anyhow::Result<Vec<FindingRow>> = arguments.edge.find().and_then(|edge| {
        let rows: Vec<FindingRow> = edge.json(&path)?;
        if let Some(site) = arguments.site.as_ref().filter(|_| rows.is_empty()) {
            anyhow::ensure!(is_served(&edge, site)?, "no site is called {site}");
        }
        Ok(rows)
    });
    let rows = match answer {
        Ok(rows) => rows,
        Err(error) => return failed(&error),
    };
    let shown: Vec<FindingRow> = match arguments.would_refuse {
        true => rows.iter().filter(|row| would_be_refused(row) > 0).cloned().collect(),
        false => rows.clone(),
    };
    let list = List { rows: &shown, limit: arguments.limit, colours: colours() };
    match (arguments.json, arguments.would_refuse) {
        (true, _) => match serde_json::to_value(&shown) {
            Ok(value) => print_json(&value),
            Err(error) => return failed(&error.into()),
        },
        (false, true) => print(&list.would_refuse()),
        (false, false) => print(&list.text()),
    }
    if arguments.would_refuse
        && let Some(unjudged) = unjudged(&rows)
    {
        eprintln!("sluss: {unjudged}");
    }
    ExitCode::SUCCESS
}

/// Whether the edge has a site of that name; asked only where nothing was found of it.
fn is_served(edge: &Edge, site: &str) -> anyhow::Result<bool> {
    let page: SitesPage = edge.json(&format!("/api/sites?q={}", site.replace('+', "%2B")))?;
    Ok(page.sites.iter().any(|row| row.summary.site == site))
}

/// Findings as they are told to a person.
struct List<'a> {
    rows: &'a [FindingRow],
    limit: usize,
    colours: bool,
}

/// What `reject` would refuse that went through: it refuses every defect.
fn stricter(row: &FindingRow) -> u64 {
    if row.action == "refuse" { 0 } else { row.count }
}

/// What went through and the shadow profile would have refused.
fn would_be_refused(row: &FindingRow) -> u64 {
    if row.action == "refuse" { 0 } else { row.shadow_refused }
}

impl List<'_> {
    /// The most frequent in the order in which the edge tells them, and how many are left out.
    fn shown(&self) -> (Vec<&FindingRow>, usize) {
        let mut by_count: Vec<(usize, &FindingRow)> = self.rows.iter().enumerate().collect();
        by_count.sort_by_key(|(_, row)| std::cmp::Reverse(row.count));
        by_count.truncate(self.limit);
        by_count.sort_by_key(|(at, _)| *at);
        let left_out = self.rows.len() - by_count.len();
        (by_count.into_iter().map(|(_, row)| row).collect(), left_out)
    }

    fn left_out(left_out: usize) -> String {
        match left_out {
            0 => String::new(),
            1 => "1 rarer finding is not shown: --site NAME, --limit NUMBER or --json\n".to_owned(),
            more => format!(
                "{more} rarer findings are not shown: --site NAME, --limit NUMBER or --json\n"
            ),
        }
    }

    /// The counts as a table, then what each rule means with its examples.
    fn text(&self) -> String {
        if self.rows.is_empty() {
            return "no odd head was seen\n".to_owned();
        }
        let (rows, left_out) = self.shown();
        let mut table = Table::new([
            words("site"),
            words("direction"),
            words("rule"),
            words("action"),
            numbers("count"),
            numbers("shadow refused"),
            numbers("reject would refuse"),
            words("last seen"),
        ]);
        let plain = |text: &str| (text.to_owned(), Colour::Plain);
        for row in &rows {
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
                plain(&last_seen(row)),
            ]);
        }
        let mut out = table.text(self.colours) + &List::left_out(left_out);
        let stricter: u64 = self.rows.iter().map(stricter).sum();
        let _ = writeln!(
            out,
            "\nof what went through, the profile \"reject\" would refuse what has these {stricter} findings; \
             one message may have several"
        );
        for row in rows {
            self.meaning(&mut out, row);
        }
        out
    }

    /// What would break under the shadow profile, then each with what is known of it.
    fn would_refuse(&self) -> String {
        if self.rows.is_empty() {
            return "nothing that went through would have been refused\n".to_owned();
        }
        let (rows, left_out) = self.shown();
        let mut table = Table::new([
            words("site"),
            words("direction"),
            words("rule"),
            words("now"),
            words("shadow"),
            numbers("would refuse"),
            words("last seen"),
        ]);
        let plain = |text: &str| (text.to_owned(), Colour::Plain);
        for row in &rows {
            table.row([
                plain(site(row)),
                plain(&row.direction),
                plain(&row.rule),
                (row.action.clone(), Colour::Warn),
                plain(if row.shadow.is_empty() { "(no more)" } else { &row.shadow }),
                (would_be_refused(row).to_string(), Colour::Bad),
                plain(&last_seen(row)),
            ]);
        }
        let mut out = table.text(self.colours) + &List::left_out(left_out);
        let times: u64 = self.rows.iter().map(would_be_refused).sum();
        let sites: BTreeSet<&str> = self.rows.iter().map(site).collect();
        let sites: Vec<&str> = sites.into_iter().collect();
        let _ = writeln!(
            out,
            "\nof what went through, the shadow profile would have refused what has these {times} findings \
             (one message may have several); sites that would break: {}",
            sites.join(", ")
        );
        for row in rows {
            self.meaning(&mut out, row);
        }
        out
    }

    /// What a finding means, what to do, and its examples.
    fn meaning(&self, out: &mut String, row: &FindingRow) {
        let section =
            if row.section.is_empty() { String::new() } else { format!(" ({})", row.section) };
        let name = paint(site(row), Colour::Plain, self.colours);
        let _ = writeln!(out, "\n{name} {} {}: {}{section}", row.direction, row.rule, row.explain);
        let _ = writeln!(out, "    what to do: {}", row.remedy);
        for example in &row.examples {
            seen(out, example, self.colours);
        }
    }
}

/// Which sites' findings no shadow profile judges: what they would break is not known.
fn unjudged(rows: &[FindingRow]) -> Option<String> {
    let unjudged = rows.iter().filter(|row| row.shadow.is_empty() && row.action != "refuse");
    let sites: BTreeSet<&str> = unjudged.map(site).collect();
    let named: Vec<&str> = sites.iter().copied().take(SITES_NAMED).collect();
    let more = match sites.len().saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!sites.is_empty()).then(|| {
        format!(
            "no shadow profile judges the heads of {}{more}; set shadow = \"reject\" under [headers], \
             or in the site's headers, then reload and let traffic run",
            named.join(", ")
        )
    })
}

fn last_seen(row: &FindingRow) -> String {
    row.examples.iter().map(|example| example.last_seen_unix).max().map_or(String::new(), moment)
}

fn moment(unix: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn site(row: &FindingRow) -> &str {
    if row.site.is_empty() { "(none)" } else { &row.site }
}

fn seen(out: &mut String, example: &FindingExample, colours: bool) {
    let quiet = |text: &str| paint(text, Colour::Quiet, colours);
    let clean = |text: &str| paint(text, Colour::Plain, false);
    let field = match example.field.as_str() {
        "" => String::new(),
        field => format!("{}: ", clean(field)),
    };
    let _ = writeln!(out, "    {} {field}{}", quiet("example:"), clean(&example.excerpt));
    if !example.hex.is_empty() {
        let _ = writeln!(out, "    {} {}", quiet("in hex:"), clean(&example.hex));
    }
    let upstream = example.upstream.as_deref().map_or(String::new(), |u| format!(" from {u}"));
    let (request, id) = (clean(&example.request_line), clean(&example.request_id));
    let last = moment(example.last_seen_unix);
    let when = match example.times {
        1 => format!("at {last}"),
        times => format!("{times} times from {} to {last}", moment(example.first_seen_unix)),
    };
    let _ = writeln!(out, "    {} {request}{upstream}, request {id}, {when}", quiet("seen with:"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(site: &str, action: &str, shadow_refused: u64) -> FindingRow {
        FindingRow {
            site: site.into(),
            direction: "response".into(),
            rule: "obs-fold".into(),
            action: action.into(),
            count: 12,
            shadow_refused,
            shadow: if shadow_refused > 0 { "reject".into() } else { String::new() },
            section: "RFC 9112 5.2".into(),
            explain: "a folded line".into(),
            remedy: "send it in one line".into(),
            examples: vec![FindingExample {
                field: "x-a".into(),
                excerpt: "b\u{7}".into(),
                request_line: "GET /".into(),
                request_id: "1f".into(),
                hex: "62 07".into(),
                first_seen_unix: 1_795_408_100,
                last_seen_unix: 1_795_408_200,
                times: 3,
                ..FindingExample::default()
            }],
        }
    }

    const EXAMPLE: &str = "    example: x-a: b?
    in hex: 62 07
    seen with: GET /, request 1f, 3 times from 2026-11-23T04:28:20Z to 2026-11-23T04:30:00Z
";

    fn list(rows: &[FindingRow]) -> List<'_> {
        List { rows, limit: SHOWN, colours: false }
    }

    #[track_caller]
    fn holds(text: &str, part: &str) {
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn findings_come_with_an_example_each() {
        let text = list(&[row("shop", "repair", 0)]).text();
        holds(
            &text,
            "SITE  DIRECTION  RULE      ACTION  COUNT  SHADOW REFUSED  REJECT WOULD REFUSE  LAST SEEN
shop  response   obs-fold  repair     12               0                   12  2026-11-23T04:30:00Z\n",
        );
        holds(&text, "\"reject\" would refuse what has these 12 findings;");
        holds(&text, "shop response obs-fold: a folded line (RFC 9112 5.2)\n");
        holds(&text, EXAMPLE);
    }

    #[test]
    fn what_would_break_is_listed_by_site_and_rule() {
        let rows = [row("blog", "note", 3), row("shop", "repair", 4)];
        let text = list(&rows).would_refuse();
        holds(
            &text,
            "shop  response   obs-fold  repair  reject             4  2026-11-23T04:30:00Z\n",
        );
        holds(
            &text,
            "would have refused what has these 7 findings (one message may have several); sites that \
             would break: blog, shop\n",
        );
        holds(&text, EXAMPLE);
    }

    #[test]
    fn the_most_frequent_are_shown_and_the_others_counted() {
        let mut rows: Vec<FindingRow> =
            (0..5).map(|at| row(&format!("s{at}"), "repair", 0)).collect();
        rows[1].count = 100;
        rows[4].count = 50;
        let text = List { limit: 2, ..list(&rows) }.text();
        let named: Vec<&str> = ["s0", "s1", "s2", "s3", "s4"]
            .into_iter()
            .filter(|site| text.contains(&format!("\n{site} response obs-fold: ")))
            .collect();
        assert_eq!(named, ["s1", "s4"]);
        holds(&text, "\n3 rarer findings are not shown: --site NAME, --limit NUMBER or --json\n");
        holds(&text, "would refuse what has these 186 findings;");
    }

    #[test]
    fn what_is_refused_already_breaks_nothing_more() {
        assert_eq!(would_be_refused(&row("shop", "refuse", 4)), 0);
        assert_eq!(unjudged(&[row("shop", "refuse", 4), row("blog", "note", 3)]), None);
    }

    #[test]
    fn it_is_said_which_sites_have_no_shadow_profile() {
        let told = unjudged(&[row("shop", "repair", 0), row("blog", "note", 3)]).unwrap();
        holds(&told, "the heads of shop; set shadow = \"reject\"");
    }
}
