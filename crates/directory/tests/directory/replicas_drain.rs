//! Drains with replicas on a real Redis: agents of all of them count, whoever leads completes, and nobody
//! does while Redis is lost, emptied, or the clocks differ.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::clock::Clock;
use pikepole_directory::config::DrainConfig;
use pikepole_directory::engine::{ReplicaTimes, Setup, Stores};
use pikepole_directory::events::{Event, EventKind};
use pikepole_fleet::{AlertKind, HookEnd, InstanceId, MemberState, Timestamp, Transition};
use tokio::time::{Instant, sleep};

use crate::drain_rig::{Account, Hooks, Proxy, event, hook_event};
use crate::engine_rig::{Rig, grow, until};
use crate::replicas_rig::{Shared, agree, leader_first};

/// A lease that outlives a call about a hook, but not a test.
const TIMES: ReplicaTimes = ReplicaTimes {
    lease: Duration::from_millis(4_500),
    renew: Duration::from_millis(400),
    reread: Duration::from_millis(500),
};
const SETTLE: Duration = Duration::from_secs(2);

struct World {
    shared: Shared,
    hooks: Hooks,
    ids: Vec<InstanceId>,
}

impl World {
    async fn two() -> (Self, Rig, Rig) {
        let world = Self::new();
        let (a, b) = (world.replica("a", 0).await, world.replica("b", 0).await);
        let (leader, follower) = leader_first(a, b).await;
        agree(&[&leader, &follower], 3).await;
        (world, leader, follower)
    }

    fn new() -> Self {
        let shared = Shared::new();
        // The simulated account goes by the time that Redis tells.
        let ahead = Clock::system().now().as_millis() / 1000 - shared.wall.now().as_millis() / 1000;
        shared.wall.step(i64::try_from(ahead).unwrap());
        let ids = grow(&shared.cloud, "f", 3);
        let hooks = Hooks::default();
        hooks.put("drain", 300);
        Self { shared, hooks, ids }
    }

    /// A replica whose machine's clock is so many hours ahead.
    async fn replica(&self, name: &str, hours: i64) -> Rig {
        let account = Account { source: Box::new(self.shared.cloud.source()), hooks: self.hooks.clone() };
        let stores = Stores::default().with_redis(Arc::new(self.shared.store(name)), false, TIMES);
        let wall = self.shared.wall.clone();
        let change = move |setup: &mut Setup| {
            setup.sources[0].source = Arc::new(account);
            setup.stores = stores;
            setup.drain = DrainConfig { settle: SETTLE, deadline: Duration::from_secs(60) };
            setup.clock = Clock::from_fn(move || {
                Timestamp::from_millis(wall.now().as_millis().saturating_add_signed(hours * 3_600_000))
            });
        };
        self.shared.replica_with(name, change).await
    }

    /// The hook of the first collector waits, and one replica hears of it.
    async fn terminate(&self, heard_by: &Rig, all: &[&Rig]) {
        self.hooks.wait(&self.ids[0], "drain");
        let event = hook_event(&self.ids[0], "drain", "t", Transition::Terminating);
        hear(heard_by, event).await;
        agree(all, 2).await;
    }

    async fn completed(&self) -> Instant {
        until("the hook is completed", || !self.hooks.waits(&self.ids[0])).await;
        self.hooks.completed(&self.ids[0])[0]
    }

    /// Nothing is completed for so long.
    async fn holds(&self, seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
        assert!(self.hooks.waits(&self.ids[0]), "completed though somebody holds");
    }
}

async fn hear(rig: &Rig, event: Event) {
    let event = Event { at: Some(rig.engine.clock().now()), ..event };
    assert_eq!(rig.engine.take_events(&[event]).await.not_kept, 0);
}

fn end(rig: &Rig, id: &InstanceId) -> Option<HookEnd> {
    rig.fleet("f").state().lives.get(id)?.waiting.first()?.done.map(|(_, end)| end)
}

#[tokio::test]
async fn the_agents_of_all_replicas_are_waited_for_and_one_of_them_completes() {
    let (world, leader, follower) = World::two().await;
    let (x, y) = (Proxy::new("x"), Proxy::new("y"));
    x.polls(&leader.engine, Some(leader.revision("f")));
    y.polls(&follower.engine, Some(follower.revision("f")));
    world.terminate(&follower, &[&leader, &follower]).await;
    x.polls(&leader.engine, Some(leader.revision("f")));
    world.holds(4).await;
    let moved = Instant::now();
    y.polls(&follower.engine, Some(follower.revision("f")));
    let after = world.completed().await.duration_since(moved);
    assert!((SETTLE..SETTLE + Duration::from_secs(2)).contains(&after), "{after:?}");
    for rig in [&leader, &follower] {
        until("both know how it ended", || end(rig, &world.ids[0]) == Some(HookEnd::Converged)).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.hooks.completed(&world.ids[0]).len(), 1);
}

#[tokio::test]
async fn agents_of_a_leader_that_dies_have_the_time_to_come_to_another() {
    let (world, leader, follower) = World::two().await;
    let (x, y, z) = (Proxy::new("x"), Proxy::new("y"), Proxy::new("z"));
    x.polls(&leader.engine, Some(leader.revision("f")));
    z.polls(&leader.engine, Some(leader.revision("f")));
    y.polls(&follower.engine, Some(follower.revision("f")));
    world.terminate(&leader, &[&leader, &follower]).await;
    y.polls(&follower.engine, Some(follower.revision("f")));
    z.polls(&leader.engine, Some(leader.revision("f")));
    sleep(Duration::from_millis(400)).await;
    leader.kill().await;
    let killed = Instant::now();
    // One of them comes, still not off; the other one never does, and had moved off.
    sleep(Duration::from_secs(3)).await;
    let again = Proxy::new("x");
    again.polls(&follower.engine, None);
    world.holds(4).await;
    again.leaves(&follower.engine);
    let after = world.completed().await.duration_since(killed);
    assert!(after >= Duration::from_secs(12), "x was live for five seconds more: {after:?}");
    assert!(after < Duration::from_secs(25), "{after:?}");
}

#[tokio::test]
async fn an_agent_that_died_with_its_replica_is_waited_for_fifteen_seconds() {
    let (world, leader, follower) = World::two().await;
    let (x, y) = (Proxy::new("x"), Proxy::new("y"));
    x.polls(&follower.engine, Some(follower.revision("f")));
    y.polls(&leader.engine, Some(leader.revision("f")));
    world.terminate(&leader, &[&leader, &follower]).await;
    y.polls(&leader.engine, Some(leader.revision("f")));
    sleep(Duration::from_millis(400)).await;
    follower.kill().await;
    let killed = Instant::now();
    let after = world.completed().await.duration_since(killed);
    let (least, most) = (Duration::from_secs(15) + SETTLE, Duration::from_secs(21));
    assert!((least..most).contains(&after), "{after:?}");
}

#[tokio::test]
async fn nobody_completes_while_redis_is_lost_and_the_leader_does_when_it_is_back() {
    for empty in [false, true] {
        let (mut world, leader, follower) = World::two().await;
        let (x, y) = (Proxy::new("x"), Proxy::new("y"));
        x.polls(&leader.engine, Some(leader.revision("f")));
        y.polls(&follower.engine, Some(follower.revision("f")));
        world.terminate(&leader, &[&leader, &follower]).await;
        sleep(Duration::from_millis(300)).await;
        world.shared.redis.pause();
        for rig in [&leader, &follower] {
            let is_told = || {
                rig.engine.review_alerts();
                rig.is_open(AlertKind::StoreFailing)
            };
            until("it knows of the loss", is_told).await;
        }
        x.polls(&leader.engine, Some(leader.revision("f")));
        y.polls(&follower.engine, Some(follower.revision("f")));
        world.holds(7).await;
        let back = Instant::now();
        if empty {
            world.shared.redis.restart_empty()
        } else {
            world.shared.redis.resume()
        }
        assert!(world.completed().await.duration_since(back) >= SETTLE);
        let known = || [&leader, &follower].iter().all(|r| end(r, &world.ids[0]).is_some());
        until("both know that it is done", known).await;
    }
}

#[tokio::test]
async fn a_redis_that_lost_its_data_makes_nobody_forget_an_agent() {
    let (world, leader, follower) = World::two().await;
    let (x, y) = (Proxy::new("x"), Proxy::new("y"));
    x.polls(&leader.engine, Some(leader.revision("f")));
    y.polls(&follower.engine, Some(follower.revision("f")));
    world.terminate(&leader, &[&leader, &follower]).await;
    sleep(Duration::from_millis(400)).await;
    world.shared.flush().await;
    // Whoever leads afterwards: the agent that polls the other one holds.
    sleep(Duration::from_secs(1)).await;
    let polled_by_x = Arc::clone(&leader.engine);
    let (leader, follower) = leader_first(leader, follower).await;
    let (own, other) = if Arc::ptr_eq(&leader.engine, &polled_by_x) { (&x, &y) } else { (&y, &x) };
    own.polls(&leader.engine, Some(leader.revision("f")));
    world.holds(6).await;
    other.polls(&follower.engine, Some(follower.revision("f")));
    world.completed().await;
}

#[tokio::test]
async fn two_leaders_for_a_moment_complete_nothing_early() {
    let (world, leader, follower) = World::two().await;
    let (x, y) = (Proxy::new("x"), Proxy::new("y"));
    x.polls(&leader.engine, Some(leader.revision("f")));
    y.polls(&follower.engine, Some(follower.revision("f")));
    world.terminate(&leader, &[&leader, &follower]).await;
    x.polls(&leader.engine, Some(leader.revision("f")));
    for _ in 0..12 {
        world.shared.delete("pikepole:1:lease:leader").await;
        world.holds(0).await;
        sleep(Duration::from_millis(300)).await;
    }
    y.polls(&follower.engine, Some(follower.revision("f")));
    world.completed().await;
    for rig in [&leader, &follower] {
        until("both know that it is done", || end(rig, &world.ids[0]).is_some()).await;
    }
    assert_eq!(world.hooks.completed(&world.ids[0]).len(), 1);
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_ends_no_drain_early_and_makes_nothing_old() {
    for hours in [1, -1] {
        let world = World::new();
        let (right, wrong) = (world.replica("right", 0).await, world.replica("wrong", hours).await);
        agree(&[&right, &wrong], 3).await;
        let y = Proxy::new("y");
        y.polls(&wrong.engine, Some(wrong.revision("f")));
        world.terminate(&wrong, &[&right, &wrong]).await;
        // Whoever leads now: the other one will.
        world.holds(3).await;
        right.stop().await;
        until("the one with the wrong clock leads", || crate::replicas_rig::asks(&wrong)).await;
        world.holds(3).await;
        let age = wrong.fleet("f").age(wrong.engine.clock().now()).unwrap();
        assert!(age < Duration::from_secs(20), "{age:?}");
        let state = wrong.fleet("f").state();
        let life = state.lives.get(&world.ids[0]).unwrap();
        let (now, until) = (wrong.engine.clock().now(), life.waiting[0].until);
        assert!(until.since(now) > Duration::from_secs(30), "{until} is too near to {now}");
        assert!(until.since(now) < Duration::from_secs(60));
        let member = wrong.fleet("f").published().unwrap();
        let member = member.roster.members().iter().find(|m| m.instance_id == world.ids[0]).cloned();
        assert_eq!(
            member.unwrap().state,
            MemberState::Draining,
            "the event is neither old nor of the future"
        );
        y.polls(&wrong.engine, Some(wrong.revision("f")));
        world.completed().await;
    }
}

#[tokio::test]
async fn a_warning_that_a_follower_heard_too_early_counts_when_the_leader_finds_the_instance() {
    let (world, leader, follower) = World::two().await;
    // The ids of the account are given out in turn.
    let last = u64::from_str_radix(world.ids[2].as_str().trim_start_matches("i-"), 16).unwrap();
    let id: InstanceId = format!("i-{:017x}", last + 1).parse().unwrap();
    let warning = Event { group: None, ..event(EventKind::SpotInterruption, &id) };
    assert_eq!(follower.engine.take_events(&[warning]).await.foreign, 1);
    // It turns out to be one of ours.
    assert_eq!(grow(&world.shared.cloud, "f", 1), std::slice::from_ref(&id));
    let is_left = |rig: &Rig| {
        let roster = rig.fleet("f").published().unwrap();
        roster.roster.members().iter().any(|m| m.instance_id == id && m.state == MemberState::Draining)
    };
    until("both leave it", || is_left(&leader) && is_left(&follower)).await;
}
