//! The life of the process: load, bind, serve, reload, drain, end.
//!
//! The control thread is the process's first. It owns the listeners and the signals, runs the admin
//! server, samples queues each second and reloads; it never touches a client's connection.

mod fleet;
mod listeners;
mod view;

use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::admin::{self, Admin};
use crate::certs::Watch;
use crate::config::report::Report;
use crate::config::state::StateFolder;
use crate::config::{self, AdminAddress, LogFormat, Snapshot};
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::reload::{self, Reloader};
use crate::upstream::probe;

use fleet::Fleet;
use listeners::Listeners;
use view::{Ask, Told};

/// How often a draining edge looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Waiting handshakes past their deadline are turned away this often.
const TIDY_EVERY: Duration = Duration::from_millis(100);

/// Reloads that admin clients may have asked for at one time.
const ASKS_MAX: usize = 4;

/// Where the edge serves, with real ports.
#[derive(Debug)]
pub struct Ready {
    /// TLS listeners.
    pub https: Vec<SocketAddr>,
    /// Plain listeners.
    pub http: Vec<SocketAddr>,
    /// The admin listener.
    pub admin: AdminAddress,
    /// Sites served.
    pub sites: usize,
    /// Certificates at hand.
    pub certificates: usize,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: &[SocketAddr]| {
            addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
        };
        let (https, http) = (list(&self.https), list(&self.http));
        let Ready { admin, sites, certificates, .. } = self;
        write!(
            f,
            "sluss ready https={https} http={http} admin={admin} sites={sites} \
             certificates={certificates}"
        )
    }
}

/// What is printed to standard output once the edge serves.
pub enum Greeting {
    /// Nothing.
    None,
    /// A text made of where it serves.
    Text(Box<dyn FnOnce(&Ready) -> String>),
}

/// Runs the edge on the configuration whose main file is `path`, until a signal ends it.
pub fn run(path: &Path, greeting: Greeting) -> ExitCode {
    let begun = Instant::now();
    let mut outcome = config::load(path, None);
    for problem in &outcome.problems {
        eprintln!("{}: {problem}", problem.severity.label());
    }
    let report = Report::new(&outcome, 1, begun.elapsed());
    let Some(snapshot) = outcome.snapshot.take() else {
        eprintln!("sluss: {} is refused; nothing was started", path.display());
        return ExitCode::FAILURE;
    };
    log_to_stderr(snapshot.log.format);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the control thread has no runtime: {error}")),
    };
    let served = runtime.block_on(async {
        let edge = Edge::start(path, snapshot, report).await?;
        edge.serve(greeting).await
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("sluss: {why}");
    ExitCode::FAILURE
}

/// `RUST_LOG` chooses what is told; the default is what an operator acts on.
fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // A library's user may have set a subscriber of their own.
    drop(set);
}

/// A running edge, seen from its control thread.
struct Edge {
    proxy: Arc<Proxy>,
    reloader: Arc<Reloader>,
    fleet: Fleet,
    listeners: Listeners,
    state: StateFolder,
    admin: AdminAddress,
    told: Arc<Told>,
    asks: mpsc::Receiver<Ask>,
    asking: mpsc::Sender<Ask>,
    /// Looks at the certificates' folder where the configuration wants it.
    watch: Option<Watch>,
    /// Checks the endpoints of sites that want it.
    probes: JoinHandle<()>,
}

impl Edge {
    async fn start(path: &Path, snapshot: Snapshot, report: Report) -> Result<Edge, String> {
        let state = StateFolder::claim(&snapshot.runtime.state).map_err(|error| chain(&error))?;
        if let Err(error) = config::raise_descriptor_limit() {
            tracing::warn!(%error, "the limit on descriptors stays as it was");
        }
        let (listeners, problems) = Listeners::open(&snapshot.listen, path);
        for problem in &problems {
            if problem.is_harmful() {
                return Err(problem.to_string());
            }
            tracing::warn!("{problem}");
        }
        let admin = admin::Listener::bind(&snapshot.listen.admin).await.map_err(|error| {
            let address = &snapshot.listen.admin;
            format!("listen.admin = {address}: {error}; end what listens there or change it")
        })?;
        let security = security(&admin, &snapshot)?;
        become_user(&snapshot, &state)?;
        let address = admin.address().map_err(|error| format!("listen.admin: {error}"))?;
        state.write_admin(&address).map_err(|error| chain(&error))?;
        let metrics = Metrics::new(snapshot.runtime.threads);
        let access = reload::open_access_log(&snapshot).map_err(|problem| problem.to_string())?;
        let threads = snapshot.runtime.threads;
        let proxy = Proxy::new(snapshot, metrics.clone(), Arc::new(access));
        let fleet = Fleet::start(&proxy, threads)
            .map_err(|error| format!("a serving thread does not start: {error}"))?;
        let reloader = Arc::new(Reloader::new(path.to_path_buf(), report));
        let (asking, asks) = mpsc::channel(ASKS_MAX);
        let told = Arc::new(Told::new(&proxy, &reloader, asking.clone()));
        let pages = Admin::new(told.clone(), metrics, security);
        tokio::spawn(pages.clone().watch());
        tokio::spawn(admin::serve(admin, pages));
        let watch = watch(&proxy.live().snapshot, &asking);
        let probes = probe(&proxy);
        Ok(Edge {
            proxy,
            reloader,
            fleet,
            listeners,
            state,
            admin: address,
            told,
            asks,
            asking,
            watch,
            probes,
        })
    }

    async fn serve(mut self, greeting: Greeting) -> Result<(), String> {
        let no_signal = |error| format!("signals cannot be received: {error}");
        let listen_to = |kind| signal(kind).map_err(no_signal);
        let mut hangup = listen_to(SignalKind::hangup())?;
        let mut terminate = listen_to(SignalKind::terminate())?;
        let mut interrupt = listen_to(SignalKind::interrupt())?;
        for listener in self.listeners.all() {
            self.fleet.listen(listener).await;
        }
        let ready = self.ready();
        eprintln!("{ready}");
        if let Greeting::Text(text) = greeting {
            println!("{}", text(&ready));
        }
        notify(&[sd_notify::NotifyState::Ready]);
        self.told.serves(self.listeners.all());
        self.file_report();
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        loop {
            tokio::select! {
                _ = hangup.recv() => drop(self.reload().await),
                Some(ask) = self.asks.recv() => drop(ask.send(self.reload().await)),
                _ = tidy.tick() => self.tidy(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.drain(&mut terminate, &mut interrupt).await;
        Ok(())
    }

    /// Leaves the last load's report for `sluss reload`.
    fn file_report(&self) {
        if let Err(error) = self.state.write_report(&self.reloader.filed()) {
            tracing::error!(error = chain(&error), "`sluss reload` cannot be told what came of it");
        }
    }

    /// Turns away what has waited past its deadline while no handshake thread looked.
    fn tidy(&self) {
        for (waiting, refusal) in self.proxy.handshakes.expire() {
            waiting.turn_away(&self.proxy, refusal);
        }
    }

    fn ready(&self) -> Ready {
        let live = self.proxy.live();
        Ready {
            https: self.listeners.https(),
            http: self.listeners.http(),
            admin: self.admin.clone(),
            sites: live.snapshot.sites.all().len(),
            certificates: live.snapshot.certs.all().len(),
        }
    }

    async fn reload(&mut self) -> Report {
        notify(&[sd_notify::NotifyState::Reloading]);
        let (listeners, fleet) = (&mut self.listeners, &self.fleet);
        let prepare = async |snapshot: &Snapshot| {
            let (opened, problems) = listeners.reconcile(&snapshot.listen, &snapshot.places.main);
            for listener in &opened {
                fleet.listen(listener).await;
            }
            problems
        };
        let report = self.reloader.reload(&self.proxy, prepare).await;
        self.told.serves(self.listeners.all());
        self.watch = watch(&self.proxy.live().snapshot, &self.asking);
        self.probes.abort();
        self.probes = probe(&self.proxy);
        self.file_report();
        notify(&[sd_notify::NotifyState::Ready]);
        report
    }

    /// Stops accepting and waits until what is in flight is done, for `shutdown_grace` at most; a
    /// second signal ends at once.
    async fn drain(mut self, terminate: &mut Signal, interrupt: &mut Signal) {
        notify(&[sd_notify::NotifyState::Stopping]);
        let grace = self.proxy.live().snapshot.runtime.shutdown_grace;
        tracing::info!(connections = self.proxy.connections(), "draining");
        self.listeners.stop();
        // Whoever looks at the listeners would keep them open: clients would connect to nobody.
        self.told.serves(self.listeners.all());
        self.proxy.drain();
        let done = async {
            while self.proxy.connections() > 0 {
                self.fleet.look_around().await;
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(grace, done) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let left = self.proxy.connections();
        if left > 0 {
            tracing::warn!(connections = left, "ended with connections open");
        }
        let access = self.proxy.live().access.clone();
        let written = tokio::task::spawn_blocking(move || access.close(Duration::from_secs(1)));
        let _ = written.await;
        drop(self.state);
    }
}

/// Checks the endpoints of the sites that are served now.
fn probe(proxy: &Proxy) -> JoinHandle<()> {
    let live = proxy.live();
    let targets = live.sites().map(|(site, state)| probe::Target {
        upstream: state.upstream.clone(),
        host: site.host_header.clone().unwrap_or_else(|| site.first_host().to_owned()),
    });
    tokio::spawn(probe::probe_all(targets.collect()))
}

/// Watches the certificates where the configuration wants it: a change asks for a reload.
fn watch(snapshot: &Snapshot, asking: &mpsc::Sender<Ask>) -> Option<Watch> {
    if !snapshot.certificates.watch {
        return None;
    }
    let asking = asking.clone();
    let changed = move || {
        // Nobody waits for the report; it is logged. A full channel means that a reload is near.
        let _ = asking.try_send(oneshot::channel().0);
    };
    Watch::start(snapshot.cert_settings(), changed)
        .inspect_err(|error| tracing::error!(%error, "certificates are not watched"))
        .ok()
}

/// Tells the service manager, where there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Who may use the admin listener.
fn security(listener: &admin::Listener, snapshot: &Snapshot) -> Result<admin::Security, String> {
    let read = |path: &PathBuf| {
        admin::Token::read(path)
            .map_err(|error| format!("listen.admin_token_file = {}: {error}", path.display()))
    };
    let token = snapshot.listen.admin_token_file.as_ref().map(read).transpose()?;
    Ok(admin::Security { reach: listener.reach(), token })
}

/// Gives root up once the ports are bound.
fn become_user(snapshot: &Snapshot, state: &StateFolder) -> Result<(), String> {
    let Some(user) = &snapshot.runtime.user else { return Ok(()) };
    state.hand_to(user).map_err(|error| chain(&error))?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // The groups first: afterwards there is no right to change them.
    setgroups(&[gid]).and_then(|()| setgid(gid)).and_then(|()| setuid(uid)).map_err(|error| {
        format!("runtime.user = {}: {error}; start as root, or leave the key out", user.name)
    })
}
