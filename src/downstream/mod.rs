//! The client's side of a request: HTTP/1 or HTTP/2 in, one [`Service`] behind both.
//!
//! This room reads and screens heads, relays bodies within limits and deadlines, writes responses
//! and decides when a connection is kept. What a request means - site, queue, endpoint - is the
//! service's business; this room never sees a snapshot.

pub mod answer;
pub mod body;
pub mod h1;
pub mod h2;
pub mod tunnel;
pub mod wire;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::refusal::Refusal;
use crate::screen::{Direction, Finding, Policy, Refused, RequestHead, ResponseHead};

/// A client connection, encrypted or not.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Ready once the client has closed or reset the connection; consumes nothing.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready where a read may find something.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Reads what is there at once into the room that `input` has; 0 is the end.
    fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>>;

    /// Sends what was held back to go with a response, where none is about to be written.
    fn release(&mut self);
}

/// How long this side waits for a client, and what one request may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// First byte to the complete request head.
    pub head: Duration,
    /// Keep-alive between requests.
    pub idle: Duration,
    /// Between two pieces of a body, either way.
    pub body: Duration,
}

/// What a connection asks of the proxy. One value serves one connection.
pub trait Service: 'static {
    /// The response's body; reading it drives what is left of the request's.
    type Body: Source;
    /// The endpoint's connection after `101 Switching Protocols`.
    type Upgraded: AsyncRead + AsyncWrite + Unpin + 'static;
    /// What is to be said of the request once it is over.
    type Ticket: Ticket + Unpin;

    /// The limits in force now.
    fn limits(&self) -> Limits;

    /// Whether the edge is about to end: connections finish what is in flight and close.
    fn draining(&self) -> bool;

    /// The policy by which a head is judged: first without, then with the host it names.
    fn policy(&self, host: Option<&str>) -> Arc<Policy>;

    /// That of the host, where it is another one than `judged`.
    fn other_policy(&self, host: &str, judged: &Arc<Policy>) -> Option<Arc<Policy>>;

    /// The largest request body that the host's site takes; `None` is no bound.
    fn body_bytes_max(&self, host: &str) -> Option<u64>;

    /// Takes note of a request whose head was refused, or never came whole. Returns its id.
    fn refused(&self, refusal: Refusal, refused: Option<&Refused>) -> String;

    /// Takes note of what was odd in the rest of a body whose request was answered already.
    fn found_late(&self, host: &str, findings: &[Finding]);

    /// Answers one request. *Cancel safety*: dropping the future cancels the work upstream and
    /// gives every permit back; the ticket then tells that the client is gone.
    fn answer<B, I>(
        &self,
        request: Request<B>,
        interim: I,
    ) -> impl Future<Output = Answer<Self::Body, Self::Upgraded, Self::Ticket>>
    where
        B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
        I: AsyncFnMut(ResponseHead) -> Result<(), Refusal>;
}

/// One request as it came in.
pub struct Request<B> {
    /// The canonical head.
    pub head: RequestHead,
    /// What was odd about it.
    pub findings: Vec<Finding>,
    /// Its body.
    pub body: B,
    /// When its first byte was read.
    pub since: Instant,
}

/// What the service makes of a request.
pub struct Answer<B, U, T> {
    /// What the client is told.
    pub reply: Reply<B, U>,
    /// Tells `X-Request-Id` and the log.
    pub request_id: Rc<str>,
    /// To be finished when the response is.
    pub ticket: T,
}

/// What the client is told.
pub enum Reply<B, U> {
    /// The endpoint's response.
    Response {
        /// Its canonical head.
        head: ResponseHead,
        /// Its body.
        body: B,
    },
    /// The endpoint switches protocols.
    Upgraded {
        /// The 101 head.
        head: ResponseHead,
        /// The endpoint's connection, bytes already read included.
        io: U,
    },
    /// A response of our own.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The site's maintenance page, where that is what stands here.
        page: Option<Bytes>,
    },
    /// A redirect of our own: 308 to this location.
    Redirect(String),
}

/// A response's body as the service gives it.
pub trait Source: Body<Data = Bytes, Error = Refusal> + Unpin + 'static {
    /// What was odd in the body since the last call: chunks, trailers, bytes after the end.
    fn take_findings(&mut self) -> Vec<Finding>;
}

/// The account of one request. Dropped unfinished it tells that the client is gone.
pub trait Ticket: 'static {
    /// Takes note of what was odd in a body.
    fn note(&self, direction: Direction, findings: &[Finding]);

    /// Closes the account: body bytes each way, and what cut the response short if anything did.
    fn finish(self, received: u64, sent: u64, cut: Option<Refusal>);
}
