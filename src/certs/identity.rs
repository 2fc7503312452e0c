//! How a reload knows a certificate's files for those it has read.
//!
//! Where the [`FileIdentity`] of both is equal and was settled when it was taken, nothing is read.
//! Else the files are read again and their contents compared: equal contents under another identity
//! (a copy, a touch, a changed mode) share what was loaded.

use crate::identity::FileIdentity;

/// The files of one certificate: chain and key, or one file twice.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Identity {
    pub(super) chain: FileIdentity,
    pub(super) key: FileIdentity,
}

impl Identity {
    /// Whether an identity taken at `taken` (Unix seconds) proves equal contents later on.
    pub(super) fn is_settled(&self, taken: i64) -> bool {
        self.chain.is_settled(taken) && self.key.is_settled(taken)
    }
}
