//! An HTTP/2 connection to a client (RFC 9113), on hyper's framing.
//!
//! Each stream's head passes the same screening as an HTTP/1 head and reaches the same service;
//! what comes back is the same canonical response. hyper keeps the protocol's own bounds (streams,
//! header lists, resets); this room adds the waits - idle connections, request bodies, clients that
//! take no response -, the meter that ends floods of frames which nothing else bounds, and the
//! gathering of small writes.

pub mod batched;
pub mod meter;
pub mod metered;

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use slab::Slab;
use tokio::time::Instant;

use self::batched::{Batched, PutOff};
use self::metered::{Conduct, Metered};
use super::answer::Local;
use super::{Answer, Reply, Request, Service, Source, Ticket, Transport};
use crate::heads;
use crate::refusal::Refusal;
use crate::screen::{
    self, Direction, Finding, Framing, Policy, Refused, RequestHead, ResponseHead, Screened,
};
use crate::timers::{Deadline, Timers};

/// Streams open at one time on a connection; RFC 9113 6.5.2 recommends at least 100.
const STREAMS_MAX: u32 = 128;

/// What a client may send ahead on one stream, and on the whole connection (RFC 9113 5.2).
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Response bytes buffered for one stream that the client does not take.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Resets by the client that may wait to be accepted (rapid reset, CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;

/// Stream errors the client may provoke us into (MadeYouReset, CVE-2025-8671).
const RESETS_PROVOKED_MAX: usize = 64;

/// hyper keeps a piece until the client takes it. A small one is copied, so that it does not keep a
/// whole read buffer with it.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// A silent connection is asked with a PING, and given up without an answer.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(15);

/// How often a connection with open streams looks for clients that take nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a client that floods gets to take what is already written, and the reason.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection's streams, seen from its supervisor.
#[derive(Default)]
struct Streams {
    open: Cell<usize>,
    /// For each response: when the client was given its head, or a piece, that nobody has asked
    /// to follow since. `None` while the endpoint is what it waits for.
    offered: RefCell<Slab<Option<Instant>>>,
    conduct: Rc<Conduct>,
    put_off: Rc<PutOff>,
    /// Whether the connection is only kept for its last word.
    farewell: Cell<bool>,
}

/// Serves a connection until either side ends it.
///
/// *Cancel safety*: dropping the future aborts the connection and all work upstream.
pub fn serve<T: Transport, S: Service>(
    io: T,
    timers: &Rc<Timers>,
    service: Rc<S>,
) -> impl Future<Output = ()> + use<T, S> {
    // Outside the future, which would keep room for the stream twice.
    let conduct = Rc::<Conduct>::default();
    let put_off = Rc::<PutOff>::default();
    let io = Metered::new(Batched::new(io, put_off.clone()), conduct.clone());
    let streams = Rc::new(Streams { conduct, put_off, ..Streams::default() });
    let answers = {
        let (service, streams, timers) = (service.clone(), streams.clone(), timers.clone());
        service_fn(move |request| {
            let open = Open::new(&streams);
            // Boxed: hyper moves what it spawns several times.
            Box::pin(stream(request, service.clone(), timers.clone(), open))
        })
    };
    let connection = builder(&service.policy(None)).serve_connection(TokioIo::new(io), answers);
    let deadline = timers.deadline();
    async move {
        let error = supervise(pin!(connection), &*service, &streams, deadline).await;
        streams.tell_malformed(&*service);
        let reason = error.as_ref().and_then(own_reason);
        if streams.conduct.flooded() || reason == Some(h2::Reason::ENHANCE_YOUR_CALM) {
            service.refused(Refusal::Http2Flood, None);
        } else if reason.is_some_and(is_malformed) {
            tell_unseen(&*service);
        }
    }
}

/// Why h2 itself has ended the connection, where it has.
fn own_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>())?;
    cause.reason().filter(|_| cause.is_library())
}

/// Some malformed fields (an empty or odd name, a control byte in a value) are errors of the
/// connection to h2, not of their stream.
fn is_malformed(reason: h2::Reason) -> bool {
    matches!(reason, h2::Reason::PROTOCOL_ERROR | h2::Reason::COMPRESSION_ERROR)
}

/// Tells of a message that h2 has refused by itself; it says no more of it.
fn tell_unseen<S: Service>(service: &S) {
    let refused = Refused::unseen(&service.policy(None));
    service.refused(refused.reason, Some(&refused));
}

fn builder(policy: &Policy) -> hyper::server::conn::http2::Builder<OnThisThread> {
    // RFC 9113 6.5.2 counts 32 bytes for each field. A list beyond it is answered by h2 itself, so
    // what screening judges, and tells of, must fit in.
    let fields = policy.fields_max().saturating_mul(32);
    let list = policy.raw_bytes_max().saturating_add(fields);
    let mut builder = hyper::server::conn::http2::Builder::new(OnThisThread);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_PROVOKED_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_PATIENCE);
    builder
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, work: F) {
        tokio::task::spawn_local(work);
    }
}

/// A connection as its supervisor drives it.
trait Drive: Future<Output = hyper::Result<()>> {
    /// Tells the client to open no more streams.
    fn wind_down(self: Pin<&mut Self>);
}

impl<T, S, B> Drive for hyper::server::conn::http2::Connection<T, S, OnThisThread>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    OnThisThread: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn wind_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Drives a connection to its end; hyper's error where it ends with one.
async fn supervise<C: Drive, S: Service>(
    mut connection: Pin<&mut C>,
    service: &S,
    streams: &Streams,
    deadline: Deadline,
) -> Option<hyper::Error> {
    let mut winding_down = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.err());
            }
            streams.tell_malformed(service);
            if streams.conduct.flooded() {
                return streams.poll_farewell(&deadline, cx).map(|()| None);
            }
            let limits = service.limits();
            let idle = streams.open.get() == 0;
            if streams.put_off.settle(!idle, cx) {
                continue;
            }
            if !deadline.is_armed() || idle != deadline.is_idle() {
                match idle {
                    true => deadline.arm_idle(limits.idle),
                    false => deadline.arm(LOOK_EVERY),
                }
            }
            if !winding_down && service.draining() {
                winding_down = true;
                connection.as_mut().wind_down();
                continue;
            }
            if deadline.poll_elapsed(cx).is_pending() {
                return Poll::Pending;
            }
            if idle && winding_down {
                return Poll::Ready(None); // Told to end, and it did not.
            }
            if idle {
                winding_down = true;
                connection.as_mut().wind_down();
                deadline.arm(LOOK_EVERY);
                continue;
            }
            if streams.stalled(limits.body) {
                return Poll::Ready(None);
            }
            deadline.arm(LOOK_EVERY);
        }
    })
    .await
}

impl Streams {
    /// Tells of the messages that h2 has reset.
    fn tell_malformed<S: Service>(&self, service: &S) {
        for _ in 0..self.conduct.take_malformed() {
            tell_unseen(service);
        }
    }

    /// Whether a client has left a piece of a response untaken for `patience`.
    fn stalled(&self, patience: Duration) -> bool {
        let now = Instant::now();
        self.offered
            .borrow()
            .iter()
            .any(|(_, offered)| offered.is_some_and(|since| now - since > patience))
    }

    /// Ready once a client that floods has had its time to be told so.
    fn poll_farewell(&self, deadline: &Deadline, cx: &mut Context<'_>) -> Poll<()> {
        if !self.farewell.replace(true) {
            deadline.arm(FAREWELL);
        }
        deadline.poll_elapsed(cx).map(|_| ())
    }
}

/// An open stream; counted until it is dropped.
struct Open {
    streams: Rc<Streams>,
    key: usize,
}

impl Open {
    fn new(streams: &Rc<Streams>) -> Open {
        streams.open.set(streams.open.get() + 1);
        let key = streams.offered.borrow_mut().insert(None);
        Open { streams: streams.clone(), key }
    }

    fn offered(&self, since: Option<Instant>) {
        self.streams.offered.borrow_mut()[self.key] = since;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.offered.borrow_mut().remove(self.key);
        self.streams.open.set(self.streams.open.get() - 1);
    }
}

/// The life of a stream. An error resets it with the reason inside.
async fn stream<S: Service>(
    request: http::Request<Incoming>,
    service: Rc<S>,
    timers: Rc<Timers>,
    open: Open,
) -> Result<http::Response<ResponseBody<S::Body, S::Ticket>>, h2::Error> {
    let since = Instant::now();
    let (parts, incoming) = request.into_parts();
    let screened = match screened(&parts, incoming.is_end_stream(), &*service) {
        Ok(screened) => screened,
        Err(refused) => {
            let request_id = service.refused(refused.reason, Some(&refused));
            let reply = Local::refusal(refused.reason, None, &request_id);
            return Ok(local(&reply, content(&reply, &parts.method), open));
        }
    };
    let Screened { head, findings } = screened;
    let host = head.authority().host();
    let received = Rc::new(Received::default());
    let body = RequestBody {
        policy: service.policy(Some(host)),
        bytes_max: service.body_bytes_max(host),
        patience: service.limits().body,
        deadline: (!incoming.is_end_stream()).then(|| timers.deadline()),
        received: received.clone(),
        incoming,
    };
    let method = parts.method.clone();
    drop(parts);
    let request = Request { head, findings, body, since };
    // hyper's server has no way to send interim responses; they may be left out (RFC 9110 15.2).
    let interim = async |_: ResponseHead| Ok(());
    let Answer { reply, request_id, ticket } = service.answer(request, interim).await;
    let local_reply = match reply {
        Reply::Response { head, body } => {
            return Ok(relayed(head, body, &request_id, (ticket, received, open)));
        }
        // No Upgrade field can have been sent (RFC 9113 8.6): an endpoint that switches did so
        // unasked.
        Reply::Upgraded { .. } => Local::refusal(Refusal::UpstreamHeadMalformed, None, &request_id),
        Reply::Refused { refusal: Refusal::RequestQueueFull, page: None } => {
            ticket.finish(received.bytes.get(), 0, Some(Refusal::RequestQueueFull));
            return Err(h2::Reason::REFUSED_STREAM.into());
        }
        Reply::Refused { refusal, page } => Local::refusal(refusal, page, &request_id),
        Reply::Redirect(location) => Local::redirect(location, &request_id),
    };
    let content = content(&local_reply, &method);
    ticket.finish(received.bytes.get(), content.len() as u64, local_reply.refusal);
    Ok(local(&local_reply, content, open))
}

/// RFC 9110 9.3.2: an answer to HEAD has none.
fn content(reply: &Local, method: &http::Method) -> Bytes {
    if method == http::Method::HEAD { Bytes::new() } else { reply.body().clone() }
}

fn screened<S: Service>(
    parts: &http::request::Parts,
    end_stream: bool,
    service: &S,
) -> Result<Screened<RequestHead>, Box<Refused>> {
    let policy = service.policy(None);
    let judged = screen::request_h2(parts, end_stream, &policy, heads::take());
    let host = match &judged {
        Ok(screened) => Some(screened.head.authority().host()),
        Err(refused) => refused.host(),
    };
    let Some(own) = host.and_then(|host| service.other_policy(host, &policy)) else {
        return judged;
    };
    // The host's site judges by rules of its own: once more, with these.
    let storage = judged.map_or_else(|refused| refused.storage, |it| it.head.into_storage());
    screen::request_h2(parts, end_stream, &own, storage)
}

fn relayed<B, K>(
    head: ResponseHead,
    body: B,
    request_id: &str,
    (ticket, received, open): (K, Rc<Received>, Open),
) -> http::Response<ResponseBody<B, K>>
where
    B: Source,
    K: Ticket + Unpin,
{
    let mut response = ResponseBody {
        content: Content::Upstream(body),
        account: Some(Account { ticket, received, sent: 0 }),
        open,
    };
    let is_whole = head.framing() == Framing::None;
    if is_whole || response.is_end_stream() {
        response.settle(None); // hyper will not poll it.
    }
    if is_whole {
        response.content = Content::Local(None); // Whatever is behind the head goes no further.
    }
    // hyper asks for the body once the client's window has room for it, which may be never.
    response.open.offered(Some(Instant::now()));
    response.open.streams.conduct.answered();
    let written = head.to_h2(Some(request_id)).unwrap_or_else(|_| unwritable());
    heads::give_back(head.into_storage());
    written.map(|()| response)
}

fn local<B, K>(reply: &Local, content: Bytes, open: Open) -> http::Response<ResponseBody<B, K>> {
    open.streams.conduct.answered();
    open.offered(Some(Instant::now()));
    let body = Content::Local(Some(content).filter(|content| !content.is_empty()));
    reply.to_h2().map(|()| ResponseBody { content: body, account: None, open })
}

enum Content<B> {
    Upstream(B),
    Local(Option<Bytes>),
}

struct Account<K> {
    ticket: K,
    received: Rc<Received>,
    sent: u64,
}

/// A response's body on its way to hyper.
struct ResponseBody<B, K> {
    content: Content<B>,
    /// `None` once the request's account is closed.
    account: Option<Account<K>>,
    open: Open,
}

impl<B: Source, K: Ticket> ResponseBody<B, K> {
    fn settle(&mut self, cut: Option<Refusal>) {
        if let Some(account) = self.account.take() {
            if let Content::Upstream(body) = &mut self.content {
                account.ticket.note(Direction::Response, &body.take_findings());
            }
            account.ticket.note(Direction::Request, &account.received.findings.borrow());
            account.ticket.finish(account.received.bytes.get(), account.sent, cut);
        }
    }
}

impl<B, K> Body for ResponseBody<B, K>
where
    B: Source,
    K: Ticket + Unpin,
{
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        this.open.offered(None);
        let body = match &mut this.content {
            Content::Local(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Content::Upstream(body) => body,
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                this.open.offered(Some(Instant::now()));
                this.open.streams.conduct.takes(frame.data_ref().map_or(0, Bytes::len));
                if let (Some(account), Some(data)) = (&mut this.account, frame.data_ref()) {
                    account.sent += data.len() as u64;
                }
                if this.is_end_stream() {
                    this.settle(None); // hyper does not ask again then.
                }
                Poll::Ready(Some(Ok(frame.map_data(unpinned))))
            }
            Poll::Ready(None) => {
                this.settle(None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(refusal))) => {
                this.settle(Some(refusal));
                // The stream is reset: a response that was cut short never looks whole.
                Poll::Ready(Some(Err(h2::Reason::INTERNAL_ERROR.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Upstream(body) => body.is_end_stream(),
            Content::Local(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Upstream(body) => body.size_hint(),
            Content::Local(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}

fn unpinned(piece: Bytes) -> Bytes {
    if piece.len() <= COPIED_BYTES_MAX { Bytes::copy_from_slice(&piece) } else { piece }
}

/// A head that the HTTP library does not take; the screener lets none such through.
fn unwritable() -> http::Response<()> {
    Local::refusal(Refusal::UpstreamHeadMalformed, None, "").to_h2()
}

/// What came of a request's body so far.
#[derive(Default)]
struct Received {
    bytes: Cell<u64>,
    findings: RefCell<Vec<Finding>>,
}

/// An HTTP/2 request's body, within its limit and deadline.
struct RequestBody {
    incoming: Incoming,
    policy: Arc<Policy>,
    bytes_max: Option<u64>,
    patience: Duration,
    deadline: Option<Deadline>,
    received: Rc<Received>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let Poll::Ready(frame) = polled else { return self.poll_late(cx) };
        if let Some(deadline) = &self.deadline {
            deadline.disarm();
        }
        Poll::Ready(match frame {
            // hyper takes a reset with NO_ERROR for the end, wherever it comes.
            None if !self.incoming.is_end_stream() => Some(Err(Refusal::ClientGone)),
            None => None,
            Some(Err(_)) => Some(Err(Refusal::ClientGone)),
            Some(Ok(frame)) => Some(self.judged(frame)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl RequestBody {
    fn poll_late(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let Some(deadline) = &self.deadline else { return Poll::Pending };
        if !deadline.is_armed() {
            deadline.arm(self.patience);
        }
        deadline.poll_elapsed(cx).map(|_| Some(Err(Refusal::BodyTimeout)))
    }

    fn judged(&self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Refusal> {
        match frame.into_data() {
            Ok(data) => {
                self.received.bytes.set(self.received.bytes.get() + data.len() as u64);
                if self.bytes_max.is_some_and(|max| self.received.bytes.get() > max) {
                    return Err(Refusal::BodyTooLarge);
                }
                Ok(Frame::data(data))
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                let screened = screen::trailers_h2(&trailers, &self.policy, Direction::Request);
                let (kept, findings) = match screened {
                    Ok(screened) => (Ok(screened.head), screened.findings),
                    Err(refused) => (Err(Refusal::BodyMalformed), refused.findings),
                };
                self.received.findings.borrow_mut().extend(findings);
                kept.map(Frame::trailers)
            }
        }
    }
}
