//! The real program over loopback: one module a behaviour.
//!
//! Every test starts an edge of its own in a folder of its own, with all ports 0, so all of them
//! run side by side. A wait has a bound only so that a hanging test ends.

#![expect(clippy::unwrap_used, reason = "what the harness cannot do fails the test")]

mod support;

mod admission;
mod alarms;
mod balance;
mod blame;
mod bodies;
mod broken_certificate;
mod browser;
mod clients;
mod conformance;
mod doors;
mod drain;
mod encrypted;
mod failover;
mod floods;
mod http1;
mod http2;
mod http2_sites;
mod incidents;
mod limits;
mod listeners;
mod monitoring;
mod operator;
mod outside;
mod refusals;
mod reload;
mod resumption;
mod screening;
mod service;
mod size;
mod terminal;
mod timeouts;
mod truncation;
