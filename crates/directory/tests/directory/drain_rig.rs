//! A simulated account whose lifecycle hooks wait, and proxies that follow a fleet: what drains are
//! tested on, in the test's own time.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_directory::engine::{Engine, Fleet, Setup, Taken};
use pikepole_directory::events::{Event, EventKind, WarmPool};
use pikepole_directory::source::sim::SimCloud;
use pikepole_directory::source::{Answer, HookAnswer, HookCall, Source, SourceError, Target};
use pikepole_directory::store::AgentKey;
use pikepole_fleet::{GroupName, Hook, HookName, InstanceId, MemberState, Proof, Revision, Transition};
use tokio::time::Instant;

use crate::engine_rig::{Rig, Wall, group, grow, pass};

/// How one call about a hook fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookFault {
    Throttled,
    Denied,
    /// Nothing comes, and nothing is done.
    Silent,
    /// It is done, and then nothing comes.
    LostAnswer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Complete,
    Heartbeat,
}

/// One call about a hook that was made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) what: What,
    pub(crate) instance: InstanceId,
    pub(crate) at: Instant,
    /// It had an effect.
    pub(crate) done: bool,
}

#[derive(Default)]
struct Yard {
    /// Actions that wait.
    waiting: Vec<(InstanceId, HookName)>,
    timeouts: BTreeMap<HookName, Duration>,
    timeouts_fail: bool,
    faults: VecDeque<HookFault>,
    made: Vec<Made>,
    ahead: Option<i64>,
}

/// The lifecycle hooks of an account.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Arc<Mutex<Yard>>);

impl Hooks {
    /// The group's hook waits so long by itself.
    pub(crate) fn put(&self, name: &str, timeout: u64) {
        self.0.lock().unwrap().timeouts.insert(name.parse().unwrap(), Duration::from_secs(timeout));
    }

    /// AWS's clock is ahead of ours by so many milliseconds.
    pub(crate) fn clock_is_ahead(&self, millis: i64) {
        self.0.lock().unwrap().ahead = Some(millis);
    }

    /// The timeouts of hooks are not told.
    pub(crate) fn timeouts_fail(&self) {
        self.0.lock().unwrap().timeouts_fail = true;
    }

    pub(crate) fn wait(&self, instance: &InstanceId, name: &str) {
        self.0.lock().unwrap().waiting.push((instance.clone(), name.parse().unwrap()));
    }

    /// Whether somebody still waits for a completion.
    pub(crate) fn waits(&self, instance: &InstanceId) -> bool {
        self.0.lock().unwrap().waiting.iter().any(|(id, _)| id == instance)
    }

    /// The next completions fail so, one after the other.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = HookFault>) {
        self.0.lock().unwrap().faults.extend(faults);
    }

    pub(crate) fn made(&self, what: What) -> Vec<Made> {
        self.0.lock().unwrap().made.iter().filter(|m| m.what == what).cloned().collect()
    }

    /// When this instance's hooks were completed, those that were.
    pub(crate) fn completed(&self, instance: &InstanceId) -> Vec<Instant> {
        let all = self.made(What::Complete).into_iter();
        all.filter(|m| m.done && m.instance == *instance).map(|m| m.at).collect()
    }

    fn take(&self, what: What, call: &HookCall) -> (Option<HookFault>, HookAnswer) {
        let mut yard = self.0.lock().unwrap();
        let fault = if what == What::Complete { yard.faults.pop_front() } else { None };
        let place = yard.waiting.iter().position(|(id, hook)| *id == call.instance && *hook == call.hook);
        let has_effect = matches!(fault, None | Some(HookFault::LostAnswer));
        let done = has_effect && place.is_some();
        if let (true, What::Complete, Some(place)) = (done, what, place) {
            yard.waiting.remove(place);
        }
        yard.made.push(Made { what, instance: call.instance.clone(), at: Instant::now(), done });
        (fault, if place.is_some() { HookAnswer::Done } else { HookAnswer::NoSuchAction })
    }

    async fn answer(&self, what: What, call: &HookCall) -> Result<HookAnswer, SourceError> {
        let (fault, answer) = self.take(what, call);
        match fault {
            None => Ok(answer),
            Some(HookFault::Throttled) => Err(SourceError::Throttled("rate exceeded".into())),
            Some(HookFault::Denied) => Err(SourceError::Denied("not authorized".into())),
            Some(HookFault::Silent | HookFault::LostAnswer) => pending().await,
        }
    }
}

/// The simulated account with hooks, as a source.
pub(crate) struct Account {
    pub(crate) source: Box<dyn Source>,
    pub(crate) hooks: Hooks,
}

#[async_trait]
impl Source for Account {
    async fn describe(&self, targets: &[Target]) -> Vec<Result<Answer, SourceError>> {
        self.source.describe(targets).await
    }

    async fn prove_gone(&self, ids: &[InstanceId]) -> Result<Proof, SourceError> {
        self.source.prove_gone(ids).await
    }

    async fn complete_hook(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.hooks.answer(What::Complete, call).await
    }

    async fn heartbeat(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.hooks.answer(What::Heartbeat, call).await
    }

    fn clock_ahead(&self) -> Option<i64> {
        self.hooks.0.lock().unwrap().ahead
    }

    async fn hook_timeouts(&self, _: &GroupName) -> Result<BTreeMap<HookName, Duration>, SourceError> {
        let yard = self.hooks.0.lock().unwrap();
        if yard.timeouts_fail {
            return Err(SourceError::Denied("not authorized".into()));
        }
        Ok(yard.timeouts.clone())
    }
}

/// A proxy that polls.
pub(crate) struct Proxy {
    pub(crate) key: AgentKey,
    address: IpAddr,
    polls: Mutex<bool>,
}

impl Proxy {
    pub(crate) fn new(id: &str) -> Self {
        Self::started(id, "s1")
    }

    pub(crate) fn started(id: &str, start: &str) -> Self {
        let key = AgentKey { id: id.into(), start: start.into() };
        Self { key, address: "10.1.0.1".parse().unwrap(), polls: Mutex::new(false) }
    }

    pub(crate) fn behind(mut self, address: [u8; 4]) -> Self {
        self.address = address.into();
        self
    }

    /// Drops its poll, if it has one, and polls with what it really uses.
    pub(crate) fn polls(&self, engine: &Engine, applied: Option<u64>) {
        self.leaves(engine);
        let now = engine.clock().now();
        agents(engine).agents().poll_began(&self.key, applied.map(Revision::new), self.address, now);
        *self.polls.lock().unwrap() = true;
    }

    /// Its poll ends.
    pub(crate) fn leaves(&self, engine: &Engine) {
        if std::mem::take(&mut *self.polls.lock().unwrap()) {
            agents(engine).agents().poll_ended(&self.key, engine.clock().now());
        }
    }
}

fn agents(engine: &Engine) -> &Arc<Fleet> {
    engine.fleet("f").unwrap()
}

/// An engine over fleet `f` of `count` members in service, with its hooks.
pub(crate) struct Drains {
    pub(crate) rig: Rig,
    pub(crate) hooks: Hooks,
    pub(crate) ids: Vec<InstanceId>,
    began: Instant,
}

impl Drains {
    pub(crate) async fn of(count: usize) -> Self {
        Self::with(count, |_| {}).await
    }

    pub(crate) async fn with(count: usize, change: impl FnOnce(&mut Setup)) -> Self {
        let wall = Wall::new();
        let cloud = SimCloud::new(wall.clock());
        let ids = grow(&cloud, "f", count);
        let hooks = Hooks::default();
        hooks.put("drain", 300);
        let account = Account { source: Box::new(cloud.source()), hooks: hooks.clone() };
        let rig = Rig::start_on(cloud, wall, &["f"], |setup| {
            setup.sources[0].source = Arc::new(account);
            change(setup);
        })
        .await;
        pass(1).await;
        assert_eq!(rig.hosts("f").unwrap().len(), count);
        Self { rig, hooks, ids, began: Instant::now() }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.rig.engine
    }

    pub(crate) fn revision(&self) -> u64 {
        self.rig.revision("f")
    }

    /// A collector has to go: its hook waits, and its event comes in.
    pub(crate) async fn terminate(&mut self, n: usize) {
        self.hooks.wait(&self.ids[n], "drain");
        self.began = Instant::now();
        let taken = self.hear(&hook_event(&self.ids[n], "drain", "t", Transition::Terminating)).await;
        assert_eq!((taken.ours, taken.not_kept), (1, 0));
    }

    pub(crate) async fn hear(&self, event: &Event) -> Taken {
        self.rig.engine.take_events(&[Event { at: Some(self.rig.wall.now()), ..event.clone() }]).await
    }

    pub(crate) fn state_of(&self, n: usize) -> Option<MemberState> {
        let roster = self.rig.fleet("f").published().unwrap();
        let member = roster.roster.members().iter().find(|m| m.instance_id == self.ids[n]);
        member.map(|m| m.state)
    }

    /// Seconds since the last [`Drains::terminate`] at which this collector's hooks were completed.
    pub(crate) fn completed(&self, n: usize) -> Vec<f64> {
        let all = self.hooks.completed(&self.ids[n]).into_iter();
        all.map(|at| at.duration_since(self.began).as_secs_f64()).collect()
    }

    /// It was completed once, between these two times.
    #[track_caller]
    pub(crate) fn completed_once(&self, n: usize, from: f64, to: f64) {
        let all = self.completed(n);
        assert!(all.len() == 1 && (from..=to).contains(&all[0]), "{all:?} is not once in {from}..={to}");
    }

    /// Lets an instance leave the group for good.
    pub(crate) fn end(&self, n: usize) {
        self.rig.cloud.remove(&group("f"), &self.ids[n]);
    }
}

/// A hook's event, as it is decoded.
pub(crate) fn hook_event(instance: &InstanceId, name: &str, token: &str, transition: Transition) -> Event {
    let kind = match transition {
        Transition::Launching => EventKind::LaunchHook,
        Transition::Terminating => EventKind::TerminateHook,
    };
    let hook = Hook { name: name.parse().unwrap(), token: Some(token.parse().unwrap()), transition };
    Event { hook: Some(hook), ..event(kind, instance) }
}

/// An event without a hook.
pub(crate) fn event(kind: EventKind, instance: &InstanceId) -> Event {
    Event {
        kind,
        instance: instance.clone(),
        group: Some(group("f")),
        region: None,
        at: None,
        hook: None,
        warm_pool: WarmPool::No,
    }
}
