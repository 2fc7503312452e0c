//! How a reload knows a file for the one it has read: by what the system says of it.
//!
//! Device, inode, size and both time stamps equal means the same contents, with one gap: a file
//! written again within one tick of the file system's clock. So an identity whose change stamp,
//! which no program can set, was not older than `SETTLED_AFTER_SECONDS` when it was taken proves
//! nothing at the next reload: the file is read again.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

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

/// The type of the field differs between the kernel's architectures.
fn nanoseconds(field: impl TryInto<u32>) -> u32 {
    field.try_into().unwrap_or(0)
}

/// Unix seconds.
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
