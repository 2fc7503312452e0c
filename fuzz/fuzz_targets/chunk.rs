//! Chunked content and trailers: pieces change nothing; what is decoded and written is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluss_fuzz::screen::chunk::{ChunkStep, Chunked, LAST, write_end, write_size};
use sluss_fuzz::screen::{Direction, Policy, Scan, trailers};

/// Content and how it ended; the input arrives up to each of `ends`.
fn decode(input: &[u8], ends: &[usize]) -> (Vec<u8>, Result<(&'static str, usize), usize>) {
    let (mut decoder, mut content, mut at) = (Chunked::default(), Vec::new(), 0);
    for end in ends {
        loop {
            match decoder.step(&input[at..*end]) {
                Err(malformed) => return (content, Err(at + malformed.at)),
                Ok(ChunkStep::NeedMore { consumed }) => {
                    at += consumed;
                    break;
                }
                Ok(ChunkStep::Data { skip, len }) => {
                    assert!(len > 0);
                    content.extend_from_slice(&input[at + skip..at + skip + len]);
                    at += skip + len;
                }
                Ok(ChunkStep::End { skip }) => return (content, Ok(("end", at + skip))),
                Ok(ChunkStep::Trailers { skip }) => return (content, Ok(("trailers", at + skip))),
            }
        }
    }
    (content, Ok(("more", at)))
}

fuzz_target!(|data: &[u8]| {
    let [cut, input @ ..] = data else { return };
    let whole = decode(input, &[input.len()]);
    assert_eq!(decode(input, &[usize::from(*cut).min(input.len()), input.len()]), whole);
    if let (content, Ok((_, end))) = whole {
        let mut out = Vec::new();
        for piece in content.chunks(7) {
            write_size(&mut out, piece.len());
            out.extend_from_slice(piece);
            write_end(&mut out);
        }
        out.extend_from_slice(LAST);
        out.extend_from_slice(b"\r\n");
        assert_eq!(decode(&out, &[out.len()]), (content, Ok(("end", out.len()))));
        let policy = Policy::default();
        let _ = trailers(&input[end..], &mut Scan::default(), &policy, Direction::Request);
    }
});
