//! The life of one simulated Auto Scaling group: it scales with a load that comes and goes, spot
//! capacity is taken away now and then, and sometimes AWS throttles. From a seed.

use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::engine::{Engine, Fleet};
use pikepole_directory::source::SourceError;
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{Fact, FactKind, GroupName, Input, InstanceId, Lifecycle};
use tokio::time::{Instant, sleep};

const LEAST: u32 = 2;
const MOST: u32 = 10;

/// Fills a group with instances in service, so that the first roster is not empty.
pub(super) fn begin(cloud: &SimCloud, group: &GroupName, desired: u32) {
    cloud.create_group(group, desired);
    for _ in 0..desired {
        let id = cloud.launch(group);
        cloud.set_lifecycle(group, &id, Lifecycle::InService);
    }
    cloud.notify(true);
}

/// What will happen to an instance next, and when.
struct Pending {
    at: Instant,
    id: InstanceId,
    next: Next,
}

enum Next {
    InService,
    Leave,
    Gone,
}

/// A group that lives.
pub(super) struct Life {
    cloud: SimCloud,
    engine: Arc<Engine>,
    fleet: Arc<Fleet>,
    group: GroupName,
    rng: fastrand::Rng,
    speed: f64,
    pending: Vec<Pending>,
    throttled_until: Option<Instant>,
}

impl Life {
    pub(super) fn new(
        cloud: SimCloud,
        engine: Arc<Engine>,
        fleet: Arc<Fleet>,
        seed: u64,
        speed: f64,
    ) -> Self {
        let group = fleet.config().group();
        let rng = fastrand::Rng::with_seed(seed);
        Self { cloud, engine, fleet, group, rng, speed, pending: Vec::new(), throttled_until: None }
    }

    /// Lives for ever.
    pub(super) async fn live(mut self) {
        loop {
            sleep(self.some_time(1.0, 4.0)).await;
            self.carry_out();
            match self.rng.u32(0..100) {
                0..=34 => self.scale_out(),
                35..=64 => self.scale_in(),
                65..=79 => self.lose_spot().await,
                80..=81 => self.throttle(),
                _ => {}
            }
        }
    }

    fn some_time(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64((least + (most - least) * self.rng.f64()) / self.speed)
    }

    fn plan(&mut self, id: InstanceId, next: Next, least: f64, most: f64) {
        let at = Instant::now() + self.some_time(least, most);
        self.pending.push(Pending { at, id, next });
    }

    /// What is due by now.
    fn carry_out(&mut self) {
        let now = Instant::now();
        if self.throttled_until.is_some_and(|until| until <= now) {
            self.throttled_until = None;
            self.cloud.fail_with(None);
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|p| p.at <= now);
        self.pending = later;
        for Pending { id, next, .. } in due {
            match next {
                Next::InService => self.cloud.set_lifecycle(&self.group, &id, Lifecycle::InService),
                Next::Leave => self.leave(id),
                Next::Gone => self.cloud.remove(&self.group, &id),
            }
        }
    }

    fn leave(&mut self, id: InstanceId) {
        self.cloud.set_lifecycle(&self.group, &id, Lifecycle::Leaving);
        self.plan(id, Next::Gone, 3.0, 8.0);
    }

    fn in_service(&self) -> Vec<InstanceId> {
        let busy = |id: &InstanceId| self.pending.iter().any(|p| p.id == *id);
        let instances = self.cloud.instances(&self.group).into_iter();
        instances.filter(|i| i.lifecycle == Lifecycle::InService && !busy(&i.id)).map(|i| i.id).collect()
    }

    fn scale_out(&mut self) {
        let count = u32::try_from(self.cloud.instances(&self.group).len()).unwrap_or(MOST);
        if count < MOST {
            self.cloud.set_desired(&self.group, count + 1);
            let id = self.cloud.launch(&self.group);
            self.plan(id, Next::InService, 2.0, 6.0);
        }
    }

    fn scale_in(&mut self) {
        let serving = self.in_service();
        if serving.len() as u32 > LEAST {
            let id = serving[self.rng.usize(..serving.len())].clone();
            self.cloud.set_desired(&self.group, serving.len() as u32 - 1);
            self.leave(id);
        }
    }

    /// The warning is an event: the group still calls the instance `InService`.
    async fn lose_spot(&mut self) {
        let serving = self.in_service();
        if serving.len() as u32 > LEAST {
            let id = serving[self.rng.usize(..serving.len())].clone();
            let at = self.engine.clock().now();
            let fact = Fact { instance: id.clone(), kind: FactKind::SpotInterruption, at };
            self.engine.apply(&self.fleet, Input::Learned(fact)).await;
            self.plan(id, Next::Leave, 6.0, 12.0);
        }
    }

    fn throttle(&mut self) {
        self.cloud.fail_with(Some(SourceError::Throttled("Rate exceeded".into())));
        self.throttled_until = Some(Instant::now() + self.some_time(8.0, 20.0));
    }
}
