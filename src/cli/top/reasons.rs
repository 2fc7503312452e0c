//! Why work was turned away, and what was odd: the views of refusals and of findings. Fit 80 columns.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Paragraph, Row, Table, TableState};

use crate::admin::{FindingRow, RefusalRow, Status};
use crate::cli::table::count;

use super::draw::{bold, clean, dim};

/// A column: its head, its width, and whether it holds numbers. The first takes what is left.
type Column = (&'static str, u16, bool);

const REFUSALS: [Column; 4] =
    [("REASON", 24, false), ("BY", 11, false), ("A SECOND", 8, true), ("IN ALL", 8, true)];

const FINDINGS: [Column; 6] = [
    ("SITE", 14, false),
    ("DIRECTION", 9, false),
    ("RULE", 25, false),
    ("ACTION", 6, false),
    ("COUNT", 6, true),
    ("SHADOW REFUSED", 14, true),
];

/// Refusals by reason, from the row that it is scrolled to.
pub(super) fn draw_refusals(frame: &mut Frame<'_>, area: Rect, status: &Status, from: usize) {
    if status.refusals.is_empty() {
        return frame.render_widget(Paragraph::new("nothing was turned away"), area);
    }
    let about = "refusals: a second over the last ten, in all since the start";
    let rows = status.refusals.iter().map(|refusal| {
        let RefusalRow { reason, side, total, per_second } = refusal;
        let style = if *per_second > 0.0 { Style::new().fg(Color::Yellow) } else { dim() };
        let cells = [reason.clone(), whose(side).to_owned(), count(*per_second), total.to_string()];
        (cells, style)
    });
    draw_table(frame, (area, from), about, REFUSALS, rows);
}

/// Findings by site and rule; `None` where the edge has not told them yet.
pub(super) fn draw_findings(
    frame: &mut Frame<'_>,
    area: Rect,
    findings: Option<&[FindingRow]>,
    from: usize,
) {
    let findings = match findings {
        None => return frame.render_widget(Paragraph::new("asking the edge"), area),
        Some([]) => return frame.render_widget(Paragraph::new("no odd head was seen"), area),
        Some(findings) => findings,
    };
    let about = "findings since the start; what they mean, with examples: sluss findings";
    let rows = findings.iter().map(|row| {
        let colour = match row.action.as_str() {
            "refuse" => Color::Red,
            "repair" => Color::Yellow,
            _ => Color::Reset,
        };
        let site = if row.site.is_empty() { "(none)" } else { &row.site };
        let (times, shadow) = (count(row.count as f64), count(row.shadow_refused as f64));
        let words = [site, &row.direction, &row.rule, &row.action].map(str::to_owned);
        let [site, direction, rule, action] = words;
        ([site, direction, rule, action, times, shadow], Style::new().fg(colour))
    });
    draw_table(frame, (area, from), about, FINDINGS, rows);
}

/// Whose doing a refusal is, in the dashboard's words.
fn whose(side: &str) -> &str {
    match side {
        "edge" => "our bound",
        "upstream" => "site server",
        "downstream" => "client",
        other => other,
    }
}

fn draw_table<const N: usize>(
    frame: &mut Frame<'_>,
    (area, from): (Rect, usize),
    about: &str,
    columns: [Column; N],
    rows: impl Iterator<Item = ([String; N], Style)>,
) {
    let [title, area] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    frame.render_widget(Paragraph::new(about).style(dim()), title);
    let cell = |(at, text): (usize, String)| {
        let line = Line::raw(clean(&text));
        Text::from(if columns[at].2 { line.right_aligned() } else { line })
    };
    let row = |cells: [String; N]| Row::new(cells.into_iter().enumerate().map(cell));
    let head = row(columns.map(|(name, ..)| name.to_owned())).style(bold());
    let widths = columns.iter().enumerate().map(|(at, (_, width, _))| match at {
        0 => Constraint::Min(*width),
        _ => Constraint::Length(*width),
    });
    let rows = rows.map(|(cells, style)| row(cells).style(style));
    let table = Table::new(rows, widths).column_spacing(1).header(head);
    let mut state = TableState::new().with_offset(from);
    frame.render_stateful_widget(table, area, &mut state);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn lines(draw: impl FnOnce(&mut Frame<'_>)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(80, 14)).unwrap();
        terminal.draw(draw).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..14).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn refusals_are_told_by_reason_with_whose_doing_they_are() {
        let mut status = Status::default();
        let shown =
            |status: &Status, from| lines(|frame| draw_refusals(frame, frame.area(), status, from));
        assert_eq!(shown(&status, 0)[0], "nothing was turned away");
        for (reason, side, total, per_second) in [
            ("handshake-queue-full", "edge", 1_234_567, 12.5),
            ("upstream-timeout", "upstream", 7, 0.0),
            ("client-gone\u{1b}[2J", "downstream", 3, 0.0),
        ] {
            let (reason, side) = (reason.into(), side.into());
            status.refusals.push(RefusalRow { reason, side, total, per_second });
        }
        let all = shown(&status, 0);
        assert_eq!(
            all[1..5],
            [
                "REASON                                             BY          A SECOND   IN ALL",
                "handshake-queue-full                               our bound       12.5  1234567",
                "upstream-timeout                                   site server        0        7",
                "client-gone?[2J                                    client             0        3",
            ]
        );
        assert!(shown(&status, 2)[2].starts_with("client-gone"), "the head stays");
    }

    #[test]
    fn findings_are_told_by_site_and_rule() {
        let shown = |rows: Option<&[FindingRow]>| {
            lines(|frame| draw_findings(frame, frame.area(), rows, 0))
        };
        assert_eq!(shown(None)[0], "asking the edge");
        assert_eq!(shown(Some(&[]))[0], "no odd head was seen");
        let row = |site: &str, count| FindingRow {
            site: site.into(),
            direction: "response".into(),
            rule: "field-name-trailing-space".into(),
            action: "repair".into(),
            count,
            shadow_refused: 82,
            ..FindingRow::default()
        };
        let all = shown(Some(&[row("legacy", 1_234_567), row("", 82)]));
        assert_eq!(
            all[1..4],
            [
                "SITE            DIRECTION RULE                      ACTION  COUNT SHADOW REFUSED",
                "legacy          response  field-name-trailing-space repair   1.2M             82",
                "(none)          response  field-name-trailing-space repair     82             82",
            ]
        );
    }
}
