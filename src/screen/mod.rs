//! Header screening: bytes in, canonical head and findings out.

/// How heads are judged.
#[derive(Debug)]
pub struct Policy;
