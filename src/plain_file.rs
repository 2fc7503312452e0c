//! Reads files that an operator names: plain ones, up to a bound.
//!
//! A pipe that nobody writes to would keep its reader for ever, and a device may never end. Both are
//! told instead of opened; one that is put into a file's place in between is opened without waiting.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a plain file.
///
/// # Errors
/// Where there is none, or it may not be read.
pub fn open(path: &Path) -> io::Result<File> {
    let is_plain = |is_file| if is_file { Ok(()) } else { Err(no_plain_file()) };
    is_plain(fs::metadata(path)?.is_file())?;
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    is_plain(file.metadata()?.is_file())?;
    Ok(file)
}

/// The bytes of a plain file of at most `bytes_max`.
///
/// # Errors
/// Where there is none, it may not be read, or it has more.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(bytes_max)).unwrap_or(0));
    // One more than allowed tells of a file that grows meanwhile.
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        let what = format!("it has {length} bytes, at most {bytes_max} are read");
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

fn no_plain_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is no plain file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_files_up_to_the_bound_are_read_and_nothing_else_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "12345").unwrap();
        assert_eq!(read(&path("file"), 5).unwrap(), b"12345");
        let error = read(&path("file"), 4).unwrap_err();
        assert_eq!(error.to_string(), "it has 5 bytes, at most 4 are read");
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        for name in ["pipe", "."] {
            assert_eq!(read(&path(name), 5).unwrap_err().to_string(), "it is no plain file");
        }
        assert_eq!(read(Path::new("/dev/zero"), 5).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(read(&path("none"), 5).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
