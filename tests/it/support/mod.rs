//! Starts an edge, scripts an origin, speaks raw bytes: one line each.

pub mod authority;
pub mod client;
pub mod edge;
pub mod frames;
pub mod http2;
pub mod origin;
pub mod tools;
pub mod websocket;
pub mod wire;

use std::thread;
use std::time::{Duration, Instant};

pub use edge::{Edge, Setup};
pub use origin::Origin;
pub use wire::{End, get, pattern};

/// The bound of every wait. It is there so that a hanging test ends, never as a measure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until there is something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come about");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
