//! Walks one TOML file and collects everything that is wrong with it.
//!
//! serde stops at the first mistake and forgets where the others stand. This walker keeps going: a
//! value that cannot be used becomes a [`Problem`] with line, key, what was found and what was
//! expected, and the reader goes on with the default. Each table has a [`Section`] that lists its
//! keys: a key outside it is a problem as soon as the table is opened, so that nothing an operator
//! wrote is ever silently ignored; a key that is read without being listed trips a debug assertion,
//! so that the lists (and the docs made from them) stay true. Pure.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::units;
use crate::problem::{Problem, Severity};

/// Syntax errors told for one file; a file that is no TOML at all has one on nearly every line.
const SYNTAX_PROBLEMS_MAX: usize = 10;

/// Characters of a found value that are shown; enough to recognise it on its line.
const FOUND_CHARS_MAX: usize = 60;

/// The keys of one table; `name` is empty for the top level of a file.
#[derive(Debug)]
pub struct Section {
    /// As in `[queues]`, or the key of an inline table.
    pub name: &'static str,
    /// All keys it may have.
    pub keys: &'static [&'static str],
}

/// One file under reading, and the problems found in it so far.
pub struct Document<'d> {
    file: &'d Path,
    text: &'d str,
    schema: &'static [Section],
    severity: Severity,
    site: Option<&'d str>,
    problems: RefCell<Vec<Problem>>,
}

impl<'d> Document<'d> {
    /// A main file: its mistakes refuse the whole configuration.
    pub fn main(file: &'d Path, text: &'d str, schema: &'static [Section]) -> Document<'d> {
        let (severity, site) = (Severity::Fatal, None);
        Document { file, text, schema, severity, site, problems: RefCell::default() }
    }

    /// A site's file: its mistakes concern that site alone.
    pub fn site(
        file: &'d Path,
        text: &'d str,
        schema: &'static [Section],
        site: &'d str,
    ) -> Document<'d> {
        let (severity, site) = (Severity::Part, Some(site));
        Document { file, text, schema, severity, site, problems: RefCell::default() }
    }

    /// Reads the text; `None` where it is no TOML, which has been told then.
    pub fn parse(&self) -> Option<Spanned<DeTable<'d>>> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return Some(root);
        }
        for error in errors.iter().take(SYNTAX_PROBLEMS_MAX) {
            let at = error.span().unwrap_or(0..0);
            let what = format!("not valid TOML: {}", error.message().replace('\n', ", "));
            self.problem(&at, "", what, "correct the syntax; see https://toml.io".to_string());
        }
        None
    }

    /// The whole file as a table.
    pub fn root(&'d self, root: &'d Spanned<DeTable<'d>>) -> Table<'d> {
        Table::open(self, String::new(), self.section(""), Some(root.get_ref()), root.span())
    }

    /// Paths in a file are relative to the folder of that file.
    pub fn path(&self, written: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(written)
    }

    /// All problems found.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Whether anything found so far makes the file unusable.
    pub fn is_unusable(&self) -> bool {
        self.problems.borrow().iter().any(|problem| problem.severity > Severity::Warning)
    }

    /// The line of an offset, from 1.
    pub fn line(&self, at: &Range<usize>) -> u32 {
        let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
        1 + u32::try_from(memchr::memchr_iter(b'\n', before).count()).unwrap_or(u32::MAX - 1)
    }

    fn section(&self, name: &str) -> &'static Section {
        let found = self.schema.iter().find(|section| section.name == name);
        found.expect("every table that is opened has its section in the schema")
    }

    fn problem(&self, at: &Range<usize>, key: &str, what: String, remedy: String) {
        self.tell(self.severity, at, (key, what, remedy));
    }

    fn tell(&self, severity: Severity, at: &Range<usize>, said: (&str, String, String)) {
        let (key, what, remedy) = said;
        self.problems.borrow_mut().push(Problem {
            severity,
            file: self.file.to_path_buf(),
            line: Some(self.line(at)),
            key: key.to_string(),
            site: self.site.map(str::to_string),
            what,
            remedy,
        });
    }

    /// What to say about a key that nobody knows.
    fn unknown_remedy(&self, section: &Section, key: &str) -> String {
        // Words that mean something else here than the key they are, or are like.
        match (section.name, key) {
            ("upstreams", "tls") => return "write https:// or h2:// in url".to_string(),
            (_, "hsts") => {
                return "fields are the site's to send: Strict-Transport-Security".to_string();
            }
            _ => {}
        }
        let home = self.schema.iter().find(|other| other.keys.contains(&key));
        if home.is_none()
            && let Some(near) = nearest(key, section.keys)
        {
            return format!("did you mean {near}?");
        }
        match home {
            Some(home) if home.name.is_empty() => {
                format!("{key} stands at the top of the file, before any [section]")
            }
            Some(home) => format!("{key} belongs into {}", home.name),
            None => format!("known here: {}", section.keys.join(", ")),
        }
    }
}

/// The known word that was probably meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // Jaro-Winkler rates a shared beginning; below 0.8 a suggestion is as likely wrong as right, as is
    // one of which more than every third letter differs.
    let near =
        |near: &&&str| strsim::osa_distance(word, near) <= 1 + word.len().max(near.len()) / 3;
    let known = known.iter().filter(near);
    let rated = known.map(|near| (strsim::jaro_winkler(word, near), *near));
    rated.filter(|(rate, _)| *rate > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, near)| near)
}

/// One table; an absent one reads as empty.
pub struct Table<'d> {
    document: &'d Document<'d>,
    path: String,
    section: &'static Section,
    table: Option<&'d DeTable<'d>>,
    span: Range<usize>,
}

impl<'d> Table<'d> {
    fn open(
        document: &'d Document<'d>,
        path: String,
        section: &'static Section,
        table: Option<&'d DeTable<'d>>,
        span: Range<usize>,
    ) -> Table<'d> {
        for (key, _) in table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if !section.keys.contains(&name) {
                let what = format!("no such {}", if path.is_empty() { "key" } else { "key here" });
                let remedy = document.unknown_remedy(section, name);
                document.problem(&key.span(), &join(&path, name), what, remedy);
            }
        }
        Table { document, path, section, table, span }
    }

    /// The value of `key`, where it is written.
    pub fn value(&self, key: &'static str) -> Option<Value<'d>> {
        debug_assert!(self.section.keys.contains(&key), "{key} is not in the section's list");
        let value = self.table?.get(key)?;
        let key = join(&self.path, key);
        Some(Value { document: self.document, key, span: value.span(), value: value.get_ref() })
    }

    /// The table below `key`; an absent one reads as empty.
    pub fn table(&self, key: &'static str) -> Table<'d> {
        if let Some(table) = self.value(key).and_then(|value| value.table(key)) {
            return table;
        }
        let section = self.document.section(key);
        let (document, span) = (self.document, self.span.clone());
        Table { document, path: join(&self.path, key), section, table: None, span }
    }

    /// A problem of a key that may not be written, told where the table begins.
    pub fn problem(&self, key: &str, what: String, remedy: &str) {
        self.document.problem(&self.span, &join(&self.path, key), what, remedy.to_string());
    }

    /// A path relative to the file.
    pub fn relative(&self, written: &str) -> PathBuf {
        self.document.path(written)
    }

    /// A whole number, or the default.
    pub fn integer(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        self.value(key).and_then(|value| value.integer(range)).unwrap_or(default)
    }

    /// A duration, or the default.
    pub fn duration(
        &self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        self.value(key).and_then(|value| value.duration(range)).unwrap_or(default)
    }

    /// A text that is not empty; an empty one means the same as none.
    pub fn text(&self, key: &'static str) -> Option<(Value<'d>, &'d str)> {
        let value = self.value(key)?;
        let text = value.string("a text in quotes").filter(|text| !text.is_empty())?;
        Some((value, text))
    }
}

/// One value, and where it stands.
pub struct Value<'d> {
    document: &'d Document<'d>,
    /// Dotted, as in `queues.handshake_depth`.
    key: String,
    span: Range<usize>,
    value: &'d DeValue<'d>,
}

impl<'d> Value<'d> {
    /// A text.
    pub fn string(&self, expected: &str) -> Option<&'d str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong(expected, "");
        }
        text
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong("true or false", "");
        }
        value
    }

    /// A text that `read` can make something of.
    pub fn parse<T, E: fmt::Display>(
        &self,
        expected: &str,
        read: impl FnOnce(&'d str) -> Result<T, E>,
    ) -> Option<T> {
        match read(self.string(expected)?) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.wrong(expected, &error.to_string());
                None
            }
        }
    }

    /// One of the named choices.
    pub fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        let found = self.found();
        if names.contains(&found.as_str()) {
            self.wrong_with(
                &format!("a text, {expected}"),
                &format!("put it in quotes: {found:?}"),
            );
            return None;
        }
        let text = self.string(&expected)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let remedy = nearest(text, &names).map(|near| format!("did you mean {near:?}?"));
            let what = format!("found {}, expected {expected}", self.found());
            self.problem(what, &remedy.unwrap_or_default());
        }
        found.map(|(_, choice)| *choice)
    }

    /// A whole number within the range.
    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let number = self.value.as_integer().and_then(|integer| {
            u64::from_str_radix(integer.as_str().trim_start_matches('+'), integer.radix()).ok()
        });
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            let quoted = self.value.as_str().is_some_and(|text| text.parse::<u64>().is_ok());
            let remedy = if quoted { "write it without quotes" } else { "" };
            let what = format!(
                "found {}, expected a whole number from {from} to {to}{}",
                self.found(),
                if self.value.is_integer() { "" } else { " without quotes or unit" }
            );
            self.problem(what, remedy);
        }
        number
    }

    /// A duration within the range.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let bounds = (units::duration_text(*range.start()), units::duration_text(*range.end()));
        let expected = format!("a duration from \"{}\" to \"{}\"", bounds.0, bounds.1);
        if let Some(bare) = self.value.as_integer() {
            self.wrong_with(&expected, &format!("write the unit, as in \"{}s\"", bare.as_str()));
            return None;
        }
        let parsed = self.parse(&expected, units::duration)?;
        if !range.contains(&parsed) {
            self.wrong(&expected, "");
            return None;
        }
        Some(parsed)
    }

    /// A size within the range, in bytes.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let bounds = (units::size_text(*range.start()), units::size_text(*range.end()));
        let expected = format!("a size from \"{}\" to \"{}\"", bounds.0, bounds.1);
        if let Some(bare) = self.value.as_integer() {
            self.wrong_with(&expected, &format!("write the unit, as in \"{}B\"", bare.as_str()));
            return None;
        }
        let parsed = self.parse(&expected, units::size)?;
        if !range.contains(&parsed) {
            self.wrong(&expected, "");
            return None;
        }
        Some(parsed)
    }

    /// The word `auto` (`Some(None)`), or what `read` makes of anything else.
    pub fn auto<T>(&self, read: impl FnOnce(&Self) -> Option<T>) -> Option<Option<T>> {
        if self.value.as_str() == Some("auto") {
            return Some(None);
        }
        read(self).map(Some)
    }

    /// The items of a list; a single text where a list is expected says so.
    pub fn items(&self, expected: &str) -> Option<Vec<Value<'d>>> {
        let Some(array) = self.value.as_array() else {
            let remedy = if self.value.is_str() { "put it in brackets: [\"…\"]" } else { "" };
            self.wrong_with(expected, remedy);
            return None;
        };
        let document = self.document;
        let items = array.iter().enumerate().map(|(at, item)| {
            let key = format!("{}[{at}]", self.key);
            Value { document, key, span: item.span(), value: item.get_ref() }
        });
        Some(items.collect())
    }

    /// The value as a table with the keys of section `name`.
    pub fn table(&self, name: &'static str) -> Option<Table<'d>> {
        let section = self.document.section(name);
        let Some(table) = self.value.as_table() else {
            let keys = section.keys.join(", ");
            self.wrong(&format!("a table ({{ … }} or [{name}]) with the keys {keys}"), "");
            return None;
        };
        let key = self.key.clone();
        Some(Table::open(self.document, key, section, Some(table), self.span.clone()))
    }

    /// The entries of a table whose keys the caller judges.
    pub fn entries(&self, expected: &str) -> Option<Vec<(&'d str, Value<'d>)>> {
        let Some(table) = self.value.as_table() else {
            self.wrong(expected, "");
            return None;
        };
        let entries = table.iter().map(|(name, value)| {
            let (name, span) = (name.get_ref().as_ref(), name.span());
            let (document, key) = (self.document, join(&self.key, name));
            (name, Value { document, key, span, value: value.get_ref() })
        });
        Some(entries.collect())
    }

    /// Whether it is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// A path relative to the file.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.string("a path in quotes")?;
        Some(self.document.path(text))
    }

    /// Where it stands.
    pub fn line(&self) -> u32 {
        self.document.line(&self.span)
    }

    /// Tells a problem of this value.
    pub fn problem(&self, what: String, remedy: &str) {
        self.document.problem(&self.span, &self.key, what, remedy.to_string());
    }

    /// Tells something that works but should be known.
    pub fn warning(&self, what: String, remedy: &str) {
        let said = (self.key.as_str(), what, remedy.to_string());
        self.document.tell(Severity::Warning, &self.span, said);
    }

    /// Tells that something else was expected, and why where that is known.
    pub fn wrong(&self, expected: &str, why: &str) {
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        self.problem(format!("found {}{why}, expected {expected}", self.found()), "");
    }

    /// The same, and what to do.
    pub fn wrong_with(&self, expected: &str, remedy: &str) {
        self.problem(format!("found {}, expected {expected}", self.found()), remedy);
    }

    /// The value as it may be shown in one line.
    fn found(&self) -> String {
        let shown = match self.value {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(integer) => integer.to_string(),
            DeValue::Float(float) => float.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(value) => format!("the date {value}"),
            DeValue::Array(_) => "a list".to_string(),
            DeValue::Table(_) => "a table".to_string(),
        };
        match shown.char_indices().nth(FOUND_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}
