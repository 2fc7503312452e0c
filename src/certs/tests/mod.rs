//! A certificate authority, folders of certificates and handshakes, one line each.

mod broken;
mod choice;
mod handshakes;
mod reload;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};

use super::load::load_at;
use super::{CertSettings, CertStore, Loaded};

/// Signs everything in these tests; a real chain has an intermediate, and so has this.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
    pub(super) root: rcgen::Certificate,
}

pub(super) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("Test"));

/// A certificate as its issuer hands it over.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) leaf: String,
    pub(super) above: String,
    pub(super) key: String,
}

/// What is asked of the authority.
pub(super) struct Order<'a> {
    pub(super) hosts: &'a [&'a str],
    /// Valid from so many days from now.
    pub(super) begins: i64,
    pub(super) days: i64,
    pub(super) algorithm: &'static SignatureAlgorithm,
    pub(super) usage: ExtendedKeyUsagePurpose,
}

pub(super) fn order<'a>(hosts: &'a [&'a str]) -> Order<'a> {
    Order {
        hosts,
        begins: -30,
        days: 90,
        algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
        usage: ExtendedKeyUsagePurpose::ServerAuth,
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

impl Authority {
    pub(super) fn new(name: &str) -> Authority {
        let root_key = KeyPair::generate().unwrap();
        let root_params = authority_params(&format!("{name} root"));
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate().unwrap();
        let params = authority_params(&format!("{name} intermediate"));
        let pem = params.signed_by(&key, &root_issuer).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem, root }
    }

    pub(super) fn issue(&self, order: &Order<'_>) -> Issued {
        let key = KeyPair::generate_for(order.algorithm).unwrap();
        let hosts = order.hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut params = CertificateParams::new(hosts).unwrap();
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(order.begins);
        // Half a day more: the whole days left are the order's, however long the test takes.
        params.not_after = now + Duration::days(order.days) + Duration::hours(12);
        params.extended_key_usages = vec![order.usage.clone()];
        let leaf = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { leaf, above: self.pem.clone(), key: key.serialize_pem() }
    }
}

pub(super) fn issue(hosts: &[&str]) -> Issued {
    AUTHORITY.issue(&order(hosts))
}

impl Issued {
    pub(super) fn chain(&self) -> String {
        format!("{}{}", self.leaf, self.above)
    }
}

/// A folder of certificates and the settings to load it.
pub(super) struct Certs {
    /// The parent of the folder of certificates: room beside it.
    _parent: tempfile::TempDir,
    pub(super) settings: CertSettings,
}

impl Certs {
    pub(super) fn new() -> Certs {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("certs");
        fs::create_dir(&directory).unwrap();
        Certs { _parent: parent, settings: CertSettings { directory, ..CertSettings::default() } }
    }

    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.settings.directory.join(relative)
    }

    pub(super) fn write(&self, relative: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(super) fn put(&self, name: &str, issued: &Issued) {
        self.write(&format!("{name}/fullchain.pem"), issued.chain());
        self.write(&format!("{name}/privkey.pem"), &issued.key);
    }

    pub(super) fn load(&self, previous: Option<&CertStore>) -> Loaded {
        load_at(&self.settings, previous, now())
    }
}

/// Unix seconds.
pub(super) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

pub(super) fn names(store: &CertStore) -> Vec<&str> {
    store.all().map(|certificate| certificate.name()).collect()
}

/// All problems as a person reads them, with the folder's own path cut off.
pub(super) fn told(loaded: &Loaded, certs: &Certs) -> Vec<String> {
    let prefix = format!("{}/", certs.settings.directory.display());
    loaded.problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
}
