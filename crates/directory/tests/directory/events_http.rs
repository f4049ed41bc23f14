//! `POST /v1/events`: any body of events, counted; within limits; nothing that makes poison come again.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Plan, Rig, eventually, request, within};

const PATH: &str = "/v1/events";

/// What Auto Scaling sends when an instance of a group has to go.
pub(crate) fn hook(group: &str, instance: &str) -> String {
    json!({
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING", "AutoScalingGroupName": group,
        "EC2InstanceId": instance, "LifecycleHookName": "drain", "LifecycleActionToken": "465e0162-e6af-4786",
        "Service": "AWS Auto Scaling", "Time": "2025-11-22T08:26:40.000Z", "RequestId": "x",
    })
    .to_string()
}

fn counts(events: u64, ours: u64, foreign: u64, tests: u64, rejected: u64) -> Value {
    json!({"events": events, "ours": ours, "foreign": foreign, "tests": tests, "rejected": rejected})
}

#[tokio::test]
async fn an_event_takes_effect_before_it_is_acknowledged() {
    let rig = Rig::with_two().await;
    let before = rig.revision("f1");
    let answer = rig.post(PATH, &[], &hook("f1", "i-0")).await;
    assert_eq!((answer.status, answer.json()), (202, counts(1, 1, 0, 0, 0)));
    assert!(rig.revision("f1") > before);
    assert_eq!(rig.metric("pikepole_events_total{way=\"http\",outcome=\"ours\"}").await, 1.0);
}

#[tokio::test]
async fn tests_are_counted_and_poison_is_acknowledged() {
    let rig = Rig::with_two().await;
    let test = r#"{"Event":"autoscaling:TEST_NOTIFICATION","AutoScalingGroupName":"f1"}"#;
    assert_eq!(rig.post(PATH, &[], test).await.json(), counts(0, 0, 0, 1, 0));
    let deep = "[".repeat(200_000);
    for poison in ["", "x", "{}", "[1]", "null", "\u{0}", "{\"LifecycleTransition\":\"no\"}", &deep] {
        let answer = rig.post(PATH, &[], poison).await;
        assert_eq!((answer.status, answer.json()), (202, counts(0, 0, 0, 0, 1)), "{poison:.40}");
    }
    assert_eq!(rig.metric("pikepole_events_total{way=\"http\",outcome=\"rejected\"}").await, 8.0);
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let rig = Rig::with_two().await;
    for kind in ["text/plain; charset=UTF-8", "application/json", "application/x-www-form-urlencoded", "x"] {
        let answer = rig.post(PATH, &[("Content-Type", kind)], &hook("f1", "i-0")).await;
        assert_eq!((answer.status, answer.json()["ours"].as_u64()), (202, Some(1)), "{kind}");
    }
}

#[tokio::test]
async fn events_need_the_write_token() {
    let rig = Plan::new().tokens("read-token", "write-token").start().await;
    for (token, status) in
        [("", 401), ("Bearer wrong-one", 401), ("Bearer read-token", 403), ("Bearer write-token", 202)]
    {
        let answer = rig.post(PATH, &[("Authorization", token)], "{}").await;
        assert_eq!(answer.status, status, "{token}");
    }
}

#[tokio::test]
async fn a_sender_that_waits_to_be_asked_is_asked() {
    let rig = Rig::with_two().await;
    let body = hook("f1", "i-0");
    let length = body.len().to_string();
    let mut wire = rig.connect().await;
    wire.request("POST", PATH, &[("Content-Length", &length), ("Expect", "100-continue")]).await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(&body).await;
    assert_eq!(wire.answer().await.status, 202);
}

#[tokio::test]
async fn a_parameter_is_refused() {
    let rig = Rig::with_two().await;
    assert_eq!(rig.post("/v1/events?x=1", &[], "{}").await.status, 400);
    assert_eq!(rig.post("/v1/events/sns?x=1", &[], "{}").await.status, 400);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_by_its_length_or_when_it_gets_there() {
    let rig = Rig::with_two().await;
    let mut wire = rig.connect().await;
    wire.request("POST", PATH, &[("Content-Length", "8388609"), ("Expect", "100-continue")]).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));

    let mut wire = rig.connect().await;
    wire.request("POST", PATH, &[("Transfer-Encoding", "chunked")]).await;
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    for _ in 0..8 {
        wire.send(&chunk).await;
    }
    wire.send("1\r\nx\r\n").await;
    assert_eq!(wire.answer().await.status, 413);

    // As large as may be is read, and understood as well as any other poison.
    let answer = rig.post(PATH, &[], &" ".repeat(8 << 20)).await;
    assert_eq!((answer.status, answer.json()["rejected"].as_u64()), (202, Some(1)));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let rig = Plan::new().limits(|l| l.body_time = Duration::from_millis(50)).start().await;
    let mut wire = rig.connect().await;
    wire.request("POST", PATH, &[("Content-Length", "100")]).await;
    wire.send("{").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "bad_request"));
    assert_eq!(rig.post(PATH, &[], "{}").await.status, 202);
}

#[tokio::test]
async fn only_so_many_bodies_are_read_at_once() {
    let rig = Plan::new().limits(|l| l.body_turn = Duration::from_millis(20)).start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    let mut slow = Vec::new();
    for _ in 0..16 {
        let mut wire = rig.connect().await;
        wire.request("POST", PATH, &[("Content-Length", "2"), ("Expect", "100-continue")]).await;
        assert_eq!(wire.answer().await.status, 100);
        slow.push(wire);
    }
    let answer = rig.post(PATH, &[], "{}").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    assert!(answer.header("retry-after").is_some());
    // Nobody else waits for them.
    assert_eq!(rig.get("/v1/fleets/f1/roster").await.status, 200);
    for wire in &mut slow {
        wire.send("{}").await;
        assert_eq!(wire.answer().await.status, 202);
    }
    assert_eq!(rig.post(PATH, &[], "{}").await.status, 202);
}

#[tokio::test]
async fn a_sender_that_goes_away_leaves_its_place() {
    let rig = Plan::new().limits(|l| l.body_turn = Duration::from_millis(20)).start().await;
    for _ in 0..40 {
        let mut wire = rig.connect().await;
        wire.send(&request("POST", PATH, &[("Content-Length", "10")])).await;
    }
    within("a place", async {
        while rig.post(PATH, &[], "{}").await.status != 202 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    eventually("the end of the polls", || rig.fleet("f1").watchers() == 0).await;
}
