//! The closed label sets: whatever can stand in a label of a process-wide series.
//!
//! Labels come from enums here, from [`Refusal`](crate::refusal::Refusal), or are names that the
//! operator configured; never from a client. Status codes are folded: those with a meaning of
//! their own to an operator stand alone, the rest by class.

use serde::Serialize;

/// A queue of the edge.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueName {
    /// Handshakes that wait for a handshake thread; one for the process.
    Handshake,
    /// Requests that wait for their turn at the endpoints; one a site, shown together.
    Request,
}

impl QueueName {
    /// All queues in the order of the way.
    pub const ALL: &[QueueName] = &[QueueName::Handshake, QueueName::Request];

    /// The word in metrics and log.
    pub fn label(self) -> &'static str {
        match self {
            QueueName::Handshake => "handshake",
            QueueName::Request => "request",
        }
    }
}

/// Where a client's connection stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// Accepted; nothing read yet.
    Accepted,
    /// The ClientHello is being read.
    Hello,
    /// Waits for a handshake thread.
    Queued,
    /// The TLS handshake runs.
    Handshake,
    /// Established, between requests.
    Idle,
    /// Established, with a request in flight.
    Active,
}

impl ConnectionState {
    /// All states in the order of the way.
    pub const ALL: &[ConnectionState] = &[
        ConnectionState::Accepted,
        ConnectionState::Hello,
        ConnectionState::Queued,
        ConnectionState::Handshake,
        ConnectionState::Idle,
        ConnectionState::Active,
    ];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            ConnectionState::Accepted => "accepted",
            ConnectionState::Hello => "hello",
            ConnectionState::Queued => "queued",
            ConnectionState::Handshake => "handshake",
            ConnectionState::Idle => "idle",
            ConnectionState::Active => "active",
        }
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HandshakeResult {
    /// Established.
    Ok,
    /// Alert, protocol violation or nothing in common.
    Failed,
    /// Not done before its deadline, in the queue or on the wire.
    Deadline,
    /// The client went away.
    Gone,
    /// Refused before any crypto: queue full, rate, no certificate, unknown name.
    Refused,
}

impl HandshakeResult {
    /// All results.
    pub const ALL: &[HandshakeResult] = &[
        HandshakeResult::Ok,
        HandshakeResult::Failed,
        HandshakeResult::Deadline,
        HandshakeResult::Gone,
        HandshakeResult::Refused,
    ];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            HandshakeResult::Ok => "ok",
            HandshakeResult::Failed => "failed",
            HandshakeResult::Deadline => "deadline",
            HandshakeResult::Gone => "gone",
            HandshakeResult::Refused => "refused",
        }
    }
}

/// The TLS version of a handshake.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
pub enum HandshakeVersion {
    /// Not agreed upon when the handshake ended.
    None,
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl HandshakeVersion {
    /// All versions.
    pub const ALL: &[HandshakeVersion] =
        &[HandshakeVersion::None, HandshakeVersion::Tls12, HandshakeVersion::Tls13];

    /// The word in metrics and log.
    pub fn label(self) -> &'static str {
        match self {
            HandshakeVersion::None => "none",
            HandshakeVersion::Tls12 => "1.2",
            HandshakeVersion::Tls13 => "1.3",
        }
    }
}

/// Whether a handshake continued an earlier session.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resumption {
    /// A full handshake with the certificate's signature.
    Full,
    /// A session ticket was taken.
    Resumed,
}

impl Resumption {
    /// Both.
    pub const ALL: &[Resumption] = &[Resumption::Full, Resumption::Resumed];

    /// The value of the label `resumed`.
    pub fn label(self) -> &'static str {
        match self {
            Resumption::Full => "false",
            Resumption::Resumed => "true",
        }
    }
}

/// How one attempt at an endpoint ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamResult {
    /// A response head came.
    Answered,
    /// No connection, none in time, or closed before an answer.
    Failed,
    /// Failed, and was tried again elsewhere.
    Retried,
    /// No response head in time.
    Timeout,
    /// The response head or the body's framing cannot be repaired.
    Malformed,
}

impl UpstreamResult {
    /// All results.
    pub const ALL: &[UpstreamResult] = &[
        UpstreamResult::Answered,
        UpstreamResult::Failed,
        UpstreamResult::Retried,
        UpstreamResult::Timeout,
        UpstreamResult::Malformed,
    ];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            UpstreamResult::Answered => "answered",
            UpstreamResult::Failed => "failed",
            UpstreamResult::Retried => "retried",
            UpstreamResult::Timeout => "timeout",
            UpstreamResult::Malformed => "malformed",
        }
    }
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// All of it is served.
    Applied,
    /// Served, with parts kept at their last good version.
    Partly,
    /// Refused; the old snapshot serves on.
    Refused,
}

impl ReloadResult {
    /// All results.
    pub const ALL: &[ReloadResult] =
        &[ReloadResult::Applied, ReloadResult::Partly, ReloadResult::Refused];

    /// The word in metrics, log and the admin API.
    pub fn label(self) -> &'static str {
        match self {
            ReloadResult::Applied => "applied",
            ReloadResult::Partly => "partly",
            ReloadResult::Refused => "refused",
        }
    }
}

/// The values of the label `code`: 5 classes, then the codes that stand alone.
pub const CODES: [&str; 34] = [
    "1xx", "2xx", "3xx", "4xx", "5xx", "101", "200", "201", "204", "206", "301", "302", "303",
    "304", "307", "308", "400", "401", "403", "404", "405", "408", "410", "413", "421", "429",
    "431", "451", "499", "500", "502", "503", "504", "507",
];

/// Which of [`CODES`] a status is counted as; what is no status counts as `5xx`.
#[inline]
pub fn code_slot(status: u16) -> usize {
    CODE_SLOTS.get(usize::from(status)).map_or(4, |slot| usize::from(*slot))
}

/// Whether a slot of [`CODES`] is a failure of the edge or an endpoint.
pub fn is_server_error(slot: usize) -> bool {
    CODES[slot].starts_with('5')
}

static CODE_SLOTS: [u8; 600] = {
    let mut slots = [4_u8; 600];
    let mut status = 100;
    while status < 600 {
        slots[status] = (status / 100 - 1) as u8;
        status += 1;
    }
    let mut at = 5;
    while at < CODES.len() {
        let digits = CODES[at].as_bytes();
        let status = (digits[0] - b'0') as usize * 100
            + (digits[1] - b'0') as usize * 10
            + (digits[2] - b'0') as usize;
        slots[status] = at as u8;
        at += 1;
    }
    slots
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Refusal;

    #[track_caller]
    fn check(status: u16, expected: &str) {
        assert_eq!(CODES[code_slot(status)], expected);
    }

    #[test]
    fn a_status_stands_alone_or_with_its_class() {
        check(200, "200");
        check(299, "2xx");
        check(103, "1xx");
        check(404, "404");
        check(418, "4xx");
        check(507, "507");
        check(599, "5xx");
        check(0, "5xx");
        check(999, "5xx");
        assert!(is_server_error(code_slot(502)) && is_server_error(code_slot(599)));
        assert!(!is_server_error(code_slot(499)));
    }

    #[test]
    fn an_enum_s_number_is_its_place_in_all() {
        assert!(Refusal::ALL.iter().enumerate().all(|(at, r)| *r as usize == at));
        assert!(QueueName::ALL.iter().enumerate().all(|(at, q)| *q as usize == at));
        assert!(ConnectionState::ALL.iter().enumerate().all(|(at, s)| *s as usize == at));
        assert!(HandshakeResult::ALL.iter().enumerate().all(|(at, r)| *r as usize == at));
        assert!(HandshakeVersion::ALL.iter().enumerate().all(|(at, v)| *v as usize == at));
        assert!(Resumption::ALL.iter().enumerate().all(|(at, r)| *r as usize == at));
        assert!(UpstreamResult::ALL.iter().enumerate().all(|(at, r)| *r as usize == at));
        assert!(ReloadResult::ALL.iter().enumerate().all(|(at, r)| *r as usize == at));
    }
}
