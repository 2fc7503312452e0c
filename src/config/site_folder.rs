//! The folder of sites: which files there are, and which of them need not be read again.
//!
//! A file whose identity proves that it is the one of the load before is not read: its site is
//! shared. So a reload costs a look at each file, and neither time nor memory for sites that nobody
//! changed. The folder is listed again only where its own identity does not prove that its names
//! are the same. Only what its own text alone decides is known again: a site whose file had anything
//! to tell, or that names other files, is read each time, as is every one once `[headers]` changed.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::load::{read_text, whole_file};
use super::resolve::ReadSite;
use super::screening::Headers;
use super::site_file::{self, SiteFile};
use crate::background::{Loading, loading_threads};
use crate::identity::{FileIdentity, Listed, unix_now};
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
    /// Those that the next load may know again, by name; the list itself is shared while it stays.
    known: Arc<Vec<Arc<Known>>>,
    /// Where `known` are all names of the folder.
    listed: Option<Listed>,
}

struct Known {
    id: SiteId,
    identity: FileIdentity,
    /// When the identity was taken, Unix seconds.
    taken: i64,
    site: Arc<SiteFile>,
}

/// What became of a file.
enum Seen<'a> {
    Read(Box<Read>),
    /// Its identity proves that it is as it was.
    Same(&'a Arc<Known>),
}

/// A file's site, and what the next load may know it by.
struct Read {
    site: Option<ReadSite>,
    known: Option<Arc<Known>>,
    problems: Vec<Problem>,
}

/// Reads the sites of `folder`; broken ones are told and come without a site. `headers` are the main
/// file's; `before` is what the last load saw. The sites come by name; `None` where all are those
/// of [`SiteFiles::sites`], and each as `before` had it.
pub fn read(
    folder: &Path,
    headers: &Headers,
    before: Option<&SiteFiles>,
    problems: &mut Vec<Problem>,
) -> (Option<Vec<ReadSite>>, SiteFiles) {
    let mut now =
        SiteFiles { folder: folder.to_path_buf(), headers: headers.clone(), ..Default::default() };
    let readers = loading_threads(Loading::after(before)).min(READERS_MAX);
    let before = before.filter(|before| before.folder == now.folder && before.headers == *headers);
    let opened = open(folder).and_then(|handle| {
        now.listed = Listed::now(&handle);
        let names = match before.filter(|before| before.has_names_of(&now)) {
            Some(_) => None,
            None => Some(names(&handle)?),
        };
        Ok((names, handle))
    });
    let (names, handle) = match opened {
        Ok(opened) => opened,
        Err(errno) => {
            // A folder that is missing has been told with its key and line.
            if folder.is_dir() {
                let what = format!("the folder cannot be read: {errno}");
                let remedy = "let the user that runs sluss read it";
                problems.push(whole_file(Severity::Fatal, folder, what, remedy));
            }
            return (Some(Vec::new()), now);
        }
    };
    let known = before.map_or(&[][..], |before| &before.known);
    let folder = Folder { path: folder, handle };
    let seen = match &names {
        Some(names) => in_parallel(readers, names, |names| {
            let mut earlier = Earlier::from(known, names);
            names.iter().map(|name| folder.look(name, headers, earlier.advance_to(name))).collect()
        }),
        None => in_parallel(readers, known, |known| {
            known.iter().map(|known| folder.look(known.name(), headers, Some(known))).collect()
        }),
    };
    if seen.is_empty() {
        let what = "the folder has no *.toml: no site is served".to_string();
        problems.push(whole_file(Severity::Warning, folder.path, what, "write one file a site"));
    }
    let all_same =
        seen.len() == known.len() && seen.iter().all(|seen| matches!(seen, Seen::Same(_)));
    if let Some(before) = before.filter(|_| all_same) {
        now.known = before.known.clone();
        return (None, now);
    }
    let (count, mut sites, mut known) = (seen.len(), Vec::new(), Vec::new());
    for seen in seen {
        match seen {
            Seen::Same(same) => {
                sites.push(same.again());
                known.push(same.clone());
            }
            Seen::Read(read) => {
                problems.extend(read.problems);
                sites.extend(read.site);
                known.extend(read.known);
            }
        }
    }
    // Names that nothing is known of are looked at each time.
    now.listed = now.listed.filter(|_| known.len() == count);
    now.known = Arc::new(known);
    (Some(sites), now)
}

impl SiteFiles {
    /// Whether every file of the folder proved to be as it was at that load.
    pub fn are_those_of(&self, before: &SiteFiles) -> bool {
        Arc::ptr_eq(&self.known, &before.known)
    }

    /// The sites of the files that are known, by name.
    pub fn sites(&self) -> Vec<ReadSite> {
        self.known.iter().map(|known| known.again()).collect()
    }

    /// Whether the folder has the same names as a later look at it.
    fn has_names_of(&self, now: &SiteFiles) -> bool {
        let both = now.listed.zip(self.listed);
        both.is_some_and(|(now, before)| now.has_names_of(&before))
    }

    /// As a load long after the files were written would have seen them.
    #[cfg(test)]
    pub fn settle(&mut self) {
        self.listed.iter_mut().for_each(Listed::settle);
        for known in Arc::get_mut(&mut self.known).unwrap() {
            Arc::get_mut(known).unwrap().taken = i64::MAX;
        }
    }
}

impl Known {
    fn name(&self) -> &OsStr {
        OsStr::new(self.id.as_str())
    }

    /// Whether a file of that identity has the contents that were read.
    fn is_proved_by(&self, identity: Option<FileIdentity>) -> bool {
        identity == Some(self.identity) && self.identity.is_settled(self.taken)
    }

    fn again(&self) -> ReadSite {
        ReadSite { id: self.id.clone(), site: Some(self.site.clone()) }
    }
}

/// A walk through what the load before knew beside the names, both sorted: a table of a hundred
/// thousand names would cost more than asking the system for their files.
struct Earlier<'a> {
    rest: &'a [Arc<Known>],
}

impl<'a> Earlier<'a> {
    /// At the first of `names`.
    fn from(known: &'a [Arc<Known>], names: &[Box<OsStr>]) -> Earlier<'a> {
        let first = names.first().map_or(&[][..], |name| name.as_bytes());
        let at = known.partition_point(|known| known.id.as_str().as_bytes() < first);
        Earlier { rest: &known[at..] }
    }

    /// What is known of that name; names are asked for in their order.
    fn advance_to(&mut self, name: &OsStr) -> Option<&'a Arc<Known>> {
        while let Some((known, rest)) = self.rest.split_first() {
            match known.id.as_str().as_bytes().cmp(name.as_bytes()) {
                Less => self.rest = rest,
                Equal => return Some(known),
                Greater => return None,
            }
        }
        None
    }
}

fn open(folder: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
}

/// The names of the folder's `*.toml` without that ending, sorted. Hidden files are somebody's
/// editor at work.
fn names(folder: &OwnedFd) -> Result<Vec<Box<OsStr>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_bytes();
        let stem = file.strip_suffix(ENDING.as_bytes()).filter(|_| !file.starts_with(b"."));
        names.extend(stem.map(|stem| Box::from(OsStr::from_bytes(stem))));
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
    fn look<'k>(
        &self,
        name: &OsStr,
        headers: &Headers,
        before: Option<&'k Arc<Known>>,
    ) -> Seen<'k> {
        // Taken before the text: a change in between makes the next load read it again.
        let taken = unix_now();
        let identity = self.identity(name);
        if let Some(known) = before.filter(|known| known.is_proved_by(identity)) {
            return Seen::Same(known);
        }
        let identity = identity.map(|identity| (identity, taken));
        Seen::Read(Box::new(read_anew(&path(self.path, name), headers, before, identity)))
    }

    fn identity(&self, name: &OsStr) -> Option<FileIdentity> {
        let stat = rustix::fs::statat(&self.handle, file_name(name), AtFlags::empty());
        stat.ok().map(|stat| FileIdentity::of(&stat))
    }
}

fn read_anew(
    file: &Path,
    headers: &Headers,
    before: Option<&Arc<Known>>,
    identity: Option<(FileIdentity, i64)>,
) -> Read {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let id = match SiteId::parse(&name) {
        Ok(id) => id,
        Err(error) => {
            let what = format!("the file's name makes no name for a site: {error}");
            let remedy = "rename it; letters, digits and -_.*@+ may stand before .toml";
            let problems = vec![whole_file(Severity::Part, file, what, remedy)];
            return Read { site: None, known: None, problems };
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
            Some(Arc::new(Known { id: id.clone(), identity, taken, site: site.clone() }))
        }
        _ => None,
    };
    let site = Some(ReadSite { id, site });
    Read { site, known, problems }
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

/// Runs `read` over batches of the items on several threads; the results are in the items' order.
fn in_parallel<'i, I: Sync, T: Send>(
    readers: usize,
    items: &'i [I],
    read: impl Fn(&'i [I]) -> Vec<T> + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(batch) = items.chunks(BATCH_FILES).nth(at) else { return done };
            done.push((at, read(batch)));
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
    use std::fs;

    use bytes::Bytes;

    use super::super::file::MainFile;
    use super::*;
    use crate::identity::let_a_tick_pass;
    use crate::screen::Profile;

    const SITE: &str = "hosts = [\"a.test\"]\nupstreams = [\"http://127.0.0.1:8001\"]\n";

    /// A folder with one site, and what a load long after it was written saw.
    fn seen(text: &str) -> (tempfile::TempDir, SiteFiles) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.toml"), text).unwrap();
        let (_, mut files) = load(&folder, &Headers::default(), None);
        let_a_tick_pass();
        files.settle();
        (folder, files)
    }

    fn load(
        folder: &tempfile::TempDir,
        headers: &Headers,
        before: Option<&SiteFiles>,
    ) -> (Arc<SiteFile>, SiteFiles) {
        let mut problems = Vec::new();
        let (sites, files) = read(folder.path(), headers, before, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let mut sites = sites.unwrap_or_else(|| files.sites());
        (sites.remove(0).site.unwrap(), files)
    }

    #[test]
    fn a_file_that_stayed_is_shared_and_one_that_changed_is_read() {
        let (folder, before) = seen(SITE);
        let (same, _) = load(&folder, &Headers::default(), Some(&before));
        assert!(Arc::ptr_eq(&same, &before.known[0].site));
        fs::write(folder.path().join("a.toml"), SITE).unwrap();
        let (touched, _) = load(&folder, &Headers::default(), Some(&before));
        assert!(Arc::ptr_eq(&touched, &before.known[0].site));
        // Of the same size.
        fs::write(folder.path().join("a.toml"), SITE.replace("8001", "8002")).unwrap();
        let (changed, _) = load(&folder, &Headers::default(), Some(&before));
        assert!(changed.site.upstream.endpoints[0].url.ends_with(":8002"));
    }

    #[test]
    fn files_that_come_and_go_between_others_are_seen() {
        let (folder, before) = seen(SITE);
        let names = |before: &SiteFiles| {
            let (sites, now) =
                read(folder.path(), &Headers::default(), Some(before), &mut Vec::new());
            let sites = sites.unwrap_or_else(|| now.sites());
            (sites.iter().map(|site| site.id.to_string()).collect::<Vec<_>>(), now)
        };
        let (same, now) = names(&before);
        assert!(same == ["a"] && now.are_those_of(&before));
        drop(now);
        for name in ["0", "aa", "b", ".hidden"] {
            fs::write(folder.path().join(format!("{name}.toml")), SITE).unwrap();
        }
        let (more, now) = names(&before);
        assert!(more == ["0", "a", "aa", "b"] && !now.are_those_of(&before));
        assert!(Arc::ptr_eq(&now.known[1], &before.known[0]));
        drop(before);
        let mut now = now;
        let_a_tick_pass();
        now.listed.iter_mut().for_each(Listed::settle);
        fs::remove_file(folder.path().join("aa.toml")).unwrap();
        let (fewer, mut now) = names(&now);
        assert_eq!(fewer, ["0", "a", "b"]);
        let_a_tick_pass();
        now.listed.iter_mut().for_each(Listed::settle);
        fs::rename(folder.path().join("b.toml"), folder.path().join("c.toml")).unwrap();
        assert_eq!(names(&now).0, ["0", "a", "c"]);
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
