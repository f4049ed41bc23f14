//! What replicas tell each other about agents, and whether they are there themselves; and the clock they
//! share.
//!
//! Invariant: the agents of a replica that is gone are live until they had the time to come to another.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pikepole_fleet::FleetName;
use tokio::time::Instant;

use super::agents::{COME_BACK, Unwritten};
use super::replicas::Replicas;
use super::{Engine, Fleet};
use crate::store::KnownAgent;
use crate::store::redis::SharedAgent;

/// How often agents of other replicas are read.
const READ_EVERY: Duration = Duration::from_secs(5);
/// The same while a collector drains.
const READ_DRAINING: Duration = Duration::from_millis(250);
/// What others told is too old to let a collector go when it was read longer ago than this.
const FRESH: Duration = Duration::from_millis(1_500);
/// So long after an agent came to another replica it is known here at the latest, while a collector drains:
/// written behind there, read now and then here.
const KNOWN_AFTER: Duration = Duration::from_secs(1);
/// A difference of clocks below this is noise.
const SAME_TIME: i64 = 250;
/// Redis took too long for its clock to say anything.
const TOO_SLOW: Duration = Duration::from_millis(500);

/// What is remembered of the other replicas.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// When each was found to be gone.
    gone: BTreeMap<String, Instant>,
    next_read: BTreeMap<FleetName, Instant>,
}

impl Replicas {
    /// Tells the others of agents. Whether that worked.
    pub(super) async fn tell_agents(&self, fleet: &Fleet, news: &Unwritten) -> bool {
        self.redis.put_agents(&fleet.config().name, &news.put, &news.remove).await.is_ok()
    }

    /// Which of the agents in the store are other replicas', and live; and which are of replicas long gone.
    fn sort(
        &self,
        all: Vec<SharedAgent>,
        there: &std::collections::BTreeSet<String>,
    ) -> (Vec<KnownAgent>, Vec<SharedAgent>) {
        let me = self.redis.replica().to_string();
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.gone.retain(|replica, _| !there.contains(replica));
        let (mut known, mut lost) = (Vec::new(), Vec::new());
        for shared in all.into_iter().filter(|shared| shared.replica != me) {
            let gone = (!there.contains(&shared.replica))
                .then(|| *others.gone.entry(shared.replica.clone()).or_insert_with(Instant::now));
            match gone {
                Some(since) if since.elapsed() >= COME_BACK => lost.push(shared),
                _ => known.push(shared.agent),
            }
        }
        (known, lost)
    }
}

impl Engine {
    /// Reads what other replicas tell of their agents, for each fleet whose turn it is.
    pub(super) async fn hear_of_agents(self: &Arc<Self>) {
        let Some(replicas) = self.stores.replicas() else { return };
        for fleet in &self.fleets {
            let name = &fleet.config().name;
            let now = Instant::now();
            // Also once all seem to have moved off: until the hook is completed another agent may come.
            let drains = fleet.state().lives.iter().any(|(_, life)| life.is_under_way());
            let every = if drains { READ_DRAINING } else { READ_EVERY };
            let is_due = {
                let mut others = replicas.others.lock().unwrap_or_else(PoisonError::into_inner);
                let next = others.next_read.entry(name.clone()).or_insert(now);
                *next = (*next).min(now + every);
                let is_due = *next <= now;
                if is_due {
                    *next = now + every;
                }
                is_due
            };
            if is_due {
                // Another replica's describe may list what an event here was about.
                self.take_strays(fleet).await;
                if !self.stores.shared_is_down() {
                    self.hear_of_agents_of(fleet).await;
                }
            }
        }
    }

    /// Whether the agents of other replicas are known well enough to let a collector go.
    pub(super) fn knows_others(&self, fleet: &Fleet) -> bool {
        self.stores.replicas().is_none()
            || fleet.agents().others_as_of().is_some_and(|at| at.elapsed() < FRESH)
    }

    /// How long all agents have to be off before a hook is completed: with replicas at least as long as word
    /// of an agent may take.
    pub(super) fn settle(&self) -> Duration {
        let least = if self.stores.replicas().is_some() { KNOWN_AFTER } else { Duration::ZERO };
        self.drain.settle.max(least)
    }

    /// Reads what other replicas tell of the agents of one fleet.
    pub(super) async fn hear_of_agents_of(&self, fleet: &Fleet) {
        let Some(replicas) = self.stores.replicas() else { return };
        let name = &fleet.config().name;
        let as_of = Instant::now();
        let Ok((all, there)) = replicas.redis.agents(name).await else { return };
        let me = replicas.redis.replica().to_string();
        // A store that lost its data, or was told by others that we are gone, has to hear of ours again.
        let ours = all.iter().filter(|shared| shared.replica == me).map(|shared| &shared.agent.key);
        fleet.agents().retell_all_but(&ours.collect());
        let (known, lost) = replicas.sort(all, &there);
        fleet.agents().others_are(known, as_of);
        if !lost.is_empty()
            && let Err(error) = replicas.redis.forget_replica(name, &lost).await
        {
            tracing::debug!(fleet = %name, %error, "agents of a replica that is gone were not forgotten");
        }
    }

    /// Tells the others that this replica is there, and takes over the clock they share.
    pub(super) async fn say_alive(&self, renew: Duration) {
        let Some(replicas) = self.stores.replicas() else { return };
        if let Err(error) = replicas.redis.say_alive(renew * 3).await {
            tracing::debug!(%error, "other replicas were not told that this one is there");
        }
        self.set_clock().await;
    }

    /// A Redis that came back may have lost what it was told.
    pub(super) fn retell_agents(&self) {
        self.fleets.iter().for_each(|fleet| fleet.agents().retell());
    }

    /// Sets our clock by the one that replicas share.
    pub(super) async fn set_clock_by_redis(&self, replicas: &Replicas) {
        let (began, before) = (Instant::now(), self.clock.machine_now());
        let Ok(theirs) = replicas.redis.time().await else { return };
        if began.elapsed() > TOO_SLOW {
            return;
        }
        let half = u64::try_from(began.elapsed().as_millis() / 2).unwrap_or(0);
        let ours = before.as_millis().saturating_add(half);
        let ahead = i64::try_from(i128::from(ours) - i128::from(theirs.as_millis())).unwrap_or(0);
        if (ahead - self.clock.ahead()).abs() > SAME_TIME {
            tracing::warn!(ahead_ms = ahead, "this machine's clock differs from redis's, which counts");
            self.clock.set_ahead(ahead);
        }
    }
}
