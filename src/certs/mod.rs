//! Certificates by host.

/// All certificates of a snapshot.
#[derive(Debug)]
pub struct CertStore;
