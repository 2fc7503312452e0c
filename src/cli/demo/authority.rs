//! The demo's own certificate authority. Its key never leaves this machine, and its certificates
//! are for `*.localhost` names alone (name constraints, RFC 5280 4.2.1.10).

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, SanType,
};
use time::{Duration, OffsetDateTime};

/// Why the certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Unmade {
    /// The folder or a file.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The certificate itself.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
}

/// Makes `folder`/ca.pem and `folder`/sites/HOST/{fullchain,privkey}.pem, anew each time: no key
/// of a demo lives longer than the demo's next run.
pub fn make(folder: &Path, hosts: &[String]) -> Result<(), Unmade> {
    let sites = folder.join("sites");
    if sites.exists() {
        fs::remove_dir_all(&sites)?;
    }
    fs::create_dir_all(&sites)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "sluss demo authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("localhost".into())],
        excluded_subtrees: Vec::new(),
    });
    bound(&mut params, 365);
    let authority = params.self_signed(&key)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    let issuer = Issuer::new(params, key);
    for host in hosts {
        certificate(&sites.join(host), host, (&issuer, &authority.pem()))?;
    }
    Ok(())
}

fn certificate(
    folder: &Path,
    host: &str,
    (issuer, authority): (&Issuer<'_, KeyPair>, &str),
) -> Result<(), Unmade> {
    fs::create_dir_all(folder)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, host);
    params.subject_alt_names = vec![SanType::DnsName(host.try_into()?)];
    bound(&mut params, 90);
    let leaf = params.signed_by(&key, issuer)?;
    fs::write(folder.join("fullchain.pem"), leaf.pem() + authority)?;
    let path = folder.join("privkey.pem");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(key.serialize_pem().as_bytes())?;
    Ok(())
}

fn bound(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
}
