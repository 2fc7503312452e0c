//! Every reason for which sluss turns work away, and what follows from each: one table.
//!
//! A refusal is neither a finding (the peer's head is odd, but goes through) nor a problem (the
//! operator's files are wrong). Its label is the same word in the log, the metrics and
//! `docs/refusals.md`. Each consequence is one exhaustive `match`: a new reason makes the compiler
//! point at every place that decides.

use serde::Serialize;

/// Why a connection or a request was refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    // Before TLS.
    /// There is no file descriptor for it.
    #[error("the process has no file descriptor left")]
    ConnectionLimit,
    /// The client's address holds as many connections to the site as it may.
    #[error("the client holds as many connections to the site as it may")]
    ClientConnectionLimit,
    /// The site holds as many connections as it may.
    #[error("the site holds as many connections as it may")]
    SiteConnectionLimit,
    /// A trusted network sent no, or a malformed, PROXY protocol header.
    #[error("the PROXY protocol header is missing or malformed")]
    ProxyHeader,
    /// The ClientHello was not complete in time.
    #[error("the ClientHello was not complete in time")]
    HelloTimeout,
    /// The first bytes are no TLS ClientHello.
    #[error("the first bytes are no ClientHello")]
    HelloMalformed,
    /// Plain HTTP on the TLS port; answered with a redirect.
    #[error("plain HTTP on the TLS port")]
    PlainHttp,
    /// No SNI, or one that no site has, and no default certificate.
    #[error("no site has the server name")]
    UnknownServerName,
    /// The site has no usable certificate.
    #[error("the site has no usable certificate")]
    NoCertificate,
    /// The handshake queue was full, and this entry was the fattest customer's oldest.
    #[error("the handshake queue is full")]
    HandshakeQueueFull,
    /// The handshake waited, or ran, past its deadline.
    #[error("the handshake was not done before its deadline")]
    HandshakeDeadline,
    /// The site takes no more new connections this second.
    #[error("the site's rate of new connections is exceeded")]
    HandshakeRate,
    /// The client makes more new connections to the site a second than it may.
    #[error("the client's rate of new connections is exceeded")]
    ClientHandshakeRate,
    /// The TLS handshake failed: alert, protocol violation, no common parameters.
    #[error("the TLS handshake failed")]
    HandshakeFailed,

    // The request.
    /// The client sends HTTP/2 frames by which nothing is done, more than the protocol needs.
    #[error("the client floods the connection with HTTP/2 frames")]
    Http2Flood,
    /// The client went away.
    #[error("the client went away")]
    ClientGone,
    /// The request head was not complete in time.
    #[error("the request head was not complete in time")]
    HeadTimeout,
    /// A header rule refuses the request head.
    #[error("the request head is malformed")]
    HeadMalformed,
    /// The request head is too large, or one of its fields.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// No site serves the host.
    #[error("no site serves the host")]
    UnknownHost,
    /// The connection's certificate does not cover the host (RFC 9110 7.4).
    #[error("the connection's certificate does not cover the host")]
    Misdirected,
    /// An OPTIONS or TRACE that may be forwarded no further (RFC 9110 7.6.2).
    #[error("the request may be forwarded no further")]
    MaxForwards,
    /// The request body is larger than the site allows.
    #[error("the request body is larger than the site allows")]
    BodyTooLarge,
    /// No piece of the request body came in time.
    #[error("no piece of the request body came in time")]
    BodyTimeout,
    /// The request body's framing is malformed.
    #[error("the request body's framing is malformed")]
    BodyMalformed,
    /// The client did not take the response in time.
    #[error("the client did not take the response in time")]
    ClientStalled,
    /// The client has as many requests under way at the site as it may.
    #[error("the client has as many requests under way as it may")]
    ClientInFlight,
    /// The client sends more requests a second than it may.
    #[error("more requests a second of the client than allowed")]
    ClientRequestRate,
    /// The site gets more requests a second than it may.
    #[error("more requests a second than allowed")]
    RequestRate,
    /// The site's request queue is full.
    #[error("the site's request queue is full")]
    RequestQueueFull,
    /// The request waited past its deadline for its turn.
    #[error("the request waited past its deadline")]
    RequestDeadline,

    // Upstream.
    /// No endpoint of the site can be used.
    #[error("no endpoint of the site answers")]
    NoEndpoint,
    /// The endpoint refused the connection, or it could not be made in time.
    #[error("no connection to the endpoint")]
    UpstreamConnect,
    /// The endpoint did not answer in time.
    #[error("the endpoint did not answer in time")]
    UpstreamTimeout,
    /// The endpoint closed the connection before the response was complete.
    #[error("the endpoint closed the connection early")]
    UpstreamClosed,
    /// The endpoint's response head cannot be repaired.
    #[error("the response head is malformed")]
    UpstreamHeadMalformed,
    /// The endpoint's response body has malformed framing.
    #[error("the response body's framing is malformed")]
    UpstreamBodyMalformed,
    /// No piece of the response body came in time.
    #[error("no piece of the response body came in time")]
    UpstreamBodyTimeout,
}

/// Whose doing it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The client's.
    Downstream,
    /// The site server's.
    Upstream,
    /// Ours: a bound acted.
    Edge,
}

impl Refusal {
    /// All refusals in the order of the way.
    pub const ALL: &[Refusal] = &[
        Refusal::ConnectionLimit,
        Refusal::ClientConnectionLimit,
        Refusal::SiteConnectionLimit,
        Refusal::ProxyHeader,
        Refusal::HelloTimeout,
        Refusal::HelloMalformed,
        Refusal::PlainHttp,
        Refusal::UnknownServerName,
        Refusal::NoCertificate,
        Refusal::HandshakeQueueFull,
        Refusal::HandshakeDeadline,
        Refusal::HandshakeRate,
        Refusal::ClientHandshakeRate,
        Refusal::HandshakeFailed,
        Refusal::Http2Flood,
        Refusal::ClientGone,
        Refusal::HeadTimeout,
        Refusal::HeadMalformed,
        Refusal::HeadTooLarge,
        Refusal::UnknownHost,
        Refusal::Misdirected,
        Refusal::MaxForwards,
        Refusal::BodyTooLarge,
        Refusal::BodyTimeout,
        Refusal::BodyMalformed,
        Refusal::ClientStalled,
        Refusal::ClientInFlight,
        Refusal::ClientRequestRate,
        Refusal::RequestRate,
        Refusal::RequestQueueFull,
        Refusal::RequestDeadline,
        Refusal::NoEndpoint,
        Refusal::UpstreamConnect,
        Refusal::UpstreamTimeout,
        Refusal::UpstreamClosed,
        Refusal::UpstreamHeadMalformed,
        Refusal::UpstreamBodyMalformed,
        Refusal::UpstreamBodyTimeout,
    ];

    /// The word for it in log, metrics, `Sluss-Refused` and `docs/refusals.md`.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::ConnectionLimit => "connection-limit",
            Refusal::ClientConnectionLimit => "client-connection-limit",
            Refusal::SiteConnectionLimit => "site-connection-limit",
            Refusal::ProxyHeader => "proxy-header",
            Refusal::HelloTimeout => "hello-timeout",
            Refusal::HelloMalformed => "hello-malformed",
            Refusal::PlainHttp => "plain-http",
            Refusal::UnknownServerName => "unknown-server-name",
            Refusal::NoCertificate => "no-certificate",
            Refusal::HandshakeQueueFull => "handshake-queue-full",
            Refusal::HandshakeDeadline => "handshake-deadline",
            Refusal::HandshakeRate => "handshake-rate",
            Refusal::ClientHandshakeRate => "client-handshake-rate",
            Refusal::HandshakeFailed => "handshake-failed",
            Refusal::Http2Flood => "http2-flood",
            Refusal::ClientGone => "client-gone",
            Refusal::HeadTimeout => "head-timeout",
            Refusal::HeadMalformed => "head-malformed",
            Refusal::HeadTooLarge => "head-too-large",
            Refusal::UnknownHost => "unknown-host",
            Refusal::Misdirected => "misdirected",
            Refusal::MaxForwards => "max-forwards",
            Refusal::BodyTooLarge => "body-too-large",
            Refusal::BodyTimeout => "body-timeout",
            Refusal::BodyMalformed => "body-malformed",
            Refusal::ClientStalled => "client-stalled",
            Refusal::ClientInFlight => "client-in-flight",
            Refusal::ClientRequestRate => "client-request-rate",
            Refusal::RequestRate => "request-rate",
            Refusal::RequestQueueFull => "request-queue-full",
            Refusal::RequestDeadline => "request-deadline",
            Refusal::NoEndpoint => "no-endpoint",
            Refusal::UpstreamConnect => "upstream-connect",
            Refusal::UpstreamTimeout => "upstream-timeout",
            Refusal::UpstreamClosed => "upstream-closed",
            Refusal::UpstreamHeadMalformed => "upstream-head-malformed",
            Refusal::UpstreamBodyMalformed => "upstream-body-malformed",
            Refusal::UpstreamBodyTimeout => "upstream-body-timeout",
        }
    }

    /// Whose doing it was.
    pub fn side(self) -> Side {
        match self {
            Refusal::ProxyHeader
            | Refusal::HelloTimeout
            | Refusal::HelloMalformed
            | Refusal::PlainHttp
            | Refusal::UnknownServerName
            | Refusal::HandshakeFailed
            | Refusal::Http2Flood
            | Refusal::ClientGone
            | Refusal::HeadTimeout
            | Refusal::HeadMalformed
            | Refusal::HeadTooLarge
            | Refusal::UnknownHost
            | Refusal::Misdirected
            | Refusal::MaxForwards
            | Refusal::BodyTooLarge
            | Refusal::BodyTimeout
            | Refusal::BodyMalformed
            | Refusal::ClientStalled => Side::Downstream,
            Refusal::NoEndpoint
            | Refusal::UpstreamConnect
            | Refusal::UpstreamTimeout
            | Refusal::UpstreamClosed
            | Refusal::UpstreamHeadMalformed
            | Refusal::UpstreamBodyMalformed
            | Refusal::UpstreamBodyTimeout => Side::Upstream,
            Refusal::ConnectionLimit
            | Refusal::ClientConnectionLimit
            | Refusal::SiteConnectionLimit
            | Refusal::NoCertificate
            | Refusal::HandshakeQueueFull
            | Refusal::HandshakeDeadline
            | Refusal::HandshakeRate
            | Refusal::ClientHandshakeRate
            | Refusal::ClientInFlight
            | Refusal::ClientRequestRate
            | Refusal::RequestRate
            | Refusal::RequestQueueFull
            | Refusal::RequestDeadline => Side::Edge,
        }
    }

    /// The status the client is told where it can still be told one: 4xx and 5xx of RFC 9110 15,
    /// 499 (nginx's, in log and metrics only) where the client is gone. `None` before HTTP.
    pub fn status(self) -> Option<u16> {
        match self {
            Refusal::ConnectionLimit
            | Refusal::ClientConnectionLimit
            | Refusal::SiteConnectionLimit
            | Refusal::ProxyHeader
            | Refusal::HelloTimeout
            | Refusal::HelloMalformed
            | Refusal::UnknownServerName
            | Refusal::NoCertificate
            | Refusal::HandshakeQueueFull
            | Refusal::HandshakeDeadline
            | Refusal::HandshakeRate
            | Refusal::ClientHandshakeRate
            | Refusal::HandshakeFailed => None,
            Refusal::PlainHttp => Some(308),
            Refusal::HeadMalformed | Refusal::BodyMalformed => Some(400),
            Refusal::UnknownHost => Some(404),
            Refusal::HeadTimeout | Refusal::BodyTimeout => Some(408),
            Refusal::BodyTooLarge => Some(413),
            Refusal::Misdirected => Some(421),
            Refusal::Http2Flood
            | Refusal::ClientInFlight
            | Refusal::ClientRequestRate
            | Refusal::RequestRate => Some(429),
            Refusal::HeadTooLarge => Some(431),
            Refusal::ClientGone | Refusal::ClientStalled => Some(499),
            Refusal::MaxForwards => Some(501),
            Refusal::UpstreamConnect
            | Refusal::UpstreamClosed
            | Refusal::UpstreamHeadMalformed
            | Refusal::UpstreamBodyMalformed => Some(502),
            Refusal::NoEndpoint | Refusal::RequestQueueFull | Refusal::RequestDeadline => Some(503),
            Refusal::UpstreamTimeout | Refusal::UpstreamBodyTimeout => Some(504),
        }
    }

    /// Whether a client connection must be closed after it: where the end of a message, either way,
    /// cannot be known, or nobody reads on.
    pub fn closes(self) -> bool {
        match self {
            Refusal::UnknownHost
            | Refusal::Misdirected
            | Refusal::MaxForwards
            | Refusal::ClientInFlight
            | Refusal::ClientRequestRate
            | Refusal::RequestRate
            | Refusal::RequestQueueFull
            | Refusal::RequestDeadline
            | Refusal::NoEndpoint
            | Refusal::UpstreamConnect
            | Refusal::UpstreamTimeout
            | Refusal::UpstreamClosed => false,
            Refusal::ConnectionLimit
            | Refusal::ClientConnectionLimit
            | Refusal::SiteConnectionLimit
            | Refusal::ProxyHeader
            | Refusal::HelloTimeout
            | Refusal::HelloMalformed
            | Refusal::PlainHttp
            | Refusal::UnknownServerName
            | Refusal::NoCertificate
            | Refusal::HandshakeQueueFull
            | Refusal::HandshakeDeadline
            | Refusal::HandshakeRate
            | Refusal::ClientHandshakeRate
            | Refusal::HandshakeFailed
            | Refusal::Http2Flood
            | Refusal::ClientGone
            | Refusal::HeadTimeout
            | Refusal::HeadMalformed
            | Refusal::HeadTooLarge
            | Refusal::BodyTooLarge
            | Refusal::BodyTimeout
            | Refusal::BodyMalformed
            | Refusal::ClientStalled
            | Refusal::UpstreamHeadMalformed
            | Refusal::UpstreamBodyMalformed
            | Refusal::UpstreamBodyTimeout => true,
        }
    }

    /// Seconds for `Retry-After`, where trying again soon is likely to help.
    pub fn retry_after_seconds(self) -> Option<u32> {
        match self.status() {
            Some(429) => Some(1),
            Some(503) => Some(2),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_unique_and_the_one_serde_writes() {
        let mut seen = std::collections::BTreeSet::new();
        for refusal in Refusal::ALL {
            assert!(seen.insert(refusal.label()), "{} stands twice", refusal.label());
            let json = serde_json::to_string(refusal).unwrap();
            assert_eq!(json, format!("\"{}\"", refusal.label()));
        }
    }
}
