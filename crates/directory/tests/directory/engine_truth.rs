//! What wakes a watcher, and what does not.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pikepole_fleet::{FactKind, Lifecycle};
use tokio::task::JoinSet;

use crate::engine_rig::{Rig, group, grow, pass};

#[tokio::test(start_paused = true)]
async fn each_change_wakes_each_watcher_once_and_a_confirmation_nobody() {
    let rig = Rig::start(&["f"]).await;
    let ids = grow(&rig.cloud, "f", 4);
    pass(60).await;
    let woken: Arc<Vec<AtomicUsize>> = Arc::new((0..50).map(|_| AtomicUsize::new(0)).collect());
    let mut watchers = JoinSet::new();
    for n in 0..50 {
        let (mut watch, woken) = (rig.fleet("f").watch(), Arc::clone(&woken));
        watch.mark_unchanged();
        watchers.spawn(async move {
            while watch.changed().await.is_ok() {
                let seen = watch.borrow_and_update().clone().published.unwrap();
                // Whoever sees a revision sees the whole list of it, in every form.
                assert_eq!(seen.revision(), seen.roster.revision());
                let json: serde_json::Value = serde_json::from_slice(&seen.json).unwrap();
                assert_eq!(json["revision"], seen.revision().get());
                assert_eq!(json["members"].as_array().unwrap().len(), seen.roster.members().len());
                woken[n].fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let all_woken = |times: usize| {
        assert!(woken.iter().all(|w| w.load(Ordering::SeqCst) == times), "{woken:?} instead of {times}");
    };
    pass(600).await;
    all_woken(0);
    rig.learn("f", &ids[0], FactKind::Terminating).await;
    pass(1).await;
    all_woken(1);
    // The same again in other words: a duplicate, and the describe that says so too.
    rig.learn("f", &ids[0], FactKind::SpotInterruption).await;
    rig.cloud.set_lifecycle(&group("f"), &ids[0], Lifecycle::Leaving);
    pass(120).await;
    all_woken(1);
    rig.cloud.remove(&group("f"), &ids[0]);
    grow(&rig.cloud, "f", 2);
    pass(60).await;
    all_woken(2);
    pass(3_600).await;
    all_woken(2);
    assert_eq!(rig.engine.counters().published.load(Ordering::SeqCst), 3);
}
