//! A reader of HTTP/1.1 messages that takes RFC 9112's grammar at its word and nothing beside it:
//! no line ends but CR LF, no folding, no leniency. Written from the RFC alone, so that it agrees
//! with sluss for no other reason than that both are right.

/// One message, and what stands behind it.
#[derive(Debug, PartialEq)]
pub struct Message {
    pub start: Vec<u8>,
    /// Names as they stand, values without blanks at their ends.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub content: Vec<u8>,
    pub rest: Vec<u8>,
}

/// How content ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ends {
    Length(usize),
    Chunked,
    /// With the connection: a response's only.
    Close,
}

/// Reads a request (`HTTP-message` with a `request-line`).
pub fn request(bytes: &[u8]) -> Result<Message, String> {
    let (start, fields, rest) = head(bytes)?;
    let parts: Vec<&[u8]> = start.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else { return Err("request-line".into()) };
    if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("method or request-target".into());
    }
    if named(&fields, b"host").len() != 1 {
        return Err("not one Host".into());
    }
    let ends = ends(&fields, Ends::Length(0))?;
    message(start, fields, ends, rest)
}

/// Reads the response to a GET (`HTTP-message` with a `status-line`).
pub fn response(bytes: &[u8]) -> Result<Message, String> {
    let (start, fields, rest) = head(bytes)?;
    let ends = response_ends(&start, &fields)?;
    message(start, fields, ends, rest)
}

/// How the response that begins with this head ends.
pub fn response_end(bytes: &[u8]) -> Result<Ends, String> {
    let (start, fields, _) = head(bytes)?;
    response_ends(&start, &fields)
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn response_ends(start: &[u8], fields: &Fields) -> Result<Ends, String> {
    let Some([a, b, c, b' ', reason @ ..]) = start.strip_prefix(b"HTTP/1.1 ") else {
        return Err("status-line".into());
    };
    let status = [*a, *b, *c];
    if !status.iter().all(u8::is_ascii_digit) || !reason.iter().all(|b| is_text(*b)) {
        return Err("status-code or reason-phrase".into());
    }
    if *a == b'1' || status == *b"204" || status == *b"304" {
        ends(fields, Ends::Close)?;
        return Ok(Ends::Length(0));
    }
    ends(fields, Ends::Close)
}

fn head(bytes: &[u8]) -> Result<(Vec<u8>, Fields, &[u8]), String> {
    let (start, mut rest) = line(bytes)?;
    let mut fields = Vec::new();
    loop {
        let (text, next) = line(rest)?;
        rest = next;
        if text.is_empty() {
            return Ok((start.to_vec(), fields, rest));
        }
        let colon = text.iter().position(|b| *b == b':').ok_or("no colon")?;
        let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
        if !is_token(name) || !text[colon + 1..].iter().all(|b| is_text(*b)) {
            return Err(format!("field-line {}", text.escape_ascii()));
        }
        fields.push((name.to_ascii_lowercase(), value.to_vec()));
    }
}

/// Up to CR LF, in which neither stands alone.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n')).ok_or("no line end")?;
    let rest = bytes[end..].strip_prefix(b"\r\n").ok_or("a bare CR or LF")?;
    Ok((&bytes[..end], rest))
}

fn ends(fields: &Fields, otherwise: Ends) -> Result<Ends, String> {
    let (codings, lengths) =
        (named(fields, b"transfer-encoding"), named(fields, b"content-length"));
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok(otherwise),
        ([b"chunked"], []) => Ok(Ends::Chunked),
        ([], [digits]) if digits.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            Ok(Ends::Length(length.ok_or("Content-Length")?))
        }
        _ => Err("framing".into()),
    }
}

fn message(start: Vec<u8>, fields: Fields, ends: Ends, rest: &[u8]) -> Result<Message, String> {
    let (content, rest) = match ends {
        Ends::Length(length) => {
            let (content, rest) = rest.split_at_checked(length).ok_or("content is missing")?;
            (content.to_vec(), rest)
        }
        Ends::Close => (rest.to_vec(), &b""[..]),
        Ends::Chunked => chunked(rest)?,
    };
    Ok(Message { start, fields, content, rest: rest.to_vec() })
}

fn chunked(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut content = Vec::new();
    loop {
        let (size, next) = line(rest)?;
        let size =
            std::str::from_utf8(size).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let (data, next) = next.split_at_checked(size.ok_or("chunk-size")?).ok_or("chunk-data")?;
        content.extend_from_slice(data);
        rest = next.strip_prefix(b"\r\n").ok_or("no CR LF behind a chunk")?;
        if data.is_empty() {
            return Ok((content, rest));
        }
    }
}

fn named<'a>(fields: &'a Fields, name: &[u8]) -> Vec<&'a [u8]> {
    let of_name = fields.iter().filter(|(key, _)| key == name);
    of_name.map(|(_, value)| value.as_slice()).collect()
}

fn is_token(name: &[u8]) -> bool {
    let is_tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !name.is_empty() && name.iter().all(is_tchar)
}

/// HTAB, SP, VCHAR, obs-text.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
