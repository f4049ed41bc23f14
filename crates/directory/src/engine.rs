//! The engine: takes in what sources say, keeps it, publishes it.
//!
//! Readers look at [`Fleet`]; they never wait for anything in here. Writers go through
//! [`Engine::apply`], one at a time per fleet. Reconcilers ask the sources.

pub mod agents;
mod chase;
mod fleet;
mod hooks;
mod intake;
mod lag;
#[cfg(feature = "redis")]
mod others;
mod pace;
mod prober;
mod reconciler;
#[cfg(feature = "redis")]
mod replicas;
mod roll;
mod stores;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pikepole_fleet::{FleetName, FleetState, GuardPolicy, Input, InstanceId, Outcome, Verdict};
use tokio::task::JoinSet;

use crate::alerts::Alerts;
use crate::clock::Clock;
use crate::config::{DrainConfig, FleetConfig, ProbeConfig, SourceConfig};
use crate::shutdown::Shutdown;
use crate::source::Source;
use chase::Chases;
pub use fleet::{Fleet, Freshness, Published, Shown, SourceHealth};
use hooks::Hooks;
use intake::Strays;
pub use intake::Taken;
pub use lag::Lag;
use reconciler::{Met, Reconciler};
#[cfg(feature = "redis")]
pub use replicas::ReplicaTimes;
pub use stores::Stores;

/// How long a refresh that nobody waits for is asked of the leader.
const BACKGROUND_REFRESH: Duration = Duration::from_secs(60);
/// A refresh waits this long for the ports of those it found.
const FIRST_PROBE: Duration = Duration::from_millis(1200);
/// Between two looks at the clock for staleness.
const REVIEW_EVERY: Duration = Duration::from_secs(5);

/// One source and the fleets it knows.
pub struct SourceSetup {
    /// For people and metrics: `aws ap-south-1`.
    pub label: String,
    /// `aws`, `file` or `sim`.
    pub kind: &'static str,
    /// The source.
    pub source: Arc<dyn Source>,
    /// Its fleets.
    pub fleets: Vec<FleetConfig>,
    /// The least time between two describes of it.
    pub gap: Duration,
}

/// How an engine is set up.
pub struct Setup {
    /// Every source with its fleets.
    pub sources: Vec<SourceSetup>,
    /// Where state is kept.
    pub stores: Stores,
    /// The guard's policy.
    pub policy: GuardPolicy,
    /// How often each source is asked.
    pub reconcile: Duration,
    /// A roster that was not confirmed for this long is stale.
    pub stale_after: Duration,
    /// `[probe]`.
    pub probe: ProbeConfig,
    /// `[drain]`.
    pub drain: DrainConfig,
    /// Lifecycle hooks are completed by us.
    pub complete_hooks: bool,
    /// The wall clock.
    pub clock: Clock,
    /// Whom to tell about problems.
    pub alerts: Alerts,
}

/// What a refresh led to.
#[derive(Debug)]
pub enum Refreshed {
    /// A roster that was confirmed after the request is being served.
    Confirmed(Option<Arc<Published>>),
    /// The source failed, or the guard does not believe it.
    Failed(String),
    /// It is still under way.
    Pending,
    /// The directory is stopping and will not ask any more.
    Stopping,
}

/// Counts what the engine did since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rosters published.
    pub published: AtomicU64,
    /// Describes the guard held up.
    pub held: AtomicU64,
    /// Describes the guard would have held up, had it not only been observing.
    pub observed: AtomicU64,
    /// Writes to a store that failed.
    pub store_failures: AtomicU64,
    /// How far behind AWS we are.
    pub lag: Lag,
}

/// The engine.
pub struct Engine {
    fleets: Vec<Arc<Fleet>>,
    by_name: HashMap<FleetName, usize>,
    reconcilers: Vec<Arc<Reconciler>>,
    /// For each fleet: its reconciler, and its place in it.
    asked_by: HashMap<FleetName, (usize, usize)>,
    stores: Stores,
    policy: GuardPolicy,
    stale_after: Duration,
    probe: ProbeConfig,
    drain: DrainConfig,
    hooks: Hooks,
    chases: Chases,
    strays: Strays,
    clock: Clock,
    alerts: Alerts,
    counters: Counters,
}

impl Engine {
    /// Puts the parts together and loads what the stores remember. Sources are not asked yet.
    pub async fn open(setup: Setup) -> Arc<Self> {
        let mut fleets = Vec::new();
        let mut reconcilers = Vec::new();
        let mut asked_by = HashMap::new();
        for source in setup.sources {
            let own: Vec<Arc<Fleet>> = source.fleets.into_iter().map(|c| Arc::new(Fleet::new(c))).collect();
            for (place, fleet) in own.iter().enumerate() {
                asked_by.insert(fleet.config().name.clone(), (reconcilers.len(), place));
            }
            fleets.extend(own.iter().cloned());
            let reconciler =
                Reconciler::new(source.label, source.kind, source.source, own, setup.reconcile, source.gap);
            reconcilers.push(Arc::new(reconciler));
        }
        let by_name = fleets.iter().enumerate().map(|(i, f)| (f.config().name.clone(), i)).collect();
        let engine = Arc::new(Self {
            fleets,
            by_name,
            reconcilers,
            asked_by,
            stores: setup.stores,
            policy: GuardPolicy { probe: setup.probe.enabled, ..setup.policy },
            probe: setup.probe,
            drain: setup.drain,
            hooks: Hooks::new(setup.complete_hooks),
            chases: Chases::default(),
            strays: Strays::default(),
            stale_after: setup.stale_after,
            clock: setup.clock,
            alerts: setup.alerts,
            counters: Counters::default(),
        });
        engine.set_clock().await;
        for fleet in &engine.fleets {
            engine.load(fleet).await;
            engine.remember_agents(fleet).await;
        }
        engine.review_alerts();
        engine
    }

    /// Starts the reconcilers and, with a shared store, what keeps replicas together.
    pub fn start(self: &Arc<Self>, shutdown: &Shutdown) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for reconciler in &self.reconcilers {
            tasks.spawn(Arc::clone(reconciler).run(Arc::clone(self), shutdown.clone()));
        }
        tasks.spawn(Arc::clone(self).review_for_ever(shutdown.clone()));
        tasks.spawn(roll::run(Arc::clone(self), shutdown.clone()));
        tasks.spawn(hooks::run(Arc::clone(self), shutdown.clone()));
        tasks.spawn(prober::run(Arc::clone(self), shutdown.clone()));
        tasks.spawn(chase::run(Arc::clone(self), shutdown.clone()));
        #[cfg(feature = "redis")]
        replicas::start(self, shutdown, &mut tasks);
        tasks
    }

    /// Sends every watcher elsewhere: the server stops.
    pub fn send_watchers_away(&self) {
        for fleet in &self.fleets {
            fleet.send_away();
        }
    }

    /// All fleets.
    pub fn fleets(&self) -> &[Arc<Fleet>] {
        &self.fleets
    }

    /// The fleet with this name.
    pub fn fleet(&self, name: &str) -> Option<&Arc<Fleet>> {
        self.by_name.get(name).map(|&index| &self.fleets[index])
    }

    /// The wall clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The alerts.
    pub fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether every fleet has an answer: data, or a definite "does not exist".
    pub fn is_ready(&self) -> bool {
        self.fleets.iter().all(|fleet| fleet.state().is_answered())
    }

    /// Whether a fleet's roster has gone unconfirmed for longer than the operator tolerates.
    pub fn is_stale(&self, fleet: &Fleet) -> bool {
        fleet.age(self.clock.now()).is_some_and(|age| self.is_too_old(age))
    }

    /// Whether a roster that was confirmed so long ago is stale.
    pub fn is_too_old(&self, age: Duration) -> bool {
        age > self.stale_after
    }

    /// Where a fleet's truth comes from: the kind, and the label that its alerts carry.
    pub fn source_of(&self, fleet: &Fleet) -> (&'static str, &str) {
        let (reconciler, _) = self.asked_by[&fleet.config().name];
        let reconciler = &self.reconcilers[reconciler];
        (reconciler.kind, &reconciler.label)
    }

    /// How many sweeps each source has seen: its label and the count.
    pub fn sweeps(&self) -> impl Iterator<Item = (&str, u64)> {
        self.reconcilers.iter().map(|r| (r.label.as_str(), r.describes.load(Ordering::Relaxed)))
    }

    /// Calls each source made to its API: the source's label, the API's name and the count.
    pub fn api_calls(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.reconcilers
            .iter()
            .flat_map(|r| r.api_calls().into_iter().map(|(api, calls)| (r.label.as_str(), api, calls)))
    }

    /// Whether this replica asks the sources. Without a shared store, and while it is lost, each does.
    fn may_describe(&self) -> bool {
        #[cfg(feature = "redis")]
        if let Some(replicas) = self.stores.replicas() {
            return replicas.may_describe();
        }
        true
    }

    /// Whether this replica completes hooks, and still does after a call that takes so long. With a shared
    /// store only the holder of the lease; while that store is lost, nobody.
    #[cfg_attr(not(feature = "redis"), expect(clippy::unused_self, reason = "a directory alone always may"))]
    fn may_complete(&self, call: Duration) -> bool {
        #[cfg(feature = "redis")]
        if let Some(replicas) = self.stores.replicas() {
            return replicas.leads_for(call);
        }
        call <= Duration::MAX
    }

    /// A directory alone knows of all agents.
    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_self, reason = "replicas ask each other")]
    fn knows_others(&self, _: &Fleet) -> bool {
        true
    }

    #[cfg(not(feature = "redis"))]
    fn settle(&self) -> Duration {
        self.drain.settle
    }

    /// The source of a fleet, for what is not a describe.
    fn source_for(&self, fleet: &Fleet) -> &Arc<dyn Source> {
        let (reconciler, _) = self.asked_by[&fleet.config().name];
        self.reconcilers[reconciler].source()
    }

    /// Has the source asked again, and waits up to `patience` for what comes of it.
    pub async fn refresh(&self, fleet: &Fleet, patience: Duration) -> Refreshed {
        let met = tokio::time::timeout(patience, self.refreshed(fleet)).await;
        match met {
            Ok(Met::Confirmed) => Refreshed::Confirmed(fleet.published()),
            Ok(Met::Failed(why)) => Refreshed::Failed(why),
            Ok(Met::Stopping) => Refreshed::Stopping,
            Err(_) => Refreshed::Pending,
        }
    }

    async fn refreshed(&self, fleet: &Fleet) -> Met {
        #[cfg(feature = "redis")]
        if let Some(replicas) = self.stores.replicas() {
            return replicas.refreshed(self, fleet).await;
        }
        let met = self.refreshed_here(fleet).await;
        met.unwrap_or(Met::Stopping)
    }

    /// `None`: another replica asks the source now.
    async fn refreshed_here(&self, fleet: &Fleet) -> Option<Met> {
        let (reconciler, place) = self.asked_by[&fleet.config().name];
        let met = self.reconcilers[reconciler].demand(place).await;
        if met == Some(Met::Confirmed) {
            // Whoever asked wants to see the newcomers, and their ports mostly answer at once.
            let nobody_awaited = |_: &Shown| !prober::is_awaiting(&fleet.state());
            let mut shown = fleet.watch();
            // Either way the roster was confirmed; who is still silent comes later.
            drop(tokio::time::timeout(FIRST_PROBE, shown.wait_for(nobody_awaited)).await);
        }
        met
    }

    /// Begins a refresh and does not wait for it. However many begin, each fleet has one that waits.
    pub fn begin_refresh(self: &Arc<Self>, fleet: &Arc<Fleet>) {
        if self.may_describe() {
            let (reconciler, place) = self.asked_by[&fleet.config().name];
            self.reconcilers[reconciler].want(place);
        } else if fleet.begin_refresh() {
            let (engine, fleet) = (Arc::clone(self), Arc::clone(fleet));
            tokio::spawn(async move {
                engine.refresh(&fleet, BACKGROUND_REFRESH).await;
                fleet.end_refresh();
            });
        }
    }

    /// Takes in one input: applies, stores, publishes.
    pub async fn apply(&self, fleet: &Fleet, input: Input) -> Outcome {
        self.apply_kept(fleet, input).await.0
    }

    /// The same, and whether what came of it is in the store: in the shared one if there is one, or on
    /// the disk.
    async fn apply_kept(&self, fleet: &Fleet, input: Input) -> (Outcome, bool) {
        // Whoever writes a file says what is in service, and is believed at once.
        let probe = self.policy.probe && !matches!(fleet.config().source, SourceConfig::File { .. });
        let policy = GuardPolicy { probe, probe_unannounced: fleet.answers_us(), ..self.policy };
        let mut held = fleet.hold().await;
        let mut change = |state: &mut FleetState| state.apply(input.clone(), &policy, self.clock.now());
        let outcome = self.stores.change(&mut held, &mut change, &self.clock, &self.counters).await;
        self.tell(fleet, &outcome);
        fleet.show(&held.state);
        self.stores.keep_on_disk(&mut held, &self.counters).await;
        (outcome, self.stores.has_kept(&held))
    }

    fn tell(&self, fleet: &Fleet, outcome: &Outcome) {
        let name = &fleet.config().name;
        match outcome.verdict {
            Verdict::Held(doubt) => {
                self.counters.held.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(fleet = %name, reason = %doubt, "guard holds the last good roster");
            }
            Verdict::Observed(doubt) => {
                self.counters.observed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(fleet = %name, reason = %doubt, "guard would have held the last good roster");
            }
            Verdict::Accepted | Verdict::Stale => {}
        }
        if let Some(change) = &outcome.change {
            self.counters.published.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                fleet = %name, revision = %change.revision, cause = %change.cause, touched = change.members.len(),
                "roster published"
            );
        }
    }

    /// Replicas share one clock: their store's.
    #[cfg_attr(
        not(feature = "redis"),
        expect(clippy::unused_async, reason = "only a shared store has a clock")
    )]
    async fn set_clock(&self) {
        #[cfg(feature = "redis")]
        if let Some(replicas) = self.stores.replicas() {
            self.set_clock_by_redis(replicas).await;
        }
    }

    /// Loads what the stores remember of a fleet, and shows it.
    async fn load(&self, fleet: &Fleet) {
        let mut held = fleet.hold().await;
        self.stores.load(&mut held, &self.clock).await;
        fleet.show(&held.state);
    }

    /// Looks at every problem there can be, and tells people what is new.
    pub fn review_alerts(&self) {
        self.alerts.review(self);
    }

    async fn review_for_ever(self: Arc<Self>, mut shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(REVIEW_EVERY) => self.review_alerts(),
            }
        }
    }

    /// Fleets by the label of their source.
    pub(crate) fn by_source(&self) -> BTreeMap<&str, &[Arc<Fleet>]> {
        self.reconcilers.iter().map(|r| (r.label.as_str(), r.fleets.as_slice())).collect()
    }

    /// Lifecycle hooks that cannot be completed, and why.
    pub(crate) fn failing_hooks(&self) -> Vec<(FleetName, InstanceId, String)> {
        self.hooks.failing()
    }

    /// Drains that the deadline ended, and the agents that still held.
    pub(crate) fn held_at_deadline(&self) -> Vec<(FleetName, InstanceId, Vec<String>)> {
        self.hooks.held()
    }

    /// The stores.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }
}
