//! Where the truth about a fleet comes from. One source serves all fleets of one account and region
//! (or one file, or one simulation).
//!
//! Invariant: a source answers whole or not at all. A page that fails half-way is an error, not a
//! short answer.

#[cfg(feature = "aws")]
pub mod aws;
pub mod file;
pub mod sim;

#[cfg(test)]
mod conformance;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use pikepole_fleet::{Describe, GroupName, HookName, HookToken, InstanceId, Proof};

/// One fleet as a source sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The Auto Scaling group's name; for other sources the fleet's name.
    pub group: GroupName,
    /// The port collectors listen on.
    pub port: u16,
}

/// What a source knows of one fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The whole group.
    Group(Describe),
    /// A definite "there is no such group".
    DoesNotExist,
}

/// Why a source did not answer. The text is for people and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// AWS asks for fewer calls: HTTP 400 `Throttling`, 503 `RequestLimitExceeded` and their kin.
    #[error("throttled: {0}")]
    Throttled(String),
    /// Credentials are missing, expired or lack a permission.
    #[error("not allowed: {0}")]
    Denied(String),
    /// No answer: connection, time limit, a 5xx.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// An answer that makes no sense.
    #[error("unusable answer: {0}")]
    Malformed(String),
}

/// One lifecycle action, as it is completed or kept alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    /// The group.
    pub group: GroupName,
    /// The hook.
    pub hook: HookName,
    /// The instance that waits.
    pub instance: InstanceId,
    /// The action's token, if the event told it.
    pub token: Option<HookToken>,
}

/// What became of a call about a lifecycle action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookAnswer {
    /// It was done.
    Done,
    /// There is no such action any more (`ValidationError`): it was completed or its time was up.
    NoSuchAction,
}

/// A place that knows which instances a fleet has.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Describes the targets now: one result each, in the same order. `made_at` of each describe is
    /// the time this call began.
    async fn describe(&self, targets: &[Target]) -> Vec<Result<Answer, SourceError>>;

    /// Looks for proof that instances are gone, beyond what a describe says. No proof is a fine answer.
    async fn prove_gone(&self, _ids: &[InstanceId]) -> Result<Proof, SourceError> {
        Ok(Proof::default())
    }

    /// Completes a lifecycle action with CONTINUE. Safe to repeat.
    async fn complete_hook(&self, _call: &HookCall) -> Result<HookAnswer, SourceError> {
        Ok(HookAnswer::NoSuchAction)
    }

    /// Begins a lifecycle action's time anew (`RecordLifecycleActionHeartbeat`).
    async fn heartbeat(&self, _call: &HookCall) -> Result<HookAnswer, SourceError> {
        Ok(HookAnswer::NoSuchAction)
    }

    /// How long each hook of a group waits before it goes on by itself (`DescribeLifecycleHooks`,
    /// `HeartbeatTimeout`). Asked anew each time: whoever asks keeps the answer.
    async fn hook_timeouts(&self, _group: &GroupName) -> Result<BTreeMap<HookName, Duration>, SourceError> {
        Ok(BTreeMap::new())
    }

    /// How far the source's clock is ahead of ours, in milliseconds, as its last answer showed; negative
    /// if it is behind. `None`: not known, or not worth correcting.
    fn clock_ahead(&self) -> Option<i64> {
        None
    }

    /// Calls made to an API since the start, by the API's own names.
    fn api_calls(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Waits until the source itself notices that a new describe is worth while. Cancel-safe.
    async fn changed(&self) {
        std::future::pending().await
    }
}
