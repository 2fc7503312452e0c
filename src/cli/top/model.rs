//! What `sluss top` shows and how keys change it. Pure: no terminal, no edge, no clock.

use std::fmt::Write as _;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::admin::{FindingRow, SiteRow, SitesPage, Status};

/// Sites asked for: more than any terminal has lines.
const SITES_MAX: usize = 200;

/// Findings asked for, the most frequent.
const FINDINGS_MAX: usize = 200;

/// A text is scrolled no further.
const LINES_MAX: usize = 1_000;

/// A filter that is longer is a mistake.
const FILTER_BYTES_MAX: usize = 100;

/// The columns by which sites can be sorted: the API's name and the head.
pub(super) const COLUMNS: [(&str, &str); 9] = [
    ("site", "SITE"),
    ("requests_per_second", "REQ/S"),
    ("p50_ms", "P50"),
    ("p99_ms", "P99"),
    ("server_errors", "5XX"),
    ("refused", "REFUSED"),
    ("waiting", "WAITING"),
    ("in_flight", "FLIGHT"),
    ("endpoints", "ENDPOINTS"),
];

/// What the screen shows below the numbers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum View {
    /// The table of sites.
    #[default]
    Sites,
    /// One site: the selected one.
    Site,
    /// All alarms with their meaning and remedy.
    Alarms,
    /// Why work is turned away, and how often.
    Refusals,
    /// What was odd about heads, and how often.
    Findings,
    /// The keys.
    Help,
}

/// Whether keys are commands or text of the filter.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Input {
    #[default]
    Commands,
    Filter,
}

/// What a key asks of the loop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    /// Draw anew.
    Draw,
    /// Ask the edge anew: the question has changed.
    Ask,
    /// Leave.
    Quit,
}

/// Everything on the screen.
pub(super) struct Model {
    pub(super) status: Status,
    pub(super) page: SitesPage,
    /// The most frequent findings; `None` until they are known.
    pub(super) findings: Option<Vec<FindingRow>>,
    /// Requests and p99 of the last minutes, a value a second.
    pub(super) requests: Vec<u64>,
    pub(super) latency: Vec<u64>,
    /// The second of their last value.
    last: i64,
    pub(super) view: View,
    pub(super) input: Input,
    pub(super) filter: String,
    pub(super) column: usize,
    pub(super) ascending: bool,
    pub(super) troubled: bool,
    pub(super) selected: usize,
    /// The site that is shown alone: its line may move or go meanwhile.
    drilled: String,
    pub(super) scroll: usize,
    /// Why the last question was not answered.
    pub(super) lost: Option<String>,
    /// Without colours (<https://no-color.org>).
    pub(super) plain: bool,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            plain: false,
            status: Status::default(),
            page: SitesPage::default(),
            findings: None,
            requests: Vec::new(),
            latency: Vec::new(),
            last: 0,
            view: View::Sites,
            input: Input::Commands,
            filter: String::new(),
            column: 1,
            ascending: false,
            troubled: false,
            selected: 0,
            drilled: String::new(),
            scroll: 0,
            lost: None,
        }
    }
}

impl Model {
    /// Takes an answer.
    pub(super) fn update(&mut self, status: Status, page: SitesPage) {
        // An edge that was started anew, perhaps on a machine with another clock.
        if self.status.started_unix != status.started_unix {
            self.last = 0;
        }
        // Two questions may have overlapped.
        for point in status.history.iter().filter(|point| point.t > self.last) {
            self.requests.push(point.requests as u64);
            // In tenths of a millisecond, so that a fast edge has a curve too.
            self.latency.push(point.latency.map_or(0, |(_, _, p99)| (p99 * 10.0) as u64));
        }
        self.last = status.history.last().map_or(self.last, |point| point.t.max(self.last));
        for curve in [&mut self.requests, &mut self.latency] {
            let surplus = curve.len().saturating_sub(300);
            curve.drain(..surplus);
        }
        (self.status, self.page, self.lost) = (status, page, None);
        self.selected = self.selected.min(self.page.sites.len().saturating_sub(1));
    }

    /// The last second whose point is known: the next question asks for later ones.
    pub(super) fn since(&self) -> i64 {
        self.last
    }

    /// The path of the next question about sites.
    pub(super) fn sites_path(&self) -> String {
        if self.view == View::Site {
            return format!("/api/sites?limit={SITES_MAX}&q={}", encoded(&self.drilled));
        }
        let order = if self.ascending { "asc" } else { "desc" };
        let troubled = if self.troubled { "&troubled=1" } else { "" };
        let filter = encoded(&self.filter);
        let column = COLUMNS[self.column].0;
        format!("/api/sites?sort={column}&order={order}&limit={SITES_MAX}&q={filter}{troubled}")
    }

    /// The path of the next question about findings; none while they are not looked at.
    pub(super) fn findings_path(&self) -> Option<String> {
        (self.view == View::Findings).then(|| format!("/api/findings?limit={FINDINGS_MAX}"))
    }

    /// The site that is shown alone.
    pub(super) fn site(&self) -> Option<&SiteRow> {
        self.page.sites.iter().find(|site| site.summary.site == self.drilled)
    }

    fn drill(&mut self) -> Wish {
        let Some(site) = self.page.sites.get(self.selected) else { return Wish::Draw };
        self.drilled = site.summary.site.clone();
        self.show(View::Site);
        Wish::Ask
    }

    /// Back to the table: what the last answer held may be one site alone.
    fn leave(&mut self) -> Wish {
        self.show(View::Sites);
        Wish::Ask
    }

    /// Acts on a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Wish::Quit;
        }
        match self.input {
            Input::Filter => self.filter_key(key.code),
            Input::Commands => self.command(key.code),
        }
    }

    fn filter_key(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Enter => self.input = Input::Commands,
            KeyCode::Esc => {
                self.input = Input::Commands;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.filter.len() < FILTER_BYTES_MAX => {
                self.filter.push(letter);
            }
            _ => return Wish::Draw,
        }
        self.selected = 0;
        Wish::Ask
    }

    fn command(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc if self.view == View::Sites => return Wish::Quit,
            KeyCode::Esc | KeyCode::Backspace => return self.leave(),
            KeyCode::Enter if self.view == View::Sites => return self.drill(),
            KeyCode::Enter => return self.leave(),
            KeyCode::Char('a') => self.toggle(View::Alarms),
            KeyCode::Char('x') => self.toggle(View::Refusals),
            KeyCode::Char('f') => {
                self.toggle(View::Findings);
                return Wish::Ask;
            }
            KeyCode::Char('?' | 'h') => self.toggle(View::Help),
            KeyCode::Char('/') => {
                self.show(View::Sites);
                self.input = Input::Filter;
            }
            KeyCode::Char('s') | KeyCode::Right => {
                return self.sort((self.column + 1) % COLUMNS.len());
            }
            KeyCode::Char('S') | KeyCode::Left => {
                return self.sort((self.column + COLUMNS.len() - 1) % COLUMNS.len());
            }
            KeyCode::Char('r') => {
                self.ascending = !self.ascending;
                return Wish::Ask;
            }
            KeyCode::Char('t') => {
                (self.troubled, self.selected) = (!self.troubled, 0);
                return Wish::Ask;
            }
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::PageDown => self.move_by(10),
            KeyCode::PageUp => self.move_by(-10),
            KeyCode::Home => self.move_by(-i32::MAX),
            _ => {}
        }
        Wish::Draw
    }

    fn show(&mut self, view: View) {
        (self.view, self.scroll) = (view, 0);
    }

    fn toggle(&mut self, view: View) {
        self.show(if self.view == view { View::Sites } else { view });
    }

    fn sort(&mut self, column: usize) -> Wish {
        (self.column, self.ascending, self.selected) = (column, column == 0, 0);
        Wish::Ask
    }

    /// In the table of sites the selection moves, elsewhere what is shown.
    fn move_by(&mut self, lines: i32) {
        let lines = lines as isize;
        let (at, all) = match self.view {
            View::Sites => (self.selected, self.page.sites.len()),
            View::Refusals => (self.scroll, self.status.refusals.len()),
            View::Findings => (self.scroll, self.findings.as_ref().map_or(0, Vec::len)),
            View::Site | View::Alarms | View::Help => (self.scroll, LINES_MAX),
        };
        let moved = at.saturating_add_signed(lines).min(all.saturating_sub(1));
        if self.view == View::Sites { self.selected = moved } else { self.scroll = moved }
    }
}

/// Percent-encoded for a query.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Point;

    #[track_caller]
    fn press(model: &mut Model, keys: &[KeyCode]) -> Wish {
        let mut wish = Wish::Draw;
        for code in keys {
            wish = model.key(KeyEvent::new(*code, KeyModifiers::NONE));
        }
        wish
    }

    #[test]
    fn keys_sort_filter_and_drill() {
        let mut model = Model::default();
        assert!(model.sites_path().contains("sort=requests_per_second&order=desc"));
        assert_eq!(press(&mut model, &[KeyCode::Char('s')]), Wish::Ask);
        assert!(model.sites_path().contains("sort=p50_ms&order=desc"));
        press(&mut model, &[KeyCode::Char('S'), KeyCode::Char('S')]);
        assert!(model.sites_path().contains("sort=site&order=asc"));
        press(&mut model, &[KeyCode::Char('r')]);
        assert!(model.sites_path().contains("sort=site&order=desc"));
        let letters = ['/', 'q', '&', 'é'].map(KeyCode::Char);
        assert_eq!(press(&mut model, &letters), Wish::Ask);
        assert!(model.sites_path().ends_with("&q=q%26%C3%A9"), "{}", model.sites_path());
        press(&mut model, &[KeyCode::Enter, KeyCode::Enter]);
        assert_eq!(model.view, View::Sites, "no site can be shown");
        press(&mut model, &[KeyCode::Esc, KeyCode::Char('a'), KeyCode::Char('j')]);
        assert_eq!((model.view, model.scroll), (View::Alarms, 1));
        assert_eq!(press(&mut model, &[KeyCode::Char('q')]), Wish::Quit);
    }

    #[test]
    fn refusals_and_findings_are_a_key_away_and_scroll_within_their_rows() {
        let mut model = Model::default();
        assert_eq!(model.findings_path(), None, "nobody looks at them");
        assert_eq!(press(&mut model, &[KeyCode::Char('f')]), Wish::Ask);
        assert_eq!(model.findings_path().as_deref(), Some("/api/findings?limit=200"));
        model.findings = Some(vec![FindingRow::default(); 3]);
        press(&mut model, &[KeyCode::PageDown]);
        assert_eq!(model.scroll, 2);
        press(&mut model, &[KeyCode::Char('x')]);
        assert_eq!((model.view, model.scroll), (View::Refusals, 0));
        press(&mut model, &[KeyCode::Down]);
        assert_eq!(model.scroll, 0, "nothing was turned away");
        press(&mut model, &[KeyCode::Char('x')]);
        assert_eq!((model.view, model.findings_path()), (View::Sites, None));
    }

    #[test]
    fn escape_clears_the_filter_first_and_leaves_last() {
        let mut model = Model::default();
        press(&mut model, &[KeyCode::Char('/'), KeyCode::Char('x')]);
        assert_eq!(press(&mut model, &[KeyCode::Esc]), Wish::Ask);
        assert_eq!((model.filter.as_str(), model.input), ("", Input::Commands));
        assert_eq!(press(&mut model, &[KeyCode::Esc]), Wish::Quit);
        let stop = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut model, &[KeyCode::Char('/')]);
        assert_eq!(model.key(stop), Wish::Quit);
    }

    #[test]
    fn curves_stay_bounded_and_the_selection_within_the_page() {
        let mut model = Model { selected: 9, lost: Some("x".into()), ..Model::default() };
        for t in 0..1_000 {
            let point = Point { t, requests: 5.0, ..Point::default() };
            let status = Status { now_unix: t, history: vec![point], ..Status::default() };
            model.update(status, SitesPage::default());
        }
        assert_eq!((model.requests.len(), model.selected, model.since()), (300, 0, 999));
        assert_eq!(model.lost, None);
    }
}
