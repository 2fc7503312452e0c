//! One request and its answer over an HTTP/1.1 connection.
//!
//! The canonical head and the first piece of the body leave in one write. While the rest of the
//! body is sent the answer is watched for: an endpoint may answer early. An exchange owns its
//! connection; dropped before both messages ended, it closes it. It holds a read buffer only while
//! there is something to read, and waits for one thing at a time under the connection's deadline.
//!
//! States of the request body ([`Upload`]): *awaiting* (`Expect: 100-continue`, for
//! [`CONTINUE_PATIENCE`](super::CONTINUE_PATIENCE) at most), *sending*, then *done*, or *abandoned* where the endpoint stopped
//! reading; what it answers nevertheless is still relayed, but its connection ends.

use std::future::poll_fn;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::client::Client;
use super::endpoint::Load;
use super::output::Output;
use super::patience::{Patience, Waits};
use super::pool::Connection;
use super::retry::Stage;
use super::{Broken, ClientBody, Outgoing};
use crate::buffers::{self, BUFFER_BYTES};
use crate::heads;
use crate::refusal::Refusal;
use crate::screen::{self, Finding, Framing, Reading, ResponseHead, Rule, Scan, Screened};

/// Interim responses to one request.
pub const INTERIM_MAX: u32 = 32;

/// The read buffer of a response that fills the first one.
const GROWN_BYTES: usize = 4 * BUFFER_BYTES;

/// Where in its first page a grown buffer is filled from.
const LEAD_BYTES: usize = PAGE_BYTES / 2;
const PAGE_BYTES: usize = 4 * 1024;

/// A read into less room than this is not worth its system call.
const ROOM_BYTES_MIN: usize = BUFFER_BYTES / 4;

/// A request on its way and what came back so far.
pub(super) struct Exchange {
    pub(super) client: Rc<Client>,
    pub(super) connection: Connection,
    pub(super) load: Load,
    pub(super) input: Input,
    output: Output,
    upload: Upload,
    patience: Patience,
    /// The endpoint will take another request on this connection.
    pub(super) persistent: bool,
    /// A byte of the body was taken from the client.
    pub(super) body_consumed: bool,
    /// A byte came back.
    answered: bool,
}

/// Where the request body stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Upload {
    /// Held back until the endpoint asks for it.
    Awaiting(Sending),
    Sending(Sending),
    Done,
    Abandoned,
}

/// What a look at the bytes that came gives.
enum Heard {
    Nothing,
    Interim(ResponseHead),
    Final(ResponseHead),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sending {
    /// So many bytes are to come.
    Length(u64),
    Chunked,
}

impl Exchange {
    /// Lays the request out to be sent; nothing is sent yet.
    pub(super) fn new(
        client: Rc<Client>,
        connection: Connection,
        load: Load,
        request: &Outgoing<'_>,
        now: Instant,
    ) -> Exchange {
        let mut head = client.spare_text();
        request.head.write_h1(&mut head, request.forward);
        let sending = match request.head.framing() {
            Framing::None => None,
            Framing::Length(0) => None,
            Framing::Length(length) => Some(Sending::Length(length)),
            // The body of a request has an end; HTTP/2 shows it without a length.
            Framing::Chunked | Framing::Stream | Framing::UntilClose => Some(Sending::Chunked),
        };
        let upload = match sending {
            None => Upload::Done,
            Some(sending) if request.head.expects_continue() => Upload::Awaiting(sending),
            Some(sending) => Upload::Sending(sending),
        };
        Exchange {
            client,
            connection,
            load,
            input: Input::default(),
            output: Output::new(head),
            upload,
            patience: Patience::new(request.timeouts, now),
            persistent: false,
            body_consumed: false,
            answered: false,
        }
    }

    /// Sends the request and reads heads until the final one. On return `input` stands at the
    /// response body. *Cancel safety*: dropping the future leaves the exchange in mid-air, which
    /// must be dropped then too.
    pub(super) async fn answer<I>(
        &mut self,
        request: &Outgoing<'_>,
        body: &mut ClientBody<'_>,
        interim: &mut I,
    ) -> Result<Screened<ResponseHead>, Broken>
    where
        I: AsyncFnMut(ResponseHead) -> Result<(), Refusal>,
    {
        let (mut scan, mut findings, mut interims) = (Scan::default(), Vec::new(), 0);
        let mut persistent = true;
        loop {
            let filled = poll_fn(|cx| self.poll_answer(cx, body)).await;
            if let Err(refusal) = filled {
                return Err(Broken::new(refusal, findings));
            }
            loop {
                let head = match self.next_head(request, &mut scan, &mut findings)? {
                    Heard::Nothing => break,
                    Heard::Final(head) => {
                        self.persistent &= persistent;
                        return Ok(Screened { head, findings });
                    }
                    Heard::Interim(head) => head,
                };
                // What an interim head says of the connection holds for it as well.
                persistent &= head.persistent();
                interims += 1;
                if interims > INTERIM_MAX {
                    let told = format!("{interims} interim responses");
                    findings.push(Finding::refusal(Rule::Oversize, "", told.as_bytes()));
                    return Err(Broken::new(Refusal::UpstreamHeadMalformed, findings));
                }
                // Boxed: most requests have no interim answer, and need no room for one.
                if let Err(refusal) = Box::pin(interim(head)).await {
                    return Err(Broken::new(refusal, findings));
                }
                self.patience.progressed();
            }
        }
    }

    /// The next complete head of `input`, if there is one; what is odd about it goes to `findings`.
    fn next_head(
        &mut self,
        request: &Outgoing<'_>,
        scan: &mut Scan,
        findings: &mut Vec<Finding>,
    ) -> Result<Heard, Broken> {
        let method = request.head.request_method();
        let storage = heads::take();
        match screen::response(&self.input, scan, request.policy, method, storage) {
            Ok(Reading::Partial(storage)) => {
                heads::give_back(storage);
                Ok(Heard::Nothing)
            }
            Ok(Reading::Complete { screened, consumed }) => {
                self.input.advance(consumed);
                *scan = Scan::default();
                let Screened { head, findings: found } = screened;
                findings.extend(found);
                if head.status() == 100 {
                    self.upload = self.upload.asked_for();
                }
                if head.is_interim() && head.status() != 101 {
                    return Ok(Heard::Interim(head));
                }
                self.persistent = head.persistent();
                Ok(Heard::Final(head))
            }
            Err(refused) => {
                let refused = *refused;
                findings.extend(refused.findings);
                heads::give_back(refused.storage);
                let findings = std::mem::take(findings);
                Err(Broken {
                    start_line: refused.start_line,
                    ..Broken::new(refused.reason, findings)
                })
            }
        }
    }

    /// Ready once more of the answer has come.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut ClientBody<'_>,
    ) -> Poll<Result<(), Refusal>> {
        loop {
            let uploaded = self.poll_upload(cx, body);
            if let Poll::Ready(Err(refusal)) = uploaded {
                return Poll::Ready(Err(refusal));
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Refusal::UpstreamClosed)),
                Poll::Pending => {}
            }
            let waits = match self.upload {
                _ if !self.output.is_empty() => Waits::Writing,
                Upload::Awaiting(_) => Waits::Continue,
                Upload::Sending(_) => Waits::Nothing,
                Upload::Done | Upload::Abandoned => Waits::Answer,
            };
            ready!(self.poll_exhausted(cx, waits));
            if waits != Waits::Continue {
                return Poll::Ready(Err(Refusal::UpstreamTimeout));
            }
            self.upload = self.upload.asked_for();
        }
    }

    /// Ready once the next piece of the response body is in `input`; `false` is its end.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Refusal>> {
        match self.poll_fill(cx) {
            Poll::Ready(Ok(count)) => Poll::Ready(Ok(count > 0)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Refusal::UpstreamClosed)),
            Poll::Pending => {
                ready!(self.poll_exhausted(cx, Waits::Piece));
                Poll::Ready(Err(Refusal::UpstreamBodyTimeout))
            }
        }
    }

    /// Sends what can be sent now. Ready once nothing is left to send, or the body is awaited.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut ClientBody<'_>,
    ) -> Poll<Result<(), Refusal>> {
        loop {
            let Upload::Sending(sending) = self.upload else {
                return self.poll_flush(cx).map(Ok);
            };
            // A piece is asked for before the head is flushed, so that both leave together.
            if self.output.takes_piece() {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => {
                        ready!(self.poll_flush(cx));
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Err(refusal))) => return Poll::Ready(Err(refusal)),
                    Poll::Ready(Some(Ok(frame))) => {
                        self.upload = match sending {
                            Sending::Length(left) => self.take_counted(frame, left)?,
                            Sending::Chunked => self.take_chunk(frame),
                        };
                    }
                    Poll::Ready(None) => {
                        self.upload = match sending {
                            Sending::Length(_) => return Poll::Ready(Err(Refusal::BodyMalformed)),
                            Sending::Chunked => {
                                self.output.push_last_chunk();
                                Upload::Done
                            }
                        };
                    }
                }
            }
            ready!(self.poll_flush(cx));
        }
    }

    fn take_counted(
        &mut self,
        frame: http_body::Frame<bytes::Bytes>,
        left: u64,
    ) -> Result<Upload, Refusal> {
        // Trailers have no place in a counted body; they are dropped (RFC 9110 6.5.1).
        let Ok(data) = frame.into_data() else { return Ok(Upload::Sending(Sending::Length(left))) };
        self.body_consumed |= !data.is_empty();
        let left = left.checked_sub(data.len() as u64).ok_or(Refusal::BodyMalformed)?;
        self.output.push(data);
        Ok(if left == 0 { Upload::Done } else { Upload::Sending(Sending::Length(left)) })
    }

    fn take_chunk(&mut self, frame: http_body::Frame<bytes::Bytes>) -> Upload {
        match frame.into_data() {
            Ok(data) => {
                self.body_consumed |= !data.is_empty();
                self.output.push_chunk(data);
                Upload::Sending(Sending::Chunked)
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.output.push_trailers(&trailers);
                }
                Upload::Done
            }
        }
    }

    /// Ready once all output has left, or nobody takes it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.output.is_empty() {
            let written = ready!(self.output.poll_write(&mut self.connection.stream, cx));
            self.patience.progressed();
            if written.is_err() {
                // It may have answered before it closed: the reader finds out.
                self.output.clear();
                self.upload = Upload::Abandoned;
            }
        }
        if matches!(self.upload, Upload::Done | Upload::Abandoned) {
            self.client.recycle_text(self.output.take_spare());
        }
        Poll::Ready(())
    }

    /// Reads once; 0 is the end of the stream. Holds no buffer while pending.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.input.is_held() {
            ready!(self.connection.stream.poll_readable(cx))?;
        }
        let room = self.input.make_room();
        let mut input = (&mut *self.input).limit(room);
        let polled = pin!(self.connection.stream.read_buf(&mut input)).poll(cx);
        match polled {
            Poll::Ready(Ok(count)) => {
                self.patience.progressed();
                self.input.grown |= count == room;
                self.answered |= count > 0;
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if self.input.is_empty() {
                    self.input.let_go();
                }
                Poll::Pending
            }
        }
    }

    fn poll_exhausted(&mut self, cx: &mut Context<'_>, waits: Waits) -> Poll<()> {
        self.patience.poll_exhausted(&self.connection.deadline, waits, cx)
    }

    /// How far the exchange came, where it failed.
    pub(super) fn stage(&self) -> Stage {
        match self.answered {
            true => Stage::Answered,
            false if self.connection.reused => Stage::SentReused,
            false => Stage::SentFresh,
        }
    }

    /// All of the request was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.upload == Upload::Done && self.output.is_empty()
    }

    /// The request body is to be read on while the response is.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.upload, Upload::Sending(_)) || !self.output.is_empty()
    }

    /// The response has ended: the connection is kept where both messages ended cleanly. Bytes
    /// after the response's end are told; they belong to nobody. The read buffer is handed out,
    /// since a piece of the body may still stand in it.
    pub(super) fn finish(self) -> (Input, Option<Finding>) {
        let leftover = (!self.input.is_empty())
            .then(|| Finding::of_content(Rule::BodyForbidden, self.input.len()));
        if leftover.is_none() && self.persistent && self.is_sent() {
            self.client.keep(self.connection);
        }
        (self.input, leftover)
    }
}

impl Upload {
    /// The endpoint asked for the body, or was waited for long enough.
    fn asked_for(self) -> Upload {
        match self {
            Upload::Awaiting(sending) => Upload::Sending(sending),
            Upload::Sending(_) | Upload::Done | Upload::Abandoned => self,
        }
    }
}

/// Bytes read and not yet consumed, in a buffer borrowed from the thread's; given back when
/// dropped.
#[derive(Default)]
pub(super) struct Input {
    buffer: BytesMut,
    held: bool,
    /// A read filled all room: the next buffer is a larger one.
    grown: bool,
}

impl Input {
    fn is_held(&self) -> bool {
        self.held
    }

    /// Makes room for a read that is worth its system call, in place where nobody reads from the
    /// buffer any more. Gives how much may be read.
    fn make_room(&mut self) -> usize {
        let size = if self.grown { GROWN_BYTES } else { BUFFER_BYTES };
        if !self.held {
            self.buffer = match self.grown {
                true => BytesMut::with_capacity(size + LEAD_BYTES),
                false => buffers::take(),
            };
            self.held = true;
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if room < size && !self.buffer.try_reclaim(size) && room < ROOM_BYTES_MIN {
            self.buffer.reserve(size);
        }
        if self.grown {
            lead(&mut self.buffer, size);
        }
        size.min(self.buffer.capacity() - self.buffer.len())
    }

    fn let_go(&mut self) {
        if self.held && !self.grown {
            buffers::give_back(&mut self.buffer);
        }
        self.buffer = BytesMut::new();
        self.held = false;
    }
}

/// Lets what is read into an empty buffer begin in the middle of a page. Large buffers begin where a
/// page does, and so do the records that the TLS library copies the body into: then each byte is
/// read and written at nearly the same place of a page, which some processors take for the same
/// place altogether (4K aliasing; AMD's `rep movsb` is five times slower for it).
fn lead(buffer: &mut BytesMut, size: usize) {
    let begins = buffer.as_ptr().addr() % PAGE_BYTES < LEAD_BYTES;
    if begins && buffer.is_empty() && buffer.capacity() >= size + LEAD_BYTES {
        buffer.resize(LEAD_BYTES, 0);
        buffer.advance(LEAD_BYTES);
    }
}

impl Deref for Input {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.buffer
    }
}

impl DerefMut for Input {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The raw connection after `101 Switching Protocols`. Dropping it closes the connection.
pub struct UpgradedIo {
    /// What the endpoint sent behind its head.
    leftover: BytesMut,
    connection: Connection,
    /// The endpoint stays loaded by it.
    _load: Load,
}

impl UpgradedIo {
    pub(super) fn new(exchange: Exchange) -> UpgradedIo {
        exchange.connection.deadline.rest();
        let leftover = BytesMut::from(&exchange.input[..]);
        UpgradedIo { leftover, connection: exchange.connection, _load: exchange.load }
    }
}

impl AsyncRead for UpgradedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.leftover.is_empty() {
            return Pin::new(&mut self.connection.stream).poll_read(cx, buffer);
        }
        let count = self.leftover.len().min(buffer.remaining());
        buffer.put_slice(&self.leftover.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UpgradedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection.stream).poll_shutdown(cx)
    }
}
