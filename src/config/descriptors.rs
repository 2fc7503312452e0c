//! File descriptors: how many the process may have, and how many connections that allows.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Even where no limit is set: tables and counters are sized for this many.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// Descriptors the process may have once [`raise_descriptor_limit`] has been called.
pub(super) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Lets the process use all descriptors its hard limit allows: the soft one is 1024 on most
/// systems, for the sake of programs that still use select(2).
///
/// # Errors
/// What setrlimit(2) says.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The connections that `limit` descriptors allow. Each may need two: the client's and one to an
/// endpoint. An eighth, from 64 to 1024, stays for listeners, logs, files under reload and checks.
pub(super) fn connections_for(limit: u64) -> usize {
    let reserve = (limit / 8).clamp(64, 1024);
    let connections = (limit.saturating_sub(reserve) / 2).clamp(1, CONNECTIONS_MAX);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_stays_and_each_connection_may_have_two() {
        assert_eq!(connections_for(1024), 448);
        assert_eq!(connections_for(65_536), 32_256);
        assert_eq!(connections_for(u64::MAX), 1_000_000);
        assert_eq!(connections_for(0), 1);
    }
}
