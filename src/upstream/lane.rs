//! A request body on its way from the request's task to the HTTP/2 connection's.
//!
//! The request's task polls the client, and it alone: a socket remembers one reader. What it gets it
//! puts into the [`Lane`], one frame at a time, which is the backpressure towards the client.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::ClientBody;
use super::patience::{Patience, Waits};
use crate::refusal::Refusal;
use crate::screen::Framing;

/// A place for one frame between the request's task and the connection's.
#[derive(Default)]
struct Lane {
    frame: Option<Frame<Bytes>>,
    /// Nothing comes after `frame`.
    ended: bool,
    /// The client's body failed, or nobody wants the response any more.
    broken: bool,
    /// hyper does not read on.
    closed: bool,
    taker: Option<Waker>,
    giver: Option<Waker>,
}

/// The connection's end of the lane.
pub(super) struct Upload(Rc<RefCell<Lane>>);

/// The request's end of the lane. Dropped before the body's end, it resets the stream.
pub(super) struct Pump {
    lane: Rc<RefCell<Lane>>,
    /// Payload bytes to come, where the head announced how many.
    left: Option<u64>,
    waits: Waits,
    /// A byte of the body was taken from the client.
    pub(super) consumed: bool,
}

impl Pump {
    pub(super) fn new(framing: Framing) -> (Pump, Upload) {
        let (ended, left) = match framing {
            Framing::None | Framing::Length(0) => (true, Some(0)),
            Framing::Length(length) => (false, Some(length)),
            Framing::Chunked | Framing::Stream | Framing::UntilClose => (false, None),
        };
        let lane = Rc::new(RefCell::new(Lane { ended, ..Lane::default() }));
        let pump = Pump { lane: lane.clone(), left, waits: Waits::Answer, consumed: false };
        (pump, Upload(lane))
    }

    pub(super) fn is_done(&self) -> bool {
        let lane = self.lane.borrow();
        lane.closed || (lane.ended && lane.frame.is_none())
    }

    pub(super) fn waits(&self) -> Waits {
        self.waits
    }

    /// Hands frames over as they come. Ready once there are no more, or nobody takes them.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut ClientBody<'_>,
        patience: &mut Patience,
    ) -> Poll<Result<(), Refusal>> {
        while !self.is_done() {
            if self.lane.borrow().frame.is_some() {
                self.waits = Waits::Writing;
                self.lane.borrow_mut().giver = Some(cx.waker().clone());
                return Poll::Pending;
            }
            self.waits = Waits::Nothing;
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()?;
            patience.progressed();
            self.give(frame)?;
        }
        self.waits = Waits::Answer;
        Poll::Ready(Ok(()))
    }

    fn give(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), Refusal> {
        let count = frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        self.consumed |= count > 0;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(count).ok_or(Refusal::BodyMalformed)?;
            if frame.is_none() && *left > 0 {
                return Err(Refusal::BodyMalformed);
            }
        }
        let mut lane = self.lane.borrow_mut();
        let is_last = frame.as_ref().is_none_or(Frame::is_trailers);
        lane.ended = is_last || self.left == Some(0);
        lane.frame = frame;
        if let Some(taker) = lane.taker.take() {
            taker.wake();
        }
        Ok(())
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let mut lane = self.lane.borrow_mut();
        lane.broken = !lane.ended;
        if let Some(taker) = lane.taker.take() {
            taker.wake();
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut lane = self.0.borrow_mut();
        lane.closed = true;
        if let Some(giver) = lane.giver.take() {
            giver.wake();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let mut lane = self.0.borrow_mut();
        if let Some(frame) = lane.frame.take() {
            if let Some(giver) = lane.giver.take() {
                giver.wake();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        if lane.broken {
            return Poll::Ready(Some(Err(Refusal::ClientGone)));
        }
        if lane.ended {
            return Poll::Ready(None);
        }
        lane.taker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let lane = self.0.borrow();
        lane.ended && lane.frame.is_none()
    }
}
