//! The request body of an HTTP/1 connection, decoded, within its limit and deadline.
//!
//! The body handed to the service and the connection's loop share the wire: when the service lets
//! the body go unfinished, [`Progress`] still says how much of it is to come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::Transport;
use super::wire::{Shared, Stop, Wire};
use crate::refusal::Refusal;
use crate::screen::chunk::{ChunkStep, Chunked};
use crate::screen::{self, Direction, Finding, Framing, Policy, Reading, Scan};

/// Where the current request's body stands on the wire.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Stage,
    /// Payload bytes received.
    pub received: u64,
    /// What was odd.
    findings: Vec<Finding>,
    bytes_max: Option<u64>,
}

#[derive(Debug, Default)]
enum Stage {
    /// All of it was read; what follows is the next request.
    #[default]
    Complete,
    /// So many bytes are to come.
    Length(u64),
    /// Chunks are to come.
    Chunked(Chunked),
    /// The trailer section is to come.
    Trailers(Scan),
    /// Its end cannot be found any more.
    Failed,
}

impl Progress {
    /// The body that a head announces.
    pub fn begin(framing: Framing, bytes_max: Option<u64>) -> Progress {
        let stage = match framing {
            Framing::None | Framing::Length(0) => Stage::Complete,
            Framing::Length(length) => Stage::Length(length),
            Framing::Chunked => Stage::Chunked(Chunked::default()),
            // An HTTP/1 request never ends by close (RFC 9112 6.3).
            Framing::Stream | Framing::UntilClose => Stage::Failed,
        };
        Progress { stage, received: 0, findings: Vec::new(), bytes_max }
    }

    /// All of the body was read.
    pub fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Complete)
    }

    /// What was found odd since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// So much is left that may be read and thrown away to keep the connection.
    pub fn left(&self) -> Option<u64> {
        match self.stage {
            Stage::Complete => Some(0),
            Stage::Length(length) => Some(length),
            Stage::Chunked(_) | Stage::Trailers(_) | Stage::Failed => None,
        }
    }
}

/// An HTTP/1 request's body.
pub struct RequestBody<T> {
    wire: Shared<T>,
    patience: Duration,
    policy: Arc<Policy>,
    hint: SizeHint,
}

impl<T: Transport> RequestBody<T> {
    /// The body whose [`Progress`] has been put on the wire.
    pub fn new(wire: Shared<T>, policy: Arc<Policy>, patience: Duration) -> RequestBody<T> {
        let hint = match wire.borrow().body.left() {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        };
        RequestBody { wire, patience, policy, hint }
    }
}

impl<T: Transport> Body for RequestBody<T> {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let wire = &mut *self.wire.borrow_mut();
        let polled = poll_frame(wire, cx, &self.policy, self.patience);
        if let Poll::Ready(frame) = &polled {
            wire.reading.disarm();
            if let Some(Err(_)) = frame {
                wire.body.stage = Stage::Failed;
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.wire.borrow().body.is_complete()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

fn poll_frame<T: Transport>(
    wire: &mut Wire<T>,
    cx: &mut Context<'_>,
    policy: &Policy,
    patience: Duration,
) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
    loop {
        match next(&mut wire.body, &mut wire.input, policy) {
            Ok(Next::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
            Ok(Next::End) => return Poll::Ready(None),
            Ok(Next::More) => {}
            Err(refusal) => return Poll::Ready(Some(Err(refusal))),
        }
        if !wire.reading.is_armed() {
            wire.reading.arm(patience);
        }
        match ready!(wire.poll_fill(cx)) {
            Ok(()) => {}
            Err(Stop::Ended | Stop::Broken) => {
                return Poll::Ready(Some(Err(Refusal::ClientGone)));
            }
            Err(Stop::Elapsed) => return Poll::Ready(Some(Err(Refusal::BodyTimeout))),
        }
    }
}

enum Next {
    Frame(Frame<Bytes>),
    More,
    End,
}

/// Takes the next piece of the body out of `input`.
fn next(body: &mut Progress, input: &mut BytesMut, policy: &Policy) -> Result<Next, Refusal> {
    loop {
        match &mut body.stage {
            Stage::Complete => return Ok(Next::End),
            Stage::Failed => return Err(Refusal::BodyMalformed),
            Stage::Length(_) if input.is_empty() => return Ok(Next::More),
            Stage::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    body.stage = Stage::Complete;
                }
                return data(body, input, count);
            }
            Stage::Chunked(chunked) => match chunked.step(input) {
                Err(malformed) => {
                    body.findings.push(malformed.finding(input, policy, Direction::Request));
                    return Err(Refusal::BodyMalformed);
                }
                Ok(ChunkStep::NeedMore { consumed }) => {
                    input.advance(consumed);
                    return Ok(Next::More);
                }
                Ok(ChunkStep::End { skip }) => {
                    input.advance(skip);
                    body.stage = Stage::Complete;
                }
                Ok(ChunkStep::Data { skip, len }) => {
                    input.advance(skip);
                    return data(body, input, len);
                }
                Ok(ChunkStep::Trailers { skip }) => {
                    input.advance(skip);
                    body.stage = Stage::Trailers(Scan::default());
                }
            },
            Stage::Trailers(_) => return trailers(body, input, policy),
        }
    }
}

fn data(body: &mut Progress, input: &mut BytesMut, count: usize) -> Result<Next, Refusal> {
    body.received += count as u64;
    if body.bytes_max.is_some_and(|max| body.received > max) {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(Next::Frame(Frame::data(input.split_to(count).freeze())))
}

fn trailers(body: &mut Progress, input: &mut BytesMut, policy: &Policy) -> Result<Next, Refusal> {
    let Stage::Trailers(scan) = &mut body.stage else { return Ok(Next::End) };
    match screen::trailers(input, scan, policy, Direction::Request) {
        Err(refused) => {
            body.findings.extend(refused.findings);
            Err(Refusal::BodyMalformed)
        }
        Ok(Reading::Partial(_)) => Ok(Next::More),
        Ok(Reading::Complete { screened, consumed }) => {
            input.advance(consumed);
            body.stage = Stage::Complete;
            body.findings.extend(screened.findings);
            if screened.head.is_empty() {
                return Ok(Next::End);
            }
            Ok(Next::Frame(Frame::trailers(screened.head)))
        }
    }
}
