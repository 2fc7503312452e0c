//! HTTP/2 towards an endpoint (`h2c://`, `h2://`), through hyper's client.
//!
//! A thread has few connections to an endpoint, each driven by a task of its own: one, and another
//! once all have [`STREAMS_MAX`] streams, up to [`LINKS_MAX`]; then streams queue. A request's body
//! is read from the client by the request's own task and handed to the connection's task through a
//! place for one frame (`lane`), so that a client's connection is never polled by two tasks.
//!
//! hyper has checked the framing of HTTP/2 itself; heads and trailers pass the screener like any
//! others. Interim responses of HTTP/2 endpoints are not relayed (hyper's client drops them).

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use futures_util::FutureExt as _;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::body::{ResponseBody, RestOfRequest};
use super::client::{Client, Failed, Freshness, Target};
use super::connect::ConnectError;
use super::endpoint::{Counted, Endpoint, Load};
use super::lane::{Pump, Upload};
use super::patience::{Patience, Waits};
use super::pool::{IDLE_TIMEOUT, LIFETIME};
use super::retry::Stage;
use super::{Broken, Outgoing, Response};
use crate::heads;
use crate::refusal::Refusal;
use crate::screen::{self, Direction, Finding, Framing, Policy, Rule};
use crate::sites::Protocol;
use crate::timers::Deadline;

/// Streams of one connection before another one is opened.
pub const STREAMS_MAX: u32 = 64;

/// Connections of one thread to one endpoint.
pub const LINKS_MAX: usize = 4;

/// What an endpoint may send on one stream before the client has taken it.
const STREAM_WINDOW: u32 = 256 * 1024;

/// All streams' windows together: one that stalls must not stop the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX;

/// Bytes of a response's decoded header list; the screener's own bounds come after it.
const HEADER_LIST_MAX: u32 = 256 * 1024;

/// A connection with streams is asked for a sign of life this often, and given up without one.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// All HTTP/2 connections of one thread.
#[derive(Default)]
pub(super) struct Http2 {
    lines: RefCell<HashMap<u64, Line>>,
}

#[derive(Default)]
struct Line {
    links: Vec<Rc<Link>>,
    /// Held while a connection is made: those who come meanwhile share it.
    opening: Rc<tokio::sync::Mutex<()>>,
}

/// One connection.
struct Link {
    sender: SendRequest<Upload>,
    streams: Cell<u32>,
    born: Instant,
    used: Cell<Instant>,
    /// A request was answered on it.
    proven: Cell<bool>,
}

/// One stream of a link; given back when dropped.
struct Stream(Rc<Link>);

impl Http2 {
    /// Closes what is idle for too long, too old, or was closed by the endpoint.
    pub(super) fn sweep(&self, now: Instant) {
        self.lines.borrow_mut().retain(|_, line| {
            line.links.retain(|link| {
                let idle = link.streams.get() == 0 && now - link.used.get() >= IDLE_TIMEOUT;
                link.is_usable(now) && !idle
            });
            !line.links.is_empty() || Rc::strong_count(&line.opening) > 1
        });
    }

    /// The least loaded connection that takes another stream; whether one more may be opened.
    fn find(&self, endpoint: &Endpoint, now: Instant) -> (Option<Rc<Link>>, bool) {
        let lines = self.lines.borrow();
        let Some(line) = lines.get(&endpoint.id) else { return (None, true) };
        let usable = line.links.iter().filter(|link| link.is_usable(now));
        let least = usable.clone().min_by_key(|link| link.streams.get()).cloned();
        let may_open = usable.count() < LINKS_MAX;
        match least {
            Some(link) if link.streams.get() < STREAMS_MAX || !may_open => (Some(link), may_open),
            Some(_) | None => (None, may_open),
        }
    }

    fn opening(&self, endpoint: &Endpoint) -> Rc<tokio::sync::Mutex<()>> {
        self.lines.borrow_mut().entry(endpoint.id).or_default().opening.clone()
    }

    fn add(&self, endpoint: &Endpoint, link: Rc<Link>) {
        self.lines.borrow_mut().entry(endpoint.id).or_default().links.push(link);
    }

    /// No new stream goes over what stands now.
    fn forget(&self, endpoint: &Endpoint) {
        if let Some(line) = self.lines.borrow_mut().get_mut(&endpoint.id) {
            line.links.clear();
        }
    }
}

impl Link {
    fn is_usable(&self, now: Instant) -> bool {
        !self.sender.is_closed() && now - self.born < LIFETIME
    }
}

impl Stream {
    fn new(link: Rc<Link>) -> Stream {
        link.streams.set(link.streams.get() + 1);
        Stream(link)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.used.set(Instant::now());
    }
}

/// Sends one request and waits for its head. *Cancel safety*: dropping the future resets the
/// stream.
pub(super) async fn exchange<B>(
    client: &Rc<Client>,
    target: Target<'_>,
    request: &Outgoing<'_>,
    body: &mut Option<B>,
) -> Result<Response, Failed>
where
    B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
{
    let Target { endpoint, load, freshness, .. } = target;
    let link = link(client, endpoint, freshness, request.timeouts.connect).await?;
    let (reused, stream) = (link.proven.get(), Stream::new(link));
    let source = body.as_mut().expect("only an attempt that succeeds takes the body");
    let scheme = if endpoint.spec.protocol == Protocol::Http2Tls { "https" } else { "http" };
    let (mut pump, upload) = Pump::new(request.head.framing());
    let failed =
        |stage, refusal, consumed| Failed::new(stage, Broken::new(refusal, Vec::new()), consumed);
    let Ok(head) = request.head.to_h2(request.forward, scheme) else {
        return Err(failed(Stage::Answered, Refusal::HeadMalformed, false));
    };
    let deadline = client.deadline();
    let sent = Instant::now();
    let mut patience = Patience::new(request.timeouts, sent);
    request.sent.set(endpoint, sent);
    let _awaited = endpoint.sending();
    let mut answer = pin!(stream.0.sender.clone().try_send_request(head.map(|()| upload)));
    let answered = poll_fn(|cx| {
        match pump.poll(cx, source, &mut patience) {
            Poll::Ready(Err(refusal)) => return Poll::Ready(Err(refusal)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(answer));
        }
        ready!(patience.poll_exhausted(&deadline, pump.waits(), cx));
        Poll::Ready(Err(Refusal::UpstreamTimeout))
    })
    .await;
    let unanswered = if reused { Stage::SentReused } else { Stage::SentFresh };
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(mut error)) => {
            let unsent = error.take_message().is_some();
            let (stage, refusal) = verdict(error.error(), unsent, unanswered);
            if refusal == Refusal::UpstreamClosed {
                client.http2.forget(endpoint);
            }
            let malformed = refusal == Refusal::UpstreamHeadMalformed;
            let findings = malformed.then(|| unseen(request.policy)).into_iter().collect();
            return Err(Failed::new(stage, Broken::new(refusal, findings), pump.consumed));
        }
        Err(refusal) => return Err(failed(unanswered, refusal, pump.consumed)),
    };
    stream.0.proven.set(true);
    let now = Instant::now();
    let latency = now - sent;
    endpoint.answered(latency, now);
    let download = Unscreened { load, stream, pump, deadline, patience };
    let response = download.screen(answer, request, body)?;
    Ok(Response { latency, ..response })
}

/// What came back, before its head was judged.
struct Unscreened {
    load: Load,
    stream: Stream,
    pump: Pump,
    deadline: Deadline,
    patience: Patience,
}

impl Unscreened {
    fn screen<B>(
        self,
        answer: http::Response<Incoming>,
        request: &Outgoing<'_>,
        body: &mut Option<B>,
    ) -> Result<Response, Failed>
    where
        B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
    {
        let (parts, incoming) = answer.into_parts();
        let (method, storage) = (request.head.request_method(), heads::take());
        let ended = incoming.is_end_stream();
        let screened = match screen::response_h2(&parts, ended, request.policy, method, storage) {
            Ok(screened) => screened,
            Err(refused) => {
                let refused = *refused;
                heads::give_back(refused.storage);
                let broken = Broken {
                    start_line: refused.start_line,
                    ..Broken::new(refused.reason, refused.findings)
                };
                return Err(Failed::new(Stage::Answered, broken, self.pump.consumed));
            }
        };
        let endpoint = self.load.endpoint().clone();
        if screened.head.framing() == Framing::None {
            // The message is its head. Whatever comes behind it is dropped with its stream: to an
            // HTTP/1 client it would be the next response.
            let mut screened = screened;
            if screened.findings.iter().all(|found| found.rule != Rule::BodyForbidden) {
                screened.findings.extend(forbidden_content(incoming));
            }
            return Ok(Response::new(screened, ResponseBody::empty(), endpoint, None));
        }
        let rest = match self.pump.is_done() {
            true => None,
            false => body.take().map(|body| (self.pump, Box::new(body) as RestOfRequest)),
        };
        let body = match ended && rest.is_none() {
            true => ResponseBody::empty(),
            false => ResponseBody::http2(Download {
                incoming,
                rest,
                deadline: self.deadline,
                patience: self.patience,
                policy: request.policy.clone(),
                _stream: self.stream,
                _load: self.load,
            }),
        };
        Ok(Response::new(screened, body, endpoint, None))
    }
}

/// What has come behind a head that is the whole message: an empty frame that ends the stream is
/// sound, content is not. What has not come yet is not waited for.
fn forbidden_content(mut incoming: Incoming) -> Option<Finding> {
    while let Some(Some(frame)) = incoming.frame().now_or_never() {
        match frame {
            Ok(frame) if frame.data_ref().is_none_or(Bytes::is_empty) => {}
            Ok(frame) => {
                let content = frame.into_data().unwrap_or_default();
                return Some(Finding::of_content(Rule::BodyForbidden, content.len()));
            }
            // h2 itself lets no content through behind an answer to HEAD.
            Err(error) if is_library(&error) => {
                return Some(Finding::of_content(Rule::BodyForbidden, 0));
            }
            Err(_) => return None,
        }
    }
    None
}

/// What h2 refuses by itself, in a head, a body or trailers; it does not say why.
fn unseen(policy: &Policy) -> Finding {
    policy.find(Rule::MessageMalformed, Direction::Response, "", b"")
}

/// Whether the h2 library has ended the stream, or the connection, for what the endpoint sent.
fn is_library(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(::h2::Error::is_library)
}

fn h2_error(error: &hyper::Error) -> Option<&::h2::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

/// A connection with room for a stream; opened where there is none.
async fn link(
    client: &Rc<Client>,
    endpoint: &Arc<Endpoint>,
    freshness: Freshness,
    limit: Duration,
) -> Result<Rc<Link>, Failed> {
    if freshness == Freshness::Fresh {
        client.http2.forget(endpoint);
    }
    if let (Some(link), _) = client.http2.find(endpoint, Instant::now()) {
        return Ok(link);
    }
    let (due, opening) = (Instant::now() + limit, client.http2.opening(endpoint));
    let Ok(_turn) = tokio::time::timeout_at(due, opening.lock()).await else {
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        return Err(Failed::connecting(&ConnectError::Unreachable(late)));
    };
    // Somebody may have opened one meanwhile.
    if let (Some(link), _) = client.http2.find(endpoint, Instant::now()) {
        return Ok(link);
    }
    let stream = client.connect(endpoint, due.saturating_duration_since(Instant::now())).await?;
    let mut builder = Builder::new(OnThisThread);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_MAX)
        .keep_alive_interval(PING_INTERVAL);
    let (sender, connection) = match builder.handshake(TokioIo::new(stream)).await {
        Ok(opened) => opened,
        Err(error) => {
            let (_, refusal) = verdict(&error, true, Stage::Connecting);
            return Err(Failed::new(Stage::Connecting, Broken::new(refusal, Vec::new()), false));
        }
    };
    let counted = Counted::new(endpoint.clone());
    tokio::task::spawn_local(async move {
        // How it ends is told to each of its streams.
        let _ended = connection.await;
        drop(counted);
    });
    let now = Instant::now();
    let (streams, used, proven) = (Cell::new(0), Cell::new(now), Cell::new(false));
    let link = Rc::new(Link { sender, streams, born: now, used, proven });
    client.http2.add(endpoint, link.clone());
    Ok(link)
}

/// What an error of hyper's client means for the request.
///
/// 1. The request never left, REFUSED_STREAM, or a graceful GOAWAY that does not count it: not
///    processed (RFC 9113 8.7).
/// 2. What the endpoint sent was against the protocol: its head is malformed.
/// 3. Anything else: the connection or the stream has ended.
fn verdict(error: &hyper::Error, unsent: bool, sent: Stage) -> (Stage, Refusal) {
    let Some(cause) = h2_error(error) else {
        let stage = if unsent { Stage::Unprocessed } else { sent };
        return (stage, Refusal::UpstreamClosed);
    };
    let refused = cause.reason() == Some(::h2::Reason::REFUSED_STREAM)
        || (cause.is_go_away() && cause.reason() == Some(::h2::Reason::NO_ERROR));
    if unsent || (refused && cause.is_remote()) {
        return (Stage::Unprocessed, Refusal::UpstreamClosed);
    }
    if cause.is_library() {
        return (Stage::Answered, Refusal::UpstreamHeadMalformed);
    }
    (sent, Refusal::UpstreamClosed)
}

/// Runs hyper's tasks on the serving thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// A response body of HTTP/2 on its way.
pub(super) struct Download {
    incoming: Incoming,
    rest: Option<(Pump, RestOfRequest)>,
    deadline: Deadline,
    patience: Patience,
    policy: Arc<Policy>,
    _stream: Stream,
    _load: Load,
}

impl Download {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        findings: &mut Vec<Finding>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        if let Some((pump, rest)) = &mut self.rest {
            match pump.poll(cx, &mut **rest, &mut self.patience) {
                Poll::Ready(Ok(())) => self.rest = None,
                Poll::Ready(Err(refusal)) => return Poll::Ready(Some(Err(refusal))),
                Poll::Pending => {}
            }
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                ready!(self.patience.poll_exhausted(&self.deadline, Waits::Piece, cx));
                Poll::Ready(Some(Err(Refusal::UpstreamBodyTimeout)))
            }
            // hyper takes a reset with NO_ERROR for the end, also where it does not follow a whole
            // answer (RFC 9113 8.1).
            Poll::Ready(None) if !self.is_ended() => {
                Poll::Ready(Some(Err(Refusal::UpstreamClosed)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) if is_library(&error) => {
                findings.push(unseen(&self.policy));
                Poll::Ready(Some(Err(Refusal::UpstreamBodyMalformed)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Refusal::UpstreamClosed))),
            Poll::Ready(Some(Ok(frame))) => {
                self.patience.progressed();
                Poll::Ready(Some(self.screen_trailers(frame, findings)))
            }
        }
    }

    fn screen_trailers(
        &self,
        frame: Frame<Bytes>,
        findings: &mut Vec<Finding>,
    ) -> Result<Frame<Bytes>, Refusal> {
        let Some(trailers) = frame.trailers_ref() else { return Ok(frame) };
        match screen::trailers_h2(trailers, &self.policy, Direction::Response) {
            Ok(screened) => {
                findings.extend(screened.findings);
                Ok(Frame::trailers(screened.head))
            }
            Err(refused) => {
                findings.extend(refused.findings);
                Err(Refusal::UpstreamBodyMalformed)
            }
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
