//! The life of one simulated Auto Scaling group: it scales with a load that comes and goes, spot
//! capacity is taken away now and then, and sometimes AWS throttles. From a seed; and what the page's buttons ask.
//!
//! The group has lifecycle hooks; what AWS would say of it comes to the directory as events.

use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::engine::Engine;
use pikepole_directory::source::SourceError;
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{GroupName, InstanceId, Lifecycle, Transition};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Pace;
use super::flows::{Flow, Press};

/// Collectors that the group keeps by itself, and that buttons leave to it.
const LEAST: usize = 3;
const LEAST_PRESSED: usize = 1;
const MOST: usize = 10;
/// Spot instances that are being taken back at once, unless buttons want more.
const MOST_DOOMED: usize = 2;
/// From a spot interruption warning to the end of the instance, as with AWS.
const NOTICE: f64 = 120.0;
/// What the templates give the hooks.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(150);
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(120);
/// A collector hangs for so long, with speed 1, and as long as an agent needs to find out at the very least.
const HANG: f64 = 40.0;
const LEAST_HANG: Duration = Duration::from_secs(15);
/// All collectors are stopped for so long, with speed 1.
const STOP: Duration = Duration::from_secs(30);
const LEAST_STOP: Duration = Duration::from_secs(2);
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

/// When nothing can be done just now: one collector is left, or there are ten.
const REFUSED: &str = "pressed, but not done: the group keeps 1 to 10 collectors";

/// A button that is pressed before the time is up.
async fn next_press(presses: &mut mpsc::Receiver<Press>, until: Instant) -> Option<Press> {
    tokio::select! {
        Some(press) = presses.recv() => Some(press),
        () = sleep_until(until) => None,
    }
}

/// A group that lives.
pub(super) struct Life {
    cloud: SimCloud,
    group: GroupName,
    flow: Flow,
    pace: Pace,
    /// Spot instances that were warned, and when they end.
    doomed: Vec<(Instant, InstanceId)>,
    throttled_until: Option<Instant>,
}

impl Life {
    pub(super) fn new(cloud: SimCloud, group: GroupName, flow: Flow, pace: Pace) -> Self {
        Self { cloud, group, flow, pace, doomed: Vec::new(), throttled_until: None }
    }

    /// Lives for ever.
    pub(super) async fn live(mut self, mut presses: mpsc::Receiver<Press>) {
        loop {
            let next = Instant::now() + self.pace.some_time(1.0, 6.0);
            while let Some(press) = next_press(&mut presses, next).await {
                self.press(press);
            }
            self.carry_out();
            match self.pace.below(100) {
                0..=34 => drop(self.scale_out()),
                35..=59 => drop(self.scale_in(LEAST)),
                60..=69 if self.doomed.len() < MOST_DOOMED => drop(self.lose_spot(LEAST)),
                70..=74 => self.advise(),
                75..=76 => self.throttle(),
                _ => {}
            }
        }
    }

    /// Does what a button says, and tells of it.
    fn press(&mut self, press: Press) {
        let said = match press {
            Press::ScaleOut => self.scale_out().map(|id| format!("pressed: one more, {id}")),
            Press::ScaleIn => {
                self.scale_in(LEAST_PRESSED).map(|id| format!("pressed: {id} is terminated, and drains"))
            }
            Press::SpotKill => self.lose_spot(LEAST_PRESSED).map(|id| {
                let notice = self.pace.some_time(NOTICE, NOTICE).as_secs_f64();
                format!("pressed: spot warning for {id}; EC2 takes it in {notice:.0} s")
            }),
            Press::Kill => self.spare(LEAST_PRESSED).map(|id| {
                self.cloud.take_back(&self.group, &id);
                self.set_desired();
                self.flow.watch(Duration::ZERO);
                format!("pressed: {id} is gone, without a warning")
            }),
            Press::Hang => {
                let time = self.pace.some_time(HANG, HANG).max(LEAST_HANG);
                return match self.spare(LEAST_PRESSED) {
                    Some(id) => self.flow.hang(&id, time),
                    None => self.flow.say(REFUSED.into()),
                };
            }
            Press::StopAll => return self.flow.stop_all(self.pace.time(STOP).max(LEAST_STOP)),
            Press::RestartAgent => return self.flow.kill_agent(|count| self.pace.below(count)),
        };
        self.flow.say(said.unwrap_or_else(|| REFUSED.into()));
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
    fn spare(&mut self, least: usize) -> Option<InstanceId> {
        let mut serving = self.serving();
        (serving.len() > least).then(|| serving.swap_remove(self.pace.below(serving.len())))
    }

    /// Everyone who is neither leaving nor doomed is wanted.
    fn set_desired(&self) {
        let doomed = |id: &InstanceId| self.doomed.iter().any(|(_, d)| d == id);
        let stays = |lifecycle| !matches!(lifecycle, Lifecycle::Leaving);
        let instances = self.cloud.instances(&self.group);
        let wanted = instances.iter().filter(|i| stays(i.lifecycle) && !doomed(&i.id)).count();
        self.cloud.set_desired(&self.group, u32::try_from(wanted).unwrap_or(u32::MAX));
    }

    fn scale_out(&mut self) -> Option<InstanceId> {
        if self.cloud.instances(&self.group).len() >= MOST {
            return None;
        }
        let id = self.cloud.launch(&self.group);
        self.set_desired();
        Some(id)
    }

    fn scale_in(&mut self, least: usize) -> Option<InstanceId> {
        let id = self.spare(least)?;
        self.cloud.terminate(&self.group, &id);
        self.set_desired();
        Some(id)
    }

    /// The warning is an event: the group still calls the instance `InService`, for two minutes.
    fn lose_spot(&mut self, least: usize) -> Option<InstanceId> {
        let id = self.spare(least)?;
        self.cloud.interrupt(&id);
        self.doomed.push((Instant::now() + self.pace.some_time(NOTICE, NOTICE), id.clone()));
        self.set_desired();
        Some(id)
    }

    fn advise(&mut self) {
        if let Some(id) = self.spare(LEAST) {
            self.cloud.advise(&id);
        }
    }

    fn throttle(&mut self) {
        self.cloud.fail_with(Some(SourceError::Throttled("Rate exceeded".into())));
        self.throttled_until = Some(Instant::now() + self.pace.some_time(4.0, 9.0));
    }
}
