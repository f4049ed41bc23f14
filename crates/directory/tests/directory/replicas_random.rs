//! Random lives of three replicas: the source changes, events reach one of them, Redis freezes, comes
//! back, loses its data, replicas restart. In the end all agree, and nobody ever sends to what it has
//! heard is dying.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pikepole_fleet::{FactKind, InstanceId, Lifecycle, MemberState, Revision, Timestamp};
use tokio::time::sleep;

use crate::engine_rig::{Rig, group, grow, until};
use crate::replicas_rig::{Shared, agree};

const NAMES: [&str; 3] = ["a", "b", "c"];
const STEPS: usize = 200;

struct World {
    shared: Shared,
    replicas: Vec<Rig>,
    /// What each replica has heard is dying; its disk remembers it across a restart.
    heard: [BTreeSet<InstanceId>; 3],
    seen: [Option<(Revision, Timestamp)>; 3],
    dying: BTreeSet<InstanceId>,
    is_paused: bool,
    random: fastrand::Rng,
}

impl World {
    async fn new(seed: u64) -> Self {
        let shared = Shared::new();
        grow(&shared.cloud, "f", 6);
        let mut replicas = Vec::new();
        for name in NAMES {
            replicas.push(shared.replica(name).await);
        }
        agree(&replicas.iter().collect::<Vec<_>>(), 6).await;
        Self {
            shared,
            replicas,
            heard: Default::default(),
            seen: [None; 3],
            dying: BTreeSet::new(),
            is_paused: false,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn any(&mut self, lifecycle: Lifecycle) -> Option<InstanceId> {
        let all = self.shared.cloud.instances(&group("f"));
        let of: Vec<_> = all.into_iter().filter(|i| i.lifecycle == lifecycle).map(|i| i.id).collect();
        self.random.choice(of)
    }

    async fn step(&mut self) -> String {
        let n = self.random.usize(..3);
        match self.random.u8(..40) {
            0..=7 => {
                grow(&self.shared.cloud, "f", 1);
                "launch".into()
            }
            8..=15 => {
                // The event comes while the group still says `InService`, as a spot warning does.
                let alive = self.shared.cloud.instances(&group("f")).len() - self.dying.len();
                let Some(id) = self.any(Lifecycle::InService).filter(|id| !self.dying.contains(id)) else {
                    return "nothing".into();
                };
                if alive < 4 {
                    return "nothing".into();
                }
                self.replicas[n].learn("f", &id, FactKind::SpotInterruption).await;
                self.heard[n].insert(id.clone());
                self.dying.insert(id.clone());
                format!("{} hears that {id} dies", NAMES[n])
            }
            16..=20 => {
                let gone = self.dying.pop_first();
                if let Some(id) = &gone {
                    self.shared.cloud.remove(&group("f"), id);
                    for heard in &mut self.heard {
                        heard.remove(id);
                    }
                }
                format!("{gone:?} is gone")
            }
            21..=22 if !self.is_paused => {
                self.shared.redis.pause();
                self.is_paused = true;
                "redis freezes".into()
            }
            21..=26 if self.is_paused => {
                self.shared.redis.resume();
                self.is_paused = false;
                "redis goes on".into()
            }
            27..=28 => {
                self.shared.redis.restart_empty();
                self.is_paused = false;
                "redis loses its data".into()
            }
            29..=30 => {
                self.restart(n).await;
                format!("{} restarts", NAMES[n])
            }
            _ => {
                sleep(Duration::from_millis(self.random.u64(1..40))).await;
                "time passes".into()
            }
        }
    }

    async fn restart(&mut self, n: usize) {
        let old = self.replicas.remove(n);
        if self.random.bool() {
            old.kill().await
        } else {
            old.stop().await
        }
        let new = self.shared.replica(NAMES[n]).await;
        self.replicas.insert(n, new);
        self.seen[n] = None;
    }

    fn check(&mut self, history: &[String]) {
        for (n, rig) in self.replicas.iter().enumerate() {
            let tell = || format!("{} after:\n{}", NAMES[n], history.join("\n"));
            let published = rig.fleet("f").published().unwrap_or_else(|| panic!("no roster: {}", tell()));
            assert!(!published.roster.members().is_empty(), "an empty roster: {}", tell());
            let states: BTreeMap<_, _> =
                published.roster.members().iter().map(|m| (&m.instance_id, m.state)).collect();
            for id in &self.heard[n] {
                let is_sendable = states.get(id).is_some_and(|s| *s != MemberState::Draining);
                assert!(!is_sendable, "{id} is sent to again: {}", tell());
            }
            let now = (published.revision(), rig.fleet("f").freshness().unwrap().confirmed_at);
            if let Some((revision, confirmed)) = self.seen[n] {
                assert!(now.0 >= revision || now.1 >= confirmed, "older and not newer: {}", tell());
            }
            self.seen[n] = Some(now);
        }
    }
}

async fn live(seed: u64) {
    let mut world = World::new(seed).await;
    let mut history = vec![format!("seed {seed}")];
    for _ in 0..STEPS {
        let step = world.step().await;
        history.push(step);
        world.check(&history);
    }
    if world.is_paused {
        world.shared.redis.resume();
    }
    grow(&world.shared.cloud, "f", 1);
    let all: Vec<&Rig> = world.replicas.iter().collect();
    let known = |rig: &Rig| world.dying.iter().all(|id| rig.fleet("f").state().overlay.is_dying(id));
    until(&format!("all have heard everything:\n{}", history.join("\n")), || all.iter().all(|r| known(r)))
        .await;
    let serving = world.shared.cloud.instances(&group("f")).len() - world.dying.len();
    agree(&all, serving).await;
    world.check(&history);
}

#[tokio::test]
async fn three_replicas_agree_after_a_random_life() {
    live(1).await;
}

#[tokio::test]
async fn three_replicas_agree_after_another_random_life() {
    live(2).await;
}
