//! Certificates: from a folder of files to what a handshake needs, reloaded without disturbing it.
//!
//! [`load`] reads the folder into a [`CertStore`], which never changes. A later load takes the
//! store before it: files that are the same are not read again and their certificates are shared,
//! keys made ready included. A certificate whose files are broken stays at its last good version,
//! which the report names; where there is none it is absent and all others are served. A folder
//! that is gone takes its certificate with it.
//!
//! A connection asks [`CertStore::has_certificate`] before it spends anything, handshakes with
//! [`CertStore::server_config`], and asks [`CertStore::covers`] where a request's host is not the
//! name it shook hands for. None of these reads a file, and none waits for a load.
//!
//! Not in here: which site a host belongs to, and whether a site's hosts have certificates.

mod catalogue;
mod certificate;
mod chain;
mod defect;
mod folder;
mod host_key;
mod identity;
mod key;
mod leaf;
mod load;
mod pem;
mod read;
mod secrets;
mod server_config;
mod summary;
mod tickets;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

pub use certificate::Certificate;
pub use key::KeyKind;
pub use load::load;
pub use server_config::{LowestVersion, TlsPolicy};
pub use summary::{ExpiryCounts, Summary, Validity};
pub use watch::{Sighting, Watch};

use crate::problem::Problem;
use catalogue::Catalogue;
use chain::Interner;
use server_config::Configs;

/// Where certificates and what belongs to them are.
#[derive(Clone, Debug)]
pub struct CertSettings {
    /// The folder of certificates.
    pub directory: PathBuf,
    /// The certificate for clients that send no name or an unknown one; `None` refuses them.
    pub default: Option<String>,
    /// Session tickets for each handshake of TLS 1.3; 0 resumes no session.
    pub tickets: usize,
    /// The file of secrets that edges share for session tickets.
    pub ticket_keys: Option<PathBuf>,
    /// Every `client_ca` file that a site names.
    pub client_authorities: Vec<PathBuf>,
    /// For how long a broken certificate stands at its last good version; `None` for ever.
    pub keep_last_good_for: Option<Duration>,
    /// How thoroughly private keys are verified at load.
    pub depth: Depth,
    /// Whether a [`Watch`] is to follow the load.
    pub watch: bool,
}

impl Default for CertSettings {
    fn default() -> CertSettings {
        CertSettings {
            directory: PathBuf::new(),
            default: None,
            tickets: 1,
            ticket_keys: None,
            client_authorities: Vec::new(),
            keep_last_good_for: None,
            depth: Depth::default(),
            watch: false,
        }
    }
}

/// How thoroughly private keys are verified at load.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Depth {
    /// At a cold start with more than a thousand certificates a key is compared with its
    /// certificate by the public half in its file, and taken apart at its first handshake.
    #[default]
    Serving,
    /// Every key is taken apart: `sluss check`.
    Everything,
}

/// What a load made and found.
#[derive(Debug)]
pub struct Loaded {
    /// To be served.
    pub store: CertStore,
    /// Everything an operator should know, worst first.
    pub problems: Vec<Problem>,
    /// Names of certificates that stand at their last good version.
    pub kept: Vec<String>,
    /// Other files of which that is so, as `KEY FILE`.
    pub kept_files: Vec<String>,
    /// Names of certificates with new contents.
    pub changed: Vec<String>,
    /// Names that were not there before; at a cold start all of them.
    pub added: Vec<String>,
    /// Names whose folder or file is gone.
    pub removed: Vec<String>,
}

/// All certificates of a snapshot and the TLS settings made from them. Immutable.
#[derive(Debug)]
pub struct CertStore {
    directory: PathBuf,
    names: load::KnownNames,
    catalogue: Arc<Catalogue>,
    configs: Configs,
    interner: Arc<Interner>,
    /// Names of those that are not served, and what is wrong with them.
    absent: Vec<(String, Problem)>,
    sighting: Option<Sighting>,
}

impl CertStore {
    /// The TLS settings for a site; cheap enough for each handshake. Where the policy's
    /// certificate or authorities could not be read, its handshakes fail.
    pub fn server_config(&self, policy: TlsPolicy<'_>) -> Arc<ServerConfig> {
        self.configs.config(&self.catalogue, policy)
    }

    /// Whether a client that sends this name gets a certificate; by name or the default one.
    pub fn has_certificate(&self, server_name: Option<&str>) -> bool {
        self.catalogue.candidates(server_name).next().is_some()
    }

    /// Whether the certificate that a connection with this name got is valid for `host` (canonical
    /// text). Where there were two to choose from, both must be: which one it got is not kept.
    pub fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        let mut candidates = self.catalogue.candidates(server_name).peekable();
        candidates.peek().is_some() && candidates.all(|certificate| certificate.covers(host))
    }

    /// Whether it has certificates of the same names for the same hosts as another store, all of them
    /// served. May say no although it has.
    pub fn has_hosts_of(&self, other: &CertStore) -> bool {
        self.catalogue.shares_index(&other.catalogue)
    }

    /// The certificate of that name, where it is served: for sites that name theirs.
    pub fn named(&self, name: &str) -> Option<&Arc<Certificate>> {
        self.catalogue.named(name).map(|entry| &entry.certificate)
    }

    /// The certificates among which a client that sends this name may get one: none, one, or one on
    /// a curve and one with RSA.
    pub fn candidates(&self, server_name: Option<&str>) -> impl Iterator<Item = &Arc<Certificate>> {
        self.catalogue.candidates(server_name)
    }

    /// All certificates, sorted by name.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Certificate>> {
        self.catalogue.entries().iter().map(|entry| &entry.certificate)
    }

    /// The files as they were before the load, where a [`Watch`] is to follow it.
    pub fn sighting(&self) -> Option<&Sighting> {
        self.sighting.as_ref()
    }

    /// Those whose files are broken and that have no last good version: what is wrong with each.
    pub fn absent(&self) -> impl Iterator<Item = (&str, &Problem)> {
        self.absent.iter().map(|(name, problem)| (name.as_str(), problem))
    }
}

#[cfg(test)]
mod tests;
