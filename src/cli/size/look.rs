//! What the edge that is measured says of itself, as its metrics have it.

use std::net::SocketAddr;

use anyhow::Result;

use crate::cli::client;
use crate::config::AdminAddress;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Look {
    overflows: u64,
    drops: u64,
    /// Requests refused because as many waited as may.
    pub full: u64,
    /// Requests refused because they had waited for as long as they may.
    pub expired: u64,
}

impl Look {
    /// Now.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn take(admin: SocketAddr) -> Result<Look> {
        let metrics = client::Edge::at(AdminAddress::Tcp(admin))?.get("/metrics")?;
        Ok(Look::read(&String::from_utf8_lossy(&metrics)))
    }

    fn read(text: &str) -> Look {
        let sum = |begin: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(begin));
            let values = lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
            values.sum::<f64>() as u64
        };
        let refused = |reason: &str| {
            sum(&format!("sluss_queue_refused_total{{queue=\"request\",reason=\"{reason}\"}} "))
        };
        Look {
            overflows: sum("sluss_kernel_listen_overflows_total "),
            drops: sum("sluss_kernel_accept_queue_drops_total{"),
            full: refused("request-queue-full"),
            expired: refused("request-deadline"),
        }
    }

    /// Connections that a full accept queue of this edge can have lost since: the kernel counts
    /// overflows for all programs, and drops for each listener, harmless ones included.
    pub fn lost_since(&self, before: &Look) -> u64 {
        let overflows = self.overflows.saturating_sub(before.overflows);
        overflows.min(self.drops.saturating_sub(before.drops))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_are_read_as_the_edge_writes_them() {
        let text = "# TYPE sluss_kernel_listen_overflows_total counter\n\
            sluss_kernel_listen_overflows_total 7\n\
            sluss_kernel_accept_queue_drops_total{listener=\"127.0.0.1:1\"} 3\n\
            sluss_kernel_accept_queue_drops_total{listener=\"127.0.0.1:2\"} 1\n\
            sluss_queue_refused_total{queue=\"request\",reason=\"request-queue-full\"} 50\n\
            sluss_queue_refused_total{queue=\"request\",reason=\"request-deadline\"} 250\n\
            sluss_queue_refused_total{queue=\"handshake\",reason=\"request-deadline\"} 9\n";
        let look = Look::read(text);
        assert_eq!(look, Look { overflows: 7, drops: 4, full: 50, expired: 250 });
        assert_eq!(look.lost_since(&Look { overflows: 5, drops: 3, ..look }), 1);
        assert_eq!(look.lost_since(&look), 0);
    }
}
