//! Session tickets: stateless, under keys that rotate, shared by all of the process's TLS settings.
//!
//! A ticket is the session's state, sealed with AES-256-GCM-SIV (a repeated nonce would not break
//! it): key name, nonce, sealed state. A key seals for [`PERIOD_SECONDS`] and opens for two periods
//! more; then it is wiped, and the tickets under it are worthless. Keys come from the system's
//! randomness, or from the secrets of a `ticket_keys` file: those and the time make them, so that
//! edges with the same file open each other's tickets and a restart loses none.
//!
//! States of a key: *current* (seals and opens), *accepted* (opens only), gone. A key only moves
//! forward. [`Tickets`] moves them, at the first ticket after the period's end; its key set is
//! swapped whole, so that sealing and opening never wait.
//!
//! What a session may be resumed with is bound in two ways: rustls refuses a ticket under another
//! server name or cipher suite, and the [`Ticketer`] of a TLS policy mixes its context into the
//! seal, so that a session without a client's certificate never resumes where one is required.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use rustls::server::ProducesTickets;
use smallvec::SmallVec;
use zeroize::Zeroizing;

/// How long a key seals.
pub(super) const PERIOD_SECONDS: u64 = 12 * 60 * 60;

/// How many periods a key still opens after its own.
const PERIODS_ACCEPTED: u64 = 2;

/// What clients are told: a ticket sealed at the last moment of its key still lives as long.
const LIFETIME_SECONDS: u32 = (PERIOD_SECONDS * PERIODS_ACCEPTED) as u32;

/// A session with a client's chain of certificates stays far below; more is no ticket of ours.
const TICKET_BYTES_MAX: usize = 32 * 1024;

const NAME_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

/// A secret of the `ticket_keys` file.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Secret(pub(super) Zeroizing<Vec<u8>>);

/// The process's ticket keys.
pub(super) struct Tickets {
    /// The first seals, all open; empty: random keys.
    secrets: Vec<Secret>,
    keys: ArcSwap<Keys>,
    /// Held while the next key set is made.
    rotation: Mutex<()>,
}

struct Keys {
    current: Arc<Key>,
    accepted: SmallVec<[Arc<Key>; 8]>,
    /// When the current key's period ends, Unix seconds.
    period_end: u64,
}

struct Key {
    name: [u8; NAME_BYTES],
    seal: RandomizedNonceKey,
    /// Opens until then, Unix seconds.
    accepted_until: u64,
}

/// The library has no randomness or refuses a key: nothing that an operator can mend.
#[derive(Debug, thiserror::Error)]
#[error("the cryptographic library cannot make ticket keys")]
pub(super) struct NoKeys;

impl Tickets {
    /// Keys from `secrets`, or random ones where there is none. Random keys of `previous` still open
    /// for their time; those from secrets no longer in the file do not.
    pub(super) fn new(
        secrets: Vec<Secret>,
        previous: Option<&Tickets>,
        now: u64,
    ) -> Result<Tickets, NoKeys> {
        let carried = match previous {
            Some(previous) if previous.secrets.is_empty() => previous.keys.load().all(),
            _ => SmallVec::new(),
        };
        let keys = next_keys(&secrets, carried, now)?;
        Ok(Tickets { secrets, keys: ArcSwap::from_pointee(keys), rotation: Mutex::new(()) })
    }

    /// Whether its keys come from exactly these secrets.
    pub(super) fn are_from(&self, secrets: &[Secret]) -> bool {
        self.secrets == secrets
    }

    /// The keys in force at `now`. Where new ones cannot be made, the old ones stay in force.
    fn keys(&self, now: u64) -> Arc<Keys> {
        let keys = self.keys.load_full();
        if now < keys.period_end {
            return keys;
        }
        // One makes the next set; meanwhile the others go on with the old one.
        let Ok(_rotating) = self.rotation.try_lock() else { return keys };
        let keys = self.keys.load_full();
        if now < keys.period_end {
            return keys;
        }
        let Ok(next) = next_keys(&self.secrets, keys.all(), now) else { return keys };
        self.keys.store(Arc::new(next));
        self.keys.load_full()
    }

    pub(super) fn seal(&self, context: &[u8], state: &[u8], now: u64) -> Option<Vec<u8>> {
        let keys = self.keys(now);
        let key = &keys.current;
        let mut sealed = Zeroizing::new(state.to_vec());
        let nonce = key.seal.seal_in_place_append_tag(Aad::from(context), &mut *sealed).ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_BYTES + sealed.len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    /// Whatever a client sends: `None` unless it is a ticket of ours in this context.
    pub(super) fn open(&self, context: &[u8], ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let keys = self.keys(now);
        let key = keys.named(name).filter(|key| now < key.accepted_until)?;
        let mut state = sealed.to_vec();
        let opened = key.seal.open_in_place(Nonce::from(nonce), Aad::from(context), &mut state);
        let length = opened.ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

impl Keys {
    fn all(&self) -> SmallVec<[Arc<Key>; 8]> {
        let mut all = self.accepted.clone();
        all.push(self.current.clone());
        all
    }

    /// A key's name is public: it stands in the ticket.
    fn named(&self, name: &[u8; NAME_BYTES]) -> Option<&Arc<Key>> {
        std::iter::once(&self.current).chain(&self.accepted).find(|key| key.name == *name)
    }
}

/// The key set for the period that `now` is in.
fn next_keys(
    secrets: &[Secret],
    earlier: SmallVec<[Arc<Key>; 8]>,
    now: u64,
) -> Result<Keys, NoKeys> {
    let accept = PERIOD_SECONDS * PERIODS_ACCEPTED;
    let mut accepted: SmallVec<[Arc<Key>; 8]> =
        earlier.into_iter().filter(|key| now < key.accepted_until).collect();
    let Some(first) = secrets.first() else {
        let period_end = now + PERIOD_SECONDS;
        let random = random_secret()?;
        let current = Arc::new(Key::derive(&random, 0, period_end + accept)?);
        return Ok(Keys { current, accepted, period_end });
    };
    let period = now / PERIOD_SECONDS;
    let end_of = |period: u64| (period + 1) * PERIOD_SECONDS;
    for secret in secrets {
        // One period ahead as well: the other edge's clock may be in front.
        for period in period.saturating_sub(PERIODS_ACCEPTED)..=period + 1 {
            let key = Key::derive(&secret.0, period, end_of(period) + accept)?;
            if accepted.iter().all(|known| known.name != key.name) {
                accepted.push(Arc::new(key));
            }
        }
    }
    let current = Arc::new(Key::derive(&first.0, period, end_of(period) + accept)?);
    Ok(Keys { current, accepted, period_end: end_of(period) })
}

fn random_secret() -> Result<Zeroizing<Vec<u8>>, NoKeys> {
    let mut secret = Zeroizing::new(vec![0; 32]);
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| NoKeys)?;
    Ok(secret)
}

/// Key name and key, from one expansion.
struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        NAME_BYTES + AES_256_GCM_SIV.key_len()
    }
}

impl Key {
    fn derive(secret: &[u8], period: u64, accepted_until: u64) -> Result<Key, NoKeys> {
        let salt = Salt::new(HKDF_SHA256, b"sluss session tickets, 1");
        let period = period.to_be_bytes();
        let info = [&period[..]];
        let mut bytes = Zeroizing::new(vec![0; KeyBytes.len()]);
        salt.extract(secret)
            .expand(&info, KeyBytes)
            .and_then(|expanded| expanded.fill(&mut bytes))
            .map_err(|_| NoKeys)?;
        let (name, key) = bytes.split_first_chunk().ok_or(NoKeys)?;
        let seal = RandomizedNonceKey::new(&AES_256_GCM_SIV, key).map_err(|_| NoKeys)?;
        Ok(Key { name: *name, seal, accepted_until })
    }
}

/// Never prints a key.
impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

/// Tickets in one TLS policy's context, as rustls asks for them.
#[derive(Debug)]
pub(super) struct Ticketer {
    pub(super) tickets: Arc<Tickets>,
    /// Hash of what clients must prove in this policy; empty where nothing.
    pub(super) context: Vec<u8>,
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.seal(&self.context, plain, unix_seconds())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.tickets.open(&self.context, cipher, unix_seconds())
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 60 * 60;
    const START: u64 = 1_800_000_000;

    fn secret(byte: u8) -> Secret {
        Secret(Zeroizing::new(vec![byte; 32]))
    }

    fn tickets(secrets: &[u8]) -> Tickets {
        Tickets::new(secrets.iter().copied().map(secret).collect(), None, START).unwrap()
    }

    #[test]
    fn a_ticket_opens_for_two_periods_after_its_keys_own() {
        for tickets in [tickets(&[]), tickets(&[1])] {
            let ticket = tickets.seal(b"", b"state", START).unwrap();
            for hours in [0, 11, 13, 23] {
                let opened = tickets.open(b"", &ticket, START + hours * HOUR);
                assert_eq!(opened.as_deref(), Some(&b"state"[..]), "after {hours} h");
            }
            assert_eq!(tickets.open(b"", &ticket, START + 37 * HOUR), None);
        }
    }

    #[test]
    fn a_ticket_lives_as_long_as_clients_are_told() {
        for tickets in [tickets(&[]), tickets(&[1])] {
            let last_moment = tickets.keys.load().period_end - 1;
            let ticket = tickets.seal(b"", b"state", last_moment).unwrap();
            let later = last_moment + u64::from(LIFETIME_SECONDS);
            assert!(tickets.open(b"", &ticket, later).is_some());
        }
    }

    #[test]
    fn keys_change_with_the_period() {
        let tickets = tickets(&[]);
        let name = |now| tickets.seal(b"", b"", now).unwrap()[..NAME_BYTES].to_vec();
        let first = name(START);
        assert_eq!(name(START + 11 * HOUR), first);
        assert_ne!(name(START + 13 * HOUR), first);
        assert!(tickets.keys.load().accepted.len() <= 3);
    }

    #[test]
    fn what_is_no_ticket_of_ours_opens_nothing() {
        let tickets = tickets(&[]);
        let good = tickets.seal(b"", b"state", START).unwrap();
        assert_eq!(tickets.open(b"other policy", &good, START), None);
        for length in 0..good.len() {
            assert_eq!(tickets.open(b"", &good[..length], START), None);
        }
        for at in 0..good.len() {
            let mut bent = good.clone();
            bent[at] ^= 1;
            assert_eq!(tickets.open(b"", &bent, START), None);
        }
        assert_eq!(tickets.open(b"", &vec![0; TICKET_BYTES_MAX + 1], START), None);
        assert!(!good.windows(5).any(|window| window == b"state"));
    }

    #[test]
    fn secrets_are_handed_over_line_by_line() {
        let [old, new] = [tickets(&[1]), tickets(&[2, 1])];
        let from_old = old.seal(b"", b"state", START).unwrap();
        let from_new = new.seal(b"", b"state", START).unwrap();
        assert!(new.open(b"", &from_old, START).is_some());
        assert!(old.open(b"", &from_new, START).is_none());
        let removed = Tickets::new(vec![secret(2)], Some(&new), START).unwrap();
        assert!(removed.open(b"", &from_old, START).is_none());
    }

    #[test]
    fn random_keys_still_open_when_secrets_take_over() {
        let random = tickets(&[]);
        let ticket = random.seal(b"", b"state", START).unwrap();
        let shared = Tickets::new(vec![secret(1)], Some(&random), START + 1).unwrap();
        assert!(shared.open(b"", &ticket, START + 1).is_some());
    }

    #[test]
    fn an_edge_whose_clock_is_ahead_is_understood() {
        let [behind, ahead] = [tickets(&[1]), tickets(&[1])];
        let next_period = START / PERIOD_SECONDS * PERIOD_SECONDS + PERIOD_SECONDS;
        let ticket = ahead.seal(b"", b"state", next_period + 5).unwrap();
        assert!(behind.open(b"", &ticket, next_period - 5).is_some());
    }
}
