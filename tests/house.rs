//! The rules of the house, read off the sources: layers, pure files, sizes, names, headers, and
//! that the documents list every rule, reason, metric and key.
//!
//! A rule that cannot be kept somewhere is changed here, in the open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sluss::alarms::{Alarm, Urgency};
use sluss::config::{MAIN_KEYS, QUEUES_FILE_KEYS, SITE_KEYS, Section};
use sluss::refusal::Refusal;
use sluss::screen::Rule;

/// The rooms from the bottom up. A room imports lower lines only; rooms of one line do not know
/// each other.
const LAYERS: &[&[&str]] = &[
    &[
        "background",
        "buffers",
        "identity",
        "kernel",
        "names",
        "pem",
        "plain_file",
        "problem",
        "refusal",
        "shards",
        "timers",
    ],
    &["queue", "screen", "sizing"],
    &["accesslog", "alarms", "certs", "findings", "heads", "metrics", "sites"],
    &["admission", "config", "downstream", "listener", "tls", "upstream"],
    &["proxy"],
    &["reload"],
    &["admin"],
    &["load", "server"],
    &["cli"],
];

/// Files and folders without async, clock, socket, file, randomness or a static that can change;
/// so are all others whose header says that they are pure.
const PURE: &[&str] = &[
    "config/endpoint.rs",
    "config/resolve.rs",
    "config/units.rs",
    "config/walk.rs",
    "load/arrivals.rs",
    "load/report.rs",
    "names.rs",
    "problem.rs",
    "queue.rs",
    "queue/",
    "refusal.rs",
    "screen/",
    "sites.rs",
    "sizing.rs",
    "sizing/",
    "upstream/balance.rs",
    "upstream/health.rs",
    "upstream/retry.rs",
];

/// What no pure file has. Data that never changes may be a `static`; what can change may not.
const IMPURE: &[&str] = &[
    ".await",
    "async fn",
    "Instant::now",
    "RandomState",
    "SystemTime::now",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "thread_local!",
    "static mut",
    "tokio::io",
    "tokio::net",
    "tokio::select",
    "tokio::spawn",
    "tokio::sync",
    "tokio::task",
    "tokio::time::sleep",
    "tokio::time::timeout",
];

/// Types that make a `static` one that can change.
const CHANGING: &[&str] = &["Atomic", "Cell", "LazyLock", "Mutex", "OnceLock", "RwLock"];

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: &[&str] =
    &["common", "helper", "helpers", "manager", "misc", "traits", "types", "util", "utils"];

const LINES_MAX: usize = 600;
/// Tests are data; they may be longer, not endless.
const TEST_LINES_MAX: usize = 900;

/// A source file.
struct Source {
    /// Below the root of the repository, as `src/config/mod.rs`.
    path: String,
    text: String,
}

impl Source {
    /// Below `src/`, where it is there.
    fn place(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }

    /// The first folder or file below `src/`: the room.
    fn room(&self) -> Option<&str> {
        let first = self.place()?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        self.place().is_none() || parts.any(|part| ["tests", "tests.rs"].contains(&part))
    }

    /// The lines with their numbers, without the tests at the end and without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        let lines = lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
        let lines = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
        lines.map(|(at, line)| (at + 1, line))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> =
        ["src", "tests", "benches", "examples"].iter().map(|name| root().join(name)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("a folder of the sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let path = path.strip_prefix(root()).expect("found below the root");
                let path = path.to_string_lossy().into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 50, "the sources were not found");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).unwrap_or_default()
}

/// Fails with everything that was found.
#[track_caller]
fn expect_none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The rooms named as `crate::ROOM` in a line.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn rooms_import_lower_rooms_only() {
    let line_of: BTreeMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(line, rooms)| rooms.iter().map(move |room| (*room, line)))
        .collect();
    let mut found = Vec::new();
    for source in sources() {
        let Some(room) = source.room().filter(|room| !["lib", "main"].contains(room)) else {
            continue;
        };
        let Some(own) = line_of.get(room) else {
            found.push(format!("{}: the room {room} is not in LAYERS", source.path));
            continue;
        };
        for (at, line) in source.code() {
            for other in imports(line).filter(|other| *other != room) {
                if line_of.get(other).is_none_or(|line| line >= own) {
                    found.push(format!("{}:{at}: {room} imports {other}", source.path));
                }
            }
        }
    }
    expect_none(found);
}

/// The load generator knows the proxy over the socket alone: what it reports is what clients see.
#[test]
fn the_load_generator_knows_nothing_of_the_proxy() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.room() == Some("load")) {
        for (at, line) in source.code() {
            let others =
                imports(line).filter(|other| !["kernel", "load", "names", "pem"].contains(other));
            found.extend(others.map(|other| format!("{}:{at}: load imports {other}", source.path)));
        }
    }
    expect_none(found);
}

#[test]
fn pure_files_have_no_clock_no_socket_no_file_and_no_state() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let Some(place) = source.place() else { continue };
        let listed = PURE.iter().any(|pure| match pure.strip_suffix('/') {
            Some(_) => place.starts_with(pure),
            None => place == *pure,
        });
        let mut header = source.text.lines().take_while(|line| line.starts_with("//!"));
        let says_so = header.any(|line| line.contains("Pure.") || line.contains("Pure:"));
        if !listed && !says_so {
            continue;
        }
        for (at, line) in source.code() {
            let is_static = line.contains("static ") && !line.contains("'static ");
            let changing = CHANGING.iter().filter(|name| is_static && line.contains(**name));
            for word in IMPURE.iter().filter(|word| line.contains(**word)).chain(changing) {
                found.push(format!("{}:{at}: {word} in a pure file", source.path));
            }
        }
    }
    expect_none(found);
}

/// The fuzz targets take the room's sources by path: what it imports must be theirs as well.
#[test]
fn the_fuzz_targets_have_what_the_screening_room_imports() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the targets");
    let taken = |source: &&Source| {
        let room = source.room().is_some_and(|room| ["names", "refusal", "screen"].contains(&room));
        room && !source.is_test() && !source.path.ends_with("/properties.rs")
    };
    let mut found = Vec::new();
    for source in sources().iter().filter(taken) {
        for (at, line) in source.code() {
            let name = line.strip_prefix("use ").and_then(|rest| rest.split("::").next());
            let own = |name: &str| ["core", "crate", "self", "std", "super"].contains(&name);
            if let Some(name) = name.filter(|name| !own(name))
                && !manifest.contains(&format!("\n{name} = "))
            {
                found.push(format!("{}:{at}: fuzz/Cargo.toml lacks {name}", source.path));
            }
        }
    }
    expect_none(found);
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let too_long = |source: &Source| {
        let lines = source.text.lines().count();
        let max = if source.is_test() { TEST_LINES_MAX } else { LINES_MAX };
        (lines > max).then(|| format!("{}: {lines} lines, at most {max}", source.path))
    };
    expect_none(sources().iter().filter_map(too_long).collect());
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = |source: &Source| {
        (!source.text.starts_with("//! ")).then(|| format!("{}: no //! header", source.path))
    };
    expect_none(sources().iter().filter_map(silent).collect());
}

#[test]
fn names_say_what_is_in_a_file() {
    let empty = |source: &Source| {
        let mut parts = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
        let name = parts.find(|part| EMPTY_NAMES.contains(part))?;
        Some(format!("{}: the name {name} says nothing", source.path))
    };
    expect_none(sources().iter().filter_map(empty).collect());
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.path != "tests/house.rs") {
        for (at, line) in source.text.lines().enumerate() {
            let words = ["TODO", "FIXME", "XXX", "#[ignore", "#[should_panic"];
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", source.path, at + 1));
            }
        }
    }
    expect_none(found);
}

#[test]
fn every_reason_for_a_refusal_is_documented() {
    let text = document("refusals.md");
    let missing = Refusal::ALL.iter().filter(|one| !text.contains(&row(one.label())));
    expect_none(missing.map(|one| format!("docs/refusals.md: no row {}", one.label())).collect());
}

#[test]
fn every_alarm_is_documented() {
    let text = document("alarms.md");
    let missing = Alarm::ALL.iter().filter(|alarm| !text.contains(&row(alarm.label())));
    expect_none(missing.map(|one| format!("docs/alarms.md: no row {}", one.label())).collect());
}

/// Prometheus must not learn late of what harms visitors now.
#[test]
fn the_alert_rules_know_each_critical_alarm() {
    let path = root().join("config/prometheus-alerts.yml");
    let rules = fs::read_to_string(path).expect("the rules");
    let critical = Alarm::ALL.iter().filter(|alarm| alarm.urgency() == Urgency::Critical);
    let expected: BTreeSet<&str> = critical.map(|alarm| alarm.label()).collect();
    for operator in ["=~", "!~"] {
        let rest = rules.split_once(&format!("sluss_alarm{{alarm{operator}\"")).expect(operator).1;
        let named: BTreeSet<&str> = rest.split('"').next().unwrap_or("").split('|').collect();
        assert_eq!(named, expected, "alarm{operator} in config/prometheus-alerts.yml");
    }
}

#[test]
fn every_alarm_has_a_title_on_the_dashboard() {
    let path = root().join("src/admin/page/dashboard.js");
    let script = fs::read_to_string(path).expect("the script");
    let titles = script.split("const TITLES = {").nth(1).unwrap_or("").split("};").next();
    let titles = titles.unwrap_or("");
    let missing = Alarm::ALL.iter().filter(|a| !titles.contains(&format!("\"{}\": ", a.label())));
    expect_none(missing.map(|one| format!("dashboard.js: no title of {}", one.label())).collect());
}

#[test]
fn every_rule_of_the_screener_is_documented() {
    let text = document("screening.md");
    let missing = Rule::ALL.iter().filter(|rule| !text.contains(&format!("`{}`", rule.code())));
    expect_none(missing.map(|rule| format!("docs/screening.md: no {}", rule.code())).collect());
}

#[test]
fn every_metric_is_documented() {
    let text = document("metrics.md");
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (at, line) in source.code() {
            for rest in line.split("\"sluss_").skip(1) {
                let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_' && c != '2');
                let name = format!("sluss_{}", &rest[..end.unwrap_or(rest.len())]);
                // A part of a name, as for a prefix, ends with its underscore.
                if !name.ends_with('_') && !text.contains(&format!("`{name}`")) {
                    found.push(format!("{}:{at}: {name} is not in docs/metrics.md", source.path));
                }
            }
        }
    }
    expect_none(found);
}

#[test]
fn every_key_of_the_configuration_is_documented() {
    let text = document("configuration.md");
    let mut found = Vec::new();
    let mut expect = |heading: &str, keys: &[&str]| {
        let passage = passage(&text, heading);
        let missing = keys.iter().filter(|key| !passage.contains(&format!("`{key}`")));
        found.extend(missing.map(|key| format!("docs/configuration.md: {heading}: no {key}")));
    };
    for section in MAIN_KEYS.iter().filter(|section| !section.name.is_empty()) {
        expect(&format!("### `[{}]`", section.name), section.keys);
    }
    for section in SITE_KEYS {
        let heading = match section.name {
            "" => "### A site's file".to_string(),
            name => format!("### `{name}`"),
        };
        expect(&heading, section.keys);
    }
    let dotted = |section: &Section| {
        let name = section.name;
        section.keys.iter().map(move |key| format!("{name}.{key}")).collect::<Vec<_>>()
    };
    let sections = QUEUES_FILE_KEYS.iter().filter(|section| !section.name.is_empty());
    for keys in sections.map(dotted) {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        expect("### `queues.toml`", &keys);
    }
    expect_none(found);
}

/// The shipped configuration shows every key, so that nobody has to look for one.
#[test]
fn the_shipped_configuration_shows_every_key() {
    let read =
        |name: &str| fs::read_to_string(root().join("config").join(name)).unwrap_or_default();
    let (main, site) = (read("sluss.toml"), read("sites/shop.toml"));
    let mut found = Vec::new();
    for (file, text, sections) in
        [("sluss.toml", &main, MAIN_KEYS), ("sites/shop.toml", &site, SITE_KEYS)]
    {
        for section in sections {
            let missing = section.keys.iter().filter(|key| {
                let table = section.name.is_empty() && text.contains(&format!("[{key}]"));
                !table && !text.contains(&format!("{key} = "))
            });
            found.extend(missing.map(|key| format!("config/{file}: no {}.{key}", section.name)));
        }
    }
    expect_none(found);
}

/// How a row of a table begins.
fn row(name: &str) -> String {
    format!("\n| `{name}` |")
}

/// The text from a heading to the next.
fn passage<'t>(text: &'t str, heading: &str) -> &'t str {
    let Some(start) = text.find(&format!("\n{heading}\n")) else { return "" };
    let rest = &text[start + heading.len() + 2..];
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}
