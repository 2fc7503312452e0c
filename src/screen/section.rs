//! One field after the other: judged, and put down in canonical form. HTTP/1 lines, HTTP/2 fields
//! and trailers all come through [`Section::field`], so one rule reads the same everywhere.
//!
//! A kept field stands in the storage as `name: value\r\n`, ready to be sent. Host, Content-Length
//! and Transfer-Encoding are not kept: they become facts, and are written anew from them.

use std::borrow::Cow;

use super::class;
use super::excerpt::Defect;
use super::finding::Judge;
use super::framing::{Lengths, Sight};
use super::head::{Field, Storage};
use super::known::{self, Key, Known, Role};
use super::policy::Policy;
use super::rule::{Action, Direction, Rule};
use super::target::Authority;

/// Bytes of one field, name and value. No honest field is larger: browsers send 4 KiB a cookie.
pub(super) const FIELD_BYTES_MAX: usize = 16 * 1024;

/// What a section is part of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    Head,
    Trailer,
}

/// Whether a value came in one line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    OneLine,
    Folded,
}

/// Bytes of a name, and of the line that it begins with, line end included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineSize {
    pub name: usize,
    pub line: usize,
}

/// Whether a field is forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Kept,
    Dropped,
}

/// The fields of one message, while they are read.
#[derive(Debug)]
pub(super) struct Section<'p> {
    pub judge: Judge<'p>,
    pub storage: Storage,
    pub lengths: Lengths,
    pub part: Part,
    /// [`Known::bit`] of each field that stood already.
    seen: u64,
    pub host: HostSight,
    /// Whether any field stood that only `connection` understands.
    pub has_connection_fields: bool,
    pub has_cookie_crumbs: bool,
    /// Bytes of lines that stand in the text although they are not kept.
    passed_over: usize,
    /// Bytes of the Cookie lines so far as they will stand joined, the separator behind them too.
    cookie_bytes: usize,
}

/// What is known of the authority so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostSight {
    /// Port of the target's scheme where the target has named the authority.
    pub named_by_target: Option<u16>,
    pub fields: u32,
}

impl<'p> Section<'p> {
    pub(super) fn new(
        policy: &'p Policy,
        direction: Direction,
        part: Part,
        storage: Storage,
    ) -> Section<'p> {
        Section {
            judge: Judge::new(policy, direction),
            storage: storage.emptied(),
            lengths: Lengths::default(),
            part,
            seen: 0,
            host: HostSight::default(),
            has_connection_fields: false,
            has_cookie_crumbs: false,
            passed_over: 0,
            cookie_bytes: 0,
        }
    }

    /// Takes one field: `name` a token in any case, `value` without blanks at its ends.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8], form: Form) {
        let start = self.storage.text.len();
        self.storage.text.extend_from_slice(name);
        self.storage.text[start..].make_ascii_lowercase();
        let key = Key::new(name);
        let known = known::look(&key);
        let mut value = Cow::Borrowed(value);
        if !class::is_plain(&value) && self.odd_value(known, name, &mut value) == Fate::Dropped {
            return self.storage.text.truncate(start);
        }
        if !self.is_ordinary(known, &key, start, name.len() + value.len())
            && self.fate(known, start, (name, &value), form) == Fate::Dropped
        {
            return self.storage.text.truncate(start);
        }
        let text = &mut self.storage.text;
        text.extend_from_slice(b": ");
        text.extend_from_slice(&value);
        text.extend_from_slice(b"\r\n");
        self.keep(known, start, name.len(), value.len());
    }

    /// Takes lines that are canonical but for the names' case, all in one copy: each is plain, and
    /// begins with tchars, a colon and one blank. A line that is not kept stays where it is, of no
    /// field.
    pub(super) fn canonical_lines(&mut self, lines: &[u8], sizes: &[LineSize]) {
        let mut start = self.storage.text.len();
        self.storage.text.extend_from_slice(lines);
        let mut rest = lines;
        for size in sizes {
            let (line, others) = rest.split_at(size.line);
            if self.canonical_line(line, start, size.name) == Fate::Dropped {
                self.passed_over += size.line;
            }
            start += size.line;
            rest = others;
        }
    }

    /// `line` stands at `start` of the text as it came.
    #[inline]
    fn canonical_line(&mut self, line: &[u8], start: usize, name_len: usize) -> Fate {
        let text = &mut self.storage.text;
        let (name, value) = (&line[..name_len], &line[name_len + 2..line.len() - 2]);
        let key = match line.first_chunk() {
            // What is put down comes from the line, not from its copy: to read what was written a
            // moment ago in other pieces makes the processor wait.
            Some(front) if name_len <= class::BLOCK => {
                let (lower, name) = class::lower_front(front, name_len);
                text[start..start + class::BLOCK].copy_from_slice(&lower);
                Key::of_short(name, name_len)
            }
            _ => {
                text[start..start + name_len].make_ascii_lowercase();
                Key::new(name)
            }
        };
        let known = known::look(&key);
        if !self.is_ordinary(known, &key, start, line.len() - 4)
            && self.fate(known, start, (name, value), Form::OneLine) == Fate::Dropped
        {
            return Fate::Dropped;
        }
        self.keep(known, start, name_len, value.len());
        Fate::Kept
    }

    /// Whether a field of a head is one of the many that no rule is about: what `fate` would say of
    /// it is known without asking, and what it would remember is remembered.
    #[inline]
    fn is_ordinary(&mut self, known: &Known, key: &Key, start: usize, line: usize) -> bool {
        let bit = known.bit();
        let plain = known.role == Role::Plain
            && self.part == Part::Head
            && !known.is(known::RESERVED)
            && (self.seen & bit == 0 || !known.is(known::SINGLE))
            && (known.index != 0 || !key.may_have_underscore())
            && self.fits(start, line);
        if plain {
            self.seen |= bit;
        }
        plain
    }

    /// `name` stands in lower case at `start` of the text.
    fn fate(
        &mut self,
        known: &Known,
        start: usize,
        (name, value): (&[u8], &[u8]),
        form: Form,
    ) -> Fate {
        // Cookies are joined: what counts is the one field they become.
        let joined = if known.role == Role::Cookie { self.cookie_bytes } else { 0 };
        let line = name.len() + value.len();
        if line + joined > FIELD_BYTES_MAX || !self.fits(start, line) {
            self.oversize(known, name, value);
            return Fate::Dropped;
        }
        if self.judge_name(known, start, name, value) == Fate::Dropped {
            return Fate::Dropped;
        }
        self.judge_known(known, value, form)
    }

    fn keep(&mut self, known: &Known, start: usize, name_len: usize, value_len: usize) {
        self.storage.fields.push(Field {
            start: start as u32,
            name_len: name_len as u32,
            value_len: value_len as u32,
            known: known.index,
            keeping: known.keeping,
        });
    }

    /// A value with tabs, controls or bytes above 0x7F.
    fn odd_value(&mut self, known: &Known, name: &[u8], value: &mut Cow<'_, [u8]>) -> Fate {
        if let Some(at) = value.iter().position(|b| class::is_control(*b)) {
            let defect = Defect { bytes: value, at };
            if known.is(known::GUARD) {
                self.judge.refuse(Rule::FieldValueControl, name, defect);
                return Fate::Dropped;
            }
            if self.judge.find(Rule::FieldValueControl, name, defect) == Action::Refuse {
                return Fate::Dropped;
            }
            let blanked: Vec<u8> =
                value.iter().map(|b| if class::is_control(*b) { b' ' } else { *b }).collect();
            *value = Cow::Owned(class::trim(&blanked).to_vec());
        }
        let Some(at) = value.iter().position(|b| *b >= 0x80) else { return Fate::Kept };
        match self.judge.find(Rule::FieldValueObsText, name, Defect { bytes: value, at }) {
            Action::Note => Fate::Kept,
            Action::Repair | Action::Refuse => Fate::Dropped,
        }
    }

    /// Whether a field of so many bytes, and the head with it, is small enough.
    fn fits(&self, start: usize, line: usize) -> bool {
        let policy = self.judge.policy();
        line <= FIELD_BYTES_MAX
            && self.storage.fields.len() < policy.fields_max()
            && start - self.passed_over + line + 4 <= policy.head_bytes_max()
    }

    #[cold]
    fn oversize(&mut self, known: &Known, name: &[u8], value: &[u8]) {
        if known.is(known::GUARD) {
            self.judge.refuse(Rule::Oversize, name, value);
        } else {
            self.judge.find(Rule::Oversize, name, value);
        }
    }

    /// Names that are allowed, and yet mean harm.
    fn judge_name(&mut self, known: &Known, start: usize, name: &[u8], value: &[u8]) -> Fate {
        let is_request = self.judge.direction() == Direction::Request;
        let rule = if known.is(known::RESERVED) && is_request {
            Rule::FieldNameReserved
        } else if known.index == 0
            && name.contains(&b'_')
            && known::is_shadow(&self.storage.text[start..start + name.len()])
        {
            Rule::ShadowedField
        } else {
            return Fate::Kept;
        };
        match self.judge.find(rule, name, value) {
            Action::Note => Fate::Kept,
            Action::Repair | Action::Refuse => Fate::Dropped,
        }
    }

    fn judge_known(&mut self, known: &Known, value: &[u8], form: Form) -> Fate {
        if known.traits == 0 {
            return Fate::Kept;
        }
        let name = known.name.as_bytes();
        if self.part == Part::Trailer && known.is(known::NO_TRAILER) {
            self.judge.find(Rule::TrailerForbidden, name, value);
            return Fate::Dropped;
        }
        let bit = known.bit();
        let repeated = self.seen & bit != 0;
        self.seen |= bit;
        if repeated
            && known.is(known::SINGLE)
            && self.judge.find(Rule::DuplicateSingleton, name, value) != Action::Note
        {
            return Fate::Dropped;
        }
        match known.role {
            Role::MaxForwards | Role::Plain | Role::RequestId | Role::Via => Fate::Kept,
            Role::Connection | Role::Expect | Role::Te | Role::Upgrade => {
                self.has_connection_fields = true;
                Fate::Kept
            }
            Role::ContentLength => self.content_length(value, form),
            Role::ContentType => self.syntax(Rule::ContentTypeInvalid, known, value, is_media_type),
            Role::Cookie => {
                self.has_cookie_crumbs |= repeated;
                if !value.is_empty() {
                    self.cookie_bytes += value.len() + "; ".len();
                }
                Fate::Kept
            }
            Role::Date => self.syntax(Rule::DateInvalid, known, value, is_date),
            Role::Host => self.host(value, form),
            Role::TransferEncoding => {
                if !self.lengths.transfer_encoding(value) || form == Form::Folded {
                    self.judge.refuse(Rule::TransferEncodingInvalid, name, value);
                }
                Fate::Dropped
            }
        }
    }

    fn syntax(
        &mut self,
        rule: Rule,
        known: &Known,
        value: &[u8],
        holds: fn(&[u8]) -> bool,
    ) -> Fate {
        if holds(value) || self.judge.find(rule, known.name.as_bytes(), value) == Action::Note {
            return Fate::Kept;
        }
        Fate::Dropped
    }

    fn content_length(&mut self, value: &[u8], form: Form) -> Fate {
        match self.lengths.content_length(value) {
            Sight::First if form == Form::OneLine => {}
            Sight::Repeated if form == Form::OneLine => {
                self.judge.find(Rule::ContentLengthList, b"content-length", value);
            }
            Sight::First | Sight::Repeated | Sight::Invalid => {
                self.judge.refuse(Rule::ContentLengthInvalid, b"content-length", value);
            }
        }
        Fate::Dropped
    }

    /// RFC 9113 8.2.3: crumbs of a cookie are one field to whoever reads HTTP/1. Two lines over
    /// HTTP/1 are treated alike: joined by the comma of lists, cookies would be garbled.
    pub(super) fn join_cookies(&mut self) {
        if !self.has_cookie_crumbs {
            return;
        }
        let Storage { text, fields, .. } = &mut self.storage;
        let crumbs: Vec<&[u8]> = fields
            .iter()
            .filter(|field| field.role() == Role::Cookie)
            .map(|field| field.value(text))
            .filter(|crumb| !crumb.is_empty())
            .collect();
        let joined = crumbs.join(&b"; "[..]);
        let Some(first) = fields.iter().position(|field| field.role() == Role::Cookie) else {
            return;
        };
        let start = text.len();
        text.extend_from_slice(b"cookie: ");
        text.extend_from_slice(&joined);
        text.extend_from_slice(b"\r\n");
        fields[first].start = start as u32;
        fields[first].value_len = joined.len() as u32;
        let mut at = 0;
        fields.retain(|field| {
            at += 1;
            at - 1 == first || field.role() != Role::Cookie
        });
    }

    /// RFC 9112 3.2: exactly one Host; where the target names an authority, the same one.
    fn host(&mut self, value: &[u8], form: Form) -> Fate {
        if self.judge.direction() == Direction::Response {
            return Fate::Kept;
        }
        self.host.fields += 1;
        let agrees = match self.host.named_by_target {
            _ if self.host.fields > 1 || form == Form::Folded => false,
            None => self.storage.authority.set(value),
            Some(default) => {
                let mut host = Authority::default();
                host.set(value) && host.is_same(&self.storage.authority, default)
            }
        };
        if !agrees {
            self.judge.refuse(Rule::Host, b"host", value);
        }
        Fate::Dropped
    }
}

/// `type/subtype`, then parameters or nothing (RFC 9110 8.3.1). What stands in the parameters is
/// between the site and the browser: dropping a type for an odd parameter would do more harm.
fn is_media_type(value: &[u8]) -> bool {
    let kind = class::token_len(value);
    let Some(rest) = value[kind..].strip_prefix(b"/") else { return false };
    let subtype = class::token_len(rest);
    let rest = class::trim(&rest[subtype..]);
    kind > 0 && subtype > 0 && (rest.is_empty() || rest[0] == b';')
}

/// An HTTP date in any of its three forms (RFC 9110 5.6.7).
fn is_date(value: &[u8]) -> bool {
    // IMF-fixdate by its shape: what every server sends.
    if let [_, _, _, b',', b' ', _, _, b' ', _, _, _, b' ', rest @ ..] = value
        && let [_, _, _, _, b' ', _, _, b':', _, _, b':', _, _, b' ', b'G', b'M', b'T'] = rest
    {
        return true;
    }
    std::str::from_utf8(value).is_ok_and(|text| httpdate::parse_http_date(text).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_need_type_and_subtype() {
        for good in [
            "text/html",
            "text/html; charset=utf-8",
            "a/b;",
            "a/b ;c",
            "multipart/x; boundary=\"a b\"",
        ] {
            assert!(is_media_type(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "html",
            "text/",
            "/html",
            "text /html",
            "text/html charset=utf-8",
            "a/b,c/d",
            "a//b",
        ] {
            assert!(!is_media_type(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn dates_have_three_forms() {
        for good in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert!(is_date(good.as_bytes()), "{good}");
        }
        for bad in ["", "yesterday", "2024-01-01", "Sun, 06 Nov 1994 08:49:37 CET"] {
            assert!(!is_date(bad.as_bytes()), "{bad}");
        }
    }
}
