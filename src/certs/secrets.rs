//! Small files beside the certificates: the secrets of session tickets, and the authorities that
//! clients' certificates must come from. Read at each load; a broken one keeps its last good version.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use zeroize::Zeroizing;

use super::pem::line_of_section;
use super::server_config::provider;
use super::tickets::Secret;
use crate::pem;
use crate::plain_file;
use crate::problem::{Problem, Severity};

/// Enough for any hand-over of keys; each costs four derived keys.
const SECRETS_MAX: usize = 8;

/// A hand-written bundle of authorities stays far below.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// As many random bits as the derived keys have.
const SECRET_BYTES_MIN: usize = 32;

/// Who may sign clients' certificates, from one file.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// SHA-256 of the authorities: the context of the sessions made under them.
    pub(super) context: Vec<u8>,
}

/// Reads a `ticket_keys` file: one secret a line in base64, the first seals, all open.
pub(super) fn ticket_secrets(path: &Path) -> Result<(Vec<Secret>, Vec<Problem>), Box<Problem>> {
    let problem = |line, what: String| {
        let remedy = "write one secret a line, each from: openssl rand -base64 48";
        Box::new(Problem { line, ..part(path, "certificates.ticket_keys", what, remedy) })
    };
    let text = read_bounded(path).map_err(|what| problem(None, what))?;
    let mut secrets = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let secret = decode_base64(line)
            .ok_or_else(|| problem(Some(number), "the line is no base64".into()))?;
        if secret.len() < SECRET_BYTES_MIN {
            let what = format!(
                "the secret has {} bytes, at least {SECRET_BYTES_MIN} are expected",
                secret.len()
            );
            return Err(problem(Some(number), what));
        }
        secrets.push(Secret(secret));
    }
    match secrets.len() {
        0 => Err(problem(None, "holds no secret".into())),
        1..=SECRETS_MAX => Ok((secrets, exposed(path).into_iter().collect())),
        count => {
            Err(problem(None, format!("holds {count} secrets, at most {SECRETS_MAX} are expected")))
        }
    }
}

/// Reads a site's `client_ca` file.
pub(super) fn authority(path: &Path) -> Result<Authority, Box<Problem>> {
    let remedy = "put the authority's certificates there as PEM";
    let problem = |what: String| Box::new(part(path, "tls.client_ca", what, remedy));
    let text = read_bounded(path).map_err(problem)?;
    let mut roots = RootCertStore::empty();
    for (number, section) in (1..).zip(pem::sections(&text)) {
        let broken = |what| {
            let line = Some(line_of_section(&text, number));
            Box::new(Problem { line, ..*problem(what) })
        };
        let section = section.map_err(|error| broken(pem::why(&error).into()))?;
        let pem::Item::X509Certificate(certificate) = section else { continue };
        roots.add(certificate).map_err(|error| {
            broken(format!("certificate {} is no authority's: {error}", roots.len() + 1))
        })?;
    }
    if roots.is_empty() {
        return Err(problem("holds no certificate".into()));
    }
    let context = digest(&SHA256, &text).as_ref().to_vec();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
        .build()
        .map_err(|error| problem(format!("cannot verify clients: {error}")))?;
    Ok(Authority { verifier, context })
}

fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let read = plain_file::read(path, FILE_BYTES_MAX).map(Zeroizing::new);
    read.map_err(|error| format!("cannot be read: {error}"))
}

fn part(path: &Path, key: &str, what: String, remedy: &str) -> Problem {
    Problem {
        severity: Severity::Part,
        file: PathBuf::from(path),
        line: None,
        key: key.into(),
        site: None,
        what,
        remedy: remedy.into(),
    }
}

fn exposed(path: &Path) -> Option<Problem> {
    let mode = fs::metadata(path).ok()?.mode() & 0o7777;
    let what = format!("others than its owner may read the ticket keys (mode {mode:04o})");
    let problem = part(path, "certificates.ticket_keys", what, "chmod 600");
    (mode & 0o077 != 0).then_some(Problem { severity: Severity::Warning, ..problem })
}

/// Base64 through the PEM reader's constant-time decoder for secrets.
fn decode_base64(line: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(b"-----BEGIN PRIVATE KEY-----\n".to_vec());
    text.extend_from_slice(line);
    text.extend_from_slice(b"\n-----END PRIVATE KEY-----\n");
    match pem::sections(&text).next()?.ok()? {
        pem::Item::Pkcs8Key(key) => Some(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
        _ => None,
    }
}
