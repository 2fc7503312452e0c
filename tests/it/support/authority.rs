//! A certification authority for one test run, and clients that trust it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::{Duration, OffsetDateTime};

/// The authority.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// The one of this run.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new("sluss test authority"))
}

impl Authority {
    /// Another one, which nobody trusts.
    pub fn stranger() -> Authority {
        Authority::new("a stranger")
    }

    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, hosts: &[String]) -> (Certificate, KeyPair) {
        self.sign(hosts, CertificateParams::new(hosts.to_vec()).unwrap())
    }

    fn sign(&self, hosts: &[String], mut params: CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, hosts[0].clone());
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A fresh certificate and its key, as rustls takes them.
    pub fn identity(&self, host: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.certify(&[host.to_owned()]);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], key.into())
    }

    /// A server's configuration.
    pub fn server(&self, host: &str, protocol: &str) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (chain, key) = self.identity(host);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config
    }

    /// Writes a fresh certificate and its key into `folder`, as certbot names them.
    pub fn issue(&self, folder: &Path, hosts: &[String]) {
        write(folder, &self.certify(hosts));
    }

    /// The same for one that was issued long ago and ends so many days from now, or ago.
    pub fn issue_until(&self, folder: &Path, hosts: &[String], days_left: i64) {
        let mut params = CertificateParams::new(hosts.to_vec()).unwrap();
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days_left);
        params.not_before = params.not_after - Duration::days(90);
        write(folder, &self.sign(hosts, params));
    }

    /// For tools that want the authority as a file.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A client's configuration.
    pub fn client(&self, protocols: &[&str]) -> ClientConfig {
        self.client_of(protocols, None)
    }

    /// The same for a client that shows a certificate of that authority.
    pub fn client_of(&self, protocols: &[&str], of: Option<&Authority>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match of.map(|authority| authority.identity("visitor.test")) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// Writes a certificate and its key into `folder`, as certbot names them.
fn write(folder: &Path, (certificate, key): &(Certificate, KeyPair)) {
    std::fs::create_dir_all(folder).unwrap();
    let private = folder.join("privkey.pem");
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&private, owner_only).unwrap();
    std::fs::write(folder.join("fullchain.pem"), certificate.pem()).unwrap();
}
