//! Who polls, as everyone sees it: presence that ends with the poll, and the shape of what is told.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::{Value, json};

use super::events_http::hook;
use super::harness::{Rig, eventually};

const START: &str = "5f0c2b52-6f8e-4a53-9d8f-0c7a3f1d2e4b";

fn poll(rig: &Rig, applied: u64) -> String {
    let after = rig.revision("f1");
    format!("/v1/fleets/f1/roster?after={after}&wait=5m&agent=web-1&start={START}&applied={applied}")
}

/// Whether the one agent there is has an open poll.
fn open(rig: &Rig) -> bool {
    rig.fleet("f1").agents().open_polls() > 0
}

#[tokio::test]
async fn agents_and_drains_are_told_in_the_shape_of_the_contract() {
    let rig = Rig::with_two().await;
    let before = rig.revision("f1");
    let _poll = rig.begin("GET", &poll(&rig, before)).await;
    rig.watched_by("f1", 1).await;
    let told = rig.get("/v1/agents?fleet=f1").await.json();
    let agent = json!({
        "id": "web-1", "start": START, "fleet": "f1", "applied": before, "live": true,
        "last_seen": "2025-11-22T08:26:40.000Z", "address": "127.0.0.1",
    });
    assert_eq!(told, json!({"agents": [agent], "drains": []}));
    rig.post("/v1/events", &[], &hook("f1", "i-0")).await;
    let drain = json!({
        "fleet": "f1", "instance_id": "i-0", "since": "2025-11-22T08:26:40.000Z",
        "deadline": "2025-11-22T08:28:10.000Z", "waiting_for": ["web-1"], "hook": "drain",
    });
    assert_eq!(rig.get("/v1/agents").await.json()["drains"], json!([drain]));
    let fleet = rig.get("/v1/fleets/f1").await.json();
    assert_eq!(fleet["convergence"], json!({"live": 1, "applied": 0, "awaited": 0}));
    let life = &fleet["lives"][0];
    assert_eq!(
        (&life["instance_id"], &life["draining"], &life["held_by"], &life["moved_off"]),
        (&json!("i-0"), &json!("2025-11-22T08:26:40.000Z"), &json!(["web-1"]), &Value::Null)
    );
    // It has moved off: nobody is waited for.
    let _poll = rig.begin("GET", &poll(&rig, rig.revision("f1"))).await;
    rig.watched_by("f1", 1).await;
    let told = rig.get("/v1/agents").await.json();
    assert_eq!(told["drains"][0]["waiting_for"], json!([]));
    assert_eq!(
        rig.get("/v1/fleets/f1").await.json()["convergence"],
        json!({"live": 1, "applied": 1, "awaited": 0})
    );
    assert_eq!(rig.get("/v1/agents?fleet=nobody").await.status, 404);
}

#[tokio::test]
async fn a_poll_that_its_agent_breaks_off_ends_its_presence() {
    let rig = Rig::with_two().await;
    let connection = rig.begin("GET", &poll(&rig, 1)).await;
    eventually("its poll is open", || open(&rig)).await;
    drop(connection);
    eventually("its poll has ended", || !open(&rig)).await;
    assert!(rig.fleet("f1").agents().list()[0].live, "for a moment more");
}
