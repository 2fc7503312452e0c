//! TLS of the generator's clients: whom they believe, what they offer, what they remember.
//!
//! A client that verified every chain anew would spend more on a handshake than the server does
//! and measure itself. So a chain is verified once for each name; the same bytes again are
//! believed. The signature of each handshake is verified every time, except with
//! [`Trust::Nobody`]. Full handshakes remember nothing; resuming clients keep a stock of tickets
//! a host, each of which is offered once (RFC 8446, C.4).

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    WebPkiServerVerifier,
};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore, SignatureScheme,
    SupportedProtocolVersion, version,
};

use super::key_share::X25519_KEPT;
use crate::pem;

/// The certificates of the system's authorities, on Debian and on Red Hat.
const SYSTEM_AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// TLS 1.3 tickets kept for one host; the oldest go first.
pub const TICKETS_MAX: usize = 4096;

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those signed by the authorities in this PEM file.
    Authorities(PathBuf),
    /// Anybody's: nothing is verified.
    Nobody,
    /// Those signed by the system's authorities.
    System,
}

/// TLS versions to offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Versions {
    /// 1.3 and 1.2.
    Both,
    /// 1.2 alone.
    Tls12,
    /// 1.3 alone.
    Tls13,
}

/// The key-exchange group to offer first, with a share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// Curve25519.
    X25519,
    /// ML-KEM-768 with Curve25519, as browsers offer it.
    X25519MlKem768,
}

/// Whether sessions are remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sessions {
    /// Every handshake is a full one.
    Forget,
    /// A session of the host is offered, while the stock lasts.
    Offer,
}

/// What a client offers in its hello.
#[derive(Clone, Debug)]
pub struct Offer {
    /// TLS versions.
    pub versions: Versions,
    /// Key exchange.
    pub group: Group,
    /// Application protocols; none sends no ALPN.
    pub alpn: Vec<Vec<u8>>,
    /// Resumption.
    pub sessions: Sessions,
}

/// The configuration of clients that trust and offer this.
///
/// # Errors
/// [`InvalidTrust`] where the authorities' file cannot be read or has none.
pub fn client_config(trust: &Trust, offer: &Offer) -> Result<Arc<ClientConfig>, InvalidTrust> {
    let provider = Arc::new(provider(offer.group));
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Authorities(file) => verified_once(file, &provider)?,
        Trust::Nobody => Arc::new(BelievesAll(Arc::clone(&provider))),
        Trust::System => {
            let found = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|file| file.exists());
            verified_once(found.ok_or(InvalidTrust::NoSystem)?, &provider)?
        }
    };
    let versions: &[&SupportedProtocolVersion] = match offer.versions {
        Versions::Both => &[&version::TLS13, &version::TLS12],
        Versions::Tls12 => &[&version::TLS12],
        Versions::Tls13 => &[&version::TLS13],
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(InvalidTrust::Offer)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols.clone_from(&offer.alpn);
    config.resumption = match offer.sessions {
        Sessions::Forget => Resumption::disabled(),
        Sessions::Offer => Resumption::store(Arc::new(Stock::default())),
    };
    Ok(Arc::new(config))
}

fn provider(first: Group) -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519MLKEM768};
    let first: &'static dyn SupportedKxGroup = match first {
        Group::P256 => SECP256R1,
        Group::P384 => SECP384R1,
        Group::X25519 => X25519_KEPT,
        Group::X25519MlKem768 => X25519MLKEM768,
    };
    let mut provider = aws_lc_rs::default_provider();
    // AES-128 with SHA-256 first, as browsers have it: SHA-384 has no instruction of its own on
    // most CPUs and cost a sixth of a handshake's time.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != TLS13_AES_128_GCM_SHA256);
    // The others stay on offer, without a share, for servers that do not speak the first.
    provider.kx_groups = vec![X25519_KEPT, SECP256R1, SECP384R1];
    provider.kx_groups.retain(|group| group.name() != first.name());
    provider.kx_groups.insert(0, first);
    provider
}

fn verified_once(
    file: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, InvalidTrust> {
    let text = std::fs::read(file)
        .map_err(|source| InvalidTrust::Read { file: file.to_owned(), source })?;
    let certificates = pem::certificates(&text).map_err(|error| InvalidTrust::Malformed {
        file: file.to_owned(),
        why: pem::why(&error),
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        // A system's bundle may hold an authority that webpki cannot read; the others still count.
        let _ = roots.add(certificate);
    }
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let inner = builder
        .build()
        .map_err(|source| InvalidTrust::Authorities { file: file.to_owned(), source })?;
    Ok(Arc::new(VerifiedOnce { inner, known: Mutex::default() }))
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTrust {
    /// The file has no authority.
    #[error("{file} holds no usable authority")]
    Authorities {
        /// The file.
        file: PathBuf,
        /// Why.
        source: rustls::client::VerifierBuilderError,
    },
    /// Nowhere to look.
    #[error("no system authorities found; name a file with --cacert, or use --insecure")]
    NoSystem,
    /// Version and group do not go together.
    #[error("these TLS settings do not go together")]
    Offer(#[source] Error),
    /// The file cannot be read.
    #[error("cannot read the authorities in {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no PEM.
    #[error("{file} {why}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// A sentence without its subject.
        why: &'static str,
    },
}

/// Verifies a chain once for each name and believes the same bytes again.
#[derive(Debug)]
struct VerifiedOnce {
    inner: Arc<WebPkiServerVerifier>,
    /// By name, the chain that was found good last; holds at most one entry a host of the run.
    known: Mutex<HashMap<ServerName<'static>, Vec<CertificateDer<'static>>>>,
}

impl ServerCertVerifier for VerifiedOnce {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = server_name.to_owned();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.get(&name).is_some_and(|chain| {
            chain.first() == Some(end_entity) && chain[1..].iter().eq(intermediates)
        });
        if same {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let chain = std::iter::once(end_entity).chain(intermediates);
        known.insert(name, chain.map(|certificate| certificate.clone().into_owned()).collect());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Believes every certificate and every signature.
#[derive(Debug)]
struct BelievesAll(Arc<CryptoProvider>);

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Sessions by host, shared by all connections of a traffic.
#[derive(Debug, Default)]
struct Stock(Mutex<HashMap<ServerName<'static>, Session>>);

#[derive(Debug, Default)]
struct Session {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Stock {
    fn with<T>(&self, name: &ServerName<'_>, change: impl FnOnce(&mut Session) -> T) -> T {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(sessions.entry(name.to_owned()).or_default())
    }
}

impl ClientSessionStore for Stock {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.with(&server_name, |session| session.group = Some(group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(server_name, |session| session.group)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.with(&server_name, |session| session.tls12 = Some(value));
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(server_name, |session| session.tls12.clone())
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.with(server_name, |session| session.tls12 = None);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.with(&server_name, |session| {
            if session.tls13.len() >= TICKETS_MAX {
                session.tls13.pop_front();
            }
            session.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.with(server_name, |session| session.tls13.pop_front())
    }
}
