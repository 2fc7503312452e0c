//! Listening sockets, and what the kernel holds for us before we accept.

pub mod backlog;
pub mod kernel;
