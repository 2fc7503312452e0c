//! Classes of bytes (RFC 9110 5.6.2, 5.5): what may stand in a name, what a value may hold.
//!
//! Most bytes are looked at sixteen at a time; what is rare, or too short for that, one by one.

use wide::u8x16;

/// Bytes that are looked at together.
pub(super) const BLOCK: usize = 16;

/// Each tchar's lower case; 0 for every byte that may not stand in a token.
pub(super) const LOWER: [u8; 256] = lower_case_of_tchars();

const fn lower_case_of_tchars() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() {
            table[byte] = b.to_ascii_lowercase();
        }
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = others[at];
        at += 1;
    }
    table
}

/// Whether the byte may stand in a token.
pub(super) fn is_tchar(byte: u8) -> bool {
    LOWER[usize::from(byte)] != 0
}

/// Of each byte whether it is from `first` to `last`.
fn within(block: u8x16, first: u8, last: u8) -> u8x16 {
    block.max(u8x16::splat(first)).min(u8x16::splat(last)).simd_eq(block)
}

/// How many bytes from the start hold.
fn run(holds: u8x16) -> usize {
    (!holds.to_bitmask()).trailing_zeros() as usize
}

/// How many bytes from the start are tchars.
pub(super) fn token_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    // Nearly all names are letters, digits and hyphens.
    for block in bytes.as_chunks::<BLOCK>().0 {
        let block = u8x16::from(*block);
        let letters = within(block | u8x16::splat(0x20), b'a', b'z');
        let hyphens = block.simd_eq(u8x16::splat(b'-'));
        let common = run(letters | within(block, b'0', b'9') | hyphens);
        len += common;
        if common < BLOCK {
            break;
        }
    }
    let rest = &bytes[len..];
    len + rest.iter().position(|b| !is_tchar(*b)).unwrap_or(rest.len())
}

/// How many bytes from the start are SP or VCHAR.
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for (at, block) in blocks.iter().enumerate() {
        let plain = run(within(u8x16::from(*block), b' ', b'~'));
        if plain < BLOCK {
            return at * BLOCK + plain;
        }
    }
    let plain = rest.iter().position(|b| !(b' '..=b'~').contains(b)).unwrap_or(rest.len());
    blocks.len() * BLOCK + plain
}

/// The front of a line that begins with a name of `len` bytes, 1 to 16: the same with the name in
/// lower case, and the name alone, zeros behind.
pub(super) fn lower_front(front: &[u8; BLOCK], len: usize) -> ([u8; BLOCK], [u8; BLOCK]) {
    let front = u8x16::from(*front);
    let places = u8x16::from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    let name = within(places, 0, (len - 1) as u8);
    let lower = front | within(front, b'A', b'Z') & u8x16::splat(0x20);
    (name.bitselect(lower, front).to_array(), (name & lower).to_array())
}

/// `token`: one tchar or more.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token_len(bytes) == bytes.len()
}

/// Whether every byte is SP or VCHAR. A tab, allowed in values, is left to the careful path.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    all_within::<0x20>(bytes)
}

/// VCHAR only: what may stand in a request target.
pub(super) fn is_visible(bytes: &[u8]) -> bool {
    all_within::<0x21>(bytes)
}

/// One in each byte of a word.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Whether every byte is from `FIRST` to 0x7E, eight bytes at a time.
fn all_within<const FIRST: u8>(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    if words.iter().any(|word| has_odd::<FIRST>(*word)) {
        return false;
    }
    match bytes.last_chunk::<8>() {
        // The last eight bytes once more cost less than up to seven single ones.
        Some(last) => !has_odd::<FIRST>(*last),
        None => rest.iter().all(|b| (FIRST..=0x7e).contains(b)),
    }
}

/// Whether a byte is below `FIRST` or above 0x7E: each leaves the high bit of some byte set. A
/// borrow or carry into a neighbour comes only from a byte that is odd itself.
fn has_odd<const FIRST: u8>(word: [u8; 8]) -> bool {
    let word = u64::from_le_bytes(word);
    let below = word.wrapping_sub(EACH * u64::from(FIRST));
    let above = word.wrapping_add(EACH);
    (word | below | above) & (EACH << 7) != 0
}

/// A control byte that no value may hold: all of CTL but HTAB.
pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// OWS: blank or tab.
pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// The bytes without OWS at both ends.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_blank(*last)
    {
        bytes = rest;
    }
    bytes
}

/// Whether `bytes` read as `name` (lower case) once every byte that is no tchar is left out, up to
/// a byte that ends it. So `Transfer-\0Encoding`, `Host ` and `content-length x` are found;
/// `Hostile` is not `host`.
pub(super) fn imitates(bytes: &[u8], name: &[u8]) -> bool {
    let mut wanted = name.iter();
    let mut rest = bytes.iter();
    while let Some(want) = wanted.next() {
        loop {
            match rest.next().map(|b| LOWER[usize::from(*b)]) {
                None => return false,
                Some(0) => {}
                Some(lower) if lower == *want => break,
                Some(_) => return false,
            }
        }
        if wanted.len() == 0 {
            break;
        }
    }
    rest.next().is_none_or(|b| !is_tchar(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_trimmed_at_both_ends_only() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b" \t "), b"");
    }

    #[test]
    fn imitations_are_told_from_longer_words() {
        for (bytes, name, expected) in [
            (&b"Host"[..], &b"host"[..], true),
            (b"Host ", b"host", true),
            (b"\x0bH\0ost: x", b"host", true),
            (b"Hostile", b"host", false),
            (b"Content-Length x", b"content-length", true),
            (b"Content-Lengthy", b"content-length", false),
            (b"Ho", b"host", false),
            (b"Transfer-Encoding\x00chunked", b"transfer-encoding", true),
        ] {
            assert_eq!(imitates(bytes, name), expected, "{}", bytes.escape_ascii());
        }
    }

    /// Every byte at every place of a text that fills words and blocks and does not.
    #[track_caller]
    fn at_every_place(text: &[u8], check: impl Fn(&[u8], u8, usize)) {
        let mut bytes = text.to_vec();
        for at in 0..bytes.len() {
            for byte in 0..=255 {
                let kept = std::mem::replace(&mut bytes[at], byte);
                check(&bytes, byte, at);
                bytes[at] = kept;
            }
        }
    }

    #[test]
    fn a_token_ends_at_the_first_byte_that_is_no_tchar() {
        for text in [&b"x-forwarded-for-0189-AZaz"[..], b"Accept-Encoding!", b"Host"] {
            at_every_place(text, |bytes, byte, at| {
                let expected = if is_tchar(byte) { bytes.len() } else { at };
                assert_eq!(token_len(bytes), expected, "{byte:#x} at {at}");
            });
        }
        assert_eq!(token_len(b""), 0);
        assert_eq!(token_len(b"a\xffb\xffcdefgh"), 1);
    }

    #[test]
    fn plain_text_ends_at_the_first_byte_that_is_odd() {
        for text in [&b"a value of more than two times sixteen bytes"[..], b"short", b"eight by"] {
            at_every_place(text, |bytes, byte, at| {
                let expected = if (0x20..=0x7e).contains(&byte) { bytes.len() } else { at };
                assert_eq!(plain_len(bytes), expected, "{byte:#x} at {at}");
            });
        }
        assert_eq!(plain_len(b"ab\x00\xff\x1fcde"), 2);
    }

    #[test]
    fn a_name_at_the_front_is_put_in_lower_case_and_told_alone() {
        for text in [b"Content-TypE: AB", b"@[`{AZaz0189-_|~"] {
            at_every_place(text, |bytes, byte, at| {
                let front = bytes.first_chunk().unwrap();
                for len in 1..=BLOCK {
                    let (lower, name) = lower_front(front, len);
                    let expected = bytes[..len].to_ascii_lowercase();
                    assert_eq!(lower[..len], expected, "{byte:#x} at {at} of {len}");
                    assert_eq!(lower[len..], bytes[len..]);
                    assert_eq!(name[..len], expected);
                    assert!(name[len..].iter().all(|b| *b == 0));
                }
            });
        }
    }

    #[test]
    fn plain_is_blank_and_visible() {
        assert!(is_plain(b"text/html; charset=utf-8 and some more bytes"));
        for odd in [b'\t', 0, b'\r', 0x7f, 0x80, 0xff] {
            let mut bytes = b"a value of more than sixteen bytes".to_vec();
            for at in 0..bytes.len() {
                let kept = std::mem::replace(&mut bytes[at], odd);
                assert!(!is_plain(&bytes), "{odd:#x} at {at}");
                bytes[at] = kept;
            }
        }
        assert!(!is_visible(b"a b") && is_visible(b"/a?b=c|d"));
    }
}
