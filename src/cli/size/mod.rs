//! `sluss size`: measures what the edge can do on this machine, computes the queues' sizes from it,
//! proves them under overload and only then writes them.
//!
//! What always holds: the old file stays until the new one has been proven, and is replaced whole;
//! unless a running edge is named, everything happens on loopback, against an edge of its own; the
//! time is bounded; the child and its folder end with the command, also by a signal.

mod bounds;
mod cores;
mod edge;
mod goals;
mod kinds;
mod look;
mod measure;
mod objective;
mod origin;
mod page;
mod progress;
mod proof;
mod prove;
mod search;
mod signing;
mod silence;
mod target;
mod traces;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::ConfigFile;
use super::table::{colours, failed, print, print_json};
use crate::config::machine::{key_types, this_machine};
use crate::config::{self, QUEUES_FILE_KEYS, Snapshot};
use crate::sizing::{self, Bounds, Capacity, Figure, Goals, KeyType, Machine, Sizing, labels};

use cores::Cores;
use edge::{Edge, Outline, Scene};
use kinds::Kinds;
use measure::{Measurement, Pace, Subject};
use objective::{Objective, Work};
use page::Findings;
use progress::Progress;
use proof::Proof;
use prove::Promise;
use silence::Silence;
use traces::Traces;

/// The search gives up after this; with the proof the whole stays under ten minutes.
const SEARCH_MAX: Duration = Duration::from_secs(400);
/// The same with `--quick`.
const QUICK_SEARCH_MAX: Duration = Duration::from_secs(90);
/// Where nothing else is said.
const HANDSHAKE_OBJECTIVE: &str = "p99 handshake < 250ms";
const REQUEST_OBJECTIVE: &str = "p99 request < 100ms";

/// The arguments of `sluss size`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// What must hold while the load grows: p50, p90 or p99 of handshake or request < TIME; may be
    /// repeated [default: "p99 handshake < 250ms" and "p99 request < 100ms"]
    #[arg(long, value_name = "TEXT")]
    objective: Vec<Objective>,
    /// Where the figures go [default: the configuration's queues.file]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write figures, arithmetic and proof as one page with plots
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    html: Option<PathBuf>,
    /// Print the arithmetic of each figure
    #[arg(long)]
    explain: bool,
    /// Shorter steps and fewer runs: a minute or two, rougher figures
    #[arg(long)]
    quick: bool,
    /// The length of a step of the search, from 10ms to 10s [default: 1.5s, with --quick 400ms]
    #[arg(long, value_name = "TIME", value_parser = step)]
    step: Option<Duration>,
    /// Print figures, arithmetic and proof as JSON; what is for people goes to standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    goals: goals::Stated,
    #[command(flatten)]
    running: target::Running,
}

fn step(text: &str) -> Result<Duration, String> {
    let step = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_secs(10);
    if allowed.contains(&step) { Ok(step) } else { Err("a step takes from 10ms to 10s".into()) }
}

/// Measures, computes, proves, writes: 0 where it did all of it, else 1.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match size(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// What a measurement starts from.
struct Start<'s> {
    arguments: &'s Arguments,
    main: &'s Path,
    snapshot: &'s Snapshot,
    machine: Machine,
    goals: Goals,
    handshake: Objective,
    request: Objective,
    pace: Pace,
    progress: Progress,
}

fn size(arguments: &Arguments) -> Result<()> {
    let main = arguments.config.path();
    let snapshot = read(&main)?;
    let [handshake, request] = objectives(&arguments.objective)?;
    let usual = if arguments.quick { Pace::QUICK } else { Pace::FULL };
    let measured = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let start = Start {
        arguments,
        main: &main,
        machine: Machine { measured: Some(measured), ..this_machine(&snapshot.certs) },
        goals: arguments.goals.goals(&snapshot),
        handshake,
        request,
        pace: arguments.step.map_or(usual, |step| usual.with_step(step)),
        progress: Progress::new(),
        snapshot: &snapshot,
    };
    let Written { out, text, json } = match arguments.running.is_named() {
        true => start.size_running()?,
        false => start.size_own()?,
    };
    write_whole(&out, &text).with_context(|| format!("cannot write {}", out.display()))?;
    start.say(&format!("{} is written; `sluss reload` or a restart applies it", out.display()));
    for key in keys_that_win(&main) {
        start.say(&format!("! {key} is also set in {}, and that wins", main.display()));
    }
    if arguments.json {
        print_json(&json);
    }
    Ok(())
}

/// What there is to write and to print.
struct Written {
    out: PathBuf,
    /// The file.
    text: String,
    json: Value,
}

/// The result for scripts.
fn json(out: &Path, sizing: &Sizing, proof: Option<&Proof>) -> Value {
    let figure = |figure: &Figure| {
        let Figure { section, key, value, arithmetic, reason } = figure;
        let value = match value {
            sizing::Value::Count(count) => json!(count),
            text @ (sizing::Value::Auto | sizing::Value::Time(_)) => {
                json!(text.to_string().trim_matches('"'))
            }
        };
        json!({
            "section": section, "key": key, "value": value,
            "arithmetic": arithmetic, "reason": reason,
        })
    };
    json!({
        "file": out.display().to_string(),
        "figures": sizing.figures.iter().map(figure).collect::<Vec<_>>(),
        "notes": sizing.notes,
        "advice": sizing.advice,
        "proof": proof.map(Proof::json),
    })
}

/// The configuration as a start would take it.
fn read(main: &Path) -> Result<Snapshot> {
    let outcome = config::load(main, None);
    for problem in outcome.problems.iter().filter(|problem| problem.is_harmful()) {
        eprintln!("{}: {problem}", problem.severity.label());
    }
    let refused = || format!("{} is refused; nothing was measured", main.display());
    outcome.snapshot.with_context(refused)
}

impl Start<'_> {
    /// What is for people: beside JSON it goes to standard error.
    fn say(&self, text: &str) {
        if self.arguments.json { eprintln!("{}", text.trim_end()) } else { print(text) }
    }

    /// Measures an edge of this command's own, and proves what follows.
    fn size_own(&self) -> Result<Written> {
        let traces = Traces::default();
        traces.clear_on_signals().context("signals cannot be received")?;
        let threads = self.snapshot.runtime.threads;
        let cores = Cores::divide().context("cannot divide the cores")?;
        cores.take_own().context("cannot divide the cores")?;
        let kinds = Kinds::choose(&key_types(&self.snapshot.certs), self.pace.kinds)?;
        self.say_computed(&kinds);
        let origins = origin::start().context("cannot start an endpoint on loopback")?;
        let measured = threads.min(cores.of_the_edge());
        let outline =
            Outline { main: self.main, threads: measured, keys: &kinds.measured, origins };
        let scene = Scene::make(&outline, &cores, &traces)?;
        let page = |key: &KeyType| Ok((*key, edge::page(*key)?));
        let pages = kinds.measured.iter().map(page).collect::<Result<_>>()?;
        let mut subject = Subject {
            address: origins.answering,
            process: None,
            admin: None,
            threads: measured,
            silent: Some(edge::silent_page()?),
            pages,
        };
        let mut capacity = {
            let edge = scene.start()?;
            subject.take(&edge);
            self.measure(&subject)?
        };
        capacity.full_handshakes = kinds.rates(capacity.full_handshakes, measured);
        let bounds = bounds::read(threads);
        let mut sizing = sizing::size(&capacity, &self.goals, &bounds);
        self.explain(&sizing);
        let share = Bounds { threads: measured, ..bounds };
        let new = sizing::size(&capacity, &self.goals, &share).render(&self.machine);
        let mut promise = Promise::of(&capacity, &self.goals, self.request)?;
        if cores.are_shared() {
            // The flood itself takes half of the one core that there is.
            promise.floor /= 2.0;
        }
        let silence = Silence::of(&sizing, self.own_depth(), self.goals.request_deadline);
        let mut proof =
            Proof { promise, before: Vec::new(), after: Vec::new(), silence, heard: None };
        let old = self.old_figures(measured as f64 / threads as f64);
        scene.write_queues(&old)?;
        proof.before =
            self.on_an_edge(&scene, &mut subject, |edge| promise.rows(edge, &self.pace))?;
        scene.write_queues(&new)?;
        (proof.after, proof.heard) = self.on_an_edge(&scene, &mut subject, |edge| {
            let rows = promise.rows(edge, &self.pace)?;
            let shown = silence.hindrance().is_none();
            let heard = shown.then(|| silence.look(edge, &promise, &self.pace)).transpose()?;
            Ok((rows, heard))
        })?;
        self.report(&mut sizing, &proof)?;
        let out = self.arguments.out.as_ref().unwrap_or(&self.snapshot.places.queues);
        let json = json(out, &sizing, Some(&proof));
        Ok(Written { out: out.clone(), text: sizing.render(&self.machine), json })
    }

    /// The depth of the request queues that the main file has itself.
    fn own_depth(&self) -> Option<u64> {
        let wins = keys_that_win(self.main).iter().any(|key| key == "queues.request_depth");
        wins.then_some(self.snapshot.queues.request_depth as u64)
    }

    /// Measures an edge that runs already. It is not proven: that would take its queues from it.
    fn size_running(&self) -> Result<Written> {
        let subject = self.arguments.running.find(self.main, self.snapshot.runtime.threads)?;
        let capacity = self.measure(&subject)?;
        let here = target::is_here(subject.address);
        let bounds = bounds::read(subject.threads);
        let mut sizing = sizing::size(&capacity, &self.goals, &bounds);
        let keys = labels(subject.pages.iter().map(|(key, _)| *key));
        let mut machine = Machine { key_types: Some(keys), ..self.machine.clone() };
        if !here {
            // Of another machine neither its memory nor its kernel's bounds are known.
            sizing.figures.retain(|figure| figure.key != "max_connections");
            sizing.advice.clear();
            machine = Machine { cores: None, cpu: None, ..machine };
        }
        self.explain(&sizing);
        let unproven = "Not proven: that takes an edge of its own, without --target";
        sizing.notes.push(unproven.to_owned());
        self.say(unproven);
        let out = self.arguments.out.clone().context("--target needs --out")?;
        let json = json(&out, &sizing, None);
        Ok(Written { out, text: sizing.render(&machine), json })
    }

    fn measure(&self, subject: &Subject) -> Result<Capacity> {
        let search = if self.arguments.quick { QUICK_SEARCH_MAX } else { SEARCH_MAX };
        let measurement = Measurement {
            subject,
            handshake: self.handshake,
            request: self.request,
            pace: self.pace,
            end: Instant::now() + search,
            progress: &self.progress,
        };
        let capacity = measurement.run();
        self.progress.clear();
        capacity.context("nothing was written")
    }

    /// Names the kinds of keys whose handshakes are not measured.
    fn say_computed(&self, kinds: &Kinds) {
        if !kinds.computed.is_empty() {
            self.say(&format!(
                "handshakes with {} are computed from the others and from what a signature takes",
                labels(kinds.computed.iter().copied())
            ));
        }
    }

    /// The figures in words, and what stands against them.
    fn explain(&self, sizing: &Sizing) {
        if self.arguments.explain {
            self.say(&sizing.explain());
        } else {
            for advice in &sizing.advice {
                self.say(&format!("! {advice}"));
            }
        }
    }

    /// The figures in force, for an edge with that part of the threads; empty where no file has any.
    fn old_figures(&self, share: f64) -> String {
        let text = fs::read_to_string(&self.snapshot.places.queues).unwrap_or_default();
        let mut table: toml::Table = text.parse().unwrap_or_default();
        let queues = table.get_mut("queues").and_then(toml::Value::as_table_mut);
        if let Some(toml::Value::Integer(depth)) =
            queues.and_then(|queues| queues.get_mut("handshake_depth"))
        {
            *depth = (*depth as f64 * share).ceil() as i64;
        }
        table.to_string()
    }

    /// Starts an edge with the figures in place and offers it more than it can do.
    fn on_an_edge<T>(
        &self,
        scene: &Scene,
        subject: &mut Subject,
        offer: impl FnOnce(&Subject) -> Result<T>,
    ) -> Result<T> {
        let edge = scene.start()?;
        subject.take(&edge);
        self.progress.now("the proof");
        let seen = offer(subject);
        self.progress.clear();
        seen
    }

    /// Shows the proof and notes what it proves; an error where a bound does not hold.
    fn report(&self, sizing: &mut Sizing, proof: &Proof) -> Result<()> {
        let Proof { promise, before, after, .. } = proof;
        let broken = proof.broken();
        self.say(&format!(
            "\nProof: {} handshakes beside {:.0} requests/s of established visitors\n\nbefore\n{}\n\
             with the new figures\n{}\n{}",
            promise.key,
            promise.established_per_second,
            prove::table(promise, before, colours()),
            prove::table(promise, after, colours()),
            proof.told()
        ));
        for row in after.iter().filter(|row| !row.behind.is_empty()) {
            let behind = row.behind.join("; ");
            self.say(&format!("at {:.1} x capacity the generator was late: {behind}", row.factor));
        }
        if broken.is_empty() {
            self.say(&prove::proven(promise, after));
            sizing.notes.extend(proof.notes());
        }
        if let Some(file) = &self.arguments.html {
            let (machine, broken) = (&self.machine, &broken);
            let page = page::html(&Findings { machine, sizing, proof, broken });
            fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if !broken.is_empty() {
            bail!("the bounds do not hold, nothing was written:\n  {}", broken.join("\n  "));
        }
        Ok(())
    }
}

impl Subject {
    /// The edge that serves from now on.
    fn take(&mut self, edge: &Edge) {
        (self.address, self.process) = (edge.address, Some(edge.process));
        self.admin = Some(edge.admin);
    }
}

/// For handshakes and for requests; the last of each kind counts.
fn objectives(written: &[Objective]) -> Result<[Objective; 2]> {
    let mut handshake: Objective = HANDSHAKE_OBJECTIVE.parse()?;
    let mut request: Objective = REQUEST_OBJECTIVE.parse()?;
    for one in written {
        match one.work {
            Work::Handshake => handshake = *one,
            Work::Request => request = *one,
        }
    }
    Ok([handshake, request])
}

/// A reader sees the old file or the new one; so does the next start after a crash.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or("queues.toml".as_ref()));
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
    fs::rename(&new, path)
}

/// Keys of the queues' file that the main file sets itself.
fn keys_that_win(main: &Path) -> Vec<String> {
    let table: toml::Table =
        fs::read_to_string(main).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    let sections = QUEUES_FILE_KEYS.iter().filter(|section| !section.name.is_empty());
    let set = |section: &str, key: &str| {
        table.get(section).and_then(|section| section.get(key)).is_some()
    };
    sections
        .flat_map(|section| section.keys.iter().map(|key| (section.name, *key)))
        .filter(|(section, key)| set(section, key))
        .map(|(section, key)| format!("{section}.{key}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_objective_of_each_kind_counts() {
        let written =
            ["p99 handshake < 1s", "p90 handshake < 2s"].map(|text| text.parse().unwrap());
        let told = objectives(&written).unwrap().map(|one| one.to_string());
        assert_eq!(told, ["p90 handshake < 2s", REQUEST_OBJECTIVE]);
    }

    #[test]
    fn the_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queues.toml");
        for text in ["one", "two"] {
            write_whole(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn keys_that_the_main_file_sets_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("sluss.toml");
        fs::write(&main, "[listen]\nbacklog = 9\n[queues]\nfile = \"q\"\nin_flight = 7\n").unwrap();
        assert_eq!(keys_that_win(&main), ["listen.backlog", "queues.in_flight"]);
    }
}
