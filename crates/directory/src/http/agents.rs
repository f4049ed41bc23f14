//! `GET /v1/agents`, and what the long poll tells of its caller.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use pikepole_api::time::Rfc3339;
use pikepole_api::v1;
use pikepole_fleet::drain::{AgentSeen, Convergence, convergence};
use pikepole_fleet::{HookEnd, InstanceId, Life, Revision, Transition};

use super::App;
use super::query::repeated;
use super::reply::{ApiError, Reply, json};
use crate::engine::Fleet;
use crate::store::AgentKey;

/// Holders of one drain that are named.
const MAX_NAMED: usize = 1_000;

/// Who polls, and what it really uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) key: AgentKey,
    pub(super) applied: Option<Revision>,
}

/// While this is there the agent's poll is open.
pub(super) struct Presence {
    app: Arc<App>,
    fleet: Arc<Fleet>,
    key: AgentKey,
}

impl Presence {
    pub(super) fn begin(app: &Arc<App>, fleet: &Arc<Fleet>, caller: Caller, address: IpAddr) -> Self {
        let now = app.engine.clock().now();
        fleet.agents().poll_began(&caller.key, caller.applied, address, now);
        Self { app: Arc::clone(app), fleet: Arc::clone(fleet), key: caller.key }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.fleet.agents().poll_ended(&self.key, self.app.engine.clock().now());
    }
}

/// The agents and drains of the fleets that are asked for, or of all.
pub(super) fn list(app: &App, query: Option<&str>) -> Result<Reply, ApiError> {
    let names = repeated(query, "fleet")?;
    let mut answer = v1::Agents { agents: Vec::new(), drains: Vec::new() };
    let named = names.iter().map(|name| app.fleet(name)).collect::<Result<Vec<_>, _>>()?;
    let fleets: Vec<&Arc<Fleet>> =
        if names.is_empty() { app.engine.fleets().iter().collect() } else { named };
    for fleet in fleets {
        let name = fleet.config().name.to_string();
        let agents = fleet.agents().list().into_iter().map(|agent| v1::Agent {
            id: agent.key.id.to_string(),
            start: (!agent.key.start.is_empty()).then(|| agent.key.start.to_string()),
            fleet: name.clone(),
            applied: agent.applied.map(Revision::get),
            live: agent.live,
            last_seen: Rfc3339(agent.last_seen),
            address: agent.address,
        });
        answer.agents.extend(agents);
        let (seen, _) = fleet.agents().seen();
        let state = fleet.state();
        let leaving = state.lives.iter().filter(|(_, life)| life.is_leaving());
        answer.drains.extend(leaving.filter_map(|(id, life)| {
            let hook = life.open(Transition::Terminating).min_by_key(|w| w.until);
            Some(v1::Drain {
                fleet: name.clone(),
                instance_id: id.to_string(),
                since: Rfc3339(life.draining?),
                deadline: hook.map(|w| Rfc3339(w.until)),
                waiting_for: holders(life, &seen),
                hook: hook.map(|w| w.hook.name.to_string()),
            })
        }));
    }
    Ok(json(&answer))
}

fn holders(life: &Life, seen: &[AgentSeen<AgentKey>]) -> Vec<String> {
    if !life.is_leaving() {
        return Vec::new();
    }
    match convergence(life, seen.iter().cloned()) {
        Convergence::HeldBy(keys) => {
            let names: BTreeSet<&str> = keys.iter().map(|key| &*key.id).collect();
            names.into_iter().take(MAX_NAMED).map(Into::into).collect()
        }
        Convergence::NobodyKnown | Convergence::Converged => Vec::new(),
    }
}

/// The lives of a fleet's instances, those with the latest news first.
pub(super) fn lives(fleet: &Fleet) -> Vec<v1::Life> {
    let (seen, _) = fleet.agents().seen();
    let state = fleet.state();
    let latest = |life: &Life| {
        let ended = life.waiting.iter().filter_map(|w| w.done).map(|(at, _)| at).max();
        [life.launched, life.answered, life.given_up, life.in_service, life.warned]
            .into_iter()
            .chain([life.draining, life.moved_off, life.gone, ended])
            .max()
            .flatten()
    };
    let mut all: Vec<_> = state.lives.iter().collect();
    all.sort_by_key(|(_, life)| std::cmp::Reverse(latest(life)));
    all.into_iter().map(|(id, life)| wire(id, life, &seen)).collect()
}

fn wire(id: &InstanceId, life: &Life, seen: &[AgentSeen<AgentKey>]) -> v1::Life {
    let ended = life.waiting.iter().filter_map(|w| w.done).max_by_key(|(at, _)| *at);
    v1::Life {
        instance_id: id.to_string(),
        launched: life.launched.map(Rfc3339),
        answered: life.answered.map(Rfc3339),
        given_up: life.given_up.map(Rfc3339),
        in_service: life.in_service.map(Rfc3339),
        warned: life.warned.map(Rfc3339),
        draining: life.draining.map(Rfc3339),
        moved_off: life.moved_off.map(Rfc3339),
        completed: ended.filter(|_| !life.has_open()).map(|(at, _)| Rfc3339(at)),
        completed_because: ended.filter(|_| !life.has_open()).map(|(_, end)| word(end).into()),
        gone: life.gone.map(Rfc3339),
        awaited: life.awaited,
        held_by: holders(life, seen),
    }
}

const fn word(end: HookEnd) -> &'static str {
    match end {
        HookEnd::Converged => "converged",
        HookEnd::Deadline => "deadline",
        HookEnd::Ready => "ready",
        HookEnd::GaveUp => "gave_up",
        HookEnd::NoSuchAction => "no_such_action",
        HookEnd::Gone => "gone",
    }
}
