//! Tables and numbers for people: aligned, coloured only on a terminal that wants it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

use serde_json::Value;

/// A colour of the terminal, always beside a word that says the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Colour {
    Plain,
    Good,
    Warn,
    Bad,
    Quiet,
}

/// Whether standard output takes colours: a terminal, not `dumb`, and no `NO_COLOR`
/// (<https://no-color.org>).
pub(super) fn colours() -> bool {
    io::stdout().is_terminal() && wants_colours(|name| std::env::var_os(name))
}

/// Whether a terminal with these variables wants colours.
fn wants_colours(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_colour && variable("TERM").is_some_and(|terminal| terminal != "dumb")
}

/// `text` in a colour. Control characters become `?`: names and excerpts come from elsewhere.
pub(super) fn paint(text: &str, colour: Colour, colours: bool) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let code = match colour {
        Colour::Plain => return text,
        Colour::Good => "32",
        Colour::Warn => "33",
        Colour::Bad => "31",
        Colour::Quiet => "2",
    };
    if colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text }
}

/// Rows under a head, each column as wide as its widest cell.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<(String, Colour)>>,
}

/// One column.
pub(super) struct Column {
    name: &'static str,
    align: Align,
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// A column of text.
pub(super) fn words(name: &'static str) -> Column {
    Column { name, align: Align::Left }
}

/// A column of numbers.
pub(super) fn numbers(name: &'static str) -> Column {
    Column { name, align: Align::Right }
}

impl Table {
    pub(super) fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row with as many cells as there are columns.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = (String, Colour)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text.
    pub(super) fn text(&self, colours: bool) -> String {
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            let widest = cells.map(|(text, _)| text.chars().count()).max().unwrap_or(0);
            widest.max(self.columns[at].name.chars().count())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let head = self.columns.iter().map(|c| (c.name.to_uppercase(), Colour::Quiet)).collect();
        let mut out = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            self.line(&mut out, row, &widths, colours);
        }
        out
    }

    fn line(&self, out: &mut String, row: &[(String, Colour)], widths: &[usize], colours: bool) {
        for (at, (text, colour)) in row.iter().enumerate() {
            let blanks = " ".repeat(widths[at].saturating_sub(text.chars().count()));
            let text = paint(text, *colour, colours);
            let is_last = at + 1 == row.len();
            let _ = match self.columns[at].align {
                Align::Right => write!(out, "{blanks}{text}"),
                Align::Left if is_last => write!(out, "{text}"),
                Align::Left => write!(out, "{text}{blanks}"),
            };
            out.push_str(if is_last { "\n" } else { "  " });
        }
    }
}

/// Prints a result. A reader that went away (`sluss certs | head`) has seen what it wanted.
pub(super) fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}

/// Prints JSON as it came, indented.
pub(super) fn print_json(value: &Value) {
    print(&format!("{value:#}"));
}

/// Says why a command failed, with its causes, and answers exit code 1.
pub(super) fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("sluss: {error:#}");
    ExitCode::FAILURE
}

/// A number in four places: `0.52`, `7.3`, `1234`, `12.3k`, `4.5M`.
pub(super) fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.1}k", v / 1e3),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Milliseconds: `0.52 ms`, `54 ms`, `1.2 s`.
pub(super) fn milliseconds(value: f64) -> String {
    match value {
        v if v >= 1_000.0 => format!("{:.1} s", v / 1_000.0),
        v if v >= 10.0 => format!("{v:.0} ms"),
        v if v >= 1.0 => format!("{v:.1} ms"),
        v => format!("{v:.2} ms"),
    }
}

/// Bytes in binary units.
pub(super) fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    while scaled >= 1_024.0
        && let Some(next) = units.next()
    {
        scaled /= 1_024.0;
        unit = next;
    }
    if unit == "B" { format!("{value} B") } else { format!("{scaled:.1} {unit}") }
}

/// `1 site`, `3 sites`.
pub(super) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// `words` cut to `width` characters, with `…` where something is missing.
pub(super) fn cut(words: &str, width: usize) -> String {
    if words.chars().count() <= width {
        return words.to_owned();
    }
    words.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_may_refuse_colours() {
        let wants = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(own, _)| *own == name);
            wants_colours(|name| find(name).map(|(_, value)| value.into()))
        };
        assert!(wants(&[("TERM", "xterm")]));
        assert!(wants(&[("TERM", "xterm"), ("NO_COLOR", "")]), "an empty one says nothing");
        assert!(!wants(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
        assert!(!wants(&[("TERM", "dumb")]));
        assert!(!wants(&[]), "no terminal is known");
    }

    #[test]
    fn columns_are_aligned_and_colours_do_not_count() {
        let mut table = Table::new([words("name"), numbers("count"), words("state")]);
        table.row([
            ("a".into(), Colour::Plain),
            ("12".into(), Colour::Plain),
            ("ok".into(), Colour::Good),
        ]);
        table.row([
            ("long-name".into(), Colour::Plain),
            ("7".into(), Colour::Plain),
            ("b\u{1b}[2J".into(), Colour::Bad),
        ]);
        let plain = "NAME       COUNT  STATE\na             12  ok\nlong-name      7  b?[2J\n";
        assert_eq!(table.text(false), plain);
        assert!(table.text(true).contains("12  \u{1b}[32mok\u{1b}[0m\n"));
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.5214, 7.0, 73.26, 1_234.0, 12_345.0, 4_500_000.0].map(count);
        assert_eq!(all, ["0.52", "7", "73.3", "1234", "12.3k", "4.5M"]);
        assert_eq!([0.5, 54.2, 1_200.0].map(milliseconds), ["0.50 ms", "54 ms", "1.2 s"]);
        assert_eq!([12, 9_646_899].map(bytes), ["12 B", "9.2 MiB"]);
        assert_eq!([0, 1, 2].map(|n| counted(n, "site")), ["0 sites", "1 site", "2 sites"]);
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".into(), "ab…".into()));
    }
}
