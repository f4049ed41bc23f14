//! How often AWS was called, for the metrics page.
//!
//! Invariant: a call is counted when it starts, whatever comes of it; numbers only grow.

use std::sync::atomic::{AtomicU64, Ordering};

use super::errors::Api;

/// Counters of one source, shared with whoever shows them.
#[derive(Debug, Default)]
pub struct AwsCalls {
    describe_groups: AtomicU64,
    describe_instances: AtomicU64,
    complete_hook: AtomicU64,
    heartbeat: AtomicU64,
    describe_hooks: AtomicU64,
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

    /// Calls of `CompleteLifecycleAction` so far.
    pub fn complete_hook(&self) -> u64 {
        self.complete_hook.load(Ordering::Relaxed)
    }

    /// Calls of `RecordLifecycleActionHeartbeat` so far.
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    /// Calls of `DescribeLifecycleHooks` so far.
    pub fn describe_hooks(&self) -> u64 {
        self.describe_hooks.load(Ordering::Relaxed)
    }

    /// How many of all those calls AWS throttled.
    pub fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Calls to queues are counted by their poller.
    pub(super) fn count(&self, api: Api) {
        let counter = match api {
            Api::Groups => &self.describe_groups,
            Api::Instances => &self.describe_instances,
            Api::CompleteHook => &self.complete_hook,
            Api::Heartbeat => &self.heartbeat,
            Api::Hooks => &self.describe_hooks,
            Api::Receive | Api::Delete | Api::Visibility | Api::Attributes => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }
}
