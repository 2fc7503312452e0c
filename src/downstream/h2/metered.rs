//! A client's stream under the [`Meter`]: a client that floods is told so and heard no more.
//!
//! hyper has no way to end a connection with a reason of ours. So the flood ends, for hyper, with
//! the client's end of stream, at the end of a frame: it drops all streams, writes out what it has
//! begun, and shuts the stream down. Only there, where no frame can be cut, the reason goes out:
//! GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 6.8, 7).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;

/// GOAWAY without debug data: head, last stream, reason.
const GOAWAY_BYTES: usize = 17;

/// A frame's head, and the error code behind that of RST_STREAM (RFC 9113 4.1, 6.4).
const HEAD_BYTES: usize = 9;
const RESET_BYTES: usize = HEAD_BYTES + 4;
const RST_STREAM: u8 = 3;

/// How a connection's client behaves; shared between its stream and its responses.
#[derive(Debug, Default)]
pub struct Conduct {
    earned: Cell<u32>,
    flooded: Cell<bool>,
    malformed: Cell<u32>,
}

impl Conduct {
    /// A request is answered: a page's worth of priorities, window updates and probes is free.
    pub fn answered(&self) {
        self.earn(8);
    }

    /// The client takes a piece of a response: for each it may say that there is room again, on
    /// the stream and on the connection, and again for every half KiB.
    pub fn takes(&self, piece_bytes: usize) {
        self.earn(2 + u32::try_from(piece_bytes / 512).unwrap_or(u32::MAX - 2));
    }

    fn earn(&self, earned: u32) {
        self.earned.set(self.earned.get().saturating_add(earned));
    }

    /// How many of the client's messages h2 has found malformed since this was last asked.
    pub fn take_malformed(&self) -> u32 {
        self.malformed.take()
    }

    /// Whether the client is heard no more.
    pub fn flooded(&self) -> bool {
        self.flooded.get()
    }
}

/// Counts the streams that are reset with PROTOCOL_ERROR on the bytes as they go out. The edge
/// itself resets with other codes, so these are what h2 says of malformed messages (RFC 9113
/// 8.1.1); it tells nobody else.
#[derive(Debug, Default)]
struct Resets {
    head: [u8; RESET_BYTES],
    /// How much of the next head is there.
    head_bytes: usize,
    /// What is left of a payload.
    skip: usize,
}

impl Resets {
    fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let mut count = 0;
        loop {
            let payload = self.skip.min(bytes.len());
            self.skip -= payload;
            bytes = &bytes[payload..];
            let whole = if self.head_bytes < HEAD_BYTES { HEAD_BYTES } else { RESET_BYTES };
            let part = bytes.len().min(whole - self.head_bytes);
            self.head[self.head_bytes..][..part].copy_from_slice(&bytes[..part]);
            self.head_bytes += part;
            bytes = &bytes[part..];
            if self.head_bytes < whole {
                return count;
            }
            let [high, middle, low, kind, _flags, _, _, _, _, code @ ..] = self.head;
            if whole == HEAD_BYTES && kind == RST_STREAM {
                continue;
            }
            if whole == HEAD_BYTES {
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
            } else if u32::from_be_bytes(code) == u32::from(h2::Reason::PROTOCOL_ERROR) {
                count += 1;
            }
            self.head_bytes = 0;
        }
    }
}

/// A client's stream under its meter.
#[derive(Debug)]
pub struct Metered<T> {
    io: T,
    meter: Meter,
    resets: Resets,
    conduct: Rc<Conduct>,
    /// How much of the GOAWAY is written.
    told_bytes: usize,
}

impl<T> Metered<T> {
    /// Of a stream of which nothing was read.
    pub fn new(io: T, conduct: Rc<Conduct>) -> Metered<T> {
        let resets = Resets::default();
        Metered { io, meter: Meter::new(Instant::now()), resets, conduct, told_bytes: 0 }
    }

    /// How many of the bytes are to be passed on; all, where the client behaves.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(count) = self.meter.observe(&bytes[passed..]) {
            passed += count;
            self.meter.earn(self.conduct.earned.take());
            // The clock is asked once an allowance, not once a read.
            if !self.meter.renew(Instant::now()) {
                self.conduct.flooded.set(true);
                return passed;
            }
        }
        bytes.len()
    }

    /// Notes the first `count` bytes of what was written.
    fn written<'a>(&mut self, mut count: usize, slices: impl IntoIterator<Item = &'a [u8]>) {
        for slice in slices {
            let part = count.min(slice.len());
            let malformed = self.resets.count(&slice[..part]);
            self.conduct.malformed.set(self.conduct.malformed.get() + malformed);
            count -= part;
        }
    }

    fn goaway(&self) -> [u8; GOAWAY_BYTES] {
        let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        frame[9..13].copy_from_slice(&self.meter.last_stream().to_be_bytes());
        frame[13..].copy_from_slice(&u32::from(h2::Reason::ENHANCE_YOUR_CALM).to_be_bytes());
        frame
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.conduct.flooded() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        let passed = this.judge(&buffer.filled()[before..]);
        buffer.set_filled(before + passed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.written(count, [bytes]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.written(count, slices.iter().map(|slice| &**slice));
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.conduct.flooded() && this.told_bytes < GOAWAY_BYTES {
            let left = &this.goaway()[this.told_bytes..];
            let written = ready!(Pin::new(&mut this.io).poll_write(cx, left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.told_bytes += written;
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::meter::ALLOWANCE;
    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const HEADERS: [u8; 9] = [0, 0, 0, 1, 5, 0, 0, 0, 3];

    /// What comes through of `sent`, read in pieces of `piece` bytes, and what the client is told.
    async fn passed(sent: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut client, edge) = tokio::io::duplex(sent.len());
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut metered = Metered::new(edge, Rc::default());
        let mut passed = Vec::new();
        let mut buffer = vec![0; piece];
        loop {
            match metered.read(&mut buffer).await.unwrap() {
                0 => break,
                count => passed.extend_from_slice(&buffer[..count]),
            }
        }
        metered.shutdown().await.unwrap();
        drop(metered);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        (passed, told)
    }

    #[test]
    fn resets_for_malformed_messages_are_counted_wherever_the_bytes_are_cut() {
        let reset = |code: u8| [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, code];
        // The payload of the first looks like the head of a reset.
        let data = [&[0, 0, 13, 0, 0, 0, 0, 0, 1][..], &reset(1)].concat();
        let bytes = [&data[..], &reset(1), &reset(8), &HEADERS, &reset(1)].concat();
        for cut in 0..=bytes.len() {
            let mut resets = Resets::default();
            assert_eq!(resets.count(&bytes[..cut]) + resets.count(&bytes[cut..]), 2, "at {cut}");
        }
    }

    #[tokio::test]
    async fn a_flood_ends_at_the_end_of_a_frame_and_is_answered() {
        let mut sent = [0; 24].to_vec();
        sent.extend(HEADERS);
        sent.extend(PING.repeat(ALLOWANCE as usize + 100));
        let whole = 24 + HEADERS.len() + PING.len() * (ALLOWANCE as usize + 1);
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 11];
        for piece in [1, 2, 9, 17, 18, 4096, sent.len()] {
            let (passed, told) = passed(&sent, piece).await;
            assert!(passed == sent[..whole], "in pieces of {piece}: {} bytes", passed.len());
            assert_eq!(told, goaway);
        }
    }

    #[tokio::test]
    async fn a_client_that_behaves_is_read_to_its_end_and_told_nothing() {
        let mut sent = [0; 24].to_vec();
        sent.extend(PING.repeat(ALLOWANCE as usize));
        sent.extend(HEADERS.repeat(10_000));
        for piece in [7, 4096] {
            assert!(passed(&sent, piece).await == (sent.clone(), Vec::new()));
        }
    }
}
