//! What this machine is and what its kernel allows, for the arithmetic and the provenance.

use std::fs;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};

use crate::listener::backlog;
use crate::sizing::{Bounds, KeyType, Machine, cpu_model};

/// Assumed where the system does not tell its memory: a small virtual machine's.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// The machine as the file keeps it.
pub fn describe(key_types: &[KeyType]) -> Machine {
    let labels: Vec<&str> = key_types.iter().map(|key| key.label()).collect();
    Machine {
        cores: std::thread::available_parallelism().ok().map(usize::from),
        cpu: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_model(&text)),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        key_types: Some(labels.join(", ")),
        measured: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
    }
}

/// The kernel's bounds; those it does not tell are taken as no bound.
pub fn bounds(threads: usize) -> Bounds {
    let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_total(&text));
    let group = number("/sys/fs/cgroup/memory.max").unwrap_or(u64::MAX);
    let syn_backlog = number("/proc/sys/net/ipv4/tcp_max_syn_backlog").unwrap_or(u64::MAX);
    Bounds {
        threads,
        memory_bytes: total.unwrap_or(MEMORY_UNKNOWN).min(group),
        descriptors: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        somaxconn: backlog::read_somaxconn().unwrap_or(u32::MAX),
        syn_backlog: u32::try_from(syn_backlog).unwrap_or(u32::MAX),
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    kilobytes(meminfo, "MemTotal:")
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
        let text = "MemFree: 7 kB\nMemTotal:       16384 kB\n";
        assert_eq!(memory_total(text), Some(16_384 * 1_024));
        assert_eq!(kilobytes(text, "VmRSS:"), None);
        assert!(resident(std::process::id()).unwrap() > 1 << 20);
    }

    #[test]
    fn the_machine_tells_its_key_types_and_its_cores() {
        let machine = describe(&[KeyType::Ecdsa, KeyType::Rsa]);
        assert_eq!(machine.key_types.as_deref(), Some("ECDSA P-256, RSA-2048"));
        assert!(machine.cores.unwrap() > 0);
        assert!(bounds(2).memory_bytes > 1 << 20);
    }
}
