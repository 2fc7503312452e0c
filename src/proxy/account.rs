//! The account of one request: opened with its first byte, closed with its response's last.
//!
//! It holds the permit and gives it back, counts the request for its site, and writes the access
//! log's line. However a request ends, its account is closed exactly once: by
//! [`Ticket::finish`], or by its drop, which tells that the client is gone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::request::{self, Active, Connection, Security};
use super::{SiteState, Thread};
use crate::accesslog::AccessRecord;
use crate::admission::{Hold, Permit};
use crate::downstream::{Reply, Ticket};
use crate::findings::FindingContext;
use crate::heads;
use crate::metrics::UpstreamResult;
use crate::refusal::{Refusal, Side};
use crate::screen::{Direction, Finding, RequestHead, Version};
use crate::sites::{Site, TlsVersion};
use crate::upstream::{Endpoint, Failure, Response, Sent};

/// One request's account. Boxed: it goes from hand to hand.
pub struct Account(Box<Open>);

/// What a closed account has no use for any more.
struct Open {
    entries: Entries,
    /// `None` for a request whose head was refused.
    head: Option<RequestHead>,
    closed: bool,
}

/// What is to be said of a request, as far as it has come.
pub struct Entries {
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    request_id: Rc<str>,
    since: Instant,
    site: Option<(Arc<Site>, Arc<SiteState>)>,
    /// Of a head that was not understood, for the log.
    start_line: Option<Box<str>>,
    permit: Option<Permit>,
    place: Option<Hold>,
    queue: Wait,
    upstream: Duration,
    sent: Sent,
    endpoint: Option<Arc<Endpoint>>,
    status: u16,
    refusal: Option<Refusal>,
    _active: Active,
}

/// A request's time in its site's queue.
enum Wait {
    Since(Instant),
    Over(Duration),
}

impl Wait {
    fn so_far(&self) -> Duration {
        match self {
            Wait::Since(begun) => begun.elapsed(),
            Wait::Over(waited) => *waited,
        }
    }
}

impl Account {
    /// Opens the account of a request; `head` as it was screened.
    pub fn new(entries: Entries, head: Option<RequestHead>) -> Account {
        Account(Box::new(Open { entries, head, closed: false }))
    }

    /// What is written into it, and the request's head.
    pub fn parts(&mut self) -> (&mut Entries, Option<&RequestHead>) {
        (&mut self.0.entries, self.0.head.as_ref())
    }

    fn close(&mut self, received: u64, sent: u64, cut: Option<Refusal>) {
        let Open { entries, head, closed } = &mut *self.0;
        if std::mem::replace(closed, true) {
            return;
        }
        entries.conclude(cut);
        let total = entries.since.elapsed();
        entries.count(received, sent, total);
        entries.log(head.as_ref(), received, sent, total);
        if let Some(head) = head.take() {
            heads::give_back(head.into_storage());
        }
    }
}

impl Entries {
    /// Of a request whose first byte was read at `since`.
    pub fn new(
        thread: &Rc<Thread>,
        connection: &Rc<Connection>,
        active: Active,
        since: Instant,
        request_id: &Rc<str>,
    ) -> Entries {
        Entries {
            thread: thread.clone(),
            connection: connection.clone(),
            request_id: request_id.clone(),
            since,
            site: None,
            start_line: None,
            permit: None,
            place: None,
            queue: Wait::Over(Duration::ZERO),
            upstream: Duration::ZERO,
            sent: Sent::default(),
            endpoint: None,
            status: 0,
            refusal: None,
            _active: active,
        }
    }

    /// The request's site is found.
    pub fn site(&mut self, site: &Arc<Site>, state: &Arc<SiteState>) {
        self.site = Some((site.clone(), state.clone()));
    }

    /// Its head was not understood; it begins so, escaped and without query.
    pub fn start_line(&mut self, start_line: &str) {
        self.start_line = Some(start_line.into());
    }

    /// When the request began to wait for anything.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The request's place among its client's, until the account is closed.
    pub fn holds(&mut self, place: Option<Hold>) {
        self.place = place;
    }

    /// The request waits for its turn.
    pub fn waits(&mut self, begun: Instant) {
        self.queue = Wait::Since(begun);
    }

    /// Its turn has come, or will not: how long it waited.
    pub fn has_waited(&mut self) -> Duration {
        let waited = self.queue.so_far();
        self.queue = Wait::Over(waited);
        waited
    }

    /// The request may go to an endpoint.
    pub fn admitted(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// What it holds of its site's limit.
    pub fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    /// Where it is written to whom the request goes.
    pub fn sent(&self) -> &Sent {
        &self.sent
    }

    /// An endpoint has answered.
    pub fn answered(&mut self, response: &Response) {
        self.upstream = response.latency;
        self.endpoint = self.sent.take().map(|(endpoint, _)| endpoint);
        self.status = response.head.status();
        self.count_attempts(response.retries, UpstreamResult::Answered);
        if response.upgraded.is_some() {
            // It is no request any more: connections have bounds of their own.
            self.learn(None);
        } else if let Some(permit) = self.permit.as_mut().filter(|_| !response.body.is_whole()) {
            permit.streams();
        }
    }

    /// No endpoint has answered.
    pub fn upstream_failed(&mut self, failure: &Failure) {
        let refusal = failure.refusal;
        self.unanswered();
        // Of those that could not be reached nothing was written.
        self.endpoint.clone_from(&failure.endpoint);
        if let Some(permit) = self.permit.take() {
            match refusal.side() {
                Side::Upstream => permit.failed(),
                Side::Downstream | Side::Edge => drop(permit),
            }
        }
        let result = match refusal {
            Refusal::UpstreamTimeout => UpstreamResult::Timeout,
            Refusal::UpstreamHeadMalformed => UpstreamResult::Malformed,
            _ => UpstreamResult::Failed,
        };
        if refusal.side() == Side::Upstream {
            self.count_attempts(failure.retries, result);
        }
    }

    /// Nobody waits any more for the answer of the endpoint it was sent to.
    fn unanswered(&mut self) {
        if let Some((endpoint, sent)) = self.sent.take() {
            self.upstream = sent.elapsed();
            self.endpoint = Some(endpoint);
        }
    }

    fn count_attempts(&self, retries: u32, last: UpstreamResult) {
        let Some((_, state)) = &self.site else { return };
        for _ in 0..retries {
            state.metrics.upstream(UpstreamResult::Retried, Duration::ZERO);
        }
        state.metrics.upstream(last, self.upstream);
    }

    /// What the client is told of a refusal: the site's maintenance page where no endpoint answers.
    pub fn refuse<B, U>(&mut self, refusal: Refusal) -> Reply<B, U> {
        self.refusal = Some(refusal);
        let page = match (refusal, &self.site) {
            (Refusal::NoEndpoint, Some((site, _))) => site.maintenance.clone(),
            _ => None,
        };
        Reply::Refused { refusal, page }
    }

    /// The client is sent on, for this reason.
    pub fn redirects(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
    }

    fn conclude(&mut self, cut: Option<Refusal>) {
        self.refusal = self.refusal.or(cut);
        self.unanswered();
        if self.status == 0 {
            self.status = self.refusal.and_then(Refusal::status).unwrap_or(308);
        } else if cut.is_some_and(|cut| cut.side() == Side::Downstream) {
            self.status = 499;
        }
        self.learn(cut);
    }

    /// Teaches the site's limit what its endpoints can do.
    fn learn(&mut self, cut: Option<Refusal>) {
        let Some(permit) = self.permit.take() else { return };
        match cut.map(Refusal::side) {
            Some(Side::Upstream) => permit.failed(),
            Some(Side::Downstream | Side::Edge) => drop(permit),
            None => permit.succeeded(self.upstream),
        }
    }

    fn count(&self, received: u64, sent: u64, total: Duration) {
        let Some((_, state)) = &self.site else {
            if let Some(refusal) = self.refusal {
                self.thread.proxy.metrics.turned_away(refusal);
            }
            return self.thread.proxy.metrics.request_without_site(self.status, total);
        };
        state.metrics.request(self.status, total);
        state.metrics.bytes(received, sent);
        if let Some(refusal) = self.refusal {
            state.metrics.refused(refusal);
        }
    }

    fn log(&self, head: Option<&RequestHead>, bytes_in: u64, bytes_out: u64, total: Duration) {
        let live = self.thread.live();
        if !live.access.is_on() {
            return;
        }
        let (tls_version, resumed) = match &self.connection.security {
            Security::Plain { .. } => ("", false),
            Security::Tls { settled, .. } => match settled.version {
                TlsVersion::Tls12 => ("1.2", settled.resumed),
                TlsVersion::Tls13 => ("1.3", settled.resumed),
            },
        };
        let field = |name| head.and_then(|head| head.field(name)).unwrap_or_default();
        live.access.log(&AccessRecord {
            time: SystemTime::now() - total,
            site: self.site.as_ref().map_or("", |(site, _)| site.id.as_str()),
            host: head.map_or("", |head| head.authority().host()),
            client: &self.connection.text,
            client_port: self.connection.client.port(),
            method: head.map_or("", RequestHead::method),
            path: head.map_or("", RequestHead::target),
            start_line: self.start_line.as_deref().unwrap_or(""),
            protocol: match head.map(RequestHead::version) {
                None => "",
                Some(Version::H10) => "1.0",
                Some(Version::H11) => "1.1",
                Some(Version::H2) => "2",
            },
            status: self.status,
            bytes_in,
            bytes_out,
            queue: self.queue.so_far(),
            upstream: self.upstream,
            total,
            tls_version,
            resumed,
            refusal: self.refusal,
            request_id: &self.request_id,
            endpoint: self.endpoint.as_ref().map_or("", |endpoint| endpoint.url()),
            user_agent: field("user-agent"),
            referer: field("referer"),
        });
    }
}

impl Ticket for Account {
    fn note(&self, direction: Direction, findings: &[Finding]) {
        if findings.is_empty() {
            return;
        }
        let Open { entries, head, .. } = &*self.0;
        let request_line = head.as_ref().map_or_else(String::new, request::line);
        let context = FindingContext {
            request_line: &request_line,
            upstream: entries.endpoint.as_ref().map(|endpoint| endpoint.url()),
            request_id: &entries.request_id,
            now: SystemTime::now(),
        };
        let site = entries.site.as_ref().map(|(site, _)| &site.id);
        entries.thread.proxy.findings.record(site, direction, findings, context);
    }

    fn finish(mut self, received: u64, sent: u64, cut: Option<Refusal>) {
        self.close(received, sent, cut);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.close(0, 0, Some(Refusal::ClientGone));
    }
}
