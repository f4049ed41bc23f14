//! How often AWS was called, for the metrics page.
//!
//! Invariant: a call is counted when it starts, whatever comes of it; numbers only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one source, shared with whoever shows them.
#[derive(Debug, Default)]
pub struct AwsCalls {
    describe_groups: AtomicU64,
    describe_instances: AtomicU64,
    throttled: AtomicU64,
}

impl AwsCalls {
    /// Calls of `DescribeAutoScalingGroups` so far, each page counted.
    pub fn describe_groups(&self) -> u64 {
        self.describe_groups.load(Ordering::Relaxed)
    }

    /// Calls of `DescribeInstances` so far, each page counted.
    pub fn describe_instances(&self) -> u64 {
        self.describe_instances.load(Ordering::Relaxed)
    }

    /// How many of all those calls AWS throttled.
    pub fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }

    pub(super) fn count_describe_groups(&self) {
        self.describe_groups.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_describe_instances(&self) {
        self.describe_instances.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }
}
