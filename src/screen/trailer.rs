//! Trailer sections: judged like fields of a head, less what must be known before the content
//! (RFC 9110 6.5.1).

use http::header::HeaderMap;

use super::h1::trailer_section;
use super::lines::Scan;
use super::policy::Policy;
use super::rule::{Direction, Rule};
use super::section::{Form, Part, Section};
use super::{Reading, Refused, Screened, Storage, class};

/// Judges the trailer section at the start of `input`, up to its empty line. Presented with the
/// same bytes and more behind them until it is complete.
///
/// # Errors
/// [`Refused`] where the policy refuses one of the fields, or the section is too large.
pub fn trailers(
    input: &[u8],
    scan: &mut Scan,
    policy: &Policy,
    direction: Direction,
) -> Result<Reading<HeaderMap>, Box<Refused>> {
    Ok(match trailer_section(input, scan, policy, direction)? {
        Reading::Partial(storage) => Reading::Partial(storage),
        Reading::Complete { screened: Screened { head, findings }, consumed } => {
            let head = head.to_map().unwrap_or_default();
            Reading::Complete { screened: Screened { head, findings }, consumed }
        }
    })
}

/// Judges trailers that came over HTTP/2.
///
/// # Errors
/// [`Refused`] where the policy refuses one of the fields, or one is malformed.
pub fn trailers_h2(
    map: &HeaderMap,
    policy: &Policy,
    direction: Direction,
) -> Result<Screened<HeaderMap>, Box<Refused>> {
    let mut section = Section::new(policy, direction, Part::Trailer, Storage::default());
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        if name.starts_with(b":") {
            section.judge.refuse(Rule::PseudoHeader, name, value);
        } else {
            section.field(name, class::trim(value), Form::OneLine);
        }
    }
    if section.judge.refused_by().is_some() {
        return Err(Refused::new(section, b""));
    }
    let head = section.storage.to_map().unwrap_or_default();
    Ok(Screened { head, findings: section.judge.into_findings() })
}

/// Writes the trailer section of a chunked message, empty line included.
pub fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
