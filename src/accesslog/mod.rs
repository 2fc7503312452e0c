//! The access log: one line a request, never at the cost of serving.
//!
//! The serving thread formats a record straight into its own buffer (a lock that nobody else holds
//! but for the moment of a swap) and goes on: no system call, no allocation once the buffer has
//! grown. One writer thread takes the buffers every `PAUSE`, sooner where one fills up, and writes
//! them; it rests, and has to be woken, once no line came in a `PAUSE`. States of a line: in a
//! buffer; taken (with the writer); written, or lost. A line is lost, and counted, where its
//! thread's buffer is full because the device is slower than the traffic, and where the device
//! refuses it. Lines of one thread keep their order; between threads it may differ by `PAUSE`.
//!
//! Memory: at most twice `BUFFER_BYTES_MAX` for each shard.

mod record;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::shards;

pub use record::{AccessRecord, Format};

use record::Clock;
use writer::Writer;

/// How long lines may wait for company: long enough for one write a batch, short enough for `tail`.
const PAUSE: Duration = Duration::from_millis(50);

/// 2 MiB are 6,000 lines: what one thread logs in `PAUSE` at 100,000 requests a second, and more
/// than a second at 5,000.
const BUFFER_BYTES_MAX: usize = 2 * 1024 * 1024;

/// At this fill the writer is told to come at once: what it writes is still in the processor's
/// cache, and the next lines come into memory that is there too.
const BUFFER_BYTES_HURRY: usize = 256 * 1024;

/// A write that takes longer is a stalled device.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Where the lines go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Nowhere; records are not even formatted.
    Off,
    /// A file, appended to; opened anew by [`AccessLog::reopen`].
    File(PathBuf),
}

/// The log. Shared by all threads; dropping it writes what stands in the buffers.
pub struct AccessLog {
    format: Format,
    target: Target,
    counts: Arc<Counts>,
    shared: Option<Arc<Shared>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    wake: Option<Thread>,
}

/// Lines since the start of the process, whatever log they went to: counters never fall.
#[derive(Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
    errors: AtomicU64,
}

/// What the serving threads and the writer share.
struct Shared {
    shards: Box<[Shard]>,
    /// The writer comes by itself, so that only the first line after a while without any wakes it.
    pending: AtomicBool,
    reopen: AtomicBool,
    closing: AtomicBool,
    counts: Arc<Counts>,
    status: Mutex<Status>,
}

/// The alignment keeps two threads' locks off one cache line.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    buffer: Mutex<Buffer>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
    clock: Clock,
}

#[derive(Default)]
struct Status {
    /// When the write that runs now began.
    writing_since: Option<Instant>,
    /// The last failure, until a write succeeds.
    failure: Option<String>,
}

/// How the log does, for metrics and alarms.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessLogState {
    /// Lines written.
    pub written: u64,
    /// Lines lost: buffers full, or refused by the device.
    pub dropped: u64,
    /// Failed writes and reopens.
    pub errors: u64,
    /// Why lines cannot be written now.
    pub failure: Option<String>,
}

impl AccessLog {
    /// Opens the target for `threads` threads (see [`crate::shards`]) and starts the writer.
    ///
    /// # Errors
    /// Where the file cannot be opened, or no thread started.
    pub fn new(format: Format, target: Target, threads: usize) -> io::Result<AccessLog> {
        AccessLog::open(format, target, threads, Arc::default())
    }

    /// The same in the place of this one, whose counts it carries on.
    ///
    /// # Errors
    /// As of [`new`](AccessLog::new).
    pub fn replacement(
        &self,
        format: Format,
        target: Target,
        threads: usize,
    ) -> io::Result<AccessLog> {
        AccessLog::open(format, target, threads, self.counts.clone())
    }

    fn open(
        format: Format,
        target: Target,
        threads: usize,
        counts: Arc<Counts>,
    ) -> io::Result<AccessLog> {
        let Some(writer) = Writer::open(target.clone())? else {
            let (writer, wake) = (Mutex::new(None), None);
            return Ok(AccessLog { format, target, counts, shared: None, writer, wake });
        };
        // One more for the threads without a number.
        let shards = (0..=threads).map(|_| Shard::default()).collect();
        let shared = Arc::new(Shared {
            shards,
            pending: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            counts: counts.clone(),
            status: Mutex::default(),
        });
        let handle = std::thread::Builder::new().name("sluss-access-log".to_owned()).spawn({
            let shared = shared.clone();
            move || writer.run(&shared)
        })?;
        let wake = Some(handle.thread().clone());
        let writer = Mutex::new(Some(handle));
        Ok(AccessLog { format, target, counts, shared: Some(shared), writer, wake })
    }

    /// Whether it is the log that these ask for.
    pub fn is(&self, format: Format, target: &Target) -> bool {
        self.format == format && self.target == *target
    }

    /// Whether records are written anywhere: where not, they need not be made.
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Logs one request. Never blocks: a line that finds its buffer full is dropped and counted.
    #[inline]
    pub fn log(&self, record: &AccessRecord<'_>) {
        let Some(shared) = &self.shared else { return };
        let shard = &shared.shards[shards::current(shared.shards.len())];
        let mut buffer = lock(&shard.buffer);
        if buffer.bytes.len() + record::LINE_BYTES_MAX > BUFFER_BYTES_MAX {
            drop(buffer);
            self.counts.lost.fetch_add(1, Relaxed);
            return;
        }
        let before = buffer.bytes.len();
        let Buffer { bytes, lines, clock } = &mut *buffer;
        record.write(self.format, clock, bytes);
        *lines += 1;
        let after = bytes.len();
        drop(buffer);
        let hurry = before < BUFFER_BYTES_HURRY && after >= BUFFER_BYTES_HURRY;
        // The flag is only read in the usual case: an exchange would pull its line to each thread.
        if hurry || (!shared.pending.load(Relaxed) && !shared.pending.swap(true, Relaxed)) {
            self.wake_writer();
        }
    }

    /// Lets the writer open its file anew (after logrotate renamed it) once all lines logged so far
    /// are in the old one. Returns at once; a failure shows in [`AccessLog::state`], and the old
    /// file is written on.
    pub fn reopen(&self) {
        if let Some(shared) = &self.shared {
            shared.reopen.store(true, Relaxed);
            self.wake_writer();
        }
    }

    /// How the log does.
    pub fn state(&self) -> AccessLogState {
        let failure = self.shared.as_ref().and_then(|shared| {
            let status = lock(&shared.status);
            let stalled = status.writing_since.is_some_and(|since| since.elapsed() > STALLED_AFTER);
            let stall =
                || stalled.then(|| "the write does not return: the reader is stalled".into());
            status.failure.clone().or_else(stall)
        });
        AccessLogState {
            written: self.counts.written.load(Relaxed),
            dropped: self.counts.lost.load(Relaxed),
            errors: self.counts.errors.load(Relaxed),
            failure,
        }
    }

    /// Writes what stands in the buffers and ends the writer, waiting at most `grace`: a stalled
    /// pipe must not keep the process from ending. Lines logged afterwards are lost.
    pub fn close(&self, grace: Duration) {
        let Some(shared) = &self.shared else { return };
        shared.closing.store(true, Relaxed);
        self.wake_writer();
        let Some(handle) = lock(&self.writer).take() else { return };
        let until = Instant::now() + grace;
        while !handle.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn wake_writer(&self) {
        if let Some(thread) = &self.wake {
            thread.unpark();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close(Duration::from_secs(1));
    }
}

/// A buffer stays usable whatever a thread that held it met.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
