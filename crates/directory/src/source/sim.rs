//! Simulated Auto Scaling groups, in this process: what the demo and the tests of the engine run on.
//!
//! Not a simulation in time: nothing happens by itself, every step is a call. Not a network either:
//! faults are switches.
//!
//! Invariant: ids and addresses are never given out twice, and a describe tells of one moment: that at
//! which it began.

mod hooks;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_fleet::{
    Describe, GroupName, HookName, Instance, InstanceId, Lifecycle, Proof, Timestamp, Transition, Zone,
};
use tokio::sync::watch;

use super::{Answer, HookAnswer, HookCall, Source, SourceError, Target};
use crate::clock::Clock;
use hooks::Hooks;

/// Given out in turn.
const ZONES: [&str; 3] = ["a", "b", "c"];

/// A handle on the simulated account; clones share it.
#[derive(Debug, Clone)]
pub struct SimCloud {
    state: Arc<Mutex<State>>,
    /// Counts the mutations that were announced.
    announced: watch::Sender<u64>,
    clock: Clock,
}

/// One instance, as the simulation knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimInstance {
    /// Its id.
    pub id: InstanceId,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// Its private address; the port is the fleet's.
    pub ip: IpAddr,
    /// Its zone.
    pub zone: Zone,
}

/// The account as a [`Source`].
#[derive(Debug)]
pub struct SimSource {
    cloud: SimCloud,
    /// The announcement this source has acted on or told of.
    seen: AtomicU64,
}

#[derive(Debug)]
struct State {
    groups: BTreeMap<GroupName, Group>,
    hooks: Hooks,
    faults: Faults,
    notify: bool,
    first: Ipv4Addr,
    /// The first instance's number.
    from: u64,
    launched: u32,
    describes: u64,
}

#[derive(Debug, Clone, Default)]
struct Group {
    desired: u32,
    instances: Vec<SimInstance>,
}

#[derive(Debug, Clone, Default)]
struct Faults {
    fail_with: Option<SourceError>,
    answer_empty: bool,
    drop_share: f64,
    hide_addresses: bool,
    ec2_silent: bool,
    delay: Duration,
}

impl SimCloud {
    /// An empty account whose instances live at `10.0.0.1`, `10.0.0.2`, ….
    pub fn new(clock: Clock) -> Self {
        Self::with_first_address(clock, Ipv4Addr::new(10, 0, 0, 1), 0)
    }

    /// An empty account whose instances live on this machine: those of account 1 at `127.1.0.1`, `127.1.0.2`,
    /// …. Accounts with different numbers share no address and no instance id.
    pub fn on_loopback(clock: Clock, account: u8) -> Self {
        let from = u64::from(account) << 32;
        Self::with_first_address(clock, Ipv4Addr::new(127, account, 0, 1), from)
    }

    fn with_first_address(clock: Clock, first: Ipv4Addr, from: u64) -> Self {
        let state = State {
            groups: BTreeMap::new(),
            hooks: Hooks::default(),
            faults: Faults::default(),
            notify: false,
            first,
            from,
            launched: 0,
            describes: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), announced: watch::Sender::new(0), clock }
    }

    /// The account as a source. Several may share it, like the replicas of a directory.
    pub fn source(&self) -> SimSource {
        SimSource { cloud: self.clone(), seen: AtomicU64::new(*self.announced.borrow()) }
    }

    /// Makes the group, empty, or only sets what it wants if it is there already.
    pub fn create_group(&self, group: &GroupName, desired: u32) {
        self.mutate(|state| state.groups.entry(group.clone()).or_default().desired = desired);
    }

    /// Ends the group and all that is in it.
    pub fn delete_group(&self, group: &GroupName) {
        self.mutate(|state| drop(state.groups.remove(group)));
    }

    /// Sets how many instances the group wants. Nothing is launched or ended by it.
    pub fn set_desired(&self, group: &GroupName, desired: u32) {
        self.create_group(group, desired);
    }

    /// Adds a launching instance to the group, which is made if need be. It waits for the group's launch
    /// hook, if there is one.
    pub fn launch(&self, group: &GroupName) -> InstanceId {
        let now = self.clock.now();
        self.mutate(|state| {
            let instance = state.next_instance();
            let id = instance.id.clone();
            state.groups.entry(group.clone()).or_default().instances.push(instance);
            state.hooks.begin(group, &id, Transition::Launching, now);
            id
        })
    }

    /// Moves an instance to another state of life. An instance that is gone stays gone.
    pub fn set_lifecycle(&self, group: &GroupName, id: &InstanceId, lifecycle: Lifecycle) {
        self.mutate(|state| {
            if let Some(instance) = state.find(group, id) {
                instance.lifecycle = lifecycle;
            }
        });
    }

    /// Ends an instance: no describe lists it any more.
    pub fn remove(&self, group: &GroupName, id: &InstanceId) {
        self.mutate(|state| state.drop_instance(group, id));
    }

    /// The instances of a group as they really are, whatever the faults, oldest first.
    pub fn instances(&self, group: &GroupName) -> Vec<SimInstance> {
        self.state().groups.get(group).map(|g| g.instances.clone()).unwrap_or_default()
    }

    /// How often the account was described.
    pub fn describes(&self) -> u64 {
        self.state().describes
    }

    /// Whether a mutation wakes those who wait in [`Source::changed`]. Off at first.
    pub fn notify(&self, on: bool) {
        self.state().notify = on;
    }

    /// Every describe, every search for proof and every call about a hook fails so.
    pub fn fail_with(&self, error: Option<SourceError>) {
        self.state().faults.fail_with = error;
    }

    /// Every group answers without instances.
    pub fn answer_empty(&self, on: bool) {
        self.state().faults.answer_empty = on;
    }

    /// Answers look complete but lack this share of the instances, 0 to 1, the youngest first.
    pub fn drop_share(&self, share: f64) {
        self.state().faults.drop_share = share;
    }

    /// Answers hold no addresses.
    pub fn hide_addresses(&self, on: bool) {
        self.state().faults.hide_addresses = on;
    }

    /// No proof of anything is found.
    pub fn ec2_silent(&self, on: bool) {
        self.state().faults.ec2_silent = on;
    }

    /// Every answer takes this long, by tokio's clock.
    pub fn delay(&self, delay: Duration) {
        self.state().faults.delay = delay;
    }

    /// Works again: ends every fault.
    pub fn heal(&self) {
        self.state().faults = Faults::default();
    }

    fn works(&self) -> Result<(), SourceError> {
        self.state().faults.fail_with.clone().map_or(Ok(()), Err)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made in one step, so what a panicking test left behind is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mutate<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        let notify = state.notify;
        drop(state);
        if notify {
            self.announced.send_modify(|n| *n += 1);
        }
        result
    }
}

impl State {
    fn find(&mut self, group: &GroupName, id: &InstanceId) -> Option<&mut SimInstance> {
        self.groups.get_mut(group)?.instances.iter_mut().find(|i| i.id == *id)
    }

    fn drop_instance(&mut self, group: &GroupName, id: &InstanceId) {
        if let Some(group) = self.groups.get_mut(group) {
            group.instances.retain(|i| i.id != *id);
        }
        self.hooks.forget(id);
    }

    fn next_instance(&mut self) -> SimInstance {
        let number = self.launched;
        self.launched += 1;
        SimInstance {
            id: format!("i-{:017x}", self.from + u64::from(number))
                .parse()
                .expect("hexadecimal digits make an id"),
            lifecycle: Lifecycle::Launching,
            ip: IpAddr::V4(Ipv4Addr::from_bits(self.first.to_bits().wrapping_add(number))),
            zone: ZONES[number as usize % ZONES.len()].parse().expect("a letter makes a zone"),
        }
    }
}

impl Faults {
    fn answer(&self, made_at: Timestamp, group: Option<&Group>, port: u16) -> Result<Answer, SourceError> {
        if let Some(error) = &self.fail_with {
            return Err(error.clone());
        }
        let Some(group) = group else { return Ok(Answer::DoesNotExist) };
        let instances = group.instances.iter().take(self.told_of(group.instances.len()));
        let instances = instances.map(|i| Instance {
            id: i.id.clone(),
            lifecycle: i.lifecycle,
            address: (!self.hide_addresses).then_some(SocketAddr::new(i.ip, port)),
            zone: Some(i.zone.clone()),
        });
        Ok(Answer::Group(Describe { made_at, desired: Some(group.desired), instances: instances.collect() }))
    }

    fn told_of(&self, count: usize) -> usize {
        if self.answer_empty {
            return 0;
        }
        // Counts are far below 2^52, and a float that is out of range becomes the nearest count.
        let dropped = (count as f64 * self.drop_share).round() as usize;
        count.saturating_sub(dropped)
    }
}

#[async_trait]
impl Source for SimSource {
    async fn describe(&self, targets: &[Target]) -> Vec<Result<Answer, SourceError>> {
        let made_at = self.cloud.clock.now();
        self.seen.fetch_max(*self.cloud.announced.borrow(), Ordering::SeqCst);
        let (answers, delay) = {
            let mut state = self.cloud.state();
            state.expire(made_at);
            state.describes += 1;
            let answer = |t: &Target| state.faults.answer(made_at, state.groups.get(&t.group), t.port);
            (targets.iter().map(answer).collect(), state.faults.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        answers
    }

    async fn prove_gone(&self, ids: &[InstanceId]) -> Result<Proof, SourceError> {
        let state = self.cloud.state();
        if let Some(error) = &state.faults.fail_with {
            return Err(error.clone());
        }
        if state.faults.ec2_silent {
            return Ok(Proof::default());
        }
        let lives = |id: &InstanceId| state.groups.values().any(|g| g.instances.iter().any(|i| i.id == *id));
        let gone = ids.iter().filter(|id| !lives(id)).cloned().collect();
        Ok(Proof { gone, ..Proof::default() })
    }

    async fn complete_hook(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.cloud.works()?;
        Ok(self.cloud.complete(call))
    }

    async fn heartbeat(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.cloud.works()?;
        Ok(self.cloud.beat(call))
    }

    async fn hook_timeouts(&self, group: &GroupName) -> Result<BTreeMap<HookName, Duration>, SourceError> {
        self.cloud.works()?;
        Ok(self.cloud.state().hooks.timeouts(group))
    }

    /// Resolves once per announced change since the last describe.
    async fn changed(&self) {
        let mut announced = self.cloud.announced.subscribe();
        loop {
            let now = *announced.borrow_and_update();
            if self.seen.fetch_max(now, Ordering::SeqCst) < now {
                return;
            }
            if announced.changed().await.is_err() {
                // Cannot happen: this source holds the sender through its cloud.
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    fn group() -> GroupName {
        "g".parse().unwrap()
    }

    fn target() -> Target {
        Target { group: group(), port: 5044 }
    }

    fn cloud(instances: usize) -> SimCloud {
        let cloud = SimCloud::new(Clock::from_fn(|| Timestamp::from_millis(3)));
        cloud.create_group(&group(), instances as u32);
        for _ in 0..instances {
            let id = cloud.launch(&group());
            cloud.set_lifecycle(&group(), &id, Lifecycle::InService);
        }
        cloud
    }

    async fn describe(source: &SimSource) -> Describe {
        match source.describe(&[target()]).await.remove(0) {
            Ok(Answer::Group(describe)) => describe,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_does_what_it_says_and_heals() {
        let cloud = cloud(4);
        let source = cloud.source();
        assert_eq!(describe(&source).await.routable().count(), 4);
        cloud.drop_share(0.75);
        assert_eq!(describe(&source).await.instances.len(), 1);
        cloud.answer_empty(true);
        assert_eq!(describe(&source).await.instances.len(), 0);
        cloud.heal();
        cloud.hide_addresses(true);
        assert_eq!(describe(&source).await.routable().count(), 0);
        cloud.fail_with(Some(SourceError::Throttled("slow down".to_owned())));
        assert!(source.describe(&[target()]).await[0].is_err());
        cloud.heal();
        cloud.delay(Duration::from_secs(3));
        let before = Instant::now();
        assert_eq!(describe(&source).await.routable().count(), 4);
        assert_eq!(before.elapsed(), Duration::from_secs(3));
        assert_eq!(cloud.describes(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_announced_wakes_and_only_once() {
        let cloud = cloud(1);
        let source = cloud.source();
        let woken = async || timeout(Duration::from_secs(60), source.changed()).await.is_ok();
        cloud.set_desired(&group(), 2);
        assert!(!woken().await, "silent at first");
        cloud.notify(true);
        cloud.set_desired(&group(), 3);
        cloud.set_desired(&group(), 4);
        assert!(woken().await);
        assert!(!woken().await, "two changes before a look are one");
        cloud.launch(&group());
        drop(source.changed());
        describe(&source).await;
        assert!(!woken().await, "the describe has seen it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_removed_is_proven_gone_unless_ec2_is_silent() {
        let cloud = cloud(2);
        let source = cloud.source();
        let ids: Vec<_> = cloud.instances(&group()).into_iter().map(|i| i.id).collect();
        cloud.remove(&group(), &ids[0]);
        assert_eq!(source.prove_gone(&ids).await.unwrap().gone, [ids[0].clone()].into());
        cloud.ec2_silent(true);
        assert_eq!(source.prove_gone(&ids).await, Ok(Proof::default()));
    }

    #[test]
    fn addresses_of_the_demo_are_on_this_machine() {
        let cloud = SimCloud::on_loopback(Clock::from_fn(Timestamp::default), 1);
        for _ in 0..300 {
            cloud.launch(&group());
        }
        assert!(cloud.instances(&group()).iter().all(|i| i.ip.is_loopback()));
        let other = SimCloud::on_loopback(Clock::from_fn(Timestamp::default), 2);
        let id = other.launch(&group());
        assert!(cloud.instances(&group()).iter().all(|i| i.id != id));
    }
}
