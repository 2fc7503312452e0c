//! Who has which cores while one measures: half of them the edge, the others the generator and the
//! endpoint.
//!
//! Were they shared, an overloaded edge would starve the generator that is to tell how the edge
//! does, and a flood offered would take from the edge what it needs to refuse it. On a machine of
//! one core there is nothing to divide; there both have it.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The division.
#[derive(Clone)]
pub struct Cores {
    edge: CpuSet,
    own: CpuSet,
}

impl Cores {
    /// Divides the cores that this process may use.
    pub fn divide() -> io::Result<Cores> {
        let allowed = sched_getaffinity(None)?;
        let all = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (mut edge, mut own) = (CpuSet::new(), CpuSet::new());
        let half = allowed.count() as usize / 2;
        for (at, core) in all.enumerate() {
            let part = if at < half { &mut edge } else { &mut own };
            part.set(core);
        }
        if half == 0 {
            edge = allowed;
        }
        Ok(Cores { edge, own })
    }

    /// How many the edge has.
    pub fn of_the_edge(&self) -> usize {
        self.edge.count() as usize
    }

    /// Whether there is but one, which both have.
    pub fn are_shared(&self) -> bool {
        self.edge == self.own
    }

    /// From here on this thread, and those that it starts, leave the edge's cores alone.
    pub fn take_own(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.own)?)
    }

    /// Does it on the edge's cores: a process that is started there stays there.
    pub fn on_the_edges<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let there = || {
            sched_setaffinity(None, &self.edge)?;
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(there).join());
        done.unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_are_divided_and_none_is_given_twice() {
        let all = std::thread::available_parallelism().unwrap().get();
        let cores = Cores::divide().unwrap();
        let own = cores.own.count() as usize;
        if all == 1 {
            assert_eq!((cores.of_the_edge(), own), (1, 1));
        } else {
            assert_eq!(cores.of_the_edge() + own, all);
            assert_eq!(cores.of_the_edge(), all / 2);
        }
        let seen = || Ok(std::thread::available_parallelism()?.get());
        assert_eq!(cores.on_the_edges(seen).unwrap(), cores.of_the_edge());
        assert_eq!(seen().unwrap(), all, "this thread keeps its own");
    }
}
