//! What must not outlive the command: the edge that it started and the folder that it made. Both go
//! when their values are dropped, and where a signal ends the command before.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

/// The folder and the child, shared with whoever waits for signals.
#[derive(Clone, Default)]
pub struct Traces(Arc<Mutex<Left>>);

/// What is there to be cleared away.
#[derive(Default)]
pub struct Left {
    /// The folder with the configuration.
    pub folder: Option<PathBuf>,
    /// The edge that runs.
    pub child: Option<Child>,
}

impl Traces {
    /// Holds off the end of the command: nothing is made that would stay behind.
    pub fn hold(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets SIGINT, SIGTERM and SIGHUP end the command, without a trace and with exit code 1.
    pub fn clear_on_signals(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        drop(inside);
        let traces = self.clone();
        std::thread::Builder::new().name("size-signals".into()).spawn(move || {
            let name = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                    _ = hang_up.recv() => "SIGHUP",
                }
            });
            let mut left = traces.hold();
            left.end_child();
            left.remove_folder();
            eprintln!("sluss: ended by {name}, nothing was written");
            // The lock is never given back: the command's own thread makes nothing new.
            std::process::exit(1);
        })?;
        Ok(())
    }
}

impl Left {
    /// At once: nobody whom a drain would serve is left.
    pub fn end_child(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What cannot be removed is a folder of throwaway keys that only its owner may enter.
    pub fn remove_folder(&mut self) {
        if let Some(folder) = self.folder.take() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
