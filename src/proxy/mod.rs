//! The proxy: one snapshot, the queues, and what outlives a reload, bound together.
//!
//! [`Proxy`] is the process's; [`Thread`] is what one serving thread adds to it. Everything that a
//! connection or a request consults hangs on one [`Live`] value behind an `ArcSwap`: the snapshot,
//! and beside it, by the same positions, the state of each site that outlives reloads. A thread
//! keeps the current one in an `Rc`, so that requests share no counter with other threads.

pub mod account;
mod certificate;
pub mod connection;
pub mod handshake;
pub mod places;
pub mod request;
mod upload;

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use foldhash::HashMap;
use tokio::sync::mpsc;

use crate::accesslog::AccessLog;
use crate::admission::{
    ClientRates, HandshakeLimits, HandshakeQueue, Held, Rate, RequestGate, RequestLimits,
};
use crate::background::drop_aside;
use crate::config::Snapshot;
use crate::findings::FindingsStore;
use crate::metrics::{Metrics, SiteMetrics};
use crate::names::SiteId;
use crate::sites::Site;
use crate::timers::Timers;
use crate::upstream::{Client, Upstream};
use handshake::Asides;
pub use places::ConnectionSlot;
use places::Places;

/// So many are given back in less time than a thread takes to start.
const SITES_DROPPED_IN_PLACE_MAX: usize = 500;

/// What all threads share.
pub struct Proxy {
    live: ArcSwap<Live>,
    /// The generation of `live`, for a cheap look.
    generation: AtomicU64,
    /// Connections that wait for a handshake thread.
    pub handshakes: HandshakeQueue<handshake::Waiting>,
    /// Counters of the process.
    pub metrics: Arc<Metrics>,
    /// What was odd about heads.
    pub findings: FindingsStore,
    /// Places for client connections.
    places: Places,
    draining: AtomicBool,
}

/// One generation: the snapshot, and each site's lasting state by the same positions.
pub struct Live {
    /// The plain data.
    pub snapshot: Arc<Snapshot>,
    /// One line a request; the same log as long as its target stays.
    pub access: Arc<AccessLog>,
    /// Shared from one generation to the next where no site and none of the queues' bounds moved.
    sites: Arc<Vec<Arc<SiteState>>>,
}

/// What of a site outlives a reload.
pub struct SiteState {
    /// Admits requests to the endpoints.
    pub gate: Arc<RequestGate>,
    /// The endpoints, their health and load.
    pub upstream: Arc<Upstream>,
    /// The site's counters.
    pub metrics: Arc<SiteMetrics>,
    /// `limits.requests_per_second`.
    pub request_rate: Option<Arc<Rate>>,
    /// `limits.handshakes_per_second`.
    pub handshake_rate: Option<Arc<Rate>>,
    /// `limits.requests_per_second_per_client`.
    pub request_rates: Option<Arc<ClientRates>>,
    /// `limits.handshakes_per_second_per_client`.
    pub handshake_rates: Option<Arc<ClientRates>>,
    /// Its connections, where they are bounded.
    pub connections: Arc<Held>,
    /// Its requests by client, where these are bounded.
    pub requests: Arc<Held>,
}

impl Proxy {
    /// A proxy that serves `snapshot`.
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>, access: Arc<AccessLog>) -> Arc<Proxy> {
        let snapshot = Arc::new(snapshot);
        Arc::new(Proxy {
            generation: AtomicU64::new(snapshot.generation),
            handshakes: HandshakeQueue::new(handshake_limits(&snapshot), places(&snapshot)),
            live: ArcSwap::from_pointee(Live::new(snapshot, access, &metrics, None)),
            metrics,
            findings: FindingsStore::default(),
            places: Places::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// What is served now.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Swaps in another snapshot. Requests in flight keep the old one. Called by one thread.
    pub fn swap(&self, snapshot: Snapshot, access: Arc<AccessLog>) {
        let snapshot = Arc::new(snapshot);
        let generation = snapshot.generation;
        for (waiting, refusal) in self.handshakes.reconfigure(handshake_limits(&snapshot)) {
            waiting.turn_away(self, refusal);
        }
        let live = Live::new(snapshot, access, &self.metrics, Some(&self.live()));
        self.live.store(Arc::new(live));
        self.generation.store(generation, Ordering::Release);
    }

    /// Client connections the process holds now.
    pub fn connections(&self) -> usize {
        self.places.taken()
    }

    /// From now on connections finish what is in flight and close.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`drain`](Proxy::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Handshakes of the process that may have begun.
fn places(snapshot: &Snapshot) -> usize {
    snapshot.queues.handshake_concurrency * snapshot.runtime.threads
}

fn handshake_limits(snapshot: &Snapshot) -> HandshakeLimits {
    HandshakeLimits {
        depth: snapshot.queues.handshake_depth,
        deadline: snapshot.queues.handshake_deadline,
    }
}

impl Live {
    fn new(
        snapshot: Arc<Snapshot>,
        access: Arc<AccessLog>,
        metrics: &Metrics,
        previous: Option<&Live>,
    ) -> Live {
        let same_queues = previous.is_some_and(|live| live.snapshot.queues == snapshot.queues);
        let stay = |live: &&Live| same_queues && live.snapshot.sites.shares_index(&snapshot.sites);
        if let Some(live) = previous.filter(stay) {
            return Live { sites: live.sites.clone(), snapshot, access };
        }
        let ids: Vec<SiteId> = snapshot.sites.all().iter().map(|site| site.id.clone()).collect();
        let series = metrics.sites_reconcile(&ids);
        let known: HashMap<&SiteId, (&Arc<Site>, &Arc<SiteState>)> = previous
            .map(Live::sites)
            .into_iter()
            .flatten()
            .map(|(site, state)| (&site.id, (site, state)))
            .collect();
        let sites: Vec<_> = (snapshot.sites.all().iter().zip(series))
            .map(|(site, series)| match known.get(&site.id) {
                Some((before, state))
                    if same_queues
                        && Arc::ptr_eq(before, site)
                        && Arc::ptr_eq(&state.metrics, &series) =>
                {
                    Arc::clone(state)
                }
                before => {
                    let before = before.map(|(_, state)| &***state);
                    Arc::new(SiteState::new(site, &snapshot, series, before))
                }
            })
            .collect();
        Live { snapshot, access, sites: Arc::new(sites) }
    }

    /// The site that serves `host` (canonical text), and its state.
    pub fn site(&self, host: &str) -> Option<(&Arc<Site>, &Arc<SiteState>)> {
        self.snapshot.sites.position(host).and_then(|at| self.site_at(at))
    }

    /// A site by its position in the snapshot, and its state.
    fn site_at(&self, at: usize) -> Option<(&Arc<Site>, &Arc<SiteState>)> {
        self.snapshot.sites.all().get(at).zip(self.sites.get(at))
    }

    /// Whether the address is a proxy of the operator's, which speaks for many clients: no bound of
    /// one client's is its.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        let trusted = &self.snapshot.listen.trusted_proxies;
        trusted.iter().any(|network| network.contains(&address))
    }

    /// The states of all sites, by position: the same ones while neither sites nor queues move.
    pub fn states(&self) -> &Arc<Vec<Arc<SiteState>>> {
        &self.sites
    }

    /// All sites with their states.
    pub fn sites(&self) -> impl Iterator<Item = (&Arc<Site>, &Arc<SiteState>)> {
        self.snapshot.sites.all().iter().zip(&*self.sites)
    }
}

/// Given back aside: the last to let go may be a serving thread, and a hundred thousand sites take
/// milliseconds.
impl Drop for Live {
    fn drop(&mut self) {
        if self.sites.len() > SITES_DROPPED_IN_PLACE_MAX {
            // The sites go first: until then this thread has let go of the snapshot as well.
            drop_aside((mem::take(&mut self.sites), self.snapshot.clone()));
        }
    }
}

impl SiteState {
    fn new(
        site: &Site,
        snapshot: &Snapshot,
        metrics: Arc<SiteMetrics>,
        before: Option<&SiteState>,
    ) -> SiteState {
        let limits = RequestLimits {
            in_flight: site.limits.in_flight.or(snapshot.queues.in_flight),
            depth: snapshot.queues.request_depth,
            deadline: snapshot.queues.request_deadline,
        };
        let gate = match before {
            Some(before) => {
                before.gate.reconfigure(limits);
                before.gate.clone()
            }
            None => RequestGate::new(limits),
        };
        let upstream = before.map(|before| &*before.upstream);
        SiteState {
            gate,
            upstream: Arc::new(Upstream::new(&site.id, &site.upstream, upstream)),
            metrics,
            request_rate: rate(
                site.limits.requests_per_second,
                before.and_then(|before| before.request_rate.as_ref()),
            ),
            handshake_rate: rate(
                site.limits.handshakes_per_second,
                before.and_then(|before| before.handshake_rate.as_ref()),
            ),
            request_rates: client_rates(
                site.limits.requests_per_second_per_client,
                before.and_then(|before| before.request_rates.as_ref()),
            ),
            handshake_rates: client_rates(
                site.limits.handshakes_per_second_per_client,
                before.and_then(|before| before.handshake_rates.as_ref()),
            ),
            connections: before.map_or_else(Arc::default, |before| before.connections.clone()),
            requests: before.map_or_else(Arc::default, |before| before.requests.clone()),
        }
    }
}

/// A site's bound on what comes in a second, with what was taken of it before a reload. A burst of
/// one second's worth passes.
fn rate(per_second: Option<u32>, before: Option<&Arc<Rate>>) -> Option<Arc<Rate>> {
    let per_second = per_second?;
    if let Some(rate) = before {
        rate.reconfigure(per_second, per_second);
        return Some(rate.clone());
    }
    Some(Arc::new(Rate::new(per_second, per_second, Instant::now())))
}

/// The same for each of its clients; the bound itself stands in the snapshot.
fn client_rates(
    per_second: Option<u32>,
    before: Option<&Arc<ClientRates>>,
) -> Option<Arc<ClientRates>> {
    per_second?;
    Some(before.cloned().unwrap_or_else(|| Arc::new(ClientRates::new(Instant::now()))))
}

/// A thread's share of what is served: cloning it touches no memory of another thread.
pub type Here = Rc<Arc<Live>>;

/// What one serving thread adds to the proxy.
pub struct Thread {
    /// The process's part.
    pub proxy: Arc<Proxy>,
    /// The thread's deadlines.
    pub timers: Rc<Timers>,
    /// The thread's connections to endpoints.
    pub client: Rc<Client>,
    /// Where what has begun is laid down, by whichever thread began it.
    started: mpsc::Sender<handshake::Started>,
    /// Handshakes that it computes itself.
    asides: Asides,
    live: RefCell<Here>,
    request_ids: RequestIds,
}

impl Thread {
    /// A thread's part, on the thread itself, and what it is to go on with: handshakes that have
    /// begun.
    pub fn new(proxy: Arc<Proxy>) -> (Rc<Thread>, mpsc::Receiver<handshake::Started>) {
        let (started, begun) = mpsc::channel(places(&proxy.live().snapshot));
        let timers = Timers::new();
        let client = Client::new(timers.clone());
        let live = RefCell::new(Rc::new(proxy.live()));
        let (asides, request_ids) = (Asides::default(), RequestIds::default());
        let thread = Thread { proxy, timers, client, started, asides, live, request_ids };
        (Rc::new(thread), begun)
    }

    /// What is served now; one look at a counter unless there was a reload.
    pub fn live(&self) -> Here {
        let mut live = self.live.borrow_mut();
        if live.snapshot.generation != self.proxy.generation.load(Ordering::Acquire) {
            *live = Rc::new(self.proxy.live());
        }
        live.clone()
    }
}

/// Makes request ids: unique over threads, restarts and machines, and cheap.
struct RequestIds {
    /// The last one: 16 digits drawn at the thread's start, and a count of 16.
    last: RefCell<String>,
}

impl Default for RequestIds {
    fn default() -> RequestIds {
        // The keys of a fresh RandomState are random and unlike any other's.
        let prefix = RandomState::new().hash_one(0);
        RequestIds { last: RefCell::new(format!("{prefix:016x}{:016x}", 0)) }
    }
}

impl RequestIds {
    /// A new id: 32 lower-case hexadecimal digits.
    fn next(&self) -> Rc<str> {
        let mut last = self.last.borrow_mut();
        count_up(&mut last);
        last.as_str().into()
    }
}

/// Adds one to a number in lower-case hexadecimal digits, in place: mostly it is the last that changes.
fn count_up(digits: &mut String) {
    match digits.pop() {
        Some('9') => digits.push('a'),
        Some('f') => {
            count_up(digits);
            digits.push('0');
        }
        Some(digit) => digits.push(char::from(digit as u8 + 1)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_32_digits_and_differ() {
        let mut digits = "0fe".to_owned();
        for next in ["0ff", "100", "101"] {
            count_up(&mut digits);
            assert_eq!(digits, next);
        }
        "38ff".clone_into(&mut digits);
        count_up(&mut digits);
        assert_eq!(digits, "3900");
        "39".clone_into(&mut digits);
        count_up(&mut digits);
        assert_eq!(digits, "3a");
        let (one, other) = (RequestIds::default(), RequestIds::default());
        let ids = [one.next(), one.next(), other.next()];
        assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[0][..16] == ids[1][..16]);
    }
}
