//! Work that takes only what serving leaves: threads of the lowest priority.
//!
//! Linux has the priority by thread (setpriority(2), BUGS), threads inherit it from the one that
//! starts them, and lowering it needs no privilege. Not being allowed to is no reason to stop.

use std::num::NonZero;
use std::thread;

/// The lowest there is; handshake threads stand at 10 by default.
pub const NICE_LOWEST: i32 = 19;

/// The calling thread takes from now on only what others leave.
pub fn lowest_priority() {
    // No process is the calling thread.
    let _ = rustix::process::setpriority_process(None, NICE_LOWEST);
}

/// How many threads may load at once: all cores' while nobody is served yet; beside serving threads
/// one core stays free. Niceness alone does not see to that, nor does SCHED_IDLE or another time
/// slice (docs/certificates.md has what was measured).
pub fn loading_threads(loading: Loading) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    match loading {
        Loading::AtStart => cores,
        Loading::BesideServing => cores.saturating_sub(1).max(1),
    }
}

/// When a load happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loading {
    /// Before anybody is served.
    AtStart,
    /// While the generation before serves.
    BesideServing,
}

impl Loading {
    /// With a generation before there are visitors.
    pub fn after<T>(before: Option<&T>) -> Loading {
        if before.is_some() { Loading::BesideServing } else { Loading::AtStart }
    }
}

/// Gives `value` back on a thread of its own. For what takes milliseconds to give back, and may be
/// let go of last by a serving thread.
pub fn drop_aside<T: Send + 'static>(value: T) {
    // Where there is no thread to be had, the closure and what it holds are dropped here.
    let _ = thread::Builder::new().name("sluss-drop".into()).spawn(move || {
        lowest_priority();
        drop(value);
    });
}
