//! Counts the HTTP/2 frames by which a client makes work and gets nothing done (RFC 9113 10.5).
//!
//! h2 bounds what would take memory: header blocks, CONTINUATION, small and empty DATA, resets
//! before a stream is accepted, stream errors. It takes any number of PING, SETTINGS, PRIORITY,
//! WINDOW_UPDATE and unknown frames, and of streams that are opened and reset. They are counted
//! here, on the decrypted bytes as they pass: the nine octets of each frame's head are looked at,
//! the payload is skipped. An allowance is granted for a period; answers earn it back, so that what
//! a client needs in order to take a response never counts against it. Pure.

use std::time::{Duration, Instant};

/// What a client may spend in a period beyond what answers earn. A browser spends a few dozen on a
/// page. 100 a second cost the edge less than one request a second does.
pub const ALLOWANCE: u32 = 1_000;

/// How long an allowance is for.
pub const PERIOD: Duration = Duration::from_secs(10);

/// A reset throws work away that was begun: 250 in a period where nothing is answered. A browser
/// that leaves a page resets what is open, which is bounded by the open streams.
const RESET_COST: u32 = 4;

/// The client's first octets (RFC 9113 3.4); no frame.
const PREFACE_BYTES: usize = 24;

/// A frame's head: length, type, flags, stream (RFC 9113 4.1).
const HEAD_BYTES: usize = 9;

// Frame types (RFC 9113 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// One connection's meter.
#[derive(Debug)]
pub struct Meter {
    head: [u8; HEAD_BYTES],
    /// How much of the next head is there.
    head_bytes: usize,
    /// What is left of the preface or of a payload.
    skip: usize,
    spent: u32,
    granted: Instant,
    last_stream: u32,
}

impl Meter {
    /// For a connection of which nothing was read.
    pub fn new(now: Instant) -> Meter {
        Meter {
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            skip: PREFACE_BYTES,
            spent: 0,
            granted: now,
            last_stream: 0,
        }
    }

    /// Takes note of what came. Where the allowance is spent it stops at the end of a frame and
    /// tells how many of the bytes that was; the rest is to be passed again, if at all.
    pub fn observe(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.skip == 0 {
                let part = &bytes[at..bytes.len().min(at + HEAD_BYTES - self.head_bytes)];
                self.head[self.head_bytes..][..part.len()].copy_from_slice(part);
                self.head_bytes += part.len();
                at += part.len();
                if self.head_bytes < HEAD_BYTES {
                    return None;
                }
                self.head_bytes = 0;
                self.frame();
            }
            let payload = self.skip.min(bytes.len() - at);
            self.skip -= payload;
            at += payload;
            if self.skip == 0 && self.spent > ALLOWANCE {
                return Some(at);
            }
        }
        None
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, _flags, stream @ ..] = self.head;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        let cost = match kind {
            DATA => 0, // Bounded by flow control, and by h2 where it is small or empty.
            HEADERS => {
                self.last_stream = self.last_stream.max(u32::from_be_bytes(stream) & !(1 << 31));
                0
            }
            RST_STREAM => RESET_COST,
            _ => 1,
        };
        self.spent = self.spent.saturating_add(cost);
    }

    /// Gives back what answers have earned.
    pub fn earn(&mut self, earned: u32) {
        self.spent = self.spent.saturating_sub(earned);
    }

    /// Whether the client may go on: it has allowance left, or a new one is due.
    pub fn renew(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.granted) >= PERIOD {
            self.granted = now;
            self.spent = 0;
        }
        self.spent <= ALLOWANCE
    }

    /// The highest stream that the client has opened.
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn preface() -> Vec<u8> {
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
    }

    /// What is spent on these frames, and the last stream; the same however they are cut.
    #[track_caller]
    fn check(frames: &[Vec<u8>], spent: u32, last_stream: u32) {
        let bytes = [preface(), frames.concat()].concat();
        for cut in 0..bytes.len() {
            let mut meter = Meter::new(Instant::now());
            assert_eq!(meter.observe(&bytes[..cut]), None);
            assert_eq!(meter.observe(&bytes[cut..]), None);
            assert_eq!((meter.spent, meter.last_stream()), (spent, last_stream), "cut at {cut}");
            assert_eq!((meter.skip, meter.head_bytes), (0, 0), "at the end of a frame");
        }
    }

    #[test]
    fn control_frames_cost_one_and_resets_more() {
        check(&[], 0, 0);
        for kind in [2, 4, PING, 7, 8, 9, 16, 255] {
            check(&[frame(kind, 0, &[0; 8])], 1, 0);
        }
        check(&[frame(RST_STREAM, 1, &[0; 4])], RESET_COST, 0);
    }

    #[test]
    fn requests_and_their_bodies_cost_nothing() {
        check(&[frame(HEADERS, 1, b"head"), frame(DATA, 1, &[PING; 40])], 0, 1);
        check(&[frame(HEADERS, 7, b""), frame(HEADERS, 5, b""), frame(DATA, 9, b"")], 0, 7);
    }

    #[test]
    fn the_reserved_bit_is_no_part_of_the_stream() {
        check(&[frame(HEADERS, 3 | 1 << 31, b"head")], 0, 3);
    }

    /// The edge of the allowance, and that no frame is cut: the answer is the end of one.
    #[test]
    fn one_frame_past_the_allowance_is_told_at_its_end() {
        let ping = frame(PING, 0, &[6; 8]);
        let within = [preface(), ping.repeat(ALLOWANCE as usize)].concat();
        for cut in 0..ping.len() {
            let mut meter = Meter::new(Instant::now());
            assert_eq!(meter.observe(&within), None);
            assert_eq!(meter.observe(&ping[..cut]), None);
            let rest = [&ping[cut..], &ping[..]].concat();
            assert_eq!(meter.observe(&rest), Some(ping.len() - cut));
        }
    }

    #[test]
    fn an_allowance_is_for_its_period() {
        let begun = Instant::now();
        let mut meter = Meter::new(begun);
        let flood = frame(PING, 0, &[0; 8]).repeat(ALLOWANCE as usize + 1);
        assert!(meter.observe(&[preface(), flood.clone()].concat()).is_some());
        assert!(!meter.renew(begun + PERIOD - Duration::from_nanos(1)));
        assert!(meter.renew(begun + PERIOD));
        assert!(meter.observe(&flood).is_some());
        assert!(!meter.renew(begun + PERIOD * 2 - Duration::from_nanos(1)));
    }

    #[test]
    fn answers_earn_allowance_but_none_in_advance() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        meter.earn(1_000_000);
        let flood = frame(PING, 0, &[0; 8]).repeat(ALLOWANCE as usize + 1);
        assert!(meter.observe(&[preface(), flood].concat()).is_some());
        assert!(!meter.renew(now));
        meter.earn(1);
        assert!(meter.renew(now));
    }
}
