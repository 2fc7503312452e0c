//! What a head says about its connection: Connection, Upgrade, Expect, TE (RFC 9110 7.6.1, 7.8,
//! 10.1.1, 10.1.4). Read once, after all fields are known; most heads have none of them.

use super::class;
use super::finding::Judge;
use super::head::{Field, Keeping, Version};
use super::known::{self, Role};
use super::rule::{Direction, Rule};
use super::section::Section;

/// Fields that Connection may have removed. Honest messages name one or two; each costs a look at
/// every field, so their number must have a bound.
const NOMINATED_MAX: usize = 16;

/// What the head says about its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub close: bool,
    pub keep_alive: bool,
    /// Where the Upgrade field's value stands in the text, where Connection names it.
    pub upgrade: Option<(u32, u32)>,
    pub te_trailers: bool,
    pub expects_continue: bool,
}

impl Options {
    /// RFC 9112 9.3.
    pub(super) fn persistent(&self, version: Version) -> bool {
        match version {
            Version::H10 => self.keep_alive && !self.close,
            Version::H11 | Version::H2 => !self.close,
        }
    }
}

/// Reads the connection fields; marks what Connection names as of this connection alone.
pub(super) fn read(section: &mut Section<'_>, version: Version) -> Options {
    let mut options = Options::default();
    if !section.has_connection_fields {
        return options;
    }
    // Fields are marked while their text is read: the text is set aside meanwhile.
    let text = std::mem::take(&mut section.storage.text);
    let mut fields = std::mem::take(&mut section.storage.fields);
    let mut named = Named::default();
    let (mut expects_other, mut upgrades) = (false, false);
    for field in fields.iter().copied() {
        match field.role() {
            Role::Connection => named.read(&text, field, &mut section.judge),
            Role::Te => options.te_trailers |= field.value(&text).eq_ignore_ascii_case(b"trailers"),
            Role::Expect if !expects(&text, field, section, version) => expects_other = true,
            Role::Expect if options.expects_continue => {
                section.judge.find(Rule::ExpectInvalid, b"expect", field.value(&text));
                expects_other = true;
            }
            Role::Expect => options.expects_continue = true,
            Role::Upgrade => upgrades = true,
            _ => {}
        }
    }
    options.close = named.close;
    options.keep_alive = named.keep_alive;
    for name in &named.nominated {
        for field in fields.iter_mut().filter(|field| field.name(&text).eq_ignore_ascii_case(name))
        {
            field.keeping = Keeping::Hop;
        }
    }
    if expects_other {
        let mut stays = options.expects_continue;
        fields.retain(|field| match field.role() {
            Role::Expect => is_continue(field.value(&text)) && std::mem::take(&mut stays),
            _ => true,
        });
    }
    if upgrades {
        options.upgrade = upgrade(&text, &fields, section, (version, named.upgrade));
    }
    section.storage.text = text;
    section.storage.fields = fields;
    options
}

/// What the Connection fields name.
#[derive(Debug, Default)]
struct Named<'a> {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    nominated: Vec<&'a [u8]>,
}

impl<'a> Named<'a> {
    fn read(&mut self, text: &'a [u8], field: Field, judge: &mut Judge<'_>) {
        let mut reported = false;
        for option in field.value(text).split(|b| *b == b',') {
            let option = class::trim(option);
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if is_nominable(option) && self.nominated.len() < NOMINATED_MAX {
                self.nominated.push(option);
            } else if !option.is_empty() && !is_hop(option) && !reported {
                judge.find(Rule::ConnectionOption, b"connection", option);
                reported = true;
            }
        }
    }
}

/// Removed anyway.
fn is_hop(option: &[u8]) -> bool {
    known::lookup(option).is(known::HOP)
}

/// A field that a sender may declare to be of this connection.
fn is_nominable(option: &[u8]) -> bool {
    let other = known::END_TO_END | known::FORWARDING | known::GUARD | known::HOP;
    class::is_token(option) && !known::lookup(option).is(other)
}

/// The Upgrade field where it counts: over HTTP/1.1, named by Connection, one or more protocols,
/// none of them h2c (through a proxy it would be a tunnel past every rule in here).
fn upgrade(
    text: &[u8],
    fields: &[Field],
    section: &mut Section<'_>,
    (version, named): (Version, bool),
) -> Option<(u32, u32)> {
    let is_upgrade = |field: &Field| field.role() == Role::Upgrade;
    let at = fields.iter().position(is_upgrade)?;
    // RFC 9110 7.8: a server ignores it over HTTP/1.0.
    if version != Version::H11 {
        return None;
    }
    let value = fields[at].value(text);
    let is_protocol = |protocol: &[u8]| {
        let mut parts = class::trim(protocol).splitn(2, |b| *b == b'/');
        let is_h2c = class::trim(protocol).eq_ignore_ascii_case(b"h2c");
        parts.all(class::is_token) && (!is_h2c || section.judge.direction() == Direction::Response)
    };
    let repeated = fields[at + 1..].iter().any(is_upgrade);
    if named && !repeated && value.split(|b| *b == b',').all(is_protocol) {
        let field = fields[at];
        return Some((field.start + field.name_len + 2, field.value_len));
    }
    section.judge.find(Rule::UpgradeInvalid, b"upgrade", value);
    None
}

/// Whether the client waits for 100 (Continue).
fn expects(text: &[u8], field: Field, section: &mut Section<'_>, version: Version) -> bool {
    let value = field.value(text);
    if section.judge.direction() == Direction::Response {
        return true;
    }
    let has_content = section.lengths.is_chunked()
        || section.lengths.length().is_some_and(|length| length > 0)
        || version == Version::H2;
    // RFC 9110 10.1.1: ignored over HTTP/1.0.
    if version == Version::H10 {
        return false;
    }
    if is_continue(value) && has_content {
        return true;
    }
    section.judge.find(Rule::ExpectInvalid, b"expect", value);
    false
}

fn is_continue(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"100-continue")
}
