//! Events as the engine takes them in: whose they are, when they happened, and whether their effect is
//! kept.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_directory::config::SourceConfig;
use pikepole_directory::engine::{Stores, Taken};
use pikepole_directory::events::{Event, EventKind};
use pikepole_directory::source::sim::SimCloud;
use pikepole_directory::store::{SaveError, Store, StoreError, Stored, Version};
use pikepole_fleet::{FleetName, FleetState, InstanceId, Lifecycle, MemberState, Timestamp, Transition};

use crate::drain_rig::{Drains, event, hook_event};
use crate::engine_rig::{Rig, Wall, fleet_config, group, grow, pass, source};

fn taken(ours: usize, foreign: usize, not_kept: usize) -> Taken {
    Taken { ours, foreign, not_kept }
}

fn state_of(rig: &Rig, fleet: &str, id: &InstanceId) -> Option<MemberState> {
    let published = rig.fleet(fleet).published()?;
    published.roster.members().iter().find(|m| m.instance_id == *id).map(|m| m.state)
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_bad_news_leaves_a_member_at_once_whatever_describes_say() {
    use EventKind::{SpotInterruption, Stopped, TerminateHook, Terminated};
    for kind in [TerminateHook, Terminated, SpotInterruption, Stopped] {
        let d = Drains::of(3).await;
        assert_eq!(d.hear(&event(kind, &d.ids[0])).await, taken(1, 0, 0));
        assert_eq!(d.state_of(0), Some(MemberState::Draining), "{kind:?}");
        pass(120).await;
        assert_eq!(d.state_of(0), Some(MemberState::Draining), "a describe says InService all the time");
        assert_eq!(d.rig.hosts("f").unwrap().len(), 2);
    }
    let d = Drains::of(5).await;
    for n in 0..5 {
        d.hear(&event(EventKind::Rebalance, &d.ids[n])).await;
    }
    let last = (0..5).filter(|n| d.state_of(*n) == Some(MemberState::LastResort)).count();
    assert_eq!((last, d.rig.hosts("f").unwrap().len()), (2, 3), "at most half");
    use EventKind::{LaunchFailed, Running, TerminateFailed};
    for kind in [LaunchFailed, TerminateFailed, Running] {
        let before = d.revision();
        assert_eq!(d.hear(&event(kind, &d.ids[0])).await, taken(1, 0, 0));
        assert_eq!(d.revision(), before, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_warning_about_an_instance_that_nobody_knows_counts_when_a_describe_lists_it() {
    let d = Drains::of(3).await;
    let (early, foreign) = (id("i-00000000000000003"), id("i-foreign"));
    for id in [&early, &foreign] {
        let warning = Event { group: None, ..event(EventKind::SpotInterruption, id) };
        assert_eq!(d.hear(&warning).await, taken(0, 1, 0));
    }
    assert_eq!(grow(&d.rig.cloud, "f", 1), std::slice::from_ref(&early));
    pass(40).await;
    assert_eq!(state_of(&d.rig, "f", &early), Some(MemberState::Draining));
    assert!(d.rig.fleet("f").state().lives.get(&foreign).is_none());
    // Another group's events are nobody's.
    let other = Event { group: Some(group("other")), ..event(EventKind::Terminated, &d.ids[0]) };
    assert_eq!(d.hear(&other).await, taken(0, 1, 0));
    assert_eq!(d.state_of(0), Some(MemberState::Active));
}

#[tokio::test(start_paused = true)]
async fn fleets_of_one_group_hear_the_same_and_those_of_a_file_hear_nothing() {
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    let ids = grow(&cloud, "g", 3);
    let rig = Rig::start_on(cloud.clone(), wall, &[], |setup| {
        let mut one =
            source("sim", &cloud, &crate::engine_rig::Asked::default(), &["one", "two", "far", "file"]);
        for (fleet, region) in one.fleets.iter_mut().zip(["r", "r", "elsewhere", "r"]) {
            fleet.source = SourceConfig::Aws { asg: group("g"), assume_role: None };
            fleet.region = region.parse().unwrap();
        }
        one.fleets[1].port = 6_044;
        one.fleets[3].source = SourceConfig::File { path: "members.json".into() };
        one.fleets[3].name = fleet_config("g").name;
        setup.sources = vec![one];
    })
    .await;
    pass(2).await;
    let here = Event { region: Some("r".parse().unwrap()), ..event(EventKind::Terminated, &ids[0]) };
    let here = Event { group: Some(group("g")), ..here };
    assert_eq!(rig.engine.take_events(&[here]).await, taken(1, 0, 0));
    let states = ["one", "two", "far", "g"].map(|fleet| state_of(&rig, fleet, &ids[0]));
    let (left, there) = (Some(MemberState::Draining), Some(MemberState::Active));
    assert_eq!(states[..3], [left, left, there]);
    assert!(rig.fleet("g").state().lives.iter().next().is_none(), "a file is the only truth about itself");
}

#[tokio::test(start_paused = true)]
async fn a_hook_of_a_namesake_in_another_region_is_awaited_by_nobody_for_long() {
    let mut d = Drains::of(3).await;
    // The bare message of a hook does not say its region.
    let stranger = id("i-stranger");
    d.hear(&hook_event(&stranger, "launch", "t", Transition::Launching)).await;
    d.hear(&hook_event(&stranger, "drain", "u", Transition::Terminating)).await;
    pass(120).await;
    let state = d.rig.fleet("f").state();
    let life = state.lives.get(&stranger);
    assert!(life.is_none_or(|life| life.gone.is_some() && !life.has_open()), "{life:?}");
    assert!(d.rig.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_event_does_no_harm_whatever_it_is() {
    let hour = 3_600_000;
    for (offset, believed) in
        [(-60_000_i64, true), (60_000, true), (hour, true), (48 * hour, true), (-hour, false)]
    {
        let d = Drains::of(3).await;
        let at = Timestamp::from_millis(d.rig.wall.now().as_millis().saturating_add_signed(offset));
        let event = Event { at: Some(at), ..event(EventKind::SpotInterruption, &d.ids[0]) };
        assert_eq!(d.engine().take_events(&[event]).await, taken(1, 0, 0));
        // A warning of an hour ago about one that serves until now is over.
        assert_eq!(d.state_of(0) == Some(MemberState::Draining), believed, "{offset} ms");
        pass(700).await;
        assert_eq!(
            d.state_of(0),
            Some(MemberState::Active),
            "{offset} ms: it holds for ten minutes, not for ever"
        );
    }
    let d = Drains::of(3).await;
    let timeless = Event { at: None, ..event(EventKind::SpotInterruption, &d.ids[0]) };
    d.engine().take_events(&[timeless]).await;
    assert_eq!(d.state_of(0), Some(MemberState::Draining));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_believed_though_the_clock_of_aws_is_an_hour_off() {
    for hours in [-1, 1] {
        let d = Drains::of(3).await;
        let off = hours * 3_600_000_i64;
        d.hooks.clock_is_ahead(off);
        let at = Timestamp::from_millis(d.rig.wall.now().as_millis().saturating_add_signed(off));
        let warning = Event { at: Some(at), ..event(EventKind::SpotInterruption, &d.ids[0]) };
        d.engine().take_events(&[warning]).await;
        assert_eq!(d.state_of(0), Some(MemberState::Draining));
        pass(590).await;
        assert_eq!(d.state_of(0), Some(MemberState::Draining), "{hours}: ten minutes are ten minutes");
        pass(100).await;
        assert_eq!(d.state_of(0), Some(MemberState::Active));
    }
}

/// A disk that is full, or not.
#[derive(Default)]
struct Disk(AtomicBool);

#[async_trait]
impl Store for Disk {
    async fn load(&self, _: &FleetName) -> Result<Option<Stored>, StoreError> {
        Ok(None)
    }

    async fn save(&self, _: &FleetState, expected: Option<Version>) -> Result<Version, SaveError> {
        if self.0.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("no space left on device".into()).into());
        }
        Ok(Version(expected.map_or(1, |v| v.0 + 1)))
    }
}

#[tokio::test(start_paused = true)]
async fn an_effect_that_is_not_in_the_store_is_told_so_and_kept_when_it_comes_again() {
    let disk = Arc::new(Disk::default());
    let store = Arc::clone(&disk) as Arc<dyn Store>;
    let d = Drains::with(3, |setup| setup.stores = Stores::on_disk(Ok(store))).await;
    disk.0.store(true, Ordering::SeqCst);
    let hook = hook_event(&d.ids[0], "drain", "t", Transition::Terminating);
    assert_eq!(d.hear(&hook).await, taken(1, 0, 1));
    assert_eq!(d.state_of(0), Some(MemberState::Draining), "what is not kept takes effect all the same");
    assert_eq!(d.hear(&hook).await, taken(1, 0, 1));
    disk.0.store(false, Ordering::SeqCst);
    assert_eq!(d.hear(&hook).await, taken(1, 0, 0));
    pass(1).await;
}

#[tokio::test(start_paused = true)]
async fn detached_retained_and_pooled_instances_are_not_sent_to() {
    let d = Drains::of(6).await;
    let ends = [Lifecycle::Leaving, Lifecycle::Away, Lifecycle::Unknown];
    for (n, lifecycle) in ends.into_iter().enumerate() {
        d.rig.cloud.set_lifecycle(&group("f"), &d.ids[n], lifecycle);
    }
    d.end(3);
    pass(Duration::from_secs(60).as_secs()).await;
    let states: Vec<_> = (0..6).map(|n| d.state_of(n)).collect();
    let active = Some(MemberState::Active);
    assert_eq!(states, [Some(MemberState::Draining), None, None, None, active, active]);
}
