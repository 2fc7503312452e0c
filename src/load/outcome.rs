//! What became of one piece of work, and when its stages were reached. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How one arrival ended. Every arrival has exactly one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything went as asked.
    Completed,
    /// A TCP reset, to the SYN or later: turned away, at little cost to both sides.
    RefusedReset,
    /// Status 503.
    RefusedStatus,
    /// HTTP/2 REFUSED_STREAM: not processed, the connection lives.
    RefusedStream,
    /// No TCP connection within the client's patience.
    ConnectTimeout,
    /// No finished TLS handshake within the client's patience.
    HandshakeTimeout,
    /// Secured, but no complete answer within the client's patience.
    ResponseTimeout,
    /// The server ended the handshake or the session with a TLS alert.
    Alert,
    /// Closed without an answer, and without a reset.
    Closed,
    /// A status of 400 or above other than 503.
    WrongStatus,
    /// A body that is cut short, or lacks what was expected in it.
    WrongBody,
    /// A slow sender or reader whose server lost patience, in whatever way it said so.
    CutOff,
    /// Still open when the run ended: slow senders and readers that nobody cut off.
    Held,
    /// Not sent: the generator's own bound on work in flight was reached.
    NotSent,
    /// None of these; the report's notes say what.
    Other,
}

impl Outcome {
    /// All outcomes, in the order of reports.
    pub const ALL: [Outcome; 15] = [
        Outcome::Completed,
        Outcome::RefusedReset,
        Outcome::RefusedStatus,
        Outcome::RefusedStream,
        Outcome::ConnectTimeout,
        Outcome::HandshakeTimeout,
        Outcome::ResponseTimeout,
        Outcome::Alert,
        Outcome::Closed,
        Outcome::WrongStatus,
        Outcome::WrongBody,
        Outcome::CutOff,
        Outcome::Held,
        Outcome::NotSent,
        Outcome::Other,
    ];

    /// The stable name, as in the JSON report.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::RefusedReset => "refused_reset",
            Outcome::RefusedStatus => "refused_status",
            Outcome::RefusedStream => "refused_stream",
            Outcome::ConnectTimeout => "connect_timeout",
            Outcome::HandshakeTimeout => "handshake_timeout",
            Outcome::ResponseTimeout => "response_timeout",
            Outcome::Alert => "alert",
            Outcome::Closed => "closed",
            Outcome::WrongStatus => "wrong_status",
            Outcome::WrongBody => "wrong_body",
            Outcome::CutOff => "cut_off",
            Outcome::Held => "held",
            Outcome::NotSent => "not_sent",
            Outcome::Other => "other",
        }
    }

    /// The same for people.
    pub fn title(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::RefusedReset => "refused by reset",
            Outcome::RefusedStatus => "refused with 503",
            Outcome::RefusedStream => "refused stream",
            Outcome::ConnectTimeout => "connect timeout",
            Outcome::HandshakeTimeout => "handshake timeout",
            Outcome::ResponseTimeout => "response timeout",
            Outcome::Alert => "TLS alert",
            Outcome::Closed => "closed unanswered",
            Outcome::WrongStatus => "wrong status",
            Outcome::WrongBody => "wrong body",
            Outcome::CutOff => "cut off",
            Outcome::Held => "held to the end",
            Outcome::NotSent => "not sent (generator)",
            Outcome::Other => "other",
        }
    }

    /// Whether its times go into the percentiles.
    pub fn is_timed(self) -> bool {
        matches!(self, Outcome::Completed | Outcome::CutOff)
    }

    /// The family it counts to in live figures and plots.
    pub fn family(self) -> Family {
        match self {
            Outcome::Completed | Outcome::CutOff | Outcome::Held => Family::Done,
            Outcome::RefusedReset | Outcome::RefusedStatus | Outcome::RefusedStream => {
                Family::Refused
            }
            Outcome::ConnectTimeout | Outcome::HandshakeTimeout | Outcome::ResponseTimeout => {
                Family::TimedOut
            }
            Outcome::Alert
            | Outcome::Closed
            | Outcome::WrongStatus
            | Outcome::WrongBody
            | Outcome::NotSent
            | Outcome::Other => Family::Failed,
        }
    }
}

/// Outcomes that mean the same to a visitor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// Served.
    Done,
    /// Turned away at once.
    Refused,
    /// Left waiting in vain.
    TimedOut,
    /// Anything else.
    Failed,
}

impl Family {
    /// All families, in the order of reports.
    pub const ALL: [Family; 4] = [Family::Done, Family::Refused, Family::TimedOut, Family::Failed];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Family::Done => "done",
            Family::Refused => "refused",
            Family::TimedOut => "timed out",
            Family::Failed => "failed",
        }
    }
}

/// When the stages of one piece of work were reached, counted from the start of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// When it was due.
    pub scheduled: Duration,
    /// When a connection took it up; on a new connection, when it began to connect.
    pub started: Option<Duration>,
    /// TCP stands; only on a new connection.
    pub connected: Option<Duration>,
    /// TLS stands; only on a new connection.
    pub secured: Option<Duration>,
    /// The request begins to be written.
    pub sent: Option<Duration>,
    /// The answer's first byte.
    pub first_byte: Option<Duration>,
    /// The end, whatever it was.
    pub done: Duration,
}

/// A span between two of the [`Times`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Span {
    /// Due → taken up: lateness of the generator, or no free connection.
    Wait,
    /// Begin → TCP stands.
    Connect,
    /// TCP stands → TLS stands.
    Handshake,
    /// Request begins to be written → first byte.
    Response,
    /// Due → first byte: what a visitor sees.
    FirstByte,
    /// Due → end: what a visitor waits, and the figure to judge by.
    Total,
    /// Taken up → end: what a closed loop would have called the latency. For comparison only.
    ClosedLoop,
}

impl Span {
    /// All spans, in the order of reports.
    pub const ALL: [Span; 7] = [
        Span::Wait,
        Span::Connect,
        Span::Handshake,
        Span::Response,
        Span::FirstByte,
        Span::Total,
        Span::ClosedLoop,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Span::Wait => "wait",
            Span::Connect => "connect",
            Span::Handshake => "handshake",
            Span::Response => "response",
            Span::FirstByte => "first_byte",
            Span::Total => "total",
            Span::ClosedLoop => "closed_loop",
        }
    }

    /// Its length, where both ends were reached.
    pub fn of(self, times: &Times) -> Option<Duration> {
        let between =
            |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
        let scheduled = Some(times.scheduled);
        match self {
            Span::Wait => between(scheduled, times.started),
            Span::Connect => between(times.started, times.connected),
            Span::Handshake => between(times.connected, times.secured),
            Span::Response => between(times.sent, times.first_byte),
            Span::FirstByte => between(scheduled, times.first_byte),
            Span::Total => between(scheduled, Some(times.done)),
            Span::ClosedLoop => between(times.started, Some(times.done)),
        }
    }
}

/// One arrival's end, as the workers tell it.
#[derive(Clone, Debug)]
pub struct Fact {
    /// Index into the traffic's hosts.
    pub host: usize,
    /// Its stages.
    pub times: Times,
    /// How it ended.
    pub outcome: Outcome,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Whether the TLS session was resumed.
    pub resumed: bool,
    /// The error's words, where it failed.
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_need_both_ends() {
        let at = |millis| Some(Duration::from_millis(millis));
        let times = Times {
            scheduled: Duration::from_millis(10),
            started: at(15),
            connected: at(16),
            secured: None,
            sent: None,
            first_byte: None,
            done: Duration::from_millis(40),
        };
        let lengths = Span::ALL.map(|span| span.of(&times).map(|length| length.as_millis()));
        assert_eq!(lengths, [Some(5), Some(1), None, None, None, Some(30), Some(25)]);
    }

    #[test]
    fn names_are_the_json_names() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
    }
}
