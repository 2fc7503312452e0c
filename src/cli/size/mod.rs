//! `sluss size`: measures what the edge can do on this machine, computes the queues' sizes from it,
//! proves them under overload and only then writes them.
//!
//! What always holds: the old file stays until the new one has been proven, and is replaced whole;
//! everything runs on loopback, against an edge of its own; the time is bounded; the child ends with
//! the command.

mod edge;
mod machine;
mod measure;
mod objective;
mod origin;
mod progress;
mod prove;
mod search;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::ConfigFile;
use super::table::{colours, failed, print};
use crate::certs::KeyKind;
use crate::config::{self, QUEUES_FILE_KEYS, Snapshot};
use crate::sizing::{self, Goals, KeyType, Sizing};

use edge::Scene;
use measure::{Measurement, Pace};
use objective::{Objective, Work};
use progress::Progress;
use prove::Promise;

/// The search gives up after this; with the proof the whole stays under ten minutes.
const SEARCH_MAX: Duration = Duration::from_secs(540);
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
    /// Print the arithmetic of each figure
    #[arg(long)]
    explain: bool,
    /// Shorter steps and fewer runs: half a minute, rougher figures
    #[arg(long)]
    quick: bool,
}

/// Measures, computes, proves, writes: 0 where it did all of it, else 1.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match size(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn size(arguments: &Arguments) -> Result<()> {
    let main = arguments.config.path();
    let snapshot = read(&main)?;
    let out = arguments.out.clone().unwrap_or_else(|| snapshot.places.queues.clone());
    let keys = key_types(&snapshot);
    let goals = Goals {
        handshake_deadline: snapshot.queues.handshake_deadline,
        request_deadline: snapshot.queues.request_deadline,
        ..Goals::default()
    };
    let origin = origin::start().context("cannot start an endpoint on loopback")?;
    let scene = Scene::make(&main, &keys, origin)?;
    let progress = Progress::new();
    let (sizing, promise) = measure(arguments, &snapshot, &scene, (&keys, &goals), &progress)?;
    let text = sizing.render(&machine::describe(&keys));
    if arguments.explain {
        print(&sizing.explain());
    } else {
        for advice in &sizing.advice {
            print(&format!("! {advice}"));
        }
    }
    scene.write_queues(&text)?;
    prove(&promise, &scene, pace(arguments), &progress)?;
    write_whole(&out, &text).with_context(|| format!("cannot write {}", out.display()))?;
    print(&format!("{} is written; `sluss reload` or a restart applies it", out.display()));
    for key in keys_that_win(&main) {
        print(&format!("! {key} is also set in {}, and that wins", main.display()));
    }
    Ok(())
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

/// ECDSA always, as new certificates have it; RSA where one is in use.
fn key_types(snapshot: &Snapshot) -> Vec<KeyType> {
    let is_rsa = |kind| matches!(kind, KeyKind::Rsa(_));
    let rsa = snapshot.certs.all().any(|certificate| is_rsa(certificate.key()));
    if rsa { vec![KeyType::Ecdsa, KeyType::Rsa] } else { vec![KeyType::Ecdsa] }
}

fn pace(arguments: &Arguments) -> Pace {
    if arguments.quick { Pace::QUICK } else { Pace::FULL }
}

fn measure(
    arguments: &Arguments,
    snapshot: &Snapshot,
    scene: &Scene,
    (keys, goals): (&[KeyType], &Goals),
    progress: &Progress,
) -> Result<(Sizing, Promise)> {
    let [handshake, request] = objectives(&arguments.objective)?;
    let search = if arguments.quick { QUICK_SEARCH_MAX } else { SEARCH_MAX };
    let edge = scene.start()?;
    let end = Instant::now() + search;
    let pace = pace(arguments);
    let measurement = Measurement { edge: &edge, keys, handshake, request, pace, end, progress };
    let capacity = measurement.run();
    progress.clear();
    let capacity = capacity.context("nothing was written")?;
    let bounds = machine::bounds(snapshot.runtime.threads);
    let promise = Promise::of(&capacity, goals.handshake_deadline, request)?;
    Ok((sizing::size(&capacity, goals, &bounds), promise))
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

/// Starts an edge with the new figures and offers it more than it can do.
fn prove(promise: &Promise, scene: &Scene, pace: Pace, progress: &Progress) -> Result<()> {
    let edge = scene.start().context("with the new figures")?;
    progress.now("the proof");
    let rows = promise.rows(edge.address, &pace);
    progress.clear();
    let rows = rows?;
    print(&format!(
        "\nProof: {} handshakes beside {:.0} requests/s of established visitors\n{}",
        promise.key.label(),
        promise.established_per_second,
        prove::table(promise, &rows, colours())
    ));
    for row in rows.iter().filter(|row| !row.behind.is_empty()) {
        let behind = row.behind.join("; ");
        print(&format!("at {} x capacity the generator was late: {behind}", row.factor));
    }
    let broken = prove::judge(promise, &rows);
    if !broken.is_empty() {
        bail!("the bounds do not hold, nothing was written:\n  {}", broken.join("\n  "));
    }
    Ok(())
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
