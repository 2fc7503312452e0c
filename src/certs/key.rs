//! Private keys: kinds, and whether a key belongs to a certificate.
//!
//! Two tests of the same question. [`compare`] looks at the public half that every usual key file
//! carries beside the private one, and costs about a microsecond; it finds the key of another
//! certificate. [`signing_key`] lets the library take the key apart and derive the public half,
//! which costs tens of microseconds; nothing is signed with a key that has not passed it. At a cold
//! start with many certificates it runs at a certificate's first handshake instead of at load.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use x509_parser::oid_registry;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroize;

use super::defect::Defect;

/// What a certificate's key is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ECDSA on P-521.
    EcdsaP521,
    /// Ed25519; browsers do not take it.
    Ed25519,
    /// RSA with this many bits.
    Rsa(u32),
}

impl KeyKind {
    /// The kind of a certificate's public key; `None` where TLS servers cannot use it.
    pub fn of(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyKind> {
        let algorithm = &key.algorithm.algorithm;
        if *algorithm == oid_registry::OID_PKCS1_RSAENCRYPTION {
            let bits = key.parsed().ok()?.key_size();
            return Some(KeyKind::Rsa(u32::try_from(bits).ok()?));
        }
        if *algorithm == oid_registry::OID_SIG_ED25519 {
            return Some(KeyKind::Ed25519);
        }
        if *algorithm != oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY {
            return None;
        }
        let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
        if curve == oid_registry::OID_EC_P256 {
            return Some(KeyKind::EcdsaP256);
        }
        if curve == oid_registry::OID_NIST_EC_P384 {
            return Some(KeyKind::EcdsaP384);
        }
        (curve == oid_registry::OID_NIST_EC_P521).then_some(KeyKind::EcdsaP521)
    }

    /// Whether it is RSA: the kind that stands behind the others where a host has both.
    pub fn is_rsa(self) -> bool {
        matches!(self, KeyKind::Rsa(_))
    }

    /// Whether a client that offers `schemes` takes a signature of this kind.
    pub(super) fn is_taken_by(self, schemes: &[SignatureScheme]) -> bool {
        match self {
            KeyKind::EcdsaP256 => schemes.contains(&SignatureScheme::ECDSA_NISTP256_SHA256),
            KeyKind::EcdsaP384 => schemes.contains(&SignatureScheme::ECDSA_NISTP384_SHA384),
            KeyKind::EcdsaP521 => schemes.contains(&SignatureScheme::ECDSA_NISTP521_SHA512),
            KeyKind::Ed25519 => schemes.contains(&SignatureScheme::ED25519),
            KeyKind::Rsa(_) => schemes.iter().any(|scheme| {
                matches!(
                    scheme,
                    SignatureScheme::RSA_PKCS1_SHA256
                        | SignatureScheme::RSA_PKCS1_SHA384
                        | SignatureScheme::RSA_PKCS1_SHA512
                        | SignatureScheme::RSA_PSS_SHA256
                        | SignatureScheme::RSA_PSS_SHA384
                        | SignatureScheme::RSA_PSS_SHA512
                )
            }),
        }
    }
}

impl std::fmt::Display for KeyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyKind::EcdsaP256 => f.write_str("ECDSA P-256"),
            KeyKind::EcdsaP384 => f.write_str("ECDSA P-384"),
            KeyKind::EcdsaP521 => f.write_str("ECDSA P-521"),
            KeyKind::Ed25519 => f.write_str("Ed25519"),
            KeyKind::Rsa(bits) => write!(f, "RSA {bits}"),
        }
    }
}

/// A private key in DER that is wiped when it goes, and never printed.
pub(super) struct SecretKey(PrivateKeyDer<'static>);

impl SecretKey {
    pub(super) fn new(key: PrivateKeyDer<'static>) -> SecretKey {
        SecretKey(key)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What the public half inside a key file says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Comparison {
    Differs,
    Equals,
    /// The file carries none, or in a form not read here.
    Unknown,
}

/// Compares the public half in the key file with the certificate's, `public` being the contents
/// of its `subjectPublicKey`.
pub(super) fn compare(key: &SecretKey, kind: KeyKind, public: &[u8]) -> Comparison {
    let inner = match &key.0 {
        PrivateKeyDer::Pkcs1(der) if kind.is_rsa() => Some(der.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(der) if !kind.is_rsa() => Some(der.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(der) => pkcs8_inner(der.secret_pkcs8_der()),
        _ => None,
    };
    let verdict = match kind {
        KeyKind::Rsa(_) => inner.and_then(|inner| rsa_equals(inner, public)),
        KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521 => {
            inner.and_then(|inner| Some(sec1_public(inner)? == public))
        }
        KeyKind::Ed25519 => None,
    };
    match verdict {
        Some(true) => Comparison::Equals,
        Some(false) => Comparison::Differs,
        None => Comparison::Unknown,
    }
}

/// The key ready to sign, once its derived public half equals the certificate's.
pub(super) fn signing_key(
    key: &SecretKey,
    kind: KeyKind,
    public: &[u8],
) -> Result<Arc<dyn SigningKey>, Defect> {
    // The library's own guess begins with RSA; knowing the kind saves a failed parse.
    let ready = match kind {
        KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521 => {
            sign::any_ecdsa_type(&key.0).or_else(|_| sign::any_supported_type(&key.0))
        }
        KeyKind::Ed25519 | KeyKind::Rsa(_) => sign::any_supported_type(&key.0),
    };
    let ready = ready.map_err(|_| Defect::KeyUnusable)?;
    // Only the bits of the key are compared: issuers write the algorithm's parameters differently.
    let belongs = ready.public_key().is_some_and(|spki| subject_public_key(&spki) == Some(public));
    if belongs { Ok(ready) } else { Err(Defect::KeyOfAnother) }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// Context-specific, constructed, 1: the public key of RFC 5915.
const EXPLICIT_1: u8 = 0xA1;

/// PrivateKeyInfo (RFC 5208): version, algorithm, then the inner key.
fn pkcs8_inner(der: &[u8]) -> Option<&[u8]> {
    let (body, _) = element(der, SEQUENCE)?;
    let (_, rest) = element(body, INTEGER)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    Some(element(rest, OCTET_STRING)?.0)
}

/// ECPrivateKey (RFC 5915): version, private, then optionally parameters and the public point.
fn sec1_public(der: &[u8]) -> Option<&[u8]> {
    let (body, _) = element(der, SEQUENCE)?;
    let (_, rest) = element(body, INTEGER)?;
    let (_, mut rest) = element(rest, OCTET_STRING)?;
    while let Some((tag, contents, after)) = any_element(rest) {
        if tag == EXPLICIT_1 {
            // The first byte counts unused bits; a point has none.
            return element(contents, BIT_STRING)?.0.strip_prefix(&[0]);
        }
        rest = after;
    }
    None
}

/// RSAPrivateKey (RFC 8017 A.1.2) has modulus and exponent in the same form and order as
/// RSAPublicKey, behind its version.
fn rsa_equals(der: &[u8], public: &[u8]) -> Option<bool> {
    let (body, _) = element(der, SEQUENCE)?;
    let (_, private) = element(body, INTEGER)?;
    let (public, _) = element(public, SEQUENCE)?;
    Some(private.starts_with(public))
}

fn subject_public_key(spki: &[u8]) -> Option<&[u8]> {
    let (body, _) = element(spki, SEQUENCE)?;
    let (_, rest) = element(body, SEQUENCE)?;
    element(rest, BIT_STRING)?.0.strip_prefix(&[0])
}

/// The contents of a DER element of that tag, and what follows it.
fn element(der: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    let (tag, contents, rest) = any_element(der)?;
    (tag == expected).then_some((contents, rest))
}

fn any_element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    // Keys are shorter than 64 KiB: at most two bytes of length.
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}
