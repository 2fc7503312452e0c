//! sluss: a TLS edge with bounded, fair queues, header screening and atomic reload.
//!
//! The rooms, in the order in which data passes them; a room imports only those above it.

pub mod background;
pub mod buffers;
pub mod identity;
pub mod kernel;
pub mod names;
pub mod pem;
pub mod plain_file;
pub mod problem;
pub mod refusal;
pub mod shards;
pub mod timers;

pub mod queue;
pub mod screen;
pub mod sizing;

pub mod accesslog;
pub mod certs;
pub mod findings;
pub mod heads;
pub mod metrics;
pub mod sites;

pub mod admission;
pub mod alarms;
pub mod config;
pub mod downstream;
pub mod listener;
pub mod tls;
pub mod upstream;

pub mod proxy;

pub mod reload;

pub mod admin;

pub mod load;
pub mod server;

pub mod cli;
