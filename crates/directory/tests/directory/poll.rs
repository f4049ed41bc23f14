//! `GET …/roster?after=&wait=`: the long poll.

use std::time::Duration;

use super::harness::{Plan, Rig, within};

fn path(after: u64, wait: &str) -> String {
    format!("/v1/fleets/f1/roster?after={after}&wait={wait}")
}

#[tokio::test]
async fn a_poll_is_answered_by_a_change_and_by_nothing_less() {
    let rig = Rig::with_two().await;
    let before = rig.revision("f1");
    let mut poll = rig.begin("GET", &path(before, "5m")).await;
    rig.watched_by("f1", 1).await;
    // Confirmed again, and doubted: neither is another roster.
    rig.step(Duration::from_secs(1));
    rig.describe("f1", &["10.0.0.1:5044", "10.0.0.2:5044"]).await;
    rig.describe("f1", &[]).await;
    // Whatever that woke has had its turn when another request is answered.
    rig.get("/healthz").await;
    assert_eq!(rig.fleet("f1").watchers(), 1);
    rig.describe("f1", &["10.0.0.1:5044", "10.0.0.3:5044"]).await;
    let answer = poll.answer().await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["revision"].as_u64().unwrap() > before);
    assert_eq!(answer.json()["members"][1]["address"], "10.0.0.3:5044");
    assert_eq!(answer.body, rig.get("/v1/fleets/f1/roster").await.body);
    assert_eq!(answer.header("age"), Some("0"));
}

#[tokio::test]
async fn a_poll_at_its_deadline_says_unchanged_with_everything_else() {
    let rig = Rig::with_two().await;
    let answer = rig.get(&path(rig.revision("f1"), "30ms")).await;
    assert_eq!(answer.status, 304);
    assert!(answer.body.is_empty());
    for name in ["etag", "pikepole-revision", "pikepole-confirmed-at", "age", "pikepole-stale"] {
        assert!(answer.header(name).is_some(), "{name}");
    }
    // Without a wait it does not wait.
    assert_eq!(rig.get(&format!("/v1/fleets/f1/roster?after={}", rig.revision("f1"))).await.status, 304);
    assert_eq!(rig.get(&path(rig.revision("f1"), "0")).await.status, 304);
}

#[tokio::test]
async fn any_other_revision_is_answered_at_once_older_or_newer() {
    let rig = Rig::with_two().await;
    for after in [0, 1, rig.revision("f1") - 1, rig.revision("f1") + 1, u64::MAX] {
        let answer = rig.get(&path(after, "5m")).await;
        assert_eq!(answer.status, 200, "{after}");
        assert_eq!(answer.json()["revision"], rig.revision("f1"), "{after}");
    }
    // Who names no revision has none.
    assert_eq!(rig.get("/v1/fleets/f1/roster?wait=5m").await.status, 200);
}

#[tokio::test]
async fn a_poll_of_an_unknown_fleet_waits_for_the_first_roster() {
    let rig = Plan::new().start().await;
    let mut polls =
        [rig.begin("GET", "/v1/fleets/f1/roster?wait=5m").await, rig.begin("GET", &path(7, "5m")).await];
    rig.watched_by("f1", 2).await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    for poll in &mut polls {
        assert_eq!(poll.answer().await.json()["members"][0]["address"], "10.0.0.1:5044");
    }
    let unknown = Plan::new().start().await;
    let answer = unknown.get(&path(7, "30ms")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "not_ready"));
}

#[tokio::test]
async fn many_watchers_wake_once_and_all_see_the_same_whole_list() {
    const WATCHERS: usize = 300;
    let rig = Rig::with_two().await;
    let path = path(rig.revision("f1"), "5m");
    let mut polls = Vec::new();
    for _ in 0..WATCHERS {
        polls.push(rig.begin("GET", &path).await);
    }
    rig.watched_by("f1", WATCHERS).await;
    let addresses: Vec<String> = (1..=50).map(|n| format!("10.0.1.{n}:5044")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    rig.describe("f1", &addresses).await;
    let whole = rig.get("/v1/fleets/f1/roster").await;
    assert_eq!(whole.json()["members"].as_array().unwrap().len(), 50);
    for poll in &mut polls {
        let answer = poll.answer().await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, whole.body);
    }
    let series = "pikepole_http_requests_total{route=\"/v1/fleets/{fleet}/roster\",status=\"200\"}";
    assert_eq!(rig.metric(series).await, (WATCHERS + 1) as f64);
    rig.watched_by("f1", 0).await;
}

#[tokio::test]
async fn a_watcher_that_hangs_up_is_forgotten() {
    let rig = Rig::with_two().await;
    let path = path(rig.revision("f1"), "5m");
    let poll = rig.begin("GET", &path).await;
    // With the next request already sent behind it.
    let mut pipelined = rig.begin("GET", &path).await;
    pipelined.request("GET", "/healthz", &[]).await;
    let stream = rig.watch("?fleet=f1").await;
    rig.watched_by("f1", 3).await;
    drop((poll, stream));
    rig.watched_by("f1", 1).await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    assert_eq!(pipelined.answer().await.status, 200);
    assert_eq!(pipelined.answer().await.text(), "alive\n");
}

#[tokio::test]
async fn one_connection_polls_again_and_again_without_missing_a_change() {
    let rig = Rig::with_two().await;
    let mut wire = rig.connect().await;
    let mut known = rig.revision("f1");
    for n in 1..=20 {
        wire.request("GET", &path(known, "5m"), &[]).await;
        if n % 2 == 0 {
            rig.watched_by("f1", 1).await;
        }
        rig.describe("f1", &["10.0.0.1:5044", &format!("10.0.1.{n}:5044")]).await;
        let answer = within("the change", wire.answer()).await;
        assert_eq!(answer.json()["members"][1]["address"], format!("10.0.1.{n}:5044"));
        known = answer.json()["revision"].as_u64().unwrap();
    }
}

#[tokio::test]
async fn wrong_parameters_are_refused_before_anything_is_waited_for() {
    let rig = Rig::with_two().await;
    let revision = rig.revision("f1");
    let long = "x".repeat(129);
    for query in [
        "after=x".into(),
        "after=".into(),
        "after=-1".into(),
        "after=1.5".into(),
        "after=18446744073709551616".into(),
        format!("after={revision}&after={revision}"),
        format!("after={revision}&wait=55"),
        format!("after={revision}&wait="),
        format!("after={revision}&wait=-1s"),
        format!("after={revision}&wait=301s"),
        format!("after={revision}&wait=1000y"),
        format!("after={revision}&wait=5s&wait=5s"),
        format!("after={revision}&wait=5m&affter=1"),
        format!("after={revision}&wait=5m&agent="),
        format!("after={revision}&wait=5m&agent={long}"),
        format!("after={revision}&wait=5m&agent=a%00b"),
        format!("after={revision}&wait=5m&agent=a%0Ab"),
        format!("after={revision}&wait=5m&start=1"),
        format!("after={revision}&wait=5m&start=0b0c1f52-8f0e-4a37-9f4b-a4b1c7a60f1g"),
        format!("after={revision}&wait=5m&applied=x"),
        "AFTER=1".into(),
    ] {
        let answer = rig.get(&format!("/v1/fleets/f1/roster?{query}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{query}");
    }
    let named = format!(
        "after=1&wait=5m&agent=proxy-1.example&start=0b0c1f52-8f0e-4a37-9f4b-a4b1c7a60f10&applied={revision}"
    );
    assert_eq!(rig.get(&format!("/v1/fleets/f1/roster?{named}")).await.status, 200);
}
