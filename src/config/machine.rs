//! This machine, as `queues.toml` describes the one that was measured.

use std::collections::BTreeMap;
use std::fs;

use crate::certs::{CertStore, KeyKind};
use crate::sizing::{KeyType, Machine, cpu_model, labels};

/// The key types in use, and how many certificates have each; without certificates there is ECDSA
/// on P-256, as new ones have it.
pub fn key_types(certs: &CertStore) -> BTreeMap<KeyType, usize> {
    let mut counts = BTreeMap::new();
    for certificate in certs.all() {
        *counts.entry(key_type(certificate.key())).or_insert(0) += 1;
    }
    if counts.is_empty() {
        counts.insert(KeyType::EcdsaP256, 0);
    }
    counts
}

/// A certificate's kind of key, as sizes are computed for it.
pub fn key_type(kind: KeyKind) -> KeyType {
    match kind {
        KeyKind::EcdsaP256 => KeyType::EcdsaP256,
        KeyKind::EcdsaP384 => KeyType::EcdsaP384,
        KeyKind::EcdsaP521 => KeyType::EcdsaP521,
        KeyKind::Ed25519 => KeyType::Ed25519,
        KeyKind::Rsa(bits) => KeyType::Rsa(bits),
    }
}

/// The machine this runs on, with these certificates; when it was measured is for others to say.
pub fn this_machine(certs: &CertStore) -> Machine {
    Machine {
        cores: std::thread::available_parallelism().ok().map(usize::from),
        cpu: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_model(&text)),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        key_types: Some(labels(key_types(certs).into_keys())),
        measured: None,
    }
}
