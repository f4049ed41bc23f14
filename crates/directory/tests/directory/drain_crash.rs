//! A directory that is killed at every step of a drain, before and after the step had its effect: the
//! hook is completed in the end, and never while an agent that was known still sends to the collector.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_directory::engine::{Engine, Stores};
use pikepole_directory::source::sim::SimCloud;
use pikepole_directory::source::{Answer, HookAnswer, HookCall, Source, SourceError, Target};
use pikepole_directory::store::file::FileStore;
use pikepole_directory::store::{KnownAgent, SaveError, Store, StoreError, Stored, Version};
use pikepole_fleet::{FleetName, FleetState, GroupName, HookName, InstanceId, Proof, Transition};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::drain_rig::{Account, Hooks, Proxy, hook_event};
use crate::engine_rig::{Rig, Wall, grow, pass};

/// A process that dies at one of its steps: from then on nothing it does has an effect.
#[derive(Default)]
struct Process {
    armed: AtomicBool,
    /// The step at which it dies; 0: never.
    at: u32,
    /// Whether that step has its effect.
    after: bool,
    steps: AtomicU32,
    dead: AtomicBool,
    died: Notify,
}

impl Process {
    async fn step<T>(&self, effect: impl Future<Output = T>) -> T {
        if self.dead.load(Ordering::SeqCst) {
            return pending().await;
        }
        let armed = self.armed.load(Ordering::SeqCst);
        if armed && self.steps.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            if self.after {
                effect.await;
            }
            self.dead.store(true, Ordering::SeqCst);
            self.died.notify_one();
            return pending().await;
        }
        let answer = effect.await;
        if self.dead.load(Ordering::SeqCst) { pending().await } else { answer }
    }
}

struct Disk {
    process: Arc<Process>,
    disk: Arc<FileStore>,
}

#[async_trait]
impl Store for Disk {
    async fn load(&self, fleet: &FleetName) -> Result<Option<Stored>, StoreError> {
        self.disk.load(fleet).await
    }

    async fn save(&self, state: &FleetState, expected: Option<Version>) -> Result<Version, SaveError> {
        self.process.step(self.disk.save(state, expected)).await
    }

    async fn load_agents(&self, fleet: &FleetName) -> Result<Vec<KnownAgent>, StoreError> {
        self.disk.load_agents(fleet).await
    }

    async fn save_agents(&self, fleet: &FleetName, agents: &[KnownAgent]) -> Result<(), StoreError> {
        self.process.step(self.disk.save_agents(fleet, agents)).await
    }
}

struct Cloud {
    process: Arc<Process>,
    account: Account,
}

#[async_trait]
impl Source for Cloud {
    async fn describe(&self, targets: &[Target]) -> Vec<Result<Answer, SourceError>> {
        self.process.step(self.account.describe(targets)).await
    }

    async fn prove_gone(&self, ids: &[InstanceId]) -> Result<Proof, SourceError> {
        self.process.step(self.account.prove_gone(ids)).await
    }

    async fn complete_hook(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.process.step(self.account.complete_hook(call)).await
    }

    async fn heartbeat(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.process.step(self.account.heartbeat(call)).await
    }

    async fn hook_timeouts(&self, group: &GroupName) -> Result<BTreeMap<HookName, Duration>, SourceError> {
        self.process.step(self.account.hook_timeouts(group)).await
    }
}

/// A proxy: how long it takes to apply a roster, when it is back after a crash, and what it does.
struct Agent {
    name: &'static str,
    takes: Duration,
    back: Option<Duration>,
    uses: Mutex<Option<u64>>,
    /// From when on it sends to the collector, or not.
    sends: Mutex<Vec<(Instant, bool)>>,
}

impl Agent {
    fn new(name: &'static str, takes: u64, back: Option<u64>) -> Arc<Self> {
        let (takes, back) = (Duration::from_millis(takes), back.map(Duration::from_secs));
        Arc::new(Self { name, takes, back, uses: Mutex::default(), sends: Mutex::default() })
    }

    fn sends_at(&self, at: Instant) -> bool {
        self.sends.lock().unwrap().iter().rfind(|(since, _)| *since <= at).is_some_and(|(_, sends)| *sends)
    }

    /// Polls with what it uses, applies what comes, and polls again.
    async fn follow(self: Arc<Self>, engine: Arc<Engine>, id: InstanceId) {
        let proxy = Proxy::new(self.name);
        let mut shown = engine.fleet("f").unwrap().watch();
        loop {
            let uses = *self.uses.lock().unwrap();
            proxy.polls(&engine, uses);
            let is_news = |p: &pikepole_directory::engine::Shown| {
                p.published.as_ref().is_some_and(|p| Some(p.revision().get()) != uses)
            };
            let news = shown.wait_for(is_news).await.unwrap().published.clone().unwrap();
            sleep(self.takes).await;
            *self.uses.lock().unwrap() = Some(news.revision().get());
            let sends = news.roster.sendable().any(|m| m.instance_id == id);
            self.sends.lock().unwrap().push((Instant::now(), sends));
        }
    }
}

struct World {
    wall: Wall,
    cloud: SimCloud,
    hooks: Hooks,
    disk: Arc<FileStore>,
    id: InstanceId,
    agents: Vec<Arc<Agent>>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let wall = Wall::new();
        let cloud = SimCloud::new(wall.clock());
        let id = grow(&cloud, "f", 3).remove(1);
        let hooks = Hooks::default();
        hooks.put("drain", 300);
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FileStore::open(folder.path()).await.unwrap());
        let agents = vec![
            Agent::new("quick", 300, Some(1)),
            Agent::new("slow", 6_000, Some(12)),
            // Long done, or dead with the directory: nobody waits for it longer than for anyone.
            Agent::new("lost", 4_000, None),
        ];
        Self { wall, cloud, hooks, disk, id, agents, _folder: folder }
    }

    async fn start(&self, process: &Arc<Process>) -> Rig {
        let account = Account { source: Box::new(self.cloud.source()), hooks: self.hooks.clone() };
        let source = Cloud { process: Arc::clone(process), account };
        let disk = Disk { process: Arc::clone(process), disk: Arc::clone(&self.disk) };
        Rig::start_on(self.cloud.clone(), self.wall.clone(), &["f"], |setup| {
            setup.sources[0].source = Arc::new(source);
            setup.stores = Stores::on_disk(Ok(Arc::new(disk)));
        })
        .await
    }

    /// Runs a drain in a process that may die, and what comes after. Returns how many steps it took.
    async fn drain(&self, process: Process) -> u32 {
        let process = Arc::new(process);
        let rig = self.start(&process).await;
        let mut agents = JoinSet::new();
        for agent in &self.agents {
            agents.spawn(Arc::clone(agent).follow(Arc::clone(&rig.engine), self.id.clone()));
        }
        pass(10).await;
        process.armed.store(true, Ordering::SeqCst);
        self.hooks.wait(&self.id, "drain");
        let began = Instant::now();
        let acknowledged = timeout(Duration::from_secs(100), async {
            tokio::select! {
                () = process.died.notified() => None,
                kept = self.tell(&rig) => Some(kept),
            }
        });
        let acknowledged = acknowledged.await.unwrap().is_some();
        let crashed = timeout(Duration::from_secs(100), process.died.notified());
        let crashed = !acknowledged || crashed.await.is_ok();
        if !crashed {
            self.check(began, None);
            return process.steps.load(Ordering::SeqCst);
        }
        agents.shutdown().await;
        rig.kill().await;
        sleep(Duration::from_secs(1)).await;
        let again = self.start(&Arc::new(Process::default())).await;
        let restarted = Instant::now();
        for agent in self.agents.iter().filter(|agent| agent.back.is_some()) {
            let (agent, engine, id) = (Arc::clone(agent), Arc::clone(&again.engine), self.id.clone());
            agents.spawn(async move {
                sleep(agent.back.unwrap()).await;
                agent.follow(engine, id).await;
            });
        }
        if !acknowledged {
            sleep(Duration::from_secs(3)).await;
            self.tell(&again).await;
        }
        pass(150).await;
        self.check(began, Some(restarted));
        let state = again.fleet("f").state();
        let life = state.lives.get(&self.id).expect("the drain is not forgotten");
        assert!(!life.has_open() && !life.waiting.is_empty(), "{life:?}");
        process.steps.load(Ordering::SeqCst)
    }

    /// The queue: the event comes again until it is acknowledged.
    async fn tell(&self, rig: &Rig) {
        let mut event = hook_event(&self.id, "drain", "t", Transition::Terminating);
        event.at = Some(self.wall.now());
        while rig.engine.take_events(std::slice::from_ref(&event)).await.not_kept > 0 {
            sleep(Duration::from_secs(3)).await;
        }
    }

    #[track_caller]
    fn check(&self, began: Instant, restarted: Option<Instant>) {
        let completed = self.hooks.completed(&self.id);
        assert_eq!(completed.len(), 1, "completed once in the end");
        let at = completed[0];
        if at >= began + Duration::from_secs(90) {
            return; // the deadline
        }
        for agent in &self.agents {
            let is_dead = agent.back.is_none()
                && restarted.is_some_and(|restarted| at >= restarted + Duration::from_secs(15));
            assert!(is_dead || !agent.sends_at(at), "{} still sent to it", agent.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_crash_ends_when_the_slowest_has_moved_off() {
    let world = World::new().await;
    let steps = world.drain(Process::default()).await;
    assert!(steps >= 6, "the roll, the record, the timeouts, the completion: {steps} steps");
}

async fn crash_at_every_step(after: bool) {
    let mut at = 1;
    loop {
        let process = Process { at, after, ..Process::default() };
        let steps = World::new().await.drain(process).await;
        if steps < at {
            break;
        }
        at += 1;
    }
    assert!(at > 6, "only {at} steps were tried");
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_any_step_neither_forgets_nor_hurries_a_drain() {
    crash_at_every_step(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_step_neither_forgets_nor_hurries_a_drain() {
    crash_at_every_step(true).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_came_a_moment_before_the_event_is_known_after_a_crash() {
    let world = World::new().await;
    let rig = world.start(&Arc::default()).await;
    // Not when the roll is written anyway.
    sleep(Duration::from_millis(10_030)).await;
    let late = Proxy::new("late");
    late.polls(&rig.engine, Some(rig.revision("f")));
    world.hooks.wait(&world.id, "drain");
    world.tell(&rig).await;
    rig.kill().await;
    let again = world.start(&Arc::default()).await;
    let known = again.fleet("f").agents().list();
    assert!(known.iter().any(|agent| agent.key == late.key && agent.live), "{known:?}");
    pass(14).await;
    assert!(world.hooks.waits(&world.id), "it has fifteen seconds");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_holds_no_drain_up_and_acknowledges_nothing() {
    let world = World::new().await;
    let process = Arc::new(Process::default());
    let rig = world.start(&process).await;
    pass(10).await;
    Proxy::new("late").polls(&rig.engine, Some(rig.revision("f")));
    process.dead.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let engine = Arc::clone(&rig.engine);
    let event = hook_event(&world.id, "drain", "t", Transition::Terminating);
    let taken = tokio::spawn(async move { engine.take_events(&[event]).await });
    let mut shown = rig.fleet("f").watch();
    let left = |s: &pikepole_directory::engine::Shown| {
        s.published.as_ref().is_some_and(|p| p.roster.sendable().count() == 2)
    };
    shown.wait_for(left).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(1_100), "{:?}", began.elapsed());
    assert_eq!(taken.await.unwrap().not_kept, 1);
}
