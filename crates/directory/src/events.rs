//! What AWS says as it says it: from the bodies of SQS, SNS, Lambda and EventBridge to what the engine
//! learns.
//!
//! `decode` is pure. `sqs` and `sns` are ways in; so are `POST /v1/events` and `pikepole-lambda`. In `feed`
//! they meet.
//!
//! Invariant: a body that cannot be understood is counted and acknowledged, never an error that makes
//! the sender try again: poison does not loop.

mod counters;
pub mod decode;
mod feed;
pub mod sns;
#[cfg(feature = "aws")]
pub mod sqs;

pub use counters::{Counters, Outcome, Way};
pub use feed::{Fed, Feed, NotFed};
use pikepole_fleet::{GroupName, Hook, InstanceId, Region, Timestamp};

/// One event, whatever it was wrapped in. It is believed: the way it came in was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which instance.
    pub instance: InstanceId,
    /// In which group; events of EC2 do not name it.
    pub group: Option<GroupName>,
    /// In which region, if the body says so.
    pub region: Option<Region>,
    /// When, by AWS's clock.
    pub at: Option<Timestamp>,
    /// The lifecycle action that waits, for the two kinds of hooks.
    pub hook: Option<Hook>,
    /// It goes to, or comes from, the warm pool and not into or out of service: `Destination` or
    /// `Origin` says `WarmPool`.
    pub warm_pool: WarmPool,
}

/// Which end of a transition is the warm pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WarmPool {
    /// Neither, or the body does not say.
    #[default]
    No,
    /// `Origin` is `WarmPool`.
    From,
    /// `Destination` is `WarmPool`.
    To,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A launch hook waits.
    LaunchHook,
    /// A terminate hook waits.
    TerminateHook,
    /// `EC2_INSTANCE_LAUNCH`, `EC2 Instance Launch Successful`: it is in service.
    Launched,
    /// `EC2_INSTANCE_LAUNCH_ERROR`, `EC2 Instance Launch Unsuccessful`.
    LaunchFailed,
    /// `EC2_INSTANCE_TERMINATE`, `EC2 Instance Terminate Successful`: it is gone.
    Terminated,
    /// `EC2_INSTANCE_TERMINATE_ERROR`, `EC2 Instance Terminate Unsuccessful`.
    TerminateFailed,
    /// `EC2 Spot Instance Interruption Warning`.
    SpotInterruption,
    /// `EC2 Instance Rebalance Recommendation`.
    Rebalance,
    /// `EC2 Instance State-change Notification`: shutting down, stopping, stopped or terminated.
    Stopped,
    /// The same: pending or running, which says nothing about a group.
    Running,
}

impl EventKind {
    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LaunchHook => "launch_hook",
            Self::TerminateHook => "terminate_hook",
            Self::Launched => "launched",
            Self::LaunchFailed => "launch_failed",
            Self::Terminated => "terminated",
            Self::TerminateFailed => "terminate_failed",
            Self::SpotInterruption => "spot_interruption",
            Self::Rebalance => "rebalance",
            Self::Stopped => "stopped",
            Self::Running => "running",
        }
    }
}
