//! This machine, as `queues.toml` describes the one that was measured.

use std::fs;

use crate::certs::{CertStore, KeyKind};
use crate::sizing::{KeyType, Machine, cpu_model};

/// The key types that handshakes are sized for: ECDSA always, as new certificates have it, and RSA
/// where a certificate has such a key.
pub fn key_types(certs: &CertStore) -> Vec<KeyType> {
    let is_rsa = |kind| matches!(kind, KeyKind::Rsa(_));
    let rsa = certs.all().any(|certificate| is_rsa(certificate.key()));
    if rsa { vec![KeyType::Ecdsa, KeyType::Rsa] } else { vec![KeyType::Ecdsa] }
}

/// The machine this runs on, with these certificates; when it was measured is for others to say.
pub fn this_machine(certs: &CertStore) -> Machine {
    let labels: Vec<&str> = key_types(certs).iter().map(|key| key.label()).collect();
    Machine {
        cores: std::thread::available_parallelism().ok().map(usize::from),
        cpu: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_model(&text)),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        key_types: Some(labels.join(", ")),
        measured: None,
    }
}
