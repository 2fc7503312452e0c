//! The closed set of alarms: for each its label, what it means for visitors, and what to do.
//!
//! `docs/alarms.md` says the same at more length; a test holds the labels together.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything that raises an alarm, in the order of the way.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Alarm {
    /// A kernel accept queue is more than half full.
    AcceptQueue,
    /// The kernel refused connections because an accept queue was full.
    AcceptOverflow,
    /// The oldest entry of a queue is older than `queues.age_alarm`.
    QueueAge,
    /// A queue has entries and let none out for ten seconds, or a site's endpoints answer nothing.
    QueueStalled,
    /// Handshakes are refused because their queue is full or they waited too long.
    HandshakesRefused,
    /// Requests are refused because a site's queue is full or they waited too long.
    RequestsRefused,
    /// No endpoint of a site can be used.
    UpstreamsDown,
    /// A certificate's files are broken; its last good version is served.
    CertificateKept,
    /// A certificate ends within 21 days.
    CertificateExpiring,
    /// A certificate ends within 7 days.
    CertificateEndsSoon,
    /// A certificate's end has passed.
    CertificateExpired,
    /// The last reload was refused.
    ReloadRefused,
    /// The last reload left parts at their last good version.
    ReloadPartly,
    /// A part of the configuration is broken and has no last good version.
    NotServed,
    /// The machine is not the one that `queues.toml` was measured on.
    MachineDiffers,
    /// Nearly as many connections stand as may.
    Connections,
    /// File descriptors are nearly used up.
    Descriptors,
    /// Memory is nearly used up.
    Memory,
    /// The access log cannot be written, or lines are dropped.
    AccessLog,
}

/// Which queue an alarm about one is about: they are mended in different places.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum About {
    /// The process's handshake queue.
    Handshakes,
    /// A site's request queue, or its endpoints.
    Requests,
}

/// How soon somebody must act.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// Visitors are harmed now, or will be within days if nobody acts.
    Critical,
    /// Visitors are not harmed yet, or not visibly.
    Warning,
}

/// Causes that are seen as long as they last are over when they were not seen for this long.
const HOLD: Duration = Duration::from_secs(10);

/// Causes that are events (a refusal, a dropped line) are over when none came for this long.
const HOLD_EVENTS: Duration = Duration::from_secs(60);

impl Alarm {
    /// All alarms.
    pub const ALL: &[Alarm] = &[
        Alarm::AcceptQueue,
        Alarm::AcceptOverflow,
        Alarm::QueueAge,
        Alarm::QueueStalled,
        Alarm::HandshakesRefused,
        Alarm::RequestsRefused,
        Alarm::UpstreamsDown,
        Alarm::CertificateKept,
        Alarm::CertificateExpiring,
        Alarm::CertificateEndsSoon,
        Alarm::CertificateExpired,
        Alarm::ReloadRefused,
        Alarm::ReloadPartly,
        Alarm::NotServed,
        Alarm::MachineDiffers,
        Alarm::Connections,
        Alarm::Descriptors,
        Alarm::Memory,
        Alarm::AccessLog,
    ];

    /// The word in log, metrics, API and docs.
    pub fn label(self) -> &'static str {
        match self {
            Alarm::AcceptQueue => "accept-queue",
            Alarm::AcceptOverflow => "accept-overflow",
            Alarm::QueueAge => "queue-age",
            Alarm::QueueStalled => "queue-stalled",
            Alarm::HandshakesRefused => "handshakes-refused",
            Alarm::RequestsRefused => "requests-refused",
            Alarm::UpstreamsDown => "upstreams-down",
            Alarm::CertificateKept => "certificate-kept",
            Alarm::CertificateExpiring => "certificate-expiring",
            Alarm::CertificateEndsSoon => "certificate-ends-soon",
            Alarm::CertificateExpired => "certificate-expired",
            Alarm::ReloadRefused => "reload-refused",
            Alarm::ReloadPartly => "reload-partly",
            Alarm::NotServed => "not-served",
            Alarm::MachineDiffers => "machine-differs",
            Alarm::Connections => "connections",
            Alarm::Descriptors => "descriptors",
            Alarm::Memory => "memory",
            Alarm::AccessLog => "access-log",
        }
    }

    /// How soon somebody must act.
    pub fn urgency(self) -> Urgency {
        match self {
            Alarm::AcceptOverflow
            | Alarm::QueueAge
            | Alarm::QueueStalled
            | Alarm::HandshakesRefused
            | Alarm::RequestsRefused
            | Alarm::UpstreamsDown
            | Alarm::CertificateEndsSoon
            | Alarm::CertificateExpired
            | Alarm::NotServed => Urgency::Critical,
            Alarm::AcceptQueue
            | Alarm::CertificateKept
            | Alarm::CertificateExpiring
            | Alarm::ReloadRefused
            | Alarm::ReloadPartly
            | Alarm::MachineDiffers
            | Alarm::Connections
            | Alarm::Descriptors
            | Alarm::Memory
            | Alarm::AccessLog => Urgency::Warning,
        }
    }

    /// How long the alarm stands on after its cause was last seen.
    pub fn hold(self) -> Duration {
        match self {
            Alarm::AcceptOverflow
            | Alarm::HandshakesRefused
            | Alarm::RequestsRefused
            | Alarm::AccessLog => HOLD_EVENTS,
            Alarm::AcceptQueue | Alarm::QueueAge | Alarm::QueueStalled | Alarm::UpstreamsDown => {
                HOLD
            }
            // These states do not flicker: what a reload mends is over at once.
            Alarm::CertificateKept
            | Alarm::CertificateExpiring
            | Alarm::CertificateEndsSoon
            | Alarm::CertificateExpired
            | Alarm::ReloadRefused
            | Alarm::ReloadPartly
            | Alarm::NotServed
            | Alarm::MachineDiffers => Duration::ZERO,
            Alarm::Connections | Alarm::Descriptors | Alarm::Memory => HOLD_EVENTS,
        }
    }

    /// What it means for visitors.
    pub fn meaning(self) -> &'static str {
        match self {
            Alarm::AcceptQueue => {
                "new connections wait in the kernel before the edge sees them; when the queue is \
                 full they are dropped"
            }
            Alarm::AcceptOverflow => {
                "the kernel dropped new connections: visitors see a slow start or a time-out"
            }
            Alarm::QueueAge => "they wait this long before anything happens for them",
            Alarm::QueueStalled => "nothing moves: everybody there waits for nothing",
            Alarm::HandshakesRefused => {
                "some new connections are reset at once; established ones are not touched"
            }
            Alarm::RequestsRefused => "some requests are answered 503 with Retry-After",
            Alarm::UpstreamsDown => {
                "requests to this site wait, then get 503 or the maintenance page"
            }
            Alarm::CertificateKept => "none yet: the last good version is served, until it expires",
            Alarm::CertificateExpiring => "none yet; after the end browsers warn",
            Alarm::CertificateEndsSoon => {
                "none yet; in less than a week browsers warn before they show the site"
            }
            Alarm::CertificateExpired => "browsers warn before they show the site",
            Alarm::ReloadRefused => "none: the old configuration serves on, the change is not live",
            Alarm::ReloadPartly => {
                "none: the named parts serve on as before, their changes are not live"
            }
            Alarm::NotServed => {
                "those of the named site, certificate or key are turned away: it has no last good \
                 version"
            }
            Alarm::MachineDiffers => {
                "none now; under overload queues may hold more or less than their deadline allows"
            }
            Alarm::Connections => {
                "none yet; at the bound the longest idle connections are ended for new ones, and \
                 where none is idle new ones wait in the kernel"
            }
            Alarm::Descriptors => "none yet; at the bound new connections are refused",
            Alarm::Memory => "none yet; at the bound the kernel ends the process",
            Alarm::AccessLog => "none: serving goes on, log lines are lost",
        }
    }

    /// What to do; `about` counts for the alarms about queues alone.
    pub fn remedy(self, about: About) -> &'static str {
        match self {
            Alarm::AcceptQueue => {
                "see whether serving threads are at their limit (sluss top); a burst passes, a \
                 lasting queue needs more threads or machines"
            }
            Alarm::AcceptOverflow => {
                "raise listen.backlog and net.core.somaxconn where bursts are short; where it \
                 lasts, the serving threads are too slow: add threads or machines"
            }
            Alarm::QueueAge => match about {
                About::Handshakes => "add cores or machines, or find who floods (sluss top)",
                About::Requests => "the site's endpoints are too slow or too few: mend or add some",
            },
            Alarm::QueueStalled => match about {
                About::Handshakes => "look for threads that do not run (sluss top, CPU limits)",
                About::Requests => "the site's endpoints answer nothing: restart or replace them",
            },
            Alarm::HandshakesRefused => {
                "if the named site is attacked, the fair queue protects the others; if it is \
                 growth, add cores or machines and run sluss size"
            }
            Alarm::RequestsRefused => {
                "the named site's endpoints are too slow for what is asked: mend or add some, or \
                 bound what asks (limits.requests_per_second)"
            }
            Alarm::UpstreamsDown => {
                "check that the site's server runs and answers where the site's file says; sluss \
                 status names each endpoint that is down, with its last failure"
            }
            Alarm::CertificateKept => {
                "mend the named files, then sluss reload; sluss check tells all"
            }
            Alarm::CertificateExpiring => "see why the renewal did not run; then sluss reload",
            Alarm::CertificateEndsSoon => "renew it by hand today, then sluss reload",
            Alarm::CertificateExpired => "renew it now, then sluss reload",
            Alarm::ReloadRefused => "run sluss check, mend what it names, then sluss reload",
            Alarm::ReloadPartly => "run sluss check, mend what it names, then sluss reload",
            Alarm::NotServed => "run sluss check, mend what it names, then sluss reload",
            Alarm::MachineDiffers => "run sluss size on this machine",
            Alarm::Connections => {
                "raise runtime.max_connections (and LimitNOFILE), or shorten timeouts.idle; see who \
                 holds them: limits.connections and limits.connections_per_client bound one site, \
                 one client"
            }
            Alarm::Descriptors => "raise LimitNOFILE (ulimit -n) or lower runtime.max_connections",
            Alarm::Memory => "lower runtime.max_connections, or give the process more memory",
            Alarm::AccessLog => {
                "free the disk or mend the reader of the pipe; writing goes on by itself"
            }
        }
    }
}
