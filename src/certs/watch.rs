//! Optional: notices changed certificates, so that a renewal is served without a signal.
//!
//! It looks, rather than being notified: certbot's `live` has links out of the folder, whose targets
//! no watch on the folder sees; a watch on each of 100,000 folders exceeds the kernel's usual bounds;
//! and network file systems notify nobody. A look is the walk of a reload that finds nothing
//! changed; its own cost sets the pause before the next ([`pause_after`]), so that it takes at most
//! two percent of a core, at the lowest priority.
//!
//! The first look is part of the load that the watch follows, and made before it: whatever changes
//! while the load runs, or before the watch begins, is seen as a change.
//!
//! A change is acted on when two looks in a row see the same: another program may be in the midst
//! of writing. A look that sees a third state begins anew.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::stat;

use super::CertSettings;
use super::folder::Folder;
use crate::background::lowest_priority;
use crate::identity::FileIdentity;

/// Certbot writes a certificate's files within milliseconds of each other; copies take longer.
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// A renewal must not wait for longer, whatever a look costs.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One part in fifty of the time is spent looking.
const PAUSE_PER_LOOK: u32 = 50;

/// The certificates as a load was about to find them.
#[derive(Clone, Debug)]
pub struct Sighting {
    settings: CertSettings,
    seen: u64,
    took: Duration,
}

impl Sighting {
    /// Looks. To be done before the load: what changes from then on is a change.
    pub(super) fn now(settings: &CertSettings) -> Sighting {
        let began = Instant::now();
        let seen = look(settings);
        Sighting { settings: settings.clone(), seen, took: began.elapsed() }
    }
}

/// Looks at the folder until it is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Nothing is sent: dropping it wakes and ends the thread.
    _stop: mpsc::Sender<()>,
}

impl Watch {
    /// Starts a thread that calls `changed` after each settled change of the certificates, the
    /// ticket keys or the client authorities since they were `sighted`.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(sighted: Sighting, changed: impl Fn() + Send + 'static) -> std::io::Result<Watch> {
        let (stop, stopped) = mpsc::channel::<()>();
        let Sighting { settings, seen, took } = sighted;
        let mut settling = Settling { acted_on: seen, pending: None };
        let mut pause = pause_after(took);
        thread::Builder::new().name("sluss-watch".into()).spawn(move || {
            lowest_priority();
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let began = Instant::now();
                let seen = look(&settings);
                pause = pause_after(began.elapsed());
                if settling.observe(seen) == Sight::Settled {
                    changed();
                }
            }
        })?;
        Ok(Watch { _stop: stop })
    }
}

/// What a look means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sight {
    /// As acted on before.
    Quiet,
    /// Changed since the look before.
    Moving,
    /// Changed, and the same as at the look before.
    Settled,
}

/// What was seen, as hashes.
#[derive(Debug)]
struct Settling {
    acted_on: u64,
    pending: Option<u64>,
}

impl Settling {
    fn observe(&mut self, seen: u64) -> Sight {
        if seen == self.acted_on {
            self.pending = None;
            return Sight::Quiet;
        }
        if self.pending == Some(seen) {
            *self = Settling { acted_on: seen, pending: None };
            return Sight::Settled;
        }
        self.pending = Some(seen);
        Sight::Moving
    }
}

fn pause_after(look: Duration) -> Duration {
    (look * PAUSE_PER_LOOK).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// A hash of all names and what the system says of their files; no file is read.
fn look(settings: &CertSettings) -> u64 {
    let mut hasher = DefaultHasher::new();
    let listing = Folder::open(&settings.directory).and_then(|folder| Ok((folder.list()?, folder)));
    match listing {
        Ok((listing, folder)) => {
            for entry in &listing.entries {
                entry.name.hash(&mut hasher);
                let identity = folder.identity(entry.name());
                identity.map_err(rustix::io::Errno::raw_os_error).hash(&mut hasher);
            }
        }
        Err(errno) => errno.raw_os_error().hash(&mut hasher),
    }
    let single = settings.ticket_keys.iter().chain(&settings.client_authorities);
    single.for_each(|path| identity_of(path).hash(&mut hasher));
    hasher.finish()
}

fn identity_of(path: &Path) -> Option<FileIdentity> {
    stat(path).ok().map(|stat| FileIdentity::of(&stat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::tests::{Certs, issue};

    #[test]
    fn a_change_counts_once_it_stands_still() {
        let mut settling = Settling { acted_on: 1, pending: None };
        for (seen, expected) in [
            (1, Sight::Quiet),
            (2, Sight::Moving),
            (3, Sight::Moving),
            (3, Sight::Settled),
            (3, Sight::Quiet),
            (4, Sight::Moving),
            (3, Sight::Quiet),
            (4, Sight::Moving),
        ] {
            assert_eq!(settling.observe(seen), expected);
        }
    }

    #[test]
    fn a_look_sees_each_kind_of_change_and_nothing_else() {
        let mut certs = Certs::new();
        let keys = certs.path("ticket.keys");
        certs.settings.ticket_keys = Some(keys);
        let mut seen = vec![look(&certs.settings)];
        let mut expect_change = |certs: &Certs| {
            let now = look(&certs.settings);
            assert!(!seen.contains(&now));
            assert_eq!(look(&certs.settings), now);
            seen.push(now);
        };
        certs.put("a", &issue(&["a.example"]));
        expect_change(&certs);
        certs.write("a/privkey.pem", "other");
        expect_change(&certs);
        certs.write("ticket.keys", "x");
        expect_change(&certs);
        std::fs::remove_file(certs.path("a/privkey.pem")).unwrap();
        expect_change(&certs);
    }

    #[test]
    fn a_settled_change_is_called_out() {
        let certs = Certs::new();
        let (sender, changes) = mpsc::channel();
        let sighted = Sighting::now(&certs.settings);
        // After the look and before the watch: as while a load runs.
        certs.put("a", &issue(&["a.example"]));
        let watch = Watch::start(sighted, move || sender.send(()).unwrap()).unwrap();
        changes.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(watch);
        // The thread ends, and with it the sender.
        assert_eq!(
            changes.recv_timeout(Duration::from_secs(30)),
            Err(RecvTimeoutError::Disconnected)
        );
    }

    #[test]
    fn looking_takes_a_fiftieth_of_the_time_at_most() {
        assert_eq!(pause_after(Duration::from_millis(1)), PAUSE_MIN);
        assert_eq!(pause_after(Duration::from_millis(200)), Duration::from_secs(10));
        assert_eq!(pause_after(Duration::from_secs(9)), PAUSE_MAX);
    }
}
