//! The active health checks of the sites that are served: begun again only where those moved.

use std::sync::{Arc, Weak};

use tokio::task::JoinHandle;

use crate::proxy::{Proxy, SiteState};
use crate::upstream::probe;

/// Checks in the background until it is dropped.
pub(super) struct Probes {
    /// Whose endpoints are checked. Not kept alive by it: they may be a hundred thousand.
    of: Weak<Vec<Arc<SiteState>>>,
    checking: JoinHandle<()>,
}

impl Probes {
    pub(super) fn start(proxy: &Proxy) -> Probes {
        let live = proxy.live();
        let checked = live.sites().filter(|(site, _)| site.upstream.health.is_some());
        let targets = checked.map(|(site, state)| probe::Target {
            upstream: state.upstream.clone(),
            host: site.host_header.clone().unwrap_or_else(|| site.first_host().to_owned()),
        });
        let checking = tokio::spawn(probe::probe_all(targets.collect()));
        Probes { of: Arc::downgrade(live.states()), checking }
    }

    /// Follows a reload.
    pub(super) fn renew(&mut self, proxy: &Proxy) {
        if !Weak::ptr_eq(&self.of, &Arc::downgrade(proxy.live().states())) {
            *self = Probes::start(proxy);
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.checking.abort();
    }
}
