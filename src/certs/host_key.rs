//! Hosts as the catalogue's map has them: hashes, made once when a certificate is read.
//!
//! A map by text would follow a pointer to each of 200,000 names at every reload and free as many
//! at its end; a map of hashes is one block of memory. The hash is keyed afresh in each process, so
//! that nobody can choose names that collide; by chance, two of 200,000 names do in one process out
//! of a thousand million.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::LazyLock;

use crate::names::HostPattern;

/// A host or a wildcard.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct HostKey(u64);

/// A map by host.
pub(super) type HostMap<V> = HashMap<HostKey, V, BuildHasherDefault<AsItIs>>;

impl HostKey {
    pub(super) fn of(pattern: &HostPattern) -> HostKey {
        match pattern {
            HostPattern::Exact(host) => HostKey::exact(host.as_str()),
            HostPattern::Wildcard(parent) => HostKey::wildcard(parent.as_str()),
        }
    }

    /// Of canonical text.
    pub(super) fn exact(host: &str) -> HostKey {
        HostKey(key().hash_one((false, host)))
    }

    /// Of the wildcard's parent, canonical text.
    pub(super) fn wildcard(parent: &str) -> HostKey {
        HostKey(key().hash_one((true, parent)))
    }
}

fn key() -> &'static RandomState {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    &KEY
}

/// Hashes what is a hash already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Host keys come as numbers; whatever else came would still be hashed.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
