//! The room over real loopback sockets: a client as the proxy uses it, against an origin that does
//! what the test says.

mod choice;
mod http1;
mod http2;
mod origin;
mod tls;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use super::*;
use crate::screen::{self, ClientText, PolicySpec, Reading, Scan, Storage};
use crate::sites::{Address, Protocol};
use crate::timers::Timers;

/// What a test waits for happens within this, or it fails; the machine may be crowded.
const PATIENCE: Duration = Duration::from_secs(60);

/// A short time-out of the client, so that tests of time-outs are short.
const SHORT: Duration = Duration::from_millis(200);

/// Runs a test on one thread, as a serving thread runs.
fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    let test = local.run_until(async { timeout(PATIENCE, test()).await.expect("in time") });
    runtime.block_on(test);
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let due = Instant::now() + PATIENCE / 2;
    while !holds() {
        assert!(Instant::now() < due, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One thread's client and one site.
struct Edge {
    client: Rc<Client>,
    upstream: Arc<Upstream>,
    policy: Arc<Policy>,
    timeouts: Timeouts,
    hold: Duration,
    interims: Rc<RefCell<Vec<u16>>>,
}

fn endpoint(url: String, address: Address, protocol: Protocol) -> EndpointSpec {
    EndpointSpec { url, address, protocol, tls_name: None, ca: None, weight: 1, backup: false }
}

fn shop() -> SiteId {
    SiteId::parse("shop").unwrap()
}

fn spec(endpoints: Vec<EndpointSpec>) -> UpstreamSpec {
    UpstreamSpec { endpoints, balance: Balance::RoundRobin, health: None }
}

impl Edge {
    fn new(endpoints: Vec<EndpointSpec>) -> Edge {
        let timers = Timers::new();
        tokio::task::spawn_local(timers.clone().sweep());
        let client = Client::new(timers);
        tokio::task::spawn_local(client.clone().sweep());
        Edge {
            client,
            upstream: Arc::new(Upstream::new(&shop(), &spec(endpoints), None)),
            policy: Arc::new(Policy::new(&PolicySpec::default()).unwrap()),
            timeouts: Timeouts { connect: PATIENCE, response: PATIENCE, body: PATIENCE },
            hold: Duration::ZERO,
            interims: Rc::default(),
        }
    }

    /// The same with short bounds on the endpoint's answer.
    fn hasty(self) -> Edge {
        let timeouts = Timeouts { response: SHORT, body: SHORT, ..self.timeouts };
        Edge { timeouts, ..self }
    }

    async fn send<B>(&self, head: &str, body: B) -> Result<Response, Failure>
    where
        B: Body<Data = Bytes, Error = Refusal> + Unpin + 'static,
    {
        let head = request(head, &self.policy);
        let forward = Forward {
            client: &ClientText::new([192, 0, 2, 7].into(), 443, "https"),
            trusted: false,
            request_id: "test",
            host_header: None,
            keep_upgrade: true,
        };
        let outgoing = Outgoing {
            head: &head,
            forward: &forward,
            policy: &self.policy,
            timeouts: self.timeouts,
            hold_until: Instant::now() + self.hold,
            sent: &Sent::default(),
        };
        let interim = async |head: ResponseHead| {
            self.interims.borrow_mut().push(head.status());
            Ok(())
        };
        self.client.send(&self.upstream, &outgoing, &mut Some(body), &mut { interim }).await
    }

    /// A GET without a body.
    async fn get(&self) -> Result<Response, Failure> {
        self.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", TestBody::none()).await
    }

    /// The status and body of a GET.
    async fn fetch(&self) -> (u16, String) {
        let response = self.get().await.unwrap();
        let (status, body) = (response.head.status(), text(response.body).await);
        (status, body)
    }

    fn summary(&self, at: usize) -> EndpointSummary {
        self.upstream.endpoints().swap_remove(at)
    }
}

fn request(head: &str, policy: &Policy) -> RequestHead {
    let read = screen::request(head.as_bytes(), &mut Scan::default(), policy, Storage::default());
    match read.expect("the test's own head is clean") {
        Reading::Complete { screened, .. } => screened.head,
        Reading::Partial(_) => panic!("the test's head has no end"),
    }
}

async fn collect(body: ResponseBody) -> Result<(String, Option<HeaderMap>), Refusal> {
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok((String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers))
}

async fn text(body: ResponseBody) -> String {
    collect(body).await.unwrap().0
}

type Piece = Result<Frame<Bytes>, Refusal>;

/// A request body whose pieces the test feeds; it ends when the feeder is dropped.
struct TestBody(Option<mpsc::UnboundedReceiver<Piece>>);

struct Feeder(mpsc::UnboundedSender<Piece>);

impl TestBody {
    fn none() -> TestBody {
        TestBody(None)
    }

    fn fed() -> (Feeder, TestBody) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Feeder(sender), TestBody(Some(receiver)))
    }

    fn of(pieces: &[&'static str]) -> TestBody {
        let (feeder, body) = TestBody::fed();
        pieces.iter().for_each(|piece| feeder.data(piece));
        body
    }
}

impl Feeder {
    fn data(&self, piece: &'static str) {
        self.0.send(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).unwrap();
    }

    fn trailer(&self, name: &'static str, value: &'static str) {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        self.0.send(Ok(Frame::trailers(trailers))).unwrap();
    }

    fn fail(&self, refusal: Refusal) {
        self.0.send(Err(refusal)).unwrap();
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Piece>> {
        match &mut self.0 {
            Some(pieces) => pieces.poll_recv(cx),
            None => std::task::Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
