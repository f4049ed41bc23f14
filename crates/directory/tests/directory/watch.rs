//! `GET /v1/watch`: rosters as server-sent events.

use std::time::Duration;

use pikepole_fleet::{Instance, Lifecycle};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

use super::harness::{Plan, Rig, Wire};

async fn two_fleets() -> Rig {
    let rig = Plan::new().fleet("f2", "other-dc", "us-east-1").start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    rig.describe("f2", &["10.0.1.1:5044"]).await;
    rig
}

fn members(roster: &Value) -> usize {
    roster["members"].as_array().unwrap().len()
}

#[tokio::test]
async fn the_current_roster_comes_first_and_then_one_event_a_change() {
    let rig = Rig::with_two().await;
    let mut stream = rig.watch("?fleet=f1").await;
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    let first = stream.roster().await;
    assert_eq!(first, rig.get("/v1/fleets/f1/roster").await.json());
    for n in 1..=10 {
        // Confirmed again: no event.
        rig.describe("f1", &["10.0.0.1:5044", &format!("10.0.1.{}:5044", n - 1)]).await;
        let before = rig.revision("f1");
        // Whatever that woke has had its turn when another request is answered.
        rig.get("/healthz").await;
        rig.describe("f1", &["10.0.0.1:5044", &format!("10.0.1.{n}:5044")]).await;
        loop {
            let roster = stream.roster().await;
            if roster["revision"] == rig.revision("f1") {
                assert_eq!(roster["members"][1]["address"], format!("10.0.1.{n}:5044"));
                break;
            }
            assert_eq!((n, &roster["revision"]), (1, &Value::from(before)), "only the first was a change");
        }
    }
}

#[tokio::test]
async fn the_events_are_exact() {
    let rig = Rig::with_two().await;
    let mut stream = rig.watch("").await;
    assert_eq!(stream.next().await.unwrap(), ": alive\n\n");
    let roster = rig.get("/v1/fleets/f1/roster").await;
    let event = format!("event: roster\nid: {}\ndata: {}\n\n", rig.revision("f1"), roster.text());
    assert_eq!(stream.next().await.unwrap(), event);
}

#[tokio::test]
async fn a_comment_keeps_an_idle_stream_open() {
    let rig = Plan::new().limits(|l| l.comment_every = Duration::from_millis(20)).start().await;
    let mut stream = rig.watch("?fleet=f1").await;
    for _ in 0..5 {
        assert_eq!(stream.next().await.unwrap(), ": alive\n\n");
    }
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    assert_eq!(members(&stream.roster().await), 1);
    let defaults = pikepole_directory::http::Limits::default();
    assert_eq!(defaults.comment_every, Duration::from_secs(15));
}

#[tokio::test]
async fn fleets_can_be_chosen_repeatedly_or_not_at_all() {
    let rig = two_fleets().await;
    for query in ["", "?fleet=f1&fleet=f2", "?fleet=f2&fleet=f1&fleet=f2"] {
        let mut stream = rig.watch(query).await;
        let mut names = [stream.roster().await["fleet"].clone(), stream.roster().await["fleet"].clone()];
        names.sort_by_key(Value::to_string);
        assert_eq!(names, ["f1", "f2"], "{query}");
    }
    let mut only = rig.watch("?fleet=f2").await;
    assert_eq!(only.roster().await["fleet"], "f2");
    rig.describe("f1", &["10.0.0.2:5044"]).await;
    rig.describe("f2", &["10.0.1.2:5044"]).await;
    assert_eq!(only.roster().await["fleet"], "f2");
}

#[tokio::test]
async fn a_fleet_of_which_nothing_is_known_begins_when_it_is_known() {
    let rig = Plan::new().start().await;
    let mut stream = rig.watch("?fleet=f1").await;
    assert_eq!(stream.next().await.unwrap(), ": alive\n\n");
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    assert_eq!(members(&stream.roster().await), 1);
}

/// A list too large for any buffer on the way to hold many of it.
pub(crate) async fn publish_large(rig: &Rig, round: u32) {
    let instance = |n: u32| Instance {
        id: format!("i-{n:0120}").parse().unwrap(),
        lifecycle: Lifecycle::InService,
        address: Some(std::net::SocketAddr::from(([10, (n >> 8) as u8, n as u8, 1 + round as u8], 5044))),
        zone: Some("z".repeat(100).parse().unwrap()),
    };
    rig.described("f1", (0..1_000).map(instance).collect()).await;
}

#[tokio::test]
async fn a_slow_reader_skips_to_the_newest_and_holds_nobody_up() {
    const ROUNDS: u32 = 16;
    let rig = Plan::new().without_guard().limits(|l| l.write_time = Duration::from_secs(300)).start().await;
    publish_large(&rig, 0).await;
    let slow = slow_reader(&rig, "?fleet=f1").await;
    let mut quick = rig.watch("?fleet=f1").await;
    quick.next().await;
    quick.next().await;
    for round in 1..=ROUNDS {
        publish_large(&rig, round).await;
        let whole = rig.fleet("f1").published().unwrap();
        // The one that reads gets every roster, whole, while the other one sleeps.
        assert_eq!(quick.next().await.unwrap().as_bytes(), &whole.event[..]);
    }
    let mut slow = slow.events().await;
    let mut seen = Vec::new();
    while seen.last() != Some(&rig.revision("f1")) {
        let block = slow.next().await.unwrap();
        let id = block.lines().find_map(|line| line.strip_prefix("id: "));
        seen.extend(id.map(|id| id.parse::<u64>().unwrap()));
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    assert!(seen.len() < ROUNDS as usize / 2, "{} of {ROUNDS} were queued", seen.len());
}

#[tokio::test]
async fn a_fleet_that_never_rests_does_not_starve_another_on_a_slow_stream() {
    let rig = Plan::new().fleet("f2", "other-dc", "us-east-1").without_guard().start().await;
    rig.describe("f2", &["10.0.1.1:5044"]).await;
    publish_large(&rig, 0).await;
    let mut stream = slow_reader(&rig, "?fleet=f1&fleet=f2").await.events().await;
    stream.roster().await;
    stream.roster().await;
    // The first fleet fills every buffer on the way, and only then the second one changes.
    for round in 1..=6 {
        publish_large(&rig, round).await;
        rig.get("/healthz").await;
    }
    rig.describe("f2", &["10.0.1.2:5044"]).await;
    for round in 7..=24 {
        // Each time the reader is ready for another event, the first fleet has news.
        publish_large(&rig, round).await;
        if stream.roster().await["fleet"] == "f2" {
            return;
        }
    }
    panic!("the second fleet's roster never came");
}

/// A watcher whose own buffers are small.
pub(crate) async fn slow_reader(rig: &Rig, query: &str) -> Wire<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut wire = Wire::new(socket.connect(rig.address).await.unwrap());
    wire.request("GET", &format!("/v1/watch{query}"), &[]).await;
    wire
}
