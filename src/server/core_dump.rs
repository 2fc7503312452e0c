//! Keeps private keys out of core dumps.
//!
//! Every key that is served stands in the process's memory, and a core holds that memory: as a file
//! on a disk, or with the handler that the system pipes cores to. With the filter at 0 the kernel
//! writes no memory of the process's own into one; registers, threads and the list of mapped files
//! are left (core(5), proc_pid_coredump_filter(5)). It outlives fork and exec, and whoever needs a
//! whole core sets it after the start.

use std::fs;
use std::io;

const FILTER: &str = "/proc/self/coredump_filter";

/// To be called before a key is read.
///
/// # Errors
/// What writing the filter says: there is no /proc, or a kernel without cores.
pub(super) fn leave_memory_out() -> io::Result<()> {
    fs::write(FILTER, "0")
}
