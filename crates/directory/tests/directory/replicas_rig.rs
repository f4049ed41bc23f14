//! Replicas of a directory on one real Redis, each with a disk of its own, all on one simulated account.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::engine::{ReplicaTimes, Setup, Stores};
use pikepole_directory::source::sim::SimCloud;
use pikepole_directory::store::Store;
use pikepole_directory::store::file::FileStore;
use pikepole_directory::store::redis::{RedisOptions, RedisStore};
use pikepole_testkit::process::RedisServer;
use tokio::time::{sleep, timeout};

use crate::engine_rig::{PATIENCE, Rig, Wall, until};

/// Short, so that a test need not wait for a lease of nine seconds.
pub(crate) const TIMES: ReplicaTimes = ReplicaTimes {
    lease: Duration::from_millis(1_200),
    renew: Duration::from_millis(300),
    reread: Duration::from_millis(500),
};

/// What replicas share.
pub(crate) struct Shared {
    pub(crate) redis: RedisServer,
    pub(crate) cloud: SimCloud,
    pub(crate) wall: Wall,
    pub(crate) dir: tempfile::TempDir,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let wall = Wall::new();
        let cloud = SimCloud::new(wall.clock());
        cloud.notify(true);
        Self { redis: RedisServer::start(), cloud, wall, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn store(&self, name: &str) -> RedisStore {
        let mut options =
            RedisOptions::new(self.redis.url().parse().unwrap(), name.parse().unwrap(), "pikepole");
        options.limits.ping_every = Duration::from_millis(200);
        options.limits.back_off = Duration::from_millis(300);
        options.limits.response = Duration::from_millis(500);
        RedisStore::connect(options).unwrap()
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A started replica; its disk is the one of its name.
    pub(crate) async fn replica(&self, name: &str) -> Rig {
        self.replica_with(name, |_| {}).await
    }

    pub(crate) async fn replica_with(&self, name: &str, change: impl FnOnce(&mut Setup)) -> Rig {
        let mut rig = self.open(name, change).await;
        rig.begin();
        rig
    }

    /// The same, not started.
    pub(crate) async fn open(&self, name: &str, change: impl FnOnce(&mut Setup)) -> Rig {
        let disk = self.disk(name).await;
        let redis = Arc::new(self.store(name));
        Rig::open(self.cloud.clone(), self.wall.clone(), &["f"], |setup| {
            setup.sources[0].gap = Duration::from_millis(20);
            setup.reconcile = Duration::from_secs(2);
            setup.stores = Stores::on_disk(Ok(disk)).with_redis(redis, true, TIMES);
            change(setup);
        })
        .await
    }

    /// The folder is free again as soon as the tasks of a killed replica are gone.
    async fn disk(&self, name: &str) -> Arc<dyn Store> {
        let open = async {
            loop {
                match FileStore::open(self.folder(name)).await {
                    Ok(store) => return Arc::new(store) as Arc<dyn Store>,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(PATIENCE, open).await.expect("the folder is never released")
    }

    /// A connection past the stores, for looking and for spoiling.
    async fn raw(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        redis::cmd("GET").arg(key).query_async(&mut self.raw().await).await.unwrap()
    }

    pub(crate) async fn delete(&self, key: &str) {
        redis::cmd("DEL").arg(key).query_async(&mut self.raw().await).await.unwrap()
    }

    /// Redis loses all its data, and nobody's connection.
    pub(crate) async fn flush(&self) {
        redis::cmd("FLUSHALL").query_async(&mut self.raw().await).await.unwrap()
    }

    pub(crate) async fn set(&self, key: &str, value: &str) {
        redis::cmd("SET").arg(key).arg(value).query_async(&mut self.raw().await).await.unwrap()
    }
}

/// Whether this replica asks the source.
pub(crate) fn asks(rig: &Rig) -> bool {
    let health = rig.fleet("f").health();
    health.last_attempt.is_some() && !health.elsewhere
}

/// Waits until exactly one of the two asks the source; it comes first.
pub(crate) async fn leader_first(a: Rig, b: Rig) -> (Rig, Rig) {
    let settled = |x: &Rig, y: &Rig| asks(x) && y.fleet("f").health().elsewhere;
    until("one of them leads", || settled(&a, &b) || settled(&b, &a)).await;
    if asks(&a) { (a, b) } else { (b, a) }
}

/// Waits until all serve this many hosts at one revision.
pub(crate) async fn agree(replicas: &[&Rig], hosts: usize) {
    let same = || {
        let of = |r: &Rig| r.fleet("f").published().map(|p| (p.revision(), p.roster.hosts()));
        let first = of(replicas[0]);
        first.as_ref().is_some_and(|(_, h)| h.len() == hosts) && replicas.iter().all(|r| of(r) == first)
    };
    until(&format!("all serve the same {hosts} hosts"), same).await;
}
