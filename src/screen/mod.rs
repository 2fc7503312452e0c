//! Header screening: bytes in, canonical head and findings out.

/// How heads are judged.
#[derive(Debug, PartialEq)]
pub struct Policy;
