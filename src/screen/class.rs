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
    bytes.iter().position(|b| !is_tchar(*b)).unwrap_or(bytes.len())
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
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(word);
    let below = word.wrapping_sub(EACH * FIRST as u64);
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
