//! How a reload knows a file for the one it has read: by what the system says of it.
//!
//! Device, inode, size and both time stamps equal means the same contents, with one gap: a file
//! written again within one tick of the file system's clock. So an identity whose change stamp,
//! which no program can set, was not older than `SETTLED_AFTER_SECONDS` when it was taken proves
//! nothing at the next reload: the file is read again.
//!
//! A folder's stamps move whenever a name comes, goes or is renamed over (POSIX, rename() and the
//! others), so that the same proves equal names: [`Listed`].

use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FsWord, Stat, fstat, fstatfs};

/// Coarser than the clock of any file system in use (2 s: FAT).
const SETTLED_AFTER_SECONDS: i64 = 2;

/// What the system says of one file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u32),
    /// Also moves when only owner or mode change: the warning on exposed keys follows them.
    changed: (i64, u32),
}

impl FileIdentity {
    /// Of a file that was just looked at.
    pub fn of(stat: &Stat) -> FileIdentity {
        FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    /// Whether it proves equal contents later on, having been taken at `taken` (Unix seconds).
    pub fn is_settled(&self, taken: i64) -> bool {
        self.changed.0 < taken.saturating_sub(SETTLED_AFTER_SECONDS)
    }
}

/// A folder as a listing found it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    identity: FileIdentity,
    /// When the identity was taken, Unix seconds.
    taken: i64,
}

impl Listed {
    /// Of an open folder that is about to be listed: what comes and goes meanwhile makes the next
    /// load list it again. `None` where its file system is not known to keep a folder's stamps.
    pub fn now(folder: impl AsFd) -> Option<Listed> {
        let taken = unix_now();
        let kind = fstatfs(&folder).ok()?.f_type;
        let identity = FileIdentity::of(&fstat(folder).ok()?);
        KEEP_STAMPS_OF_FOLDERS.contains(&kind).then_some(Listed { identity, taken })
    }

    /// Whether the folder has the names that were listed then.
    pub fn has_names_of(&self, before: &Listed) -> bool {
        self.identity == before.identity && before.identity.is_settled(before.taken)
    }

    /// As a listing long after the folder's last change would have it.
    #[cfg(test)]
    pub fn settle(&mut self) {
        self.taken = i64::MAX;
    }
}

/// File systems of this machine's kernel, by their magic numbers (statfs(2)): ext, XFS, Btrfs, ZFS,
/// F2FS, bcachefs, tmpfs, and overlayfs over them. What lies on a network or in user space may
/// answer from a cache of its own.
const KEEP_STAMPS_OF_FOLDERS: [FsWord; 8] = [
    0xEF53,
    0x5846_5342,
    0x9123_683E,
    0x2FC1_2FC1,
    0xF2F5_2010,
    0xCA45_1A4E,
    0x0102_1994,
    0x794C_7630,
];

/// The type of the field differs between the kernel's architectures.
fn nanoseconds(field: impl TryInto<u32>) -> u32 {
    field.try_into().unwrap_or(0)
}

/// Unix seconds.
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What is written from now on has other time stamps than what was written before.
#[cfg(test)]
pub fn let_a_tick_pass() {
    let probe = tempfile::NamedTempFile::new().unwrap();
    let stamp = || {
        std::fs::write(probe.path(), "x").unwrap();
        FileIdentity::of(&fstat(probe.as_file()).unwrap()).changed
    };
    let before = stamp();
    while stamp() == before {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;

    fn listed(folder: &Path) -> Option<Listed> {
        Listed::now(File::open(folder).unwrap())
    }

    #[test]
    fn names_that_come_or_go_are_seen_in_the_folder_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("a")).unwrap();
        let Some(fresh) = listed(folder.path()) else {
            eprintln!("skipped: the temporary folder's file system is not one of those relied on");
            return;
        };
        assert!(!fresh.has_names_of(&fresh), "another name may come in the same tick");
        let mut before = Listed { taken: i64::MAX, ..fresh };
        fs::write(path("a/file"), "below, not in it").unwrap();
        assert!(listed(folder.path()).unwrap().has_names_of(&before));
        let changes: [&dyn Fn(); 4] = [
            &|| fs::write(path("b"), "").unwrap(),
            &|| fs::rename(path("b"), path("c")).unwrap(),
            &|| fs::rename(path("c"), path("a/c")).unwrap(),
            &|| fs::remove_dir_all(path("a")).unwrap(),
        ];
        for change in changes {
            let_a_tick_pass();
            change();
            let now = listed(folder.path()).unwrap();
            assert!(!now.has_names_of(&before));
            before = Listed { taken: i64::MAX, ..now };
        }
    }
}
