//! SIGHUP: the files are read again, off the serving threads, and what they say is swapped in as
//! one. What is broken keeps its last good version; a broken main file changes nothing.
//!
//! One reload runs at a time; a signal that comes meanwhile is remembered once. This room loads
//! and swaps; listeners are opened and closed by `server`, which owns them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::accesslog::{self, AccessLog};
use crate::config::report::{Changes, ReloadResult, Report};
use crate::config::state::Filed;
use crate::config::{self, LogFormat, Outcome, Snapshot};
use crate::metrics;
use crate::problem::{Problem, Severity};
use crate::proxy::Proxy;

/// The last reloads, and the way to another.
pub struct Reloader {
    file: PathBuf,
    history: Mutex<History>,
}

/// What is known of reloads since the start.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Loads since the start, the first and refused ones included.
    pub attempts: u64,
    /// The latest, newest first; never empty: the start itself is the oldest.
    pub reports: Vec<Dated>,
    /// The latest that was not refused.
    applied: Option<Report>,
}

/// A report and when it was made.
#[derive(Clone, Debug)]
pub struct Dated {
    /// Seconds since the epoch.
    pub at_unix: i64,
    /// The report.
    pub report: Report,
}

/// Reports kept for the admin page.
const REPORTS_MAX: usize = 10;

/// What came of what is done before a new snapshot serves.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What failed of it.
    pub problems: Vec<Problem>,
    /// What stays as it was for that, as `listen.https 192.0.2.1:443`.
    pub kept: Vec<String>,
}

impl Reloader {
    /// Reloads `file` from now on; `start` is the report of the load it runs on.
    pub fn new(file: PathBuf, start: Report) -> Reloader {
        let reloader = Reloader { file, history: Mutex::default() };
        reloader.remember(start);
        reloader
    }

    /// Reads the files and swaps in what they say. `prepare` does what must be done before the new
    /// snapshot serves. Returns the report, which also stands in [`history`](Reloader::history).
    pub async fn reload(
        &self,
        proxy: &Arc<Proxy>,
        prepare: impl AsyncFnOnce(&Snapshot) -> Prepared,
    ) -> Report {
        let begun = Instant::now();
        let mut outcome = self.load(proxy).await;
        let mut access = proxy.live().access.clone();
        if let Some(snapshot) = &outcome.snapshot {
            let Prepared { problems, kept } = prepare(snapshot).await;
            match access_log(proxy, snapshot) {
                Ok(opened) => access = opened,
                Err(problem) => {
                    outcome.problems.push(*problem);
                    outcome.kept.push("log.access".into());
                }
            }
            outcome.problems.extend(problems);
            outcome.kept.extend(kept);
        }
        let serving = proxy.live().snapshot.generation;
        let generation = outcome.snapshot.as_ref().map_or(serving, |new| new.generation);
        let report = Report::new(&outcome, generation, begun.elapsed());
        if let Some(snapshot) = outcome.snapshot {
            swap(proxy.clone(), snapshot, access).await;
        }
        proxy.metrics.reload(counted(report.result));
        log(&report);
        self.remember(report.clone());
        report
    }

    async fn load(&self, proxy: &Proxy) -> Outcome {
        let (file, previous) = (self.file.clone(), proxy.live().snapshot.clone());
        let loaded = tokio::task::spawn_blocking(move || config::load(&file, Some(&previous)));
        loaded.await.unwrap_or_else(|error| Outcome {
            snapshot: None,
            problems: vec![Problem {
                severity: Severity::Fatal,
                file: self.file.clone(),
                line: None,
                key: String::new(),
                site: None,
                what: format!("loading it failed: {error}"),
                remedy: "this is a mistake of sluss; please report it with the files".into(),
            }],
            kept: Vec::new(),
            absent: Vec::new(),
            changes: Changes::none(),
        })
    }

    /// The latest report.
    pub fn last(&self) -> Report {
        self.lock().reports[0].report.clone()
    }

    /// The latest report and its number, as the state folder has it.
    pub fn filed(&self) -> Filed {
        let history = self.lock();
        Filed { attempt: history.attempts, report: history.reports[0].report.clone() }
    }

    /// Why the last reload was refused, where it was, and the report of the one that is in force.
    pub fn in_force<T>(&self, look: impl FnOnce(Option<&Report>, &Report) -> T) -> T {
        let history = self.lock();
        let last = &history.reports[0].report;
        let refused = Some(last).filter(|report| report.result == ReloadResult::Refused);
        look(refused, history.applied.as_ref().unwrap_or(last))
    }

    /// What is known of reloads since the start.
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    fn remember(&self, report: Report) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut history = self.lock();
        history.attempts += 1;
        if report.result != ReloadResult::Refused {
            history.applied = Some(report.clone());
        }
        history
            .reports
            .insert(0, Dated { at_unix: i64::try_from(now.as_secs()).unwrap_or(i64::MAX), report });
        history.reports.truncate(REPORTS_MAX);
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Off the control thread: with many sites it takes a while. Not at a lower priority: the locks that
/// it takes are those of the serving threads.
async fn swap(proxy: Arc<Proxy>, snapshot: Snapshot, access: Arc<AccessLog>) {
    let swapped = tokio::task::spawn_blocking(move || proxy.swap(snapshot, access)).await;
    if let Err(error) = swapped {
        tracing::error!(%error, "the new snapshot does not serve");
    }
}

/// The access log of a snapshot: the one that is open where its target stays, reopened.
fn access_log(proxy: &Proxy, snapshot: &Snapshot) -> Result<Arc<AccessLog>, Box<Problem>> {
    // Not what the last snapshot asked for: where that could not be had, the log before it is open.
    let open = proxy.live().access.clone();
    let (format, target) = wanted_log(snapshot);
    if open.is(format, &target) {
        open.reopen();
        return Ok(open);
    }
    open_access_log(snapshot, Some(&open)).map(Arc::new)
}

/// Opens the access log that a snapshot asks for; in the place of `before`, whose counts go on.
///
/// # Errors
/// A problem that names the file.
pub fn open_access_log(
    snapshot: &Snapshot,
    before: Option<&AccessLog>,
) -> Result<AccessLog, Box<Problem>> {
    let (format, target) = wanted_log(snapshot);
    let threads = snapshot.runtime.threads;
    let opened = match before {
        Some(before) => before.replacement(format, target, threads),
        None => AccessLog::new(format, target, threads),
    };
    opened.map_err(|error| {
        Box::new(Problem {
            severity: Severity::Part,
            file: snapshot.places.main.clone(),
            line: None,
            key: "log.access".into(),
            site: None,
            what: match &snapshot.log.access {
                config::AccessLog::File(path) => {
                    format!("{} cannot be opened: {error}", path.display())
                }
                config::AccessLog::Stdout | config::AccessLog::Off => {
                    format!("the log cannot be started: {error}")
                }
            },
            remedy: "make the folder and let the user that runs sluss write there".into(),
        })
    })
}

fn wanted_log(snapshot: &Snapshot) -> (accesslog::Format, accesslog::Target) {
    let format = match snapshot.log.format {
        LogFormat::Text => accesslog::Format::Text,
        LogFormat::Json => accesslog::Format::Json,
    };
    let target = match &snapshot.log.access {
        config::AccessLog::Stdout => accesslog::Target::Stdout,
        config::AccessLog::Off => accesslog::Target::Off,
        config::AccessLog::File(path) => accesslog::Target::File(path.clone()),
    };
    (format, target)
}

fn counted(result: ReloadResult) -> metrics::ReloadResult {
    match result {
        ReloadResult::Applied => metrics::ReloadResult::Applied,
        ReloadResult::Partly => metrics::ReloadResult::Partly,
        ReloadResult::Refused => metrics::ReloadResult::Refused,
    }
}

fn log(report: &Report) {
    let Report { generation, seconds, .. } = report;
    match report.result {
        ReloadResult::Applied => tracing::info!(generation, seconds, "reload applied"),
        ReloadResult::Partly => {
            tracing::warn!(generation, seconds, kept = ?report.kept, "reload applied in part");
        }
        ReloadResult::Refused => {
            tracing::error!(generation, seconds, "reload refused; the old snapshot serves on");
        }
    }
    for problem in &report.problems {
        tracing::warn!(%problem, "configuration");
    }
}
