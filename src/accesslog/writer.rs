//! The thread that writes the access log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::{Duration, Instant};

use super::{PAUSE, Shared, Target, lock};

/// After a failure: short enough to go on soon, long enough not to hammer a full disk.
const BACK_OFF: Duration = Duration::from_millis(500);

/// Owns the device. A line torn by a failed write is ended before the next batch.
pub(super) struct Writer {
    device: Device,
    torn: bool,
}

enum Device {
    Stdout,
    File { path: std::path::PathBuf, file: File },
}

impl Writer {
    /// `None` where nothing is to be written.
    pub(super) fn open(target: Target) -> io::Result<Option<Writer>> {
        let device = match target {
            Target::Off => return Ok(None),
            Target::Stdout => Device::Stdout,
            Target::File(path) => Device::File { file: append(&path)?, path },
        };
        Ok(Some(Writer { device, torn: false }))
    }

    /// Until the log is closed: wait for a first line, then write all there is every `PAUSE`, until
    /// nothing has come in one.
    pub(super) fn run(mut self, shared: &Shared) {
        let mut batch = Vec::new();
        let mut last_look = false;
        loop {
            // Read before the buffers are taken: what was logged before it was set is written.
            let closing = shared.closing.load(Relaxed);
            let reopen = shared.reopen.swap(false, Relaxed);
            let drained = self.drain(shared, &mut batch);
            if reopen {
                self.reopen(shared);
            }
            if closing {
                return;
            }
            match drained {
                Err(_) => std::thread::sleep(BACK_OFF),
                // It comes again by itself: while the flag is set no line wakes it.
                Ok(true) => {
                    shared.pending.store(true, Relaxed);
                    pause(shared);
                }
                // From here on a line wakes it; what came just before is seen by one more look.
                Ok(false) if !last_look => {
                    shared.pending.swap(false, AcqRel);
                    last_look = true;
                    continue;
                }
                Ok(false) => {
                    std::thread::park();
                    pause(shared);
                }
            }
            last_look = false;
        }
    }

    /// Takes and writes each thread's buffer. On a failure the taken lines are lost; the other
    /// buffers stay as they are for the next time. Whether there were any.
    fn drain(&mut self, shared: &Shared, batch: &mut Vec<u8>) -> io::Result<bool> {
        let mut any = false;
        for shard in &shared.shards {
            batch.clear();
            let lines = {
                let mut buffer = lock(&shard.buffer);
                std::mem::swap(&mut buffer.bytes, batch);
                std::mem::take(&mut buffer.lines)
            };
            if batch.is_empty() {
                continue;
            }
            any = true;
            lock(&shared.status).writing_since = Some(Instant::now());
            let outcome = self.write(batch);
            let mut status = lock(&shared.status);
            status.writing_since = None;
            match outcome {
                Ok(()) => {
                    status.failure = None;
                    shared.counts.written.fetch_add(lines, Relaxed);
                }
                Err((done, error)) => {
                    let whole = memchr::memchr_iter(b'\n', &batch[..done]).count() as u64;
                    shared.counts.written.fetch_add(whole, Relaxed);
                    shared.counts.lost.fetch_add(lines.saturating_sub(whole), Relaxed);
                    shared.counts.errors.fetch_add(1, Relaxed);
                    status.failure = Some(format!("cannot write {}: {error}", self.name()));
                    return Err(error);
                }
            }
        }
        Ok(any)
    }

    /// Writes all of `bytes`, or tells how many went out before the error.
    fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let device: &mut dyn Write = match &mut self.device {
            Device::Stdout => &mut io::stdout().lock(),
            Device::File { file, .. } => file,
        };
        if self.torn {
            device.write_all(b"\n").map_err(|error| (0, error))?;
            self.torn = false;
        }
        let mut done = 0;
        while done < bytes.len() {
            match device.write(&bytes[done..]) {
                Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn = done > 0 && bytes[done - 1] != b'\n';
                    return Err((done, error));
                }
            }
        }
        device.flush().map_err(|error| (done, error))
    }

    fn reopen(&mut self, shared: &Shared) {
        let Device::File { path, file } = &mut self.device else { return };
        match append(path) {
            Ok(new) => {
                *file = new;
                self.torn = false;
                lock(&shared.status).failure = None;
            }
            Err(error) => {
                shared.counts.errors.fetch_add(1, Relaxed);
                let failure = format!("cannot open {}: {error}", path.display());
                lock(&shared.status).failure = Some(failure);
            }
        }
    }

    fn name(&self) -> String {
        match &self.device {
            Device::Stdout => "standard output".to_owned(),
            Device::File { path, .. } => path.display().to_string(),
        }
    }
}

/// Lets lines come together, unless somebody waits for the end or for a new file.
fn pause(shared: &Shared) {
    if !shared.closing.load(Relaxed) && !shared.reopen.load(Relaxed) {
        std::thread::park_timeout(PAUSE);
    }
}

/// A named pipe is not waited for until somebody reads it: without a reader it is an error.
fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)?;
    Ok(file)
}
