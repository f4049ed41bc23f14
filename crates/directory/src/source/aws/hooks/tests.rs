//! Every answer AWS has for a lifecycle action, and every failure, against the fake over real HTTP.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use pikepole_fleet::{HookToken, InstanceId, Timestamp};
use pikepole_testkit::aws::{Action, FakeAws, Fault, HookKind, HookOutcome, Launch, When};

use super::*;
use crate::clock::Clock;
use crate::source::Source;
use crate::source::aws::{AwsSettings, AwsSource};

const COMPLETE: Action = Action::CompleteHook;
const HEARTBEAT: Action = Action::Heartbeat;
const HOOKS: Action = Action::DescribeHooks;
const MINUTE: Duration = Duration::from_secs(60);

struct World {
    aws: FakeAws,
    source: AwsSource,
}

/// A group `g` with a launch hook `in` of two minutes and a terminate hook `out` of one.
async fn world() -> World {
    world_within(Duration::from_secs(10)).await
}

async fn world_within(call_timeout: Duration) -> World {
    let aws = FakeAws::start().await;
    aws.create_group("g", 1);
    aws.put_hook("g", "in", HookKind::Launch, 2 * MINUTE);
    aws.put_hook("g", "out", HookKind::Terminate, MINUTE);
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_795_341_600_000));
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    let settings = AwsSettings {
        endpoint_url: Some(aws.url()),
        calls_per_second: 10_000.0,
        call_timeout,
        credentials: Some(SharedCredentialsProvider::new(credentials)),
        ..AwsSettings::new("ap-south-1".parse().unwrap(), clock)
    };
    World { source: AwsSource::new(settings).await.unwrap(), aws }
}

fn call(hook: &str, instance: &str, token: Option<&str>) -> HookCall {
    HookCall {
        group: "g".parse().unwrap(),
        hook: hook.parse().unwrap(),
        instance: instance.parse::<InstanceId>().unwrap(),
        token: token.map(|t| t.parse::<HookToken>().unwrap()),
    }
}

impl World {
    /// One in service that has begun to wait for its end.
    fn dying(&self) -> String {
        let id = self.aws.launch("g", Launch::default());
        self.aws.begin_terminate(&id);
        id
    }

    fn calls(&self, api: &str) -> u64 {
        let calls = self.source.api_calls();
        calls.iter().find(|(name, _)| *name == api).unwrap_or_else(|| panic!("no {api}")).1
    }
}

#[tokio::test]
async fn a_completed_action_lets_its_instance_go_on_with_continue() {
    let w = world().await;
    let new = w.aws.launch_waiting("g", Launch::default());
    let old = w.dying();
    assert_eq!(w.aws.state(&new).as_deref(), Some("Pending:Wait"));
    assert_eq!(w.aws.state(&old).as_deref(), Some("Terminating:Wait"));
    let token = w.aws.hook_token(&old);
    let completion = call("out", &old, token.as_deref());
    assert_eq!(w.source.complete_hook(&completion).await, Ok(HookAnswer::Done));
    assert_eq!(w.aws.state(&old), None, "gone");
    let without_token = call("in", &new, None);
    assert_eq!(w.source.complete_hook(&without_token).await, Ok(HookAnswer::Done));
    assert_eq!(w.aws.state(&new).as_deref(), Some("InService"));
    let records = w.aws.hook_calls();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|r| r.result.as_deref() == Some("CONTINUE")), "{records:?}");
    assert_eq!((records[0].token.clone(), records[0].instance.as_deref()), (token, Some(&old[..])));
    assert_eq!(w.calls("CompleteLifecycleAction"), 2);
}

#[tokio::test]
async fn what_is_over_or_was_never_there_is_no_such_action() {
    let w = world().await;
    let id = w.dying();
    let token = w.aws.hook_token(&id);
    let completion = call("out", &id, token.as_deref());
    assert_eq!(w.source.complete_hook(&completion).await, Ok(HookAnswer::Done));
    let gone = Ok(HookAnswer::NoSuchAction);
    assert_eq!(w.source.complete_hook(&completion).await, gone, "already completed");
    assert_eq!(w.source.heartbeat(&completion).await, gone);
    let late = w.dying();
    w.aws.expire_hooks(&late);
    assert_eq!(w.source.complete_hook(&call("out", &late, None)).await, gone, "its time was up");
    let other = w.dying();
    assert_eq!(w.source.complete_hook(&call("other", &other, None)).await, gone, "no such hook");
    assert_eq!(w.aws.state(&other).as_deref(), Some("Terminating:Wait"));
    let refused = w.aws.hook_calls().iter().filter(|r| r.outcome == HookOutcome::Refused).count();
    assert_eq!(refused, 4);
    assert_eq!(w.source.calls().throttled(), 0);
}

#[tokio::test]
async fn each_failure_of_each_call_gets_its_kind_and_nothing_is_taken_for_done() {
    type Kind = fn(&SourceError) -> bool;
    let throttled: Kind = |e| matches!(e, SourceError::Throttled(_));
    let denied: Kind = |e| matches!(e, SourceError::Denied(_));
    let unreachable: Kind = |e| matches!(e, SourceError::Unreachable(_));
    let malformed: Kind = |e| matches!(e, SourceError::Malformed(_));
    for (action, api) in [
        (COMPLETE, "CompleteLifecycleAction"),
        (HEARTBEAT, "RecordLifecycleActionHeartbeat"),
        (HOOKS, "DescribeLifecycleHooks"),
    ] {
        let w = world().await;
        let it = call("out", &w.dying(), None);
        for (fault, kind) in [
            (Fault::Throttling400, throttled),
            (Fault::TooMany429, throttled),
            (Fault::Denied403, denied),
            (Fault::ExpiredToken400, denied),
            (Fault::Internal500, unreachable),
            (Fault::Drop, unreachable),
            (Fault::Html502, unreachable),
            // The SDK itself takes any 200 for a completion.
            (Fault::Html200, malformed),
            (Fault::Truncated, malformed),
        ] {
            w.aws.fault(action, fault, When::Next(1));
            let error = match action {
                HOOKS => w.source.hook_timeouts(&it.group).await.err(),
                HEARTBEAT => w.source.heartbeat(&it).await.err(),
                _ if fault == Fault::Truncated => continue,
                _ => w.source.complete_hook(&it).await.err(),
            };
            let error = error.unwrap_or_else(|| panic!("{fault:?} of {api} was taken for an answer"));
            assert!(kind(&error) && error.to_string().contains(api), "{fault:?}: {error:?}");
            if fault == Fault::Denied403 {
                assert!(error.to_string().contains(&format!("allow autoscaling:{api}")), "{error}");
            }
        }
        assert_eq!(w.source.calls().throttled(), 2);
        assert_eq!(w.calls(api), w.aws.calls(action), "no call is repeated unseen");
    }
}

#[tokio::test]
async fn a_half_answer_to_a_completion_is_no_answer_and_the_next_try_finds_it_over() {
    let w = world().await;
    let it = call("out", &w.dying(), None);
    w.aws.fault(COMPLETE, Fault::Truncated, When::Next(1));
    let error = w.source.complete_hook(&it).await;
    assert!(matches!(error, Err(SourceError::Malformed(_))), "{error:?}");
    assert_eq!(w.source.complete_hook(&it).await, Ok(HookAnswer::NoSuchAction));
}

#[tokio::test]
async fn a_slow_call_ends_at_its_limit_also_if_aws_took_it_in() {
    let w = world_within(Duration::from_millis(300)).await;
    let it = call("out", &w.dying(), None);
    w.aws.fault(COMPLETE, Fault::LostAnswer, When::Next(1));
    let error = w.source.complete_hook(&it).await;
    assert!(matches!(error, Err(SourceError::Unreachable(_))), "{error:?}");
    assert_eq!(w.source.complete_hook(&it).await, Ok(HookAnswer::NoSuchAction));
    let done = w.aws.hook_calls().iter().filter(|r| r.outcome == HookOutcome::Done).count();
    assert_eq!(done, 1, "completed exactly once");
    w.aws.fault(HOOKS, Fault::Silence, When::Next(1));
    assert!(matches!(w.source.hook_timeouts(&it.group).await, Err(SourceError::Unreachable(_))));
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_whatever_the_describes_are_given() {
    let w = world().await;
    let hooks = Hooks::new(w.source.hooks.client.clone(), MINUTE, Arc::default());
    let began = tokio::time::Instant::now();
    let error = hooks.in_time(Api::CompleteHook, std::future::pending::<Result<(), _>>()).await;
    assert!(matches!(error, Err(SourceError::Unreachable(_))), "{error:?}");
    assert_eq!(began.elapsed(), CALL_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn whoever_gets_no_turn_in_time_did_not_call() {
    let pace = Pace::with_burst(CALLS_PER_SECOND, BURST);
    let w = world().await;
    let hooks =
        Hooks { pace, limit: CALL_LIMIT, client: w.source.hooks.client.clone(), calls: Arc::default() };
    let calls = (0..30).map(|_| hooks.in_time(Api::CompleteHook, async { Ok(()) }));
    let results = futures_util::future::join_all(calls).await;
    let made = results.iter().filter(|r| r.is_ok()).count();
    assert_eq!((made, hooks.calls.complete_hook()), (25, 25), "ten at once and five a second for 3 s");
    let told = results.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(&told, SourceError::Unreachable(why) if why.contains("was not called")), "{told}");
}

#[tokio::test]
async fn a_heartbeat_begins_the_time_anew() {
    let w = world().await;
    let id = w.dying();
    assert_eq!(w.source.heartbeat(&call("out", &id, None)).await, Ok(HookAnswer::Done));
    let records = w.aws.hook_calls();
    assert_eq!((records[0].action, records[0].outcome), (HEARTBEAT, HookOutcome::Done));
    assert_eq!(w.aws.state(&id).as_deref(), Some("Terminating:Wait"), "and completes nothing");
}

#[tokio::test]
async fn timeouts_are_told_by_hook() {
    let w = world().await;
    let timeouts = w.source.hook_timeouts(&"g".parse().unwrap()).await.unwrap();
    let expected = [("in".parse().unwrap(), 2 * MINUTE), ("out".parse().unwrap(), MINUTE)];
    assert_eq!(timeouts, expected.into());
    w.aws.create_group("without hooks", 0);
    assert_eq!(w.source.hook_timeouts(&"without hooks".parse().unwrap()).await, Ok(BTreeMap::new()));
    assert!(w.source.hook_timeouts(&"missing".parse().unwrap()).await.is_err());
    assert_eq!(w.calls("DescribeLifecycleHooks"), 3);
}

#[tokio::test]
async fn the_clock_of_aws_is_compared_at_every_describe() {
    let w = world().await;
    let target = crate::source::Target { group: "g".parse().unwrap(), port: 5044 };
    let ahead = async |date: &str| {
        w.aws.date(Some(date));
        w.source.describe(std::slice::from_ref(&target)).await.remove(0).unwrap();
        w.source.clock_ahead()
    };
    assert_eq!(w.source.clock_ahead(), None, "not known yet");
    assert_eq!(ahead("Sun, 22 Nov 2026 10:01:00 GMT").await, Some(60_500));
    assert_eq!(ahead("Sun, 22 Nov 2026 09:59:00 GMT").await, Some(-59_500));
    assert_eq!(ahead("no date").await, Some(-59_500), "what is no date changes nothing");
    assert_eq!(ahead("Sun, 22 Nov 2026 10:00:02 GMT").await, None, "near enough");
}

#[test]
fn aws_says_it_is_over_in_these_words() {
    for words in [
        "No active Lifecycle Action found with instance ID i-09c7205a117f0d09a",
        "No active Lifecycle Action found with token f66c3d47-e602-4af0-8edd-d4e4d2fe4620",
        "AutoScalingGroup name not found - null",
    ] {
        assert!(says_it_is_over(words), "{words}");
    }
    assert!(!says_it_is_over("1 validation error detected: Value '' at 'lifecycleHookName' failed"));
    let it = call("out", "i-1", Some("465e0162-e6af"));
    assert_eq!(printable("bad\ntoken 465e0162-e6af", &it), "bad token (token)");
    assert_eq!(printable(&"x".repeat(1_000), &it).len(), MAX_WORDS);
}
