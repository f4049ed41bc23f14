//! Replicas of a directory on one real Redis, each with a disk of its own, all on one simulated account.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::engine::{ReplicaTimes, Stores};
use pikepole_directory::source::sim::SimCloud;
use pikepole_directory::store::Store;
use pikepole_directory::store::file::FileStore;
use pikepole_directory::store::redis::{RedisOptions, RedisStore};
use pikepole_testkit::process::RedisServer;
use tokio::time::{sleep, timeout};

use crate::engine_rig::{PATIENCE, Rig, Wall};

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
        let mut options = RedisOptions::new(self.redis.url().parse().unwrap(), name.parse().unwrap(), "pikepole");
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
        let disk = self.disk(name).await;
        let redis = Arc::new(self.store(name));
        Rig::start_on(self.cloud.clone(), self.wall.clone(), &["f"], |setup| {
            setup.sources[0].gap = Duration::from_millis(20);
            setup.reconcile = Duration::from_secs(2);
            setup.stores = Stores::on_disk(Ok(disk)).with_redis(redis, true, TIMES);
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

    /// A connection past the stores, for looking.
    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap()
    }
}
