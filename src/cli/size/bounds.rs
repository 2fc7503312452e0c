//! What this machine's kernel allows, for the arithmetic.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::listener::backlog;
use crate::metrics::memory_bound;
use crate::sizing::Bounds;

/// Assumed where the system does not tell its memory: a small virtual machine's.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// The kernel's bounds; those it does not tell are taken as no bound.
pub fn read(threads: usize) -> Bounds {
    let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let syn_backlog = number("/proc/sys/net/ipv4/tcp_max_syn_backlog").unwrap_or(u64::MAX);
    Bounds {
        threads,
        memory_bytes: memory_bound().unwrap_or(MEMORY_UNKNOWN),
        descriptors: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        somaxconn: backlog::read_somaxconn().unwrap_or(u32::MAX),
        syn_backlog: u32::try_from(syn_backlog).unwrap_or(u32::MAX),
    }
}

/// Memory that a process has in RAM, bytes.
pub fn resident(process: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmRSS:")
}

/// A line `NAME   123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(number * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "VmPeak: 7 kB\nVmRSS:       16384 kB\n";
        assert_eq!(kilobytes(text, "VmRSS:"), Some(16_384 * 1_024));
        assert_eq!(kilobytes(text, "VmSwap:"), None);
        assert!(resident(std::process::id()).unwrap() > 1 << 20);
    }

    #[test]
    fn this_machine_has_bounds() {
        let bounds = read(2);
        assert!(bounds.memory_bytes > 1 << 20);
        assert!(bounds.descriptors > 16);
    }
}
