//! Lifecycle hooks of the simulated groups, and the events that AWS would send.
//!
//! Not a sender: whoever wants events takes them, and feeds them in where he likes. Not a clock either: a
//! timeout takes effect with the next call that looks.
//!
//! Invariant: an action ends once, by completion, by its timeout or with its instance; whoever comes later
//! is told that there is no such action.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pikepole_fleet::{GroupName, Hook, HookName, HookToken, InstanceId, Lifecycle, Timestamp, Transition};

use super::{SimCloud, State};
use crate::events::{Event, EventKind, WarmPool};
use crate::source::{HookAnswer, HookCall};

/// Events that nobody took; beyond it the oldest go.
const MAX_EVENTS: usize = 1_000;

/// The hooks of all groups.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    /// Name and timeout of the hook for each transition of a group.
    defined: BTreeMap<(GroupName, Transition), (HookName, Duration)>,
    waiting: Vec<Waiting>,
    events: VecDeque<Event>,
    tokens: u64,
}

/// One lifecycle action.
#[derive(Debug)]
struct Waiting {
    group: GroupName,
    instance: InstanceId,
    hook: Hook,
    timeout: Duration,
    until: Timestamp,
}

impl SimCloud {
    /// Puts a lifecycle hook on a group. From now on its instances wait for [`HookAnswer::Done`], or until
    /// the timeout, and then go on: the default result is CONTINUE.
    pub fn put_hook(&self, group: &GroupName, transition: Transition, name: HookName, timeout: Duration) {
        self.mutate(|state| state.hooks.defined.insert((group.clone(), transition), (name, timeout)));
    }

    /// Has Auto Scaling terminate an instance: it waits as `Leaving` if the group has a hook for that, and
    /// is gone at once if not.
    pub fn terminate(&self, group: &GroupName, id: &InstanceId) {
        let now = self.clock.now();
        self.mutate(|state| {
            let Some(instance) = state.find(group, id).filter(|i| i.lifecycle != Lifecycle::Leaving) else {
                return;
            };
            instance.lifecycle = Lifecycle::Leaving;
            state.hooks.waiting.retain(|w| w.instance != *id);
            if !state.hooks.begin(group, id, Transition::Terminating, now) {
                state.end(group, id, Some(group), EventKind::Terminated, now);
            }
        });
    }

    /// Has EC2 warn that it takes a spot instance back. The group still calls it `InService`;
    /// [`SimCloud::take_back`] is for two minutes later.
    pub fn interrupt(&self, id: &InstanceId) {
        self.announce(EventKind::SpotInterruption, id);
    }

    /// Has EC2 recommend to rebalance an instance.
    pub fn advise(&self, id: &InstanceId) {
        self.announce(EventKind::Rebalance, id);
    }

    /// EC2 takes an instance: it is gone, hook or not.
    pub fn take_back(&self, group: &GroupName, id: &InstanceId) {
        let now = self.clock.now();
        self.mutate(|state| state.end(group, id, None, EventKind::Stopped, now));
    }

    /// The events since the last call, oldest first.
    pub fn take_events(&self) -> Vec<Event> {
        let now = self.clock.now();
        self.mutate(|state| {
            state.expire(now);
            state.hooks.events.drain(..).collect()
        })
    }

    /// An event of EC2, which knows no groups.
    fn announce(&self, kind: EventKind, id: &InstanceId) {
        let now = self.clock.now();
        self.mutate(|state| state.hooks.tell(kind, id, None, None, now));
    }

    pub(super) fn complete(&self, call: &HookCall) -> HookAnswer {
        let now = self.clock.now();
        self.mutate(|state| {
            state.expire(now);
            let Some(place) = state.hooks.waiting.iter().position(|w| w.is(call)) else {
                return HookAnswer::NoSuchAction;
            };
            let done = state.hooks.waiting.remove(place);
            state.go_on(&done, now);
            HookAnswer::Done
        })
    }

    pub(super) fn beat(&self, call: &HookCall) -> HookAnswer {
        let now = self.clock.now();
        self.mutate(|state| {
            state.expire(now);
            let Some(waiting) = state.hooks.waiting.iter_mut().find(|w| w.is(call)) else {
                return HookAnswer::NoSuchAction;
            };
            waiting.until = now + waiting.timeout;
            HookAnswer::Done
        })
    }
}

impl State {
    /// Ends the actions whose time is up.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let (over, waiting) =
            std::mem::take(&mut self.hooks.waiting).into_iter().partition(|w| w.until <= now);
        self.hooks.waiting = waiting;
        let over: Vec<Waiting> = over;
        for waiting in over {
            self.go_on(&waiting, now);
        }
    }

    /// What Auto Scaling does once nothing waits any more.
    fn go_on(&mut self, done: &Waiting, now: Timestamp) {
        match done.hook.transition {
            Transition::Launching => {
                if let Some(instance) = self.find(&done.group, &done.instance) {
                    instance.lifecycle = Lifecycle::InService;
                }
                self.hooks.tell(EventKind::Launched, &done.instance, Some(&done.group), None, now);
            }
            Transition::Terminating => {
                self.end(&done.group, &done.instance, Some(&done.group), EventKind::Terminated, now);
            }
        }
    }

    fn end(
        &mut self,
        group: &GroupName,
        id: &InstanceId,
        named: Option<&GroupName>,
        kind: EventKind,
        now: Timestamp,
    ) {
        if self.find(group, id).is_some() {
            self.drop_instance(group, id);
            self.hooks.tell(kind, id, named, None, now);
        }
    }
}

impl Hooks {
    /// Whether the group has such a hook, so that the instance waits now.
    pub(super) fn begin(
        &mut self,
        group: &GroupName,
        id: &InstanceId,
        transition: Transition,
        now: Timestamp,
    ) -> bool {
        let Some((name, timeout)) = self.defined.get(&(group.clone(), transition)).cloned() else {
            return false;
        };
        self.tokens += 1;
        let token: HookToken =
            format!("00000000-0000-4000-8000-{:012x}", self.tokens).parse().expect("a UUID makes a token");
        let hook = Hook { name, token: Some(token), transition };
        let kind = match transition {
            Transition::Launching => EventKind::LaunchHook,
            Transition::Terminating => EventKind::TerminateHook,
        };
        self.tell(kind, id, Some(group), Some(hook.clone()), now);
        let until = now + timeout;
        self.waiting.push(Waiting { group: group.clone(), instance: id.clone(), hook, timeout, until });
        true
    }

    /// The actions of an instance that is gone are gone with it.
    pub(super) fn forget(&mut self, id: &InstanceId) {
        self.waiting.retain(|w| w.instance != *id);
    }

    pub(super) fn timeouts(&self, group: &GroupName) -> BTreeMap<HookName, Duration> {
        self.defined.iter().filter(|((g, _), _)| g == group).map(|(_, hook)| hook.clone()).collect()
    }

    fn tell(
        &mut self,
        kind: EventKind,
        id: &InstanceId,
        group: Option<&GroupName>,
        hook: Option<Hook>,
        now: Timestamp,
    ) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            kind,
            instance: id.clone(),
            group: group.cloned(),
            region: None,
            at: Some(now),
            hook,
            warm_pool: WarmPool::No,
        });
    }
}

impl Waiting {
    fn is(&self, call: &HookCall) -> bool {
        self.group == call.group
            && self.instance == call.instance
            && self.hook.name == call.hook
            && call.token.as_ref().is_none_or(|token| Some(token) == self.hook.token.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::Clock;
    use crate::source::{Source as _, SourceError};

    const TIMEOUT: Duration = Duration::from_secs(120);

    fn group() -> GroupName {
        "g".parse().unwrap()
    }

    /// A group with both hooks, and the second that its clock shows.
    fn cloud() -> (SimCloud, Arc<AtomicU64>) {
        let seconds = Arc::new(AtomicU64::new(1));
        let shown = Arc::clone(&seconds);
        let now = move || Timestamp::from_millis(shown.load(Ordering::SeqCst) * 1000);
        let cloud = SimCloud::new(Clock::from_fn(now));
        cloud.put_hook(&group(), Transition::Launching, "up".parse().unwrap(), TIMEOUT);
        cloud.put_hook(&group(), Transition::Terminating, "down".parse().unwrap(), TIMEOUT);
        (cloud, seconds)
    }

    fn call(event: &Event) -> HookCall {
        let hook = event.hook.clone().unwrap();
        HookCall { group: group(), hook: hook.name, instance: event.instance.clone(), token: hook.token }
    }

    fn kinds(cloud: &SimCloud) -> Vec<EventKind> {
        cloud.take_events().into_iter().map(|event| event.kind).collect()
    }

    fn lifecycles(cloud: &SimCloud) -> Vec<Lifecycle> {
        cloud.instances(&group()).into_iter().map(|i| i.lifecycle).collect()
    }

    #[tokio::test]
    async fn an_instance_waits_on_its_way_in_and_out_until_its_hook_is_completed_once() {
        let (cloud, _) = cloud();
        let source = cloud.source();
        let id = cloud.launch(&group());
        let launch = cloud.take_events().remove(0);
        assert_eq!(
            (launch.kind, &launch.instance, &launch.group),
            (EventKind::LaunchHook, &id, &Some(group()))
        );
        assert_eq!(lifecycles(&cloud), [Lifecycle::Launching]);
        let mut wrong = call(&launch);
        wrong.token = Some("another".parse().unwrap());
        assert_eq!(source.complete_hook(&wrong).await, Ok(HookAnswer::NoSuchAction));
        assert_eq!(source.complete_hook(&call(&launch)).await, Ok(HookAnswer::Done));
        assert_eq!(source.complete_hook(&call(&launch)).await, Ok(HookAnswer::NoSuchAction));
        assert_eq!(
            (lifecycles(&cloud), kinds(&cloud)),
            (vec![Lifecycle::InService], vec![EventKind::Launched])
        );

        cloud.terminate(&group(), &id);
        cloud.terminate(&group(), &id);
        let end = cloud.take_events();
        assert_eq!((end.len(), end[0].kind), (1, EventKind::TerminateHook));
        assert_eq!(lifecycles(&cloud), [Lifecycle::Leaving]);
        cloud.fail_with(Some(SourceError::Throttled("Rate exceeded".into())));
        assert!(source.complete_hook(&call(&end[0])).await.is_err());
        cloud.fail_with(None);
        assert_eq!(source.complete_hook(&call(&end[0])).await, Ok(HookAnswer::Done));
        assert_eq!((lifecycles(&cloud), kinds(&cloud)), (vec![], vec![EventKind::Terminated]));
    }

    #[tokio::test]
    async fn a_hook_times_out_unless_it_is_kept_alive() {
        let (cloud, seconds) = cloud();
        let source = cloud.source();
        assert_eq!(source.hook_timeouts(&group()).await.unwrap().len(), 2);
        cloud.launch(&group());
        let launch = cloud.take_events().remove(0);
        seconds.fetch_add(119, Ordering::SeqCst);
        assert_eq!(source.heartbeat(&call(&launch)).await, Ok(HookAnswer::Done));
        seconds.fetch_add(119, Ordering::SeqCst);
        assert_eq!(kinds(&cloud), []);
        seconds.fetch_add(1, Ordering::SeqCst);
        assert_eq!(kinds(&cloud), [EventKind::Launched]);
        assert_eq!(source.heartbeat(&call(&launch)).await, Ok(HookAnswer::NoSuchAction));
    }

    #[tokio::test]
    async fn a_spot_instance_is_announced_and_then_taken_with_whatever_waits_for_it() {
        let (cloud, _) = cloud();
        let id = cloud.launch(&group());
        let launch = cloud.take_events().remove(0);
        cloud.interrupt(&id);
        cloud.advise(&id);
        let events = cloud.take_events();
        assert_eq!(
            events.iter().map(|e| e.kind).collect::<Vec<_>>(),
            [EventKind::SpotInterruption, EventKind::Rebalance]
        );
        assert_eq!(events[0].group, None, "EC2 knows no groups");
        cloud.take_back(&group(), &id);
        cloud.take_back(&group(), &id);
        assert_eq!((lifecycles(&cloud), kinds(&cloud)), (vec![], vec![EventKind::Stopped]));
        let answer = cloud.source().complete_hook(&call(&launch)).await;
        assert_eq!(answer, Ok(HookAnswer::NoSuchAction));
    }
}
