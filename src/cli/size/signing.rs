//! Keys of each kind for the edge that is measured, and what one signature with such a key takes.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, RsaKeySize,
};
use rustix::time::{ClockId, clock_gettime};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;

use crate::sizing::KeyType;

/// The longest RSA key that is made here.
pub const RSA_BITS_MAX: u32 = 4_096;
/// Looks at a signature: the fastest tells, as the others were disturbed.
const LOOKS: usize = 5;
/// Of one look.
const LOOK: Duration = Duration::from_millis(30);
/// As many bytes as TLS 1.3 signs with SHA-256: 64 spaces, a context, a hash.
const SIGNED: usize = 64 + 34 + 32;
/// What a server may sign with.
const SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A throwaway key. RSA keys have 2048, 3072 or 4096 bits: as many as asked for, or the next more.
pub fn pair(key: KeyType) -> Result<KeyPair> {
    let pair = match key {
        KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::EcdsaP521 => KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512),
        KeyType::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
        KeyType::Rsa(bits) => KeyPair::generate_rsa_for(
            &PKCS_RSA_SHA256,
            match bits {
                ..=2_048 => RsaKeySize::_2048,
                2_049..=3_072 => RsaKeySize::_3072,
                3_073.. => RsaKeySize::_4096,
            },
        ),
    };
    pair.with_context(|| format!("cannot make a key {key}"))
}

/// What one signature takes. Of RSA keys that are not made here it grows with the third power of
/// their length.
pub fn time(key: KeyType) -> Result<Duration> {
    let longer = match key {
        KeyType::Rsa(bits) => (f64::from(bits) / f64::from(RSA_BITS_MAX)).max(1.0),
        KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::EcdsaP521 | KeyType::Ed25519 => 1.0,
    };
    let der = PrivateKeyDer::try_from(pair(key)?.serialize_der());
    let ready = any_supported_type(&der.map_err(|error| anyhow!("a key {key}: {error}"))?)?;
    let signer = ready.choose_scheme(&SCHEMES).with_context(|| format!("{key} signs nothing"))?;
    let mut least = Duration::MAX;
    for _ in 0..LOOKS {
        let (begun, mut count, mut spent) = (cpu_time(), 0, Duration::ZERO);
        while spent < LOOK {
            signer.sign(&[b' '; SIGNED])?;
            count += 1;
            spent = cpu_time().saturating_sub(begun);
        }
        least = least.min(spent / count);
    }
    Ok(least.mul_f64(longer.powi(3)))
}

/// What this thread has had of its core: others that want it do not make a signature longer.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_takes_longer_with_a_longer_key() {
        let [curve, short, long, longest] =
            [KeyType::EcdsaP256, KeyType::Rsa(2_048), KeyType::Rsa(4_096), KeyType::Rsa(8_192)]
                .map(|key| time(key).unwrap());
        assert!(curve < short && short < long && long < longest);
        for key in [KeyType::EcdsaP384, KeyType::EcdsaP521, KeyType::Ed25519] {
            assert!(time(key).unwrap() < long, "{key}");
        }
    }
}
