//! Classes of bytes (RFC 9110 5.6.2, 5.5): what may stand in a name, what a value may hold.
//!
//! The table folds two questions about a name into one look: is it a tchar, and what is its lower
//! case. Values are judged many bytes at a time by a loop the compiler turns into vector code.

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

/// How many bytes from the start are tchars.
pub(super) fn token_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    // Nearly all names are letters, digits and hyphens: eight at a time.
    for word in bytes.as_chunks::<8>().0 {
        let common = common_len(*word);
        len += common;
        if common < 8 {
            break;
        }
    }
    let rest = &bytes[len..];
    len + rest.iter().position(|b| !is_tchar(*b)).unwrap_or(rest.len())
}

/// One in each byte of a word.
const EACH: u64 = 0x0101_0101_0101_0101;

/// How many bytes from the start are letters, digits or hyphens. Sums that tell by a byte's high
/// bit whether it is large enough stay within it: all addends are below 0x80, and bytes from 0x80,
/// which could carry into the next, end the count themselves.
fn common_len(word: [u8; 8]) -> usize {
    let word = u64::from_le_bytes(word);
    let at_least = |bytes: u64, least: u8| bytes.wrapping_add(EACH * u64::from(0x80 - least));
    let lower = word | (EACH * 0x20);
    let letters = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let digits = at_least(word, b'0') & !at_least(word, b'9' + 1);
    let hyphens = !at_least(word ^ (EACH * u64::from(b'-')), 1);
    let other = !(letters | digits | hyphens) | word;
    ((other & EACH << 7).trailing_zeros() / 8) as usize
}

/// Puts `ascii` in lower case into `lower`, of the same length. Reads the one and writes the other:
/// to read what was written a moment ago in other pieces makes the processor wait.
pub(super) fn lower_into(ascii: &[u8], lower: &mut [u8]) {
    if let (Some(from), Some(to)) = (ascii.last_chunk::<8>(), lower.last_chunk_mut::<8>()) {
        // The last eight bytes may be among the words below: twice costs less than one by one.
        *to = lower_word(*from);
        let words = ascii.as_chunks::<8>().0.iter().zip(lower.as_chunks_mut::<8>().0);
        words.for_each(|(from, to)| *to = lower_word(*from));
    } else {
        ascii.iter().zip(lower).for_each(|(from, to)| *to = from.to_ascii_lowercase());
    }
}

fn lower_word(word: [u8; 8]) -> [u8; 8] {
    let word = u64::from_le_bytes(word);
    let at_least = |least: u8| word.wrapping_add(EACH * u64::from(0x80 - least));
    let upper = at_least(b'A') & !at_least(b'Z' + 1) & !word & EACH << 7;
    (word | upper >> 2).to_le_bytes()
}

/// Whether `ascii`, in lower case, is `lower`.
pub(super) fn is_in_lower_case(ascii: &[u8], lower: &[u8]) -> bool {
    if ascii.len() != lower.len() {
        return false;
    }
    match (ascii.last_chunk::<8>(), lower.last_chunk::<8>()) {
        (Some(last), Some(lower_last)) => {
            let mut words = ascii.as_chunks::<8>().0.iter().zip(lower.as_chunks::<8>().0);
            lower_word(*last) == *lower_last && words.all(|(one, other)| lower_word(*one) == *other)
        }
        _ => ascii.eq_ignore_ascii_case(lower),
    }
}

/// How many bytes from the start are SP or VCHAR.
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    let is_plain = |byte: &u8| (0x20..=0x7e).contains(byte);
    let mut len = 0;
    // Without a way out within a block the compiler looks at all of it at once.
    for block in bytes.as_chunks::<16>().0 {
        if block.iter().fold(false, |odd, byte| odd | !is_plain(byte)) {
            break;
        }
        len += 16;
    }
    let rest = &bytes[len..];
    for word in rest.as_chunks::<8>().0 {
        let odd = odd_bits::<0x20>(*word);
        if odd != 0 {
            return len + (odd.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    let rest = &bytes[len..];
    len + rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len())
}

/// `token`: one tchar or more.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token_len(bytes) == bytes.len()
}

/// Whether every byte is SP or VCHAR. A tab, allowed in values, is left to the careful path.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    within::<0x20>(bytes)
}

/// VCHAR only: what may stand in a request target.
pub(super) fn is_visible(bytes: &[u8]) -> bool {
    within::<0x21>(bytes)
}

/// Whether every byte is from `FIRST` to 0x7E, eight bytes at a time.
fn within<const FIRST: u8>(bytes: &[u8]) -> bool {
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
    odd_bits::<FIRST>(word) != 0
}

/// The same as high bits; the lowest of them is that of the first odd byte.
fn odd_bits<const FIRST: u8>(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    let below = word.wrapping_sub(EACH * u64::from(FIRST));
    let above = word.wrapping_add(EACH);
    (word | below | above) & (EACH << 7)
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
    fn lower_case_is_that_of_ascii() {
        for text in [&b"Content-Security-POLICY"[..], b"@[`{AZaz", b"Te"] {
            at_every_place(text, |bytes, byte, at| {
                let (mut lower, expected) = (vec![0; bytes.len()], bytes.to_ascii_lowercase());
                if byte.is_ascii() {
                    lower_into(bytes, &mut lower);
                    assert_eq!(lower, expected, "{byte:#x} at {at}");
                    assert!(is_in_lower_case(bytes, &expected));
                    let same = text.eq_ignore_ascii_case(bytes);
                    assert_eq!(is_in_lower_case(text, &expected), same, "{byte:#x} at {at}");
                }
            });
        }
        assert!(is_in_lower_case(b"", b"") && !is_in_lower_case(b"", b"a"));
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
