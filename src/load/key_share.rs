//! Curve25519 with a key share that is made once, for the generator's clients alone.
//!
//! A client makes a key for each handshake and throws it away (RFC 8446 7.4, forward secrecy). What
//! a generator sends is no secret, and the server's work is the same whatever key it is shown: so
//! one made at the first handshake spares the generator the lesser of its two multiplications.
//! Every handshake still computes its shared secret with the server's fresh key.

use std::sync::LazyLock;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved};

/// The group with its kept share.
pub(super) static X25519_KEPT: &dyn SupportedKxGroup = &Kept;

static SHARE: LazyLock<Option<Share>> = LazyLock::new(|| {
    let private = PrivateKey::generate(&agreement::X25519).ok()?;
    let public = private.compute_public_key().ok()?.as_ref().to_vec();
    Some(Share { private, public })
});

#[derive(Debug)]
struct Kept;

struct Share {
    private: PrivateKey,
    public: Vec<u8>,
}

struct Exchange(&'static Share);

impl SupportedKxGroup for Kept {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let share = SHARE.as_ref().ok_or(Error::FailedToGetRandomBytes)?;
        Ok(Box::new(Exchange(share)))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let refused = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);
        let peer = UnparsedPublicKey::new(&agreement::X25519, peer);
        agreement::agree(&self.0.private, peer, refused, |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        &self.0.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::kx_group;

    use super::*;

    #[test]
    fn both_sides_come_to_the_same_secret_each_time_another() {
        let mut secrets = Vec::new();
        for _ in 0..2 {
            let client = X25519_KEPT.start().unwrap();
            let server = kx_group::X25519.start_and_complete(client.pub_key()).unwrap();
            let secret = client.complete(&server.pub_key).unwrap();
            assert_eq!(secret.secret_bytes(), server.secret.secret_bytes());
            secrets.push(secret.secret_bytes().to_vec());
        }
        assert_ne!(secrets[0], secrets[1], "the server's key is fresh");
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        for peer in [&[0; 32][..], &[7; 31]] {
            assert!(X25519_KEPT.start().unwrap().complete(peer).is_err());
        }
    }
}
