//! Visitors that open a connection each: full and resumed handshakes, with or without a request.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::load::connect::{self, Failure, Stream};
use crate::load::h1;
use crate::load::lane::{Arrival, Lane, Visit};
use crate::load::outcome::Outcome;
use crate::load::trust::TICKETS_MAX;
use crate::load::{Kind, Protocol, Then, h2, odd};

/// How long a resuming visitor stays for its next ticket once it has what it came for.
const TICKET_PATIENCE: Duration = Duration::from_secs(1);
/// Handshakes at once before a run: as many as any server takes without refusing.
pub const PREPARED_AT_ONCE: usize = 16;

/// One new visitor, from connect to close.
pub async fn visit(lane: Arc<Lane>, arrival: Arrival) {
    lane.taken_up(arrival);
    let visit = Visit::new(arrival);
    match lane.traffic.kind {
        Kind::Handshakes(then) | Kind::Resumed(then) => ask(&lane, then, visit).await,
        Kind::Requests { .. } => ask(&lane, Then::Request, visit).await,
        // Boxed: the usual visitor's task shall not have room for the odd ones' state.
        kind => Box::pin(odd(&lane, kind, visit)).await,
    }
}

async fn odd(lane: &Lane, kind: Kind, visit: Visit) {
    let see = async |visit: &mut Visit| match kind {
        Kind::SlowSenders { slow, step } => odd::send_slowly(lane, slow, step, visit).await,
        Kind::SlowReaders { step } => odd::read_slowly(lane, step, visit).await,
        Kind::Malformed => odd::send_malformed(lane, visit).await,
        Kind::Aborts(when) => odd::abort(lane, when, visit).await,
        Kind::Requests { .. } | Kind::Handshakes(_) | Kind::Resumed(_) => Ok(Outcome::Other),
    };
    lane.see_through(visit, see).await;
}

async fn ask(lane: &Lane, then: Then, visit: Visit) {
    let mut stream = None;
    let see = async |visit: &mut Visit| open_and_ask(lane, then, visit, &mut stream).await;
    lane.see_through(visit, see).await;
    if let (Kind::Resumed(Then::Close), Some(stream)) = (lane.traffic.kind, &mut stream) {
        // Without a ticket for the one it used, the stock would run out.
        let _ = tokio::time::timeout(TICKET_PATIENCE, stream.ticket()).await;
    }
}

/// Opens a connection and does on it what the traffic's visitors do; leaves it in `opened`.
///
/// # Errors
/// [`Failure`] with its class.
pub async fn open_and_ask(
    lane: &Lane,
    then: Then,
    visit: &mut Visit,
    opened: &mut Option<Stream>,
) -> Result<Outcome, Failure> {
    visit.times.started = Some(lane.clock.now());
    let stream = connect::open(&lane.route, visit.host, lane.clock, &mut visit.times).await?;
    visit.resumed = stream.resumed();
    if then == Then::Request && lane.traffic.protocol == Protocol::H2 {
        return Box::pin(ask_h2(lane, stream, visit)).await;
    }
    let stream = opened.insert(stream);
    if then == Then::Close {
        return Ok(Outcome::Completed);
    }
    let mut buffer = vec![0; h1::READ_BYTES];
    let reading = (lane.body(), buffer.as_mut_slice());
    let request = &lane.requests[visit.host].h1;
    let answer = h1::exchange(stream, request, reading, lane.clock, &mut visit.times).await?;
    Ok(lane.judge(visit, &answer))
}

async fn ask_h2(lane: &Lane, stream: Stream, visit: &mut Visit) -> Result<Outcome, Failure> {
    let sender = h2::begin(stream).await?;
    let request = lane.requests[visit.host].h2.clone();
    let answer = h2::exchange(sender, request, lane.body(), lane.clock, &mut visit.times).await?;
    Ok(lane.judge(visit, &answer))
}

/// Opens connections to every host until there are tickets for the first second; none for a host that
/// is refused by its name. Does on each what visitors do, `then`: a server of BoringSSL or AWS-LC holds
/// its tickets back until it has something to answer.
///
/// # Errors
/// [`Failure`] of the first that did not work, or of one where all were refused.
pub async fn stock_tickets(lane: &Lane, then: Then) -> Result<(), Failure> {
    let traffic = &lane.traffic;
    let (mut stocked, mut refused) = (false, None);
    let a_second = traffic.arrivals.expected(traffic.length) / traffic.length.as_secs_f64();
    for host in 0..traffic.hosts.names().len() {
        // A server gives one ticket a connection at least.
        let tickets = (a_second * traffic.hosts.share(host)).ceil() as usize;
        let hosts = vec![host; (tickets / traffic.threads).clamp(2, TICKETS_MAX)];
        for some in hosts.chunks(PREPARED_AT_ONCE) {
            match try_join_all(some.iter().map(|host| fetch_ticket(lane, *host, then))).await {
                Ok(_) => stocked = true,
                Err(failure) => {
                    refused = Some(lane.forgive(host, failure)?);
                    break;
                }
            }
        }
    }
    match refused.filter(|_| !stocked) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

async fn fetch_ticket(lane: &Lane, host: usize, then: Then) -> Result<(), Failure> {
    let mut visit = Visit::new(Arrival { due: Duration::ZERO, host, number: 0 });
    let mut stream = None;
    let asked = open_and_ask(lane, then, &mut visit, &mut stream);
    match tokio::time::timeout(lane.traffic.patience, asked).await {
        Ok(asked) => asked?,
        Err(_) => return Err(Failure::plain(connect::timed_out(&visit.times))),
    };
    if let Some(mut stream) = stream {
        let _ = tokio::time::timeout(TICKET_PATIENCE, stream.ticket()).await;
    }
    Ok(())
}
