//! Chases the news that an event announced: has a fleet's source asked again, soon and then ever more
//! seldom, until the describe lists what was announced. No hook fires when an instance becomes `InService`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::FleetName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Engine, Fleet};
use crate::shutdown::Shutdown;

/// Seconds between two describes while somebody is awaited.
const STEPS: [u64; 6] = [1, 2, 4, 8, 15, 30];
/// However many events come, they do not have the source asked more often than this.
const MERGE: Duration = Duration::from_secs(2);
/// A newcomer that is not in service by then is left to the regular sweeps.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
struct Chase {
    /// When the source is asked next; `None`: nothing is awaited, only the merge window is still open.
    next: Option<Instant>,
    asked: Option<Instant>,
    step: usize,
}

/// The fleets whose news are chased.
#[derive(Debug, Default)]
pub(super) struct Chases {
    chases: Mutex<BTreeMap<FleetName, Chase>>,
    begun: Notify,
}

impl Chases {
    /// There is news of a fleet: its source is asked at once, or when the merge window ends.
    pub(super) fn begin(&self, fleet: &Fleet) {
        let now = Instant::now();
        let mut chases = self.chases.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = Chase { next: None, asked: None, step: 0 };
        let chase = chases.entry(fleet.config().name.clone()).or_insert(idle);
        let soonest = chase.asked.map_or(now, |asked| (asked + MERGE).max(now));
        chase.next = Some(chase.next.map_or(soonest, |next| next.min(soonest)));
        chase.step = 0;
        self.begun.notify_one();
    }

    fn due(&self, now: Instant) -> Vec<FleetName> {
        let chases = self.chases.lock().unwrap_or_else(PoisonError::into_inner);
        let due = chases.iter().filter(|(_, chase)| chase.next.is_some_and(|next| next <= now));
        due.map(|(name, _)| name.clone()).collect()
    }

    fn asked(&self, fleet: &FleetName, goes_on: bool, now: Instant) {
        let mut chases = self.chases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chase) = chases.get_mut(fleet) {
            let wait = STEPS.get(chase.step).filter(|_| goes_on);
            *chase = Chase {
                next: wait.map(|wait| now + Duration::from_secs(*wait)),
                asked: Some(now),
                step: chase.step + 1,
            };
        }
        chases.retain(|_, c| c.next.is_some() || c.asked.is_some_and(|asked| asked + MERGE > now));
    }

    fn next(&self) -> Option<Instant> {
        let chases = self.chases.lock().unwrap_or_else(PoisonError::into_inner);
        chases.values().filter_map(|chase| chase.next).min()
    }
}

/// Chases until the shutdown.
pub(super) async fn run(engine: Arc<Engine>, mut shutdown: Shutdown) {
    let chases = &engine.chases;
    loop {
        let next = chases.next();
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.wait() => return,
            () = chases.begun.notified() => {}
            () = due => {}
        }
        let now = Instant::now();
        for name in chases.due(now) {
            if let Some(fleet) = engine.fleet(name.as_str()) {
                chases.asked(&name, awaits_somebody(&engine, fleet), now);
                engine.begin_refresh(fleet);
            }
        }
    }
}

/// Whether an announced collector is not in service yet.
fn awaits_somebody(engine: &Engine, fleet: &Fleet) -> bool {
    let now = engine.clock().now();
    fleet.state().lives.iter().any(|(_, life)| {
        let announced = life.launched.is_some_and(|at| now.since(at) < PATIENCE);
        announced && life.in_service.is_none() && life.gone.is_none() && life.draining.is_none()
    })
}
