//! The life of the process: load, bind or inherit, serve, reload, hand over, drain, end.
//!
//! The control thread is the process's first. It owns the listeners and the signals, runs the admin
//! server, samples queues each second and reloads; it never touches a client's connection.

mod attention;
mod core_dump;
mod fleet;
mod handover;
mod listeners;
mod probes;
mod view;

use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::process::Signal as Signalled;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::admin::{self, Admin, SocketFile};
use crate::certs::Watch;
use crate::config::report::{ReloadResult, Report};
use crate::config::state::StateFolder;
use crate::config::{self, AdminAddress, LogFormat, Snapshot};
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::reload::{self, Prepared, Reloader};

use fleet::Fleet;
use handover::{Estate, Inherited, Predecessor, Successor};
use listeners::Listeners;
use probes::Probes;
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
    // First of all: until then nothing else may be opened at an inherited descriptor's number.
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(why) => return failed(&why),
    };
    let left_out = core_dump::leave_memory_out();
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
    if let Err(error) = left_out {
        tracing::warn!(%error, "a core dump would hold private keys: see coredump_filter in core(5)");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the control thread has no runtime: {error}")),
    };
    let served = runtime.block_on(async {
        let edge = Edge::start(path, snapshot, report, inherited).await?;
        edge.serve(greeting).await
    });
    // A load that still runs, as on a file system that does not answer, is not waited for.
    runtime.shutdown_background();
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
    admin: AdminDoor,
    told: Arc<Told>,
    asks: mpsc::Receiver<Ask>,
    asking: mpsc::Sender<Ask>,
    /// Looks at the certificates' folder where the configuration wants it.
    watch: Option<Watch>,
    /// Checks the endpoints of sites that want it.
    probes: Probes,
    /// Loads reported by the processes that this one follows: its own are counted on.
    attempts_before: u64,
    /// Waits for this process to serve.
    predecessor: Option<Predecessor>,
    /// Is starting to follow this process.
    successor: Option<Successor>,
    /// The successor may have read its files before they changed.
    reloaded_meanwhile: bool,
}

/// The admin listener, beside the task that answers there.
struct AdminDoor {
    /// As configured, where port 0 stays 0.
    configured: AdminAddress,
    address: AdminAddress,
    /// For a successor.
    socket: OwnedFd,
    answering: JoinHandle<()>,
    /// This process' to remove, from when it serves until a successor does.
    file: Option<SocketFile>,
}

impl Edge {
    async fn start(
        path: &Path,
        snapshot: Snapshot,
        report: Report,
        inherited: Option<Inherited>,
    ) -> Result<Edge, String> {
        let folder = &snapshot.runtime.state;
        let (state, handed_admin, handed, predecessor) = match inherited {
            None => (StateFolder::claim(folder), None, Vec::new(), None),
            Some(Inherited { lock, admin, sockets, predecessor }) => {
                (StateFolder::inherit(folder, lock), Some(admin), sockets, Some(predecessor))
            }
        };
        let state = state.map_err(|error| chain(&error))?;
        if let Err(error) = config::raise_descriptor_limit() {
            tracing::warn!(%error, "the limit on descriptors stays as it was");
        }
        let (listeners, problems) = Listeners::open(&snapshot.listen, path, handed).await;
        for problem in &problems {
            if problem.is_harmful() {
                return Err(problem.to_string());
            }
            tracing::warn!("{problem}");
        }
        let configured = snapshot.listen.admin.clone();
        let admin = open_admin(&configured, handed_admin).await?;
        let security = security(&admin, &snapshot)?;
        become_user(&snapshot, &state)?;
        let no_admin = |error| format!("listen.admin: {error}");
        let address = admin.address().map_err(no_admin)?;
        let socket = admin.duplicate().map_err(no_admin)?;
        let metrics = Metrics::new(snapshot.runtime.threads);
        let access =
            reload::open_access_log(&snapshot, None).map_err(|problem| problem.to_string())?;
        let proxy = Proxy::new(snapshot, metrics.clone(), Arc::new(access));
        let fleet = Fleet::start(&proxy, &proxy.live().snapshot.runtime)
            .map_err(|error| format!("a serving thread does not start: {error}"))?;
        let reloader = Arc::new(Reloader::new(path.to_path_buf(), report));
        let (asking, asks) = mpsc::channel(ASKS_MAX);
        let told = Arc::new(Told::new(&proxy, &reloader, asking.clone()));
        let pages = Admin::new(told.clone(), metrics, security);
        tokio::spawn(pages.clone().watch());
        let answering = tokio::spawn(admin::serve(admin, pages));
        let watch = watch(&proxy.live().snapshot, &asking);
        let probes = Probes::start(&proxy);
        Ok(Edge {
            proxy,
            reloader,
            fleet,
            listeners,
            state,
            admin: AdminDoor { configured, address, socket, answering, file: None },
            told,
            asks,
            asking,
            watch,
            probes,
            attempts_before: 0,
            predecessor,
            successor: None,
            reloaded_meanwhile: false,
        })
    }

    async fn serve(mut self, greeting: Greeting) -> Result<(), String> {
        let no_signal = |error| format!("signals cannot be received: {error}");
        let listen_to = |kind| signal(kind).map_err(no_signal);
        let mut hangup = listen_to(SignalKind::hangup())?;
        let mut terminate = listen_to(SignalKind::terminate())?;
        let mut interrupt = listen_to(SignalKind::interrupt())?;
        let mut hand_over = listen_to(SignalKind::user_defined2())?;
        for listener in self.listeners.all() {
            self.fleet.listen(listener).await;
        }
        self.attempts_before = self.state.last_attempt();
        self.state.announce(&self.admin.address).map_err(|error| chain(&error))?;
        self.admin.file = SocketFile::of(&self.admin.address);
        let ready = self.ready();
        eprintln!("{ready}");
        if let Greeting::Text(text) = greeting {
            println!("{}", text(&ready));
        }
        notify(&[sd_notify::NotifyState::Ready]);
        self.told.serves(self.listeners.all());
        self.file_report();
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.relieve();
        }
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        let relief = loop {
            tokio::select! {
                _ = hangup.recv() => {
                    let ends = ended(&mut terminate, &mut interrupt);
                    if unless(ends, self.reload()).await.is_none() {
                        break None;
                    }
                }
                Some(ask) = self.asks.recv() => {
                    let ends = ended(&mut terminate, &mut interrupt);
                    match unless(ends, self.reload()).await {
                        Some(report) => drop(ask.send(report)),
                        None => break None,
                    }
                }
                _ = hand_over.recv() => self.start_successor(),
                outcome = outcome(&mut self.successor) => match outcome {
                    Ok(()) => break self.successor.take(),
                    Err(why) => self.serve_on(&why),
                },
                _ = tidy.tick() => self.tidy(),
                () = ended(&mut terminate, &mut interrupt) => break None,
            }
        };
        match relief {
            Some(successor) => self.hand_over_to(&successor),
            None => self.stop(),
        }
        self.drain(&mut terminate, &mut interrupt).await;
        Ok(())
    }

    /// Starts a process that is to take over, unless one is starting.
    fn start_successor(&mut self) {
        if let Some(successor) = &self.successor {
            let process = successor.pid();
            tracing::warn!(process, "a hand-over is under way; end that process to try again");
            return;
        }
        let estate = Estate {
            lock: self.state.lock(),
            admin: (self.admin.configured.to_string(), self.admin.socket.as_fd()),
            listeners: self.listeners.all(),
        };
        match Successor::start(&estate) {
            Ok(successor) => {
                tracing::info!(process = successor.pid(), "a successor starts");
                self.reloaded_meanwhile = false;
                self.successor = Some(successor);
            }
            Err(error) => {
                tracing::error!(error, "no successor can be started; this process serves on");
            }
        }
    }

    /// The successor came to nothing.
    fn serve_on(&mut self, why: &str) {
        let process = self.successor.take().map(|successor| successor.pid());
        tracing::error!(
            process,
            outcome = why,
            "the successor has ended before it served; this process serves on"
        );
        // It may have come as far as to put its own there.
        if let Err(error) = self.state.announce(&self.admin.address) {
            tracing::error!(error = chain(&error), "commands do not find this process");
        }
        self.file_report();
    }

    /// The successor serves: it is the edge now.
    fn hand_over_to(&mut self, successor: &Successor) {
        tracing::info!(process = successor.pid(), "the successor serves");
        notify(&[sd_notify::NotifyState::MainPid(successor.pid())]);
        if self.reloaded_meanwhile {
            successor.signal(Signalled::HUP);
        }
        self.admin.answering.abort();
        if let Some(file) = self.admin.file.take() {
            file.leave();
        }
    }

    /// The edge ends, and a successor that does not serve yet with it.
    fn stop(&mut self) {
        notify(&[sd_notify::NotifyState::Stopping]);
        if let Some(successor) = self.successor.take() {
            successor.give_up();
        }
    }

    /// Leaves the last load's report for `sluss reload`.
    fn file_report(&self) {
        let mut filed = self.reloader.filed();
        filed.attempt += self.attempts_before;
        if let Err(error) = self.state.write_report(&filed) {
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
            admin: self.admin.address.clone(),
            sites: live.snapshot.sites.all().len(),
            certificates: live.snapshot.certs.all().len(),
        }
    }

    async fn reload(&mut self) -> Report {
        self.reloaded_meanwhile = true;
        notify(&[sd_notify::NotifyState::Reloading]);
        let (listeners, fleet) = (&mut self.listeners, &self.fleet);
        let prepare = async |snapshot: &Snapshot| {
            let done = listeners.reconcile(&snapshot.listen, &snapshot.places.main).await;
            for listener in &done.opened {
                fleet.listen(listener).await;
            }
            Prepared { problems: done.problems, kept: done.kept }
        };
        let report = self.reloader.reload(&self.proxy, prepare).await;
        self.fleet.renew().await;
        self.told.serves(self.listeners.all());
        // Where nothing new serves the watch goes on: it has acted on what it saw.
        if report.result != ReloadResult::Refused {
            self.watch = watch(&self.proxy.live().snapshot, &self.asking);
        }
        self.probes.renew(&self.proxy);
        self.file_report();
        notify(&[sd_notify::NotifyState::Ready]);
        report
    }

    /// Stops accepting and waits until what is in flight is done, for `shutdown_grace` at most; a
    /// second signal ends at once.
    async fn drain(mut self, terminate: &mut Signal, interrupt: &mut Signal) {
        let grace = self.proxy.live().snapshot.runtime.shutdown_grace;
        tracing::info!(connections = self.proxy.connections(), "draining");
        let stopped = self.listeners.stop();
        // Whoever looks at the listeners would keep them open: clients would connect to nobody.
        self.told.serves(self.listeners.all());
        self.proxy.drain();
        let done = async {
            // Before that, no connections does not mean that none is being taken.
            for stop in &stopped {
                stop.closed().await;
            }
            while self.proxy.connections() > 0 {
                self.fleet.look_around().await;
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(grace, done) => {}
            () = ended(terminate, interrupt) => {}
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

/// Waits for a signal that ends the edge. *Cancel safe.*
async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// What `work` comes to; `None`, with the work left where it stands, where `end` comes first.
async fn unless<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = end => None,
    }
}

/// Waits for what becomes of a successor; where there is none, for ever. *Cancel safe.*
async fn outcome(successor: &mut Option<Successor>) -> Result<(), String> {
    match successor {
        Some(successor) => successor.outcome().await,
        None => std::future::pending().await,
    }
}

/// Goes on with the predecessor's admin listener where it was configured alike, else binds.
async fn open_admin(
    address: &AdminAddress,
    handed: Option<(String, OwnedFd)>,
) -> Result<admin::Listener, String> {
    let opened = match handed {
        Some((same, socket)) if same == address.to_string() => {
            admin::Listener::adopt(address, socket)
        }
        _ => admin::Listener::bind(address).await,
    };
    opened.map_err(|error| {
        format!("listen.admin = {address}: {error}; end what listens there or change it")
    })
}

/// Watches the certificates where the configuration wants it: a change asks for a reload.
fn watch(snapshot: &Snapshot, asking: &mpsc::Sender<Ask>) -> Option<Watch> {
    let sighting = snapshot.certs.sighting()?.clone();
    let asking = asking.clone();
    let changed = move || {
        // Nobody waits for the report; it is logged. A full channel means that a reload is near.
        let _ = asking.try_send(oneshot::channel().0);
    };
    Watch::start(sighting, changed)
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
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if (uid, gid) == (Uid::effective(), Gid::effective()) {
        // A successor is started as that user.
        return Ok(());
    }
    state.hand_to(user).map_err(|error| chain(&error))?;
    // The groups first: afterwards there is no right to change them.
    setgroups(&[gid]).and_then(|()| setgid(gid)).and_then(|()| setuid(uid)).map_err(|error| {
        format!("runtime.user = {}: {error}; start as root, or leave the key out", user.name)
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn what_does_not_come_to_its_end_is_left_at_a_signal() {
        assert_eq!(unless(ready(()), pending::<u8>()).await, None);
        assert_eq!(unless(pending(), ready(1)).await, Some(1));
    }
}
