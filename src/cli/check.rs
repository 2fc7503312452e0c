//! `sluss check`: everything that a start or a reload would verify; changes nothing.

mod heads;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use heads::Verdicts;

use super::ConfigFile;
use crate::config::{self, Outcome};
use crate::listener::backlog;
use crate::problem::{Problem, Severity};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// Judge recorded heads instead (one after the other, as `curl -si` or a capture leaves them)
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
    /// Judge them as this site would
    #[arg(long, value_name = "NAME", requires = "heads")]
    site: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Verdict<'v> {
    good: bool,
    file: &'v Path,
    sites: usize,
    problems: &'v [Problem],
}

/// Exit code 0 where all is good but for warnings, else 1.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let file = arguments.config.path();
    let mut outcome = config::check(&file);
    if let (Some(recording), Some(snapshot)) = (&arguments.heads, &outcome.snapshot) {
        return match Verdicts::on(recording, snapshot, arguments.site.as_deref()) {
            Ok(verdicts) if arguments.json => print(&pretty(&verdicts), verdicts.is_good()),
            Ok(verdicts) => print(&verdicts.text(), verdicts.is_good()),
            Err(why) => {
                eprintln!("sluss check: {why}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(snapshot) = &outcome.snapshot {
        outcome.problems.extend(backlog::clamped_problem(snapshot.listen.backlog, &file));
    }
    let good = !outcome.problems.iter().any(Problem::is_harmful);
    let text = if arguments.json { json(&file, &outcome, good) } else { text(&file, &outcome) };
    print(&text, good)
}

fn print(text: &str, good: bool) -> ExitCode {
    // A reader that went away (`sluss check | head`) has seen what it wanted.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    ExitCode::from(u8::from(!good))
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("\"{error}\""))
}

fn json(file: &Path, outcome: &Outcome, good: bool) -> String {
    let verdict = Verdict { good, file, sites: sites(outcome), problems: &outcome.problems };
    pretty(&verdict)
}

/// The problems, each file's under its name, and a line that sums up.
fn text(file: &Path, outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut problems: Vec<&Problem> = outcome.problems.iter().collect();
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    let mut above = None;
    for problem in problems {
        if above != Some(&problem.file) {
            let _ = writeln!(text, "{}", problem.file.display());
            above = Some(&problem.file);
        }
        let line = problem.line.map_or(String::new(), |line| format!("line {line}: "));
        let key = if problem.key.is_empty() { "" } else { ": " };
        let label = problem.severity.label();
        let _ = writeln!(text, "  {label}: {line}{}{key}{}", problem.key, problem.what);
        if !problem.remedy.is_empty() {
            let _ = writeln!(text, "      {}", problem.remedy);
        }
    }
    let count = |harmful| outcome.problems.iter().filter(|one| one.is_harmful() == harmful).count();
    let (errors, warnings) = (count(true), count(false));
    let verdict = match outcome.problems.iter().map(|problem| problem.severity).max() {
        None | Some(Severity::Warning) => "good",
        Some(Severity::Part) => "would serve in part",
        Some(Severity::Fatal) => "would be refused",
    };
    let (file, sites) = (file.display(), sites(outcome));
    let _ = write!(
        text,
        "{file}: {verdict}: {}, {}",
        counted(errors, "error"),
        counted(warnings, "warning")
    );
    if outcome.snapshot.is_some() {
        let _ = write!(text, ", {}", counted(sites, "site"));
    }
    text
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn sites(outcome: &Outcome) -> usize {
    outcome.snapshot.as_ref().map_or(0, |snapshot| snapshot.sites.all().len())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn problems_stand_under_their_file_and_the_last_line_sums_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sluss.toml");
        for name in ["sites", "certs"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(&file, "[log]\nformat = \"text\"\nacces = \"off\"\n").unwrap();
        fs::write(folder.path().join("sites/a.toml"), "hosts = [\"a.test\"]\n").unwrap();
        let found = text(&file, &config::check(&file));
        let found = found.replace(&format!("{}/", folder.path().display()), "");
        let expected = "sites/a.toml
  error in one part: line 1: upstreams: missing, expected a list of upstreams, as \
                        [\"http://127.0.0.1:8001\"]
      name where the site's requests go
sluss.toml
  error: line 3: log.acces: no such key here
      did you mean access?
sluss.toml: would be refused: 2 errors, 0 warnings";
        assert_eq!(found, expected);
    }

    #[test]
    fn recorded_heads_are_judged_as_the_site_would() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sites", "certs"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let site = "hosts = [\"a.test\"]\nupstreams = [\"http://a\"]\n\
                    rules = { obs-fold = \"refuse\" }\n";
        fs::write(folder.path().join("sites/a.toml"), site).unwrap();
        fs::write(folder.path().join("sluss.toml"), "").unwrap();
        let recording = folder.path().join("heads");
        let heads = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n\
                     HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n";
        fs::write(&recording, heads).unwrap();
        let snapshot = config::check(&folder.path().join("sluss.toml")).snapshot.unwrap();
        let lenient = Verdicts::on(&recording, &snapshot, None).unwrap();
        assert!(lenient.is_good());
        let text = lenient.text();
        assert!(text.contains("heads:4: response HTTP/1.1 200 OK: forwarded"), "{text}");
        assert!(text.contains("2 heads, 1 with findings, 0 refused"), "{text}");
        let strict = Verdicts::on(&recording, &snapshot, Some("a")).unwrap();
        assert!(!strict.is_good());
        assert!(strict.text().contains("obs-fold (refuse)"), "{}", strict.text());
        let unknown = Verdicts::on(&recording, &snapshot, Some("b")).err().unwrap();
        assert!(unknown.contains("no site \"b\""), "{unknown}");
    }
}
