//! HTTP/2: one connection that many streams share, and one request on it.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{Request, Version};
use tokio::sync::Mutex;

use crate::load::answer::{Answer, Body, KEPT_MAX};
use crate::load::connect::{self, Clock, Failure, Stream};
use crate::load::lane::{Lane, Visit};
use crate::load::outcome::{Outcome, Times};
use crate::load::target::Scheme;

/// Flow control windows: large enough never to be what a run measures.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;

/// A GET, ready to be sent.
///
/// # Errors
/// Where host and path do not make a URI.
pub fn request(scheme: Scheme, host: &str, path: &str) -> Result<Request<()>, http::Error> {
    let scheme = match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    Request::get(format!("{scheme}://{host}{path}"))
        .version(Version::HTTP_2)
        .header("user-agent", concat!("sluss-load/", env!("CARGO_PKG_VERSION")))
        .header("accept", "*/*")
        .body(())
}

/// Speaks HTTP/2 on an open connection; it ends when the last sender and stream are gone.
///
/// # Errors
/// [`Failure`] with its class.
pub async fn begin(stream: Stream) -> Result<SendRequest<Bytes>, Failure> {
    if matches!(stream, Stream::Tls(_)) && stream.alpn() != Some(b"h2") {
        return Err(Failure::noted(Outcome::Other, "the server does not offer HTTP/2"));
    }
    let (sender, connection) = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(failure)?;
    // Its error reaches every stream and sender as well, and is counted there.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Sends a request and reads the answer.
///
/// # Errors
/// [`Failure`] with its class.
pub async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Body,
    clock: Clock,
    times: &mut Times,
) -> Result<Answer, Failure> {
    times.sent = Some(clock.now());
    let mut sender = sender.ready().await.map_err(failure)?;
    let (response, _) = sender.send_request(request, true).map_err(failure)?;
    let response = response.await.map_err(failure)?;
    times.first_byte = Some(clock.now());
    let mut answer =
        Answer { status: response.status().as_u16(), reusable: true, ..Answer::default() };
    let mut stream = response.into_body();
    while let Some(data) = stream.data().await {
        let data = data.map_err(cut_short)?;
        answer.bytes += data.len() as u64;
        if body == Body::Keep {
            let room = KEPT_MAX.saturating_sub(answer.kept.len());
            answer.kept.extend_from_slice(&data[..data.len().min(room)]);
        }
        // A stream that has just ended has no window left to give back.
        let _ = stream.flow_control().release_capacity(data.len());
    }
    Ok(answer)
}

fn cut_short(error: h2::Error) -> Failure {
    Failure::noted(Outcome::WrongBody, format!("the body was cut short: {error}"))
}

fn failure(error: h2::Error) -> Failure {
    if error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        return Failure::plain(Outcome::RefusedStream);
    }
    if error.is_go_away() {
        return Failure::noted(Outcome::Closed, format!("HTTP/2: {error}"));
    }
    let text = format!("HTTP/2: {error}");
    match error.into_io() {
        Some(error) => error.into(),
        None => Failure::noted(Outcome::Other, text),
    }
}

/// A connection that several tasks share, made anew where it ends.
#[derive(Debug)]
pub struct Shared {
    host: usize,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    sender: Option<SendRequest<Bytes>>,
    /// How many connections there were: who fails on an older one must not end the newer.
    generation: u64,
}

impl Shared {
    /// Speaks HTTP/2 on the first connection; without one the first request makes it.
    ///
    /// # Errors
    /// [`Failure`] where the server does not.
    pub async fn new(host: usize, stream: Option<Stream>) -> Result<Arc<Shared>, Failure> {
        let sender = match stream {
            Some(stream) => Some(begin(stream).await?),
            None => None,
        };
        Ok(Arc::new(Shared { host, current: Mutex::new(Current { sender, generation: 0 }) }))
    }

    /// One request; once more on a new connection where the present one ended before the answer.
    ///
    /// # Errors
    /// [`Failure`] with its class.
    pub async fn ask(&self, lane: &Lane, visit: &mut Visit) -> Result<Outcome, Failure> {
        visit.times.started = Some(lane.clock.now());
        let (sender, generation, fresh) = self.sender(lane, visit).await?;
        let first = self.exchange(sender, lane, visit).await;
        let Err(failure) = first else { return first };
        let ended = matches!(failure.outcome, Outcome::Closed | Outcome::RefusedReset);
        if ended {
            self.drop_generation(generation).await;
        }
        if !ended || fresh || visit.times.first_byte.is_some() {
            return Err(failure);
        }
        visit.times.sent = None;
        let (sender, _, _) = self.sender(lane, visit).await?;
        self.exchange(sender, lane, visit).await
    }

    async fn exchange(
        &self,
        sender: SendRequest<Bytes>,
        lane: &Lane,
        visit: &mut Visit,
    ) -> Result<Outcome, Failure> {
        let request = lane.requests[self.host].h2.clone();
        let answer = exchange(sender, request, lane.body(), lane.clock, &mut visit.times).await?;
        Ok(lane.judge(visit, &answer))
    }

    /// A sender of the present connection, its generation, and whether it was made just now.
    async fn sender(
        &self,
        lane: &Lane,
        visit: &mut Visit,
    ) -> Result<(SendRequest<Bytes>, u64, bool), Failure> {
        // The others wait for the same connection meanwhile: that is what sharing means.
        let mut current = self.current.lock().await;
        if let Some(sender) = &current.sender {
            return Ok((sender.clone(), current.generation, false));
        }
        lane.reconnected();
        let stream = connect::open(&lane.route, self.host, lane.clock, &mut visit.times).await?;
        let sender = begin(stream).await?;
        current.sender = Some(sender.clone());
        current.generation += 1;
        Ok((sender, current.generation, true))
    }

    async fn drop_generation(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation {
            current.sender = None;
        }
    }
}
