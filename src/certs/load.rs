//! A load: list the folder, read what changed, keep what broke, and tell all of it.
//!
//! A name goes one of these ways: *same* (identity proves it; the certificate is shared, nothing
//! read), *touched* (read, equal contents; shared), *new* or *changed* (read and parsed), *kept*
//! (broken; the earlier certificate stays), *absent* (broken, and there is no earlier one), *gone*
//! (no longer in the folder). Only the listing decides that a name is gone: where the folder cannot
//! be listed, everything is kept. Where the folder's own identity proves that it has the names of
//! the load before, it is not listed again, and each name is looked at beside its entry.
//!
//! The names are read by as many threads as the machine has cores; at a reload by one fewer, and at
//! the lowest priority, so that they only take what the edge leaves.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::io::Errno;

use super::catalogue::{Catalogue, Entry, Kept};
use super::defect::{Defect, Found};
use super::folder::{self, Folder, Listing, Name};
use super::read::{self, KeyCheck, Reader};
use super::secrets::{self, Authority};
use super::server_config::Configs;
use super::summary;
use super::tickets::Tickets;
use super::watch::Sighting;
use super::{CertSettings, CertStore, Depth, Loaded};
use crate::background::{Loading, loading_threads, lowest_priority};
use crate::identity::{Listed, unix_now};
use crate::problem::{Problem, Severity};

/// Up to so many keys a cold start takes apart at once: a few tens of milliseconds.
const KEYS_AT_COLD_START_MAX: usize = 1000;

/// Below so many names a thread of its own costs more than it saves.
const NAMES_PER_THREAD_MIN: usize = 64;

/// Names a thread takes at a time.
const BATCH_NAMES: usize = 256;

/// More threads would only wait for the same folder.
const THREADS_MAX: usize = 16;

/// What became of a name.
enum Outcome {
    /// In a box: of a hundred thousand outcomes nearly all are pointers.
    Absent(Box<Found>),
    Added(Arc<Entry>),
    Changed(Arc<Entry>),
    Kept(Arc<Entry>),
    /// No certificate at all: a link to some other file.
    Nothing,
    Same(Arc<Entry>),
}

/// Loads all certificates; shares with `previous` what has not changed. Blocks on files.
pub fn load(settings: &CertSettings, previous: Option<&CertStore>) -> Loaded {
    load_at(settings, previous, unix_now())
}

/// [`load`] at a time of the caller's choice, Unix seconds.
pub(super) fn load_at(settings: &CertSettings, previous: Option<&CertStore>, now: i64) -> Loaded {
    if previous.is_none() {
        return load_here(settings, None, now);
    }
    // The caller's thread may be one that the runtime uses again: its priority is not ours to lower.
    thread::scope(|scope| {
        let low = || {
            lowest_priority();
            load_here(settings, previous, now)
        };
        match thread::Builder::new().name("sluss-certs".into()).spawn_scoped(scope, low) {
            Ok(loading) => loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => load_here(settings, previous, now),
        }
    })
}

fn load_here(settings: &CertSettings, previous: Option<&CertStore>, now: i64) -> Loaded {
    // Before anything is read.
    let sighting = settings.watch.then(|| Sighting::now(settings));
    let mut found = Collected::default();
    let keeping = Keeping::new(settings, now);
    let interner = previous.map(|store| store.interner.clone()).unwrap_or_default();
    let directory = &settings.directory;
    let opened = Folder::open(directory).and_then(|folder| {
        let listed = folder.listed();
        let stayed = previous.filter(|store| store.names.are_those_of(directory, &listed));
        Ok((Names::new(&folder, stayed)?, listed, folder))
    });
    match opened {
        Ok((names, listed, folder)) => {
            let cold = previous.is_none() && names.len() > KEYS_AT_COLD_START_MAX;
            let key_check = match settings.depth {
                Depth::Serving if cold => KeyCheck::AtUse,
                Depth::Serving | Depth::Everything => KeyCheck::AtLoad,
            };
            let reader = Reader { interner: &interner, key_check, now };
            let walk = Walk { folder: &folder, reader, previous, keeping: &keeping };
            walk.through(names, &mut found);
            found.names.listed = listed;
            found.names.directory.clone_from(directory);
        }
        Err(errno) => found.keep_all(directory, previous, errno, &keeping),
    }
    let authorities = authorities(settings, previous, &mut found);
    let tickets = tickets(settings, previous, now, &mut found);
    interner.prune();
    found.finish(settings, (previous, now), |catalogue, absent, names| CertStore {
        directory: settings.directory.clone(),
        names,
        configs: Configs::new(&catalogue, (tickets, settings.tickets), authorities),
        catalogue,
        interner,
        absent,
        sighting,
    })
}

/// What the next load needs to know again which names the folder has, beside the catalogue's.
#[derive(Default)]
pub(super) struct KnownNames {
    directory: PathBuf,
    /// `None` where nothing proves that the names are the same.
    listed: Option<Listed>,
    /// Names that are no certificate, or none yet.
    others: Vec<folder::Entry>,
    /// What cannot be a certificate, and where it is.
    defects: Vec<(PathBuf, Defect)>,
}

impl KnownNames {
    pub(super) fn are_those_of(&self, directory: &Path, listed: &Option<Listed>) -> bool {
        let both = listed.as_ref().zip(self.listed.as_ref());
        self.directory == directory && both.is_some_and(|(now, before)| now.has_names_of(before))
    }

    /// As a load long after the folder's last change would have them.
    #[cfg(test)]
    pub(super) fn settle(&mut self) {
        self.listed.iter_mut().for_each(Listed::settle);
    }
}

/// The time stamps of a folder are not part of what a load says.
impl fmt::Debug for KnownNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownNames").field("others", &self.others).finish_non_exhaustive()
    }
}

/// The names that a walk goes through.
enum Names<'a> {
    Listed(Listing),
    /// Those of the store before: of its entries, and the others.
    Stayed(&'a CertStore),
}

impl Names<'_> {
    fn new<'a>(folder: &Folder, stayed: Option<&'a CertStore>) -> Result<Names<'a>, Errno> {
        stayed.map_or_else(|| folder.list().map(Names::Listed), |store| Ok(Names::Stayed(store)))
    }

    fn len(&self) -> usize {
        match self {
            Names::Listed(listing) => listing.entries.len(),
            Names::Stayed(store) => store.catalogue.entries().len() + store.names.others.len(),
        }
    }
}

/// What is common to all names of a load.
struct Walk<'a> {
    folder: &'a Folder,
    reader: Reader<'a>,
    previous: Option<&'a CertStore>,
    keeping: &'a Keeping,
}

impl Walk<'_> {
    /// Examines each name and collects what became of it, in the order of names.
    fn through(&self, names: Names<'_>, found: &mut Collected) {
        match names {
            Names::Listed(Listing { entries: names, defects }) => {
                found.wrong_names(defects);
                let outcomes = self.in_batches(&names, |names| self.examine_listed(names));
                for (name, outcome) in names.iter().zip(outcomes) {
                    found.take(name.name(), outcome, self.folder);
                }
                found.removed = self.previous.map(|store| gone(store, &names)).unwrap_or_default();
            }
            Names::Stayed(store) => {
                found.wrong_names(store.names.defects.clone());
                let entries = store.catalogue.entries();
                let outcomes = self.in_batches(entries, |entries| {
                    let again = |entry: &Arc<Entry>| self.examine(entry.file_name(), Some(entry));
                    entries.iter().map(again).collect()
                });
                let others = &store.names.others;
                let outcomes_of_others =
                    self.in_batches(others, |names| self.examine_listed(names));
                let mut others = others.iter().zip(outcomes_of_others).peekable();
                for (entry, outcome) in entries.iter().zip(outcomes) {
                    let is_before =
                        |(other, _): &(&folder::Entry, _)| *other.name < *entry.certificate.name;
                    while let Some((name, outcome)) = others.next_if(is_before) {
                        found.take(name.name(), outcome, self.folder);
                    }
                    match outcome {
                        // The name of a hundred thousand entries need not be fetched for it.
                        Outcome::Same(entry) => found.entries.push(entry),
                        outcome => found.take(entry.file_name(), outcome, self.folder),
                    }
                }
                others.for_each(|(name, outcome)| found.take(name.name(), outcome, self.folder));
            }
        }
    }

    /// What `work` makes of the items, in their order; several threads take batches of them.
    fn in_batches<T: Sync>(
        &self,
        items: &[T],
        work: impl Fn(&[T]) -> Vec<Outcome> + Sync,
    ) -> Vec<Outcome> {
        let available = loading_threads(Loading::after(self.previous));
        let threads = (items.len() / NAMES_PER_THREAD_MIN).clamp(1, available.min(THREADS_MAX));
        let mut done: Vec<Vec<Outcome>> = Vec::new();
        done.resize_with(items.len().div_ceil(BATCH_NAMES), Vec::new);
        let batches = Mutex::new(items.chunks(BATCH_NAMES).zip(&mut done));
        let work = || {
            loop {
                let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((items, outcomes)) = batch else { return };
                *outcomes = work(items);
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // Threads start with the priority of the one that starts them (clone(2)). Where
                // there is none to be had, those that are there do its work.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        done.into_iter().flatten().collect()
    }

    fn examine_listed(&self, names: &[folder::Entry]) -> Vec<Outcome> {
        let mut earlier = Earlier::from(self.previous, names);
        let examine =
            |name: &folder::Entry| self.examine(name.name(), earlier.advance_to(&name.name));
        names.iter().map(examine).collect()
    }

    fn examine(&self, name: Name<'_>, earlier: Option<&Arc<Entry>>) -> Outcome {
        if let Some(earlier) = earlier
            && earlier.kept.is_none()
            && earlier.certificate.layout == name.layout
            && earlier.identity.is_settled(earlier.taken)
            && self.folder.identity(name) == Ok(earlier.identity)
        {
            return Outcome::Same(earlier.clone());
        }
        match (self.read(name, earlier), earlier) {
            (Ok(outcome), _) => outcome,
            (Err(found), None) => Outcome::Absent(Box::new(found)),
            (Err(found), Some(earlier)) => {
                // An empty folder says nothing of a certificate that was never there, but here
                // one was: its files were deleted and the folder was not.
                let defect = match found.defect {
                    Defect::FolderEmpty => Defect::Missing,
                    defect => defect,
                };
                match self.keeping.keep(earlier, Found { defect, ..found }) {
                    Ok(kept) => Outcome::Kept(kept),
                    Err(found) => Outcome::Absent(Box::new(found)),
                }
            }
        }
    }

    fn read(&self, name: Name<'_>, earlier: Option<&Arc<Entry>>) -> Result<Outcome, Found> {
        let Some(files) = self.folder.read(name)? else { return Ok(Outcome::Nothing) };
        let contents = read::contents_hash(&files);
        let entry = |certificate| {
            Arc::new(Entry {
                certificate,
                identity: files.identity,
                taken: self.reader.now,
                exposed: (files.key_mode & 0o077 != 0).then_some(files.key_mode),
                kept: None,
            })
        };
        if let Some(earlier) = earlier
            && earlier.certificate.contents == contents
            && earlier.certificate.layout == name.layout
        {
            return Ok(Outcome::Same(entry(earlier.certificate.clone())));
        }
        let certificate = self.reader.certificate(name, &files, contents)?;
        // One that is not valid is served where there is nothing better.
        let now = self.reader.now;
        if !certificate.is_valid_at(now)
            && earlier.is_some_and(|earlier| earlier.certificate.is_valid_at(now))
        {
            return Err(Found::chain(match now > certificate.not_after {
                true => Defect::ExpiredInPlaceOfValid,
                false => Defect::NotYetValidInPlaceOfValid,
            }));
        }
        let entry = entry(Arc::new(certificate));
        Ok(if earlier.is_some() { Outcome::Changed(entry) } else { Outcome::Added(entry) })
    }
}

/// How long broken certificates stay at their last good version.
struct Keeping {
    now: i64,
    /// Seconds.
    bound: Option<i64>,
}

impl Keeping {
    fn new(settings: &CertSettings, now: i64) -> Keeping {
        let bound = settings.keep_last_good_for;
        Keeping {
            now,
            bound: bound.map(|bound| i64::try_from(bound.as_secs()).unwrap_or(i64::MAX)),
        }
    }

    /// The earlier certificate, marked as standing at its last good version; what is wrong again
    /// where its time is over.
    fn keep(&self, earlier: &Arc<Entry>, found: Found) -> Result<Arc<Entry>, Found> {
        let since = earlier.kept.as_ref().map_or(self.now, |kept| kept.since);
        let until = self.bound.map(|bound| since.saturating_add(bound));
        if until.is_some_and(|until| until <= self.now) {
            return Err(found);
        }
        Ok(Arc::new(Entry {
            certificate: earlier.certificate.clone(),
            identity: earlier.identity,
            taken: earlier.taken,
            exposed: earlier.exposed,
            kept: Some(Kept { since, until, defect: found.defect, part: found.part }),
        }))
    }
}

/// A walk through the earlier entries beside the names, both sorted: a search for each name would
/// cost more than asking the system for its files.
struct Earlier<'a> {
    rest: &'a [Arc<Entry>],
}

impl<'a> Earlier<'a> {
    /// At the first of `names`.
    fn from(previous: Option<&'a CertStore>, names: &[folder::Entry]) -> Earlier<'a> {
        let entries = previous.map_or(&[][..], |store| store.catalogue.entries());
        let first = names.first().map_or("", |name| &name.name);
        let at = entries.partition_point(|entry| *entry.certificate.name < *first);
        Earlier { rest: &entries[at..] }
    }

    /// The entry of that name; names are asked for in their order.
    fn advance_to(&mut self, name: &str) -> Option<&'a Arc<Entry>> {
        while let Some((entry, rest)) = self.rest.split_first() {
            match (*entry.certificate.name).cmp(name) {
                Less => self.rest = rest,
                Equal => return Some(entry),
                Greater => return None,
            }
        }
        None
    }
}

/// The earlier names that are not there any more.
fn gone(previous: &CertStore, names: &[folder::Entry]) -> Vec<String> {
    let mut names = names.iter().map(|name| &*name.name).peekable();
    let earlier = previous.catalogue.entries().iter().map(|entry| &*entry.certificate.name);
    earlier
        .filter(|earlier| {
            while names.next_if(|name| name < earlier).is_some() {}
            names.peek() != Some(earlier)
        })
        .map(str::to_owned)
        .collect()
}

/// What a load has come to so far.
#[derive(Default)]
struct Collected {
    entries: Vec<Arc<Entry>>,
    names: KnownNames,
    problems: Vec<Problem>,
    absent: Vec<(String, Problem)>,
    kept: Vec<String>,
    kept_files: Vec<String>,
    changed: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
}

impl Collected {
    fn wrong_names(&mut self, defects: Vec<(PathBuf, Defect)>) {
        self.problems.extend(defects.iter().map(|(path, defect)| defect.problem(path)));
        self.names.defects = defects;
    }

    fn take(&mut self, name: Name<'_>, outcome: Outcome, folder: &Folder) {
        if matches!(outcome, Outcome::Absent(_) | Outcome::Nothing) {
            let Name { name, layout } = name;
            self.names.others.push(folder::Entry { name: name.to_owned(), layout });
        }
        match outcome {
            Outcome::Absent(found) => {
                let mut problem = found.defect.problem(&folder.path(name, found.part));
                if problem.severity == Severity::Part {
                    problem.what.push_str("; the certificate is not served");
                    self.absent.push((name.name.to_owned(), problem.clone()));
                }
                self.problems.push(problem);
            }
            Outcome::Added(entry) => {
                self.added.push(entry.certificate.name.to_string());
                self.entries.push(entry);
            }
            Outcome::Changed(entry) => {
                self.changed.push(entry.certificate.name.to_string());
                self.entries.push(entry);
            }
            Outcome::Kept(entry) => {
                self.kept.push(entry.certificate.name.to_string());
                self.entries.push(entry);
            }
            Outcome::Nothing => {}
            Outcome::Same(entry) => self.entries.push(entry),
        }
    }

    /// The folder cannot be listed: nothing is known to be gone.
    fn keep_all(
        &mut self,
        directory: &Path,
        previous: Option<&CertStore>,
        errno: Errno,
        keeping: &Keeping,
    ) {
        let earlier = previous.map_or(&[][..], |store| store.catalogue.entries());
        for entry in earlier {
            if let Ok(kept) = keeping.keep(entry, Found::chain(Defect::Unreadable(errno))) {
                self.kept.push(entry.certificate.name.to_string());
                self.entries.push(kept);
            }
        }
        if !earlier.is_empty() {
            self.kept_files.push(format!("certificates.directory {}", directory.display()));
        }
        self.problems.push(Problem {
            severity: Severity::Part,
            file: directory.to_path_buf(),
            line: None,
            key: "certificates.directory".into(),
            site: None,
            what: match self.kept.len() {
                0 => format!("the folder of certificates cannot be read: {errno}"),
                count => format!(
                    "the folder of certificates cannot be read: {errno}; {count} certificates stay at their last good version"
                ),
            },
            remedy: "make the folder, or let the user that runs sluss read it".into(),
        });
    }

    fn finish(
        mut self,
        settings: &CertSettings,
        (previous, now): (Option<&CertStore>, i64),
        store: impl FnOnce(Arc<Catalogue>, Vec<(String, Problem)>, KnownNames) -> CertStore,
    ) -> Loaded {
        let previous = previous.map(|store| &*store.catalogue);
        let (catalogue, overlaps) =
            Catalogue::new(self.entries, settings.default.as_deref(), now, previous);
        if let Some(name) = &settings.default
            && !catalogue.has_default()
        {
            self.problems.push(summary::default_is_missing(&settings.directory, name));
        }
        let directory = &settings.directory;
        self.problems.extend(summary::all_problems(&catalogue, directory, now));
        self.problems
            .extend(overlaps.iter().map(|one| summary::overlap(one, &catalogue, directory)));
        let problems = summary::bounded(self.problems, directory);
        Loaded {
            store: store(Arc::new(catalogue), self.absent, self.names),
            problems,
            kept: self.kept,
            kept_files: self.kept_files,
            changed: self.changed,
            added: self.added,
            removed: self.removed,
        }
    }
}

/// The authorities of all sites; one whose file is broken stays as it was.
fn authorities(
    settings: &CertSettings,
    previous: Option<&CertStore>,
    found: &mut Collected,
) -> HashMap<PathBuf, Arc<Authority>> {
    let mut authorities = HashMap::new();
    for path in &settings.client_authorities {
        if authorities.contains_key(path) {
            continue;
        }
        match secrets::authority(path) {
            Ok(authority) => {
                authorities.insert(path.clone(), Arc::new(authority));
            }
            Err(mut problem) => {
                match previous.and_then(|store| store.configs.authority(path)) {
                    Some(earlier) => {
                        authorities.insert(path.clone(), earlier.clone());
                        found.kept_files.push(format!("{} {}", problem.key, path.display()));
                        problem.what.push_str("; its last good version is used");
                    }
                    None => problem.what.push_str("; no client is let in"),
                }
                found.problems.push(*problem);
            }
        }
    }
    authorities
}

/// The process's ticket keys: the earlier ones unless their secrets changed.
fn tickets(
    settings: &CertSettings,
    previous: Option<&CertStore>,
    now: i64,
    found: &mut Collected,
) -> Option<Arc<Tickets>> {
    let earlier = previous.and_then(|store| store.configs.tickets());
    let secrets = match settings.ticket_keys.as_deref().map(secrets::ticket_secrets) {
        None => Vec::new(),
        Some(Ok((secrets, warnings))) => {
            found.problems.extend(warnings);
            secrets
        }
        Some(Err(mut problem)) => {
            problem.what.push_str("; tickets are not shared with other edges");
            let kept = format!("{} {}", problem.key, problem.file.display());
            found.problems.push(*problem);
            match earlier {
                Some(earlier) => {
                    found.kept_files.push(kept);
                    return Some(earlier.clone());
                }
                None => Vec::new(),
            }
        }
    };
    if let Some(earlier) = earlier
        && earlier.are_from(&secrets)
    {
        return Some(earlier.clone());
    }
    let seconds = u64::try_from(now).unwrap_or(0);
    match Tickets::new(secrets, earlier.map(|earlier| &**earlier), seconds) {
        Ok(tickets) => Some(Arc::new(tickets)),
        Err(error) => {
            tracing::error!(%error, "sessions are not resumed");
            earlier.cloned()
        }
    }
}
