//! What is to be written next on an HTTP/1 connection: a head, a piece of the body, or both in one
//! write.
//!
//! A piece stands between two texts: what comes before it (the head, a chunk's size) and what comes
//! after (a chunk's end). It is not copied. One piece at a time: a new one is taken only once the
//! last one has left, which is the backpressure towards the client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::AsyncWrite;

use super::connect::Stream;
use crate::screen;

/// Output on its way.
#[derive(Default)]
pub(super) struct Output {
    before: Vec<u8>,
    piece: Bytes,
    after: &'static [u8],
    /// So many bytes of the three together have left.
    written: usize,
}

impl Output {
    pub(super) fn new(head: Vec<u8>) -> Output {
        Output { before: head, ..Output::default() }
    }

    /// Nothing is left to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.takes_piece()
    }

    /// Whether a piece may be pushed.
    pub(super) fn takes_piece(&self) -> bool {
        self.piece.is_empty() && self.after.is_empty()
    }

    /// A piece of a counted body.
    pub(super) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.takes_piece());
        self.piece = piece;
    }

    /// A piece of a chunked body; an empty one is left out, since it would end the body.
    pub(super) fn push_chunk(&mut self, piece: Bytes) {
        debug_assert!(self.takes_piece());
        if piece.is_empty() {
            return;
        }
        screen::chunk::write_size(&mut self.before, piece.len());
        self.piece = piece;
        self.after = b"\r\n";
    }

    /// The end of a chunked body.
    pub(super) fn push_last_chunk(&mut self) {
        self.before.extend_from_slice(b"0\r\n\r\n");
    }

    /// The end of a chunked body, with trailers, which were screened where they were read.
    pub(super) fn push_trailers(&mut self, trailers: &HeaderMap) {
        self.before.extend_from_slice(b"0\r\n");
        screen::write_trailers(trailers, &mut self.before);
    }

    /// Writes once. Empty once everything has left.
    pub(super) fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let total = self.before.len() + self.piece.len() + self.after.len();
        if self.written < total {
            let count = ready!(self.poll_write_some(stream, cx))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        if self.written == total {
            if stream.needs_flush() {
                ready!(Pin::new(stream).poll_flush(cx))?;
            }
            self.clear();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some(
        &self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.takes_piece() {
            return Pin::new(stream).poll_write(cx, &self.before[self.written..]);
        }
        let mut slices =
            [IoSlice::new(&self.before), IoSlice::new(&self.piece), IoSlice::new(self.after)];
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, self.written);
        Pin::new(stream).poll_write_vectored(cx, left)
    }

    /// Throws away what is left, or forgets what has left.
    pub(super) fn clear(&mut self) {
        self.before.clear();
        self.piece = Bytes::new();
        self.after = b"";
        self.written = 0;
    }

    /// The memory of the text, to be used by another exchange.
    pub(super) fn take_spare(&mut self) -> Vec<u8> {
        debug_assert!(self.is_empty());
        std::mem::take(&mut self.before)
    }
}
