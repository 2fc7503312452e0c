//! What a reload cannot change because it belongs to the process: threads that run, a folder that
//! is locked, a user that was given up, an admin listener that is bound. Pure.
//!
//! Such a key is told, not ignored: the old value stays in the snapshot, so that what the snapshot
//! says is what is in force, and every reload tells again until the edge is started anew.

use std::fmt::Debug;

use super::Snapshot;
use crate::problem::{Problem, Severity};

/// Carries the process' values over from `previous`, and tells each that the files have otherwise.
pub fn carry_over(new: &mut Snapshot, previous: &Snapshot) -> Vec<Problem> {
    let main = new.places.main.clone();
    let mut problems = Vec::new();
    let mut tell = |key: &str, found: &dyn Debug, stays: &dyn Debug| {
        problems.push(Problem {
            severity: Severity::Warning,
            file: main.clone(),
            line: None,
            key: key.to_string(),
            site: None,
            what: format!("found {found:?}, but this edge was started with {stays:?}"),
            remedy: "it takes effect with the next start".to_string(),
        });
    };
    keep("listen.admin", &mut new.listen.admin, &previous.listen.admin, &mut tell);
    keep(
        "listen.admin_token_file",
        &mut new.listen.admin_token_file,
        &previous.listen.admin_token_file,
        &mut tell,
    );
    keep("runtime.threads", &mut new.runtime.threads, &previous.runtime.threads, &mut tell);
    keep(
        "runtime.handshake_nice",
        &mut new.runtime.handshake_nice,
        &previous.runtime.handshake_nice,
        &mut tell,
    );
    keep("runtime.state", &mut new.runtime.state, &previous.runtime.state, &mut tell);
    keep("runtime.user", &mut new.runtime.user, &previous.runtime.user, &mut tell);
    keep(
        "queues.handshake_concurrency",
        &mut new.queues.handshake_concurrency,
        &previous.queues.handshake_concurrency,
        &mut tell,
    );
    problems
}

fn keep<T: Clone + Debug + PartialEq>(
    key: &str,
    new: &mut T,
    previous: &T,
    tell: &mut impl FnMut(&str, &dyn Debug, &dyn Debug),
) {
    if new != previous {
        tell(key, new, previous);
        new.clone_from(previous);
    }
}
