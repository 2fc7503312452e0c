//! The way to the site servers: choose an endpoint, connect or reuse, send, read the answer.
//!
//! An [`Upstream`] is a site's endpoints with their load, health and retry budget; all threads share
//! it, and it outlives reloads that keep the endpoints. A [`Client`] is one serving thread's
//! connections; nothing of it is shared. [`Client::send`] is the whole journey of one request.
//!
//! This room decides nothing about a message's framing: it writes what `screen` made canonical and
//! reads answers through it. What always holds:
//!
//! - A connection is used again only when both messages ended cleanly and no byte was left over.
//! - A request whose body was touched is sent once. Retries stay within the site's budget.
//! - Every wait has a deadline: connecting, the answer, each piece of a body, the hold.
//! - Dropping a request's future, or its unfinished response body, closes what it used and gives
//!   all counts back.

pub mod balance;
mod body;
mod client;
mod connect;
mod endpoint;
mod h1;
mod h2;
pub mod health;
mod lane;
mod output;
mod patience;
pub mod pool;
pub mod probe;
pub mod retry;

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

pub use body::ResponseBody;
pub use client::Client;
pub use endpoint::{Endpoint, EndpointSummary, EndpointSums};
pub use h1::{INTERIM_MAX, UpgradedIo};
pub use patience::CONTINUE_PATIENCE;

use crate::names::SiteId;
use crate::refusal::Refusal;
use crate::screen::{Finding, Forward, Policy, RequestHead, ResponseHead};
use crate::sites::{Authorities, Balance, EndpointSpec, HealthCheck, UpstreamSpec};
use balance::{Candidate, Method, Standing};
use connect::Verifier;
use health::Others;
use retry::Budget;

/// A request body, whatever its source.
pub(crate) type ClientBody<'a> = dyn Body<Data = Bytes, Error = Refusal> + Unpin + 'a;

/// One site's endpoints, shared by all threads.
#[derive(Debug)]
pub struct Upstream {
    slots: Vec<Slot>,
    balance: Balance,
    check: Option<HealthCheck>,
    budget: Arc<Budget>,
    turn: AtomicU64,
    epoch: Instant,
}

#[derive(Debug)]
struct Slot {
    endpoint: Arc<Endpoint>,
    weight: u32,
    backup: bool,
}

/// What is to be sent.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// The screened head.
    pub head: &'a RequestHead,
    /// What forwarding adds.
    pub forward: &'a Forward<'a>,
    /// How the answer's head is judged.
    pub policy: &'a Arc<Policy>,
    /// How long the endpoint is waited for.
    pub timeouts: Timeouts,
    /// Until when the request waits while no endpoint can be connected.
    pub hold_until: Instant,
    /// Where it is written to whom the request goes: known too where nobody waits for the answer.
    pub sent: &'a Sent,
}

/// To which endpoint a request was sent last, and when.
#[derive(Default)]
pub struct Sent(RefCell<Option<(Arc<Endpoint>, Instant)>>);

impl Sent {
    fn set(&self, endpoint: &Arc<Endpoint>, at: Instant) {
        *self.0.borrow_mut() = Some((endpoint.clone(), at));
    }

    /// Takes the endpoint and the time out.
    pub fn take(&mut self) -> Option<(Arc<Endpoint>, Instant)> {
        self.0.get_mut().take()
    }
}

/// How long an endpoint is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, name lookup and TLS included.
    pub connect: Duration,
    /// Request sent to response head.
    pub response: Duration,
    /// Between two pieces of a body, either way.
    pub body: Duration,
}

/// What came back.
pub struct Response {
    /// The final head.
    pub head: ResponseHead,
    /// What was found in this and the interim heads.
    pub findings: Vec<Finding>,
    /// The body; empty after an upgrade.
    pub body: ResponseBody,
    /// Who answered.
    pub endpoint: Arc<Endpoint>,
    /// From sending the request, the last time, to the final head: without waits of ours.
    pub latency: Duration,
    /// Attempts that failed before.
    pub retries: u32,
    /// The connection after `101 Switching Protocols`.
    pub upgraded: Option<Box<UpgradedIo>>,
}

/// Nothing came back that can be given to the client.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub refusal: Refusal,
    /// What was found in heads that came.
    pub findings: Vec<Finding>,
    /// Who failed last, where anybody was asked.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Attempts that failed before the last one.
    pub retries: u32,
    /// The start of a response head that was refused, escaped; else empty.
    pub start_line: String,
}

/// Why one attempt ended without an answer.
#[derive(Debug)]
pub(crate) struct Broken {
    refusal: Refusal,
    findings: Vec<Finding>,
    start_line: String,
}

impl Broken {
    pub(crate) fn new(refusal: Refusal, findings: Vec<Finding>) -> Broken {
        Broken { refusal, findings, start_line: String::new() }
    }
}

impl Upstream {
    /// The endpoints of `spec`, which are `site`'s; those that `previous` had keep their health,
    /// load, connections and retry budget. Reads the system's authorities the first time: call it
    /// off the serving threads.
    pub fn new(site: &SiteId, spec: &UpstreamSpec, previous: Option<&Upstream>) -> Upstream {
        let now = Instant::now();
        let mut kept: Vec<Arc<Endpoint>> = previous
            .map(|upstream| upstream.slots.iter().map(|slot| slot.endpoint.clone()).collect())
            .unwrap_or_default();
        let slot = |spec: &EndpointSpec| {
            let same = kept.iter().position(|endpoint| is_same(&endpoint.spec, spec));
            let endpoint = match same {
                Some(at) => kept.swap_remove(at),
                None => Arc::new(Endpoint::new(site, spec.clone(), now)),
            };
            endpoint.verifier.store(Verifier::load(site, spec, endpoint.verifier.load_full()));
            Slot { endpoint, weight: spec.weight, backup: spec.backup }
        };
        let slots: Vec<Slot> = spec.endpoints.iter().map(slot).collect();
        if spec.health.is_none() {
            slots.iter().for_each(|slot| slot.endpoint.check_removed());
        }
        Upstream {
            slots,
            balance: spec.balance.clone(),
            check: spec.health.clone(),
            budget: previous.map(|upstream| upstream.budget.clone()).unwrap_or_default(),
            turn: AtomicU64::new(0),
            epoch: now,
        }
    }

    /// All endpoints, for people and metrics.
    pub fn endpoints(&self) -> Vec<EndpointSummary> {
        let now = Instant::now();
        let summary = |slot: &Slot| slot.endpoint.summary(slot.weight, slot.backup, now);
        self.slots.iter().map(summary).collect()
    }

    /// Adds the figures of all endpoints to the sums; tells how many of them have a blemish.
    pub fn add_to(&self, sums: &mut EndpointSums) -> u64 {
        let before = sums.blemished;
        self.slots.iter().for_each(|slot| slot.endpoint.add_to(sums));
        sums.blemished - before
    }

    /// When any endpoint last answered.
    pub fn last_answer(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|slot| Some(slot.endpoint.last_answer()?.0)).max()
    }

    /// Retries that the budget granted and denied.
    pub fn retries(&self) -> (u64, u64) {
        self.budget.counts()
    }

    /// Whether any endpoint may be used now.
    pub fn is_usable(&self) -> bool {
        let now = Instant::now();
        self.slots.iter().any(|slot| slot.endpoint.standing(now) != Standing::Down)
    }

    /// The endpoint for a request that has tried those of `tried`.
    fn choose(
        &self,
        request: &Outgoing<'_>,
        tried: &[u64],
        random: u64,
        now: Instant,
    ) -> Option<&Arc<Endpoint>> {
        if let [only] = &self.slots[..] {
            let usable =
                only.endpoint.standing(now) != Standing::Down && !tried.contains(&only.endpoint.id);
            return usable.then_some(&only.endpoint);
        }
        let method = match &self.balance {
            Balance::LeastLoaded => Method::LeastLoaded(random),
            Balance::RoundRobin => Method::RoundRobin(self.turn.fetch_add(1, Ordering::Relaxed)),
            Balance::HashClient => Method::Hash(client_key(request)),
            Balance::HashCookie(name) => Method::Hash(cookie_key(request, name)),
        };
        let candidates = self.slots.iter().map(|slot| Candidate {
            weight: slot.weight,
            backup: slot.backup,
            standing: slot.endpoint.standing(now),
            tried: tried.contains(&slot.endpoint.id),
            in_flight: slot.endpoint.in_flight(),
            latency: slot.endpoint.latency(now),
            identity: slot.endpoint.identity,
        });
        balance::choose(method, candidates).map(|at| &self.slots[at].endpoint)
    }

    /// Whether somebody else is up.
    fn others(&self, than: &Endpoint, now: Instant) -> Others {
        let stands = |slot: &&Slot| {
            slot.endpoint.id != than.id && slot.endpoint.standing(now) == Standing::Up
        };
        if self.slots.iter().any(|slot| stands(&slot)) { Others::Stand } else { Others::Gone }
    }

    fn withdraw_retry(&self, now: Instant) -> bool {
        self.budget.withdraw(now.duration_since(self.epoch).as_secs() + 1)
    }
}

/// Weight, backup and what its file of authorities holds may change under an endpoint's feet; what it
/// is reached by may not.
fn is_same(one: &EndpointSpec, other: &EndpointSpec) -> bool {
    let EndpointSpec { url, address, protocol, tls_name, ca, weight: _, backup: _ } = one;
    let file = |ca: &Option<Arc<Authorities>>| ca.as_ref().map(|ca| ca.file.clone());
    (url, address, protocol, tls_name, file(ca))
        == (&other.url, &other.address, &other.protocol, &other.tls_name, file(&other.ca))
}

fn client_key(request: &Outgoing<'_>) -> u64 {
    match request.forward.client.ip() {
        IpAddr::V4(address) => balance::identity(&address.octets()),
        IpAddr::V6(address) => balance::identity(&address.octets()),
    }
}

/// The cookie's value; the client's address where the request has none.
fn cookie_key(request: &Outgoing<'_>, name: &str) -> u64 {
    let value = request
        .head
        .fields()
        .filter(|(field, _)| *field == "cookie")
        .flat_map(|(_, value)| value.split(|byte| *byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        });
    value.map_or_else(|| client_key(request), balance::identity)
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.head.status())
            .field("endpoint", &self.endpoint.url())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
