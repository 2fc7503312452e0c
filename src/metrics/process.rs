//! What the kernel says about this process: memory, file descriptors, CPU time.

use std::fs;
use std::time::Duration;

/// One look at the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessSample {
    /// Memory in RAM, bytes.
    pub resident_bytes: u64,
    /// The memory limit of the process's control group, bytes; `None` without one.
    pub memory_limit_bytes: Option<u64>,
    /// Open file descriptors; `None` where the kernel (before 6.2) tells only by listing them.
    pub descriptors: Option<u64>,
    /// The soft bound of open file descriptors.
    pub descriptors_max: u64,
    /// CPU time of all threads.
    pub cpu: Duration,
    /// Seconds since the epoch.
    pub started: f64,
}

impl ProcessSample {
    /// Looks now. Five small files of /proc and /sys: for the control thread, once a second.
    pub fn take() -> ProcessSample {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Fields are counted from behind the command, which may hold blanks and parentheses.
        let fields: Vec<&str> =
            stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
        let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        // proc_pid_stat(5): utime is field 14, stime 15, starttime 22, rss 24; the state, field 3,
        // is at 0 here.
        let cpu = field(11).unwrap_or(0) + field(12).unwrap_or(0);
        ProcessSample {
            resident_bytes: field(21).unwrap_or(0) * rustix::param::page_size() as u64,
            memory_limit_bytes: memory_limit(),
            // Since Linux 6.2 the folder's size is the number of open descriptors.
            descriptors: fs::metadata("/proc/self/fd").map(|m| m.len()).ok().filter(|n| *n > 0),
            descriptors_max: limit.unwrap_or(u64::MAX),
            cpu: Duration::from_secs_f64(cpu as f64 / ticks),
            started: boot_time() + field(19).unwrap_or(0) as f64 / ticks,
        }
    }
}

/// The own control group's `memory.max` (cgroup v2), where one is set.
fn memory_limit() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok()?;
    limit.trim().parse().ok()
}

fn boot_time() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_has_memory_and_a_start() {
        let sample = ProcessSample::take();
        assert!(sample.resident_bytes > 1_000_000, "{sample:?}");
        assert!(sample.descriptors_max > 0 && sample.started > 1.6e9, "{sample:?}");
    }
}
