//! A request's body on its way to the endpoint: while it is, the client sets the pace.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::admission::{Paced, Permit};
use crate::refusal::Refusal;

/// The body, and that the site's gate counts its request as one that waits for its client. It does
/// so until the body's end, or until nobody wants it any more.
pub(super) struct Upload<B> {
    body: B,
    paced: Option<Paced>,
}

impl<B: Body<Data = Bytes, Error = Refusal> + Unpin> Upload<B> {
    pub(super) fn new(body: B) -> Upload<B> {
        Upload { body, paced: None }
    }

    /// The request has its place at the endpoints; whoever has a body still has to send it.
    pub(super) fn begins(&mut self, permit: &Permit) {
        self.paced = (!self.body.is_end_stream()).then(|| permit.waits_for_client());
    }
}

impl<B: Body<Data = Bytes, Error = Refusal> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || self.body.is_end_stream() {
            self.paced = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
