//! What readers see while the source fails, for a moment or for hours.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::time::Duration;

use pikepole_directory::source::SourceError;
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{AlertKind, FactKind, Lifecycle, Notice};

use crate::engine_rig::{Rig, STALE, Wall, group, grow, pass};

fn unreachable() -> Option<SourceError> {
    Some(SourceError::Unreachable("503".into()))
}

async fn five() -> Rig {
    let rig = Rig::start(&["f"]).await;
    grow(&rig.cloud, "f", 5);
    pass(120).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5);
    rig
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_at_the_start_is_unknown_and_not_empty() {
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    grow(&cloud, "f", 2);
    cloud.fail_with(unreachable());
    let mut rig = Rig::start_on(cloud, wall, &["f"], |_| {}).await;
    pass(600).await;
    assert!(!rig.engine.is_ready());
    assert!(rig.fleet("f").published().is_none() && rig.fleet("f").freshness().is_none());
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::SourceFailing, Notice::Raised), 1);
    rig.cloud.heal();
    pass(37).await;
    assert!(rig.engine.is_ready());
    assert_eq!(rig.hosts("f").unwrap().len(), 2);
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::SourceFailing, Notice::Resolved), 1);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_source_changes_nothing_but_the_age() {
    let mut rig = five().await;
    let (revision, hosts) = (rig.revision("f"), rig.hosts("f"));
    let mut watcher = rig.fleet("f").watch();
    watcher.mark_unchanged();
    rig.cloud.fail_with(unreachable());
    let mut ages = Vec::new();
    for _ in 0..65 {
        pass(60).await;
        ages.push(rig.fleet("f").age(rig.wall.now()).unwrap());
        assert_eq!((rig.revision("f"), rig.hosts("f")), (revision, hosts.clone()));
    }
    assert!(!watcher.has_changed().unwrap(), "a watcher was woken for nothing");
    assert!(ages.windows(2).all(|w| w[1] - w[0] == Duration::from_secs(60)), "{ages:?}");
    assert!(rig.engine.is_stale(rig.fleet("f")) && rig.engine.is_ready());
    assert!(ages[64] > Duration::from_secs(64 * 60));
    let told = rig.told();
    for kind in [AlertKind::SourceFailing, AlertKind::FleetStale] {
        assert_eq!(Rig::told_of(&told, kind, Notice::Raised), 1, "{told:?}");
        assert_eq!(Rig::told_of(&told, kind, Notice::Repeated), 1, "{told:?}");
        assert_eq!(Rig::told_of(&told, kind, Notice::Resolved), 0, "{told:?}");
    }
    rig.cloud.heal();
    pass(60).await;
    assert!(!rig.engine.is_stale(rig.fleet("f")));
    let told = rig.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|(.., notice)| *notice == Notice::Resolved), "{told:?}");
    assert_eq!(rig.revision("f"), revision);
    assert!(!watcher.has_changed().unwrap(), "a confirmation is no change");
}

#[tokio::test(start_paused = true)]
async fn events_still_count_while_the_source_is_down() {
    let rig = five().await;
    let ids = rig.cloud.instances(&group("f"));
    rig.cloud.fail_with(unreachable());
    rig.learn("f", &ids[0].id, FactKind::SpotInterruption).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 4);
    pass(3_600).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 4, "while describes fail a dying instance stays dying");
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_is_never_published() {
    let mut rig = five().await;
    let revision = rig.revision("f");
    rig.cloud.answer_empty(true);
    pass(3_600).await;
    assert_eq!((rig.hosts("f").unwrap().len(), rig.revision("f")), (5, revision));
    let told = rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::GuardHolding, Notice::Raised), 1, "{told:?}");
    rig.cloud.heal();
    pass(40).await;
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::GuardHolding, Notice::Resolved), 1);
    assert_eq!(rig.revision("f"), revision);
}

#[tokio::test(start_paused = true)]
async fn missing_addresses_change_nothing_and_are_looked_for_again_soon() {
    let rig = five().await;
    rig.cloud.hide_addresses(true);
    let before = rig.asked.count();
    pass(600).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5, "known addresses stay known");
    let gap = 600.0 / (rig.asked.count() - before) as f64;
    assert!(gap < 10.0, "asked again every {gap} s");
    // A new instance without an address is not listed, and takes nobody else's place.
    grow(&rig.cloud, "f", 1);
    pass(60).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5);
    rig.cloud.heal();
    pass(36).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_partial_answer_without_proof_is_held_for_a_minute_and_three_reads() {
    let mut rig = five().await;
    rig.cloud.drop_share(0.6);
    rig.cloud.ec2_silent(true);
    pass(55).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5, "held");
    assert!(rig.is_open(AlertKind::GuardHolding));
    // It heals before the guard gives in: nobody ever saw it.
    rig.cloud.heal();
    pass(40).await;
    assert!(!rig.is_open(AlertKind::GuardHolding));
    rig.told();
    rig.cloud.drop_share(0.6);
    rig.cloud.ec2_silent(true);
    pass(200).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 2, "told often and long enough, it is believed");
}

#[tokio::test(start_paused = true)]
async fn a_partial_answer_that_ec2_contradicts_is_held_and_one_it_proves_is_not() {
    let rig = five().await;
    let ids: Vec<_> = rig.cloud.instances(&group("f")).into_iter().map(|i| i.id).collect();
    rig.cloud.drop_share(0.6);
    pass(37).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5, "EC2 knows them all, so the answer is partial");
    rig.cloud.heal();
    pass(37).await;
    for id in &ids[..4] {
        rig.cloud.remove(&group("f"), id);
    }
    pass(37).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 1, "EC2 proves that they are gone");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_emptied_on_purpose_is_empty_after_two_reads_and_people_hear_of_it() {
    let mut rig = five().await;
    rig.cloud.ec2_silent(true);
    rig.cloud.set_desired(&group("f"), 0);
    for instance in rig.cloud.instances(&group("f")) {
        rig.cloud.remove(&group("f"), &instance.id);
    }
    pass(60).await;
    assert_eq!(rig.hosts("f"), Some(vec![]));
    let told = rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::FleetEmpty, Notice::Raised), 1, "{told:?}");
    assert_eq!(Rig::told_of(&told, AlertKind::GuardHolding, Notice::Raised), 0, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_exist_is_neither_unknown_nor_empty_and_may_appear() {
    let mut rig = Rig::start(&["f"]).await;
    pass(60).await;
    assert!(rig.engine.is_ready() && rig.fleet("f").state().missing);
    assert!(rig.fleet("f").published().is_none());
    assert!(rig.is_open(AlertKind::FleetMissing));
    grow(&rig.cloud, "f", 2);
    pass(37).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 2);
    let told = rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::FleetMissing, Notice::Resolved), 1, "{told:?}");
    // And when it goes again, its last roster stays.
    rig.cloud.delete_group(&group("f"));
    pass(300).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 2);
    assert!(rig.is_open(AlertKind::FleetMissing));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_makes_no_roster_younger_and_stops_nothing() {
    let rig = five().await;
    let id = rig.cloud.instances(&group("f"))[0].id.clone();
    let mut last = rig.revision("f");
    for (step, away) in [(-3_600, true), (86_400, false), (-3_600, true)] {
        rig.wall.step(step);
        pass(60).await;
        assert!(!rig.engine.is_stale(rig.fleet("f")), "confirmed since the step of {step} s");
        let to = if away { Lifecycle::Away } else { Lifecycle::InService };
        rig.cloud.set_lifecycle(&group("f"), &id, to);
        pass(60).await;
        if step < 0 || !away {
            assert_eq!(rig.hosts("f").unwrap().len(), if away { 4 } else { 5 }, "after a step of {step} s");
        }
        assert!(rig.revision("f") > last, "revisions grow across a step of {step} s");
        last = rig.revision("f");
        rig.cloud.set_lifecycle(&group("f"), &id, to);
    }
    // The source goes down, then the clock back: what was confirmed long ago does not look fresh.
    rig.cloud.fail_with(unreachable());
    pass(60).await;
    rig.wall.step(-3_600);
    pass(STALE.as_secs()).await;
    let age = rig.fleet("f").age(rig.wall.now()).unwrap();
    assert!(age >= STALE, "{age:?}");
    assert!(rig.engine.is_stale(rig.fleet("f")) && rig.is_open(AlertKind::FleetStale));
}
