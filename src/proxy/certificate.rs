//! Which certificate a site's connections get: the one its file names, or the host's.

use crate::certs::{CertStore, LowestVersion, TlsPolicy};
use crate::sites::{Site, TlsVersion};

/// What a site asks of TLS; `None` is a server name that no site has.
pub fn tls_policy(site: Option<&Site>) -> TlsPolicy<'_> {
    let Some(site) = site else { return TlsPolicy::default() };
    TlsPolicy {
        lowest: match site.tls.min_version {
            TlsVersion::Tls12 => LowestVersion::Tls12,
            TlsVersion::Tls13 => LowestVersion::Tls13,
        },
        client_ca: site.tls.client_ca.as_deref(),
        certificate: site.certificate.as_deref(),
    }
}

/// Whether there is a certificate for a connection with this server name.
pub fn is_at_hand(store: &CertStore, site: Option<&Site>, server_name: Option<&str>) -> bool {
    match site.and_then(|site| site.certificate.as_deref()) {
        Some(named) => store.named(named).is_some(),
        None => store.has_certificate(server_name),
    }
}

/// Whether the certificate that a connection with this server name got is valid for `host`.
pub fn covers(
    store: &CertStore,
    site: Option<&Site>,
    server_name: Option<&str>,
    host: &str,
) -> bool {
    match site.and_then(|site| site.certificate.as_deref()) {
        Some(named) => store.named(named).is_some_and(|certificate| certificate.covers(host)),
        None => store.covers(server_name, host),
    }
}

/// Whether a new connection with this server name is likely to cost an RSA signature: of a client
/// that takes no other, also where there is a certificate of another kind beside.
pub fn is_rsa(
    store: &CertStore,
    site: Option<&Site>,
    server_name: Option<&str>,
    offers_ecdsa: bool,
) -> bool {
    if let Some(named) = site.and_then(|site| site.certificate.as_deref()) {
        return store.named(named).is_some_and(|certificate| certificate.key().is_rsa());
    }
    let mut candidates = store.candidates(server_name);
    match offers_ecdsa {
        true => candidates.all(|certificate| certificate.key().is_rsa()),
        false => candidates.any(|certificate| certificate.key().is_rsa()),
    }
}
