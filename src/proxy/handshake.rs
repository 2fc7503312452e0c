//! A handshake: queued, computed on a handshake thread, finished on the serving thread. While little
//! waits, a serving thread computes the brief ones itself ([`help`]).
//!
//! A handshake thread stands beside each serving thread at lower priority
//! (`runtime.handshake_nice`): when both want the core, established traffic goes first. It computes
//! and nothing else: the connection belongs to its serving thread, which waits for the client and
//! bounds that wait. In TLS 1.3 the server's one flight holds all the costly work, so one step does
//! it, and the client's answer is checked where it arrives. Whatever else needs asymmetric crypto (a
//! hello retried, TLS 1.2, a client's certificate) goes back to the handshake threads for each step.
//!
//! A connection that waits for its first step is a value in the queue and no task: under a flood most
//! are turned away there. Its serving thread gets it back once it has begun.

use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::connection::Holding;
use super::{Proxy, Thread, certificate};
use crate::admission::{self, Entry};
use crate::metrics::{
    ConnectionState, HandshakeOutcome, HandshakeResult, HandshakeVersion, QueueName, Resumption,
    SiteMetrics,
};
use crate::names::{CustomerId, Hostname};
use crate::queue::Sort;
use crate::refusal::Refusal;
use crate::sites::{SiteTls, TlsVersion};
use crate::tls::{self, Settled, Socket};

/// The client's own flight is one round trip; a distant client's takes about 300 ms. It gets this
/// much on top of the deadline, since the wait for it costs nothing.
const ROUND_TRIPS: Duration = Duration::from_millis(600);

/// What a serving thread computes itself takes about a tenth of a millisecond. What takes longer than
/// this has a large curve: the client's, or the certificate's.
const BRIEF_MAX: Duration = Duration::from_micros(500);

/// What the handshake queue is told of a connection.
pub struct Admissible {
    /// Whom it is counted for.
    pub customer: CustomerId,
    /// The customer's share.
    pub weight: u32,
    /// What the handshake will cost, microseconds of a core.
    pub cost: u32,
    /// How much more, where the session that the client offers is not resumed.
    pub otherwise: u32,
    /// Whether the client offers to resume a session.
    pub sort: Sort,
    /// Whether it needs no RSA signature, however it goes.
    pub is_brief: bool,
    /// When the client began to wait.
    pub since: Instant,
}

/// A connection whose handshake is done.
pub struct Handshaken {
    /// The encrypted connection.
    pub stream: tls::Stream,
    /// What the handshake settled.
    pub settled: Settled,
    /// The SNI.
    pub server_name: Option<Hostname>,
    /// What the site asked of TLS then; a later reload may ask for more.
    pub tls: Option<SiteTls>,
}

/// A connection that has sent its hello.
pub struct Guest {
    /// The connection, its hello unread.
    pub socket: Socket,
    /// The SNI.
    pub server_name: Option<Hostname>,
    /// Where a refusal is counted, if a site has the name.
    pub site: Option<Arc<SiteMetrics>>,
    /// What it holds from accept to close.
    pub holding: Holding,
    /// What was believed of it.
    pub believed: Option<Believed>,
    /// Whether its first step is known to be brief.
    pub is_brief: bool,
}

/// A client's word that its handshake will be a cheap one. Anybody can say so: a ticket is some
/// bytes until it is looked into.
pub struct Believed {
    customer: CustomerId,
    /// What its customer is charged where it was not true.
    cost: u32,
}

/// A connection whose first step is taken: its serving thread goes on with it.
pub struct Started {
    stepped: Stepped,
    server_name: Option<Hostname>,
    site: Option<Arc<SiteMetrics>>,
    holding: Holding,
    believed: Option<Believed>,
}

/// A connection whose next step is to be computed: it waits for a thread.
pub enum Waiting {
    /// No task of its serving thread waits for it: that gets it once it has begun.
    Begin(Box<Guest>, mpsc::Sender<Started>),
    /// Its task waits for the next step.
    GoOn(Box<Begun>, oneshot::Sender<Stepped>),
}

/// A handshake that has begun.
pub struct Begun {
    handshake: tls::Handshake,
    tls: Option<SiteTls>,
    at: Instant,
    /// Of the deadline and the client's round trips.
    until: Instant,
    _place: Place,
}

/// A handshake after a step, and whether it is over.
pub struct Stepped {
    begun: Box<Begun>,
    over: Option<Result<tls::Established, Refusal>>,
}

/// The handshakes that a serving thread computes itself: handing one over wakes two threads.
#[derive(Default)]
pub struct Asides {
    /// Some may wait.
    called: Notify,
    not_before: Cell<Option<Instant>>,
}

impl Asides {
    fn has_time(&self, now: Instant) -> bool {
        self.not_before.get().is_none_or(|at| at <= now)
    }

    /// One was begun at `since` and is done now. Those that are long against expectation get a
    /// sixteenth of the thread's time.
    fn spent(&self, since: Instant, now: Instant) {
        let took = now.saturating_duration_since(since);
        if took > BRIEF_MAX {
            self.not_before.set(Some(now + 15 * took));
        }
    }
}

/// A place among the handshakes that have begun.
struct Place(Arc<Proxy>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.handshakes.end();
    }
}

impl Guest {
    /// Counts why it is turned away, and ends it with a reset, at once.
    fn turn_away(self, proxy: &Proxy, refusal: Refusal) {
        self.socket.reset_on_close();
        turned_away(proxy, self.site.as_deref(), refusal);
    }
}

impl Waiting {
    /// Turns away what has not begun; nothing else is ever to be.
    pub fn turn_away(self, proxy: &Proxy, refusal: Refusal) {
        if let Waiting::Begin(guest, _) = self {
            guest.turn_away(proxy, refusal);
        }
    }

    /// Takes one step, on whichever thread, and gives back what came of it.
    fn step(self, proxy: &Arc<Proxy>, waited: Duration) {
        match self {
            Waiting::Begin(guest, home) => {
                proxy.metrics.queue_wait(QueueName::Handshake, waited);
                let Guest { socket, server_name, site, holding, believed, .. } = *guest;
                let name = server_name.as_ref();
                let Some(stepped) = guarded(|| Begun::new(proxy, socket, name, waited).step())
                else {
                    return turned_away(proxy, site.as_deref(), Refusal::HandshakeFailed);
                };
                // There is room for all that hold a place; a serving thread ends with the process.
                let started = Started { stepped, server_name, site, holding, believed };
                let _ = home.try_send(started);
            }
            Waiting::GoOn(begun, answer) => {
                if let Some(stepped) = guarded(|| begun.step()) {
                    // Nobody listens where the task has given it up.
                    let _ = answer.send(stepped);
                }
            }
        }
    }
}

/// A panic costs its own connection, as in a task of a serving thread.
fn guarded(step: impl FnOnce() -> Stepped) -> Option<Stepped> {
    catch_unwind(AssertUnwindSafe(step)).ok()
}

impl admission::Waiting for Waiting {
    fn is_gone(&self) -> bool {
        matches!(self, Waiting::Begin(guest, _) if guest.socket.is_gone())
    }

    fn is_brief(&self) -> bool {
        matches!(self, Waiting::Begin(guest, _) if guest.is_brief)
    }
}

impl Begun {
    fn new(
        proxy: &Arc<Proxy>,
        socket: Socket,
        server_name: Option<&Hostname>,
        waited: Duration,
    ) -> Box<Begun> {
        // First: whatever happens, the place is given back.
        let place = Place(proxy.clone());
        let live = proxy.live();
        let site = server_name.and_then(|name| live.site(name.as_str())).map(|(site, _)| &**site);
        let config = live.snapshot.certs.server_config(certificate::tls_policy(site));
        let left = live.snapshot.queues.handshake_deadline.saturating_sub(waited);
        let at = Instant::now();
        Box::new(Begun {
            handshake: tls::Handshake::begin(config, socket),
            tls: site.map(|site| site.tls.clone()),
            at,
            until: at + left + ROUND_TRIPS,
            _place: place,
        })
    }

    /// Goes as far as the client's bytes allow.
    fn step(mut self: Box<Begun>) -> Stepped {
        // Its serving thread polls it again, with a waker of its own.
        let over = match self.handshake.poll_step(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(over) => Some(over),
        };
        Stepped { begun: self, over }
    }

    /// Its client took too long: there is nobody to be told in words.
    fn give_up(&self) -> Refusal {
        self.handshake.reset_on_close();
        Refusal::HandshakeDeadline
    }

    /// Whether what is left is symmetric crypto alone.
    fn is_nearly_over(&self) -> bool {
        let verifies = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        self.handshake.has_signed() && !verifies
    }
}

/// A handshake thread's work, for as long as the process runs. It takes one step at a time, so
/// the queue is left in its own order and no faster than the thread computes.
pub fn work(proxy: &Arc<Proxy>) {
    loop {
        let discard = |waiting: Waiting, refusal| waiting.turn_away(proxy, refusal);
        let (waiting, waited) = proxy.handshakes.next(discard);
        waiting.step(proxy, waited);
    }
}

/// Lets a connection wait for its first step, or turns it or another away.
pub fn queue(thread: &Thread, mut guest: Guest, admissible: Admissible) {
    let Admissible { customer, weight, cost, otherwise, sort, is_brief, since } = admissible;
    guest.is_brief = is_brief;
    if otherwise > 0 {
        guest.believed = Some(Believed { customer: customer.clone(), cost: otherwise });
    }
    let helps = is_brief && thread.asides.has_time(Instant::now());
    let item = Waiting::Begin(Box::new(guest), thread.started.clone());
    let entry = Entry { customer, weight, cost, sort, since, item };
    for (waiting, refusal) in thread.proxy.handshakes.push(entry, helps) {
        waiting.turn_away(&thread.proxy, refusal);
    }
    if helps {
        thread.asides.called.notify_one();
    }
}

/// Computes brief handshakes on a serving thread while little waits, whoever accepted them. Between
/// two of them all that its sockets have has a turn: established traffic waits for one of them.
pub async fn help(thread: Rc<Thread>) {
    let (proxy, asides) = (&thread.proxy, &thread.asides);
    let discard = |waiting: Waiting, refusal| waiting.turn_away(proxy, refusal);
    loop {
        asides.called.notified().await;
        while let Some((waiting, waited)) = proxy.handshakes.next_brief(discard) {
            let since = Instant::now();
            waiting.step(proxy, waited);
            let now = Instant::now();
            asides.spent(since, now);
            if !asides.has_time(now) {
                proxy.handshakes.leave();
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Finishes a handshake that has begun; the gauge follows it. `None` where it failed, which is
/// counted. *Cancel safety*: dropping it gives the handshake up, at its next step.
pub async fn finish(thread: &Thread, started: Started) -> Option<(Handshaken, Holding)> {
    let proxy = &thread.proxy;
    let Started { stepped, server_name, site, mut holding, believed } = started;
    holding.gauge.set(ConnectionState::Handshake);
    let (at, tls) = (stepped.begun.at, stepped.begun.tls.clone());
    let outcome = steps(thread, stepped).await;
    let is_resumed = outcome.as_ref().is_ok_and(|established| established.settled.resumed);
    if let Some(Believed { customer, cost }) = believed.filter(|_| !is_resumed) {
        proxy.handshakes.charge(&customer, Sort::Light, cost);
    }
    match outcome {
        Ok(tls::Established { stream, settled }) => {
            holding.gauge.set(ConnectionState::Idle);
            count(proxy, HandshakeResult::Ok, Some(settled), at.elapsed());
            Some((Handshaken { stream, settled, server_name, tls }, holding))
        }
        Err(refusal) => {
            count(proxy, ended(refusal, HandshakeResult::Failed), None, at.elapsed());
            proxy.metrics.refused_at(site.as_deref(), refusal);
            None
        }
    }
}

/// Waits for the client, within the deadline, and lets what it says be worked on.
async fn steps(thread: &Thread, mut stepped: Stepped) -> Result<tls::Established, Refusal> {
    let deadline = thread.timers.deadline();
    deadline.arm(stepped.begun.until.saturating_duration_since(Instant::now()));
    loop {
        let mut begun = match stepped {
            Stepped { over: Some(over), .. } => return over,
            Stepped { begun, over: None } => begun,
        };
        if begun.is_nearly_over() {
            let over = deadline.bound(poll_fn(|cx| begun.handshake.poll_step(cx))).await;
            return over.map_err(|_| begun.give_up())?;
        }
        let ready = deadline.bound(poll_fn(|cx| begun.handshake.poll_ready(cx))).await;
        ready.map_err(|_| begun.give_up())?;
        let (answer, next) = oneshot::channel();
        thread.proxy.handshakes.go_on(Waiting::GoOn(begun, answer));
        stepped = next.await.map_err(|_| Refusal::HandshakeFailed)?;
    }
}

/// Counts a connection whose handshake has not begun.
fn turned_away(proxy: &Proxy, site: Option<&SiteMetrics>, refusal: Refusal) {
    proxy.metrics.refused(QueueName::Handshake, refusal);
    count(proxy, ended(refusal, HandshakeResult::Refused), None, Duration::ZERO);
    proxy.metrics.refused_at(site, refusal);
}

/// How a handshake ended that was refused for this reason; `otherwise` for any that has no result
/// of its own.
fn ended(refusal: Refusal, otherwise: HandshakeResult) -> HandshakeResult {
    match refusal {
        Refusal::ClientGone => HandshakeResult::Gone,
        Refusal::HandshakeDeadline => HandshakeResult::Deadline,
        _ => otherwise,
    }
}

fn count(proxy: &Proxy, result: HandshakeResult, settled: Option<Settled>, elapsed: Duration) {
    let version = match settled.map(|settled| settled.version) {
        None => HandshakeVersion::None,
        Some(TlsVersion::Tls12) => HandshakeVersion::Tls12,
        Some(TlsVersion::Tls13) => HandshakeVersion::Tls13,
    };
    let resumed = settled.is_some_and(|settled| settled.resumed);
    let resumption = if resumed { Resumption::Resumed } else { Resumption::Full };
    proxy.metrics.handshake(HandshakeOutcome { result, version, resumption }, elapsed);
}

#[cfg(test)]
mod tests;
