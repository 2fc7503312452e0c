//! SIGUSR2: a new process takes the listeners over, and no connection is refused.
//!
//! The edge starts its program anew, by the name and with the arguments it was started with itself:
//! the file may be a newer one now. The new process inherits duplicates of the listening sockets,
//! the state folder's open lock and the writing end of a pipe; one variable of its environment says
//! which descriptor is what. It loads, adopts the sockets that its own configuration has too, serves,
//! and writes one byte into the pipe. From then on it is the edge and the old process drains; until
//! then both accept from the same kernel queues, so there is no moment without somebody who does.
//!
//! The pipe's end without that byte means that the successor is gone: the kernel closes it with the
//! process, however that ends. The old process has given nothing away so far and serves on.

use std::env;
use std::io::{self, PipeWriter, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::fleet::{Listener, Speaks};
use crate::kernel;

/// Says to a successor what it inherits: [`Manifest`] as JSON.
const VARIABLE: &str = "SLUSS_INHERITED";

/// Behind standard input, output and error.
const FIRST_DESCRIPTOR: RawFd = 3;

/// A successor that does not serve by then is ended. 100,000 certificates on a cold disk take far
/// less; `sluss reload` waits as long.
const PATIENCE: Duration = Duration::from_secs(300);

/// A successor that has closed the pipe is at its end; for its last words it gets so long.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a successor sends once it serves.
const SERVES: &[u8; 1] = b"R";

/// Which descriptor is what.
#[derive(Deserialize, Serialize)]
struct Manifest {
    ready: RawFd,
    lock: RawFd,
    admin: (String, RawFd),
    sockets: Vec<(Role, SocketAddr, RawFd)>,
}

/// What a socket is for; the redirect's port is the successor's own affair.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Role {
    /// TLS.
    Https,
    /// Plain HTTP.
    Http,
}

impl From<Speaks> for Role {
    fn from(speaks: Speaks) -> Role {
        match speaks {
            Speaks::Https => Role::Https,
            Speaks::Http => Role::Http,
        }
    }
}

/// A listening socket of the predecessor.
#[derive(Debug)]
pub struct Handed {
    /// What it was for.
    pub role: Role,
    /// As the predecessor's configuration names it.
    pub configured: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// What this process was given by the one it follows.
#[derive(Debug)]
pub struct Inherited {
    /// The state folder's open lock.
    pub lock: OwnedFd,
    /// The admin listener, with the address as the predecessor's configuration names it.
    pub admin: (String, OwnedFd),
    /// The other listeners.
    pub sockets: Vec<Handed>,
    /// The way to say that this process serves.
    pub predecessor: Predecessor,
}

/// The process that this one follows. Dropped without a word, it serves on.
#[derive(Debug)]
pub struct Predecessor(PipeWriter);

impl Predecessor {
    /// This process serves: the other one may go.
    pub fn relieve(mut self) {
        // Where it is gone already there is nobody to tell.
        let _ = self.0.write_all(SERVES);
    }
}

impl Inherited {
    /// What the environment says that this process was given; `None` where it follows nobody.
    ///
    /// # Errors
    /// Where the environment is not true.
    pub fn take() -> Result<Option<Inherited>, String> {
        let Some(text) = env::var_os(VARIABLE) else { return Ok(None) };
        let wrong = |error: io::Error| {
            format!("{VARIABLE} is set, but not by a running edge: {error}; unset it")
        };
        let text = text.to_string_lossy();
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| wrong(error.into()))?;
        Inherited::adopt(manifest).map(Some).map_err(wrong)
    }

    fn adopt(manifest: Manifest) -> io::Result<Inherited> {
        let predecessor = Predecessor(kernel::adopt_inherited(manifest.ready)?.into());
        let lock = kernel::adopt_inherited(manifest.lock)?;
        let (address, admin) = manifest.admin;
        let admin = (address, kernel::adopt_inherited(admin)?);
        let mut sockets = Vec::new();
        for (role, configured, descriptor) in manifest.sockets {
            let socket = kernel::adopt_inherited(descriptor)?.into();
            sockets.push(Handed { role, configured, socket });
        }
        Ok(Inherited { lock, admin, sockets, predecessor })
    }
}

/// What a successor is given.
pub struct Estate<'a> {
    /// The state folder's open lock.
    pub lock: BorrowedFd<'a>,
    /// The admin listener, with the address as configured.
    pub admin: (String, BorrowedFd<'a>),
    /// The other listeners.
    pub listeners: &'a [Arc<Listener>],
}

/// A process that was started to follow this one, and does not serve yet.
pub struct Successor {
    pid: Pid,
    watched: JoinHandle<Result<(), String>>,
}

impl Successor {
    /// Starts it.
    ///
    /// # Errors
    /// A sentence on why it cannot be started.
    pub fn start(estate: &Estate<'_>) -> Result<Successor, String> {
        let mut arguments = env::args_os();
        let program = arguments.next().ok_or("the program's name is not known")?;
        let mut command = Command::new(&program);
        command.args(arguments);
        let failed = |error: io::Error| format!("{}: {error}", program.to_string_lossy());
        let reading = bequeath(&mut command, estate).map_err(failed)?;
        let child = tokio::process::Command::from(command).spawn().map_err(failed)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or("the new process has ended already")?;
        Ok(Successor { pid, watched: tokio::spawn(watch(child, reading)) })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until it serves, or has ended: a sentence on how. *Cancel safe*; not to be called
    /// again once it has returned.
    pub async fn outcome(&mut self) -> Result<(), String> {
        (&mut self.watched).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Sends it a signal. Its number is its own: it is reaped by the watching task alone, on this
    /// thread.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Ends it, unless it has come to an end or an outcome already.
    pub fn give_up(self) {
        if !self.watched.is_finished() {
            self.signal(Signal::TERM);
        }
    }
}

/// Gives the command what a successor inherits. Returns the pipe on which it says that it serves.
fn bequeath(command: &mut Command, estate: &Estate<'_>) -> io::Result<pipe::Receiver> {
    let (reading, writing) = io::pipe()?;
    let mut mappings: Vec<FdMapping> = Vec::new();
    let mut give = |socket: BorrowedFd<'_>| -> io::Result<RawFd> {
        let offset = RawFd::try_from(mappings.len()).map_err(io::Error::other)?;
        let child_fd = FIRST_DESCRIPTOR + offset;
        mappings.push(FdMapping { parent_fd: socket.try_clone_to_owned()?, child_fd });
        Ok(child_fd)
    };
    let (ready, lock) = (give(writing.as_fd())?, give(estate.lock)?);
    let admin = (estate.admin.0.clone(), give(estate.admin.1)?);
    let mut sockets = Vec::new();
    for listener in estate.listeners {
        let descriptor = give(listener.socket.as_fd())?;
        sockets.push((listener.speaks.into(), listener.configured, descriptor));
    }
    let manifest = Manifest { ready, lock, admin, sockets };
    command.env(VARIABLE, serde_json::to_string(&manifest)?);
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    pipe::Receiver::from_owned_fd(reading.into())
}

/// Waits for the successor's word or its end. One that neither serves nor ends is killed.
async fn watch(mut child: Child, mut ready: pipe::Receiver) -> Result<(), String> {
    let mut word = [0; SERVES.len()];
    match timeout(PATIENCE, ready.read_exact(&mut word)).await {
        Ok(Ok(_)) if word == *SERVES => return Ok(()),
        Ok(_) => {}
        Err(_) => {
            let _ = child.start_kill();
        }
    }
    let ended = match timeout(LAST_WORDS, child.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            let _ = child.start_kill();
            child.wait().await
        }
    };
    Err(ended.map_or_else(|error| error.to_string(), |status| status.to_string()))
}
