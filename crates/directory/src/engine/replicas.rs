//! What keeps replicas together through Redis: the lease that says who describes, the notices of
//! changes, the periodic re-read, and refreshes that are asked of the leader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::{FleetState, GroupName};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::reconciler::Met;
use super::{Engine, Fleet};
use crate::shutdown::Shutdown;
use crate::store::Version;
use crate::store::redis::{LeaseState, Notice, RedisStore};

/// The lease that lets one replica describe and complete hooks.
const LEASE: &str = "leader";
/// How long the leader may take for a refresh that a follower asked for.
const REFRESH_TIME: Duration = Duration::from_secs(30);
/// Refreshes of others that wait here at once.
const MAX_WAITING: usize = 10_000;

/// How replicas keep in step.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaTimes {
    /// How long a lease lasts; a leader that dies is replaced after this.
    pub lease: Duration,
    /// How often it is renewed, or tried for, ±20 %.
    pub renew: Duration,
    /// How often everything is read again, in case a notice was lost.
    pub reread: Duration,
}

impl Default for ReplicaTimes {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { lease: s(9), renew: s(3), reread: s(10) }
    }
}

/// Who asks the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Not known yet: nobody has been asked for the lease.
    Unknown,
    /// This replica, while the lease lasts.
    Leader { until: Instant },
    /// Another replica.
    Follower,
    /// Redis is lost: each replica for itself.
    Alone,
}

impl Role {
    fn may_describe(self) -> bool {
        match self {
            Self::Leader { until } => Instant::now() < until,
            Self::Alone => true,
            Self::Unknown | Self::Follower => false,
        }
    }
}

/// This replica among the others.
pub(super) struct Replicas {
    pub(super) redis: Arc<RedisStore>,
    mirror: bool,
    times: ReplicaTimes,
    role: watch::Sender<Role>,
    waiting: Mutex<HashMap<String, oneshot::Sender<bool>>>,
    pub(super) others: Mutex<super::others::Others>,
}

impl Replicas {
    pub(super) fn new(redis: Arc<RedisStore>, mirror: bool, times: ReplicaTimes) -> Self {
        Self {
            redis,
            mirror,
            times,
            role: watch::Sender::new(Role::Unknown),
            waiting: Mutex::default(),
            others: Mutex::default(),
        }
    }

    /// Whether this replica holds the lease, and will after a call that takes so long.
    pub(super) fn leads_for(&self, call: Duration) -> bool {
        matches!(*self.role.borrow(), Role::Leader { until } if Instant::now() + call < until)
    }

    /// Whether this replica asks the sources now.
    pub(super) fn may_describe(&self) -> bool {
        self.role.borrow().may_describe()
    }

    /// A change was saved: mirrors it under the seed's key, unless another replica has saved since.
    pub(super) async fn changed(&self, state: &FleetState, version: Version, group: &GroupName) {
        let Some(roster) = state.roster.as_ref().filter(|_| self.mirror) else { return };
        let seed = super::fleet::seed_list(&roster.hosts());
        if let Err(error) = self.redis.mirror(&state.fleet, version, group, &seed).await {
            tracing::warn!(fleet = %state.fleet, %error, "mirrored key not written");
        }
    }

    /// Has the source asked, by whoever asks it. Who that is may change meanwhile.
    pub(super) async fn refreshed(&self, engine: &Engine, fleet: &Fleet) -> Met {
        loop {
            if self.may_describe() {
                if let Some(met) = engine.refreshed_here(fleet).await {
                    return met;
                }
                continue;
            }
            let mut role = self.role.subscribe();
            tokio::select! {
                met = self.refresh_elsewhere(engine, fleet) => return met,
                // An error cannot be: this value holds the sender.
                _ = role.wait_for(|role| role.may_describe()) => {}
            }
        }
    }

    /// Asks the leader for a refresh and waits for its word.
    async fn refresh_elsewhere(&self, engine: &Engine, fleet: &Fleet) -> Met {
        let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|_, sender| !sender.is_closed());
            if waiting.len() >= MAX_WAITING {
                return Met::Failed("too many refreshes wait for the leader".into());
            }
            waiting.insert(id.clone(), sender);
        }
        let name = fleet.config().name.clone();
        if let Err(error) = self.redis.publish(&Notice::Refresh { id, fleet: name }).await {
            // Redis is lost. In a moment this replica knows that, and asks the source itself.
            engine.stores.shared_failed(&error);
        }
        match answer.await {
            Ok(true) => {
                engine.sync(fleet).await;
                Met::Confirmed
            }
            Ok(false) => Met::Failed("the source failed, says the replica that asks it".into()),
            Err(_) => Met::Stopping,
        }
    }
}

/// Starts the tasks, if the engine has a shared store.
pub(super) fn start(engine: &Arc<Engine>, shutdown: &Shutdown, tasks: &mut JoinSet<()>) {
    if engine.stores.replicas().is_some() {
        tasks.spawn(keep_the_lease(Arc::clone(engine), shutdown.clone()));
        tasks.spawn(hear_notices(Arc::clone(engine), shutdown.clone()));
    }
}

fn replicas(engine: &Engine) -> &Replicas {
    engine.stores.replicas().expect("these tasks run only with a shared store")
}

/// Tries for the lease for ever; gives it back at the end, so that another replica goes on at once.
async fn keep_the_lease(engine: Arc<Engine>, mut shutdown: Shutdown) {
    let this = replicas(&engine);
    loop {
        let attempt = this.redis.try_lease(LEASE, this.times.lease).await;
        let role = match &attempt {
            Ok(LeaseState::Mine { until }) => Role::Leader { until: *until },
            Ok(LeaseState::Theirs) => Role::Follower,
            Err(_) => Role::Alone,
        };
        let before = this.role.send_replace(role);
        engine.stores.shared_is(attempt.as_ref().map(|_| ()));
        if attempt.is_ok() {
            engine.say_alive(this.times.renew).await;
        }
        if std::mem::discriminant(&before) != std::mem::discriminant(&role) {
            tracing::info!(role = name(role), "replica has a new role");
            if !matches!(role, Role::Alone) {
                engine.sync_all().await;
            }
            engine.hurry();
        }
        tokio::select! {
            () = shutdown.wait() => break,
            () = tokio::time::sleep(this.times.renew.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
            () = engine.stores.lost() => {}
        }
    }
    if let Err(error) = this.redis.release(LEASE).await {
        tracing::debug!(%error, "lease not given back; it ends by itself");
    }
}

const fn name(role: Role) -> &'static str {
    match role {
        Role::Unknown => "unknown",
        Role::Leader { .. } => "leader",
        Role::Follower => "follower",
        Role::Alone => "alone",
    }
}

/// Acts on what other replicas say, and reads everything again now and then in case they were not heard.
async fn hear_notices(engine: Arc<Engine>, mut shutdown: Shutdown) {
    let this = replicas(&engine);
    let mut notices = this.redis.subscribe();
    let mut reread = Instant::now() + this.times.reread;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep_until(reread) => {
                engine.sync_all().await;
                reread = Instant::now() + this.times.reread;
            }
            heard = notices.recv() => match heard.map(|heard| (heard.from, heard.notice)) {
                // What this replica wrote itself is no news to it.
                Some((Some(from), Notice::Changed(_))) if from == *this.redis.replica() => {}
                Some((_, Notice::Changed(name))) => {
                    if let Some(fleet) = engine.fleet(name.as_str()) {
                        engine.sync(fleet).await;
                    }
                }
                Some((_, Notice::Refresh { id, fleet })) => refresh_for_another(&engine, id, fleet.as_str()),
                Some((_, Notice::Refreshed { id, ok })) => {
                    let mut waiting = this.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(sender) = waiting.remove(&id) {
                        // Whoever asked may have given up; then nobody needs the answer.
                        _ = sender.send(ok);
                    }
                }
                Some((_, Notice::Reconnected)) => {
                    engine.sync_all().await;
                    engine.retell_agents();
                }
                None => return,
            }
        }
    }
}

/// A follower asks: the leader describes, and says how it went.
fn refresh_for_another(engine: &Arc<Engine>, id: String, fleet: &str) {
    let Some(fleet) = engine.fleet(fleet).filter(|_| engine.may_describe()) else { return };
    let (engine, fleet) = (Arc::clone(engine), Arc::clone(fleet));
    tokio::spawn(async move {
        let met = tokio::time::timeout(REFRESH_TIME, engine.refreshed_here(&fleet)).await;
        // Whoever asked reads the outcome from Redis, so there it must be.
        let ok = matches!(met, Ok(Some(Met::Confirmed))) && !engine.stores.shared_is_down();
        if let Err(error) = replicas(&engine).redis.publish(&Notice::Refreshed { id, ok }).await {
            tracing::debug!(%error, "the end of a refresh was not told");
        }
    });
}

impl Engine {
    /// Makes every source's next sweep due now.
    fn hurry(&self) {
        for reconciler in &self.reconcilers {
            reconciler.hurry();
        }
    }

    /// Brings one fleet in line with its shared record.
    async fn sync(&self, fleet: &Fleet) {
        let mut held = fleet.hold().await;
        self.stores.sync(&mut held, &self.clock, &self.counters).await;
        fleet.show(&held.state);
        self.stores.keep_on_disk(&mut held, &self.counters).await;
    }

    /// Brings all fleets in line with their shared records. One round trip tells which need it.
    async fn sync_all(&self) {
        let names: Vec<_> = self.fleets.iter().map(|fleet| fleet.config().name.clone()).collect();
        let all = match replicas(self).redis.load_all(&names).await {
            Ok(all) => all,
            Err(error) => return self.stores.shared_is(Err(&error)),
        };
        for (fleet, stored) in self.fleets.iter().zip(all) {
            let held = fleet.hold().await;
            let is_ours = matches!(&stored, Ok(Some(s)) if Some(s.version) == held.shared) && !held.diverged;
            drop(held);
            if !is_ours {
                self.sync(fleet).await;
            }
        }
    }
}
