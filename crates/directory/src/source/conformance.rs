//! What every source must do, told once and run on all of them: the simulation, the file, AWS as we
//! fake it and AWS as moto does.
//!
//! Invariant: a fake that behaves unlike the real part fails here.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use pikepole_fleet::{Describe, GroupName, InstanceId, Lifecycle, Timestamp};

use super::{Answer, Source, Target};
use crate::clock::Clock;

mod worlds;

const PORT: u16 = 5044;

/// A place with groups and instances, and the source that tells of them.
#[async_trait]
trait World: Send + Sync {
    fn source(&self) -> &dyn Source;

    /// The clock the source was given: every look at it is a tick later.
    fn clock(&self) -> &Clock;

    /// Whether it can say "there is no such group" and knows more than one.
    fn has_groups(&self) -> bool;

    async fn create_group(&self, group: &GroupName);

    /// Adds an instance in service.
    async fn launch(&self, group: &GroupName) -> (InstanceId, IpAddr);

    /// Takes an instance out of service without removing it. `false`: this world cannot.
    async fn stand_by(&self, group: &GroupName, id: &InstanceId) -> bool;

    /// Adds an instance in service whose address is not known yet. `None`: this world cannot.
    async fn launch_without_address(&self, group: &GroupName) -> Option<InstanceId>;

    async fn remove(&self, group: &GroupName, id: &InstanceId);

    async fn delete_group(&self, group: &GroupName);
}

/// A clock that ticks at every look.
fn ticking() -> Clock {
    let ticks = AtomicU64::new(1_795_341_600_000);
    Clock::from_fn(move || Timestamp::from_millis(ticks.fetch_add(1, Ordering::SeqCst)))
}

async fn suite(world: &dyn World) {
    answers_are_whole(world).await;
    a_removed_instance_is_not_listed_and_an_empty_group_is_a_group(world).await;
    only_in_service_is_routable(world).await;
    a_missing_address_is_no_failure(world).await;
    made_at_is_the_start_of_the_call(world).await;
    if world.has_groups() {
        what_does_not_exist_is_said_so(world).await;
        results_come_in_the_order_of_the_targets(world).await;
    }
}

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn target(name: &str) -> Target {
    Target { group: group(name), port: PORT }
}

async fn describe(world: &dyn World, name: &str) -> Describe {
    let mut answers = world.source().describe(&[target(name)]).await;
    assert_eq!(answers.len(), 1, "one result for one target");
    match answers.remove(0) {
        Ok(Answer::Group(describe)) => describe,
        other => panic!("{name} gave {other:?}"),
    }
}

async fn answers_are_whole(world: &dyn World) {
    let name = "whole";
    world.create_group(&group(name)).await;
    let mut launched = Vec::new();
    for _ in 0..3 {
        launched.push(world.launch(&group(name)).await);
    }
    let describe = describe(world, name).await;
    assert_eq!(describe.instances.len(), 3, "{describe:?}");
    for (id, ip) in launched {
        let instance = describe.get(&id).unwrap_or_else(|| panic!("{id} is missing from {describe:?}"));
        assert_eq!(instance.lifecycle, Lifecycle::InService);
        assert_eq!(instance.address, Some((ip, PORT).into()));
        assert!(instance.zone.is_some());
        assert!(instance.is_routable());
    }
}

async fn a_removed_instance_is_not_listed_and_an_empty_group_is_a_group(world: &dyn World) {
    let name = "removal";
    world.create_group(&group(name)).await;
    let (a, _) = world.launch(&group(name)).await;
    let (b, _) = world.launch(&group(name)).await;
    assert_eq!(describe(world, name).await.instances.len(), 2);
    world.remove(&group(name), &a).await;
    let ids: Vec<_> = describe(world, name).await.routable().map(|i| i.id.clone()).collect();
    assert_eq!(ids, std::slice::from_ref(&b));
    world.remove(&group(name), &b).await;
    assert_eq!(describe(world, name).await.routable().count(), 0);
}

async fn only_in_service_is_routable(world: &dyn World) {
    let name = "standby";
    world.create_group(&group(name)).await;
    let (a, _) = world.launch(&group(name)).await;
    let (b, _) = world.launch(&group(name)).await;
    if !world.stand_by(&group(name), &a).await {
        return;
    }
    let describe = describe(world, name).await;
    assert_eq!(describe.routable().map(|i| &i.id).collect::<Vec<_>>(), [&b]);
    assert_eq!(describe.get(&a).map(|i| i.lifecycle), Some(Lifecycle::Away), "still listed");
}

async fn a_missing_address_is_no_failure(world: &dyn World) {
    let name = "no address";
    world.create_group(&group(name)).await;
    let (known, _) = world.launch(&group(name)).await;
    let Some(unknown) = world.launch_without_address(&group(name)).await else { return };
    let describe = describe(world, name).await;
    let instance = describe.get(&unknown).unwrap();
    assert_eq!((instance.lifecycle, instance.address), (Lifecycle::InService, None));
    assert!(!instance.is_routable());
    assert!(describe.get(&known).unwrap().is_routable());
}

async fn made_at_is_the_start_of_the_call(world: &dyn World) {
    let name = "made at";
    world.create_group(&group(name)).await;
    world.launch(&group(name)).await;
    let before = world.clock().now();
    let answers = world.source().describe(&[target(name), target(name)]).await;
    for answer in answers {
        let Ok(Answer::Group(describe)) = answer else { panic!("{answer:?}") };
        assert_eq!(describe.made_at.as_millis(), before.as_millis() + 1, "the first thing it does");
    }
}

async fn what_does_not_exist_is_said_so(world: &dyn World) {
    let name = "gone soon";
    assert_eq!(world.source().describe(&[target(name)]).await, [Ok(Answer::DoesNotExist)]);
    world.create_group(&group(name)).await;
    assert_eq!(describe(world, name).await.instances, []);
    world.delete_group(&group(name)).await;
    assert_eq!(world.source().describe(&[target(name)]).await, [Ok(Answer::DoesNotExist)]);
    assert_eq!(world.source().describe(&[]).await, []);
}

async fn results_come_in_the_order_of_the_targets(world: &dyn World) {
    world.create_group(&group("order b")).await;
    world.create_group(&group("order a")).await;
    world.launch(&group("order b")).await;
    let other_port = Target { port: 6000, ..target("order b") };
    let targets = [target("order b"), target("order none"), target("order a"), other_port];
    let answers = world.source().describe(&targets).await;
    let ports: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer.unwrap() {
            Answer::Group(d) => Some(d.instances.iter().map(|i| i.address.unwrap().port()).collect()),
            Answer::DoesNotExist => None,
        })
        .collect();
    assert_eq!(ports, [Some(vec![PORT]), None, Some(vec![]), Some(vec![6000])]);
}
