//! The response body as the client's side reads it.
//!
//! States: *whole* (it came with its head; the connection is back in the pool already), *streaming*
//! (owns its connection), *ended*. A counted or chunked body that stops before its end is
//! an error, never an end: the client must see an aborted message. Dropped while streaming, it
//! closes its connection.
//!
//! While a response that came early streams, reading it also sends what is left of the request's
//! body. Once the response has ended the rest is not sent: the endpoint has said all it will say.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::ClientBody;
use super::h1::{Exchange, Input};
use super::h2;
use crate::refusal::Refusal;
use crate::screen::chunk::{ChunkStep, Chunked};
use crate::screen::{self, Direction, Finding, Framing, Policy, Reading, Scan};

/// What is left of the request body once an early response came.
pub(super) type RestOfRequest = Box<ClientBody<'static>>;

/// A response's body.
pub struct ResponseBody {
    state: State,
    findings: Vec<Finding>,
    /// The memory that the last piece stands in; back to the thread's once the piece is written.
    last: Option<Input>,
}

enum State {
    Ended,
    Whole(Bytes),
    Streaming(Box<Download>),
    Http2(Box<h2::Download>),
}

struct Download {
    exchange: Exchange,
    progress: Progress,
    rest: Option<RestOfRequest>,
    policy: Arc<Policy>,
}

/// Where a streaming body stands.
enum Progress {
    /// So many bytes are to come, at least one.
    Length(u64),
    Chunked(Chunked),
    Trailers(Scan),
    UntilClose,
}

/// What a look at the bytes at hand gives.
enum Next {
    Frame(Frame<Bytes>),
    LastFrame(Frame<Bytes>),
    End,
    More,
}

impl ResponseBody {
    /// A response without a body.
    pub(super) fn empty() -> ResponseBody {
        ResponseBody { state: State::Ended, findings: Vec::new(), last: None }
    }

    /// The body that stands, wholly or in part, in the exchange's input.
    pub(super) fn http1(
        mut exchange: Exchange,
        framing: Framing,
        rest: Option<RestOfRequest>,
        policy: &Arc<Policy>,
    ) -> ResponseBody {
        let mut body = ResponseBody::empty();
        let progress = match framing {
            Framing::None | Framing::Length(0) => {
                body.ended(exchange);
                return body;
            }
            Framing::Length(length) if rest.is_none() && length <= exchange.input.len() as u64 => {
                let bytes = exchange.input.split_to(length as usize).freeze();
                body.ended(exchange);
                body.state = State::Whole(bytes);
                return body;
            }
            Framing::Length(length) => Progress::Length(length),
            Framing::Chunked => Progress::Chunked(Chunked::default()),
            Framing::UntilClose | Framing::Stream => {
                exchange.persistent = false;
                Progress::UntilClose
            }
        };
        let policy = policy.clone();
        body.state = State::Streaming(Box::new(Download { exchange, progress, rest, policy }));
        body
    }

    /// The body of an HTTP/2 response.
    pub(super) fn http2(download: h2::Download) -> ResponseBody {
        ResponseBody { state: State::Http2(Box::new(download)), ..ResponseBody::empty() }
    }

    /// Whether nothing of it is to come from the endpoint.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Ended | State::Whole(_))
    }

    /// What was found in the body since the last call: malformed chunks, forbidden trailers, bytes
    /// after the end.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    fn ended(&mut self, exchange: Exchange) {
        let (input, leftover) = exchange.finish();
        self.last = Some(input);
        self.findings.extend(leftover);
        self.state = State::Ended;
    }

    fn poll_streaming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let State::Streaming(download) = &mut self.state else { return Poll::Ready(None) };
        match ready!(download.poll_next(cx, &mut self.findings)) {
            Ok(Next::Frame(frame)) => Poll::Ready(Some(Ok(frame))),
            Ok(next) => {
                if let State::Streaming(download) = std::mem::replace(&mut self.state, State::Ended)
                {
                    self.ended(download.exchange);
                }
                match next {
                    Next::LastFrame(frame) | Next::Frame(frame) => Poll::Ready(Some(Ok(frame))),
                    Next::End | Next::More => Poll::Ready(None),
                }
            }
            Err(refusal) => {
                self.state = State::Ended;
                Poll::Ready(Some(Err(refusal)))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let body = self.get_mut();
        match &mut body.state {
            State::Ended => Poll::Ready(None),
            State::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                body.state = State::Ended;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            State::Streaming(_) => body.poll_streaming(cx),
            State::Http2(download) => {
                let frame = ready!(download.poll_frame(cx, &mut body.findings));
                if !matches!(frame, Some(Ok(_))) || download.is_ended() {
                    body.state = State::Ended;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Ended => SizeHint::with_exact(0),
            State::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            State::Streaming(download) => match download.progress {
                Progress::Length(left) => SizeHint::with_exact(left),
                Progress::Chunked(_) | Progress::Trailers(_) | Progress::UntilClose => {
                    SizeHint::default()
                }
            },
            State::Http2(download) => download.size_hint(),
        }
    }
}

impl Download {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        findings: &mut Vec<Finding>,
    ) -> Poll<Result<Next, Refusal>> {
        if let Some(rest) = &mut self.rest {
            match self.exchange.poll_upload(cx, &mut **rest) {
                Poll::Ready(Ok(())) if !self.exchange.is_sending() => self.rest = None,
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(refusal)) => return Poll::Ready(Err(refusal)),
            }
        }
        loop {
            match self.next(findings)? {
                Next::More => {}
                next => return Poll::Ready(Ok(next)),
            }
            if !ready!(self.exchange.poll_piece(cx))? {
                return Poll::Ready(match self.progress {
                    Progress::UntilClose => Ok(Next::End),
                    Progress::Length(_) | Progress::Chunked(_) | Progress::Trailers(_) => {
                        Err(Refusal::UpstreamClosed)
                    }
                });
            }
        }
    }

    /// Takes the next piece out of the bytes at hand.
    fn next(&mut self, findings: &mut Vec<Finding>) -> Result<Next, Refusal> {
        let input = &mut self.exchange.input;
        loop {
            match &mut self.progress {
                _ if input.is_empty() => return Ok(Next::More),
                Progress::UntilClose => {
                    return Ok(Next::Frame(Frame::data(input.split().freeze())));
                }
                Progress::Length(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= count as u64;
                    let frame = Frame::data(input.split_to(count).freeze());
                    return Ok(if *left == 0 {
                        Next::LastFrame(frame)
                    } else {
                        Next::Frame(frame)
                    });
                }
                Progress::Chunked(chunked) => match chunked.step(input) {
                    Ok(ChunkStep::NeedMore { consumed }) => {
                        input.advance(consumed);
                        return Ok(Next::More);
                    }
                    Ok(ChunkStep::Data { skip, len }) => {
                        input.advance(skip);
                        return Ok(Next::Frame(Frame::data(input.split_to(len).freeze())));
                    }
                    Ok(ChunkStep::Trailers { skip }) => {
                        input.advance(skip);
                        self.progress = Progress::Trailers(Scan::default());
                    }
                    Ok(ChunkStep::End { skip }) => {
                        input.advance(skip);
                        return Ok(Next::End);
                    }
                    Err(malformed) => {
                        let (policy, direction) = (&self.policy, Direction::Response);
                        findings.push(malformed.finding(input, policy, direction));
                        return Err(Refusal::UpstreamBodyMalformed);
                    }
                },
                Progress::Trailers(scan) => {
                    return trailers(input, scan, &self.policy, findings);
                }
            }
        }
    }
}

fn trailers(
    input: &mut Input,
    scan: &mut Scan,
    policy: &Policy,
    findings: &mut Vec<Finding>,
) -> Result<Next, Refusal> {
    match screen::trailers(input, scan, policy, Direction::Response) {
        Ok(Reading::Partial(_)) => Ok(Next::More),
        Ok(Reading::Complete { screened, consumed }) => {
            input.advance(consumed);
            findings.extend(screened.findings);
            if screened.head.is_empty() {
                return Ok(Next::End);
            }
            Ok(Next::LastFrame(Frame::trailers(screened.head)))
        }
        Err(refused) => {
            findings.extend(refused.findings);
            Err(Refusal::UpstreamBodyMalformed)
        }
    }
}
