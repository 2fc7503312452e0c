//! One certificate: what is known of it, and its key made ready at the first handshake.
//!
//! A [`Certificate`] never changes but for one step, from `Stored` (leaf and key in DER) to `Ready`
//! (the form rustls signs with), taken by the first handshake that needs it. The bytes move along,
//! so that they are never held twice. Certificates are shared between the stores of successive
//! reloads: a key that is ready stays so.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::chain::Chain;
use super::defect::Defect;
use super::host_key::HostKey;
use super::key::{self, KeyKind, SecretKey};
use crate::names::HostPattern;

/// A certificate, its chain and its key.
pub struct Certificate {
    pub(super) name: Box<str>,
    pub(super) layout: Layout,
    pub(super) hosts: Box<[HostPattern]>,
    /// Of `hosts`, in their order.
    pub(super) host_keys: Box<[HostKey]>,
    pub(super) key: KeyKind,
    /// Unix seconds.
    pub(super) not_before: i64,
    /// Unix seconds.
    pub(super) not_after: i64,
    pub(super) issuer: Arc<str>,
    /// SHA-256 of the leaf.
    pub(super) fingerprint: [u8; 32],
    /// SHA-256 of the files it was read from.
    pub(super) contents: [u8; 32],
    /// What is odd about its files, but for the key's mode, which is not in their contents.
    pub(super) oddities: Box<[Defect]>,
    pub(super) chain: Arc<Chain>,
    pub(super) state: RwLock<State>,
}

/// How a certificate's files are laid out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Layout {
    /// `NAME/fullchain.pem` and `NAME/privkey.pem`.
    Folder,
    /// `NAME.pem`.
    File,
}

/// How far the key is prepared.
pub(super) enum State {
    /// As read.
    Stored { leaf: Box<[u8]>, secret: SecretKey },
    /// As used.
    Ready(Arc<CertifiedKey>),
    /// The library refused the key; told once.
    Refused,
}

impl Certificate {
    /// The name of its folder, or of its file without `.pem`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hosts it is valid for.
    pub fn hosts(&self) -> &[HostPattern] {
        &self.hosts
    }

    /// The kind of its key.
    pub fn key(&self) -> KeyKind {
        self.key
    }

    /// The end of its validity, Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether it is neither expired nor yet to become valid. `now` in Unix seconds.
    pub(super) fn is_valid_at(&self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it is valid for `host` (canonical text).
    pub fn covers(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.covers(host))
    }

    /// The form rustls works with; prepared by the first caller, which takes tens of microseconds.
    /// `None` where the key turns out to be unusable.
    pub(super) fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Ready(ready) => return Some(ready.clone()),
            State::Refused => return None,
            State::Stored { .. } => {}
        }
        // Others that need this one certificate wait here, rather than parse the key themselves.
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = match std::mem::replace(&mut *state, State::Refused) {
            State::Stored { leaf, secret } => self.prepare(leaf, &secret),
            done @ (State::Ready(_) | State::Refused) => done,
        };
        match &*state {
            State::Ready(ready) => Some(ready.clone()),
            State::Stored { .. } | State::Refused => None,
        }
    }

    fn prepare(&self, leaf: Box<[u8]>, secret: &SecretKey) -> State {
        match signing_key(&leaf, self.key, secret) {
            Ok(key) => {
                let mut certificates = Vec::with_capacity(1 + self.chain.certificates.len());
                certificates.push(CertificateDer::from(leaf.into_vec()));
                certificates.extend(self.chain.certificates.iter().cloned());
                State::Ready(Arc::new(CertifiedKey::new(certificates, key)))
            }
            Err(defect) => {
                tracing::error!(certificate = %self.name, problem = %defect.what(), "certificate cannot be used");
                State::Refused
            }
        }
    }
}

/// The signing key, verified against the leaf it is stored with.
fn signing_key(
    leaf: &[u8],
    kind: KeyKind,
    secret: &SecretKey,
) -> Result<Arc<dyn rustls::sign::SigningKey>, Defect> {
    use x509_parser::prelude::FromDer;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|_| Defect::Malformed { position: 1 })?;
    key::signing_key(secret, kind, &parsed.public_key().subject_public_key.data)
}

/// Never prints a key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .field("key", &self.key)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
