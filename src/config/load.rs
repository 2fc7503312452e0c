//! Reads the files of a configuration and makes the next [`Snapshot`] of them.
//!
//! Blocking, and at its best with several cores: call it off the serving threads. Nothing is
//! changed but what is returned, so that `sluss check` and a reload are the same code. A main file
//! with a mistake refuses the whole; a site's mistake concerns that site alone.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::file::{self, MainFile, QueueValues};
use super::process;
use super::report::{Changes, Difference};
use super::resolve::{self, Chosen, ReadSite};
use super::screening::Headers;
use super::{Places, Snapshot, site_file};
use crate::certs::{self, CertSettings, CertStore, Depth};
use crate::names::SiteId;
use crate::problem::{Problem, Severity};
use crate::sites::Sites;

/// No file a person writes comes near; what is larger is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// More readers than this only wait for the same disk.
const READERS_MAX: usize = 8;

/// The lowest priority there is; handshake threads stand at 10.
const BACKGROUND_NICE: i32 = 19;

/// What became of an attempt to load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The new snapshot; `None` where a problem is fatal.
    pub snapshot: Option<Snapshot>,
    /// Everything that is wrong, files in order.
    pub problems: Vec<Problem>,
    /// The parts whose previous version stays, as `site shop` or `certificate shop.example`.
    pub kept: Vec<String>,
    /// What is different from the previous snapshot.
    pub changes: Changes,
}

/// Loads the configuration whose main file is `path`. Sites and certificates that are broken now
/// keep their version of `previous`; those that did not change are shared with it.
///
/// With a previous snapshot an edge is serving, and all of it happens at the lowest priority.
pub fn load(path: &Path, previous: Option<&Snapshot>) -> Outcome {
    match previous {
        None => load_to(path, None, Depth::Serving),
        Some(_) => in_background(|| load_to(path, previous, Depth::Serving)),
    }
}

/// Runs `work` on a thread of the lowest priority; threads that it starts inherit it.
fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // No process is the calling thread. Not being allowed to is no reason to stop.
            let _ = rustix::process::setpriority_process(None, BACKGROUND_NICE);
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Loads as a cold start would, and takes every private key apart as well.
pub fn check(path: &Path) -> Outcome {
    load_to(path, None, Depth::Everything)
}

fn load_to(path: &Path, previous: Option<&Snapshot>, depth: Depth) -> Outcome {
    let mut outcome = Outcome::default();
    let problems = &mut outcome.problems;
    let Some(main) = read_main(path, problems) else { return outcome };
    let queues = read_queues(&main, problems);
    let read = read_sites(&main.sites, &main.headers, problems);
    let mut resolved = resolve::sites(read, previous.map(|snapshot| &snapshot.sites));
    problems.append(&mut resolved.problems);
    if problems.iter().any(|problem| problem.severity == Severity::Fatal) {
        return outcome;
    }
    let authorities =
        resolved.chosen.iter().flat_map(Chosen::client_authorities).cloned().collect();
    let settings = CertSettings { depth, ..main.certificates.settings(authorities) };
    let certs = certs::load(&settings, previous.map(|snapshot| &*snapshot.certs));
    resolve::compare_with_certificates(&mut resolved, &certs.store);
    problems.append(&mut resolved.problems);
    problems.extend(certs.problems);
    outcome.kept = resolved.kept;
    outcome.kept.extend(certs.kept.iter().map(|name| format!("certificate {name}")));
    let sites = resolved.chosen.into_iter().map(|chosen| chosen.site).collect();
    let snapshot = assemble(main, queues, path, (Sites::new(sites), certs.store));
    let generation = previous.map_or(1, |snapshot| snapshot.generation + 1);
    let mut snapshot = Snapshot { generation, ..snapshot };
    if let Some(previous) = previous {
        outcome.problems.extend(process::carry_over(&mut snapshot, previous));
    }
    outcome.changes = Changes {
        sites: Difference::of_sites(previous, &snapshot),
        certificates: Difference {
            added: certs.added,
            changed: certs.changed,
            removed: certs.removed,
        },
    };
    outcome.snapshot = Some(snapshot);
    outcome
}

/// The state folder that the main file names, as far as it can be read.
pub fn state_folder(path: &Path) -> PathBuf {
    file::state_folder(path, &read_text(path).unwrap_or_default())
}

fn assemble(
    mut main: MainFile,
    queues: QueueValues,
    path: &Path,
    (sites, certs): (Sites, CertStore),
) -> Snapshot {
    let queues = main.queues.or(queues).settle(&mut main.listen, &mut main.runtime);
    Snapshot {
        generation: 1,
        listen: main.listen,
        runtime: main.runtime,
        queues,
        timeouts: main.timeouts,
        log: main.log,
        certificates: main.certificates,
        screening: main.headers.policy(),
        places: Places { main: path.to_path_buf(), sites: main.sites, queues: main.queues_file },
        sites,
        certs: Arc::new(certs),
    }
}

fn read_main(path: &Path, problems: &mut Vec<Problem>) -> Option<MainFile> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(unreadable) => {
            problems.push(unreadable.told(Severity::Fatal, path));
            return None;
        }
    };
    let (main, found) = MainFile::read(path, &text);
    problems.extend(found);
    main
}

/// The file that `sluss size` writes. The default one is absent until a machine was measured.
fn read_queues(main: &MainFile, problems: &mut Vec<Problem>) -> QueueValues {
    let path = &main.queues_file;
    if !path.exists() {
        if main.queues_file_named {
            let what = "the file does not exist; defaults stand in".to_string();
            let remedy = "run `sluss size`, or correct queues.file";
            problems.push(whole_file(Severity::Warning, path, what, remedy));
        }
        return QueueValues::default();
    }
    let text = match read_text(path) {
        Ok(text) => text,
        Err(unreadable) => {
            problems.push(unreadable.told(Severity::Fatal, path));
            return QueueValues::default();
        }
    };
    let (queues, found) = QueueValues::read_file(path, &text);
    problems.extend(found);
    queues.unwrap_or_default()
}

/// All sites' files, by name; broken ones are told and come without a site.
fn read_sites(folder: &Path, headers: &Headers, problems: &mut Vec<Problem>) -> Vec<ReadSite> {
    let files = match site_files(folder) {
        Ok(files) => files,
        Err(error) => {
            // A folder that is missing has been told with its key and line.
            if folder.is_dir() {
                let what = format!("the folder cannot be read: {error}");
                let remedy = "let the user that runs sluss read it";
                problems.push(whole_file(Severity::Fatal, folder, what, remedy));
            }
            return Vec::new();
        }
    };
    if files.is_empty() {
        let what = "the folder has no *.toml: no site is served".to_string();
        problems.push(whole_file(Severity::Warning, folder, what, "write one file a site"));
    }
    let mut sites = Vec::with_capacity(files.len());
    for (site, found) in in_parallel(&files, |file| read_site(file, headers)) {
        problems.extend(found);
        sites.extend(site);
    }
    sites
}

/// The `*.toml` of the folder, sorted. Hidden files are somebody's editor at work.
fn site_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_site(file: &Path, headers: &Headers) -> (Option<ReadSite>, Vec<Problem>) {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let id = match SiteId::parse(&name) {
        Ok(id) => id,
        Err(error) => {
            let what = format!("the file's name makes no name for a site: {error}");
            let remedy = "rename it; letters, digits and -_.*@+ may stand before .toml";
            return (None, vec![whole_file(Severity::Part, file, what, remedy)]);
        }
    };
    let (site, problems) = match read_text(file) {
        Ok(text) => site_file::read(file, &text, &id, headers),
        Err(unreadable) => {
            let site = Some(id.to_string());
            (None, vec![Problem { site, ..unreadable.told(Severity::Part, file) }])
        }
    };
    (Some(ReadSite { id, file: file.to_path_buf(), site }), problems)
}

/// Runs `read` over the items on several threads; the results are in the items' order.
fn in_parallel<I: Sync, T: Send>(items: &[I], read: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let readers = thread::available_parallelism().map_or(1, NonZero::get).min(READERS_MAX);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, read(item)));
        }
    };
    let mut all: Vec<(usize, T)> = thread::scope(|scope| {
        let others: Vec<_> = (1..readers).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// What keeps a file from being read.
struct Unreadable {
    line: Option<u32>,
    what: String,
    remedy: &'static str,
}

impl Unreadable {
    fn told(self, severity: Severity, file: &Path) -> Problem {
        Problem { line: self.line, ..whole_file(severity, file, self.what, self.remedy) }
    }
}

/// A file's text. Only plain files of sensible size are opened: a FIFO in the folder must not hang
/// a reload.
fn read_text(path: &Path) -> Result<String, Unreadable> {
    let denied = |error| Unreadable {
        line: None,
        what: format!("cannot be read: {error}"),
        remedy: "name a file that is there and that the user of sluss may read",
    };
    let found = fs::metadata(path).map_err(denied)?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        let what = "is no plain file of at most 1 MiB".to_string();
        return Err(Unreadable { line: None, what, remedy: "name a configuration file" });
    }
    String::from_utf8(fs::read(path).map_err(denied)?).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        let what = "not UTF-8, which TOML must be".to_string();
        Unreadable { line: u32::try_from(line).ok(), what, remedy: "save the file as UTF-8" }
    })
}

fn whole_file(severity: Severity, file: &Path, what: String, remedy: &str) -> Problem {
    Problem {
        severity,
        file: file.to_path_buf(),
        line: None,
        key: String::new(),
        site: None,
        what,
        remedy: remedy.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_and_its_readers_stand_behind_everybody_else() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let seen = in_background(|| in_parallel(&[(); 64], |()| nice()));
        assert!(seen.iter().all(|nice| *nice == BACKGROUND_NICE), "{seen:?}");
        assert_eq!(nice(), before);
    }
}
