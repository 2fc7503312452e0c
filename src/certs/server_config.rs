//! TLS settings from a store: one rustls configuration for each policy that sites ask for.
//!
//! Nearly all sites share one of two configurations (by their lowest version), made with the store.
//! A site that names its certificate or asks clients for one has a configuration of its own, made
//! at its first handshake and kept with the store. Configurations resolve certificates from their
//! own store's catalogue: a connection sees one generation. rustls lets go of them when the
//! handshake is done, so old generations do not live as long as connections.
//!
//! Always: key exchange X25519MLKEM768, X25519, P-256; ALPN `h2`, `http/1.1`; no
//! early data; no session kept on the server. Sessions of clients that had to prove who they are
//! resume only under the same authorities.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::catalogue::{Catalogue, Entry};
use super::secrets::Authority;
use super::tickets::{Ticketer, Tickets};

/// What a site asks of TLS. A connection serves another site's requests where it has what that one asks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TlsPolicy<'a> {
    /// The lowest version taken.
    pub lowest: LowestVersion,
    /// The file of the authorities that clients' certificates must come from.
    pub client_ca: Option<&'a Path>,
    /// The name of the certificate; else chosen by host.
    pub certificate: Option<&'a str>,
}

/// The lowest TLS version taken.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum LowestVersion {
    /// 1.2 and 1.3.
    #[default]
    Tls12,
    /// 1.3 alone.
    Tls13,
}

/// All configurations of a store.
pub(super) struct Configs {
    /// `None`: the library has no randomness; sessions are not resumed.
    tickets: Option<Arc<Tickets>>,
    /// How many each handshake of TLS 1.3 gets; with 0 no session is resumed.
    tickets_sent: usize,
    authorities: HashMap<PathBuf, Arc<Authority>>,
    /// The policies of nearly all sites, by lowest version.
    usual: [Arc<ServerConfig>; 2],
    /// The others; as many as the sites' files ask for.
    special: RwLock<HashMap<PolicyKey, Arc<ServerConfig>>>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct PolicyKey {
    lowest: LowestVersion,
    client_ca: Option<PathBuf>,
    certificate: Option<Box<str>>,
}

impl Configs {
    pub(super) fn new(
        catalogue: &Arc<Catalogue>,
        (tickets, tickets_sent): (Option<Arc<Tickets>>, usize),
        authorities: HashMap<PathBuf, Arc<Authority>>,
    ) -> Configs {
        let usual = [LowestVersion::Tls12, LowestVersion::Tls13].map(|lowest| {
            let resolver = Arc::new(BySni(catalogue.clone()));
            Arc::new(build(lowest, resolver, (tickets.as_ref(), tickets_sent), None))
        });
        Configs { tickets, tickets_sent, authorities, usual, special: RwLock::default() }
    }

    pub(super) fn tickets(&self) -> Option<&Arc<Tickets>> {
        self.tickets.as_ref()
    }

    pub(super) fn authority(&self, path: &Path) -> Option<&Arc<Authority>> {
        self.authorities.get(path)
    }

    pub(super) fn config(
        &self,
        catalogue: &Arc<Catalogue>,
        policy: TlsPolicy<'_>,
    ) -> Arc<ServerConfig> {
        if policy.client_ca.is_none() && policy.certificate.is_none() {
            let [from_12, from_13] = &self.usual;
            return match policy.lowest {
                LowestVersion::Tls12 => from_12.clone(),
                LowestVersion::Tls13 => from_13.clone(),
            };
        }
        let key = PolicyKey {
            lowest: policy.lowest,
            client_ca: policy.client_ca.map(PathBuf::from),
            certificate: policy.certificate.map(Box::from),
        };
        // Whole entries are inserted: a panic elsewhere leaves the map usable.
        if let Some(known) = self.special.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let config = Arc::new(self.special_config(catalogue, policy));
        let mut special = self.special.write().unwrap_or_else(PoisonError::into_inner);
        special.entry(key).or_insert(config).clone()
    }

    fn special_config(&self, catalogue: &Arc<Catalogue>, policy: TlsPolicy<'_>) -> ServerConfig {
        let resolver: Arc<dyn ResolvesServerCert> = match policy.certificate {
            None => Arc::new(BySni(catalogue.clone())),
            Some(name) => Arc::new(Pinned(catalogue.named(name).cloned())),
        };
        let tickets = (self.tickets.as_ref(), self.tickets_sent);
        match policy.client_ca.map(|path| self.authorities.get(path)) {
            None => build(policy.lowest, resolver, tickets, None),
            Some(Some(authority)) => build(policy.lowest, resolver, tickets, Some(authority)),
            // The authorities could not be read: nobody is let in, rather than everybody.
            Some(None) => build(policy.lowest, Arc::new(Pinned(None)), tickets, None),
        }
    }
}

fn build(
    lowest: LowestVersion,
    resolver: Arc<dyn ResolvesServerCert>,
    (tickets, tickets_sent): (Option<&Arc<Tickets>>, usize),
    authority: Option<&Arc<Authority>>,
) -> ServerConfig {
    let verifier = match authority {
        Some(authority) => authority.verifier.clone(),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(lowest))
        .expect("the provider has cipher suites for both versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if let Some(tickets) = tickets.filter(|_| tickets_sent > 0).cloned() {
        let context = authority.map(|authority| authority.context.clone()).unwrap_or_default();
        config.ticketer = Arc::new(Ticketer { tickets, context });
    }
    config.send_tls13_tickets = tickets_sent;
    config.max_early_data_size = 0;
    config
}

static TLS13_ALONE: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn versions(lowest: LowestVersion) -> &'static [&'static SupportedProtocolVersion] {
    match lowest {
        LowestVersion::Tls12 => rustls::ALL_VERSIONS,
        LowestVersion::Tls13 => TLS13_ALONE,
    }
}

/// aws-lc-rs with our order of key exchanges; one for the process.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
        Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
    });
    PROVIDER.clone()
}

/// Chooses by the client's server name and signature schemes.
#[derive(Debug)]
struct BySni(Arc<Catalogue>);

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certified_key(hello.server_name(), hello.signature_schemes())
    }
}

/// One certificate whatever the client says; or none.
#[derive(Debug)]
struct Pinned(Option<Arc<Entry>>);

impl ResolvesServerCert for Pinned {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref().filter(|entry| entry.is_served())?.certificate.certified_key()
    }
}

/// Has keys within reach: prints none.
impl std::fmt::Debug for Configs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configs")
            .field("authorities", &self.authorities.len())
            .finish_non_exhaustive()
    }
}
