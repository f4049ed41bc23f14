//! Watches over drains and launches, and completes their lifecycle actions: when every agent has moved
//! off, when the new port answers, or when the time is up.
//!
//! One replica does it: the one that holds the lease, and only while the lease outlives the call. Without
//! a shared store this one. What is decided is in the domain's `drain`; here it is done and repeated.
//!
//! Invariant: nothing about a drain lives only here but the beginning of its settle delay. Whoever takes
//! over begins that anew, so it completes later, never earlier.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::drain::{self, Convergence, Step};
use pikepole_fleet::{
    FleetName, FleetState, Hook, HookEnd, HookName, Input, InstanceId, Life, Timestamp, Transition, Waiting,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Engine, Fleet};
use crate::shutdown::Shutdown;
use crate::source::{HookAnswer, HookCall};

/// One call about a hook lasts no longer; the lease must outlive it.
const CALL_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks while anything waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two looks at idle fleets: drains that other replicas began show up by then at the latest.
const LOOK_IDLE: Duration = Duration::from_secs(2);
/// Two looks begin at least this far apart, however fast agents move.
const LOOK_GAP: Duration = Duration::from_millis(50);
/// Calls under way at once.
const MAX_CALLS: usize = 16;
/// After a failed call, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// The timeouts of a group's hooks are asked for again after this.
const TIMEOUTS_LAST: Duration = Duration::from_secs(600);
/// And after this if that failed.
const TIMEOUTS_RETRY: Duration = Duration::from_secs(15);
/// Our deadline comes before the hook's own timeout by this, or a tenth of it.
const MARGIN: Duration = Duration::from_secs(5);
/// A heartbeat while nothing is known of the hook's timeout: a third of the least there is.
const BLIND_HEARTBEAT: Duration = Duration::from_secs(10);
/// After a heartbeat that failed.
const BEAT_AGAIN: Duration = Duration::from_secs(2);
/// How long it is told that somebody still held at the deadline.
const HELD_TOLD: Duration = Duration::from_secs(600);

/// One lifecycle action of one instance.
type Action = (FleetName, InstanceId, HookName);

/// What is remembered between two looks. Losing it costs time, never a hook.
#[derive(Debug, Default)]
struct Memory {
    /// Since when every live agent is seen to have moved off.
    converged: BTreeMap<(FleetName, InstanceId), Timestamp>,
    timeouts: BTreeMap<FleetName, Timeouts>,
    beats: BTreeMap<Action, Instant>,
    busy: BTreeSet<Action>,
    pauses: BTreeMap<Action, Pause>,
    /// Who still held when the deadline came.
    held: BTreeMap<(FleetName, InstanceId), (Instant, Vec<String>)>,
}

#[derive(Debug)]
struct Timeouts {
    ask_again: Instant,
    asking: bool,
    by_hook: BTreeMap<HookName, Duration>,
}

#[derive(Debug, Clone)]
struct Pause {
    until: Instant,
    failures: u32,
    why: String,
}

impl Memory {
    /// A heartbeat, if it is time, for what goes on waiting: a hook's time may have begun long before we
    /// heard of it.
    fn heartbeat(&mut self, fleet: &Fleet, id: &InstanceId, waiting: &Waiting) -> Option<Task> {
        let name = &fleet.config().name;
        let now = Instant::now();
        let known = self.timeouts.get(name).and_then(|t| t.by_hook.get(&waiting.hook.name));
        let every = known.map_or(BLIND_HEARTBEAT, |timeout| *timeout / 3);
        // The first one comes after a third of the time; after a restart that is a little late at the most.
        let action = (name.clone(), id.clone(), waiting.hook.name.clone());
        let due = *self.beats.entry(action).or_insert(now + every);
        (due <= now).then(|| Task::Heartbeat(call(fleet, id, waiting), now + every))
    }

    /// What is over is not remembered, and not complained of, because something else goes on.
    fn forget_all_but(&mut self, concerned: &BTreeSet<(FleetName, InstanceId)>) {
        let is_on = |action: &Action| concerned.contains(&(action.0.clone(), action.1.clone()));
        self.converged.retain(|place, _| concerned.contains(place));
        self.beats.retain(|action, _| is_on(action));
        self.pauses.retain(|action, _| is_on(action));
    }
}

/// The completion of hooks.
#[derive(Debug)]
pub(super) struct Hooks {
    /// Whether we complete any.
    pub(super) complete: bool,
    memory: Mutex<Memory>,
    look: Notify,
}

/// One thing to do.
#[derive(Debug)]
enum Task {
    Complete(HookCall, Hook, HookEnd),
    /// And when the next one is due.
    Heartbeat(HookCall, Instant),
    Timeouts,
    /// The hook's own time is shorter than our deadline.
    Shorten(InstanceId, HookName, Timestamp),
}

impl Hooks {
    pub(super) fn new(complete: bool) -> Self {
        Self { complete, memory: Mutex::default(), look: Notify::new() }
    }

    /// Something changed: look now.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Actions that cannot be completed: of which fleet and instance, and why.
    pub(crate) fn failing(&self) -> Vec<(FleetName, InstanceId, String)> {
        let memory = self.memory();
        let bad = memory.pauses.iter().filter(|(_, pause)| pause.failures >= 2);
        bad.map(|((fleet, instance, _), pause)| (fleet.clone(), instance.clone(), pause.why.clone()))
            .collect()
    }

    /// Drains that ended with the deadline, and which agents still held.
    pub(crate) fn held(&self) -> Vec<(FleetName, InstanceId, Vec<String>)> {
        let mut memory = self.memory();
        memory.held.retain(|_, (at, _)| at.elapsed() < HELD_TOLD);
        memory.held.iter().map(|((f, i), (_, who))| (f.clone(), i.clone(), who.clone())).collect()
    }
}

/// Watches until the shutdown.
pub(super) async fn run(engine: Arc<Engine>, mut shutdown: Shutdown) {
    let mut calls = JoinSet::new();
    loop {
        let busy = look(&engine, &mut calls);
        let pause = if busy { LOOK_EVERY } else { LOOK_IDLE };
        tokio::time::sleep(LOOK_GAP).await;
        tokio::select! {
            () = shutdown.wait() => return,
            () = engine.hooks.look.notified() => {}
            Some(_) = calls.join_next(), if !calls.is_empty() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One look at every fleet. Whether anything waits.
fn look(engine: &Arc<Engine>, calls: &mut JoinSet<()>) -> bool {
    let mut busy = false;
    let mut concerned = BTreeSet::new();
    for fleet in engine.fleets() {
        let state = fleet.state();
        let lives: Vec<_> = state.lives.iter().filter(|(_, life)| life.is_under_way()).collect();
        if lives.is_empty() {
            continue;
        }
        busy = true;
        concerned.extend(lives.iter().map(|(id, _)| (fleet.config().name.clone(), (*id).clone())));
        if engine.may_complete(CALL_LIMIT) {
            let tasks = decide(engine, fleet, &state, &lives);
            if engine.hooks.complete {
                begin(engine, fleet, tasks, calls);
            }
        } else {
            // Somebody else decides, and fails or not. Who comes back to it sees for himself how long they
            // have moved off.
            let mut memory = engine.hooks.memory();
            memory.converged.clear();
            memory.pauses.clear();
        }
    }
    engine.hooks.memory().forget_all_but(&concerned);
    busy
}

fn decide(
    engine: &Arc<Engine>,
    fleet: &Arc<Fleet>,
    state: &FleetState,
    lives: &[(&InstanceId, &Life)],
) -> Vec<Task> {
    let now = engine.clock().now();
    let (agents, found_no_place) = fleet.agents().seen();
    let someone_missing = found_no_place || !engine.knows_others(fleet);
    let name = &fleet.config().name;
    let mut memory = engine.hooks.memory();
    let mut tasks = Vec::new();
    for &(id, life) in lives {
        let place = (name.clone(), id.clone());
        let standing = if life.is_leaving() {
            drain::convergence(life, agents.iter().cloned())
        } else {
            Convergence::NobodyKnown
        };
        if standing == Convergence::Converged && !someone_missing {
            if !memory.converged.contains_key(&place) && life.moved_off.is_none() {
                note_moved_off(engine, fleet, state, id);
            }
            memory.converged.entry(place.clone()).or_insert(now);
        } else {
            memory.converged.remove(&place);
        }
        let since = memory.converged.get(&place).copied();
        let steps = [
            (Transition::Terminating, drain::terminating(life, since, engine.settle(), now)),
            (Transition::Launching, drain::launching(life, now)),
        ];
        for (transition, step) in steps {
            for waiting in life.open(transition) {
                match step {
                    Step::Complete(end) if end != HookEnd::Deadline || waiting.until <= now => {
                        tasks.push(Task::Complete(call(fleet, id, waiting), waiting.hook.clone(), end));
                    }
                    // The deadline of another hook is none of this one's: as long as it waits, so does the
                    // instance.
                    Step::Complete(_) | Step::Wait { .. } => {
                        tasks.extend(memory.heartbeat(fleet, id, waiting));
                    }
                    Step::Nothing => {}
                }
            }
        }
        let is_due = |waiting: &Waiting| waiting.until <= now;
        if steps[0].1 == Step::Complete(HookEnd::Deadline) && life.open(Transition::Terminating).all(is_due) {
            note_held(&mut memory, place, &standing);
        }
    }
    tasks.extend(shorten(memory.timeouts.get(name), lives));
    let waits = lives.iter().any(|(_, life)| life.has_open());
    let is_old = |t: &Timeouts| !t.asking && t.ask_again <= Instant::now();
    if waits && memory.timeouts.get(name).is_none_or(is_old) {
        tasks.push(Task::Timeouts);
    }
    tasks
}

/// Deadlines that come after the hook's own timeout, less a margin. A launch has none: heartbeats keep it
/// alive until its port answers or we give up.
fn shorten(timeouts: Option<&Timeouts>, lives: &[(&InstanceId, &Life)]) -> Vec<Task> {
    let Some(timeouts) = timeouts else { return Vec::new() };
    let mut tasks = Vec::new();
    for (id, life) in lives {
        for waiting in life.open(Transition::Terminating) {
            let Some(timeout) = timeouts.by_hook.get(&waiting.hook.name) else { continue };
            let until = waiting.since + timeout.saturating_sub(MARGIN.max(*timeout / 10));
            if until < waiting.until {
                tasks.push(Task::Shorten((*id).clone(), waiting.hook.name.clone(), until));
            }
        }
    }
    tasks
}

fn note_moved_off(engine: &Arc<Engine>, fleet: &Arc<Fleet>, state: &FleetState, id: &InstanceId) {
    if let Some(at) = state.overlay.entries.get(id).and_then(|entry| entry.dying) {
        engine.counters().lag.converged(engine.clock().now().since(at));
    }
    tracing::info!(fleet = %fleet.config().name, instance = %id, "every agent has moved off");
    let (engine, fleet, id) = (Arc::clone(engine), Arc::clone(fleet), id.clone());
    tokio::spawn(async move { engine.apply(&fleet, Input::MovedOff(id)).await });
}

fn note_held(
    memory: &mut Memory,
    place: (FleetName, InstanceId),
    standing: &Convergence<crate::store::AgentKey>,
) {
    if let Convergence::HeldBy(who) = standing
        && !memory.held.contains_key(&place)
    {
        let names: Vec<String> = who.iter().map(|key| key.id.to_string()).collect();
        tracing::warn!(
            fleet = %place.0, instance = %place.1, agents = names.len(), first = names.first(),
            "the deadline of a drain came before every agent had moved off"
        );
        memory.held.insert(place, (Instant::now(), names));
    }
}

fn call(fleet: &Fleet, id: &InstanceId, waiting: &Waiting) -> HookCall {
    HookCall {
        group: fleet.config().group(),
        hook: waiting.hook.name.clone(),
        instance: id.clone(),
        token: waiting.hook.token.clone(),
    }
}

/// Begins what is not under way yet and need not pause.
fn begin(engine: &Arc<Engine>, fleet: &Arc<Fleet>, tasks: Vec<Task>, calls: &mut JoinSet<()>) {
    let name = fleet.config().name.clone();
    for task in tasks {
        if calls.len() >= MAX_CALLS {
            return; // the next look goes on
        }
        {
            let mut memory = engine.hooks.memory();
            match &task {
                Task::Complete(call, ..) => {
                    let action = (name.clone(), call.instance.clone(), call.hook.clone());
                    let rests = memory.pauses.get(&action).is_some_and(|p| Instant::now() < p.until);
                    if rests || !memory.busy.insert(action) {
                        continue;
                    }
                }
                Task::Timeouts => {
                    let ask_again = Instant::now() + TIMEOUTS_RETRY;
                    let none = || Timeouts { ask_again, asking: true, by_hook: BTreeMap::new() };
                    memory.timeouts.entry(name.clone()).or_insert_with(none).asking = true;
                }
                Task::Heartbeat(call, next) => {
                    let action = (name.clone(), call.instance.clone(), call.hook.clone());
                    memory.beats.insert(action, *next);
                }
                Task::Shorten(..) => {}
            }
        }
        let (engine, fleet) = (Arc::clone(engine), Arc::clone(fleet));
        calls.spawn(async move {
            match task {
                Task::Complete(call, hook, end) => complete_one(&engine, &fleet, call, hook, end).await,
                Task::Heartbeat(call, _) => beat(&engine, &fleet, call).await,
                Task::Timeouts => ask_timeouts(&engine, &fleet).await,
                Task::Shorten(instance, hook, until) => {
                    engine.apply(&fleet, Input::HookEndsBy { instance, hook, until }).await;
                }
            }
        });
    }
}

async fn complete_one(engine: &Engine, fleet: &Fleet, call: HookCall, hook: Hook, end: HookEnd) {
    let name = &fleet.config().name;
    let action = (name.clone(), call.instance.clone(), call.hook.clone());
    // The lease may have ended since the decision.
    let answer = if engine.may_complete(CALL_LIMIT) {
        let source = engine.source_for(fleet);
        let answer = tokio::time::timeout(CALL_LIMIT, source.complete_hook(&call)).await;
        answer.unwrap_or_else(|_| Err(crate::source::SourceError::Unreachable("it took too long".into())))
    } else {
        Err(crate::source::SourceError::Unreachable("another replica completes hooks now".into()))
    };
    match answer {
        Ok(answer) => {
            let end = if answer == HookAnswer::NoSuchAction { HookEnd::NoSuchAction } else { end };
            tracing::info!(fleet = %name, instance = %call.instance, hook = %call.hook, ?end, "hook completed");
            let launched = hook.transition == Transition::Launching;
            let done = Input::HookDone { instance: call.instance.clone(), hook, end };
            engine.apply(fleet, done).await;
            if launched {
                engine.chases.begin(fleet); // it is in service in a moment, and nothing tells us
            }
            let mut memory = engine.hooks.memory();
            memory.pauses.remove(&action);
            memory.beats.remove(&action);
            memory.busy.remove(&action);
        }
        Err(error) => {
            let mut memory = engine.hooks.memory();
            let failures = memory.pauses.get(&action).map_or(0, |p| p.failures);
            let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE);
            tracing::warn!(fleet = %name, instance = %call.instance, hook = %call.hook, %error, "hook not completed");
            let until = Instant::now() + pause.mul_f64(0.75 + 0.5 * fastrand::f64());
            memory
                .pauses
                .insert(action.clone(), Pause { until, failures: failures + 1, why: error.to_string() });
            memory.busy.remove(&action);
        }
    }
}

async fn beat(engine: &Engine, fleet: &Fleet, call: HookCall) {
    let source = engine.source_for(fleet);
    match tokio::time::timeout(CALL_LIMIT, source.heartbeat(&call)).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => {
            tracing::warn!(instance = %call.instance, hook = %call.hook, %error, "heartbeat failed");
        }
        Err(_) => tracing::warn!(instance = %call.instance, hook = %call.hook, "heartbeat took too long"),
    }
    let action = (fleet.config().name.clone(), call.instance, call.hook);
    if let Some(next) = engine.hooks.memory().beats.get_mut(&action) {
        *next = (*next).min(Instant::now() + BEAT_AGAIN);
    }
}

/// Learns how long the hooks of a group wait.
async fn ask_timeouts(engine: &Engine, fleet: &Fleet) {
    let name = &fleet.config().name;
    let group = fleet.config().group();
    let asked = engine.source_for(fleet).hook_timeouts(&group);
    let answer = tokio::time::timeout(CALL_LIMIT, asked).await;
    let Ok(Ok(by_hook)) = answer else {
        tracing::warn!(fleet = %name, "the timeouts of the lifecycle hooks are not known");
        if let Some(timeouts) = engine.hooks.memory().timeouts.get_mut(name) {
            timeouts.asking = false;
            timeouts.ask_again = Instant::now() + TIMEOUTS_RETRY;
        }
        return;
    };
    let ask_again = Instant::now() + TIMEOUTS_LAST;
    let known = Timeouts { ask_again, asking: false, by_hook };
    engine.hooks.memory().timeouts.insert(name.clone(), known);
    engine.hooks.look();
}
