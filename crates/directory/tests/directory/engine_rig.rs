//! An engine on a simulated account, its wall clock in the test's hands. With paused time a day passes
//! in a moment.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_directory::alerts::Alerts;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::{DrainConfig, FleetConfig, ProbeConfig, SourceConfig};
use pikepole_directory::engine::{Engine, Fleet, Setup, SourceSetup, Stores};
use pikepole_directory::shutdown::{self, Shutdown, Trigger};
use pikepole_directory::source::sim::{SimCloud, SimSource};
use pikepole_directory::source::{Answer, Source, SourceError, Target};
use pikepole_fleet::{
    Alert, AlertKind, Fact, FactKind, GroupName, GuardPolicy, Input, InstanceId, Lifecycle, Notice, Proof,
    Timestamp,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub(crate) const RECONCILE: Duration = Duration::from_secs(30);
pub(crate) const GAP: Duration = Duration::from_secs(1);
pub(crate) const STALE: Duration = Duration::from_secs(180);
/// Long enough for a busy machine; nothing waits this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A wall clock that goes with tokio's, and steps when told to.
#[derive(Clone)]
pub(crate) struct Wall {
    start: Instant,
    offset: Arc<AtomicI64>,
}

impl Wall {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), offset: Arc::new(AtomicI64::new(1_795_341_600_000)) }
    }

    pub(crate) fn clock(&self) -> Clock {
        let wall = self.clone();
        Clock::from_fn(move || wall.now())
    }

    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap();
        Timestamp::from_millis(u64::try_from(self.offset.load(Ordering::SeqCst) + elapsed).unwrap())
    }

    pub(crate) fn step(&self, seconds: i64) {
        self.offset.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

/// When the source was asked, and about how many fleets.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<(Instant, usize)>>>);

impl Asked {
    pub(crate) fn all(&self) -> Vec<(Instant, usize)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

struct Noting {
    source: SimSource,
    asked: Asked,
}

#[async_trait]
impl Source for Noting {
    async fn describe(&self, targets: &[Target]) -> Vec<Result<Answer, SourceError>> {
        self.asked.0.lock().unwrap().push((Instant::now(), targets.len()));
        self.source.describe(targets).await
    }

    async fn prove_gone(&self, ids: &[InstanceId]) -> Result<Proof, SourceError> {
        self.source.prove_gone(ids).await
    }

    async fn changed(&self) {
        self.source.changed().await;
    }
}

/// One running engine.
pub(crate) struct Rig {
    pub(crate) cloud: SimCloud,
    pub(crate) engine: Arc<Engine>,
    pub(crate) wall: Wall,
    pub(crate) asked: Asked,
    alerts: mpsc::Receiver<Alert>,
    trigger: Trigger,
    shutdown: Shutdown,
    tasks: JoinSet<()>,
}

impl Rig {
    /// One source with these fleets, each a group of its own; started.
    pub(crate) async fn start(names: &[&str]) -> Self {
        let wall = Wall::new();
        let cloud = SimCloud::new(wall.clock());
        Self::start_on(cloud, wall, names, |_| {}).await
    }

    pub(crate) async fn start_on(
        cloud: SimCloud,
        wall: Wall,
        names: &[&str],
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        let mut rig = Self::open(cloud, wall, names, change).await;
        rig.begin();
        rig
    }

    /// The same, not started: nothing is asked yet.
    pub(crate) async fn open(
        cloud: SimCloud,
        wall: Wall,
        names: &[&str],
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        let (trigger, shutdown) = shutdown::channel();
        let (sender, alerts) = mpsc::channel(10_000);
        let asked = Asked::default();
        let mut setup = Setup {
            sources: vec![source("sim", &cloud, &asked, names)],
            stores: Stores::default(),
            policy: GuardPolicy::default(),
            reconcile: RECONCILE,
            stale_after: STALE,
            probe: ProbeConfig { enabled: false, ..ProbeConfig::default() },
            drain: DrainConfig::default(),
            complete_hooks: true,
            clock: wall.clock(),
            alerts: Alerts::to_queue(sender),
        };
        change(&mut setup);
        let engine = Engine::open(setup).await;
        Self { cloud, engine, wall, asked, alerts, trigger, shutdown, tasks: JoinSet::new() }
    }

    pub(crate) fn begin(&mut self) {
        self.tasks = self.engine.start(&self.shutdown);
    }

    pub(crate) fn fleet(&self, name: &str) -> &Arc<Fleet> {
        self.engine.fleet(name).unwrap()
    }

    pub(crate) fn hosts(&self, name: &str) -> Option<Vec<String>> {
        self.fleet(name).published().map(|p| p.roster.hosts())
    }

    pub(crate) fn revision(&self, name: &str) -> u64 {
        self.fleet(name).published().unwrap().revision().get()
    }

    pub(crate) async fn learn(&self, name: &str, id: &InstanceId, kind: FactKind) {
        let fact = Fact { instance: id.clone(), kind, at: self.wall.now() };
        self.engine.apply(self.fleet(name), Input::Learned(fact)).await;
    }

    /// What people were told since the last look.
    pub(crate) fn told(&mut self) -> Vec<(AlertKind, String, Notice)> {
        let mut told = Vec::new();
        while let Ok(alert) = self.alerts.try_recv() {
            told.push((alert.problem.kind, alert.problem.subject, alert.notice));
        }
        told
    }

    /// How often people were told this since the last look at anything.
    pub(crate) fn told_of(told: &[(AlertKind, String, Notice)], kind: AlertKind, notice: Notice) -> usize {
        told.iter().filter(|(k, _, n)| *k == kind && *n == notice).count()
    }

    pub(crate) fn is_open(&self, kind: AlertKind) -> bool {
        self.engine.alerts().open_by_kind().contains_key(&kind)
    }

    /// Says "stop" and waits until everything has.
    pub(crate) async fn stop(mut self) {
        self.trigger.stop();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        timeout(Duration::from_secs(10), all).await.expect("a task goes on after the shutdown");
    }

    /// Ends like a killed process: nothing is given back.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

pub(crate) fn source(label: &str, cloud: &SimCloud, asked: &Asked, names: &[&str]) -> SourceSetup {
    SourceSetup {
        label: label.into(),
        kind: "sim",
        source: Arc::new(Noting { source: cloud.source(), asked: asked.clone() }),
        fleets: names.iter().map(|name| fleet_config(name)).collect(),
        gap: GAP,
    }
}

pub(crate) fn fleet_config(name: &str) -> FleetConfig {
    FleetConfig {
        name: name.parse().unwrap(),
        dc: name.parse().unwrap(),
        region: "r".parse().unwrap(),
        port: 5044,
        source: SourceConfig::Sim,
    }
}

pub(crate) fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

/// Adds instances in service; the group wants all it has.
pub(crate) fn grow(cloud: &SimCloud, name: &str, count: usize) -> Vec<InstanceId> {
    let ids: Vec<InstanceId> = (0..count).map(|_| cloud.launch(&group(name))).collect();
    for id in &ids {
        cloud.set_lifecycle(&group(name), id, Lifecycle::InService);
    }
    let all = cloud.instances(&group(name)).len();
    cloud.set_desired(&group(name), u32::try_from(all).unwrap());
    ids
}

/// In paused time: everything that can happen by then has happened. With real servers: a little while.
pub(crate) async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looks = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, looks).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
