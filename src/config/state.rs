//! The state folder: where a running edge leaves what its own commands need.
//!
//! `lock` is held, with flock(2), by the running edge and by nobody else: a second edge is turned
//! away, and what a crashed one left is not believed. `pid` and `admin` (the real address, also
//! where port 0 was asked for) and `reload` (the last load's report) are written whole or not at all,
//! and removed at the end by the process that wrote them. A process that takes over from another inherits the open lock, so that
//! at no time a third one could get in.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use super::report::Report;
use super::{Account, AdminAddress};

const LOCK: &str = "lock";
const PID: &str = "pid";
const ADMIN: &str = "admin";
const RELOAD: &str = "reload";

/// File systems in which the kernel tells of itself (statfs(2)).
const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;

/// A command that asks whether an edge runs holds the lock for an instant; an edge that starts at
/// that moment tries again this often, this far apart.
const ATTEMPTS: u32 = 10;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// The folder, claimed by this process until it is dropped.
#[derive(Debug)]
pub struct StateFolder {
    folder: PathBuf,
    lock: File,
}

/// What a running edge has left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Its admin listener.
    pub admin: AdminAddress,
}

/// The report of a load, and which one it was.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Filed {
    /// From 1, the start; one more with each load since, refused ones included. A process that
    /// takes over counts on.
    pub attempt: u64,
    /// What came of it.
    pub report: Report,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another edge holds it.
    #[error("another edge{} runs with the state folder {}", pid_text(*.pid), .folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The other one's process, where it says so.
        pid: Option<u32>,
    },
    /// No edge holds it.
    #[error("no edge runs with the state folder {}", .0.display())]
    NotRunning(PathBuf),
    /// An edge holds it, but has not said yet where it listens.
    #[error("the edge with the state folder {} does not serve yet", .0.display())]
    NotReady(PathBuf),
    /// The system refuses.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl StateFolder {
    /// Makes the folder if it is missing, claims it and writes `pid`. Blocks for an instant.
    ///
    /// # Errors
    /// [`StateError::Held`] where another edge runs, else what the system says.
    pub fn claim(folder: &Path) -> Result<StateFolder, StateError> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(failed("make the folder", folder))?;
        let path = folder.join(LOCK);
        let open = File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let lock = open.map_err(failed("open", &path))?;
        for attempt in 1.. {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => {
                    thread::sleep(BETWEEN_ATTEMPTS);
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = read_pid(folder);
                    return Err(StateError::Held { folder: folder.to_path_buf(), pid });
                }
            }
        }
        let state = StateFolder { folder: folder.to_path_buf(), lock };
        state.write(PID, &process::id().to_string())?;
        Ok(state)
    }

    /// Takes the folder over from the process that this one was started by to follow, whose open
    /// lock it was given. Until [`announce`](StateFolder::announce) commands find the other one. A
    /// lock of another folder is let go, and this one claimed.
    ///
    /// # Errors
    /// As of [`claim`](StateFolder::claim).
    pub fn inherit(folder: &Path, lock: OwnedFd) -> Result<StateFolder, StateError> {
        let lock = File::from(lock);
        let identity = |file: Metadata| (file.dev(), file.ino());
        let here = fs::metadata(folder.join(LOCK)).map(identity).ok();
        if here.is_none() || here != lock.metadata().map(identity).ok() {
            return StateFolder::claim(folder);
        }
        Ok(StateFolder { folder: folder.to_path_buf(), lock })
    }

    /// The open lock, for a process that takes over.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Lets commands find this process, and where its admin listener really is.
    ///
    /// # Errors
    /// What the system says.
    pub fn announce(&self, admin: &AdminAddress) -> Result<(), StateError> {
        self.write(ADMIN, &admin.to_string())?;
        self.write(PID, &process::id().to_string())
    }

    /// The number of the last load that was reported here, by this process or one before it.
    pub fn last_attempt(&self) -> u64 {
        read_report(&self.folder).map_or(0, |filed| filed.attempt)
    }

    /// Leaves the report of a load for `sluss reload`.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_report(&self, filed: &Filed) -> Result<(), StateError> {
        let json = serde_json::to_string(filed).map_err(io::Error::from);
        let json = json.map_err(failed("write", &self.folder.join(RELOAD)))?;
        self.write(RELOAD, &json)
    }

    /// Gives the folder to the user that the process is about to become, so that it can tidy up.
    ///
    /// # Errors
    /// What the system says.
    pub fn hand_to(&self, account: &Account) -> Result<(), StateError> {
        let mut paths = vec![self.folder.clone()];
        paths.extend([LOCK, PID, ADMIN, RELOAD].map(|name| self.folder.join(name)));
        for path in paths.iter().filter(|path| path.exists()) {
            let given = chown(path, Some(account.uid), Some(account.gid));
            given.map_err(failed("change the owner of", path))?;
        }
        Ok(())
    }

    /// Whole or not at all: a reader sees the old text or the new one.
    fn write(&self, name: &str, text: &str) -> Result<(), StateError> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!(".{name}.new")));
        let written = fs::write(&new, format!("{text}\n")).and_then(|()| fs::rename(&new, &path));
        written.map_err(failed("write", &path))
    }
}

impl Drop for StateFolder {
    /// Takes away what this process wrote; a successor's files stay. The lock's file stays too: to
    /// remove it would let two edges lock two files of one name.
    fn drop(&mut self) {
        if read_pid(&self.folder) == Some(process::id()) {
            for name in [ADMIN, PID, RELOAD] {
                // Nothing is lost where it fails: without the lock nobody believes the file.
                let _ = fs::remove_file(self.folder.join(name));
            }
        }
    }
}

/// Why no edge could have that folder, whoever runs it; nothing is made or changed.
pub fn impossible(folder: &Path) -> Option<String> {
    // The folder, or the one in which it would be made.
    let there = folder.ancestors().find(|path| path.symlink_metadata().is_ok())?;
    let not = |why: &str| Some(format!("{} {why}", there.display()));
    match fs::metadata(there) {
        Ok(found) if !found.is_dir() => return not("is no folder"),
        Ok(_) => {}
        Err(error) => return not(&format!("cannot be looked at: {error}")),
    }
    if rustix::fs::access(there, Access::WRITE_OK) == Err(rustix::io::Errno::ROFS) {
        return not("is on a file system that cannot be written to");
    }
    let kind = rustix::fs::statfs(there).map(|found| kind(found.f_type));
    // There root may write, but nobody can make a folder (statfs(2)).
    kind.is_ok_and(|kind| [PROC, SYSFS].contains(&kind)).then(|| not("is the kernel's"))?
}

/// The type of the field differs between the kernel's architectures.
fn kind(field: impl TryInto<i64>) -> i64 {
    field.try_into().unwrap_or(0)
}

/// Finds the edge that runs with this folder.
///
/// # Errors
/// [`StateError::NotRunning`] or [`StateError::NotReady`], else what the system says.
pub fn find(folder: &Path) -> Result<Running, StateError> {
    let path = folder.join(LOCK);
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StateError::NotRunning(folder.to_path_buf()));
        }
        Err(error) => return Err(failed("open", &path)(error)),
    };
    if lock.try_lock_shared().is_ok() {
        return Err(StateError::NotRunning(folder.to_path_buf()));
    }
    let admin = fs::read_to_string(folder.join(ADMIN)).ok();
    let admin = admin.and_then(|text| AdminAddress::parse(text.trim()));
    match (read_pid(folder), admin) {
        (Some(pid), Some(admin)) => Ok(Running { pid, admin }),
        _ => Err(StateError::NotReady(folder.to_path_buf())),
    }
}

/// The report that a running edge has left of its last load.
pub fn read_report(folder: &Path) -> Option<Filed> {
    serde_json::from_str(&fs::read_to_string(folder.join(RELOAD)).ok()?).ok()
}

fn read_pid(folder: &Path) -> Option<u32> {
    fs::read_to_string(folder.join(PID)).ok()?.trim().parse().ok()
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(" (process {pid})"))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_path_buf();
    move |source| StateError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin() -> AdminAddress {
        AdminAddress::parse("127.0.0.1:9180").unwrap()
    }

    #[test]
    fn a_folder_that_cannot_be_is_found_without_making_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
        for path in [&file, &file.join("run"), &folder.path().join("link"), Path::new("/proc/x")] {
            assert!(impossible(path).is_some(), "{}", path.display());
        }
        for path in [folder.path(), &folder.path().join("a/b")] {
            assert_eq!(impossible(path), None);
            assert!(path == folder.path() || !path.exists());
        }
    }

    #[test]
    fn a_second_edge_is_turned_away_and_told_who_runs() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("run");
        let first = StateFolder::claim(&folder).unwrap();
        let error = StateFolder::claim(&folder).unwrap_err();
        let expected = format!("another edge (process {}) runs", process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");
        drop(first);
        StateFolder::claim(&folder).unwrap();
    }

    #[test]
    fn commands_find_the_edge_while_it_runs_and_not_after() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("run");
        assert!(matches!(find(&folder), Err(StateError::NotRunning(_))));
        let state = StateFolder::claim(&folder).unwrap();
        assert!(matches!(find(&folder), Err(StateError::NotReady(_))));
        state.announce(&admin()).unwrap();
        let running = find(&folder).unwrap();
        assert_eq!(running, Running { pid: process::id(), admin: admin() });
        drop(state);
        assert!(matches!(find(&folder), Err(StateError::NotRunning(_))));
        assert!(!folder.join(PID).exists() && !folder.join(ADMIN).exists());
    }

    #[test]
    fn what_a_crashed_edge_left_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [(LOCK, ""), (PID, "1\n"), (ADMIN, "127.0.0.1:1\n")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert!(matches!(find(folder.path()), Err(StateError::NotRunning(_))));
    }

    #[test]
    fn a_successor_takes_the_lock_over_and_its_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let old = StateFolder::claim(folder.path()).unwrap();
        old.announce(&admin()).unwrap();
        let lock = old.lock().try_clone_to_owned().unwrap();
        let new = StateFolder::inherit(folder.path(), lock).unwrap();
        // The successor is another process.
        fs::write(folder.path().join(PID), "1\n").unwrap();
        drop(old);
        assert_eq!(find(folder.path()).unwrap(), Running { pid: 1, admin: admin() });
        assert!(matches!(StateFolder::claim(folder.path()), Err(StateError::Held { .. })));
        drop(new);
    }

    #[test]
    fn a_successor_that_never_serves_leaves_the_files_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let old = StateFolder::claim(folder.path()).unwrap();
        old.announce(&admin()).unwrap();
        // The predecessor is another process.
        fs::write(folder.path().join(PID), "1\n").unwrap();
        let lock = old.lock().try_clone_to_owned().unwrap();
        drop(StateFolder::inherit(folder.path(), lock).unwrap());
        assert_eq!(find(folder.path()).unwrap(), Running { pid: 1, admin: admin() });
        drop(old);
    }

    #[test]
    fn a_successor_with_another_folder_claims_that_one() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = StateFolder::claim(first.path()).unwrap();
        let lock = old.lock().try_clone_to_owned().unwrap();
        let new = StateFolder::inherit(second.path(), lock).unwrap();
        assert!(matches!(StateFolder::claim(second.path()), Err(StateError::Held { .. })));
        drop((old, new));
        StateFolder::claim(first.path()).unwrap();
    }
}
