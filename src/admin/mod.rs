//! The admin listener: metrics, health, API and dashboard, on the control thread.
//!
//! It never touches the way of a request: what it shows comes from a [`View`], which the server
//! fills with the rooms' own snapshots, and from the metrics. Everything is bounded: connections
//! ([`CONNECTIONS_MAX`]), requests at once, time, request bodies (none is read).

mod data;
mod page;
mod refused;
mod routes;
mod security;
mod watch;

use std::convert::Infallible;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, ServiceExt};

use crate::alarms::{Change, Urgency};
use crate::config::AdminAddress;
use crate::config::report::Report;
use crate::metrics::{Metrics, ProcessReader, Totals};
use crate::names::SiteId;

pub use data::{
    AccessLogRow, CertificateRow, EndpointRow, FailingEndpoint, FindingExample, FindingRow,
    Gathered, Health, LatencyRow, ListenerRow, Phase, Point, ProcessRow, QueueNow, QueueRow,
    RefusalRow, ReloadRow, Serving, SiteRow, SitesPage, Status,
};
pub use security::{Reach, Security, Token};

use refused::{Counted, Line, Of, RefusedLog};
use watch::{HANDSHAKES_REFUSED, Look, REQUESTS_REFUSED, RefusedAt, Watch};

/// Connections at one time: a few browsers with six each, scrapers and commands.
pub const CONNECTIONS_MAX: usize = 64;

/// Requests at one time.
const REQUESTS_MAX: usize = 16;

/// For any answer; a reload of 100,000 certificates is the longest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// For a request head, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How often all sites are read for their rates.
const SITES_EVERY: Duration = Duration::from_secs(10);

/// Sites that are shown before busier ones.
const NOTABLE_MAX: usize = 50;

/// A reload that runs.
pub type Reloading = Pin<Box<dyn Future<Output = Report> + Send>>;

/// What the admin pages show, told by the server from the rooms it holds. Methods are called on the
/// control thread or a blocking thread; none may wait for serving threads.
pub trait View: Send + Sync + 'static {
    /// What is served; cheap.
    fn serving(&self) -> Serving;
    /// The edge now: once a second and at each scrape.
    fn gather(&self) -> Gathered;
    /// All sites, in any order; the summaries come from [`Metrics::sites`].
    fn sites(&self) -> Vec<SiteRow>;
    /// All certificates, the soonest to expire first.
    fn certificates(&self) -> Vec<CertificateRow>;
    /// What the header rules found, the most frequent first.
    fn findings(&self) -> Vec<FindingRow>;
    /// The last reloads, the latest first; at most ten.
    fn reloads(&self) -> Vec<ReloadRow>;
    /// Reloads, and tells what came of it.
    fn reload(&self) -> Reloading;
}

/// The admin pages' state.
pub struct Admin {
    view: Arc<dyn View>,
    metrics: Arc<Metrics>,
    security: Security,
    watch: Mutex<Watch>,
    process: ProcessReader,
    refused: Mutex<RefusedLog>,
}

impl Admin {
    /// The pages over a view, under the listener's rules.
    pub fn new(view: Arc<dyn View>, metrics: Arc<Metrics>, security: Security) -> Arc<Admin> {
        let (watch, process, refused) = Default::default();
        Arc::new(Admin { view, metrics, security, watch, process, refused })
    }

    /// Looks at the edge once a second, for ever: rates, percentiles, alarms and their log lines.
    /// *Cancel safety*: dropping it stops the looks and loses nothing.
    pub async fn watch(self: Arc<Admin>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sites_read = Instant::now();
        loop {
            tick.tick().await;
            self.look();
            if sites_read.elapsed() >= SITES_EVERY {
                self.metrics.sites_tick(sites_read.elapsed(), &self.notable());
                sites_read = Instant::now();
            }
        }
    }

    /// One look, as [`Admin::watch`] takes it every second.
    pub fn look(&self) {
        let totals = self.metrics.totals();
        self.log_refused(&totals);
        let refused = self.state().has_new_refusals(&totals).then(|| RefusedAt {
            handshakes: self.metrics.refused_by_site(&HANDSHAKES_REFUSED),
            requests: self.metrics.refused_by_site(&REQUESTS_REFUSED),
        });
        let look = Look {
            at: Instant::now(),
            unix: unix_now(),
            gathered: self.view.gather(),
            totals,
            refused,
            process: self.process.sample(),
        };
        for change in self.state().take(look) {
            log_change(&change);
        }
    }

    fn log_refused(&self, totals: &Totals) {
        let counted = |reason| Counted {
            nameless: totals.refused_without_site(reason),
            by_site: self.metrics.refused_by_site(&[reason]),
        };
        let mut log = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for Line { reason, of, count } in
            log.due(Instant::now(), |reason| totals.refused(reason), counted)
        {
            let reason = reason.label();
            match of {
                Of::Nobody => tracing::info!(reason, count, "refused"),
                Of::Site(site) => tracing::info!(reason, site, count, "refused"),
                Of::Others(sites) => tracing::info!(reason, sites, count, "refused"),
            }
        }
    }

    /// `/api/status`; `since` asks for the charts' points after that time.
    pub fn status(&self, since: Option<i64>) -> Status {
        self.state().status(self.view.serving(), unix_now(), since)
    }

    fn state(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prometheus' text, with everything as it is now.
    fn metrics_text(&self) -> String {
        let alarms = self.state().alarms().counts();
        let input = watch::scrape_input(
            self.view.serving(),
            self.view.gather(),
            alarms,
            self.process.sample(),
        );
        self.metrics.render(&input)
    }

    /// Sites with waiting requests, without endpoints, or with the most findings.
    fn notable(&self) -> Vec<SiteId> {
        let gathered = self.view.gather();
        let mut findings = gathered.findings;
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.count));
        let waiting = gathered.request_queues.into_iter().map(|(site, _)| site);
        let down = gathered.sites_down.into_iter().map(|(site, _)| site);
        let odd = findings.into_iter().map(|finding| finding.site);
        let ids = waiting.take(NOTABLE_MAX).chain(down.take(NOTABLE_MAX)).chain(odd.take(10));
        ids.filter_map(|id| SiteId::parse(&id).ok()).collect()
    }
}

/// The bound listener.
pub enum Listener {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a Unix socket with this file.
    Unix(UnixListener, PathBuf),
}

/// The file of a Unix socket: removed when this is dropped.
pub struct SocketFile(PathBuf);

impl SocketFile {
    /// The file of that address, where it has one.
    pub fn of(address: &AdminAddress) -> Option<SocketFile> {
        match address {
            AdminAddress::Tcp(_) => None,
            AdminAddress::Unix(path) => Some(SocketFile(path.clone())),
        }
    }

    /// Leaves the file: another process listens there.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that is gone already is what was wanted.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds; a Unix socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// Where the address is taken or not to be had.
    pub async fn bind(address: &AdminAddress) -> io::Result<Listener> {
        match address {
            AdminAddress::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            AdminAddress::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                // Owner and group: an operators' group may be set on the folder.
                fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
                Ok(Listener::Unix(listener, path.clone()))
            }
        }
    }

    /// Goes on listening on a socket that another process has bound to the address.
    ///
    /// # Errors
    /// Where the socket cannot be used.
    pub fn adopt(address: &AdminAddress, socket: OwnedFd) -> io::Result<Listener> {
        match address {
            AdminAddress::Tcp(_) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Listener::Tcp)
            }
            AdminAddress::Unix(path) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener)
                    .map(|listener| Listener::Unix(listener, path.clone()))
            }
        }
    }

    /// A duplicate of the socket, for a process that takes over.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Listener::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Listener::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// The real address, for the ready line and the state folder.
    ///
    /// # Errors
    /// Where the kernel does not tell it.
    pub fn address(&self) -> io::Result<AdminAddress> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(AdminAddress::Tcp),
            Listener::Unix(_, path) => Ok(AdminAddress::Unix(path.clone())),
        }
    }

    /// How it is reached.
    pub fn reach(&self) -> Reach {
        match self {
            Listener::Tcp(_) => Reach::Tcp,
            Listener::Unix(..) => Reach::Unix,
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        return fs::remove_file(path);
    }
    Ok(())
}

/// Answers on the listener, for ever. *Cancel safety*: dropping it closes the listener; requests
/// in flight end with the runtime.
pub async fn serve(listener: Listener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                let _ = stream.set_nodelay(true);
                Connection::Tcp(stream)
            }),
            Listener::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| Connection::Unix(stream))
            }
        };
        let Ok(connection) = accepted else {
            // Out of descriptors, mostly: that passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (admin, requests) = (admin.clone(), requests.clone());
        tokio::spawn(async move {
            match connection {
                Connection::Tcp(stream) => converse(TokioIo::new(stream), admin, requests).await,
                Connection::Unix(stream) => converse(TokioIo::new(stream), admin, requests).await,
            }
            drop(place);
        });
    }
}

enum Connection {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// One connection: the stages around each answer are tower's.
async fn converse<I>(io: I, admin: Arc<Admin>, requests: Arc<Semaphore>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = ServiceBuilder::new()
        .timeout(ANSWER_TIMEOUT)
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(requests))
        .service_fn(move |request: routes::Request| {
            let admin = admin.clone();
            async move { Ok::<_, Infallible>(routes::answer(&admin, request).await) }
        });
    let service = hyper::service::service_fn(move |request: routes::Request| {
        let answer = service.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(routes::late)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(64 * 1024)
        .serve_connection(io, service);
    // What a client of the admin pages does wrong is its own affair.
    let _ = served.await;
}

fn log_change(change: &Change) {
    let (word, standing) = match change {
        Change::Raised(standing) => ("raised", standing),
        Change::Cleared(standing) => ("cleared", standing),
    };
    let (alarm, subject, detail) = (&standing.alarm, &standing.subject, &standing.detail);
    let site = standing.site.as_deref();
    match (change, standing.urgency) {
        (Change::Raised(_), Urgency::Critical) => tracing::error!(
            alarm,
            subject,
            site,
            detail,
            meaning = standing.meaning,
            remedy = standing.remedy,
            "alarm {word}"
        ),
        (Change::Raised(_), Urgency::Warning) => tracing::warn!(
            alarm,
            subject,
            site,
            detail,
            meaning = standing.meaning,
            remedy = standing.remedy,
            "alarm {word}"
        ),
        (Change::Cleared(_), _) => {
            let since_unix = standing.since_unix;
            tracing::info!(alarm, subject, site, since_unix, "alarm {word}");
        }
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
