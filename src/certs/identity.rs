//! How a reload knows a file for the one it has read: by what the system says of it, and where
//! that is no proof, by its contents.
//!
//! Device, inode, size and both time stamps equal means the same contents, with one gap: a file
//! written again within one tick of the file system's clock. So an identity whose change stamp,
//! which no program can set, was not older than [`SETTLED_AFTER_SECONDS`] when it was taken proves
//! nothing at the next reload; the files are read again and their contents compared. Equal contents under another identity (a
//! copy, a touch, a changed mode) share what was loaded.

use rustix::fs::Stat;

/// Coarser than the clock of any file system in use (2 s: FAT).
const SETTLED_AFTER_SECONDS: i64 = 2;

/// What the system says of one file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u32),
    /// Also moves when only owner or mode change: the warning on exposed keys follows them.
    changed: (i64, u32),
}

/// The files of one certificate: chain and key, or one file twice.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Identity {
    pub(super) chain: FileIdentity,
    pub(super) key: FileIdentity,
}

impl FileIdentity {
    pub(super) fn of(stat: &Stat) -> FileIdentity {
        FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    fn is_settled(&self, taken: i64) -> bool {
        self.changed.0 < taken.saturating_sub(SETTLED_AFTER_SECONDS)
    }
}

impl Identity {
    /// Whether an identity taken at `taken` (Unix seconds) proves equal contents later on.
    pub(super) fn is_settled(&self, taken: i64) -> bool {
        self.chain.is_settled(taken) && self.key.is_settled(taken)
    }
}

/// The type of the field differs between the kernel's architectures.
fn nanoseconds(field: impl TryInto<u32>) -> u32 {
    field.try_into().unwrap_or(0)
}
