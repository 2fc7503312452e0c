//! The kernel's accept queues, watched: how full, how large, what was lost.
//!
//! An overflow is invisible to the program and to the client: `connect` gives no error, the SYN is
//! sent again after 1, 3 and 7 s, and the visitor waits. So the queues are read every second and
//! at each scrape; `alarms` says what is wrong and what to do.
//!
//! Three counters together say what was lost ([`overflows_between`]). `ListenOverflows` of
//! `/proc/net/netstat` means a full queue, but belongs to the whole network namespace, other
//! programs included. The drops of our own sockets say whose it was, but count stray segments too,
//! and the empty ACK of every client that is not handed over before it has said something
//! (`TCP_DEFER_ACCEPT`): `TCPDeferAcceptDrop` says how many of these there were at most.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use serde::Serialize;

use crate::kernel;
use crate::problem::{Problem, Severity};

const NETSTAT: &str = "/proc/net/netstat";
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// One listener's accept queue at one moment.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ListenerReading {
    /// The address, as the operator wrote it.
    pub listener: String,
    /// Connections that wait to be accepted.
    pub length: u32,
    /// How many may: the smaller of the backlog asked for and somaxconn.
    pub limit: u32,
    /// What the kernel has dropped on this socket since it was made.
    pub drops: u32,
}

/// Counters of the network namespace, since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ListenCounters {
    /// Times an accept queue was full: `ListenOverflows`.
    pub overflows: u64,
    /// SYNs and ACKs dropped by listeners for any reason: `ListenDrops`.
    pub drops: u64,
    /// ACKs without data that a deferring listener has passed over: `TCPDeferAcceptDrop`. Nothing is
    /// lost by them, but each counts among its socket's drops.
    pub deferred: u64,
}

/// All of it at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Reading {
    /// Our listeners.
    pub listeners: Vec<ListenerReading>,
    /// The namespace's, where they can be read.
    pub counters: Option<ListenCounters>,
}

/// Reads one listener.
///
/// # Errors
/// Where the socket is no listening TCP socket. Drops are 0 where the kernel does not tell them.
pub fn read_listener(name: &str, listener: impl AsFd) -> io::Result<ListenerReading> {
    let queue = kernel::accept_queue(&listener)?;
    Ok(ListenerReading {
        listener: name.to_owned(),
        length: queue.length,
        limit: queue.limit,
        drops: kernel::drops(&listener).unwrap_or(0),
    })
}

/// Reads the namespace's counters.
///
/// # Errors
/// Where `/proc` is not mounted, or the kernel does not count them.
pub fn read_counters() -> io::Result<ListenCounters> {
    parse_netstat(&fs::read_to_string(NETSTAT)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no ListenOverflows in netstat"))
}

/// The largest backlog that the kernel grants.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn read_somaxconn() -> io::Result<u32> {
    let text = fs::read_to_string(SOMAXCONN)?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// listen(2) was asked for more than the kernel grants.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the kernel cuts the backlog of {asked} to {granted} (net.core.somaxconn); raise it with \
     `sysctl -w net.core.somaxconn={asked}` and keep it in /etc/sysctl.d/, then reload sluss"
)]
pub struct Clamped {
    /// The configured backlog.
    pub asked: u32,
    /// What is in force.
    pub granted: u32,
}

/// Whether the kernel cuts a backlog.
pub fn clamped(asked: u32, somaxconn: u32) -> Option<Clamped> {
    (asked > somaxconn).then_some(Clamped { asked, granted: somaxconn })
}

/// What to tell the operator whose main file is `file` where the kernel cuts a backlog.
pub fn clamped_problem(asked: u32, file: &Path) -> Option<Problem> {
    let clamped = clamped(asked, read_somaxconn().ok()?)?;
    Some(Problem {
        severity: Severity::Warning,
        file: file.to_path_buf(),
        line: None,
        key: "listen.backlog".into(),
        site: None,
        what: clamped.to_string(),
        remedy: String::new(),
    })
}

/// Connection attempts that full queues of ours have lost between two readings.
///
/// Where a queue of ours is seen full, all that was dropped counts. Otherwise it may have been full
/// in between, and what deferring alone can have dropped does not count.
pub fn overflows_between(before: &Reading, now: &Reading) -> u64 {
    let ours: u64 = now.listeners.iter().map(|reading| dropped(before, reading)).sum();
    let full = now.listeners.iter().any(|reading| reading.length >= reading.limit);
    match (before.counters, now.counters) {
        (Some(before), Some(now)) => {
            let deferred = now.deferred.saturating_sub(before.deferred);
            let ours = if full { ours } else { ours.saturating_sub(deferred) };
            now.overflows.saturating_sub(before.overflows).min(ours)
        }
        _ if full => ours,
        _ => 0,
    }
}

/// The listener that dropped most between two readings.
pub fn dropping_between<'a>(before: &Reading, now: &'a Reading) -> Option<&'a str> {
    let most = now.listeners.iter().max_by_key(|reading| dropped(before, reading))?;
    Some(&most.listener)
}

/// A socket whose drops are fewer than before is a new one and counts from zero.
fn dropped(before: &Reading, reading: &ListenerReading) -> u64 {
    let earlier = before.listeners.iter().find(|other| other.listener == reading.listener);
    let earlier = earlier.map_or(0, |earlier| earlier.drops);
    u64::from(reading.drops.checked_sub(earlier).unwrap_or(reading.drops))
}

/// `netstat` has pairs of lines, names above numbers, each with the group's name first.
fn parse_netstat(text: &str) -> Option<ListenCounters> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let number = |wanted: &str| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        numbers.split_whitespace().nth(at)?.parse().ok()
    };
    Some(ListenCounters {
        overflows: number("ListenOverflows")?,
        drops: number("ListenDrops")?,
        deferred: number("TCPDeferAcceptDrop")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(drops: u32, overflows: u64) -> Reading {
        let listener = "[::]:443".to_owned();
        Reading {
            listeners: vec![ListenerReading { listener, length: 0, limit: 100, drops }],
            counters: Some(ListenCounters { overflows, drops: overflows, deferred: 0 }),
        }
    }

    fn full(mut reading: Reading) -> Reading {
        reading.listeners[0].length = 101;
        reading
    }

    fn deferring(mut reading: Reading, deferred: u64) -> Reading {
        reading.counters.as_mut().unwrap().deferred = deferred;
        reading
    }

    #[track_caller]
    fn check(before: Reading, now: Reading, expected: u64) {
        assert_eq!(overflows_between(&before, &now), expected);
    }

    #[test]
    fn an_overflow_of_ours_is_told_apart_from_stray_segments_and_other_programs() {
        check(reading(7, 5), reading(7, 5), 0);
        check(reading(7, 5), reading(9, 7), 2);
        // Another program's listener; a stray segment on ours; both.
        check(reading(7, 5), reading(7, 7), 0);
        check(reading(7, 5), reading(8, 5), 0);
        check(reading(7, 5), reading(8, 9), 1);
        assert_eq!(dropping_between(&reading(7, 5), &reading(9, 7)), Some("[::]:443"));
        // A new socket under the same name counts from zero.
        check(reading(7, 5), reading(2, 9), 2);
    }

    #[test]
    fn a_client_that_is_passed_over_until_it_speaks_is_no_overflow() {
        // Another program's queue overflows while ours defers; ours overflows as well.
        check(reading(7, 5), deferring(reading(27, 9), 20), 0);
        check(reading(7, 5), deferring(reading(29, 9), 20), 2);
        // A queue that is full now has lost what it dropped.
        check(reading(7, 5), full(deferring(reading(27, 9), 20)), 4);
        // Without the namespace's counters nothing tells the one from the other but that.
        let blind = |reading| Reading { counters: None, ..reading };
        check(blind(reading(7, 0)), blind(reading(8, 0)), 0);
        check(blind(reading(7, 0)), full(blind(reading(8, 0))), 1);
    }

    #[test]
    fn the_counters_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPDeferAcceptDrop\n\
                    TcpExt: 1 22 333 4444\nIpExt: InNoRoutes\nIpExt: 0\n";
        let counters = ListenCounters { overflows: 22, drops: 333, deferred: 4444 };
        assert_eq!(parse_netstat(text), Some(counters));
        assert_eq!(parse_netstat("TcpExt: SyncookiesSent\nTcpExt: 1\n"), None);
        assert_eq!(parse_netstat(""), None);
    }

    #[test]
    fn this_kernel_tells_its_counters_and_its_clamp() {
        read_counters().unwrap();
        assert!(read_somaxconn().unwrap() > 0);
    }

    #[test]
    fn a_backlog_above_somaxconn_is_told_with_the_command_that_raises_it() {
        assert_eq!(clamped(4096, 4096), None);
        let text = clamped(4096, 128).unwrap().to_string();
        assert!(text.contains("4096 to 128") && text.contains("net.core.somaxconn=4096"));
    }
}
