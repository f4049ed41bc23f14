//! The simulated collectors of one group: real listeners that take connections and close them.
//!
//! A machine runs before its collector does: a newcomer's port answers only after a while, and once in a
//! while long after everyone has given up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{GroupName, InstanceId, Lifecycle};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Pace;

/// Between two looks at who there is.
const LOOK: Duration = Duration::from_millis(100);
/// Between two tries to listen, should somebody have taken the port in the meantime.
const AGAIN: Duration = Duration::from_secs(1);

/// Listens for every instance of the group as long as it is there.
pub(super) async fn run(cloud: SimCloud, group: GroupName, port: u16, mut pace: Pace) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut listening: BTreeMap<InstanceId, AbortHandle> = BTreeMap::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let instances = cloud.instances(&group);
        listening.retain(|id, task| {
            let stays = instances.iter().any(|i| i.id == *id);
            if !stays {
                task.abort();
            }
            stays
        });
        for instance in instances {
            if listening.contains_key(&instance.id) {
                continue;
            }
            let boot = match instance.lifecycle {
                Lifecycle::Launching if pace.once_in(15) => pace.some_time(40.0, 50.0),
                Lifecycle::Launching => pace.some_time(1.5, 6.0),
                _ => Duration::ZERO,
            };
            let task = tasks.spawn(listen(SocketAddr::new(instance.ip, port), boot));
            listening.insert(instance.id, task);
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn listen(address: SocketAddr, boot: Duration) {
    sleep(boot).await;
    loop {
        if let Ok(listener) = TcpListener::bind(address).await {
            while listener.accept().await.is_ok() {}
        }
        sleep(AGAIN).await;
    }
}
