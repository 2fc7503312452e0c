//! The folder of sites: which files there are, and which of them need not be read again.
//!
//! A file whose identity proves that it is the one of the load before is not read: its site is
//! shared. So a reload costs a look at each file, and neither time nor memory for sites that nobody
//! changed. Only what its own text alone decides is known again: a site whose file had anything to
//! tell, or that names other files, is read each time, as is every one once `[headers]` changed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use foldhash::HashMap;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};

use super::load::{read_text, whole_file};
use super::resolve::ReadSite;
use super::screening::Headers;
use super::site_file::{self, SiteFile};
use crate::identity::{FileIdentity, unix_now};
use crate::names::SiteId;
use crate::problem::{Problem, Severity};
use crate::sites::Site;

/// Of the files that are sites.
const ENDING: &str = ".toml";

/// More readers than this only wait for the same disk.
const READERS_MAX: usize = 8;

/// Files that a reader takes at a time: few enough that readers end together.
const BATCH_FILES: usize = 64;

/// The files of sites as a load saw them.
#[derive(Default)]
pub struct SiteFiles {
    folder: PathBuf,
    headers: Headers,
    /// Those that the next load may know again.
    known: HashMap<SiteId, Arc<Known>>,
}

struct Known {
    identity: FileIdentity,
    /// When the identity was taken, Unix seconds.
    taken: i64,
    site: Arc<SiteFile>,
}

/// A file's site, and what the next load may know it by.
struct Seen {
    site: Option<ReadSite>,
    known: Option<Arc<Known>>,
    problems: Vec<Problem>,
}

/// Reads the sites of `folder`, by name; broken ones are told and come without a site. `headers`
/// are the main file's; `before` is what the last load saw.
pub fn read(
    folder: &Path,
    headers: &Headers,
    before: Option<&SiteFiles>,
    problems: &mut Vec<Problem>,
) -> (Vec<ReadSite>, SiteFiles) {
    let mut now =
        SiteFiles { folder: folder.to_path_buf(), headers: headers.clone(), ..Default::default() };
    let (handle, names) = match open(folder).and_then(|handle| Ok((handle, names(folder)?))) {
        Ok(found) => found,
        Err(error) => {
            // A folder that is missing has been told with its key and line.
            if folder.is_dir() {
                let what = format!("the folder cannot be read: {error}");
                let remedy = "let the user that runs sluss read it";
                problems.push(whole_file(Severity::Fatal, folder, what, remedy));
            }
            return (Vec::new(), now);
        }
    };
    if names.is_empty() {
        let what = "the folder has no *.toml: no site is served".to_string();
        problems.push(whole_file(Severity::Warning, folder, what, "write one file a site"));
    }
    let before = before.filter(|before| before.folder == now.folder && before.headers == *headers);
    let before = before.map(|before| &before.known);
    let mut sites = Vec::with_capacity(names.len());
    now.known.reserve(names.len());
    let folder = Folder { path: folder, handle };
    for seen in in_parallel(&names, |name| folder.look(name, headers, before)) {
        problems.extend(seen.problems);
        if let (Some(site), Some(known)) = (&seen.site, seen.known) {
            now.known.insert(site.id.clone(), known);
        }
        sites.extend(seen.site);
    }
    (sites, now)
}

fn open(folder: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::empty())?)
}

/// The names of the folder's `*.toml` without that ending, sorted. Hidden files are somebody's
/// editor at work.
fn names(folder: &Path) -> std::io::Result<Vec<Box<OsStr>>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name();
        let file = Path::new(&file);
        let hidden = file.as_os_str().as_encoded_bytes().starts_with(b".");
        let stem = file.file_stem().filter(|_| file.extension() == Some(OsStr::new(&ENDING[1..])));
        names.extend(stem.filter(|_| !hidden).map(Box::from));
    }
    names.sort_unstable();
    Ok(names)
}

/// A site's file.
pub fn file(folder: &Path, site: &SiteId) -> PathBuf {
    path(folder, OsStr::new(site.as_str()))
}

fn path(folder: &Path, name: &OsStr) -> PathBuf {
    folder.join(file_name(name))
}

fn file_name(name: &OsStr) -> OsString {
    let mut file_name = OsString::with_capacity(name.len() + ENDING.len());
    file_name.push(name);
    file_name.push(ENDING);
    file_name
}

/// The open folder. Files are looked at relative to it: one lookup of a name, not of the whole path.
struct Folder<'a> {
    path: &'a Path,
    handle: OwnedFd,
}

impl Folder<'_> {
    fn look(
        &self,
        name: &OsStr,
        headers: &Headers,
        before: Option<&HashMap<SiteId, Arc<Known>>>,
    ) -> Seen {
        let before = before.and_then(|known| known.get(&*name.to_string_lossy()));
        // Taken before the text: a change in between makes the next load read it again.
        let taken = unix_now();
        let stat = rustix::fs::statat(&self.handle, file_name(name), AtFlags::empty()).ok();
        let identity = stat.map(|stat| FileIdentity::of(&stat));
        if let Some(known) = before
            && identity == Some(known.identity)
            && known.identity.is_settled(known.taken)
        {
            let (id, site) = (known.site.site.id.clone(), Some(known.site.clone()));
            let site = Some(ReadSite { id, site });
            return Seen { site, known: Some(known.clone()), problems: Vec::new() };
        }
        let identity = identity.map(|identity| (identity, taken));
        read_anew(&path(self.path, name), headers, before, identity)
    }
}

fn read_anew(
    file: &Path,
    headers: &Headers,
    before: Option<&Arc<Known>>,
    identity: Option<(FileIdentity, i64)>,
) -> Seen {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let id = match SiteId::parse(&name) {
        Ok(id) => id,
        Err(error) => {
            let what = format!("the file's name makes no name for a site: {error}");
            let remedy = "rename it; letters, digits and -_.*@+ may stand before .toml";
            let problems = vec![whole_file(Severity::Part, file, what, remedy)];
            return Seen { site: None, known: None, problems };
        }
    };
    let (site, problems) = match read_text(file) {
        Ok(text) => site_file::read(file, &text, &id, headers),
        Err(unreadable) => {
            let site = Some(id.to_string());
            (None, vec![Problem { site, ..unreadable.told(Severity::Part, file) }])
        }
    };
    // Touched only: the earlier one goes on.
    let earlier = before.map(|known| &known.site);
    let earlier = earlier.filter(|earlier| site.as_ref().is_some_and(|site| site == &***earlier));
    let site = earlier.cloned().or(site.map(Arc::new));
    let known = match (&site, identity) {
        (Some(site), Some((identity, taken)))
            if problems.is_empty() && stands_alone(&site.site) =>
        {
            Some(Arc::new(Known { identity, taken, site: site.clone() }))
        }
        _ => None,
    };
    let site = Some(ReadSite { id, site });
    Seen { site, known, problems }
}

/// Whether the site is made from its own file alone.
fn stands_alone(site: &Site) -> bool {
    site.maintenance.is_none()
        && site.tls.client_ca.is_none()
        && site.upstream.endpoints.iter().all(|endpoint| endpoint.ca.is_none())
}

/// Of a hundred thousand files how many there are says enough.
impl fmt::Debug for SiteFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteFiles").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

/// Runs `read` over the items on several threads; the results are in the items' order.
fn in_parallel<I: Sync, T: Send>(items: &[I], read: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let readers = thread::available_parallelism().map_or(1, NonZero::get).min(READERS_MAX);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(batch) = items.chunks(BATCH_FILES).nth(at) else { return done };
            done.push((at, batch.iter().map(&read).collect::<Vec<T>>()));
        }
    };
    let mut all: Vec<(usize, Vec<T>)> = thread::scope(|scope| {
        let others: Vec<_> = (1..readers).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().flat_map(|(_, results)| results).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::file::MainFile;
    use super::*;
    use crate::screen::Profile;

    const SITE: &str = "hosts = [\"a.test\"]\nupstreams = [\"http://127.0.0.1:8001\"]\n";

    /// A folder with one site, and what a load long after it was written saw.
    fn seen(text: &str) -> (tempfile::TempDir, SiteFiles) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.toml"), text).unwrap();
        let (_, mut files) = load(&folder, &Headers::default(), None);
        for known in files.known.values_mut() {
            Arc::get_mut(known).unwrap().taken = i64::MAX;
        }
        (folder, files)
    }

    fn load(
        folder: &tempfile::TempDir,
        headers: &Headers,
        before: Option<&SiteFiles>,
    ) -> (Arc<SiteFile>, SiteFiles) {
        let mut problems = Vec::new();
        let (mut sites, files) = read(folder.path(), headers, before, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        (sites.remove(0).site.unwrap(), files)
    }

    #[test]
    fn a_file_that_stayed_is_shared_and_one_that_changed_is_read() {
        let (folder, before) = seen(SITE);
        let (same, _) = load(&folder, &Headers::default(), Some(&before));
        assert!(Arc::ptr_eq(&same, &before.known["a"].site));
        fs::write(folder.path().join("a.toml"), SITE).unwrap();
        let (touched, _) = load(&folder, &Headers::default(), Some(&before));
        assert!(Arc::ptr_eq(&touched, &before.known["a"].site));
        // Of the same size.
        fs::write(folder.path().join("a.toml"), SITE.replace("8001", "8002")).unwrap();
        let (changed, _) = load(&folder, &Headers::default(), Some(&before));
        assert!(changed.site.upstream.endpoints[0].url.ends_with(":8002"));
    }

    #[test]
    fn other_headers_in_the_main_file_reach_sites_whose_files_stayed() {
        let (folder, before) = seen(SITE);
        let text = "[headers]\nshadow = \"reject\"\n";
        let (main, _) = MainFile::read(&folder.path().join("sluss.toml"), text);
        let (site, _) = load(&folder, &main.unwrap().headers, Some(&before));
        assert_eq!(site.site.screening.shadow(), Some(Profile::Reject));
    }

    #[test]
    fn a_site_that_names_another_file_is_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let page = |text| fs::write(folder.path().join("page.html"), text).unwrap();
        page("one");
        let text = format!("{SITE}maintenance = \"page.html\"\n");
        fs::write(folder.path().join("a.toml"), text).unwrap();
        let (_, before) = load(&folder, &Headers::default(), None);
        assert!(before.known.is_empty());
        page("two");
        let (site, _) = load(&folder, &Headers::default(), Some(&before));
        assert_eq!(site.site.maintenance, Some(Bytes::from("two")));
    }
}
