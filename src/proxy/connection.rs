//! The life of a connection, top to bottom: accepted, introduced, greeted, taken through the
//! handshake queue and its handshake, served.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncBufRead as _, AsyncReadExt as _};

use super::handshake::{self, Admissible, Guest, Handshaken, Started};
use super::request::Handler;
use super::{ConnectionSlot, Live, SiteState, Thread, certificate};
use crate::admission::{HeldLimits, Hold, Reached};
use crate::config::HandshakeOrder;
use crate::downstream::{self, Transport};
use crate::kernel;
use crate::listener::proxy_protocol;
use crate::metrics::{ConnectionGauge, ConnectionState};
use crate::names::{CustomerId, Hostname};
use crate::queue::Sort;
use crate::refusal::Refusal;
use crate::sites::Site;
use crate::tls::hello::{self, ClientHello};
use crate::tls::{self, Socket};

/// The key of fairness for all server names that no site has.
const UNKNOWN_CUSTOMER: &str = "unknown";

/// What every connection holds from accept to close.
pub struct Holding {
    /// Its place in the process's bound.
    pub slot: ConnectionSlot,
    /// Where it stands, for the metrics.
    pub gauge: ConnectionGauge,
    /// Its place among the site's connections, where they are bounded.
    pub place: Option<Hold>,
}

/// What a listener hands over.
pub struct Arrival {
    /// The connection; the client is the one that the kernel names.
    pub socket: Socket,
    /// Its place in the process's bound.
    pub slot: ConnectionSlot,
    /// When its last segment came at the earliest, where that was a moment ago.
    pub not_before: Option<Instant>,
}

/// A connection's life from its first request on.
type Served = Pin<Box<dyn Future<Output = ()>>>;

/// A connection to a TLS listener, as far as its handshake, or a refusal that ends it. What of the
/// way needs no wait is gone here and now: under a flood most connections end on it, or wait in the
/// handshake queue, and for none of them there is a task.
pub fn arrive(thread: &Rc<Thread>, arrival: Arrival) {
    let Arrival { mut socket, slot, not_before } = arrival;
    let gauge = thread.proxy.metrics.connection(ConnectionState::Accepted);
    let mut holding = Holding { slot, gauge, place: None };
    if is_introduced(thread, socket.client) {
        tokio::task::spawn_local(arrive_late(thread.clone(), socket, holding));
        return;
    }
    holding.gauge.set(ConnectionState::Hello);
    match hello::glance(&mut socket) {
        Ok(Some(first)) => greeted(thread, socket, first, holding, not_before),
        Ok(None) => drop(tokio::task::spawn_local(arrive_late(thread.clone(), socket, holding))),
        Err(refusal) => thread.proxy.metrics.turned_away(refusal),
    }
}

/// The same for one whose hello must be waited for.
async fn arrive_late(thread: Rc<Thread>, mut socket: Socket, mut holding: Holding) {
    let read = async {
        introduce(&thread, &mut socket).await?;
        holding.gauge.set(ConnectionState::Hello);
        greet(&thread, &mut socket).await
    };
    match Box::pin(read).await {
        Ok(first) => greeted(&thread, socket, first, holding, None),
        Err(refusal) => turn_away(&thread, &socket, refusal),
    }
}

/// Of one that has sent nothing to be answered: counted, and ended with a reset.
fn turn_away(thread: &Thread, socket: &Socket, refusal: Refusal) {
    socket.reset_on_close();
    thread.proxy.metrics.turned_away(refusal);
}

/// Whether a trusted network's PROXY header comes first.
fn is_introduced(thread: &Thread, client: SocketAddr) -> bool {
    let live = thread.live();
    let networks = &live.snapshot.listen.proxy_protocol_from;
    networks.iter().any(|network| network.contains(&client.ip()))
}

/// Names the client: as the kernel does, or a trusted network's PROXY header.
async fn introduce(thread: &Thread, socket: &mut Socket) -> Result<(), Refusal> {
    if !is_introduced(thread, socket.client) {
        return Ok(());
    }
    let deadline = thread.timers.deadline();
    deadline.arm(thread.live().snapshot.timeouts.hello);
    let header = deadline.bound(proxy_protocol::read(socket)).await;
    let introduced = header.map_err(|_| Refusal::ProxyHeader)??;
    if let Some(addresses) = introduced.addresses {
        (socket.client, socket.local) = addresses;
    }
    socket.push_back(introduced.rest);
    Ok(())
}

/// Reads the hello under its deadline; its bytes go back to the socket for the handshake.
async fn greet(thread: &Thread, socket: &mut Socket) -> Result<hello::FirstBytes, Refusal> {
    let deadline = thread.timers.deadline();
    deadline.arm(thread.live().snapshot.timeouts.hello);
    let read = deadline.bound(hello::read(socket)).await;
    let (first, bytes) = read.map_err(|_| Refusal::HelloTimeout)??;
    socket.push_back(bytes);
    Ok(first)
}

/// A connection whose first bytes are known: a hello goes into the queue.
fn greeted(
    thread: &Rc<Thread>,
    mut socket: Socket,
    first: hello::FirstBytes,
    mut holding: Holding,
    not_before: Option<Instant>,
) {
    let hello = match first {
        hello::FirstBytes::Hello(hello) => hello,
        hello::FirstBytes::PlainHttp => {
            tokio::task::spawn_local(redirect(thread, socket, holding));
            return;
        }
        hello::FirstBytes::Incomplete | hello::FirstBytes::Malformed => {
            return turn_away(thread, &socket, Refusal::HelloMalformed);
        }
    };
    let live = thread.live();
    let site = hello.server_name.as_ref().and_then(|name| live.site(name.as_str()));
    let metrics = site.map(|(_, state)| state.metrics.clone());
    // The client began to wait when its last segment came, not when this thread had time.
    let since = not_before.unwrap_or_else(|| {
        let waited = socket.descriptor().and_then(|it| kernel::since_last_segment(it).ok());
        Instant::now() - waited.unwrap_or_default()
    });
    match admissible(&live, (site, &socket), &hello, since, &mut holding) {
        Ok(admissible) => {
            holding.gauge.set(ConnectionState::Queued);
            let ClientHello { server_name, .. } = hello;
            let (site, believed, is_brief) = (metrics, None, false);
            let guest = Guest { socket, server_name, site, holding, believed, is_brief };
            handshake::queue(thread, guest, admissible);
        }
        Err(refusal) => {
            tell_alert(&mut socket, refusal);
            thread.proxy.metrics.refused_at(metrics.as_deref(), refusal);
        }
    }
}

/// A connection whose handshake has begun, to its close.
pub fn go_on(thread: Rc<Thread>, started: Started) -> impl Future<Output = ()> {
    // Each stage is boxed by itself, and no `async fn` keeps room for the one before: an open
    // connection holds the state of its stage alone.
    let finishing = Box::pin(async move {
        let (handshaken, holding) = handshake::finish(&thread, started).await?;
        Some(serve(&thread, handshaken, holding))
    });
    async move {
        // A statement of its own: with it the first stage is given back.
        let served = finishing.await;
        if let Some(served) = served {
            served.await;
        }
    }
}

/// The site that has the server name, and its state.
type Named<'a> = Option<(&'a Arc<Site>, &'a Arc<SiteState>)>;

/// What the handshake queue needs to know; takes the client's place among its site's connections.
fn admissible(
    live: &Live,
    (site, socket): (Named<'_>, &Socket),
    hello: &ClientHello,
    since: Instant,
    holding: &mut Holding,
) -> Result<Admissible, Refusal> {
    let name = hello.server_name.as_ref().map(Hostname::as_str);
    let certs = &live.snapshot.certs;
    if site.is_none() && live.snapshot.certificates.default.is_none() {
        return Err(Refusal::UnknownServerName);
    }
    if !certificate::is_at_hand(certs, site.map(|(site, _)| &**site), name) {
        return Err(Refusal::NoCertificate);
    }
    let (cost, otherwise, is_brief) = cost(live, site.map(|(site, _)| &**site), hello);
    let sort = if hello.offers_resumption { Sort::Light } else { Sort::Heavy };
    if let Some(site) = site {
        holding.place = bound(live, site, socket.client.ip())?;
    }
    let anybody = || CustomerId::parse(UNKNOWN_CUSTOMER).map_err(|_| Refusal::UnknownServerName);
    let (customer, weight) = match (live.snapshot.queues.handshake_order, site) {
        (HandshakeOrder::Fair, Some((site, _))) => (site.customer.clone(), site.weight),
        (HandshakeOrder::Fair, None) => (anybody()?, 1),
        (HandshakeOrder::Arrival, _) => {
            // One line: what a handshake costs tells how long the others wait, not who is next.
            let (customer, weight, sort) = (anybody()?, 1, Sort::Heavy);
            return Ok(Admissible { customer, weight, cost, otherwise: 0, sort, is_brief, since });
        }
    };
    Ok(Admissible { customer, weight, cost, otherwise, sort, is_brief, since })
}

/// The bounds of the site and of the client at it; gives the client's place among its connections.
fn bound(
    live: &Live,
    (site, state): (&Arc<Site>, &Arc<SiteState>),
    client: IpAddr,
) -> Result<Option<Hold>, Refusal> {
    let limits = &site.limits;
    let speaks_for_many = live.is_trusted(client);
    let of_client = |bound: Option<u32>| bound.filter(|_| !speaks_for_many);
    let held = HeldLimits {
        all: limits.connections,
        per_client: of_client(limits.connections_per_client),
    };
    let place = state.connections.enter(client, held).map_err(|reached| match reached {
        Reached::Client => Refusal::ClientConnectionLimit,
        Reached::Site => Refusal::SiteConnectionLimit,
    })?;
    let per_client = of_client(limits.handshakes_per_second_per_client);
    if let (Some(rates), Some(bound)) = (&state.handshake_rates, per_client) {
        let taken = rates.take(client, bound, Instant::now());
        taken.map_err(|_| Refusal::ClientHandshakeRate)?;
    }
    // Last: what is refused for another reason takes nothing of the site's rate.
    if let Some(rate) = &state.handshake_rate {
        rate.take(Instant::now()).map_err(|_| Refusal::HandshakeRate)?;
    }
    Ok(place)
}

/// What the handshake will cost, microseconds of a core, as far as the hello tells; how much more,
/// where the session that it offers is not resumed; and whether it needs no RSA signature, either way.
fn cost(live: &Live, site: Option<&Site>, hello: &ClientHello) -> (u32, u32, bool) {
    let costs = live.snapshot.queues.costs;
    let name = hello.server_name.as_ref().map(Hostname::as_str);
    let is_rsa = certificate::is_rsa(&live.snapshot.certs, site, name, hello.offers_ecdsa);
    let full = if is_rsa { costs.full_rsa } else { costs.full_ecdsa };
    let (cost, otherwise) = match hello.offers_resumption {
        true => (costs.resumed, full.saturating_sub(costs.resumed)),
        false => (full, 0),
    };
    (cost, otherwise, !is_rsa)
}

/// A client that no certificate fits is told so; every other refusal is a reset.
fn tell_alert(socket: &mut Socket, refusal: Refusal) {
    match refusal {
        Refusal::UnknownServerName => tls::alert(socket, tls::Alert::UnrecognizedName),
        Refusal::NoCertificate => tls::alert(socket, tls::Alert::InternalError),
        _ => socket.reset_on_close(),
    }
}

/// Plain HTTP on the TLS port: told where the site is.
fn redirect(thread: &Rc<Thread>, mut socket: Socket, holding: Holding) -> Served {
    // Failing shows itself to whoever reads.
    let _ = socket.settle();
    let addresses = (socket.client, socket.local);
    let handler = Handler::misled(thread.clone(), addresses, holding);
    Box::pin(downstream::h1::serve(socket, &thread.timers, handler))
}

/// A connection to a plain listener: redirected to `https_port`, ACME challenges let through.
pub async fn arrive_plain(thread: Rc<Thread>, arrival: Arrival, https_port: u16) {
    let gauge = thread.proxy.metrics.connection(ConnectionState::Accepted);
    let Arrival { mut socket, slot, .. } = arrival;
    let holding = Holding { slot, gauge, place: None };
    match introduce(&thread, &mut socket).await {
        Ok(()) => serve_plain(&thread, socket, holding, https_port).await,
        Err(refusal) => turn_away(&thread, &socket, refusal),
    }
}

fn serve_plain(
    thread: &Rc<Thread>,
    mut socket: Socket,
    holding: Holding,
    https_port: u16,
) -> Served {
    // Failing shows itself to whoever reads.
    let _ = socket.settle();
    let addresses = (socket.client, socket.local);
    let handler = Handler::plain(thread.clone(), addresses, holding, https_port);
    Box::pin(downstream::h1::serve(socket, &thread.timers, handler))
}

/// A connection whose handshake is done: served until either side ends it.
fn serve(thread: &Rc<Thread>, handshaken: Handshaken, holding: Holding) -> Served {
    let Handshaken { mut stream, settled, server_name, tls } = handshaken;
    let socket = stream.get_mut().0;
    // A client that never let us wait is fresh still. Failing shows itself to whoever reads.
    let _ = socket.settle();
    let addresses = (socket.client, socket.local);
    let handler =
        Handler::encrypted(thread.clone(), addresses, holding, (settled, server_name, tls));
    match settled.http2 {
        true => Box::pin(downstream::h2::serve(stream, &thread.timers, Rc::new(handler))),
        false => Box::pin(downstream::h1::serve(stream, &thread.timers, handler)),
    }
}

impl Transport for Socket {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        Socket::poll_gone(self, cx)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Socket::poll_readable(self, cx)
    }

    fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        pin!(self.read_buf(input)).poll(cx)
    }

    fn release(&mut self) {
        Socket::release(self);
    }
}

impl Transport for tls::Stream {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.get_ref().0.poll_gone(cx)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (socket, session) = self.get_ref();
        // What was read and decrypted with the last piece waits inside.
        if session.wants_read() { socket.poll_readable(cx) } else { Poll::Ready(()) }
    }

    /// One piece: to fill the whole buffer the library would look at the socket once more.
    fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let piece = ready!(Pin::new(&mut *self).poll_fill_buf(cx))?;
        let count = piece.len().min(input.capacity() - input.len());
        input.extend_from_slice(&piece[..count]);
        Pin::new(self).consume(count);
        Poll::Ready(Ok(count))
    }

    fn release(&mut self) {
        self.get_mut().0.release();
    }
}
