//! The life of a request, top to bottom: screened (by `downstream`), routed, judged, admitted,
//! sent, answered, accounted for.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body::Body;

use super::account::{Account, Entries};
use super::connection::Holding;
use super::upload::Upload;
use super::{Live, RequestIds, SiteState, Thread, certificate};
use crate::admission::{HeldLimits, Hold};
use crate::downstream::answer::page_bytes;
use crate::downstream::{Answer, Limits, Reply, Request, Service, Source, Ticket as _};
use crate::findings::FindingContext;
use crate::metrics::{ConnectionState, QueueName};
use crate::names::Hostname;
use crate::refusal::Refusal;
use crate::screen::{
    ClientText, Direction, Finding, Forward, Policy, Refused, RequestHead, ResponseHead,
};
use crate::sites::{Site, SiteTls};
use crate::tls::Settled;
use crate::upstream::{self, Outgoing};

/// Where certificates' authorities look for their challenge over plain HTTP (RFC 8555 8.3).
const ACME_PREFIX: &str = "/.well-known/acme-challenge/";

/// Answers the requests of one connection.
pub struct Handler {
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    presence: Rc<Presence>,
    last: RefCell<Option<Found>>,
}

/// The site found last: nearly all requests of a connection are for one host.
struct Found {
    generation: u64,
    host: Box<str>,
    at: usize,
}

/// A connection's place in the bounds and the metrics, shared with its open requests.
struct Presence {
    holding: RefCell<Holding>,
    /// Open requests; a connection without is idle.
    open: Cell<usize>,
}

/// What a request needs to know of its connection.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: SocketAddr,
    /// The same as endpoints are told of it.
    pub text: ClientText,
    /// How it came.
    pub security: Security,
}

/// How a connection is protected.
#[derive(Clone)]
pub enum Security {
    /// Not at all; requests are redirected to this port.
    Plain {
        /// Where the same host serves TLS.
        https_port: u16,
        /// It came to a TLS listener.
        misled: bool,
    },
    /// By TLS.
    Tls {
        /// What the handshake settled.
        settled: Settled,
        /// The SNI.
        server_name: Option<Hostname>,
        /// What the server name's site asked of TLS at the handshake.
        asked: Option<SiteTls>,
    },
}

/// A request's way, as far as it is decided before it waits.
struct Route<'l> {
    site: &'l Arc<Site>,
    state: &'l Arc<SiteState>,
}

/// What the edge answers itself.
enum Unrouted {
    Redirect(String),
    Refused(Refusal),
}

impl Handler {
    /// For a connection to a plain listener.
    pub fn plain(
        thread: Rc<Thread>,
        addresses: (SocketAddr, SocketAddr),
        holding: Holding,
        https_port: u16,
    ) -> Handler {
        Handler::new(thread, addresses, holding, Security::Plain { https_port, misled: false })
    }

    /// For plain HTTP on a TLS listener.
    pub fn misled(
        thread: Rc<Thread>,
        (client, local): (SocketAddr, SocketAddr),
        holding: Holding,
    ) -> Handler {
        let security = Security::Plain { https_port: local.port(), misled: true };
        Handler::new(thread, (client, local), holding, security)
    }

    /// For a connection whose handshake is done.
    pub fn encrypted(
        thread: Rc<Thread>,
        (client, local): (SocketAddr, SocketAddr),
        holding: Holding,
        (settled, server_name, asked): (Settled, Option<Hostname>, Option<SiteTls>),
    ) -> Handler {
        let security = Security::Tls { settled, server_name, asked };
        Handler::new(thread, (client, local), holding, security)
    }

    fn new(
        thread: Rc<Thread>,
        (client, local): (SocketAddr, SocketAddr),
        mut holding: Holding,
        security: Security,
    ) -> Handler {
        let proto = match security {
            Security::Plain { .. } => "http",
            Security::Tls { .. } => "https",
        };
        let text = ClientText::new(client.ip(), local.port(), proto);
        let connection = Connection { client, text, security };
        holding.gauge.set(ConnectionState::Idle);
        let presence = Presence { holding: RefCell::new(holding), open: Cell::new(0) };
        let (connection, presence) = (Rc::new(connection), Rc::new(presence));
        Handler { thread, connection, presence, last: RefCell::default() }
    }

    /// The site that serves `host` (canonical text), and its state.
    fn site<'l>(&self, live: &'l Live, host: &str) -> Option<(&'l Arc<Site>, &'l Arc<SiteState>)> {
        let generation = live.snapshot.generation;
        let is_it = |found: &&Found| found.generation == generation && *found.host == *host;
        if let Some(found) = self.last.borrow().as_ref().filter(is_it) {
            return live.site_at(found.at);
        }
        let at = live.snapshot.sites.position(host)?;
        *self.last.borrow_mut() = Some(Found { generation, host: host.into(), at });
        live.site_at(at)
    }

    /// The policy of a host's site; of the server name's where there is no host yet.
    fn policy_of<'l>(&self, live: &'l Live, host: Option<&str>) -> &'l Arc<Policy> {
        let site = host.or(self.server_name()).and_then(|host| self.site(live, host));
        site.map_or(&live.snapshot.screening, |(site, _)| &site.screening)
    }

    fn server_name(&self) -> Option<&str> {
        match &self.connection.security {
            Security::Tls { server_name, .. } => server_name.as_ref().map(Hostname::as_str),
            Security::Plain { .. } => None,
        }
    }

    fn is_trusted(&self, live: &Live) -> bool {
        live.is_trusted(self.connection.client.ip())
    }
}

impl Service for Handler {
    type Body = upstream::ResponseBody;
    type Upgraded = Box<upstream::UpgradedIo>;
    type Ticket = Account;

    fn limits(&self) -> Limits {
        let live = self.thread.live();
        let timeouts = &live.snapshot.timeouts;
        let (head, idle) = match self.connection.security {
            // Where a hello is expected, this is as long as a client may take to say anything.
            Security::Plain { misled: true, .. } => (timeouts.hello, timeouts.hello),
            _ => (timeouts.head, timeouts.idle),
        };
        Limits { head, idle, body: timeouts.body }
    }

    fn draining(&self) -> bool {
        self.thread.proxy.is_draining()
    }

    fn policy(&self, host: Option<&str>) -> Arc<Policy> {
        self.policy_of(&self.thread.live(), host).clone()
    }

    fn other_policy(&self, host: &str, judged: &Arc<Policy>) -> Option<Arc<Policy>> {
        let live = self.thread.live();
        let own = self.policy_of(&live, Some(host));
        (!Arc::ptr_eq(own, judged)).then(|| own.clone())
    }

    fn body_bytes_max(&self, host: &str) -> Option<u64> {
        self.site(&self.thread.live(), host).and_then(|(site, _)| site.limits.max_body)
    }

    fn refused(&self, refusal: Refusal, refused: Option<&Refused>) -> String {
        let live = self.thread.live();
        let request_id = self.thread.request_ids.next();
        let host = refused.and_then(Refused::host).or(self.server_name());
        let site = host.and_then(|name| self.site(&live, name));
        if let Some(refused) = refused {
            let note =
                Note { request_line: &refused.start_line, upstream: None, request_id: &request_id };
            note.record(
                &self.thread,
                site.map(|(site, _)| &**site),
                Direction::Request,
                &refused.findings,
            );
        }
        let mut entries = self.entries(tokio::time::Instant::now(), &request_id);
        if let Some((site, state)) = site {
            entries.site(site, state);
        }
        // Over HTTP/2 the protocol's library has refused some by itself, without a page.
        let is_told = match refused {
            Some(refused) => !refused.start_line.is_empty(),
            None => refusal != Refusal::Http2Flood,
        };
        let sent = if is_told { page_bytes(refusal, &request_id) } else { 0 };
        if let Some(refused) = refused {
            entries.start_line(&refused.start_line);
        }
        Account::new(entries, None).finish(0, sent, Some(refusal));
        request_id.as_ref().to_owned()
    }

    fn found_late(&self, host: &str, findings: &[Finding]) {
        if !findings.is_empty() {
            let live = self.thread.live();
            let site = self.site(&live, host).map(|(site, _)| &**site);
            let note = Note { request_line: "", upstream: None, request_id: "" };
            note.record(&self.thread, site, Direction::Request, findings);
        }
    }

    // No `async fn`: that would keep room for the request twice.
    fn answer<B, I>(
        &self,
        request: Request<B>,
        mut interim: I,
    ) -> impl Future<Output = Answer<Self::Body, Self::Upgraded, Account>>
    where
        B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
        I: AsyncFnMut(ResponseHead) -> Result<(), Refusal>,
    {
        let live = self.thread.live();
        let Request { head, findings, body, since } = request;
        let trusted = self.is_trusted(&live);
        let request_id = request_id(&self.thread.request_ids, &head, trusted);
        let mut account = Account::new(self.entries(since, &request_id), Some(head));
        let mut body = Some(Upload::new(body));
        async move {
            let (entries, head) = account.parts();
            let head = head.expect("the account was opened with it");
            self.note_request(&live, head, (&findings, &request_id));
            let reply = match self.route(&live, head) {
                Err(Unrouted::Redirect(location)) => {
                    if let Security::Plain { misled: true, .. } = self.connection.security {
                        entries.redirects(Refusal::PlainHttp);
                    }
                    Reply::Redirect(location)
                }
                Err(Unrouted::Refused(refusal)) => entries.refuse(refusal),
                Ok(route) => {
                    entries.site(route.site, route.state);
                    let forwarding = Forwarding {
                        live: &live,
                        route: &route,
                        head,
                        request_id: &request_id,
                        trusted,
                    };
                    match self.forward(&forwarding, entries, &mut body, &mut interim).await {
                        Ok(reply) => reply,
                        Err(refusal) => entries.refuse(refusal),
                    }
                }
            };
            Answer { reply, request_id, ticket: account }
        }
    }
}

/// What [`Handler::forward`] needs of a request.
struct Forwarding<'a> {
    live: &'a Live,
    route: &'a Route<'a>,
    head: &'a RequestHead,
    request_id: &'a str,
    trusted: bool,
}

type AnyReply = Reply<upstream::ResponseBody, Box<upstream::UpgradedIo>>;

impl Handler {
    fn entries(&self, since: tokio::time::Instant, request_id: &Rc<str>) -> Entries {
        let active = Active::new(&self.presence);
        Entries::new(&self.thread, &self.connection, active, since.into_std(), request_id)
    }

    /// Takes note of what was odd about a request, for its host's site.
    fn note_request(&self, live: &Live, head: &RequestHead, (findings, id): (&[Finding], &str)) {
        if findings.is_empty() {
            return;
        }
        let site = self.site(live, head.authority().host()).map(|(site, _)| &**site);
        let note = Note { request_line: &line(head), upstream: None, request_id: id };
        note.record(&self.thread, site, Direction::Request, findings);
    }

    /// Which site, or what the edge answers itself.
    fn route<'l>(&self, live: &'l Live, head: &RequestHead) -> Result<Route<'l>, Unrouted> {
        let host = head.authority().host();
        let found = self.site(live, host);
        // Nobody is sent on to a host that is not served here.
        let Some((site, state)) = found else {
            return Err(Unrouted::Refused(Refusal::UnknownHost));
        };
        if let Security::Plain { https_port, misled } = self.connection.security
            && (misled || !head.path().starts_with(ACME_PREFIX))
        {
            return Err(Unrouted::Redirect(https_location(head, https_port)));
        }
        if !self.covers(live, host, site) {
            return Err(Unrouted::Refused(Refusal::Misdirected));
        }
        if head.forwards_left() == Some(0) {
            return Err(Unrouted::Refused(Refusal::MaxForwards));
        }
        Ok(Route { site, state })
    }

    /// RFC 9110 7.4: a connection may carry requests for other hosts that its certificate covers,
    /// as long as the sites ask the same of a client.
    fn covers(&self, live: &Live, host: &str, site: &Site) -> bool {
        let Security::Tls { settled, server_name, asked } = &self.connection.security else {
            return true;
        };
        // What the client has proven is what was asked of it at its handshake, not what the site
        // asks since a reload.
        let proven = asked.as_ref().and_then(|asked| asked.client_ca.as_ref());
        if settled.version < site.tls.min_version || proven != site.tls.client_ca.as_ref() {
            return false;
        }
        let server_name = server_name.as_ref().map(Hostname::as_str);
        if server_name == Some(host) {
            return true;
        }
        let greeted = server_name.and_then(|name| live.site(name)).map(|(site, _)| &**site);
        certificate::covers(&live.snapshot.certs, greeted, server_name, host)
    }

    async fn forward<B, I>(
        &self,
        forwarding: &Forwarding<'_>,
        entries: &mut Entries,
        body: &mut Option<Upload<B>>,
        interim: &mut I,
    ) -> Result<AnyReply, Refusal>
    where
        B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
        I: AsyncFnMut(ResponseHead) -> Result<(), Refusal>,
    {
        let Forwarding { live, route, head, request_id, trusted } = *forwarding;
        let client = Some(self.connection.client.ip()).filter(|_| !trusted);
        let length = body.as_ref().map_or(0, |body| body.size_hint().lower());
        check_limits(route, length, client)?;
        entries.holds(place_of_client(route, client)?);
        self.admit(route, head, entries).await?;
        if let Some((body, permit)) = body.as_mut().zip(entries.permit()) {
            body.begins(permit);
        }
        let forward = Forward {
            client: &self.connection.text,
            trusted,
            request_id,
            host_header: route.site.host_header.as_deref(),
            keep_upgrade: head.upgrade().is_some(),
        };
        let timeouts = &live.snapshot.timeouts;
        let outgoing = Outgoing {
            head,
            forward: &forward,
            policy: &route.site.screening,
            timeouts: upstream::Timeouts {
                connect: timeouts.connect,
                response: timeouts.response,
                body: timeouts.body,
            },
            hold_until: (entries.since() + live.snapshot.queues.request_deadline).into(),
            sent: entries.sent(),
        };
        let client = &self.thread.client;
        let sent = client.send(&route.state.upstream, &outgoing, body, interim).await;
        self.answered(forwarding, entries, sent)
    }

    async fn admit(
        &self,
        route: &Route<'_>,
        head: &RequestHead,
        entries: &mut Entries,
    ) -> Result<(), Refusal> {
        let metrics = &self.thread.proxy.metrics;
        let gate = &route.state.gate;
        // Whoever does not wait looks at no clock.
        let (permit, waited) = match gate.try_enter() {
            Some(permit) => (permit, Duration::ZERO),
            None => {
                let begun = Instant::now();
                entries.waits(begun);
                let class = route.site.class(head.path());
                let entered = gate.enter(class, entries.since()).await;
                let waited = entries.has_waited();
                (entered.inspect_err(|why| metrics.refused(QueueName::Request, *why))?, waited)
            }
        };
        metrics.queue_wait(QueueName::Request, waited);
        entries.admitted(permit);
        Ok(())
    }

    fn answered(
        &self,
        forwarding: &Forwarding<'_>,
        entries: &mut Entries,
        sent: Result<upstream::Response, upstream::Failure>,
    ) -> Result<AnyReply, Refusal> {
        let Forwarding { route, head, request_id, .. } = *forwarding;
        let (findings, endpoint) = match &sent {
            Ok(response) => (&response.findings, Some(response.endpoint.url())),
            Err(failure) => (&failure.findings, failure.endpoint.as_ref().map(|e| e.url())),
        };
        let note = Note { request_line: &line_if(head, findings), upstream: endpoint, request_id };
        note.record(&self.thread, Some(route.site), Direction::Response, findings);
        match sent {
            Err(failure) => {
                entries.upstream_failed(&failure);
                Err(failure.refusal)
            }
            Ok(response) => {
                entries.answered(&response);
                Ok(match response.upgraded {
                    Some(io) => Reply::Upgraded { head: response.head, io },
                    None => Reply::Response { head: response.head, body: response.body },
                })
            }
        }
    }
}

/// Of a request with a body of at least `length`; `client` is `None` where it speaks for many.
fn check_limits(route: &Route<'_>, length: u64, client: Option<IpAddr>) -> Result<(), Refusal> {
    let limits = &route.site.limits;
    if limits.max_body.is_some_and(|max| length > max) {
        return Err(Refusal::BodyTooLarge);
    }
    let of_clients = (&route.state.request_rates, limits.requests_per_second_per_client);
    if let (Some(client), (Some(rates), Some(bound))) = (client, of_clients) {
        let taken = rates.take(client, bound, Instant::now());
        taken.map_err(|_| Refusal::ClientRequestRate)?;
    }
    match &route.state.request_rate {
        Some(rate) if rate.take(Instant::now()).is_err() => Err(Refusal::RequestRate),
        _ => Ok(()),
    }
}

/// The client's place among its requests that are under way, where they are bounded.
fn place_of_client(route: &Route<'_>, client: Option<IpAddr>) -> Result<Option<Hold>, Refusal> {
    let Some(client) = client else { return Ok(None) };
    let limits = HeldLimits { all: None, per_client: route.site.limits.in_flight_per_client };
    route.state.requests.enter(client, limits).map_err(|_| Refusal::ClientInFlight)
}

/// The same target over TLS. The host is canonical and the target was screened: no byte in it can
/// split the field.
fn https_location(head: &RequestHead, https_port: u16) -> String {
    let host = head.authority().host();
    let target = if head.target() == "*" { "/" } else { head.target() };
    match https_port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    }
}

impl Source for upstream::ResponseBody {
    fn take_findings(&mut self) -> Vec<Finding> {
        upstream::ResponseBody::take_findings(self)
    }
}

/// Method and path for the findings' examples; a query may hold secrets.
pub fn line(head: &RequestHead) -> String {
    format!("{} {}", head.method(), head.path())
}

/// Nothing is written for a clean head.
fn line_if(head: &RequestHead, findings: &[Finding]) -> String {
    if findings.is_empty() { String::new() } else { line(head) }
}

/// Where findings were made.
struct Note<'a> {
    request_line: &'a str,
    upstream: Option<&'a str>,
    request_id: &'a str,
}

impl Note<'_> {
    fn record(
        &self,
        thread: &Thread,
        site: Option<&Site>,
        direction: Direction,
        findings: &[Finding],
    ) {
        if findings.is_empty() {
            return;
        }
        let context = FindingContext {
            request_line: self.request_line,
            upstream: self.upstream,
            request_id: self.request_id,
            now: SystemTime::now(),
        };
        thread.proxy.findings.record(site.map(|site| &site.id), direction, findings, context);
    }
}

/// A request in flight, for the connection's gauge.
pub struct Active(Rc<Presence>);

impl Active {
    fn new(presence: &Rc<Presence>) -> Active {
        presence.open.set(presence.open.get() + 1);
        if presence.open.get() == 1 {
            presence.holding.borrow_mut().gauge.set(ConnectionState::Active);
        }
        Active(presence.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.holding.borrow_mut().gauge.set(ConnectionState::Idle);
        }
    }
}

/// A trusted proxy's own id, if it is one; else a new one.
fn request_id(ids: &RequestIds, head: &RequestHead, trusted: bool) -> Rc<str> {
    let theirs = trusted.then(|| head.field("x-request-id")).flatten();
    match theirs.and_then(|id| std::str::from_utf8(id).ok()) {
        Some(id) if is_request_id(id) => id.into(),
        _ => ids.next(),
    }
}

fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:=+/".contains(&b))
}
