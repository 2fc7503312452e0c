//! The certificates above a leaf, kept once for all leaves that share them.
//!
//! A hundred thousand certificates have a handful of issuers. A [`Chain`] is parsed and checked at
//! first sight and found by its contents from then on; the [`Interner`] goes from store to store
//! and holds no chain alive that no certificate uses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::defect::Defect;
use super::leaf;

/// The certificates after the leaf, in the order in which they are sent.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) certificates: Box<[CertificateDer<'static>]>,
    links: Box<[Link]>,
}

/// What joins one certificate of a chain to its neighbours.
#[derive(Debug)]
struct Link {
    /// The distinguished names as DER: an issuer must be written as the subject above is
    /// (RFC 5280 7.1), so bytes are compared.
    subject: Box<[u8]>,
    issuer: Box<[u8]>,
    shown: String,
    not_after: i64,
}

/// All chains and issuer names in use.
#[derive(Debug, Default)]
pub(super) struct Interner {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    chains: HashMap<[u8; 32], Weak<Chain>>,
    issuers: HashMap<Box<str>, Weak<str>>,
}

impl Interner {
    /// The chain of these certificates, parsed where it is new.
    pub(super) fn chain(
        &self,
        certificates: &[CertificateDer<'static>],
    ) -> Result<Arc<Chain>, Defect> {
        let key = contents_hash(certificates);
        if let Some(chain) = self.lock().chains.get(&key).and_then(Weak::upgrade) {
            return Ok(chain);
        }
        let chain = Arc::new(Chain::parse(certificates)?);
        self.lock().chains.insert(key, Arc::downgrade(&chain));
        Ok(chain)
    }

    /// One copy of an issuer's name.
    pub(super) fn issuer(&self, name: &str) -> Arc<str> {
        let mut known = self.lock();
        if let Some(shared) = known.issuers.get(name).and_then(Weak::upgrade) {
            return shared;
        }
        let shared: Arc<str> = name.into();
        known.issuers.insert(name.into(), Arc::downgrade(&shared));
        shared
    }

    /// Forgets what no certificate uses any more.
    pub(super) fn prune(&self) {
        let mut known = self.lock();
        known.chains.retain(|_, chain| chain.strong_count() > 0);
        known.issuers.retain(|_, issuer| issuer.strong_count() > 0);
    }

    /// Nothing in here can be half changed: each insertion is one step.
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chain {
    fn parse(certificates: &[CertificateDer<'static>]) -> Result<Chain, Defect> {
        let mut links = Vec::with_capacity(certificates.len());
        for (at, der) in certificates.iter().enumerate() {
            // The leaf is certificate 1 of the file.
            let malformed = Defect::Malformed { position: at + 2 };
            let (_, parsed) = X509Certificate::from_der(der).map_err(|_| malformed)?;
            links.push(Link {
                subject: parsed.subject().as_raw().into(),
                issuer: parsed.issuer().as_raw().into(),
                shown: leaf::shown_name(parsed.subject()),
                not_after: parsed.validity().not_after.timestamp(),
            });
        }
        Ok(Chain { certificates: certificates.into(), links: links.into() })
    }

    /// The positions in the order in which they follow a leaf issued by `issuer`, as far as they do.
    fn order_from(&self, issuer: &[u8]) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::with_capacity(self.links.len());
        let mut wanted = issuer;
        while let Some(next) = (0..self.links.len())
            .find(|at| !order.contains(at) && *self.links[*at].subject == *wanted)
        {
            order.push(next);
            wanted = &self.links[next].issuer;
        }
        order
    }
}

/// Puts `chain` in order behind a leaf and says what is wrong with it.
pub(super) fn behind_leaf(
    leaf: &X509Certificate<'_>,
    chain: Arc<Chain>,
    interner: &Interner,
    now: i64,
) -> Result<(Arc<Chain>, Vec<Defect>), Defect> {
    let mut defects = Vec::new();
    let issuer = leaf.issuer().as_raw();
    let order = chain.order_from(issuer);
    let is_self_signed = issuer == leaf.subject().as_raw();
    if order.is_empty() && !is_self_signed {
        // Sent as it stands: a client may still find its way, through names written differently.
        defects.push(Defect::ChainIncomplete { issuer: leaf::shown_name(leaf.issuer()) });
    }
    let in_order = order.is_empty() || order.iter().copied().eq(0..chain.links.len());
    let chain = if in_order {
        chain
    } else {
        defects.push(Defect::ChainOrder);
        let certificates: Vec<_> = order.iter().map(|at| chain.certificates[*at].clone()).collect();
        interner.chain(&certificates)?
    };
    if let Some(link) = chain.links.iter().find(|link| link.not_after < now) {
        defects.push(Defect::IssuerExpired { subject: link.shown.clone() });
    }
    Ok((chain, defects))
}

fn contents_hash(certificates: &[CertificateDer<'static>]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&SHA256);
    for der in certificates {
        // DER carries its own length: the concatenation is unambiguous.
        context.update(der);
    }
    hash_bytes(&context.finish())
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    hash_bytes(&digest(&SHA256, bytes))
}

fn hash_bytes(digest: &aws_lc_rs::digest::Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
