//! The life of one simulated Auto Scaling group: it scales with a load that comes and goes, spot
//! capacity is taken away now and then, and sometimes AWS throttles. From a seed.
//!
//! The group has lifecycle hooks; what AWS would say of it comes to the directory as events.

use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::engine::Engine;
use pikepole_directory::source::SourceError;
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{GroupName, InstanceId, Lifecycle, Transition};
use tokio::time::{Instant, sleep};

use super::Pace;

const LEAST: usize = 3;
const MOST: usize = 10;
/// Spot instances that are being taken back at once.
const MOST_DOOMED: usize = 2;
/// From a spot interruption warning to the end of the instance, as with AWS.
const NOTICE: f64 = 120.0;
/// What the templates give the hooks.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(150);
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two deliveries of events.
const DELIVERY: Duration = Duration::from_millis(100);

/// Fills a group with instances in service, so that the first roster is not empty.
pub(super) fn begin(cloud: &SimCloud, group: &GroupName, desired: u32) {
    cloud.create_group(group, desired);
    for _ in 0..desired {
        let id = cloud.launch(group);
        cloud.set_lifecycle(group, &id, Lifecycle::InService);
    }
    for (transition, name, timeout) in [
        (Transition::Launching, "pikepole-launch", LAUNCH_TIMEOUT),
        (Transition::Terminating, "pikepole-terminate", TERMINATE_TIMEOUT),
    ] {
        cloud.put_hook(group, transition, name.parse().expect("the demo's names are names"), timeout);
    }
}

/// Brings the events of an account to the directory, as a queue would.
pub(super) async fn deliver(cloud: SimCloud, engine: Arc<Engine>) {
    loop {
        sleep(DELIVERY).await;
        engine.take_events(&cloud.take_events()).await;
    }
}

/// A group that lives.
pub(super) struct Life {
    cloud: SimCloud,
    group: GroupName,
    pace: Pace,
    /// Spot instances that were warned, and when they end.
    doomed: Vec<(Instant, InstanceId)>,
    throttled_until: Option<Instant>,
}

impl Life {
    pub(super) fn new(cloud: SimCloud, group: GroupName, pace: Pace) -> Self {
        Self { cloud, group, pace, doomed: Vec::new(), throttled_until: None }
    }

    /// Lives for ever.
    pub(super) async fn live(mut self) {
        loop {
            sleep(self.pace.some_time(1.0, 6.0)).await;
            self.carry_out();
            match self.pace.below(100) {
                0..=34 => self.scale_out(),
                35..=59 => self.scale_in(),
                60..=69 => self.lose_spot(),
                70..=74 => self.advise(),
                75..=76 => self.throttle(),
                _ => {}
            }
        }
    }

    /// What is due by now.
    fn carry_out(&mut self) {
        let now = Instant::now();
        if self.throttled_until.is_some_and(|until| until <= now) {
            self.throttled_until = None;
            self.cloud.fail_with(None);
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.doomed).into_iter().partition(|(at, _)| *at <= now);
        self.doomed = later;
        for (_, id) in due {
            self.cloud.take_back(&self.group, &id);
        }
    }

    fn serving(&self) -> Vec<InstanceId> {
        let doomed = |id: &InstanceId| self.doomed.iter().any(|(_, d)| d == id);
        let instances = self.cloud.instances(&self.group).into_iter();
        instances.filter(|i| i.lifecycle == Lifecycle::InService && !doomed(&i.id)).map(|i| i.id).collect()
    }

    /// One of those that can be spared.
    fn spare(&mut self) -> Option<InstanceId> {
        let mut serving = self.serving();
        (serving.len() > LEAST).then(|| serving.swap_remove(self.pace.below(serving.len())))
    }

    /// Everyone who is neither leaving nor doomed is wanted.
    fn set_desired(&self) {
        let doomed = |id: &InstanceId| self.doomed.iter().any(|(_, d)| d == id);
        let stays = |lifecycle| !matches!(lifecycle, Lifecycle::Leaving);
        let instances = self.cloud.instances(&self.group);
        let wanted = instances.iter().filter(|i| stays(i.lifecycle) && !doomed(&i.id)).count();
        self.cloud.set_desired(&self.group, u32::try_from(wanted).unwrap_or(u32::MAX));
    }

    fn scale_out(&mut self) {
        if self.cloud.instances(&self.group).len() < MOST {
            self.cloud.launch(&self.group);
            self.set_desired();
        }
    }

    fn scale_in(&mut self) {
        if let Some(id) = self.spare() {
            self.cloud.terminate(&self.group, &id);
            self.set_desired();
        }
    }

    /// The warning is an event: the group still calls the instance `InService`, for two minutes.
    fn lose_spot(&mut self) {
        if self.doomed.len() < MOST_DOOMED
            && let Some(id) = self.spare()
        {
            self.cloud.interrupt(&id);
            self.doomed.push((Instant::now() + self.pace.some_time(NOTICE, NOTICE), id));
            self.set_desired();
        }
    }

    fn advise(&mut self) {
        if let Some(id) = self.spare() {
            self.cloud.advise(&id);
        }
    }

    fn throttle(&mut self) {
        self.cloud.fail_with(Some(SourceError::Throttled("Rate exceeded".into())));
        self.throttled_until = Some(Instant::now() + self.pace.some_time(4.0, 9.0));
    }
}
