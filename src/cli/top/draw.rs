//! The screen of `sluss top`: numbers above, a table or a text below. Fits 80 columns by 24 lines.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table, TableState, Wrap};

use crate::admin::{Health, SiteRow, Status};
use crate::alarms::{Standing, Urgency, readable};
use crate::cli::table::{bytes, count, counted, milliseconds};

use super::model::{COLUMNS, Input, Model, View};
use super::reasons;

/// Alarms shown above the numbers; all of them with `a`.
const ALARMS_SHOWN: usize = 3;

const KEYS: &str = "q quit  / filter  s sort  t troubled  a alarms  x refusals  f findings  ? help";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let alarms = alarm_lines(model);
    let [head, alarm_area, numbers, curves, body, foot] = Layout::vertical([
        Constraint::Length(if model.lost.is_some() { 2 } else { 1 }),
        Constraint::Length(alarms.len() as u16),
        Constraint::Length(6),
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head_line(model)).wrap(Wrap { trim: true }), head);
    frame.render_widget(Paragraph::new(alarms), alarm_area);
    frame.render_widget(Paragraph::new(number_lines(&model.status)), numbers);
    draw_curves(frame, curves, model);
    match model.view {
        View::Sites => draw_sites(frame, body, model),
        View::Site => draw_text(frame, body, model, site_lines(model.site())),
        View::Alarms => draw_text(frame, body, model, all_alarm_lines(&model.status)),
        View::Refusals => reasons::draw_refusals(frame, body, &model.status, model.scroll),
        View::Findings => {
            reasons::draw_findings(frame, body, model.findings.as_deref(), model.scroll);
        }
        View::Help => draw_text(frame, body, model, help_lines()),
    }
    frame.render_widget(foot_line(model), foot);
    for (at, cell) in frame.buffer_mut().content.iter_mut().enumerate() {
        let is_head = at < usize::from(head.width) * usize::from(head.height);
        if model.lost.is_some() && !is_head {
            // What stands below is old.
            cell.modifier.insert(Modifier::DIM);
        }
        if model.plain {
            (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
        }
    }
}

pub(super) fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

pub(super) fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn head_line(model: &Model) -> Line<'_> {
    let status = &model.status;
    if let Some(lost) = &model.lost {
        let style = bold().fg(Color::Red);
        return Line::styled(format!("no answer from the edge, trying again: {lost}"), style);
    }
    let health = match (status.health, status.alarms.len()) {
        (Health::Ok, _) => Span::styled("well", bold().fg(Color::Green)),
        (Health::Degraded, 1) => Span::styled("1 alarm", bold().fg(Color::Red)),
        (Health::Degraded, all) => Span::styled(format!("{all} alarms"), bold().fg(Color::Red)),
    };
    let seconds = status.now_unix.saturating_sub(status.started_unix).max(0).unsigned_abs();
    let up = readable(std::time::Duration::from_secs(seconds));
    let rest = format!(
        "  up {up}, generation {}, {}, {}",
        status.generation,
        counted(status.sites, "site"),
        counted(status.certificates, "certificate")
    );
    Line::from(vec![Span::styled("sluss ", bold()), health, Span::raw(rest)])
}

fn alarm_lines(model: &Model) -> Vec<Line<'_>> {
    let alarms = &model.status.alarms;
    let mut lines: Vec<Line<'_>> =
        alarms.iter().take(ALARMS_SHOWN).map(|a| alarm_line(a, model.status.now_unix)).collect();
    if alarms.len() > ALARMS_SHOWN {
        let more = alarms.len() - ALARMS_SHOWN;
        lines.push(Line::styled(format!("and {more} more: press a"), dim()));
    }
    lines
}

fn alarm_line(alarm: &Standing, now_unix: i64) -> Line<'_> {
    let (sign, colour) = match alarm.urgency {
        Urgency::Critical => ("CRITICAL ", Color::Red),
        Urgency::Warning => ("WARNING  ", Color::Yellow),
    };
    let seconds = now_unix.saturating_sub(alarm.since_unix).max(0).unsigned_abs();
    let since = readable(std::time::Duration::from_secs(seconds)) + &alarm.last_seen(now_unix);
    let blank = if alarm.subject.is_empty() { "" } else { " " };
    let text = format!("{}{blank}{}, {since}: {}", alarm.alarm, alarm.subject, alarm.detail);
    Line::from(vec![Span::styled(sign, bold().fg(colour)), Span::raw(clean(&text))])
}

/// What comes from elsewhere cannot command the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn number_lines(status: &Status) -> Vec<Line<'_>> {
    let rate = |name: &str| count(status.rates.get(name).copied().unwrap_or(0.0));
    let connections = |state: &str| status.connections.get(state).copied().unwrap_or(0);
    let open: u64 = status.connections.values().sum();
    let latency = |what: &str| {
        let row = status.latencies.iter().find(|row| row.what == what && row.per_second > 0.0);
        row.map_or(String::new(), |row| {
            let [p50, p90, p99] = [row.p50_ms, row.p90_ms, row.p99_ms].map(milliseconds);
            format!("  p50 {p50}  p90 {p90}  p99 {p99}")
        })
    };
    let mut queues = status.queues.iter().map(|queue| {
        let site = queue.site.as_deref().map_or(String::new(), |site| format!(" {site}"));
        let oldest = match queue.depth {
            0 => String::new(),
            _ => format!(" oldest {}", milliseconds(queue.oldest_seconds * 1_000.0)),
        };
        format!("{}{site} {}/{}{oldest}", queue.queue, queue.depth, queue.limit)
    });
    let queues: Vec<String> = queues.by_ref().take(2).collect();
    let kernel = status.listeners.iter().max_by_key(|listener| listener.length);
    let kernel = kernel.map_or(String::new(), |l| format!(" kernel {}/{}", l.length, l.limit));
    let process = &status.process;
    vec![
        named(
            "requests",
            format!(
                "{}/s  5xx {}/s{}",
                rate("requests"),
                rate("server_errors"),
                latency("request")
            ),
        ),
        named(
            "handshakes",
            format!(
                "{}/s  resumed {}/s  refused {}/s  failed {}/s",
                rate("handshakes_ok"),
                rate("handshakes_resumed"),
                rate("handshakes_refused"),
                rate("handshakes_failed")
            ),
        ),
        named("queues", queues.join("; ")),
        named(
            "connections",
            format!(
                "{open} open, {} active, {} idle, {}/s new;{kernel}",
                connections("active"),
                connections("idle"),
                rate("accepted")
            ),
        ),
        named("endpoints", format!("{} up, {} down", status.endpoints_up, status.endpoints_down)),
        named(
            "process",
            format!(
                "{:.2} cores, {}, {} descriptors, {} log lines lost",
                process.cpu_cores,
                bytes(process.resident_bytes),
                process.descriptors,
                status.access_log.dropped
            ),
        ),
    ]
}

fn named(name: &'static str, text: String) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{name:<12}"), dim()), Span::raw(clean(&text))])
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows: [Rect; 2] = Layout::vertical([Constraint::Length(1); 2]).areas(area);
    let requests = |most: u64| count(most as f64);
    let latency = |most: u64| milliseconds(most as f64 / 10.0);
    let curves: [(_, _, &dyn Fn(u64) -> String); 2] =
        [("requests/s", &model.requests, &requests), ("p99", &model.latency, &latency)];
    for (row, (name, values, tell)) in rows.into_iter().zip(curves) {
        let [label, curve, scale] = Layout::horizontal([
            Constraint::Length(12),
            Constraint::Min(1),
            Constraint::Length(12),
        ])
        .areas(row);
        frame.render_widget(Paragraph::new(name).style(dim()), label);
        let shown = &values[values.len().saturating_sub(usize::from(curve.width))..];
        let most = shown.iter().copied().max().unwrap_or(0);
        // The lowest of the eight steps is not nothing.
        let least = most.div_ceil(8);
        let seen: Vec<u64> =
            shown.iter().map(|value| if *value > 0 { (*value).max(least) } else { 0 }).collect();
        frame.render_widget(Sparkline::default().data(&seen), curve);
        let text = if most > 0 { format!(" max {}", tell(most)) } else { String::new() };
        frame.render_widget(Paragraph::new(text).style(dim()), scale);
    }
}

/// Of the columns; the head's arrow takes one more.
const WIDTHS: [u16; COLUMNS.len()] = [14, 6, 7, 7, 5, 8, 8, 7, 10];

/// Which columns stay longest where the terminal is narrow: site, endpoints, requests, p99, waiting.
const BY_WEIGHT: [usize; COLUMNS.len()] = [0, 8, 1, 3, 6, 4, 5, 7, 2];

/// The columns that fit, in their order.
fn columns_in(width: u16) -> Vec<usize> {
    let (mut shown, mut taken) = (Vec::new(), 0);
    for at in BY_WEIGHT {
        let wide = WIDTHS[at] + u16::from(taken > 0);
        if taken + wide <= width || shown.is_empty() {
            shown.push(at);
            taken += wide;
        }
    }
    shown.sort_unstable();
    shown
}

fn draw_sites(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let head = COLUMNS.iter().enumerate().map(|(at, (_, name))| {
        let arrow = match (at == model.column, model.ascending) {
            (false, _) => "",
            (true, true) => "▲",
            (true, false) => "▼",
        };
        Line::raw(format!("{name}{arrow}")).alignment(alignment(at))
    });
    let shown = columns_in(area.width);
    let head = head.enumerate().filter(|(at, _)| shown.contains(at)).map(|(_, line)| line);
    let rows = model.page.sites.iter().map(|site| site_row(site, &shown));
    let widths = shown.iter().map(|at| match at {
        0 => Constraint::Min(WIDTHS[0]),
        at => Constraint::Length(WIDTHS[*at]),
    });
    let table = Table::new(rows, widths)
        .column_spacing(1)
        .header(Row::new(head).style(bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(Some(model.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn alignment(column: usize) -> ratatui::layout::Alignment {
    if column == 0 { ratatui::layout::Alignment::Left } else { ratatui::layout::Alignment::Right }
}

fn site_row<'s>(site: &'s SiteRow, shown: &[usize]) -> Row<'s> {
    let summary = &site.summary;
    let time = |value: Option<f64>| value.map_or("-".to_owned(), milliseconds);
    let down = site.endpoints.iter().filter(|endpoint| endpoint.state != "up").count();
    let endpoints = match down {
        0 => format!("{} up", site.endpoints.len()),
        down => format!("{down}/{} DOWN", site.endpoints.len()),
    };
    let cells = [
        summary.site.clone(),
        count(summary.requests_per_second),
        time(summary.p50_ms),
        time(summary.p99_ms),
        count(summary.server_errors as f64),
        count(summary.refused as f64),
        format!("{}/{}", site.waiting, site.waiting_limit),
        format!("{}/{}", site.in_flight, site.in_flight_limit),
        endpoints,
    ];
    let cells = cells.into_iter().enumerate().filter(|(at, _)| shown.contains(at));
    let row = Row::new(cells.map(|(at, text)| Line::raw(clean(&text)).alignment(alignment(at))));
    match (down, site.waiting) {
        (0, 0) => row,
        (0, _) => row.style(Style::new().fg(Color::Yellow)),
        _ => row.style(Style::new().fg(Color::Red)),
    }
}

fn draw_text(frame: &mut Frame<'_>, area: Rect, model: &Model, lines: Vec<Line<'_>>) {
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((model.scroll as u16, 0));
    frame.render_widget(text, area);
}

fn site_lines(site: Option<&SiteRow>) -> Vec<Line<'_>> {
    let Some(site) = site else { return vec![Line::raw("the site is gone")] };
    let summary = &site.summary;
    let kept = if site.kept { "  (its file is broken: last good version)" } else { "" };
    let mut lines = vec![
        Line::styled(format!("{}{kept}", summary.site), bold()),
        named("hosts", site.hosts.join(" ")),
        named("customer", site.customer.clone()),
        named(
            "requests",
            format!(
                "{}/s, {} in all, {} with 5xx, {} refused",
                count(summary.requests_per_second),
                summary.requests,
                summary.server_errors,
                summary.refused
            ),
        ),
        named(
            "latency",
            format!(
                "p50 {}  p99 {}",
                summary.p50_ms.map_or("-".into(), milliseconds),
                summary.p99_ms.map_or("-".into(), milliseconds)
            ),
        ),
        named(
            "queue",
            format!(
                "{} of {} wait, the oldest for {}; {} of {} in flight",
                site.waiting,
                site.waiting_limit,
                milliseconds(site.oldest_seconds * 1_000.0),
                site.in_flight,
                site.in_flight_limit
            ),
        ),
        named("findings", site.findings.to_string()),
    ];
    for endpoint in &site.endpoints {
        let failure = endpoint.last_failure.as_ref();
        let failure = failure.map_or(String::new(), |why| format!("; last failure: {why}"));
        let backup = if endpoint.backup { " (backup)" } else { "" };
        let text = format!(
            "{}{backup} {}, {} in flight, {}{failure}",
            endpoint.url,
            endpoint.state,
            endpoint.in_flight,
            endpoint.latency_ms.map_or("no answer yet".into(), milliseconds)
        );
        lines.push(named("endpoint", text));
    }
    lines
}

fn all_alarm_lines(status: &Status) -> Vec<Line<'_>> {
    if status.alarms.is_empty() {
        return vec![Line::raw("no alarm stands")];
    }
    let mut lines = Vec::new();
    for alarm in &status.alarms {
        lines.push(alarm_line(alarm, status.now_unix));
        lines.push(Line::raw(format!("  visitors: {}", alarm.meaning)));
        lines.push(Line::raw(format!("  what to do: {}", alarm.remedy)));
    }
    lines
}

fn help_lines() -> Vec<Line<'static>> {
    [
        "q, Esc, Ctrl-C   leave",
        "up, down, k, j   select a site (PgUp, PgDn: ten); scroll what is shown else",
        "Enter            show the selected site; back",
        "/                filter by site, host or customer; Enter keeps, Esc clears",
        "s, right         sort by the next column; S, left: by the one before",
        "r                reverse the order",
        "t                only sites with waiting requests, broken files or endpoints down",
        "a                all alarms, with what they mean and what to do",
        "x                refusals: why work was turned away, the most frequent now first",
        "f                findings: odd heads by site and rule, the most frequent first",
        "",
        "Rates and percentiles are those of the last ten seconds.",
    ]
    .into_iter()
    .map(Line::raw)
    .collect()
}

fn foot_line(model: &Model) -> Line<'_> {
    if model.input == Input::Filter {
        return Line::styled(format!("/{}_", clean(&model.filter)), bold());
    }
    let shown = model.page.sites.len();
    let filter = match (model.filter.is_empty(), model.troubled) {
        (true, false) => String::new(),
        (true, true) => format!("[troubled: {shown}]  "),
        (false, _) => format!("[{}: {shown} of {}]  ", clean(&model.filter), model.page.total),
    };
    // The keys fill 80 columns: what is hidden is told before them.
    Line::from(vec![Span::styled(filter, bold()), Span::styled(KEYS, dim())])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;
    use crate::admin::{EndpointRow, LatencyRow, QueueRow, SitesPage};
    use crate::cli::top::model::Wish;
    use crate::metrics::SiteSummary;

    fn model() -> Model {
        let mut status = Status { health: Health::Degraded, now_unix: 100, ..Status::default() };
        for at in 0..5 {
            status.alarms.push(Standing {
                alarm: "upstreams-down".into(),
                urgency: Urgency::Critical,
                subject: format!("site-{at}"),
                site: None,
                detail: "refused \u{1b}[2J".into(),
                since_unix: 70,
                seen_unix: 100,
                meaning: "503".into(),
                remedy: "start it".into(),
            });
        }
        status.queues.push(QueueRow {
            queue: "handshake".into(),
            site: None,
            depth: 3,
            limit: 512,
            oldest_seconds: 0.2,
        });
        status.latencies.push(LatencyRow {
            what: "request".into(),
            per_second: 1.0,
            p50_ms: 1.0,
            p90_ms: 2.0,
            p99_ms: 3.0,
        });
        let site = |at: usize| SiteRow {
            summary: SiteSummary { site: format!("site-{at:05}"), ..SiteSummary::default() },
            customer: "c".into(),
            hosts: vec!["a.example".into()],
            waiting: at as u64 % 2,
            waiting_limit: 256,
            oldest_seconds: 0.0,
            in_flight: 100,
            in_flight_limit: 100,
            findings: 0,
            kept: false,
            endpoints: vec![EndpointRow { state: "up".into(), ..EndpointRow::default() }],
        };
        let mut model = Model::default();
        model.update(status, SitesPage { total: 50, sites: (0..50).map(site).collect() });
        model
    }

    fn screen(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn columns_are_dropped_where_they_do_not_fit() {
        assert_eq!(columns_in(80), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(columns_in(40), [0, 1, 3, 8]);
        assert_eq!(columns_in(10), [0]);
    }

    #[test]
    fn a_terminal_of_80_by_24_shows_numbers_and_sites() {
        let screen = screen(&model(), 80, 24);
        let lines: Vec<&str> = screen.lines().collect();
        assert!(lines[0].starts_with("sluss 5 alarms  up 100 s"), "{screen}");
        assert_eq!(lines[1], "CRITICAL upstreams-down site-0, 30 s: refused ?[2J");
        assert_eq!(lines[4], "and 2 more: press a");
        assert!(lines[5].contains("p50 1.0 ms  p90 2.0 ms  p99 3.0 ms"), "{screen}");
        assert!(lines[7].contains("handshake 3/512 oldest 200 ms"), "{screen}");
        assert!(lines[13].starts_with("SITE") && lines[13].ends_with("ENDPOINTS"), "{screen}");
        assert!(lines[14].starts_with("site-00000") && lines[14].ends_with("1 up"), "{screen}");
        assert_eq!(lines[23], KEYS, "all of them");
    }

    #[test]
    fn what_a_filter_hides_is_told_on_80_columns() {
        let mut model = model();
        model.troubled = true;
        assert!(screen(&model, 80, 24).contains("\n[troubled: 50]  q quit"));
        model.filter = "shop".into();
        assert!(screen(&model, 80, 24).contains("\n[shop: 50 of 50]  q quit"));
    }

    #[test]
    fn the_selection_scrolls_into_sight_and_drills() {
        let mut model = model();
        model.selected = 49;
        assert!(screen(&model, 80, 24).contains("site-00049"));
        let enter = KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE);
        assert_eq!(model.key(enter), Wish::Ask);
        assert!(model.sites_path().ends_with("q=site%2D00049"));
        let detail = screen(&model, 80, 24);
        assert!(detail.contains("site-00049\nhosts       a.example\n"), "{detail}");
        model.view = View::Alarms;
        assert!(screen(&model, 80, 40).contains("  what to do: start it"));
        model.view = View::Help;
        assert!(screen(&model, 80, 24).contains("leave"));
    }

    #[test]
    fn a_tiny_terminal_and_a_lost_edge_do_no_harm() {
        let mut model = model();
        model.lost = Some("connection refused".into());
        assert!(screen(&model, 80, 24).starts_with("no answer from the edge"));
        for (width, height) in [(1, 1), (10, 3), (200, 60)] {
            screen(&model, width, height);
        }
    }
}
