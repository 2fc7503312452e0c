//! The life of a connection, top to bottom: accepted, introduced, greeted, taken through the
//! handshake queue and its handshake, served.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::handshake::{self, Admissible, Handshaken};
use super::request::Handler;
use super::{ConnectionSlot, Live, SiteState, Thread, certificate};
use crate::admission::{HeldLimits, Hold, Reached};
use crate::downstream::{self, Transport};
use crate::listener::{kernel, proxy_protocol};
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
    /// The connection, in nonblocking mode.
    pub stream: TcpStream,
    /// Who made it, as the kernel says.
    pub client: SocketAddr,
    /// The address it connected to, where the listener has but one.
    pub local: Option<SocketAddr>,
    /// Its place in the process's bound.
    pub slot: ConnectionSlot,
}

/// A connection's life from its first request on.
type Served = Pin<Box<dyn Future<Output = ()>>>;

/// A connection to a TLS listener, from accept to close. A refusal ends it.
pub async fn arrive(thread: Rc<Thread>, arrival: Arrival) {
    // Each stage is boxed by itself: an open connection holds the state of its stage alone.
    let served = match Box::pin(welcome(&thread, arrival)).await {
        Some(Welcomed::Encrypted(handshaken, holding)) => serve(&thread, *handshaken, holding),
        Some(Welcomed::PlainHttp(socket, holding)) => redirect(&thread, socket, holding),
        None => return,
    };
    drop(thread);
    served.await;
}

/// What came of a connection before its first request.
enum Welcomed {
    Encrypted(Box<Handshaken>, Holding),
    PlainHttp(Socket, Holding),
}

/// From accept to the end of the handshake; `None` where the connection was refused.
async fn welcome(thread: &Thread, arrival: Arrival) -> Option<Welcomed> {
    let Arrival { stream, client, local, slot } = arrival;
    let gauge = thread.proxy.metrics.connection(ConnectionState::Accepted);
    let mut holding = Holding { slot, gauge, place: None };
    let mut socket = match introduce(thread, stream, (client, local)).await {
        Ok(socket) => socket,
        Err(refusal) => return turned_away(thread, refusal),
    };
    holding.gauge.set(ConnectionState::Hello);
    let hello = match greet(thread, &mut socket).await {
        Ok(hello::FirstBytes::Hello(hello)) => hello,
        Ok(hello::FirstBytes::PlainHttp) => return Some(Welcomed::PlainHttp(socket, holding)),
        Ok(hello::FirstBytes::Incomplete | hello::FirstBytes::Malformed) => {
            return turned_away(thread, Refusal::HelloMalformed);
        }
        Err(refusal) => return turned_away(thread, refusal),
    };
    let admissible = match admissible(&thread.live(), &socket, &hello, &mut holding) {
        Ok(admissible) => admissible,
        Err(refusal) => {
            tell_alert(&socket, refusal);
            return refused(thread, hello.server_name.as_ref(), refusal);
        }
    };
    holding.gauge.set(ConnectionState::Queued);
    let ClientHello { server_name, .. } = hello;
    let gauge = &mut holding.gauge;
    match handshake::run(thread, socket, server_name.clone(), admissible, gauge).await {
        Ok(handshaken) => Some(Welcomed::Encrypted(Box::new(handshaken), holding)),
        Err(refusal) => refused(thread, server_name.as_ref(), refusal),
    }
}

/// Names the client: as the kernel does, or a trusted network's PROXY header.
async fn introduce(
    thread: &Thread,
    stream: TcpStream,
    (client, local): (SocketAddr, Option<SocketAddr>),
) -> Result<Socket, Refusal> {
    let local = local.map_or_else(|| stream.local_addr(), Ok);
    let local = local.map_err(|_| Refusal::ClientGone)?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let live = thread.live();
    let networks = &live.snapshot.listen.proxy_protocol_from;
    if !networks.iter().any(|network| network.contains(&client.ip())) {
        return Ok(Socket::new(stream, client, local));
    }
    let deadline = thread.timers.deadline();
    deadline.arm(live.snapshot.timeouts.hello);
    let mut socket = Socket::new(stream, client, local);
    let header = deadline.bound(proxy_protocol::read(&mut socket)).await;
    let introduced = header.map_err(|_| Refusal::ProxyHeader)??;
    (socket.client, socket.local) = introduced.addresses.unwrap_or((client, local));
    socket.push_back(introduced.rest);
    Ok(socket)
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

/// What the handshake queue needs to know; takes the client's place among its site's connections.
fn admissible(
    live: &Live,
    socket: &Socket,
    hello: &ClientHello,
    holding: &mut Holding,
) -> Result<Admissible, Refusal> {
    // The client began to wait when its last segment came, not when this thread had time.
    let waited = socket.descriptor().and_then(|it| kernel::since_last_segment(it).ok());
    let since = Instant::now() - waited.unwrap_or_default();
    let name = hello.server_name.as_ref().map(Hostname::as_str);
    let site = name.and_then(|name| live.site(name));
    let certs = &live.snapshot.certs;
    if site.is_none() && live.snapshot.certificates.default.is_none() {
        return Err(Refusal::UnknownServerName);
    }
    if !certificate::is_at_hand(certs, site.map(|(site, _)| &**site), name) {
        return Err(Refusal::NoCertificate);
    }
    let cost = cost(live, site.map(|(site, _)| &**site), hello);
    let sort = if hello.offers_resumption { Sort::Light } else { Sort::Heavy };
    let Some((site, state)) = site else {
        let customer =
            CustomerId::parse(UNKNOWN_CUSTOMER).map_err(|_| Refusal::UnknownServerName)?;
        return Ok(Admissible { customer, weight: 1, cost, sort, since });
    };
    holding.place = bound(live, (site, state), socket.client.ip())?;
    Ok(Admissible { customer: site.customer.clone(), weight: site.weight, cost, sort, since })
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

/// What the handshake will cost, microseconds of a core, as far as the hello tells.
fn cost(live: &Live, site: Option<&Site>, hello: &ClientHello) -> u32 {
    let costs = live.snapshot.queues.costs;
    let name = hello.server_name.as_ref().map(Hostname::as_str);
    if hello.offers_resumption {
        return costs.resumed;
    }
    match certificate::is_rsa(&live.snapshot.certs, site, name) {
        true => costs.full_rsa,
        false => costs.full_ecdsa,
    }
}

/// A client that no certificate fits is told so; every other refusal is a reset.
fn tell_alert(socket: &Socket, refusal: Refusal) {
    match refusal {
        Refusal::UnknownServerName => tls::alert(socket, tls::Alert::UnrecognizedName),
        Refusal::NoCertificate => tls::alert(socket, tls::Alert::InternalError),
        _ => socket.reset_on_close(),
    }
}

fn refused(thread: &Thread, server_name: Option<&Hostname>, refusal: Refusal) -> Option<Welcomed> {
    let live = thread.live();
    match server_name.and_then(|name| live.site(name.as_str())) {
        Some((_, state)) => state.metrics.refused(refusal),
        None => thread.proxy.metrics.turned_away(refusal),
    }
    None
}

fn turned_away(thread: &Thread, refusal: Refusal) -> Option<Welcomed> {
    thread.proxy.metrics.turned_away(refusal);
    None
}

/// Plain HTTP on the TLS port: told where the site is.
fn redirect(thread: &Rc<Thread>, socket: Socket, holding: Holding) -> Served {
    thread.proxy.metrics.turned_away(Refusal::PlainHttp);
    let https_port = socket.local.port();
    serve_plain(thread, socket, holding, https_port)
}

/// A connection to a plain listener: redirected to `https_port`, ACME challenges let through.
pub async fn arrive_plain(thread: Rc<Thread>, arrival: Arrival, https_port: u16) {
    let Arrival { stream, client, local, slot } = arrival;
    let gauge = thread.proxy.metrics.connection(ConnectionState::Accepted);
    let holding = Holding { slot, gauge, place: None };
    match introduce(&thread, stream, (client, local)).await {
        Ok(socket) => serve_plain(&thread, socket, holding, https_port).await,
        Err(refusal) => thread.proxy.metrics.turned_away(refusal),
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
}

impl Transport for tls::Stream {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.get_ref().0.poll_gone(cx)
    }
}
