//! Work that takes only what serving leaves: threads of the lowest priority.
//!
//! Linux has the priority by thread (setpriority(2), BUGS), threads inherit it from the one that
//! starts them, and lowering it needs no privilege. Not being allowed to is no reason to stop.

use std::thread;

/// The lowest there is; handshake threads stand at 10 by default.
pub const NICE_LOWEST: i32 = 19;

/// The calling thread takes from now on only what others leave.
pub fn lowest_priority() {
    // No process is the calling thread.
    let _ = rustix::process::setpriority_process(None, NICE_LOWEST);
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
