//! Kinds of certificate keys, and how many handshakes a second each allows. Pure.
//!
//! What differs between two kinds is the signature: all else of a handshake costs the same. So the
//! rate of a kind that was not measured follows from one that was, and from what one signature of
//! each takes.

use std::fmt;
use std::time::Duration;

use super::Measured;

/// How a site's certificate signs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum KeyType {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ECDSA on P-521.
    EcdsaP521,
    /// Ed25519.
    Ed25519,
    /// RSA with this many bits.
    Rsa(u32),
}

/// Full handshakes with one kind of key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyRate {
    /// The kind.
    pub key: KeyType,
    /// How many a second; computed ones have the spread of the measured one.
    pub rate: Measured,
    /// How that is known.
    pub known: Known,
}

/// How a rate is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Known {
    /// Full handshakes were measured.
    Measured,
    /// Computed from a kind that was measured.
    Computed(Signatures),
}

/// From what a rate is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signatures {
    /// The kind that was measured.
    pub base: KeyType,
    /// Its handshakes a second.
    pub base_per_second: f64,
    /// Serving threads that did them.
    pub threads: usize,
    /// One of its signatures.
    pub base_signature: Duration,
    /// One of this kind.
    pub signature: Duration,
}

impl KeyType {
    /// Whether it is RSA, of whatever length.
    pub fn is_rsa(self) -> bool {
        matches!(self, KeyType::Rsa(_))
    }
}

impl fmt::Display for KeyType {
    /// As the file and the messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyType::EcdsaP256 => f.write_str("ECDSA P-256"),
            KeyType::EcdsaP384 => f.write_str("ECDSA P-384"),
            KeyType::EcdsaP521 => f.write_str("ECDSA P-521"),
            KeyType::Ed25519 => f.write_str("Ed25519"),
            KeyType::Rsa(bits) => write!(f, "RSA-{bits}"),
        }
    }
}

/// Several kinds, as the file has them.
pub fn labels(keys: impl IntoIterator<Item = KeyType>) -> String {
    keys.into_iter().map(|key| key.to_string()).collect::<Vec<_>>().join(", ")
}

impl KeyRate {
    /// One that was measured.
    pub fn measured(key: KeyType, rate: Measured) -> KeyRate {
        KeyRate { key, rate, known: Known::Measured }
    }

    /// One that follows from `base`, done by so many threads, and from the time of a signature: of
    /// the base's kind, and of this.
    pub fn computed(
        key: KeyType,
        base: &KeyRate,
        threads: usize,
        signatures: [Duration; 2],
    ) -> KeyRate {
        let [base_signature, signature] = signatures;
        let base_per_second = base.rate.per_second;
        let each = threads as f64 / base_per_second - base_signature.as_secs_f64()
            + signature.as_secs_f64();
        // A handshake takes no less than its signature, whatever noise was measured.
        let each = each.max(signature.as_secs_f64()).max(1e-6);
        let rate = Measured { per_second: threads as f64 / each, ..base.rate };
        let base = base.key;
        let from = Signatures { base, base_per_second, threads, base_signature, signature };
        KeyRate { key, rate, known: Known::Computed(from) }
    }
}

impl fmt::Display for KeyRate {
    /// With how it is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyRate { key, rate, known } = self;
        match known {
            Known::Measured => write!(f, "{key} {rate}"),
            Known::Computed(from) => {
                let Signatures { base, base_per_second, threads, .. } = from;
                write!(
                    f,
                    "{key} {:.0}/s, computed: {threads} / ({threads} / {base_per_second:.0} s of \
                     {base} - its signature's {} µs + {} µs)",
                    rate.per_second,
                    from.base_signature.as_micros(),
                    from.signature.as_micros()
                )
            }
        }
    }
}
