//! HTTP/1 bytes become a head: start line, fields, and what they mean together (RFC 9112 5, 6).
//!
//! A line ends at LF; a CR before it belongs to the end. A head ends at the first empty line.

use super::framing::{self, Framing};
use super::head::{RequestHead, RequestMethod, ResponseHead, Storage, Version};
use super::known;
use super::lines::{Line, Look, Scan, line, window};
use super::policy::Policy;
use super::rule::{Action, Direction, Rule};
use super::section::{Form, LineSize, Part, Section};
use super::start_line::{RequestLine, StatusLine, request_line, status_line};
use super::{Reading, Refused, Screened};
use super::{class, connection};

/// Where the fields of a section end.
enum End {
    /// Behind the empty line.
    At(usize),
    /// Not in these bytes; the line that is not complete begins here.
    Missing(usize),
}

/// Judges a request head at the start of `input`.
///
/// Empty lines before it are skipped. Nothing of `input` is needed once this returns, but until
/// the head is complete the caller must present the same bytes again, with more behind them.
///
/// # Errors
/// [`Refused`] where the head must not be forwarded; the connection cannot be used any further.
pub fn request(
    input: &[u8],
    scan: &mut Scan,
    policy: &Policy,
    storage: Storage,
) -> Result<Reading<RequestHead>, Box<Refused>> {
    let Look::Judge(start) = scan.head(input, policy.raw_bytes_max()) else {
        return Ok(Reading::Partial(storage));
    };
    let window = window(input, start, policy);
    let mut section = Section::new(policy, Direction::Request, Part::Head, storage);
    let Some(first) = line(window, 0) else {
        return incomplete(section, scan, window, 0);
    };
    line_ending(&mut section, &first);
    let Some(opening) = request_line(first.text, &mut section) else {
        *scan = Scan::default();
        return Err(Refused::new(section, first.text));
    };
    match fields(&mut section, window, first.next) {
        End::Missing(at) => incomplete(section, scan, window, at),
        End::At(end) => {
            *scan = Scan::default();
            let head = finish_request(section, opening);
            let screened = head.map_err(|section| Refused::new(*section, first.text))?;
            Ok(Reading::Complete { screened, consumed: start + end })
        }
    }
}

/// Judges a response head at the start of `input`; `to` is the request it answers.
///
/// # Errors
/// [`Refused`] where the head must not be forwarded; the connection cannot be used any further.
pub fn response(
    input: &[u8],
    scan: &mut Scan,
    policy: &Policy,
    to: RequestMethod,
    storage: Storage,
) -> Result<Reading<ResponseHead>, Box<Refused>> {
    let Look::Judge(start) = scan.head(input, policy.raw_bytes_max()) else {
        return Ok(Reading::Partial(storage));
    };
    let window = window(input, start, policy);
    let mut section = Section::new(policy, Direction::Response, Part::Head, storage);
    let Some(first) = line(window, 0) else {
        return incomplete(section, scan, window, 0);
    };
    line_ending(&mut section, &first);
    if scan.skipped > 0 {
        section.judge.find_once(Rule::StatusLine, &input[..start]);
    }
    let Some(opening) = status_line(first.text, &mut section) else {
        *scan = Scan::default();
        return Err(Refused::new(section, first.text));
    };
    match fields(&mut section, window, first.next) {
        End::Missing(at) => incomplete(section, scan, window, at),
        End::At(end) => {
            *scan = Scan::default();
            let head = finish_response(section, opening, to);
            let screened = head.map_err(|section| Refused::new(*section, first.text))?;
            Ok(Reading::Complete { screened, consumed: start + end })
        }
    }
}

/// Judges a trailer section at the start of `input`: what stands between the last chunk and the
/// empty line.
///
/// # Errors
/// [`Refused`] where it must not be forwarded.
pub(super) fn trailer_section(
    input: &[u8],
    scan: &mut Scan,
    policy: &Policy,
    direction: Direction,
) -> Result<Reading<Storage>, Box<Refused>> {
    let Look::Judge(_) = scan.trailer(input, policy.raw_bytes_max()) else {
        return Ok(Reading::Partial(Storage::default()));
    };
    let window = window(input, 0, policy);
    let mut section = Section::new(policy, direction, Part::Trailer, Storage::default());
    match fields(&mut section, window, 0) {
        End::Missing(at) => incomplete(section, scan, window, at),
        End::At(consumed) => {
            *scan = Scan::default();
            if section.judge.refused_by().is_some() {
                return Err(Refused::new(section, b""));
            }
            let screened =
                Screened { head: section.storage, findings: section.judge.into_findings() };
            Ok(Reading::Complete { screened, consumed })
        }
    }
}

/// The head does not end in these bytes: wait for more, or refuse where it may not have more.
fn incomplete<H>(
    mut section: Section<'_>,
    scan: &mut Scan,
    window: &[u8],
    line: usize,
) -> Result<Reading<H>, Box<Refused>> {
    if window.len() < section.judge.policy().raw_bytes_max() {
        scan.wait(line);
        return Ok(Reading::Partial(section.storage));
    }
    *scan = Scan::default();
    section.judge.refuse(Rule::Oversize, b"", window);
    let first = window.split(|b| *b == b'\n').next().unwrap_or_default();
    Err(Refused::new(section, first))
}

/// Reads field lines up to the empty line.
fn fields(section: &mut Section<'_>, window: &[u8], start: usize) -> End {
    let mut at = start;
    loop {
        at = canonical_lines(section, window, at);
        let Some(line) = line(window, at) else { return End::Missing(at) };
        line_ending(section, &line);
        if line.text.is_empty() {
            return End::At(line.next);
        }
        // Whether the line goes on is seen at the next line's first byte. A head has one, if only
        // its empty line's.
        match window.get(line.next) {
            None => return End::Missing(at),
            Some(b' ' | b'\t') => {
                let Some(next) = folded(section, window, at) else { return End::Missing(at) };
                at = next;
            }
            Some(_) => {
                field_line(section, line.text, Form::OneLine);
                at = line.next;
            }
        }
    }
}

/// A bare LF ends a line of a head for everybody; in a trailer section, where the message's end is
/// at stake, not (RFC 9112 7.1).
fn line_ending(section: &mut Section<'_>, line: &Line<'_>) {
    match (line.bare_lf, section.part) {
        (false, _) => {}
        (true, Part::Head) => section.judge.find_once(Rule::LineEnding, line.text),
        (true, Part::Trailer) => section.judge.find_once(Rule::Chunk, line.text),
    }
}

/// A line that goes on: the pieces are joined with SP and judged as one (RFC 9112 5.2). Returns
/// where the next line begins.
fn folded(section: &mut Section<'_>, window: &[u8], start: usize) -> Option<usize> {
    let first = line(window, start)?;
    let mut joined = first.text.to_vec();
    let mut at = first.next;
    let mut hidden = false;
    loop {
        // The byte behind a line is needed to know that it does not go on.
        if !class::is_blank(*window.get(at)?) {
            break;
        }
        let piece = line(window, at)?;
        line_ending(section, &piece);
        let text = class::trim(piece.text);
        hidden |= hides_framing(section, text);
        joined.truncate(joined.len() - trailing_blanks(&joined));
        joined.push(b' ');
        joined.extend_from_slice(text);
        at = piece.next;
    }
    let colon = memchr::memchr(b':', &joined).unwrap_or(joined.len());
    let (name, value) =
        (&joined[..colon], class::trim(joined.get(colon + 1..).unwrap_or_default()));
    if class::is_blank(joined[0]) {
        // Goes on from the start line: told as leading fold.
    } else if !hidden && section.judge.find(Rule::ObsFold, name, value) == Action::Refuse {
        return Some(at);
    }
    field_line(section, &joined, Form::Folded);
    Some(at)
}

fn trailing_blanks(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|b| class::is_blank(**b)).count()
}

/// A continuation that reads as a framing field to whoever strips its blanks.
fn hides_framing(section: &mut Section<'_>, text: &[u8]) -> bool {
    let hides = known::imitates_framing(text, section.judge.direction());
    if hides {
        section.judge.refuse(Rule::NearMissFraming, b"", text);
    }
    hides
}

/// Canonical lines that are taken together at most.
const LINES_TOGETHER: usize = 32;

/// Takes lines that are as they should be; returns where the first begins that has to be looked at
/// more carefully. Most heads are taken whole in here.
fn canonical_lines(section: &mut Section<'_>, window: &[u8], start: usize) -> usize {
    let mut lines = [LineSize::default(); LINES_TOGETHER];
    let (mut count, mut at) = (0, start);
    while count < LINES_TOGETHER
        && let Some(size) = canonical_line(&window[at..])
    {
        lines[count] = size;
        count += 1;
        at += size.line;
    }
    section.canonical_lines(&window[start..at], &lines[..count]);
    at
}

/// The size of the line at the front of `rest`, where it is canonical but for its name's case.
fn canonical_line(rest: &[u8]) -> Option<LineSize> {
    let name_len = class::token_len(rest);
    let [b':', b' ', value @ ..] = &rest[name_len..] else { return None };
    let value_len = class::plain_len(value);
    // A byte behind the line is needed to know that it does not go on.
    let [b'\r', b'\n', behind, ..] = &value[value_len..] else { return None };
    let text = &value[..value_len];
    let (Some(first), Some(last)) = (text.first(), text.last()) else { return None };
    if name_len == 0 || *first == b' ' || *last == b' ' || class::is_blank(*behind) {
        return None;
    }
    Some(LineSize { name: name_len, line: name_len + 2 + value_len + 2 })
}

/// Judges one line; `line` is not empty.
fn field_line(section: &mut Section<'_>, line: &[u8], form: Form) {
    let name_len = class::token_len(line);
    if name_len > 0 && line.get(name_len) == Some(&b':') {
        return section.field(&line[..name_len], class::trim(&line[name_len + 1..]), form);
    }
    odd_line(section, line, form);
}

/// A line whose name is not a token directly followed by its colon.
fn odd_line(section: &mut Section<'_>, line: &[u8], form: Form) {
    let judge = &mut section.judge;
    if known::imitates_framing(line, judge.direction()) {
        judge.refuse(Rule::NearMissFraming, b"", line);
        return;
    }
    if class::is_blank(line[0]) {
        judge.find(Rule::LeadingFold, b"", line);
        return;
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        judge.find(Rule::FieldNoColon, b"", line);
        return;
    };
    let name = &line[..colon];
    let stripped = class::trim(name);
    if name.is_empty() {
        judge.find(Rule::FieldNameEmpty, b"", line);
    } else if class::is_token(stripped) {
        let action =
            judge.find(Rule::FieldNameTrailingSpace, name, class::trim(&line[colon + 1..]));
        if action != Action::Refuse {
            section.field(stripped, class::trim(&line[colon + 1..]), form);
        }
    } else {
        judge.find(Rule::FieldNameInvalid, name, class::trim(&line[colon + 1..]));
    }
}

/// What the fields mean together: RFC 9112 6.3 for requests, 3.2 for the authority.
fn finish_request<'p>(
    mut section: Section<'p>,
    line: RequestLine,
) -> Result<Screened<RequestHead>, Box<Section<'p>>> {
    // Where a name was taken for Host's, that was told already.
    if section.host.fields == 0
        && (section.host.named_by_target.is_none() || line.version != Version::H10)
        && !section.judge.has_found(Rule::NearMissFraming)
    {
        section.judge.refuse(Rule::Host, b"host", &b""[..]);
    }
    let options = connection::read(&mut section, line.version);
    let framing = match (section.lengths.is_chunked(), section.lengths.length()) {
        (true, Some(_)) => {
            section.judge.refuse(Rule::FramingConflict, b"transfer-encoding", &b""[..]);
            Framing::None
        }
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::None,
    };
    check_chunked_version(&mut section, line.version);
    // RFC 9110 9.3.8: no content in TRACE.
    if line.method == RequestMethod::Trace && !matches!(framing, Framing::None | Framing::Length(0))
    {
        section.judge.find(Rule::BodyForbidden, b"", &b"TRACE"[..]);
    }
    if section.judge.refused_by().is_some() {
        return Err(Box::new(section));
    }
    section.join_cookies();
    let head = RequestHead {
        storage: section.storage,
        method: line.method,
        method_len: line.method_len as u32,
        target_len: line.target_len as u32,
        path_len: line.path_len as u32,
        version: line.version,
        framing,
        options,
    };
    Ok(Screened { head, findings: section.judge.into_findings() })
}

/// RFC 9112 6.1: Transfer-Encoding over HTTP/1.0 is faulty framing.
fn check_chunked_version(section: &mut Section<'_>, version: Version) {
    if section.lengths.is_chunked() && version == Version::H10 {
        section.judge.refuse(Rule::TransferEncodingInvalid, b"transfer-encoding", &b"HTTP/1.0"[..]);
    }
}

/// RFC 9112 6.3 for responses.
fn finish_response<'p>(
    mut section: Section<'p>,
    line: StatusLine,
    to: RequestMethod,
) -> Result<Screened<ResponseHead>, Box<Section<'p>>> {
    let mut options = connection::read(&mut section, line.version);
    check_chunked_version(&mut section, line.version);
    let (chunked, length) = (section.lengths.is_chunked(), section.lengths.length());
    if chunked && length.is_some() {
        section.judge.refuse(Rule::FramingConflict, b"transfer-encoding", &b""[..]);
    }
    let bare = framing::has_no_content(line.status, to);
    let framing = match (bare, chunked, length) {
        (true, _, _) => Framing::None,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::UntilClose,
    };
    // HEAD and 304 may tell what GET would bring; 1xx and 204 may tell nothing (RFC 9110 8.6).
    let mute = line.status / 100 == 1 || line.status == 204;
    if mute && (chunked || length.is_some()) {
        let field: &[u8] = if chunked { b"transfer-encoding" } else { b"content-length" };
        section.judge.find(Rule::BodyForbidden, field, &b"announced where none may be"[..]);
        options.close |= chunked || length != Some(0);
    }
    if section.judge.refused_by().is_some() {
        return Err(Box::new(section));
    }
    let head = ResponseHead {
        storage: section.storage,
        status: line.status,
        reason_len: line.reason_len as u32,
        version: line.version,
        framing,
        length: length.filter(|_| bare && !mute),
        options,
    };
    Ok(Screened { head, findings: section.judge.into_findings() })
}
