//! What the kernel says about this process: memory, file descriptors, CPU time.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often descriptors are counted where the kernel does not tell their number: with a hundred
/// thousand of them that takes a tenth of a second.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// One look at the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessSample {
    /// Memory in RAM, bytes.
    pub resident_bytes: u64,
    /// The memory that the process may use, bytes: [`memory_bound`].
    pub memory_limit_bytes: Option<u64>,
    /// Open file descriptors; `None` where /proc cannot be read.
    pub descriptors: Option<u64>,
    /// The soft bound of open file descriptors.
    pub descriptors_max: u64,
    /// CPU time of all threads.
    pub cpu: Duration,
    /// Seconds since the epoch.
    pub started: f64,
}

/// Looks at the process, and remembers what is costly to learn.
#[derive(Default)]
pub struct ProcessReader {
    counted: Mutex<Option<(Instant, u64)>>,
}

impl ProcessReader {
    /// Looks now. A few small files of /proc and /sys: for the control thread, once a second.
    pub fn sample(&self) -> ProcessSample {
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
        // Since Linux 6.2 the folder's size is the number of open descriptors; before, it is 0.
        let told = fs::metadata("/proc/self/fd").map(|folder| folder.len()).ok();
        ProcessSample {
            resident_bytes: field(21).unwrap_or(0) * rustix::param::page_size() as u64,
            memory_limit_bytes: memory_bound(),
            descriptors: self.descriptors(told, Instant::now(), count_descriptors),
            descriptors_max: limit.unwrap_or(u64::MAX),
            cpu: Duration::from_secs_f64(cpu as f64 / ticks),
            started: boot_time() + field(19).unwrap_or(0) as f64 / ticks,
        }
    }

    /// As many as the kernel told; where it told none, as many as there were at the last count.
    fn descriptors(
        &self,
        told: Option<u64>,
        now: Instant,
        count: impl FnOnce() -> Option<u64>,
    ) -> Option<u64> {
        if let Some(told) = told.filter(|told| *told > 0) {
            return Some(told);
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |(at, _): &(Instant, u64)| now.duration_since(*at) < COUNT_EVERY;
        if !counted.as_ref().is_some_and(is_fresh) {
            *counted = count().map(|descriptors| (now, descriptors));
        }
        counted.map(|(_, descriptors)| descriptors)
    }
}

fn count_descriptors() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // One of them is the listing's own.
    Some(entries.saturating_sub(1))
}

/// The memory that this process may use, bytes: the least of the machine's and of what the control
/// groups that it is in allow, of either version and up to their root. `None` where the kernel
/// tells nothing.
pub fn memory_bound() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let machine = read("/proc/meminfo").and_then(|text| memory_total(&text));
    group_limits(&groups, read).chain(machine).min()
}

/// What the groups of /proc/self/cgroup and all above them allow. A container sees its own group
/// at the root, under a path that is not there: only files that are found count.
fn group_limits(groups: &str, read: impl Fn(&str) -> Option<String>) -> impl Iterator<Item = u64> {
    groups.lines().flat_map(controlled).flat_map(move |(root, path, file)| {
        let limit = |group: &str| read(&format!("{root}{group}/{file}"))?.trim().parse().ok();
        let mut group = path.trim_end_matches('/');
        let mut limits: Vec<u64> = limit(group).into_iter().collect();
        while let Some((above, _)) = group.rsplit_once('/') {
            group = above;
            limits.extend(limit(group));
        }
        limits
    })
}

/// Of a line `ID:CONTROLLERS:PATH`: where the memory's bounds are, under which path, in which file.
fn controlled(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    match controllers {
        "" => Some(("/sys/fs/cgroup", path, "memory.max")),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            Some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1_024)
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
        let sample = ProcessReader::default().sample();
        assert!(sample.resident_bytes > 1_000_000, "{sample:?}");
        assert!(sample.memory_limit_bytes > Some(sample.resident_bytes), "{sample:?}");
        assert!(sample.descriptors_max > 0 && sample.started > 1.6e9, "{sample:?}");
        assert!(sample.descriptors >= Some(3), "{sample:?}");
    }

    #[test]
    fn descriptors_are_counted_now_and_then_where_the_kernel_does_not_tell() {
        let (reader, start) = (ProcessReader::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(reader.descriptors(Some(7), start, || unreachable!("it is told")), Some(7));
        assert_eq!(reader.descriptors(Some(0), start, || Some(20)), Some(20));
        assert_eq!(reader.descriptors(Some(0), later(9), || unreachable!("fresh")), Some(20));
        assert_eq!(reader.descriptors(Some(0), later(10), || Some(30)), Some(30));
        assert_eq!(reader.descriptors(None, later(20), || None), None);
        assert!(count_descriptors() >= Some(3));
    }

    #[track_caller]
    fn limits(groups: &str, files: &[(&str, &str)], expected: &[u64]) {
        let read = |path: &str| {
            let file = files.iter().find(|(name, _)| path == format!("/sys/fs/cgroup/{name}"));
            Some(file?.1.to_owned())
        };
        let found: Vec<u64> = group_limits(groups, read).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_group_s_memory_is_bounded_by_all_above_it() {
        let files = [
            ("system.slice/sluss.service/memory.max", "max\n"),
            ("system.slice/memory.max", "1048576\n"),
        ];
        limits("0::/system.slice/sluss.service\n", &files, &[1 << 20]);
        // In a container with a name space of its own the group is the root.
        limits("0::/\n", &[("memory.max", "4096\n")], &[4_096]);
    }

    #[test]
    fn groups_of_the_first_version_bound_memory_too() {
        let groups = "9:name=systemd:/\n4:cpu,memory:/docker/a\n3:cpuset:/\n0::/\n";
        let own = ("memory/docker/a/memory.limit_in_bytes", "8192\n");
        let root = ("memory/memory.limit_in_bytes", "9223372036854771712\n");
        limits(groups, &[own, root], &[8_192, 9_223_372_036_854_771_712]);
        // The host's path, seen from inside.
        limits(groups, &[("memory/memory.limit_in_bytes", "4096\n")], &[4_096]);
        assert_eq!(memory_total("MemFree: 7 kB\nMemTotal:    16384 kB\n"), Some(16_384 * 1_024));
    }
}
