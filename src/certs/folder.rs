//! The folder of certificates: which names it has, and their files' bytes.
//!
//! A name is a folder with `fullchain.pem` and `privkey.pem`, or a file `NAME.pem`. Symbolic links
//! are followed, for both the folders and the files, so certbot's `live` works as it stands.
//! Hidden entries and files with other endings (certbot's README) are nobody's certificate.
//! Every path is opened relative to the folder: one lookup of two names instead of the whole path.

use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::certificate::Layout;
use super::defect::{Defect, Found, Part};
use super::identity::Identity;
use crate::identity::{FileIdentity, Listed};

/// A chain of ten RSA-4096 certificates with their text forms stays below a quarter of it.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The open folder.
pub(super) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

/// One name in the folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) layout: Layout,
}

/// One name in the folder, wherever it is kept.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    pub(super) name: &'a str,
    pub(super) layout: Layout,
}

impl Entry {
    pub(super) fn name(&self) -> Name<'_> {
        Name { name: &self.name, layout: self.layout }
    }
}

/// All names of the folder.
pub(super) struct Listing {
    /// Sorted, each name once.
    pub(super) entries: Vec<Entry>,
    /// What cannot be a certificate, and where it is.
    pub(super) defects: Vec<(PathBuf, Defect)>,
}

/// The files of one certificate, read.
pub(super) struct Files {
    pub(super) identity: Identity,
    pub(super) chain: Zeroizing<Vec<u8>>,
    /// `None` in the one-file layout: the key is in the same file.
    pub(super) key: Option<Zeroizing<Vec<u8>>>,
    pub(super) key_mode: u32,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Folder { handle: fs::open(path, flags, Mode::empty())?, path: path.to_path_buf() })
    }

    /// What tells a later load whether the names are the same. To be asked for before they are listed.
    pub(super) fn listed(&self) -> Option<Listed> {
        Listed::now(&self.handle)
    }

    /// All names. An error in the midst of the listing is an error of the whole: half a list would look like removed certificates.
    pub(super) fn list(&self) -> Result<Listing, Errno> {
        let mut entries = Vec::new();
        let mut defects = Vec::new();
        for item in Dir::read_from(&self.handle)? {
            let item = item?;
            let bytes = item.file_name().to_bytes();
            if bytes.starts_with(b".") {
                continue;
            }
            let Some((stem, layout)) = layout(bytes, item.file_type()) else { continue };
            match std::str::from_utf8(stem) {
                Ok(name) if is_name(name) => entries.push(Entry { name: name.into(), layout }),
                _ => {
                    let shown = String::from_utf8_lossy(bytes).escape_debug().to_string();
                    defects.push((self.path.join(shown), Defect::NameInvalid));
                }
            }
        }
        entries.sort_unstable_by(|a, b| (&a.name, a.layout).cmp(&(&b.name, b.layout)));
        entries.dedup_by(|file, folder| {
            let is_twice = file.name == folder.name;
            if is_twice {
                defects.push((self.path(file.name(), Part::Chain), Defect::NameTwice));
            }
            is_twice
        });
        Ok(Listing { entries, defects })
    }

    /// Where a certificate's file is, for people.
    pub(super) fn path(&self, entry: Name<'_>, part: Part) -> PathBuf {
        file_path(&self.path, entry.name, entry.layout, part)
    }

    /// What the system says of a certificate's files; an error where one cannot be asked for.
    pub(super) fn identity(&self, entry: Name<'_>) -> Result<Identity, Errno> {
        let chain = self.stat(entry, Part::Chain)?;
        let key = match entry.layout {
            Layout::Folder => self.stat(entry, Part::Key)?,
            Layout::File => chain,
        };
        Ok(Identity { chain, key })
    }

    fn stat(&self, entry: Name<'_>, part: Part) -> Result<FileIdentity, Errno> {
        let path = relative_path(entry.name, entry.layout, part);
        Ok(FileIdentity::of(&fs::statat(&self.handle, path, AtFlags::empty())?))
    }

    /// Reads a certificate's files. `Ok(None)` where the entry is no certificate at all.
    pub(super) fn read(&self, entry: Name<'_>) -> Result<Option<Files>, Found> {
        let chain = self.read_file(entry, Part::Chain);
        let key = match entry.layout {
            Layout::Folder => Some(self.read_file(entry, Part::Key)),
            Layout::File => None,
        };
        let (chain, key) = match (chain, key) {
            // A link to a file, which only looked like a folder.
            (Err(Errno::NOTDIR), Some(_)) => return Ok(None),
            (Err(Errno::NOENT), Some(Err(Errno::NOENT))) => {
                return Err(Found::chain(Defect::FolderEmpty));
            }
            (chain, key) => (
                chain.map_err(|errno| Found::chain(unreadable(errno)))?,
                key.transpose().map_err(|errno| Found::key(unreadable(errno)))?,
            ),
        };
        let (chain_stat, chain) = (chain.0, chain.1.map_err(Found::chain)?);
        let (key_stat, key) = match key {
            Some((stat, bytes)) => (stat, Some(bytes.map_err(Found::key)?)),
            None => (chain_stat, None),
        };
        let identity =
            Identity { chain: FileIdentity::of(&chain_stat), key: FileIdentity::of(&key_stat) };
        Ok(Some(Files { identity, chain, key, key_mode: key_stat.st_mode & 0o7777 }))
    }

    /// The identity is taken before the bytes, from the same open file: a change in between makes
    /// the next reload read it again.
    fn read_file(&self, entry: Name<'_>, part: Part) -> Result<(Stat, FileBytes), Errno> {
        let path = relative_path(entry.name, entry.layout, part);
        // Without NONBLOCK, opening a pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = fs::openat(&self.handle, path, flags, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        Ok((stat, read_bytes(file, &stat)?))
    }
}

type FileBytes = Result<Zeroizing<Vec<u8>>, Defect>;

fn read_bytes(file: OwnedFd, stat: &Stat) -> Result<FileBytes, Errno> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Err(Defect::NoFile));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > FILE_BYTES_MAX {
        return Ok(Err(Defect::TooLarge { size, size_max: FILE_BYTES_MAX }));
    }
    let size = usize::try_from(size).unwrap_or(0);
    let mut bytes = Zeroizing::new(vec![0; size]);
    let mut filled = 0;
    while filled < size {
        match rustix::io::read(&file, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Shorter than a moment ago: the parser sees what is there.
    bytes.truncate(filled);
    Ok(Ok(bytes))
}

fn unreadable(errno: Errno) -> Defect {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Defect::Missing,
        other => Defect::Unreadable(other),
    }
}

/// The name's part of a directory entry and its layout; `None` for what is no certificate.
fn layout(bytes: &[u8], kind: FileType) -> Option<(&[u8], Layout)> {
    match (bytes.strip_suffix(b".pem"), kind) {
        (_, FileType::Directory) => Some((bytes, Layout::Folder)),
        (Some(stem), _) => Some((stem, Layout::File)),
        (None, FileType::Symlink | FileType::Unknown) => Some((bytes, Layout::Folder)),
        (None, _) => None,
    }
}

/// Printable, and at home in a log line, a metric label and a configuration file.
fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len()) && !name.chars().any(|c| c.is_control() || c == '"')
}

fn relative_path(name: &str, layout: Layout, part: Part) -> String {
    let rest = match (layout, part) {
        (Layout::Folder, Part::Chain) => "/fullchain.pem",
        (Layout::Folder, Part::Key) => "/privkey.pem",
        (Layout::File, _) => ".pem",
    };
    [name, rest].concat()
}

/// Where a certificate's file is below `directory`.
pub(super) fn file_path(directory: &Path, name: &str, layout: Layout, part: Part) -> PathBuf {
    directory.join(relative_path(name, layout, part))
}
