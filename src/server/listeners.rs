//! The edge's listening sockets, across reloads: what stays is untouched, what is new is bound
//! before anything is swapped, what is gone stops accepting.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use socket2::SockRef;
use tokio::sync::watch;

use super::fleet::{Listener, Speaks};
use super::handover::{Handed, Role};
use crate::config::Listen;
use crate::listener::{self, backlog};
use crate::problem::{Problem, Severity};

/// The port that a redirect leaves out of its location.
const HTTPS_PORT: u16 = 443;

/// All listeners of the edge.
pub struct Listeners {
    open: Vec<Arc<Listener>>,
    /// Sockets of a predecessor, until all are open that are wanted at the start.
    handed: Vec<Handed>,
}

/// What a listener is wanted for.
struct Wanted {
    key: &'static str,
    address: SocketAddr,
    speaks: Speaks,
}

impl Listeners {
    /// Opens all listeners of a configuration, with the sockets of a predecessor where it had the
    /// same; those that cannot be are told.
    pub fn open(listen: &Listen, file: &Path, handed: Vec<Handed>) -> (Listeners, Vec<Problem>) {
        let mut listeners = Listeners { open: Vec::new(), handed };
        let (_, problems) = listeners.reconcile(listen, file);
        listeners.handed.clear();
        (listeners, problems)
    }

    /// Opens what a configuration has and the edge has not, and stops what it has no more. Returns
    /// the new ones, to be accepted from; an address that cannot be bound is told, and the others
    /// are not harmed.
    pub fn reconcile(
        &mut self,
        listen: &Listen,
        file: &Path,
    ) -> (Vec<Arc<Listener>>, Vec<Problem>) {
        let mut opened = Vec::new();
        let mut problems: Vec<Problem> =
            backlog::clamped_problem(listen.backlog, file).into_iter().collect();
        let mut wanted: Vec<Wanted> = Vec::new();
        for address in &listen.https {
            wanted.push(Wanted { key: "listen.https", address: *address, speaks: Speaks::Https });
        }
        // The redirect's port is known once the first TLS listener is bound.
        for address in &listen.http {
            let speaks = Speaks::Http { https_port: HTTPS_PORT };
            wanted.push(Wanted { key: "listen.http", address: *address, speaks });
        }
        self.stop_unwanted(&wanted);
        for mut wanted in wanted {
            if let Speaks::Http { https_port } = &mut wanted.speaks {
                *https_port = self.https().first().map_or(HTTPS_PORT, SocketAddr::port);
            }
            if let Some(open) = self.open.iter().find(|open| same(open, &wanted)) {
                // listen(2) may be called again: it sets the new backlog and keeps the queue. Where
                // it fails the old one stays, and the queue's limit in the metrics tells.
                let _ = SockRef::from(&open.socket)
                    .listen(i32::try_from(listen.backlog).unwrap_or(i32::MAX));
                continue;
            }
            match self.bind(&wanted, listen.backlog) {
                Ok(listener) => {
                    opened.push(listener.clone());
                    self.open.push(listener);
                }
                Err(error) => problems.push(unbound(&wanted, &error, file)),
            }
        }
        (opened, problems)
    }

    /// Goes on with the predecessor's socket where there is one, else binds.
    fn bind(&mut self, wanted: &Wanted, backlog: u32) -> std::io::Result<Arc<Listener>> {
        let role = Role::from(wanted.speaks);
        let same = |one: &Handed| one.role == role && one.configured == wanted.address;
        let socket = match self.handed.iter().position(same) {
            Some(at) => listener::adopt(self.handed.remove(at).socket, backlog)?,
            None => listener::bind(wanted.address, backlog)?,
        };
        Ok(Arc::new(Listener {
            configured: wanted.address,
            address: socket.local_addr()?,
            socket,
            speaks: wanted.speaks,
            stop: watch::Sender::new(false),
        }))
    }

    /// Stops accepting everywhere; what the kernel has queued is still taken.
    pub fn stop(&mut self) {
        for listener in self.open.drain(..) {
            listener.stop.send_replace(true);
        }
    }

    /// All listeners.
    pub fn all(&self) -> &[Arc<Listener>] {
        &self.open
    }

    /// The real addresses of the TLS listeners.
    pub fn https(&self) -> Vec<SocketAddr> {
        self.addresses(|speaks| speaks == Speaks::Https)
    }

    /// The real addresses of the plain listeners.
    pub fn http(&self) -> Vec<SocketAddr> {
        self.addresses(|speaks| speaks != Speaks::Https)
    }

    fn addresses(&self, which: impl Fn(Speaks) -> bool) -> Vec<SocketAddr> {
        self.open.iter().filter(|open| which(open.speaks)).map(|open| open.address).collect()
    }

    fn stop_unwanted(&mut self, wanted: &[Wanted]) {
        self.open.retain(|open| {
            let stays = wanted.iter().any(|wanted| same(open, wanted));
            if !stays {
                open.stop.send_replace(true);
            }
            stays
        });
    }
}

/// Whether a listener already does what is wanted.
fn same(open: &Listener, wanted: &Wanted) -> bool {
    let both_https = open.speaks == Speaks::Https && wanted.speaks == Speaks::Https;
    let both_http = open.speaks != Speaks::Https && wanted.speaks != Speaks::Https;
    open.configured == wanted.address && (both_https || both_http)
}

fn unbound(wanted: &Wanted, error: &std::io::Error, file: &Path) -> Problem {
    let remedy = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; start as root and set runtime.user"
        }
        std::io::ErrorKind::AddrInUse => {
            "another program listens there; end it, or change the port"
        }
        _ => "use an address of this machine",
    };
    Problem {
        severity: Severity::Part,
        file: file.to_path_buf(),
        line: None,
        key: wanted.key.into(),
        site: None,
        what: format!("{} cannot be listened on: {error}", wanted.address),
        remedy: remedy.into(),
    }
}
