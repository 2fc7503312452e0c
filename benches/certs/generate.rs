//! A folder as a hosting company has it: ECDSA P-256 certificates, one in a hundred RSA, all below
//! one intermediate; and renewed versions of some, to be moved in.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};

/// Every so many certificates, one is RSA; they share one key, whose making would take minutes.
const RSA_EVERY: usize = 100;

/// How many have a renewed version.
pub(crate) const RENEWED: usize = 1000;

/// Generates `directory`, unless it is there.
pub(crate) fn folder(directory: &Path, count: usize) {
    if directory.join("complete").exists() {
        return;
    }
    eprintln!("generating {count} certificates in {}", directory.display());
    let root_key = KeyPair::generate().unwrap();
    let root = authority("Benchmark root");
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("root.pem"), root.self_signed(&root_key).unwrap().pem()).unwrap();
    let root = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let intermediate = authority("Benchmark intermediate");
    let above = intermediate.signed_by(&key, &root).unwrap();
    let issuer = Issuer::new(intermediate, key);
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let bytes = AtomicUsize::new(above.der().len());
    let next = AtomicUsize::new(0);
    let work = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return;
        }
        let own = KeyPair::generate().unwrap();
        let key = if number.is_multiple_of(RSA_EVERY) { &rsa } else { &own };
        let size = write(directory, "certs", number, 90, (key, &issuer, &above.pem()));
        bytes.fetch_add(size, Ordering::Relaxed);
        if number < RENEWED {
            write(directory, "renewed", number, 91, (&own, &issuer, &above.pem()));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(work);
        }
    });
    fs::write(directory.join("complete"), bytes.into_inner().to_string()).unwrap();
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A host of certificate `number`.
pub(crate) fn host(number: usize) -> String {
    format!("customer-{number:06}.example")
}

fn write(
    directory: &Path,
    kind: &str,
    number: usize,
    days: i64,
    (key, issuer, above): (&KeyPair, &Issuer<'_, KeyPair>, &str),
) -> usize {
    let host = host(number);
    let mut params = CertificateParams::new([host.clone(), format!("www.{host}")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, host.clone());
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(key, issuer).unwrap();
    let folder = directory.join(kind).join(&host);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("fullchain.pem"), format!("{}{above}", leaf.pem())).unwrap();
    let private = folder.join("privkey.pem");
    fs::write(&private, key.serialize_pem()).unwrap();
    fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    leaf.der().len()
}
