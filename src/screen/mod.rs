//! Header screening: bytes in, canonical head and findings out.
//!
//! Strict in what it finds, non-fatal in what it does. Every head, from clients and from
//! endpoints, comes through here before anybody acts on it; what leaves is canonical: one name,
//! one colon, one blank, one line end, one Host, one framing. So whatever stands behind sluss cannot
//! read another message than sluss did. Framing and authority are decided here and nowhere else.
//!
//! A defect is a [`Finding`] of one [`Rule`]; the [`Policy`] says what follows from it. Only where
//! the message's end or addressee is in doubt is the head [`Refused`] whatever the policy says.
//!
//! The whole room is pure: no clock, no socket, no allocation for clean heads once the [`Storage`]
//! is warm.

pub mod chunk;
mod class;
mod connection;
mod excerpt;
mod facts;
mod finding;
mod framing;
mod h1;
mod h2;
mod head;
mod known;
mod lines;
mod policy;
mod recorded;
mod rule;
mod section;
mod start_line;
mod target;
mod trailer;
mod write;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use finding::{FINDINGS_MAX, Finding};
pub use framing::Framing;
pub use h1::{request, response};
pub use h2::{request_h2, request_list, response_h2, response_list};
pub use head::{RequestHead, RequestMethod, ResponseHead, Storage, Version};
pub use lines::Scan;
pub use policy::{LaxerThanAllowed, Policy, PolicySpec, Profile, RulesVersion};
pub use recorded::{Recorded, judge_recorded};
pub use rule::{Action, Direction, Rule, UnknownName};
pub use target::Authority;
pub use trailer::{trailers, trailers_h2, write_trailers};
pub use write::{ClientText, Forward, ResponseTo};

use crate::refusal::Refusal;

/// What a call found in the bytes at hand.
#[derive(Debug)]
pub enum Reading<H> {
    /// Not the whole head yet: read more and call again with the same bytes in front.
    Partial(Storage),
    /// The whole head.
    Complete {
        /// The head and what was odd about it.
        screened: Screened<H>,
        /// Bytes of the input that belonged to it, skipped empty lines included.
        consumed: usize,
    },
}

/// A head that may be forwarded.
#[derive(Debug)]
pub struct Screened<H> {
    /// The canonical head.
    pub head: H,
    /// What was odd about it.
    pub findings: Vec<Finding>,
}

/// A head that must not be forwarded.
#[derive(Debug)]
pub struct Refused {
    /// What was odd; at least one finding's action is `refuse`.
    pub findings: Vec<Finding>,
    /// `HeadMalformed`, `HeadTooLarge` or `UpstreamHeadMalformed`.
    pub reason: Refusal,
    /// For the next head.
    pub storage: Storage,
    /// The first line for the log: escaped, bounded, without its query.
    pub start_line: String,
}

impl Refused {
    /// A request that the HTTP/2 library has reset without showing it (RFC 9113 8.1.1).
    pub fn unseen(policy: &Policy) -> Refused {
        Refused {
            findings: vec![policy.find(Rule::MessageMalformed, Direction::Request, "", b"")],
            reason: Refusal::HeadMalformed,
            storage: Storage::default(),
            start_line: String::new(),
        }
    }

    /// The host that the request names, where it was read and nothing about it was odd: its site is
    /// the one that the request was for.
    pub fn host(&self) -> Option<&str> {
        Some(self.storage.authority.host()).filter(|host| !host.is_empty())
    }

    fn new(mut section: section::Section<'_>, first_line: &[u8]) -> Box<Refused> {
        if section.judge.has_found(Rule::Host) {
            section.storage.authority.clear();
        }
        let reason = match (section.judge.direction(), section.judge.refused_by()) {
            (Direction::Request, Some(Rule::Oversize)) => Refusal::HeadTooLarge,
            (Direction::Request, _) => Refusal::HeadMalformed,
            (Direction::Response, _) => Refusal::UpstreamHeadMalformed,
        };
        Box::new(Refused {
            reason,
            start_line: excerpt::start_line(first_line),
            findings: section.judge.into_findings(),
            storage: section.storage,
        })
    }
}
