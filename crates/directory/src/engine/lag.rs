//! How far behind AWS we are: from the time an event carries to the moments that count.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

/// Seconds, upper bounds. An event takes a tenth of a second through EventBridge; a spot notice ends at 120.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Histograms of `now − message time`.
#[derive(Debug)]
pub struct Lag {
    /// The event reached this replica.
    pub received: Histogram,
    /// The roster that it changed is served.
    pub published: Histogram,
    /// Every agent has moved off.
    pub converged: Histogram,
}

impl Default for Lag {
    fn default() -> Self {
        let histogram = || Histogram::new(BUCKETS);
        Self { received: histogram(), published: histogram(), converged: histogram() }
    }
}

impl Lag {
    pub(super) fn received(&self, lag: Duration) {
        self.received.observe(lag.as_secs_f64());
    }

    pub(super) fn published(&self, lag: Duration) {
        self.published.observe(lag.as_secs_f64());
    }

    pub(super) fn converged(&self, lag: Duration) {
        self.converged.observe(lag.as_secs_f64());
    }
}
