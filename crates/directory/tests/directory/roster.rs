//! `GET /v1/fleets/{fleet}/roster` without a wait, and the other routes about one fleet.

use std::time::Duration;

use pikepole_fleet::{Fact, FactKind, Input};
use serde_json::json;

use super::harness::{Answer, Plan, Rig};

const ROSTER: &str = "/v1/fleets/f1/roster";

fn freshness(answer: &Answer) -> [Option<&str>; 4] {
    ["pikepole-revision", "pikepole-confirmed-at", "age", "pikepole-stale"].map(|name| answer.header(name))
}

#[tokio::test]
async fn the_roster_is_the_contracts_json() {
    let rig = Rig::with_two().await;
    let fact =
        Fact { instance: "i-1".parse().unwrap(), kind: FactKind::Terminating, at: rig.engine.clock().now() };
    rig.engine.apply(rig.fleet("f1"), Input::Learned(fact)).await;
    let answer = rig.get(ROSTER).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({
            "fleet": "f1", "dc": "some-dc", "region": "ap-south-1",
            "revision": rig.revision("f1"), "published_at": "2025-11-22T08:26:40.000Z",
            "members": [
                {"instance_id": "i-0", "address": "10.0.0.1:5044", "zone": "a", "state": "active"},
                {"instance_id": "i-1", "address": "10.0.0.2:5044", "zone": "a", "state": "draining"},
            ]
        })
    );
}

#[tokio::test]
async fn every_answer_says_how_fresh_it_is_also_an_unchanged_one() {
    let rig = Rig::with_two().await;
    let revision = rig.revision("f1").to_string();
    rig.step(Duration::from_secs(7));
    let full = rig.get(ROSTER).await;
    let confirmed = Some("2025-11-22T08:26:40.000Z");
    assert_eq!(freshness(&full), [Some(&*revision), confirmed, Some("7"), Some("false")]);
    rig.step(Duration::from_secs(174));
    let etag = full.header("etag").unwrap();
    let unchanged = rig.ask("GET", ROSTER, &[("If-None-Match", etag)]).await;
    assert_eq!(unchanged.status, 304);
    assert_eq!(unchanged.header("etag"), Some(etag));
    assert_eq!(freshness(&unchanged), [Some(&*revision), confirmed, Some("181"), Some("true")]);
    // A new confirmation changes what stands beside the roster, not the roster.
    rig.describe("f1", &["10.0.0.1:5044", "10.0.0.2:5044"]).await;
    let again = rig.get(ROSTER).await;
    assert_eq!(again.body, full.body);
    assert_eq!(again.header("etag"), Some(etag));
    let confirmed = Some("2025-11-22T08:29:41.000Z");
    assert_eq!(freshness(&again), [Some(&*revision), confirmed, Some("0"), Some("false")]);
}

#[tokio::test]
async fn a_clock_that_steps_back_makes_no_negative_age() {
    let rig = Plan::new().start().await;
    rig.step(Duration::from_secs(100));
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    let before = rig.revision("f1");
    rig.step_back(Duration::from_secs(90));
    assert_eq!(rig.get(ROSTER).await.header("age"), Some("0"));
    rig.describe("f1", &["10.0.0.1:5044", "10.0.0.2:5044"]).await;
    assert!(rig.revision("f1") >= before);
}

#[tokio::test]
async fn if_none_match_is_compared_as_the_rfc_says() {
    let rig = Rig::with_two().await;
    let etag = rig.get(ROSTER).await.header("etag").unwrap().to_string();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    for same in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()] {
        assert_eq!(rig.ask("GET", ROSTER, &[("If-None-Match", &same)]).await.status, 304, "{same}");
    }
    let two_lines = [("If-None-Match", "\"x\""), ("If-None-Match", etag.as_str())];
    assert_eq!(rig.ask("GET", ROSTER, &two_lines).await.status, 304);
    for other in ["\"x\"", etag.trim_matches('"'), "", "\u{1}"] {
        let answer = rig.ask("GET", ROSTER, &[("If-None-Match", other)]).await;
        assert_ne!(answer.status, 304, "{other:?}");
    }
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    let changed = rig.ask("GET", ROSTER, &[("If-None-Match", &etag)]).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(etag.as_str()));
}

#[tokio::test]
async fn a_fleet_of_which_nothing_is_known_is_not_ready_and_one_that_is_missing_says_so() {
    let rig = Plan::new().start().await;
    let answer = rig.get(ROSTER).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "not_ready"));
    assert!(answer.header("retry-after").is_some());
    rig.engine.apply(rig.fleet("f1"), Input::DoesNotExist).await;
    for path in [ROSTER, "/v1/fleets/f1/roster?wait=5m"] {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "source_failed"));
    }
}

#[tokio::test]
async fn a_fleets_state_tells_of_roster_source_guard_and_changes() {
    let rig = Rig::with_two().await;
    rig.describe("f1", &["10.0.0.1:5044", "10.0.0.2:5044", "10.0.0.3:5044"]).await;
    rig.describe("f1", &[]).await;
    let one = rig.get("/v1/fleets/f1").await.json();
    // The list is for tables and for looking every second; only the one fleet tells its whole story.
    let mut short = one.clone();
    for long in ["changes", "lives"] {
        short.as_object_mut().unwrap().remove(long).unwrap();
    }
    assert_eq!(rig.get("/v1/fleets").await.json(), json!({ "fleets": [short] }));
    assert_eq!(one["roster"], rig.get(ROSTER).await.json());
    assert_eq!(one["source"]["kind"], "sim");
    assert_eq!(one["source"]["group"], "f1");
    assert_eq!(one["guard"]["state"], "holding");
    assert!(!one["guard"]["reason"].as_str().unwrap().is_empty());
    assert_eq!(one["age_seconds"], 0);
    let changes = one["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0]["revision"], one["roster"]["revision"]);
    assert_eq!(changes[0]["members"][0]["instance_id"], "i-2");
    assert_eq!(changes[0]["members"][0]["from"], json!(null));
    assert_eq!(changes[0]["members"][0]["to"], "active");
}

#[tokio::test]
async fn unknown_is_not_empty_in_a_fleets_state() {
    let rig = Plan::new().start().await;
    let state = rig.get("/v1/fleets/f1").await.json();
    assert_eq!((&state["roster"], &state["age_seconds"]), (&json!(null), &json!(null)));
    assert_eq!(state["source"]["state"], "waiting");
    rig.describe("f1", &[]).await;
    assert_eq!(rig.get("/v1/fleets/f1").await.json()["roster"]["members"], json!([]));
}
