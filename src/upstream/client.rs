//! One serving thread's way to all endpoints: connections, spare memory, and the journey of a
//! request through choice, connection, exchange and retry.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::body::{ResponseBody, RestOfRequest};
use super::connect::{self, ConnectError, Stream};
use super::endpoint::{Counted, Endpoint, Load};
use super::h1::{Exchange, UpgradedIo};
use super::h2::{self, Http2};
use super::pool::{Connection, Pool};
use super::retry::{self, Attempt, Next, Stage};
use super::{Broken, Failure, Outgoing, Response, Upstream, balance};
use crate::refusal::{Refusal, Side};
use crate::screen::{Action, Finding, ResponseHead, Rule, Screened};
use crate::sites::Protocol;
use crate::timers::{Deadline, Timers};

/// How often expired connections are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The first pause of a request that waits for any endpoint to come back; doubles up to
/// [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest pause: a site that is back serves those who wait within a second.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Spare texts that a thread keeps.
const SPARE_MAX: usize = 256;

/// Larger texts are freed rather than kept.
const SPARE_BYTES_MAX: usize = 16 * 1024;

/// One serving thread's connections to all endpoints of all sites.
pub struct Client {
    timers: Rc<Timers>,
    pool: RefCell<Pool>,
    pub(super) http2: Http2,
    texts: RefCell<Vec<Vec<u8>>>,
    random: Cell<u64>,
}

/// What a request has behind it.
#[derive(Default)]
struct Journey<'u> {
    /// Endpoints not to be tried again before the next pause.
    tried: SmallVec<[u64; 4]>,
    /// How often it was sent.
    sends: u32,
    /// Attempts that failed and were followed by another.
    failed: u32,
    /// The endpoint to be tried again, over a fresh connection.
    again: Option<&'u Arc<Endpoint>>,
    /// Those tried before may be tried again, once, where nobody else is left.
    reopen: bool,
    /// Who could not be connected last.
    last: Option<&'u Arc<Endpoint>>,
    pause: Duration,
    /// An endpoint could not be reached, rather than not be trusted: waiting may help.
    unreachable: bool,
    rejected: bool,
}

/// Where an attempt goes.
pub(super) struct Target<'u> {
    pub(super) endpoint: &'u Arc<Endpoint>,
    pub(super) load: Load,
    pub(super) freshness: Freshness,
    /// When it was chosen, a moment ago.
    pub(super) now: Instant,
}

/// Which connection an attempt may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Freshness {
    Any,
    Fresh,
}

/// An attempt that failed.
pub(super) struct Failed {
    pub(super) stage: Stage,
    pub(super) broken: Broken,
    pub(super) body_consumed: bool,
    /// For the log and the endpoint's summary.
    pub(super) cause: String,
    /// Nothing but a change of configuration will help.
    pub(super) rejected: bool,
}

impl Client {
    /// A client without connections. Its thread must run [`Client::sweep`] and the timers' sweep.
    pub fn new(timers: Rc<Timers>) -> Rc<Client> {
        Rc::new(Client {
            timers,
            pool: RefCell::default(),
            http2: Http2::default(),
            texts: RefCell::default(),
            random: Cell::new(RandomState::new().build_hasher().finish()),
        })
    }

    /// Closes what is idle for too long, until the thread ends.
    pub async fn sweep(self: Rc<Self>) {
        let mut tick = tokio::time::interval(SWEEP_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = tick.tick().await;
            self.pool.borrow_mut().sweep(now);
            self.http2.sweep(now);
        }
    }

    /// Idle HTTP/1 connections of this thread.
    pub fn idle(&self) -> usize {
        self.pool.borrow().idle()
    }

    /// Sends a request and waits for the head of its answer; interim heads go to `interim`. The body
    /// is taken where the rest of it is sent while the answer is read.
    ///
    /// *Cancel safety*: dropping the future closes the connection in use and gives all counts back.
    ///
    /// # Errors
    /// [`Failure`] with the last attempt's reason. `NoEndpoint` where nobody could be connected
    /// until `hold_until`; `UpstreamConnect` where somebody answers who cannot be trusted or
    /// understood; the body's own refusal where the client failed.
    pub async fn send<B, I>(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        request: &Outgoing<'_>,
        body: &mut Option<B>,
        interim: &mut I,
    ) -> Result<Response, Failure>
    where
        B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
        I: AsyncFnMut(ResponseHead) -> Result<(), Refusal>,
    {
        upstream.budget.deposit();
        let mut journey = Journey::default();
        loop {
            let (endpoint, freshness, now) =
                self.next_endpoint(upstream, request, &mut journey).await?;
            let target = Target { endpoint, load: Load::new(endpoint.clone()), freshness, now };
            let tried = match endpoint.spec.protocol {
                Protocol::Http1 | Protocol::Http1Tls => {
                    self.over_http1(target, request, body, interim).await
                }
                // Boxed: the common future must not be as large as the rare one.
                Protocol::Http2 | Protocol::Http2Tls => {
                    Box::pin(h2::exchange(self, target, request, body)).await
                }
            };
            match tried {
                Ok(response) => return Ok(Response { retries: journey.failed, ..response }),
                Err(failed) => journey.after(failed, upstream, endpoint, request)?,
            }
        }
    }

    /// The endpoint for the next attempt; waits while there is none.
    async fn next_endpoint<'u>(
        &self,
        upstream: &'u Upstream,
        request: &Outgoing<'_>,
        journey: &mut Journey<'u>,
    ) -> Result<(&'u Arc<Endpoint>, Freshness, Instant), Failure> {
        loop {
            let now = Instant::now();
            if let Some(endpoint) = journey.again.take() {
                return Ok((endpoint, Freshness::Fresh, now));
            }
            let random = self.random();
            if let Some(endpoint) = upstream.choose(request, &journey.tried, random, now) {
                return Ok((endpoint, Freshness::Any, now));
            }
            if std::mem::take(&mut journey.reopen) {
                journey.tried.clear();
                continue;
            }
            if journey.rejected && !journey.unreachable {
                return Err(journey.failure(Refusal::UpstreamConnect));
            }
            if now >= request.hold_until {
                return Err(journey.failure(Refusal::NoEndpoint));
            }
            journey.lengthen_pause(random);
            let pause = self.timers.deadline();
            pause.arm_at((now + journey.pause).min(request.hold_until));
            let _elapsed = pause.bound(std::future::pending::<()>()).await;
        }
    }

    async fn over_http1<B, I>(
        self: &Rc<Self>,
        target: Target<'_>,
        request: &Outgoing<'_>,
        body: &mut Option<B>,
        interim: &mut I,
    ) -> Result<Response, Failed>
    where
        B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
        I: AsyncFnMut(ResponseHead) -> Result<(), Refusal>,
    {
        let Target { endpoint, load, freshness, now } = target;
        let (connection, sent) = match self.idle_connection(endpoint, freshness, now) {
            Some(connection) => (connection, now),
            None => {
                let limit = request.timeouts.connect;
                let connection = Box::pin(self.fresh_connection(endpoint, limit)).await?;
                (connection, Instant::now())
            }
        };
        let mut exchange = Exchange::new(self.clone(), connection, load, request, sent);
        let source = body.as_mut().expect("only an attempt that succeeds takes the body");
        request.sent.set(endpoint, sent);
        let _awaited = endpoint.sending();
        match exchange.answer(request, source, interim).await {
            Ok(screened) => {
                let now = Instant::now();
                let latency = now - sent;
                endpoint.answered(latency, now);
                let response = complete(exchange, screened, request, body)?;
                Ok(Response { latency, ..response })
            }
            Err(broken) => {
                let stage = exchange.stage();
                if stage == Stage::SentReused && broken.refusal == Refusal::UpstreamClosed {
                    // Its siblings are as old as it was: the endpoint has most likely restarted.
                    self.pool.borrow_mut().forget(endpoint);
                }
                Err(Failed::new(stage, broken, exchange.body_consumed))
            }
        }
    }

    fn idle_connection(
        &self,
        endpoint: &Endpoint,
        freshness: Freshness,
        now: Instant,
    ) -> Option<Connection> {
        match freshness {
            Freshness::Any => self.pool.borrow_mut().take(endpoint, now),
            Freshness::Fresh => None,
        }
    }

    async fn fresh_connection(
        &self,
        endpoint: &Arc<Endpoint>,
        limit: Duration,
    ) -> Result<Connection, Failed> {
        let stream = self.connect(endpoint, limit).await?;
        let counted = Counted::new(endpoint.clone());
        Ok(Connection::new(stream, self.timers.deadline(), counted))
    }

    /// A new connection of any kind, in its turn.
    pub(super) async fn connect(
        &self,
        endpoint: &Arc<Endpoint>,
        limit: Duration,
    ) -> Result<Stream, Failed> {
        let due = Instant::now() + limit;
        let turns = self.pool.borrow_mut().connecting(endpoint);
        let turn = tokio::time::timeout_at(due, turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let cause = std::io::Error::from(std::io::ErrorKind::TimedOut);
            return Err(Failed::connecting(&ConnectError::Unreachable(cause)));
        };
        let left = due.saturating_duration_since(Instant::now());
        connect::connect(endpoint, left).await.map_err(|error| Failed::connecting(&error))
    }

    /// Keeps an HTTP/1 connection for the next request.
    pub(super) fn keep(&self, connection: Connection) {
        self.pool.borrow_mut().put(connection, self.timers.swept());
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.timers.deadline()
    }

    pub(super) fn spare_text(&self) -> Vec<u8> {
        self.texts.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn recycle_text(&self, mut text: Vec<u8>) {
        let mut texts = self.texts.borrow_mut();
        if (1..=SPARE_BYTES_MAX).contains(&text.capacity()) && texts.len() < SPARE_MAX {
            text.clear();
            texts.push(text);
        }
    }

    /// Random enough to spread load: a counter through a mixer, seeded by the system.
    fn random(&self) -> u64 {
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        balance::mix(next)
    }
}

impl<'u> Journey<'u> {
    /// What follows from a failed attempt: the next one, or the failure.
    fn after(
        &mut self,
        failed: Failed,
        upstream: &'u Upstream,
        endpoint: &'u Arc<Endpoint>,
        request: &Outgoing<'_>,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let refusal = failed.broken.refusal;
        if failed.stage != Stage::Connecting {
            self.sends += 1;
        }
        self.rejected |= failed.rejected;
        self.unreachable |= failed.stage == Stage::Connecting && !failed.rejected;
        // A stale connection says nothing of the endpoint's health, nor does a client that fails.
        let blameless = matches!(failed.stage, Stage::SentReused | Stage::Unprocessed)
            && refusal == Refusal::UpstreamClosed;
        if refusal.side() == Side::Upstream && !blameless {
            let others = upstream.others(endpoint, now);
            endpoint.failed(refusal, &failed.cause, now, others);
        }
        let next = retry::next(Attempt {
            stage: failed.stage,
            refusal,
            idempotent: request.head.request_method().is_idempotent(),
            body_consumed: failed.body_consumed,
            sends: self.sends,
        });
        match next {
            Next::Elsewhere => {
                self.tried.push(endpoint.id);
                self.last = Some(endpoint);
            }
            Next::AgainFresh if upstream.withdraw_retry(now) => self.again = Some(endpoint),
            Next::AgainElsewhere if upstream.withdraw_retry(now) => {
                self.tried.push(endpoint.id);
                // Where it is the only one, it gets its second chance.
                self.reopen = true;
            }
            Next::GiveUp | Next::AgainFresh | Next::AgainElsewhere => {
                let Broken { refusal, findings, start_line } = failed.broken;
                let (endpoint, retries) = (Some(endpoint.clone()), self.failed);
                return Err(Failure { refusal, findings, endpoint, retries, start_line });
            }
        }
        self.failed += 1;
        Ok(())
    }

    /// Nobody is left to be asked.
    fn failure(&mut self, refusal: Refusal) -> Failure {
        let (endpoint, retries) = (self.last.take().cloned(), self.failed);
        Failure { refusal, findings: Vec::new(), endpoint, retries, start_line: String::new() }
    }

    /// Before a pause: afterwards every endpoint may be tried again.
    fn lengthen_pause(&mut self, random: u64) {
        self.tried.clear();
        let doubled = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        // Up to a quarter less, so that those who wait do not all come back at once.
        self.pause = doubled - doubled.mul_f64((random >> 40) as f64 / (1u64 << 26) as f64);
    }
}

impl Failed {
    pub(super) fn new(stage: Stage, broken: Broken, body_consumed: bool) -> Failed {
        let refusing = broken.findings.iter().find(|found| found.action == Action::Refuse);
        let cause = match refusing {
            Some(finding) => format!("{}: {}", broken.refusal, finding.rule.code()),
            None => broken.refusal.to_string(),
        };
        Failed { stage, broken, body_consumed, cause, rejected: false }
    }

    pub(super) fn connecting(error: &ConnectError) -> Failed {
        let cause = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let broken = Broken::new(Refusal::UpstreamConnect, Vec::new());
        let rejected = matches!(error, ConnectError::Rejected(_));
        Failed { cause, rejected, ..Failed::new(Stage::Connecting, broken, false) }
    }
}

impl Response {
    pub(super) fn new(
        screened: Screened<ResponseHead>,
        body: ResponseBody,
        endpoint: Arc<Endpoint>,
        upgraded: Option<Box<UpgradedIo>>,
    ) -> Response {
        let Screened { head, findings } = screened;
        let latency = Duration::ZERO;
        Response { head, findings, body, endpoint, latency, retries: 0, upgraded }
    }
}

/// Whether a 101 names protocols that the client has asked for and no others (RFC 9110 7.8).
/// `screen` kept the request's Upgrade only where the client may have it.
fn switches(head: &ResponseHead, request: &Outgoing<'_>) -> bool {
    let (Some(named), Some(asked)) = (head.upgrade(), request.head.upgrade()) else { return false };
    let protocols = |list| str::split(list, ',').map(str::trim);
    protocols(named).all(|named| protocols(asked).any(|asked| asked.eq_ignore_ascii_case(named)))
}

/// Makes the response out of an exchange whose final head has come.
fn complete<B>(
    exchange: Exchange,
    screened: Screened<ResponseHead>,
    request: &Outgoing<'_>,
    body: &mut Option<B>,
) -> Result<Response, Failed>
where
    B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
{
    let Screened { head, findings } = screened;
    let endpoint = exchange.connection.endpoint().clone();
    if head.status() == 101 {
        if !request.forward.keep_upgrade || !switches(&head, request) || !exchange.is_sent() {
            let mut findings = findings;
            findings.retain(|found| found.rule != Rule::UpgradeInvalid); // One for one defect.
            let named = head.upgrade().unwrap_or("101 without Upgrade");
            findings.push(Finding::refusal(Rule::UpgradeInvalid, "upgrade", named.as_bytes()));
            let broken = Broken::new(Refusal::UpstreamHeadMalformed, findings);
            return Err(Failed::new(Stage::Answered, broken, exchange.body_consumed));
        }
        let upgraded = Some(Box::new(UpgradedIo::new(exchange)));
        let body = ResponseBody::empty();
        return Ok(Response::new(Screened { head, findings }, body, endpoint, upgraded));
    }
    let rest = match exchange.is_sending() {
        true => body.take().map(|body| Box::new(body) as RestOfRequest),
        false => None,
    };
    let mut body = ResponseBody::http1(exchange, head.framing(), rest, request.policy);
    if findings.iter().any(|found| found.rule == Rule::BodyForbidden) {
        body.take_findings(); // It was announced, and came: one for one defect.
    }
    Ok(Response::new(Screened { head, findings }, body, endpoint, None))
}
