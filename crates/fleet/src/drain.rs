//! The drain: may a dying collector be let go?
//!
//! Convergence is judged by what the revision an agent applied contains, never by comparing numbers:
//! replicas that were cut off from each other number their rosters apart.
//!
//! Invariant: an agent that is not known, or that says something nobody can check, never lets a
//! collector go early. At the latest the deadline does.

use std::time::Duration;

use crate::hook::Transition;
use crate::life::{HookEnd, Life};
use crate::roster::Revision;
use crate::time::Timestamp;

/// One agent that follows the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentSeen<K> {
    /// Who.
    pub key: K,
    /// Its poll is open, or ended a moment ago.
    pub live: bool,
    /// The revision it really uses, as it says.
    pub applied: Option<Revision>,
}

/// How far the agents are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Convergence<K> {
    /// No agent is known: nothing is converged.
    NobodyKnown,
    /// These live agents have not applied a revision without the collector.
    HeldBy(Vec<K>),
    /// Every live agent has moved off.
    Converged,
}

/// How far the agents are with leaving a dying collector.
pub fn convergence<K>(life: &Life, agents: impl IntoIterator<Item = AgentSeen<K>>) -> Convergence<K> {
    let mut known = false;
    let mut holders = Vec::new();
    for agent in agents {
        known = true;
        if agent.live && !agent.applied.is_some_and(|revision| life.clear.contains(&revision)) {
            holders.push(agent.key);
        }
    }
    match (known, holders.is_empty()) {
        (false, _) => Convergence::NobodyKnown,
        (true, false) => Convergence::HeldBy(holders),
        (true, true) => Convergence::Converged,
    }
}

/// What to do about the lifecycle actions of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing waits.
    Nothing,
    /// Look again at this time, or when an agent moves.
    Wait {
        /// At the latest.
        until: Timestamp,
    },
    /// Complete what is due.
    Complete(HookEnd),
}

/// What to do about a dying collector's actions. `converged_since`: since when every live agent has been
/// seen to have moved off, without a break, by whoever decides now.
pub fn terminating(
    life: &Life,
    converged_since: Option<Timestamp>,
    settle: Duration,
    now: Timestamp,
) -> Step {
    let Some(deadline) = life.open(Transition::Terminating).map(|w| w.until).min() else {
        return Step::Nothing;
    };
    let settled = converged_since.map(|since| since + settle);
    match settled {
        Some(at) if at <= now => Step::Complete(HookEnd::Converged),
        _ if deadline <= now => Step::Complete(HookEnd::Deadline),
        Some(at) => Step::Wait { until: at.min(deadline) },
        None => Step::Wait { until: deadline },
    }
}

/// What to do about a newcomer's actions.
pub fn launching(life: &Life, now: Timestamp) -> Step {
    let Some(deadline) = life.open(Transition::Launching).map(|w| w.until).min() else {
        return Step::Nothing;
    };
    if life.answered.is_some() || !life.awaited && life.given_up.is_none() {
        Step::Complete(HookEnd::Ready)
    } else if life.given_up.is_some() || deadline <= now || life.is_leaving() {
        Step::Complete(HookEnd::GaveUp)
    } else {
        Step::Wait { until: deadline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::Hook;
    use crate::life::Waiting;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn dying(clear: &[u64], transition: Transition) -> Life {
        let hook = Hook { name: "drain".parse().unwrap(), token: None, transition };
        Life {
            draining: (transition == Transition::Terminating).then_some(at(0)),
            awaited: transition == Transition::Launching,
            clear: clear.iter().map(|&r| Revision::new(r)).collect(),
            waiting: vec![Waiting { hook, since: at(0), until: at(90), done: None }],
            ..Life::default()
        }
    }

    fn agent(key: u8, live: bool, applied: Option<u64>) -> AgentSeen<u8> {
        AgentSeen { key, live, applied: applied.map(Revision::new) }
    }

    #[test]
    fn an_agent_counts_by_the_members_of_the_revision_it_applied() {
        let life = dying(&[10, 12], Transition::Terminating);
        let held = |agents: &[AgentSeen<u8>]| convergence(&life, agents.iter().copied());
        assert_eq!(held(&[]), Convergence::NobodyKnown);
        assert_eq!(held(&[agent(1, true, Some(10)), agent(2, true, Some(12))]), Convergence::Converged);
        // A greater number that nobody knows proves nothing; neither does no number at all.
        for lie in [Some(9), Some(11), Some(13), Some(u64::MAX), None] {
            assert_eq!(held(&[agent(1, true, Some(10)), agent(2, true, lie)]), Convergence::HeldBy(vec![2]));
        }
        assert_eq!(held(&[agent(1, true, Some(10)), agent(2, false, None)]), Convergence::Converged);
    }

    #[test]
    fn a_hook_waits_for_the_agents_the_settle_delay_or_the_deadline() {
        let life = dying(&[10], Transition::Terminating);
        let step =
            |since: Option<u64>, now| terminating(&life, since.map(at), Duration::from_secs(2), at(now));
        assert_eq!(step(None, 1), Step::Wait { until: at(90) });
        assert_eq!(step(Some(5), 6), Step::Wait { until: at(7) });
        assert_eq!(step(Some(5), 7), Step::Complete(HookEnd::Converged));
        assert_eq!(step(None, 90), Step::Complete(HookEnd::Deadline));
        assert_eq!(step(Some(89), 90), Step::Complete(HookEnd::Deadline));
    }

    #[test]
    fn a_launch_waits_for_the_port_but_never_for_ever() {
        let mut life = dying(&[], Transition::Launching);
        assert_eq!(launching(&life, at(1)), Step::Wait { until: at(90) });
        assert_eq!(launching(&life, at(90)), Step::Complete(HookEnd::GaveUp));
        life.answered = Some(at(5));
        assert_eq!(launching(&life, at(6)), Step::Complete(HookEnd::Ready));
    }
}
