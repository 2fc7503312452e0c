//! From one certificate's files to a [`Certificate`], or the one defect that keeps it from being used.

use std::sync::RwLock;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::{Certificate, State};
use super::chain::{self, Interner};
use super::defect::{Defect, Found};
use super::folder::{Files, Name};
use super::host_key::HostKey;
use super::key::{self, Comparison, SecretKey};
use super::{leaf, pem};

/// When the library takes the private key apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyCheck {
    /// At load: finds a key that is damaged inside.
    AtLoad,
    /// At the first handshake; at load only the public half in the file is compared.
    AtUse,
}

/// What reading takes besides the files.
pub(super) struct Reader<'a> {
    pub(super) interner: &'a Interner,
    pub(super) key_check: KeyCheck,
    /// Unix seconds.
    pub(super) now: i64,
}

/// SHA-256 of all that a certificate is made from.
pub(super) fn contents_hash(files: &Files) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&u64::try_from(files.chain.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(&files.chain);
    if let Some(key) = &files.key {
        context.update(key);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

impl Reader<'_> {
    /// Makes a certificate of its files' bytes.
    pub(super) fn certificate(
        &self,
        entry: Name<'_>,
        files: &Files,
        contents: [u8; 32],
    ) -> Result<Certificate, Found> {
        let (certificates, secret) = sections(files)?;
        let (first, above) =
            certificates.split_first().ok_or(Found::chain(Defect::NoCertificate))?;
        let malformed = Found::chain(Defect::Malformed { position: 1 });
        let (rest, leaf) = X509Certificate::from_der(first).map_err(|_| malformed.clone())?;
        if !rest.is_empty() {
            return Err(malformed);
        }
        let facts = leaf::facts(&leaf).map_err(Found::chain)?;
        self.check_key(&secret, facts.key, &leaf, above)?;
        let chain = self.interner.chain(above).map_err(Found::chain)?;
        let (chain, chain_defects) =
            chain::behind_leaf(&leaf, chain, self.interner, self.now).map_err(Found::chain)?;
        let mut oddities = facts.oddities;
        oddities.extend(chain_defects);
        Ok(Certificate {
            name: entry.name.into(),
            layout: entry.layout,
            host_keys: facts.hosts.iter().map(HostKey::of).collect(),
            hosts: facts.hosts.into(),
            key: facts.key,
            not_before: facts.not_before,
            not_after: facts.not_after,
            issuer: self.interner.issuer(&facts.issuer),
            fingerprint: chain::sha256(first),
            contents,
            oddities: oddities.into(),
            chain,
            state: RwLock::new(State::Stored { leaf: first.as_ref().into(), secret }),
        })
    }

    fn check_key(
        &self,
        secret: &SecretKey,
        kind: key::KeyKind,
        leaf: &X509Certificate<'_>,
        above: &[CertificateDer<'static>],
    ) -> Result<(), Found> {
        let public = &leaf.public_key().subject_public_key.data;
        let verdict = match key::compare(secret, kind, public) {
            Comparison::Differs => Err(Defect::KeyOfAnother),
            Comparison::Equals if self.key_check == KeyCheck::AtUse => Ok(()),
            Comparison::Equals | Comparison::Unknown => {
                key::signing_key(secret, kind, public).map(drop)
            }
        };
        match verdict {
            Ok(()) => Ok(()),
            Err(Defect::KeyOfAnother) => Err(match owner(secret, above) {
                Some(position) => Found::chain(Defect::LeafNotFirst { position }),
                None => Found::key(Defect::KeyOfAnother),
            }),
            Err(defect) => Err(Found::key(defect)),
        }
    }
}

/// The chain file's certificates and the one key.
fn sections(files: &Files) -> Result<(Vec<CertificateDer<'static>>, SecretKey), Found> {
    let chain = pem::read(&files.chain).map_err(Found::chain)?;
    if chain.certificates.is_empty() {
        return Err(Found::chain(Defect::NoCertificate));
    }
    let keys = match &files.key {
        Some(text) => pem::read(text).map_err(Found::key)?.keys,
        None => chain.keys,
    };
    Ok((chain.certificates, one_key(keys)?))
}

fn one_key(keys: Vec<PrivateKeyDer<'static>>) -> Result<SecretKey, Found> {
    let count = keys.len();
    // All of them become secrets first, so that those not used are wiped too.
    let mut secrets = keys.into_iter().map(SecretKey::new).collect::<Vec<_>>();
    match (secrets.pop(), count) {
        (None, _) => Err(Found::key(Defect::NoKey)),
        (Some(secret), 1) => Ok(secret),
        (Some(_), _) => Err(Found::key(Defect::KeySeveral { count })),
    }
}

/// The position in the file (from 1) of the certificate above the leaf that the key belongs to.
fn owner(secret: &SecretKey, above: &[CertificateDer<'static>]) -> Option<usize> {
    let at = above.iter().position(|der| {
        let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
        let public = &parsed.public_key().subject_public_key.data;
        key::KeyKind::of(parsed.public_key())
            .is_some_and(|kind| key::signing_key(secret, kind, public).is_ok())
    })?;
    Some(at + 2)
}
