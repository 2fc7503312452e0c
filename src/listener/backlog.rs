//! The kernel's accept queues, watched: how full, how large, what was lost, and what to do.
//!
//! An overflow is invisible to the program and to the client: `connect` gives no error, the SYN is
//! sent again after 1, 3 and 7 s, and the visitor waits. So the queues are read every second and
//! at each scrape. Reading is here, judging is [`judge`], a pure function over two readings.
//!
//! Two counters together say what happened. `ListenOverflows` of `/proc/net/netstat` means a full
//! queue, but belongs to the whole network namespace, other programs included. The drops of our
//! own sockets say whose it was, but count stray segments too. Where `/proc` cannot be read, drops
//! alone must do.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use serde::Serialize;

use super::kernel;

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
     `sysctl -w net.core.somaxconn={asked}` and keep it in /etc/sysctl.d/, then restart sluss"
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

/// What is wrong with the kernel's queues.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum Trouble {
    /// One of our queues has dropped visitors since the last reading.
    #[error(
        "the kernel dropped {dropped} connection attempts on {listener}, its accept queue was full \
         ({length} waiting, limit {limit})"
    )]
    Overflow {
        /// The listener.
        listener: String,
        /// Since the last reading.
        dropped: u32,
        /// Now.
        length: u32,
        /// In force.
        limit: u32,
    },
    /// One of our queues is more than half full: accept does not keep up.
    #[error("{length} connections wait in the kernel on {listener}, limit {limit}")]
    Filling {
        /// The listener.
        listener: String,
        /// Now.
        length: u32,
        /// In force.
        limit: u32,
    },
    /// Another program's queue in this namespace overflowed.
    #[error("an accept queue of another program overflowed {overflows} times")]
    Elsewhere {
        /// Since the last reading.
        overflows: u64,
    },
}

impl Trouble {
    /// What it means for visitors.
    pub fn meaning(&self) -> &'static str {
        match self {
            Trouble::Overflow { .. } => {
                "their SYN was dropped without an answer; their system tries again after 1, 3 and \
                 7 seconds, so they wait that long or give up"
            }
            Trouble::Filling { .. } => {
                "new connections wait before sluss sees them; a further rise drops them"
            }
            Trouble::Elsewhere { .. } => "visitors of sluss are not affected",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Trouble::Overflow { limit, .. } | Trouble::Filling { limit, .. } => format!(
                "raise listen.backlog and net.core.somaxconn above {limit} if arrivals come in \
                 bursts; if it stays, accept is starved: look for other load on the machine's \
                 cores and see `sluss status` for the connection limit"
            ),
            Trouble::Elsewhere { .. } => {
                "`ss -lnt` shows listeners whose Recv-Q has reached Send-Q; an upstream on this \
                 machine is the likeliest"
                    .to_owned()
            }
        }
    }
}

/// Compares two readings of the same listeners. The counters are those of sockets: one that is
/// smaller than before belongs to a new socket and counts from zero.
pub fn judge(before: &Reading, now: &Reading) -> Vec<Trouble> {
    let overflows = match (before.counters, now.counters) {
        (Some(before), Some(now)) => Some(now.overflows.saturating_sub(before.overflows)),
        _ => None,
    };
    let mut troubles = Vec::new();
    for reading in &now.listeners {
        let earlier = before.listeners.iter().find(|other| other.listener == reading.listener);
        let earlier = earlier.map_or(0, |earlier| earlier.drops);
        let dropped = reading.drops.checked_sub(earlier).unwrap_or(reading.drops);
        let ListenerReading { length, limit, .. } = *reading;
        let listener = || reading.listener.clone();
        if dropped > 0 && overflows != Some(0) {
            troubles.push(Trouble::Overflow { listener: listener(), dropped, length, limit });
        } else if 2 * u64::from(length) > u64::from(limit) {
            troubles.push(Trouble::Filling { listener: listener(), length, limit });
        }
    }
    let ours = troubles.iter().any(|trouble| matches!(trouble, Trouble::Overflow { .. }));
    if let Some(overflows @ 1..) = overflows
        && !ours
    {
        troubles.push(Trouble::Elsewhere { overflows });
    }
    troubles
}

/// `netstat` has pairs of lines, names above numbers, each with the group's name first.
fn parse_netstat(text: &str) -> Option<ListenCounters> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let number = |wanted: &str| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        numbers.split_whitespace().nth(at)?.parse().ok()
    };
    Some(ListenCounters { overflows: number("ListenOverflows")?, drops: number("ListenDrops")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(length: u32, drops: u32, overflows: u64) -> Reading {
        let listener = "[::]:443".to_owned();
        Reading {
            listeners: vec![ListenerReading { listener, length, limit: 100, drops }],
            counters: Some(ListenCounters { overflows, drops: overflows }),
        }
    }

    #[track_caller]
    fn check(before: Reading, now: Reading, expected: &str) {
        let troubles = judge(&before, &now);
        let words: Vec<&str> = troubles
            .iter()
            .map(|trouble| match trouble {
                Trouble::Overflow { .. } => "overflow",
                Trouble::Filling { .. } => "filling",
                Trouble::Elsewhere { .. } => "elsewhere",
            })
            .collect();
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn an_overflow_is_told_apart_from_a_filling_queue_and_from_other_programs() {
        check(reading(0, 0, 5), reading(0, 0, 5), "");
        check(reading(0, 7, 5), reading(50, 7, 5), "");
        check(reading(0, 7, 5), reading(51, 7, 5), "filling");
        check(reading(0, 7, 5), reading(101, 9, 7), "overflow");
        check(reading(0, 7, 5), reading(0, 7, 7), "elsewhere");
        // A stray segment is dropped, no queue was full.
        check(reading(0, 7, 5), reading(0, 8, 5), "");
        let blind = |drops| Reading { counters: None, ..reading(0, drops, 0) };
        check(blind(7), blind(8), "overflow");
        // A new socket under the same name counts from zero.
        check(reading(0, 7, 5), reading(0, 2, 7), "overflow");
    }

    #[test]
    fn the_counters_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\n\
                    IpExt: InNoRoutes\nIpExt: 0\n";
        let counters = ListenCounters { overflows: 22, drops: 333 };
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
