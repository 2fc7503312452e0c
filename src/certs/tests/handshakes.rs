//! Real handshakes.
