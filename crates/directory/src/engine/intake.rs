//! Takes in events: finds the fleets they are about, tells those what they mean, and has the source asked
//! again where an event says that there is news.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::{Fact, FactKind, Hook, Input, Timestamp, Transition};
use tokio::time::Instant;

use super::{Engine, Fleet};
use crate::events::{Event, EventKind};

/// Events of EC2 about instances that no describe has listed yet. Most are of other groups; a new
/// collector's is found again with the next describe.
const MAX_STRAYS: usize = 1_000;
/// How long such an event may still turn out to be about one of ours.
const STRAY_TIME: Duration = Duration::from_secs(180);
/// An event that claims to come from further ahead than this has no usable time.
const MOST_AHEAD: Duration = Duration::from_secs(86_400);

/// What became of a list of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Events that were about an instance of one of our fleets.
    pub ours: usize,
    /// Events of groups and instances that are not ours, as far as is known.
    pub foreign: usize,
    /// Events of ours whose effect is not in the store, so that they must come again.
    pub not_kept: usize,
}

/// Events that wait for a describe to list their instance.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<VecDeque<(Event, Instant)>>);

impl Strays {
    fn add(&self, event: &Event) {
        let mut strays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        strays.retain(|(stray, until)| *until > now && stray != event);
        if strays.len() >= MAX_STRAYS {
            strays.pop_front();
        }
        strays.push_back((event.clone(), now + STRAY_TIME));
    }

    /// Takes out those about instances that the fleet knows by now.
    fn of(&self, fleet: &Fleet) -> Vec<Event> {
        let mut strays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if strays.is_empty() {
            return Vec::new();
        }
        let (found, left) = std::mem::take(&mut *strays).into_iter().partition(|(e, _)| knows(fleet, e));
        *strays = left;
        let found: VecDeque<(Event, Instant)> = found;
        found.into_iter().map(|(event, _)| event).collect()
    }
}

/// Whether the fleet's last describe, or an event since, names this instance.
fn knows(fleet: &Fleet, event: &Event) -> bool {
    let state = fleet.state();
    state.lives.get(&event.instance).is_some()
        || state.snapshot.as_ref().is_some_and(|s| s.get(&event.instance).is_some())
}

impl Engine {
    /// Takes in events. When this returns, their effects are in the store, except those counted as
    /// [`Taken::not_kept`].
    pub async fn take_events(self: &Arc<Self>, events: &[Event]) -> Taken {
        let mut taken = Taken::default();
        for event in events {
            if let Some(at) = event.at {
                self.counters.lag.received(self.clock.now().since(at));
            }
            let fleets = self.fleets_of(event);
            if fleets.is_empty() {
                taken.foreign += 1;
                if event.group.is_none() {
                    self.strays.add(event);
                }
                continue;
            }
            taken.ours += 1;
            let mut kept = true;
            for fleet in &fleets {
                kept &= self.take_event(fleet, event).await;
            }
            taken.not_kept += usize::from(!kept);
        }
        taken
    }

    /// Gives a fleet the events about instances that a describe has listed since.
    pub(super) async fn take_strays(self: &Arc<Self>, fleet: &Arc<Fleet>) {
        for event in self.strays.of(fleet) {
            // Its message was acknowledged when nobody knew it for ours. The next describe is the truth.
            self.take_event(fleet, &event).await;
        }
    }

    /// The fleets an event is about. Two may share a group, with another port each. The group of a fleet
    /// that a file tells of has the fleet's name: whoever keeps the file may tell its events too.
    fn fleets_of(&self, event: &Event) -> Vec<Arc<Fleet>> {
        let is_there = |fleet: &&Arc<Fleet>| {
            let config = fleet.config();
            let may_be = event.region.as_ref().is_none_or(|region| *region == config.region);
            may_be && event.group.as_ref().map_or_else(|| knows(fleet, event), |g| *g == config.group())
        };
        self.fleets.iter().filter(is_there).cloned().collect()
    }

    /// Whether its effect is in the store.
    async fn take_event(self: &Arc<Self>, fleet: &Arc<Fleet>, event: &Event) -> bool {
        use EventKind::{
            LaunchFailed, LaunchHook, Launched, Rebalance, Running, SpotInterruption, Stopped,
            TerminateFailed, TerminateHook, Terminated,
        };
        let kind = match event.kind {
            LaunchHook | Launched => Some(FactKind::Launching),
            TerminateHook | Terminated | Stopped => Some(FactKind::Terminating),
            SpotInterruption => Some(FactKind::SpotInterruption),
            Rebalance => Some(FactKind::Rebalance),
            LaunchFailed | TerminateFailed | Running => None,
        };
        let mut kept = true;
        if let Some(kind) = kind {
            let at = self.our_time(fleet, event);
            let fact = Fact { instance: event.instance.clone(), kind, at };
            let input = match event.hook.clone().filter(|_| self.hooks.complete) {
                Some(hook) => {
                    kept = self.keep_agents_soon(fleet).await;
                    let until = self.clock.now() + self.time_for(&hook);
                    Input::HookWaits { fact, hook, until }
                }
                None => Input::Learned(fact),
            };
            let (outcome, is_kept) = self.apply_kept(fleet, input).await;
            kept &= is_kept;
            if outcome.change.is_some() {
                self.counters.lag.published(self.clock.now().since(at));
            }
        }
        tracing::info!(
            fleet = %fleet.config().name, instance = %event.instance, kind = event.kind.as_str(), "event taken in"
        );
        match event.kind {
            LaunchHook | Launched | LaunchFailed | Terminated | TerminateFailed | Stopped => {
                self.chases.begin(fleet);
            }
            TerminateHook | SpotInterruption | Rebalance | Running => {}
        }
        kept
    }

    /// When it happened, by our clock. AWS's may differ from it by more than events take.
    fn our_time(&self, fleet: &Fleet, event: &Event) -> Timestamp {
        let now = self.clock.now();
        let Some(at) = event.at else { return now };
        let (reconciler, _) = self.asked_by[&fleet.config().name];
        let ahead = self.reconcilers[reconciler].source().clock_ahead().unwrap_or(0);
        let at = Timestamp::from_millis(at.as_millis().saturating_add_signed(ahead.saturating_neg()));
        if at.since(now) > MOST_AHEAD { now } else { at.min(now) }
    }

    /// How long we let a lifecycle action wait.
    fn time_for(&self, hook: &Hook) -> Duration {
        match hook.transition {
            Transition::Launching => self.probe.give_up,
            Transition::Terminating => self.drain.deadline,
        }
    }
}
