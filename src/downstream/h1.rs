//! An HTTP/1.0 or 1.1 connection to a client (RFC 9112), from the first byte to the last.
//!
//! One request at a time, in order; what a pipelining client sends ahead waits on the wire. The
//! head is screened once and its canonical form goes on; the body is relayed piece by piece. A
//! connection is kept only where the end of both messages is certain.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::Instant;

use super::answer::Local;
use super::body::{Progress, RequestBody};
use super::wire::{self, Shared, Stop, Wire, output, output_done};
use super::{Answer, Reply, Request, Service, Source, Ticket, Transport, tunnel};
use crate::buffers;
use crate::heads;
use crate::refusal::{Refusal, Side};
use crate::screen::{
    self, Direction, Framing, Policy, Reading, Refused, RequestHead, RequestMethod, ResponseHead,
    ResponseTo, Scan, Screened, Storage, Version, chunk,
};
use crate::timers::Timers;

/// So much of an unread request body is read and thrown away to keep a connection; more costs
/// more than a new handshake does.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// After the last response a client gets so long, and so many bytes, to finish talking.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A connection that a drain finds without a request gets so long, from its beginning, to send its
/// first: who has just connected is about to ask, and would not try again. It is far more than a
/// round trip, and less than anybody waits for an edge to end.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What becomes of a connection after a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    /// Both messages ended where they should.
    Keep,
    /// The response is whole, but nothing can follow it.
    Close,
    /// The response was cut short, or nobody reads it.
    Abort,
}

/// Serves a connection until either side ends it.
///
/// *Cancel safety*: dropping the future aborts the connection and all work upstream.
pub fn serve<T: Transport, S: Service>(
    io: T,
    timers: &Rc<Timers>,
    service: S,
) -> impl Future<Output = ()> + use<T, S> {
    // Outside the future, which would keep room for the stream twice.
    let wire = Rc::new(RefCell::new(Wire::new(io, timers)));
    serve_wire(wire, service)
}

async fn serve_wire<T: Transport, S: Service>(wire: Shared<T>, service: S) {
    let mut awaited_until = Some(Instant::now() + FIRST_REQUEST);
    loop {
        if !request_begins(&wire, &service, awaited_until.take()).await {
            wire::close(&wire, LINGER, 0).await;
            return;
        }
        let since = Instant::now();
        let ending = match read_head(&wire, &service, since).await {
            // Boxed: an idle connection does not hold the room that a request needs.
            Ok(judged) => Box::pin(exchange(&wire, &service, judged, since)).await,
            Err(Unread::Quietly) => Ending::Abort,
            Err(Unread::Refused(refusal, refused)) => {
                let request_id = service.refused(refusal, refused.as_deref());
                let patience = service.limits().body;
                Box::pin(refuse_head(&wire, patience, refusal, &request_id)).await
            }
        };
        match ending {
            Ending::Keep => {}
            Ending::Close => return wire::close(&wire, LINGER, LINGER_BYTES_MAX).await,
            Ending::Abort => return,
        }
    }
}

/// Waits for the first byte of a request; false where none will come. A drain ends the wait, but not
/// before `awaited_until`; what has come already is taken.
async fn request_begins<T: Transport, S: Service>(
    wire: &Shared<T>,
    service: &S,
    awaited_until: Option<Instant>,
) -> bool {
    wire.borrow().reading.arm_idle(service.limits().idle);
    let begins = poll_fn(|cx| {
        let wire = &mut *wire.borrow_mut();
        if !wire.input.is_empty() {
            return Poll::Ready(true);
        }
        let filled = wire.poll_fill(cx).map(|filled| filled.is_ok());
        // While it drains the edge wakes every wait again and again.
        let awaited = || awaited_until.is_some_and(|until| Instant::now() < until);
        if filled.is_pending() {
            wire.io.release();
            if service.draining() && !awaited() {
                return Poll::Ready(false);
            }
        }
        filled
    })
    .await;
    wire.borrow().reading.disarm();
    begins
}

/// Why there is no head.
enum Unread {
    /// The connection ended between two requests, or broke.
    Quietly,
    /// It is refused, or did not come in time.
    Refused(Refusal, Option<Box<Refused>>),
}

async fn read_head<T: Transport, S: Service>(
    wire: &Shared<T>,
    service: &S,
    since: Instant,
) -> Result<Judgement, Unread> {
    wire.borrow().reading.arm_at(since + service.limits().head);
    let mut judged =
        Judged { scan: Scan::default(), storage: heads::take(), policy: service.policy(None) };
    loop {
        judged = match judge(&mut wire.borrow_mut().input, service, judged)? {
            Judging::Complete(judgement) => return Ok(judgement),
            Judging::Partial(judged) => judged,
        };
        match poll_fn(|cx| wire.borrow_mut().poll_fill(cx)).await {
            Ok(()) => {}
            Err(Stop::Elapsed) => return Err(Unread::Refused(Refusal::HeadTimeout, None)),
            Err(Stop::Ended | Stop::Broken) => return Err(Unread::Quietly),
        }
    }
}

/// How far the judging of a head has come.
struct Judged {
    scan: Scan,
    storage: Storage,
    policy: Arc<Policy>,
}

enum Judging {
    Partial(Judged),
    Complete(Judgement),
}

/// A head, and by what it was judged.
struct Judgement {
    screened: Screened<RequestHead>,
    policy: Arc<Policy>,
}

fn judge<S: Service>(input: &mut BytesMut, service: &S, judged: Judged) -> Result<Judging, Unread> {
    let Judged { mut scan, storage, policy } = judged;
    match screen::request(input, &mut scan, &policy, storage) {
        Ok(Reading::Partial(storage)) => Ok(Judging::Partial(Judged { scan, storage, policy })),
        Ok(Reading::Complete { screened, consumed }) => {
            let host = screened.head.authority().host();
            let Some(policy) = service.other_policy(host, &policy) else {
                input.advance(consumed);
                return Ok(Judging::Complete(Judgement { screened, policy }));
            };
            // The host's site judges by rules of its own: once more, with these.
            let storage = screened.head.into_storage();
            judge(input, service, Judged { scan: Scan::default(), storage, policy })
        }
        Err(refused) => {
            match refused.host().and_then(|host| service.other_policy(host, &policy)) {
                // It is for the host's site to refuse, not for that of the server name.
                Some(policy) => {
                    let (scan, storage) = (Scan::default(), refused.storage);
                    judge(input, service, Judged { scan, storage, policy })
                }
                None => Err(Unread::Refused(refused.reason, Some(refused))),
            }
        }
    }
}

/// What of a request decides how its response is written.
#[derive(Clone)]
struct Shape {
    policy: Arc<Policy>,
    version: Version,
    persistent: bool,
    is_head: bool,
    expects_continue: bool,
    patience: Duration,
    /// Where there is a body, which may be read after the request is answered.
    host: Option<Box<str>>,
}

/// One request and its response. No `async fn`: that would keep room for the head twice.
fn exchange<T: Transport, S: Service>(
    wire: &Shared<T>,
    service: &S,
    judgement: Judgement,
    since: Instant,
) -> impl Future<Output = Ending> {
    let Judgement { screened: Screened { head, findings }, policy } = judgement;
    let has_body = !matches!(head.framing(), Framing::None | Framing::Length(0));
    let shape = Shape {
        host: has_body.then(|| head.authority().host().into()),
        policy,
        version: head.version(),
        persistent: head.persistent(),
        is_head: head.request_method() == RequestMethod::Head,
        expects_continue: head.expects_continue(),
        patience: service.limits().body,
    };
    {
        let host = head.authority().host();
        let wire = &mut *wire.borrow_mut();
        wire.reading.disarm();
        wire.body = Progress::begin(head.framing(), service.body_bytes_max(host));
    }
    let body = RequestBody::new(wire.clone(), shape.policy.clone(), shape.patience);
    let request = Request { head, findings, body, since };
    async move {
        let interim = async |head: ResponseHead| write_interim(wire, &head, &shape).await;
        let answer = {
            // Its room is the response's afterwards.
            let answer = pin!(service.answer(request, interim));
            unless_gone(wire, answer).await
        };
        let ending = match answer.map(|answer| respond(wire, service, &shape, answer)) {
            None => return Ending::Abort,
            Some(Responding::Relay(relaying)) => relay(wire, &shape, relaying).await,
            Some(Responding::Rarely(responding)) => responding.await,
        };
        if let Some(host) = &shape.host {
            service.found_late(host, &wire.borrow_mut().body.take_findings());
        }
        ending
    }
}

/// Runs `work` until it is done, or until the client is gone: then the work is dropped.
async fn unless_gone<T: Transport, F: Future>(
    wire: &Shared<T>,
    mut work: Pin<&mut F>,
) -> Option<F::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        poll_client_gone(wire, cx).map(|()| None)
    })
    .await
}

fn poll_client_gone<T: Transport>(wire: &Shared<T>, cx: &mut std::task::Context<'_>) -> Poll<()> {
    let wire = &mut *wire.borrow_mut();
    // While the body is being read, its reader finds out.
    if wire.body.is_complete() { wire.poll_gone(cx) } else { Poll::Pending }
}

async fn write_interim<T: Transport>(
    wire: &RefCell<Wire<T>>,
    head: &ResponseHead,
    shape: &Shape,
) -> Result<(), Refusal> {
    if shape.version == Version::H10 {
        return Ok(()); // RFC 9110 15.2: never to a 1.0 client.
    }
    let mut out = output();
    head.write_h1(&mut out, &whole(None));
    let written = wire::write_all(wire, &out, shape.patience).await;
    output_done(out);
    written?;
    wire::flush(wire, shape.patience).await
}

/// What is left to be done of a response.
enum Responding<'a, B, K> {
    Relay(Relaying<B, K>),
    /// Boxed: the common response does not hold the room that the others need.
    Rarely(Pin<Box<dyn Future<Output = Ending> + 'a>>),
}

/// A response of an endpoint whose body is to be relayed.
struct Relaying<B, K> {
    /// Its head, and what is gathered behind it.
    out: Vec<u8>,
    body: B,
    ticket: K,
    framed: Framed,
}

fn respond<'a, T: Transport, S: Service>(
    wire: &'a Shared<T>,
    service: &S,
    shape: &'a Shape,
    answer: Answer<S::Body, S::Upgraded, S::Ticket>,
) -> Responding<'a, S::Body, S::Ticket> {
    let Answer { reply, request_id, ticket } = answer;
    let close = !shape.persistent || service.draining() || !may_continue(wire, shape);
    let local = match reply {
        Reply::Response { head, body } => {
            let framed = frame(&head, shape, close);
            let out = written(head, shape, &framed, &request_id);
            return Responding::Relay(Relaying { out, body, ticket, framed });
        }
        Reply::Upgraded { head, io } => {
            let mut out = output();
            head.write_h1(&mut out, &whole(Some(&request_id)));
            return Responding::Rarely(Box::pin(async move {
                let leftover = wire.borrow_mut().input.split().freeze();
                let (received, sent) = tunnel::run(wire, io, &out, leftover, shape.patience).await;
                ticket.finish(received, sent, None);
                Ending::Close
            }));
        }
        Reply::Refused { refusal, page } => Local::refusal(refusal, page, &request_id),
        Reply::Redirect(location) => Local::redirect(location, &request_id),
    };
    Responding::Rarely(Box::pin(answer_locally(wire, shape, local, close, ticket)))
}

async fn answer_locally<T: Transport, K: Ticket>(
    wire: &Shared<T>,
    shape: &Shape,
    local: Local,
    close: bool,
    ticket: K,
) -> Ending {
    let close = close || local.closes();
    let mut out = output();
    local.write_h1(&mut out, shape.version, close, shape.is_head);
    let written = write_and_flush(wire, &out, shape.patience).await;
    let sent = local.body().len() as u64;
    output_done(out);
    ticket.note(Direction::Request, &wire.borrow_mut().body.take_findings());
    ticket.finish(wire.borrow().body.received, sent, local.refusal);
    match written {
        Ok(()) => settle(wire, shape, close).await,
        Err(_) => Ending::Abort,
    }
}

/// How the response's body is framed towards this client, and whether the connection stays.
struct Framed {
    /// The head is the whole message.
    whole: bool,
    chunked: bool,
    close: bool,
}

/// RFC 9112 6.3, from our side: a length where there is one; chunks for what ends otherwise; the
/// close alone where the client knows no chunks.
fn frame(head: &ResponseHead, shape: &Shape, close: bool) -> Framed {
    let framing = head.framing();
    let whole = framing == Framing::None;
    match framing {
        Framing::None | Framing::Length(_) => Framed { whole, chunked: false, close },
        Framing::Chunked | Framing::UntilClose | Framing::Stream => match shape.version {
            Version::H10 => Framed { whole, chunked: false, close: true },
            Version::H11 | Version::H2 => Framed { whole, chunked: !shape.is_head, close },
        },
    }
}

/// The text of a head.
fn written(head: ResponseHead, shape: &Shape, framed: &Framed, request_id: &str) -> Vec<u8> {
    let mut out = output();
    head.write_h1(
        &mut out,
        &ResponseTo {
            version: shape.version,
            close: framed.close,
            chunked: framed.chunked,
            request_id: Some(request_id),
        },
    );
    heads::give_back(head.into_storage());
    out
}

fn relay<T: Transport, B, K>(
    wire: &Shared<T>,
    shape: &Shape,
    relaying: Relaying<B, K>,
) -> impl Future<Output = Ending>
where
    B: Source,
    K: Ticket,
{
    let Relaying { mut out, mut body, ticket, framed } = relaying;
    async move {
        let mut sent = 0;
        let count = (&mut sent, shape);
        let relayed = match framed.whole {
            // The head is the message; whatever came behind it would be read as the next response.
            true => write_and_flush(wire, &out, shape.patience).await,
            false => relay_body(wire, &mut out, &mut body, framed.chunked, count).await,
        };
        if relayed.is_err_and(|why| why.side() == Side::Upstream) {
            // What came before the cut is the client's; that nothing follows tells it of the cut.
            let _ = write_and_flush(wire, &out, shape.patience).await;
        }
        output_done(out);
        ticket.note(Direction::Response, &body.take_findings());
        drop(body); // With it goes what is left of the request's body.
        ticket.note(Direction::Request, &wire.borrow_mut().body.take_findings());
        ticket.finish(wire.borrow().body.received, sent, relayed.err());
        match relayed {
            Ok(()) => settle(wire, shape, framed.close).await,
            // Nothing must make a response that was cut short look whole: no last chunk, no
            // close_notify.
            Err(_) => Ending::Abort,
        }
    }
}

/// A head that is the whole message.
fn whole(request_id: Option<&str>) -> ResponseTo<'_> {
    ResponseTo { version: Version::H11, close: false, chunked: false, request_id }
}

enum Step {
    Frame(Frame<Bytes>),
    /// Nothing more is there now: what has been gathered goes out.
    Flush,
    End,
}

/// Relays a body behind the head that stands in `out`. What is there together goes out together.
async fn relay_body<T: Transport, B>(
    wire: &Shared<T>,
    out: &mut Vec<u8>,
    body: &mut B,
    chunked: bool,
    (sent, shape): (&mut u64, &Shape),
) -> Result<(), Refusal>
where
    B: Body<Data = Bytes, Error = Refusal> + Unpin,
{
    loop {
        match next_step(wire, out, body).await? {
            Step::Flush => {
                write_and_flush(wire, out, shape.patience).await?;
                out.clear();
            }
            Step::Frame(frame) => match frame.into_data() {
                Ok(data) => {
                    *sent += data.len() as u64;
                    write_data(wire, out, data, chunked, shape.patience).await?;
                }
                Err(frame) => {
                    if let (true, Ok(trailers)) = (chunked, frame.into_trailers()) {
                        out.extend_from_slice(chunk::LAST);
                        screen::write_trailers(&trailers, out);
                        return write_and_flush(wire, out, shape.patience).await;
                    }
                }
            },
            Step::End => {
                if chunked {
                    out.extend_from_slice(chunk::LAST);
                    chunk::write_end(out); // No trailer.
                }
                return write_and_flush(wire, out, shape.patience).await;
            }
        }
    }
}

async fn next_step<T: Transport, B>(
    wire: &Shared<T>,
    out: &[u8],
    body: &mut B,
) -> Result<Step, Refusal>
where
    B: Body<Data = Bytes, Error = Refusal> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Step::End);
    }
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(Step::Frame(frame))),
        Poll::Ready(Some(Err(refusal))) => Poll::Ready(Err(refusal)),
        Poll::Ready(None) => Poll::Ready(Ok(Step::End)),
        Poll::Pending if !out.is_empty() => Poll::Ready(Ok(Step::Flush)),
        Poll::Pending => poll_client_gone(wire, cx).map(|()| Err(Refusal::ClientGone)),
    })
    .await
}

/// Gathers small pieces behind what stands in `out`; large ones go out without being copied.
async fn write_data<T: Transport>(
    wire: &Shared<T>,
    out: &mut Vec<u8>,
    mut data: Bytes,
    chunked: bool,
    patience: Duration,
) -> Result<(), Refusal> {
    if data.is_empty() {
        return Ok(()); // An empty chunk would end the body.
    }
    if chunked {
        chunk::write_size(out, data.len());
    }
    let room = buffers::BUFFER_BYTES.saturating_sub(out.len());
    if !out.is_empty() {
        out.extend_from_slice(&data.split_to(room.min(data.len())));
    }
    if !data.is_empty() {
        wire::write_all(wire, out, patience).await?;
        out.clear();
        wire::write_all(wire, &data, patience).await?;
    }
    if chunked {
        chunk::write_end(out);
    }
    Ok(())
}

async fn write_and_flush<T: Transport>(
    wire: &RefCell<Wire<T>>,
    bytes: &[u8],
    patience: Duration,
) -> Result<(), Refusal> {
    wire::write_all(wire, bytes, patience).await?;
    wire::flush(wire, patience).await
}

/// Whether another request may follow: the end of this one's body is in reach.
fn may_continue<T>(wire: &Shared<T>, shape: &Shape) -> bool {
    let wire = wire.borrow();
    match wire.body.left() {
        Some(0) => true,
        // A client told the end before it was told to go on may send the body or not.
        Some(_) if shape.expects_continue && wire.body.received == 0 => false,
        Some(left) => left <= DRAIN_BYTES_MAX,
        None => !shape.expects_continue,
    }
}

/// After a whole response: reads the rest of the request's body, where that is worth it.
async fn settle<T: Transport>(wire: &Shared<T>, shape: &Shape, close: bool) -> Ending {
    if close || wire.borrow().ended {
        return Ending::Close;
    }
    if wire.borrow().body.is_complete() {
        return Ending::Keep;
    }
    if !may_continue(wire, shape) {
        return Ending::Close;
    }
    let mut rest = RequestBody::new(wire.clone(), shape.policy.clone(), shape.patience);
    let end = wire.borrow().body.received + DRAIN_BYTES_MAX;
    loop {
        match poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await {
            None => return Ending::Keep,
            Some(Ok(_)) if wire.borrow().body.received <= end => {}
            Some(_) => return Ending::Close,
        }
    }
}

async fn refuse_head<T: Transport>(
    wire: &Shared<T>,
    patience: Duration,
    refusal: Refusal,
    request_id: &str,
) -> Ending {
    let mut out = output();
    Local::refusal(refusal, None, request_id).write_h1(&mut out, Version::H11, true, false);
    let written = write_and_flush(wire, &out, patience).await;
    output_done(out);
    if written.is_ok() { Ending::Close } else { Ending::Abort }
}
