//! The edge's listening sockets, across reloads: what stays is untouched, what is new is bound before
//! anything is stopped or swapped, what is gone stops accepting.
//!
//! A new listener on the address of one that goes takes its socket over, and one on an overlapping
//! address its place, which is the one case with an instant in which nobody listens. Where one of a
//! kind (TLS or plain) cannot be had, those of the kind that would go stay: an edge that served is
//! never left without.

use std::io;
use std::mem;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::sync::watch;
use tokio::time::timeout;

use super::fleet::{Listener, Speaks};
use super::handover::{Handed, Role};
use crate::config::Listen;
use crate::listener::{self, backlog};
use crate::problem::{Problem, Severity};

/// The port that a redirect leaves out of its location.
const HTTPS_PORT: u16 = 443;

/// So long the serving threads have to take what the kernel has queued for a listener that another
/// takes the place of. They do it within a round of their loops, unless all connections are taken.
const EMPTYING_MAX: Duration = Duration::from_secs(1);

/// All listeners of the edge.
pub struct Listeners {
    open: Vec<Arc<Listener>>,
    /// Sockets of a predecessor, until all are open that are wanted at the start.
    handed: Vec<Handed>,
    /// Where the plain ones redirect to.
    https_port: Arc<AtomicU16>,
}

/// What came of a reconciliation.
#[derive(Default)]
pub struct Reconciled {
    /// Listeners to be accepted from.
    pub opened: Vec<Arc<Listener>>,
    /// Addresses that cannot be listened on, and what else is to be told.
    pub problems: Vec<Problem>,
    /// Listeners that the configuration has no more, and that stay for want of another.
    pub kept: Vec<String>,
}

/// A listener that the configuration has.
struct Wanted {
    address: SocketAddr,
    speaks: Speaks,
}

impl Listeners {
    /// Opens all listeners of a configuration, with the sockets of a predecessor where it had the
    /// same; those that cannot be are told.
    pub async fn open(
        listen: &Listen,
        file: &Path,
        handed: Vec<Handed>,
    ) -> (Listeners, Vec<Problem>) {
        let https_port = Arc::new(AtomicU16::new(HTTPS_PORT));
        let mut listeners = Listeners { open: Vec::new(), handed, https_port };
        let done = listeners.reconcile(listen, file).await;
        listeners.handed.clear();
        (listeners, done.problems)
    }

    /// Opens what a configuration has and the edge has not, and stops what it has no more. An
    /// address that cannot be bound is told, and the others are not harmed. *Cancel safe* before
    /// [`stop`](Listeners::stop): until the end all that accept are known here.
    pub async fn reconcile(&mut self, listen: &Listen, file: &Path) -> Reconciled {
        let mut done = Reconciled::default();
        done.problems.extend(backlog::clamped_problem(listen.backlog, file));
        let (missing, mut staying, mut leaving) = self.compare(listen);
        let contested =
            |wanted: &Wanted| leaving.iter().any(|open| do_overlap(open.address, wanted.address));
        let (contested, free): (Vec<_>, Vec<_>) = missing.into_iter().partition(contested);
        let mut unbound: Vec<(Wanted, io::Error)> = Vec::new();
        // First those in nobody's way: where one cannot be had, nothing is given up for it.
        for wanted in free {
            match self.bind(&wanted, listen.backlog) {
                Ok(listener) => done.opened.push(listener),
                Err(error) => unbound.push((wanted, error)),
            }
        }
        for wanted in contested {
            let lacks = |speaks| unbound.iter().any(|(other, _)| other.speaks == speaks);
            let rivals = rivals(&wanted, &mut leaving, lacks);
            match self.take_over(&wanted, listen.backlog, rivals).await {
                Ok(listener) => done.opened.push(listener),
                Err((error, rivals)) => {
                    done.opened.extend(rivals.iter().cloned());
                    leaving.extend(rivals);
                    unbound.push((wanted, error));
                }
            }
        }
        staying.extend(done.opened.iter().cloned());
        for open in leaving {
            if unbound.iter().any(|(wanted, _)| wanted.speaks == open.speaks) {
                done.kept.push(format!("{} {}", open.speaks.key(), open.configured));
                staying.push(open);
            } else {
                open.stop.send_replace(true);
            }
        }
        self.open = staying;
        done.problems.extend(unbound.iter().map(|(wanted, error)| told(wanted, error, file)));
        self.redirect(listen);
        done
    }

    /// What the configuration has and the edge has not; the listeners that both have; those that only
    /// the edge has.
    fn compare(&self, listen: &Listen) -> (Vec<Wanted>, Vec<Arc<Listener>>, Vec<Arc<Listener>>) {
        let https = listen.https.iter().map(|address| (*address, Speaks::Https));
        let http = listen.http.iter().map(|address| (*address, Speaks::Http));
        let wanted = https.chain(http).map(|(address, speaks)| Wanted { address, speaks });
        let mut missing: Vec<Wanted> = wanted.collect();
        let (mut staying, mut leaving) = (Vec::new(), Vec::new());
        for open in self.open.iter().cloned() {
            let does =
                |wanted: &Wanted| open.configured == wanted.address && open.speaks == wanted.speaks;
            let Some(at) = missing.iter().position(does) else {
                leaving.push(open);
                continue;
            };
            missing.remove(at);
            // listen(2) may be called again: it sets the new backlog and keeps the queue. Where it
            // fails the old one stays, and the queue's limit in the metrics tells.
            let _ = listen_again(&open, listen.backlog);
            staying.push(open);
        }
        (missing, staying, leaving)
    }

    /// Goes on with the predecessor's socket where there is one, else binds.
    fn bind(&mut self, wanted: &Wanted, backlog: u32) -> io::Result<Arc<Listener>> {
        let role = Role::from(wanted.speaks);
        let same = |one: &Handed| one.role == role && one.configured == wanted.address;
        let socket = match self.handed.iter().position(same) {
            Some(at) => listener::adopt(self.handed.remove(at).socket, backlog)?,
            None => listener::bind(wanted.address, backlog)?,
        };
        self.listener(wanted, socket)
    }

    fn listener(&self, wanted: &Wanted, socket: TcpListener) -> io::Result<Arc<Listener>> {
        Ok(Arc::new(Listener {
            configured: wanted.address,
            address: socket.local_addr()?,
            socket,
            speaks: wanted.speaks,
            https_port: self.https_port.clone(),
            stop: watch::Sender::new(false),
        }))
    }

    /// Opens a listener in the place of `rivals`; where it cannot be had they come back.
    async fn take_over(
        &self,
        wanted: &Wanted,
        backlog: u32,
        rivals: io::Result<Vec<Arc<Listener>>>,
    ) -> Result<Arc<Listener>, (io::Error, Vec<Arc<Listener>>)> {
        let rivals = rivals.map_err(|error| (error, Vec::new()))?;
        for rival in &rivals {
            rival.stop.send_replace(true);
            let _ = timeout(EMPTYING_MAX, rival.stop.closed()).await;
        }
        let bound = match rivals.iter().find(|rival| rival.address == wanted.address) {
            Some(rival) => rival.socket.try_clone(),
            None => {
                // The socket stays bound, and can listen again; another may take its place now.
                for rival in &rivals {
                    let _ = SockRef::from(&rival.socket).shutdown(Shutdown::Read);
                }
                listener::bind(wanted.address, backlog)
            }
        };
        match bound.and_then(|socket| self.listener(wanted, socket)) {
            Ok(listener) => Ok(listener),
            Err(error) => {
                let back = rivals.iter().filter_map(|rival| self.back(rival, backlog).ok());
                Err((error, back.collect()))
            }
        }
    }

    /// A listener that was stopped, anew.
    fn back(&self, stopped: &Listener, backlog: u32) -> io::Result<Arc<Listener>> {
        listen_again(stopped, backlog)?;
        let wanted = Wanted { address: stopped.configured, speaks: stopped.speaks };
        self.listener(&wanted, stopped.socket.try_clone()?)
    }

    /// Lets the plain listeners redirect to the first TLS listener there is.
    fn redirect(&self, listen: &Listen) {
        let named = |address: &SocketAddr| {
            let mut https = self.open.iter().filter(|open| open.speaks == Speaks::Https);
            https.find(|open| open.configured == *address)
        };
        let first = listen.https.iter().find_map(named).map(|open| open.address);
        let port = first.or(self.https().first().copied()).map_or(HTTPS_PORT, |at| at.port());
        self.https_port.store(port, Ordering::Relaxed);
    }

    /// Stops accepting everywhere; what the kernel has queued is still taken. The senders are closed
    /// once that is done.
    pub fn stop(&mut self) -> Vec<watch::Sender<bool>> {
        let stopped: Vec<_> = self.open.drain(..).map(|listener| listener.stop.clone()).collect();
        for stop in &stopped {
            stop.send_replace(true);
        }
        stopped
    }

    /// All listeners.
    pub fn all(&self) -> &[Arc<Listener>] {
        &self.open
    }

    /// The real addresses of the TLS listeners.
    pub fn https(&self) -> Vec<SocketAddr> {
        self.addresses(Speaks::Https)
    }

    /// The real addresses of the plain listeners.
    pub fn http(&self) -> Vec<SocketAddr> {
        self.addresses(Speaks::Http)
    }

    fn addresses(&self, speaks: Speaks) -> Vec<SocketAddr> {
        self.open.iter().filter(|open| open.speaks == speaks).map(|open| open.address).collect()
    }
}

/// Takes those out of `leaving` that stand where another is wanted; an error where one of them must
/// stay, because its kind lacks a listener.
fn rivals(
    wanted: &Wanted,
    leaving: &mut Vec<Arc<Listener>>,
    lacks: impl Fn(Speaks) -> bool,
) -> io::Result<Vec<Arc<Listener>>> {
    let is_rival = |open: &Arc<Listener>| do_overlap(open.address, wanted.address);
    if let Some(rival) = leaving.iter().find(|open| is_rival(open) && lacks(open.speaks)) {
        let what = format!("{} {} stays", rival.speaks.key(), rival.configured);
        return Err(io::Error::other(what));
    }
    let (rivals, others) = mem::take(leaving).into_iter().partition(is_rival);
    *leaving = others;
    Ok(rivals)
}

/// Whether the kernel lets only one of the two be listened on.
fn do_overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::]` is dual stack.
    let takes = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || takes(a, b) || takes(b, a))
}

fn listen_again(listener: &Listener, backlog: u32) -> io::Result<()> {
    SockRef::from(&listener.socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

fn told(wanted: &Wanted, error: &io::Error, file: &Path) -> Problem {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; start as root and set runtime.user"
        }
        io::ErrorKind::AddrInUse => "another program listens there; end it, or change the port",
        _ if error.raw_os_error().is_none() => "mend the other listener, then reload",
        _ => "use an address of this machine",
    };
    Problem {
        severity: Severity::Part,
        file: file.to_path_buf(),
        line: None,
        key: wanted.speaks.key().into(),
        site: None,
        what: format!("{} cannot be listened on: {error}", wanted.address),
        remedy: remedy.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_as_the_kernel_sees_them() {
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("[::1]:1", "[::]:1", true),
            ("[::1]:1", "0.0.0.0:1", false),
            ("0.0.0.0:1", "[::]:1", true),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(do_overlap(one, other), expected, "{one} {other}");
            assert_eq!(do_overlap(other, one), expected, "{other} {one}");
        }
    }
}
