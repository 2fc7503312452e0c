//! Active health checks: each endpoint is asked for a path at its interval.
//!
//! Runs on the control thread, away from the requests. A check uses a connection of its own, so it
//! proves that the endpoint takes new ones; any 2xx or 3xx passes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::connect::{self, Stream};
use super::endpoint::Endpoint;
use super::health::Thresholds;
use super::{Upstream, balance};
use crate::screen::{self, Policy, PolicySpec, Reading, RequestMethod, Scan, Storage};
use crate::sites::{HealthCheck, Protocol};

/// A site whose endpoints are to be checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its endpoints; left alone where it has no check.
    pub upstream: Arc<Upstream>,
    /// The Host that the checks name: one of the site's.
    pub host: String,
}

/// Checks all endpoints of all targets until dropped. A reload drops it and starts the next one;
/// what checks have found stays with the endpoints.
pub async fn probe_all(targets: Vec<Target>) {
    let policy = Policy::new(&PolicySpec::default()).expect("the default has no overrides");
    let mut probes = Vec::new();
    for target in &targets {
        let Some(check) = &target.upstream.check else { continue };
        for slot in &target.upstream.slots {
            probes.push(probe(&slot.endpoint, check, &target.host, &policy));
        }
    }
    join_all(probes).await;
}

async fn probe(endpoint: &Arc<Endpoint>, check: &HealthCheck, host: &str, policy: &Policy) {
    let thresholds = Thresholds { healthy: check.healthy, unhealthy: check.unhealthy };
    // Spread by name, so that a thousand checks do not leave in the same instant.
    let offset =
        check.interval.mul_f64(f64::from(balance::mix(endpoint.identity) as u32) / 2f64.powi(32));
    let mut tick = tokio::time::interval_at(Instant::now() + offset, check.interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let outcome = match timeout(check.timeout, ask(endpoint, check, host, policy)).await {
            Ok(Ok(200..400)) => Ok(()),
            Ok(Ok(status)) => Err(format!("the check was answered with {status}")),
            Ok(Err(error)) => Err(format!("the check failed: {error}")),
            Err(_) => Err("the check was not answered in time".to_owned()),
        };
        endpoint.checked(outcome, thresholds);
    }
}

/// The status of the answer to one check.
async fn ask(
    endpoint: &Endpoint,
    check: &HealthCheck,
    host: &str,
    policy: &Policy,
) -> io::Result<u16> {
    // The whole check has one time-out around it.
    let connected = connect::connect(endpoint, Duration::from_secs(60)).await;
    let stream = connected.map_err(io::Error::other)?;
    match endpoint.spec.protocol {
        Protocol::Http1 | Protocol::Http1Tls => {
            Box::pin(ask_http1(stream, &check.path, host, policy)).await
        }
        Protocol::Http2 => Box::pin(ask_http2(stream, "http", &check.path, host)).await,
        Protocol::Http2Tls => Box::pin(ask_http2(stream, "https", &check.path, host)).await,
    }
}

async fn ask_http1(mut stream: Stream, path: &str, host: &str, policy: &Policy) -> io::Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sluss-health\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let (mut input, mut scan) = (BytesMut::new(), Scan::default());
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let storage = Storage::default();
        match screen::response(&input, &mut scan, policy, RequestMethod::Get, storage) {
            Ok(Reading::Complete { screened, .. }) => return Ok(screened.head.status()),
            Ok(Reading::Partial(_)) => {}
            Err(refused) => {
                let message = format!("its head is malformed: {}", refused.start_line);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
    }
}

async fn ask_http2(stream: Stream, scheme: &str, path: &str, host: &str) -> io::Result<u16> {
    let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(io::Error::other)?;
    let request = http::Request::get(format!("{scheme}://{host}{path}"))
        .header(http::header::USER_AGENT, "sluss-health")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    // The connection ends when this future does.
    tokio::select! {
        answer = sender.send_request(request) => {
            Ok(answer.map_err(io::Error::other)?.status().as_u16())
        }
        ended = connection => {
            ended.map_err(io::Error::other)?;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
