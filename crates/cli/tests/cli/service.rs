//! A directory as a supervisor sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::harness::{Place, get, signal, within};

#[tokio::test]
async fn a_term_under_load_loses_no_request_and_ends_with_0() {
    let mut directory = Place::new("").start().await;
    let address = directory.address;
    let term = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut load = JoinSet::new();
    for n in 0..12 {
        let (term, answered) = (Arc::clone(&term), Arc::clone(&answered));
        let path =
            ["/v1/fleets/f1/roster", "/logstash-ip?dcid=some-dc&region=ap-south-1", "/v1/fleets"][n % 3];
        load.spawn(async move {
            loop {
                let mut sent_before = false;
                let answer = get(address, path, || sent_before = !term.load(Ordering::SeqCst)).await;
                match answer.expect("a whole answer or none") {
                    Some(answer) => assert_eq!(answer.status, 200, "{answer:?}"),
                    None if sent_before => panic!("a request sent before the stop was not answered"),
                    None => return,
                }
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let mut waiting = JoinSet::new();
    let revision: serde_json::Value =
        serde_json::from_str(&directory.get("/v1/fleets/f1/roster").await.unwrap().body).unwrap();
    let poll = format!("/v1/fleets/f1/roster?after={}&wait=5m", revision["revision"]);
    for n in 0..20 {
        let path = if n % 2 == 0 { poll.clone() } else { "/v1/watch".to_string() };
        waiting.spawn(async move { get(address, &path, || ()).await.unwrap().expect("an answer") });
    }
    let watched = async {
        let watchers = "pikepole_fleet_watchers{fleet=\"f1\"} 20";
        while !directory.get("/metrics").await.unwrap().body.contains(watchers) {}
        while answered.load(Ordering::SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
    };
    within("load and watchers", watched).await;
    term.store(true, Ordering::SeqCst);
    signal(&directory.child, Signal::TERM);
    assert_eq!(directory.ends().await, Some(0), "{}", directory.log());
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    while let Some(answer) = waiting.join_next().await {
        let answer = answer.unwrap();
        let sent_away = answer.status == 503 && answer.body.contains("\"unavailable\"");
        assert!(sent_away || answer.body.contains("event: goaway"), "{answer:?}");
    }
    let log = directory.log();
    assert!(log.contains("directory stopped"), "{log}");
    for word in ["panicked", "\"ERROR\"", "\"WARN\""] {
        assert!(!log.contains(word), "{log}");
    }
}

#[tokio::test]
async fn an_interrupt_ends_it_with_0_too() {
    let mut directory = Place::new("").start().await;
    signal(&directory.child, Signal::INT);
    assert_eq!(directory.ends().await, Some(0));
}

#[tokio::test]
async fn a_kill_loses_no_roster() {
    let mut directory = Place::new("").start().await;
    let before = directory.get("/v1/fleets/f1/roster").await.unwrap().body;
    // A roster is served at once and written right after: reading it must not wait for the disk.
    let record = directory.place.path("store/fleets/f1.rec");
    within("the record on disk", async {
        while !record.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    directory.child.kill().await.unwrap();
    let place = directory.place;
    // The source is away: only what was written down is left.
    std::fs::remove_file(place.path("members.json")).unwrap();
    let again = place.start().await;
    assert_eq!(again.get("/v1/fleets/f1/roster").await.unwrap().body, before);
}
