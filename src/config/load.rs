//! Reads the files of a configuration and makes the next [`Snapshot`] of them.
//!
//! Blocking, and at its best with several cores: call it off the serving threads. Nothing is
//! changed but what is returned, so that `sluss check` and a reload are the same code. A main file
//! with a mistake refuses the whole; a site's mistake concerns that site alone.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::file::{self, MainFile, QueueValues};
use super::process;
use super::report::{Changes, Difference};
use super::resolve::{self, Chosen, ReadSite, Resolved};
use super::site_folder::{self, SiteFiles};
use super::walk::nearest;
use super::{Places, Snapshot};
use crate::background::lowest_priority;
use crate::certs::{self, CertSettings, CertStore, Depth};
use crate::plain_file;
use crate::problem::{Problem, Severity};
use crate::sites::Sites;

/// No file a person writes comes near; what is larger is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What became of an attempt to load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The new snapshot; `None` where a problem is fatal.
    pub snapshot: Option<Snapshot>,
    /// Everything that is wrong, files in order.
    pub problems: Vec<Problem>,
    /// The parts whose previous version stays, as `site shop` or `certificate shop.example`.
    pub kept: Vec<String>,
    /// The parts that are not served: broken, and without a previous version.
    pub absent: Vec<String>,
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
            lowest_priority();
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
    let known = previous.map(|snapshot| &snapshot.site_files);
    let (read, site_files) = site_folder::read(&main.sites, &main.headers, known, problems);
    // Where all sites are the same again, no list of a hundred thousand is made to find that.
    let stand = read.is_none() && previous.is_some_and(|previous| previous.sites_stand);
    let resolve = |read: Option<Vec<ReadSite>>| {
        let read = read.unwrap_or_else(|| site_files.sites());
        resolve::sites(read, &main.sites, previous.map(|snapshot| &snapshot.sites))
    };
    let mut resolved = if stand { Resolved::standing() } else { resolve(read) };
    problems.append(&mut resolved.problems);
    if problems.iter().any(|problem| problem.severity == Severity::Fatal) {
        return outcome;
    }
    let authorities =
        resolved.chosen.iter().flat_map(Chosen::client_authorities).cloned().collect();
    let settings = CertSettings { depth, ..main.certificates.settings(authorities) };
    let certs = certs::load(&settings, previous.map(|snapshot| &*snapshot.certs));
    let before = previous.filter(|before| {
        resolved.all_stay
            && site_files.are_those_of(&before.site_files)
            && certs.store.has_hosts_of(&before.certs)
    });
    match before {
        // A hundred thousand sites would be looked up for the same again.
        Some(before) => resolved.problems.clone_from(&before.told_of_certificates),
        None => {
            if stand {
                resolved = resolve(None);
            }
            resolve::compare_with_certificates(&mut resolved, &certs.store);
        }
    }
    let told_of_certificates = resolved.problems;
    problems.extend_from_slice(&told_of_certificates);
    let place = |problem: Problem| match problem.key.as_str() {
        "certificates.default" => default_is_missing(problem, &main, path, &certs.store),
        _ => problem,
    };
    problems.extend(certs.problems.into_iter().map(place));
    outcome.kept = resolved.kept;
    outcome.kept.extend(certs.kept.iter().map(|name| format!("certificate {name}")));
    outcome.kept.extend(certs.kept_files);
    outcome.absent = resolved.absent;
    outcome.absent.extend(certs.store.absent().map(|(name, _)| format!("certificate {name}")));
    let sites = match before {
        Some(before) => before.sites.clone(),
        None => of_chosen(resolved.chosen, previous),
    };
    let sites_stand = before.is_some();
    let snapshot = assemble(main, queues, path, (sites, certs.store));
    let generation = previous.map_or(1, |snapshot| snapshot.generation + 1);
    let mut snapshot =
        Snapshot { generation, site_files, sites_stand, told_of_certificates, ..snapshot };
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

fn of_chosen(chosen: Vec<Chosen>, previous: Option<&Snapshot>) -> Sites {
    let sites = chosen.into_iter().map(|chosen| chosen.site).collect();
    Sites::following(sites, previous.map(|snapshot| &snapshot.sites))
}

/// The state folder that the main file names, as far as it can be read.
pub fn state_folder(path: &Path) -> PathBuf {
    file::state_folder(path, &read_text(path).unwrap_or_default())
}

/// The same problem, told where the key stands.
fn default_is_missing(
    problem: Problem,
    main: &MainFile,
    path: &Path,
    certs: &CertStore,
) -> Problem {
    let known: Vec<&str> = certs.all().map(|certificate| certificate.name()).collect();
    let near = main.certificates.default.as_deref().and_then(|name| nearest(name, &known));
    let near = near.map(|near| format!("did you mean {near:?}?"));
    let (file, line) = (path.to_path_buf(), main.default_line);
    Problem { file, line, remedy: near.unwrap_or(problem.remedy), ..problem }
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
        site_files: SiteFiles::default(),
        sites_stand: false,
        told_of_certificates: Vec::new(),
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

/// What keeps a file from being read.
pub(super) struct Unreadable {
    line: Option<u32>,
    what: String,
    remedy: &'static str,
}

impl Unreadable {
    pub(super) fn told(self, severity: Severity, file: &Path) -> Problem {
        Problem { line: self.line, ..whole_file(severity, file, self.what, self.remedy) }
    }
}

/// A file's text. Only plain files of sensible size are opened: a FIFO in the folder must not hang
/// a reload.
pub(super) fn read_text(path: &Path) -> Result<String, Unreadable> {
    let denied = |error: io::Error| Unreadable {
        line: None,
        what: format!("cannot be read: {error}"),
        remedy: "name a file that is there and that the user of sluss may read",
    };
    let bytes = plain_file::read(path, FILE_BYTES_MAX).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::FileTooLarge => {
            let what = "is no plain file of at most 1 MiB".to_string();
            Unreadable { line: None, what, remedy: "name a configuration file" }
        }
        _ => denied(error),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        let what = "not UTF-8, which TOML must be".to_string();
        Unreadable { line: u32::try_from(line).ok(), what, remedy: "save the file as UTF-8" }
    })
}

pub(super) fn whole_file(severity: Severity, file: &Path, what: String, remedy: &str) -> Problem {
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
    use crate::background::NICE_LOWEST;

    #[test]
    fn a_reload_stands_behind_everybody_else() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        assert_eq!(in_background(nice), NICE_LOWEST);
        assert_eq!(nice(), before);
    }
}
