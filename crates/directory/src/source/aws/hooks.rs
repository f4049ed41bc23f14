//! Lifecycle actions: completes them, keeps them alive, and asks how long hooks wait.
//!
//! Not the one who decides when, and not a retrier: the engine is both.
//!
//! Invariant: a call is over within [`CALL_LIMIT`], the wait for its turn included, so that whoever
//! looked at its lease before the call still has it when AWS takes the call in.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use pikepole_fleet::{GroupName, HookName};

use super::calls::AwsCalls;
use super::errors::{self, Api};
use super::groups::WholeAnswer;
use super::pace::Pace;
use super::xml::{self, XmlError};
use crate::source::{HookAnswer, HookCall, SourceError};

/// The longest a call may take; a lease lasts longer.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(3);

/// Completions are urgent, but all calls of an account to Auto Scaling share one limit.
const CALLS_PER_SECOND: f64 = 5.0;

/// Calls that may start at once after a rest: a small fleet that ends as a whole.
const BURST: u32 = 10;

/// Characters of what AWS says that go into the log.
const MAX_WORDS: usize = 200;

/// The result of every action we complete. `ABANDON` would throw a launching instance away, and skip
/// the other hooks of a dying one.
const CONTINUE: &str = "CONTINUE";

/// The three calls about lifecycle hooks, within their own budget.
#[derive(Debug)]
pub(super) struct Hooks {
    client: Client,
    pace: Pace,
    limit: Duration,
    calls: Arc<AwsCalls>,
}

impl Hooks {
    pub(super) fn new(client: Client, call_timeout: Duration, calls: Arc<AwsCalls>) -> Self {
        let pace = Pace::with_burst(CALLS_PER_SECOND, BURST);
        Self { client, pace, limit: call_timeout.min(CALL_LIMIT), calls }
    }

    /// `CompleteLifecycleAction` with CONTINUE.
    pub(super) async fn complete(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        let request = self.client.complete_lifecycle_action();
        let request = request
            .auto_scaling_group_name(call.group.as_str())
            .lifecycle_hook_name(call.hook.as_str())
            .instance_id(call.instance.as_str())
            .set_lifecycle_action_token(call.token.as_ref().map(|t| t.expose().to_owned()))
            .lifecycle_action_result(CONTINUE)
            .customize()
            .interceptor(WholeAnswer(is_completion));
        let api = Api::CompleteHook;
        self.in_time(api, async { action_answer(api, call, request.send().await) }).await
    }

    /// `RecordLifecycleActionHeartbeat`.
    pub(super) async fn heartbeat(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        let request = self.client.record_lifecycle_action_heartbeat();
        let request = request
            .auto_scaling_group_name(call.group.as_str())
            .lifecycle_hook_name(call.hook.as_str())
            .instance_id(call.instance.as_str())
            .set_lifecycle_action_token(call.token.as_ref().map(|t| t.expose().to_owned()))
            .customize()
            .interceptor(WholeAnswer(is_heartbeat));
        let api = Api::Heartbeat;
        self.in_time(api, async { action_answer(api, call, request.send().await) }).await
    }

    /// `DescribeLifecycleHooks`. It has no pages: a group has at most fifty hooks.
    pub(super) async fn timeouts(
        &self,
        group: &GroupName,
    ) -> Result<BTreeMap<HookName, Duration>, SourceError> {
        let api = Api::Hooks;
        let request = self.client.describe_lifecycle_hooks().auto_scaling_group_name(group.as_str());
        let request = request.customize().interceptor(WholeAnswer(xml::check_hooks));
        let told =
            self.in_time(api, async { request.send().await.map_err(|e| errors::from_sdk(api, &e)) }).await?;
        let mut timeouts = BTreeMap::new();
        for hook in told.lifecycle_hooks() {
            let name = hook.lifecycle_hook_name().unwrap_or_default();
            let name: HookName = name
                .parse()
                .map_err(|e| errors::malformed(api, &format!("{group:?} has a hook whose name {e}")))?;
            let seconds = hook.heartbeat_timeout().and_then(|s| u64::try_from(s).ok());
            let Some(seconds) = seconds else {
                return Err(errors::malformed(api, &format!("the hook {name} has no HeartbeatTimeout")));
            };
            timeouts.insert(name, Duration::from_secs(seconds));
        }
        Ok(timeouts)
    }

    /// Waits for a turn, counts the call and makes it, all within the limit.
    async fn in_time<T>(
        &self,
        api: Api,
        call: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let end = tokio::time::Instant::now() + self.limit;
        if tokio::time::timeout_at(end, self.pace.turn()).await.is_err() {
            return Err(errors::no_turn(api, self.limit));
        }
        self.calls.count(api);
        match tokio::time::timeout_at(end, call).await {
            Ok(answer) => answer,
            Err(_) => Err(errors::timed_out(api, self.limit)),
        }
    }
}

fn is_completion(xml: &[u8]) -> Result<(), XmlError> {
    xml::check_root(xml, "CompleteLifecycleActionResponse")
}

fn is_heartbeat(xml: &[u8]) -> Result<(), XmlError> {
    xml::check_root(xml, "RecordLifecycleActionHeartbeatResponse")
}

/// `ValidationError` is how AWS says that an action is over, but also that a parameter is wrong. Either
/// way there is nothing to repeat, so both end the matter; only the second is worth a warning.
fn action_answer<T, E>(
    api: Api,
    call: &HookCall,
    result: Result<T, SdkError<E, HttpResponse>>,
) -> Result<HookAnswer, SourceError>
where
    E: Error + ProvideErrorMetadata + 'static,
{
    let Err(error) = result else { return Ok(HookAnswer::Done) };
    let refusal = error.as_service_error().filter(|e| e.code() == Some("ValidationError"));
    let Some(refusal) = refusal else { return Err(errors::from_sdk(api, &error)) };
    let words = refusal.message().unwrap_or_default();
    let (hook, instance) = (&call.hook, &call.instance);
    if says_it_is_over(words) {
        tracing::debug!(%hook, %instance, call = api.name(), "the lifecycle action is over");
    } else {
        let told = printable(words, call);
        tracing::warn!(%hook, %instance, call = api.name(), %told, "AWS refuses the lifecycle action");
    }
    Ok(HookAnswer::NoSuchAction)
}

/// "No active Lifecycle Action found with instance ID i-…", "… with token …", and a hook or a group
/// that is no more.
fn says_it_is_over(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("no active lifecycle action")
        || words.contains("not found")
        || (words.contains("no lifecycle hook") && words.contains("found"))
}

/// Words of AWS for the log: one line, not long, without the action's token.
fn printable(words: &str, call: &HookCall) -> String {
    let words = match &call.token {
        Some(token) => words.replace(token.expose(), "(token)"),
        None => words.to_owned(),
    };
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests;
