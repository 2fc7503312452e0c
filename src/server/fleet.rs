//! The edge's threads: serving threads, each with a handshake thread beside it.
//!
//! A serving thread accepts, reads hellos, serves, and computes brief handshakes while little waits: a
//! current-thread runtime, which a connection never leaves. A handshake thread computes what the queue
//! of all hands it, and has no runtime.
//! The control thread talks to the serving threads by bounded channels of [`Order`]s.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};

use crate::config::Runtime;
use crate::listener::{Accepted, Acceptor, Incoming};
use crate::proxy::connection::{self, Arrival};
use crate::proxy::handshake;
use crate::proxy::{ConnectionSlot, Proxy, Thread, places};
use crate::shards;
use crate::tls::Socket;

/// Orders that may wait for a serving thread: a reload sends one for each listener.
const ORDERS_MAX: usize = 64;

/// While handshakes wait for longer than this, a thread takes new connections in once in so long, and
/// as long as a quarter of what waits keeps its handshake thread busy: none of them could begin
/// sooner, and to be woken for each one by itself costs more than to take it in. Far below what any
/// backlog holds.
const GATHERING: Duration = Duration::from_millis(1);
const GATHERING_MAX: Duration = Duration::from_millis(2);

/// Connections accepted before others have a turn: a tenth of a millisecond's work.
const ACCEPTED_MAX: usize = 4;

/// Handshakes that have begun, taken up at once.
const TAKEN_UP_MAX: usize = 16;

/// A listening socket of the edge.
#[derive(Debug)]
pub struct Listener {
    /// As the configuration names it; port 0 stays 0.
    pub configured: SocketAddr,
    /// As bound.
    pub address: SocketAddr,
    /// The socket; each serving thread accepts from a duplicate.
    pub socket: std::net::TcpListener,
    /// What is spoken there.
    pub speaks: Speaks,
    /// Where plain listeners redirect to now.
    pub https_port: Arc<AtomicU16>,
    /// Turns true when no more is to be accepted.
    pub stop: watch::Sender<bool>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Speaks {
    /// TLS.
    Https,
    /// HTTP, redirected to where the same hosts serve TLS.
    Http,
}

impl Speaks {
    /// The key that names such listeners.
    pub fn key(self) -> &'static str {
        match self {
            Speaks::Https => "listen.https",
            Speaks::Http => "listen.http",
        }
    }
}

/// What the control thread tells a serving thread.
enum Order {
    Listen(Arc<Listener>),
    /// Wake everything that waits, so that it sees the drain.
    LookAround,
    /// Look at what is served now.
    Renew,
}

/// The threads of the edge.
pub struct Fleet {
    orders: Vec<mpsc::Sender<Order>>,
    /// Kept so that the threads' ends are those of the process.
    _threads: Vec<JoinHandle<()>>,
}

impl Fleet {
    /// Starts the serving threads and as many handshake threads.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(proxy: &Arc<Proxy>, runtime: &Runtime) -> std::io::Result<Fleet> {
        let (count, nice) = (runtime.threads, runtime.handshake_nice);
        let (mut orders, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (order, orders_here) = mpsc::channel(ORDERS_MAX);
            orders.push(order);
            let proxy = proxy.clone();
            let work = move || run_thread(number, serve(proxy, orders_here));
            threads.push(spawn(format!("sluss-serve-{number}"), work)?);
        }
        for number in 0..count {
            let proxy = proxy.clone();
            let work = move || {
                lower_priority(nice);
                shards::register_thread(count + number);
                handshake::work(&proxy);
            };
            threads.push(spawn(format!("sluss-tls-{number}"), work)?);
        }
        Ok(Fleet { orders, _threads: threads })
    }

    /// Lets every serving thread accept from `listener`, until its `stop` turns true.
    pub async fn listen(&self, listener: &Arc<Listener>) {
        for orders in &self.orders {
            // A serving thread ends with the process alone.
            let _ = orders.send(Order::Listen(listener.clone())).await;
        }
    }

    /// Wakes everything that waits, so that it sees the drain.
    pub async fn look_around(&self) {
        for orders in &self.orders {
            let _ = orders.send(Order::LookAround).await;
        }
    }

    /// Lets every serving thread take up what is served now: one without visitors would keep the
    /// generation of its last one in memory.
    pub async fn renew(&self) {
        for orders in &self.orders {
            let _ = orders.send(Order::Renew).await;
        }
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(work)
}

/// Linux keeps niceness by thread, and raising it needs no privilege.
fn lower_priority(nice: u8) {
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    let _ = rustix::process::setpriority_process(None, own + i32::from(nice));
}

fn run_thread(number: usize, work: impl Future<Output = ()>) {
    shards::register_thread(number);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Not a `LocalSet` on a plain runtime: that writes to an eventfd for each batch of events.
    match builder.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => tracing::error!(%error, "a thread has no runtime; its connections wait"),
    }
}

async fn serve(proxy: Arc<Proxy>, mut orders: mpsc::Receiver<Order>) {
    let (thread, started) = Thread::new(proxy);
    tokio::task::spawn_local(go_on(thread.clone(), started));
    tokio::task::spawn_local(handshake::help(thread.clone()));
    tokio::task::spawn_local(thread.timers.clone().sweep());
    tokio::task::spawn_local(thread.client.clone().sweep());
    tokio::task::spawn_local(places::make_room(thread.clone()));
    // The sender lives as long as the process.
    while let Some(order) = orders.recv().await {
        match order {
            Order::Listen(listener) => {
                tokio::task::spawn_local(accept(thread.clone(), listener));
            }
            Order::LookAround => thread.timers.wake_all(),
            Order::Renew => drop(thread.live()),
        }
    }
}

/// How long to gather now; `None` where the handshake threads are about to be done.
fn gathering(thread: &Thread) -> Option<Duration> {
    let threads = thread.live().snapshot.runtime.threads.max(1);
    let wait = thread.proxy.handshakes.backlog().div_f64(threads as f64);
    (wait > GATHERING).then(|| (wait / 4).clamp(GATHERING, GATHERING_MAX))
}

/// Takes up handshakes that have begun. While others wait, a thread does so once in so long,
/// as it accepts: to be woken for each would take the core from the next one's handshake.
async fn go_on(thread: Rc<Thread>, mut started: mpsc::Receiver<handshake::Started>) {
    let mut taken = Vec::new();
    while started.recv_many(&mut taken, TAKEN_UP_MAX).await > 0 {
        for one in taken.drain(..) {
            tokio::task::spawn_local(connection::go_on(thread.clone(), one));
        }
        if let Some(time) = gathering(&thread) {
            tokio::time::sleep(time).await;
        }
    }
}

/// Accepts until the listener stops; what is in the kernel's queue then is still taken.
async fn accept(thread: Rc<Thread>, listener: Arc<Listener>) {
    let acceptor = match Acceptor::new(&listener.socket) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(listener = %listener.address, %error, "a thread cannot accept");
            return;
        }
    };
    let mut stop = listener.stop.subscribe();
    loop {
        tokio::select! {
            accepted = acceptor.next() => arrived(&thread, &listener, accepted).await,
            _ = stop.wait_for(|stopped| *stopped) => break,
        }
        loop {
            let mut accepted = 1;
            while accepted < ACCEPTED_MAX
                && let Some(incoming) = acceptor.try_next()
            {
                arrived(&thread, &listener, Accepted::Connection(incoming)).await;
                accepted += 1;
            }
            if *stop.borrow() {
                break;
            } else if accepted == ACCEPTED_MAX {
                tokio::task::yield_now().await;
            } else if let Some(time) = gathering(&thread) {
                acceptor.look_away();
                tokio::time::sleep(time).await;
            } else {
                break;
            }
        }
    }
    let next = || tokio::time::timeout(Duration::ZERO, acceptor.next());
    while let Ok(accepted) = next().await {
        arrived(&thread, &listener, accepted).await;
    }
}

async fn arrived(thread: &Rc<Thread>, listener: &Listener, accepted: Accepted) {
    let Accepted::Connection(Incoming { stream, client, not_before }) = accepted else {
        thread.proxy.metrics.turned_away(crate::refusal::Refusal::ConnectionLimit);
        return;
    };
    let local = match listener.address {
        one if one.ip().is_unspecified() => stream.local_addr(),
        one => Ok(one),
    };
    let Ok(local) = local else {
        return thread.proxy.metrics.turned_away(crate::refusal::Refusal::ClientGone);
    };
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let socket = Socket::new(stream, client, local);
    // Where all places are taken, accepting pauses until one is free.
    let slot = ConnectionSlot::wait(thread).await;
    let arrival = Arrival { socket, slot, not_before };
    match listener.speaks {
        Speaks::Https => {
            // As in a task, a panic costs its own connection.
            let arrive = || connection::arrive(thread, arrival);
            let _ = catch_unwind(AssertUnwindSafe(arrive));
        }
        Speaks::Http => {
            let https_port = listener.https_port.load(Ordering::Relaxed);
            let arrive = connection::arrive_plain(thread.clone(), arrival, https_port);
            tokio::task::spawn_local(arrive);
        }
    };
}
