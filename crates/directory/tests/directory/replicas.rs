//! Replicas that share a real Redis: who asks, who takes over, and what happens without it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::time::Duration;

use pikepole_directory::engine::Refreshed;
use pikepole_directory::source::SourceError;
use pikepole_fleet::{AlertKind, FactKind, MemberState, Notice};
use tokio::time::{sleep, timeout};

use crate::engine_rig::{PATIENCE, Rig, group, grow, until};
use crate::replicas_rig::{Shared, agree, asks, leader_first};

async fn two(shared: &Shared) -> (Rig, Rig) {
    let (a, b) = (shared.replica("a").await, shared.replica("b").await);
    let (a, b) = leader_first(a, b).await;
    agree(&[&a, &b], shared.cloud.instances(&group("f")).len()).await;
    (a, b)
}

#[tokio::test]
async fn one_replica_asks_and_all_serve_the_same_revision() {
    let shared = Shared::new();
    grow(&shared.cloud, "f", 3);
    let (leader, follower) = two(&shared).await;
    let (before, idle) = (leader.asked.count(), follower.asked.count());
    for size in 4..8 {
        grow(&shared.cloud, "f", 1);
        agree(&[&leader, &follower], size).await;
    }
    assert!(leader.asked.count() >= before + 4);
    assert_eq!(follower.asked.count(), idle, "a follower never asks");
    // Nobody is woken, and nothing is told, for what is only confirmed again.
    let mut watcher = follower.fleet("f").watch();
    watcher.mark_unchanged();
    let confirmed = follower.fleet("f").freshness().unwrap().confirmed_at;
    until("a confirmation reaches the follower", || {
        follower.fleet("f").freshness().unwrap().confirmed_at > confirmed
    })
    .await;
    assert!(!watcher.has_changed().unwrap());
}

#[tokio::test]
async fn the_seeds_key_holds_the_seeds_bytes() {
    let shared = Shared::new();
    grow(&shared.cloud, "f", 2);
    let rig = shared.replica("a").await;
    agree(&[&rig], 2).await;
    let expected = "['10.0.0.1:5044', '10.0.0.2:5044']";
    assert_eq!(&rig.fleet("f").published().unwrap().seed[..], expected.as_bytes());
    assert_eq!(mirrored(&shared, 2).await, expected);
}

/// The mirrored key as soon as it lists so many.
async fn mirrored(shared: &Shared, hosts: usize) -> String {
    let look = async {
        loop {
            if let Some(list) = shared.get("f").await.filter(|l| l.matches(":5044'").count() == hosts) {
                return list;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, look).await.expect("the mirrored key never came")
}

#[tokio::test]
async fn a_leader_that_stops_or_dies_is_replaced() {
    let shared = Shared::new();
    grow(&shared.cloud, "f", 3);
    let (first, second) = two(&shared).await;
    first.stop().await;
    until("the other one asks", || asks(&second)).await;
    grow(&shared.cloud, "f", 1);
    agree(&[&second], 4).await;
    let third = shared.replica("c").await;
    let (second, third) = leader_first(second, third).await;
    second.kill().await;
    until("the lease has run out", || asks(&third)).await;
    grow(&shared.cloud, "f", 1);
    agree(&[&third], 5).await;
}

#[tokio::test]
async fn without_redis_each_asks_for_itself_and_later_they_agree_again() {
    let mut shared = Shared::new();
    let ids = grow(&shared.cloud, "f", 4);
    let (a, b) = two(&shared).await;
    let before = a.revision("f").max(b.revision("f"));
    shared.redis.stop();
    grow(&shared.cloud, "f", 1);
    for rig in [&a, &b] {
        until("it asks for itself", || asks(rig) && rig.hosts("f").unwrap().len() == 5).await;
        let is_told = || {
            rig.engine.review_alerts();
            rig.is_open(AlertKind::StoreFailing)
        };
        until("it tells of the loss", is_told).await;
    }
    // Each hears of another death.
    a.learn("f", &ids[0], FactKind::Terminating).await;
    b.learn("f", &ids[1], FactKind::SpotInterruption).await;
    assert_eq!((a.hosts("f").unwrap().len(), b.hosts("f").unwrap().len()), (4, 4));
    let highest = a.revision("f").max(b.revision("f"));
    shared.redis.restart_empty();
    agree(&[&a, &b], 3).await;
    assert!(
        before < highest && highest < a.revision("f"),
        "revisions in the new store grow from the old ones"
    );
    for rig in [&a, &b] {
        let is_over = || {
            rig.engine.review_alerts();
            !rig.is_open(AlertKind::StoreFailing)
        };
        until("the alert is over", is_over).await;
        for id in &ids[..2] {
            assert!(rig.fleet("f").state().overlay.is_dying(id));
        }
    }
    assert_eq!(mirrored(&shared, 3).await.as_bytes(), &a.fleet("f").published().unwrap().seed[..]);
}

#[tokio::test]
async fn a_replica_that_no_longer_asks_has_no_failing_source() {
    let mut shared = Shared::new();
    grow(&shared.cloud, "f", 2);
    let (a, b) = two(&shared).await;
    shared.redis.stop();
    shared.cloud.fail_with(Some(SourceError::Unreachable("503".into())));
    let is_open = |rig: &Rig| {
        rig.engine.review_alerts();
        rig.is_open(AlertKind::SourceFailing)
    };
    for rig in [&a, &b] {
        until("it fails", || rig.fleet("f").health().failures >= 2 && is_open(rig)).await;
    }
    shared.redis.restart_empty();
    let (leader, follower) = leader_first(a, b).await;
    until("the follower's alert is over", || !is_open(&follower)).await;
    until("the leader's is not", || is_open(&leader)).await;
}

#[tokio::test]
async fn a_record_spoiled_in_redis_is_put_aside_and_is_no_loss_of_redis() {
    let shared = Shared::new();
    let ids = grow(&shared.cloud, "f", 3);
    let mut rig = shared.replica("a").await;
    agree(&[&rig], 3).await;
    shared.set("pikepole:1:fleet:f", "['10.0.0.1:5044']").await;
    rig.learn("f", &ids[0], FactKind::Terminating).await;
    rig.engine.review_alerts();
    let told = rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::StoreQuarantined, Notice::Raised), 1, "{told:?}");
    assert_eq!(Rig::told_of(&told, AlertKind::StoreFailing, Notice::Raised), 0, "{told:?}");
    assert_eq!(rig.hosts("f").unwrap().len(), 2);
    let stored =
        shared.store("look").load_all(&["f".parse().unwrap()]).await.unwrap().remove(0).unwrap().unwrap();
    assert!(stored.state.overlay.is_dying(&ids[0]), "the event is in the new record");
}

#[tokio::test]
async fn a_frozen_redis_hangs_nothing() {
    let shared = Shared::new();
    let ids = grow(&shared.cloud, "f", 4);
    let (a, b) = two(&shared).await;
    shared.redis.pause();
    for (rig, id) in [(&a, &ids[0]), (&b, &ids[1])] {
        timeout(Duration::from_secs(10), rig.learn("f", id, FactKind::Terminating))
            .await
            .expect("an event hangs");
        assert_eq!(rig.hosts("f").unwrap().len(), 3);
        until("it asks for itself", || asks(rig)).await;
        let is_told = || {
            rig.engine.review_alerts();
            rig.is_open(AlertKind::StoreFailing)
        };
        until("it tells of the loss", is_told).await;
        let refreshed = rig.engine.refresh(rig.fleet("f"), Duration::from_secs(10)).await;
        assert!(matches!(refreshed, Refreshed::Confirmed(Some(_))), "{refreshed:?}");
    }
    shared.redis.resume();
    agree(&[&a, &b], 2).await;
    for rig in [a, b] {
        let is_over = || {
            rig.engine.review_alerts();
            !rig.is_open(AlertKind::StoreFailing)
        };
        until("the alert is over", is_over).await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_directory_stops_while_redis_is_frozen() {
    let shared = Shared::new();
    grow(&shared.cloud, "f", 2);
    let rig = shared.replica("a").await;
    agree(&[&rig], 2).await;
    shared.redis.pause();
    rig.stop().await; // panics when it takes too long
}

#[tokio::test]
async fn a_redis_restarted_empty_gets_its_records_and_keys_back() {
    let mut shared = Shared::new();
    let ids = grow(&shared.cloud, "f", 3);
    let (a, b) = two(&shared).await;
    a.learn("f", &ids[0], FactKind::Terminating).await;
    agree(&[&a, &b], 2).await;
    let revision = a.revision("f");
    let mut watcher = a.fleet("f").watch();
    watcher.mark_unchanged();
    shared.redis.restart_empty();
    assert_eq!(mirrored(&shared, 2).await.as_bytes(), &a.fleet("f").published().unwrap().seed[..]);
    agree(&[&a, &b], 2).await;
    assert_eq!(a.revision("f"), revision, "the same list is the same revision");
    assert!(!watcher.has_changed().unwrap());
    // A replica that knows nothing learns it from the store, the event too.
    let c = shared.replica("c").await;
    agree(&[&a, &b, &c], 2).await;
    assert!(c.fleet("f").state().overlay.is_dying(&ids[0]));
}

#[tokio::test]
async fn a_store_filled_anew_by_a_stranger_takes_no_event_from_those_who_heard_it() {
    let mut shared = Shared::new();
    let ids = grow(&shared.cloud, "f", 3);
    let a = shared.replica("a").await;
    agree(&[&a], 3).await;
    a.learn("f", &ids[0], FactKind::Terminating).await;
    let highest = a.revision("f");
    // Redis comes back empty, and one who knows nothing is there before all others.
    shared.redis.restart_empty();
    let stranger = shared.replica("stranger").await;
    let mut sendable_again = false;
    let both_know = || {
        let roster = a.fleet("f").published().unwrap();
        let member = roster.roster.members().iter().find(|m| m.instance_id == ids[0]).cloned();
        sendable_again |= member.is_none_or(|m| m.state != MemberState::Draining);
        [&a, &stranger].iter().all(|r| r.fleet("f").state().overlay.is_dying(&ids[0]))
    };
    until("both know of the death", both_know).await;
    agree(&[&a, &stranger], 2).await;
    assert!(!sendable_again);
    assert!(a.revision("f") >= highest);
}

#[tokio::test]
async fn two_replicas_that_race_lose_no_event() {
    let shared = Shared::new();
    let ids = grow(&shared.cloud, "f", 80);
    let mut a = shared.open("a", |_| {}).await;
    let mut b = shared.open("b", |_| {}).await;
    let learn = async |rig: &Rig, ids: &[_]| {
        for id in ids {
            rig.learn("f", id, FactKind::Terminating).await;
        }
    };
    tokio::join!(learn(&a, &ids[..40]), learn(&b, &ids[40..]));
    let stored =
        shared.store("look").load_all(&["f".parse().unwrap()]).await.unwrap().remove(0).unwrap().unwrap();
    assert_eq!(stored.state.overlay.entries.len(), 80);
    assert!(ids.iter().all(|id| stored.state.overlay.is_dying(id)));
    a.begin();
    b.begin();
    until("both know all", || [&a, &b].iter().all(|r| r.fleet("f").state().overlay.entries.len() == 80))
        .await;
}

#[tokio::test]
async fn a_refresh_on_a_follower_is_met_by_the_leader() {
    let shared = Shared::new();
    grow(&shared.cloud, "f", 2);
    let slow = |setup: &mut pikepole_directory::engine::Setup| setup.reconcile = Duration::from_secs(600);
    let (a, b) = (shared.replica_with("a", slow).await, shared.replica_with("b", slow).await);
    let (leader, follower) = leader_first(a, b).await;
    agree(&[&leader, &follower], 2).await;
    shared.cloud.notify(false);
    for size in 3..6 {
        grow(&shared.cloud, "f", 1);
        let before = shared.wall.now();
        let refreshed = follower.engine.refresh(follower.fleet("f"), PATIENCE).await;
        let Refreshed::Confirmed(Some(published)) = refreshed else { panic!("{refreshed:?}") };
        assert_eq!(published.roster.hosts().len(), size);
        assert!(follower.fleet("f").freshness().unwrap().confirmed_at >= before);
    }
    shared.cloud.fail_with(Some(SourceError::Denied("403".into())));
    let refreshed = follower.engine.refresh(follower.fleet("f"), PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Failed(_)), "{refreshed:?}");
    assert_eq!(follower.asked.count(), 0);
    // The leader dies while a refresh waits for it: whoever comes after meets it.
    shared.cloud.heal();
    grow(&shared.cloud, "f", 1);
    leader.kill().await;
    let refreshed = follower.engine.refresh(follower.fleet("f"), PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    assert_eq!(follower.hosts("f").unwrap().len(), 6);
}

#[tokio::test]
async fn a_refresh_on_a_follower_that_loses_redis_is_met_by_itself() {
    let mut shared = Shared::new();
    grow(&shared.cloud, "f", 2);
    let (_leader, follower) = two(&shared).await;
    shared.redis.stop();
    grow(&shared.cloud, "f", 1);
    let refreshed = follower.engine.refresh(follower.fleet("f"), PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    assert_eq!(follower.hosts("f").unwrap().len(), 3);
}

#[tokio::test]
async fn a_replica_started_without_source_and_redis_serves_its_own_disk() {
    let mut shared = Shared::new();
    grow(&shared.cloud, "f", 3);
    let (a, b) = two(&shared).await;
    let (revision, follower) = (b.revision("f"), b);
    a.stop().await;
    // Which of the two followed is the lease's choice; each has a disk of its own.
    let name = if shared.folder("a/fleets/f.rec").exists() { "a" } else { "b" };
    follower.stop().await;
    shared.redis.stop();
    shared.cloud.fail_with(Some(SourceError::Unreachable("503".into())));
    for name in [name, "b"] {
        let rig = shared.replica(name).await;
        assert_eq!((rig.hosts("f").unwrap().len(), rig.revision("f")), (3, revision), "{name}");
        rig.kill().await;
    }
    let ignorant = shared.replica("nobody").await;
    until("it has tried", || ignorant.fleet("f").health().failures >= 2).await;
    assert!(ignorant.fleet("f").published().is_none() && !ignorant.engine.is_ready());
    let refreshed = ignorant.engine.refresh(ignorant.fleet("f"), PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Failed(_)), "{refreshed:?}");
}
