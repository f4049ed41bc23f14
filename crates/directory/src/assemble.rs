//! From a configuration to a running directory.

#[cfg(feature = "aws")]
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::alerts::Alerts;
use crate::clock::Clock;
#[cfg(feature = "aws")]
use crate::config::FleetConfig;
use crate::config::{Config, SourceConfig, TlsConfig};
#[cfg(feature = "redis")]
use crate::engine::ReplicaTimes;
use crate::engine::{Engine, Setup, SourceSetup, Stores};
use crate::events::Feed;
#[cfg(feature = "aws")]
use crate::events::Way;
use crate::events::sns::{Outside, Sns};
#[cfg(feature = "aws")]
use crate::events::sqs::SqsPoller;
use crate::http::{App, Limits, run};
use crate::shutdown::{self, Shutdown};
use crate::source::Source;
use crate::source::file::FileSource;
use crate::store::file::FileStore;
use crate::store::{Store, StoreError};

/// What is under way at the end may take so long.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Between two describes of a file or a simulation, which cost nothing.
const LOCAL_GAP: Duration = Duration::from_millis(100);

/// Why a directory did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process works on the same folder.
    #[error("{0}")]
    StoreInUse(String),
    /// A part could not be set up.
    #[error("{0}")]
    Setup(String),
}

/// Serves until `stop` is ready, then lets requests in flight finish.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    clock: Clock,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let (trigger, shutdown) = shutdown::channel();
    let stores = stores(&config).await?;
    let sources = sources(&config, &clock).await?;
    let setup = Setup {
        sources,
        stores,
        policy: config.guard,
        reconcile: config.aws.reconcile,
        stale_after: config.alerts.stale_after,
        probe: config.probe,
        drain: config.drain,
        complete_hooks: config.events.complete_hooks,
        clock,
        alerts: Alerts::new(config.alerts.webhook.clone(), shutdown.clone()),
    };
    let engine = Engine::open(setup).await;
    let feed = Feed::new(sns(&config, engine.clock())?);
    #[cfg(feature = "aws")]
    let (feed, pollers) = queues(&config, feed, engine.clock()).await?;
    let feed = Arc::new(feed);
    engine.alerts().watch_feed(&feed);
    #[cfg(feature = "aws")]
    let background = pollers
        .into_iter()
        .map(|poller| poll(poller, Arc::clone(&engine), Arc::clone(&feed), shutdown.clone()))
        .collect();
    #[cfg(not(feature = "aws"))]
    let background = JoinSet::new();
    let app = App::with_feed(Arc::clone(&engine), &config.server, Limits::default(), feed);
    let tls = config.server.tls.clone();
    serve_with(engine, app, listener, tls, (trigger, shutdown), stop, background).await
}

/// Who takes messages of SNS. The system's certificates are read only if somebody has to be verified.
fn sns(config: &Config, clock: &Clock) -> Result<Option<Sns>, RunError> {
    if config.events.sns_topics.is_empty() {
        return Ok(None);
    }
    Sns::new(&config.events, clock.clone(), Outside::system()).map_err(RunError::Setup)
}

/// A poller for each queue.
#[cfg(feature = "aws")]
async fn queues(config: &Config, feed: Feed, clock: &Clock) -> Result<(Feed, Vec<SqsPoller>), RunError> {
    use crate::events::sqs::SqsSettings;
    let mut pollers = Vec::new();
    if !config.events.sqs.is_empty() {
        crate::source::aws::check_authorities().map_err(|e| RunError::Setup(format!("events.sqs: {e}")))?;
    }
    for url in &config.events.sqs {
        let region = config.fleets.first().map(|fleet| fleet.region.clone());
        let region = region.expect("a configuration has a fleet");
        let mut settings = SqsSettings::new(url.clone(), region, clock.clone());
        settings.aws.endpoint_url.clone_from(&config.aws.endpoint_url);
        let poller = Box::pin(SqsPoller::new(settings)).await;
        pollers.push(poller.map_err(|e| RunError::Setup(format!("events.sqs: {e}")))?);
    }
    let health = pollers.iter().map(SqsPoller::health).collect();
    Ok((feed.with_queues(health), pollers))
}

/// Feeds the engine from one queue until the shutdown.
#[cfg(feature = "aws")]
async fn poll(poller: SqsPoller, engine: Arc<Engine>, feed: Arc<Feed>, shutdown: Shutdown) {
    use crate::events::sqs::{Kept, Message};
    let handle = move |message: Message| {
        let (engine, feed) = (Arc::clone(&engine), Arc::clone(&feed));
        async move {
            match feed.take(&engine, Way::Sqs, message.body.as_bytes()).await {
                Ok(fed) if fed.taken.not_kept == 0 => Kept::Yes,
                Ok(_) | Err(_) => Kept::No,
            }
        }
    };
    poller.run(handle, shutdown).await;
}

/// The same for an engine that is already set up: the demo's, a test's.
pub async fn serve_engine(
    engine: Arc<Engine>,
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<TlsConfig>,
    ends: (shutdown::Trigger, Shutdown),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    serve_with(engine, app, listener, tls, ends, stop, JoinSet::new()).await
}

async fn serve_with(
    engine: Arc<Engine>,
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<TlsConfig>,
    (trigger, shutdown): (shutdown::Trigger, Shutdown),
    stop: impl Future<Output = ()>,
    mut background: JoinSet<()>,
) -> Result<(), RunError> {
    let mut tasks = engine.start(&shutdown);
    let mut server = tokio::spawn(run(listener, app, tls, shutdown));
    let ended = tokio::select! {
        ended = &mut server => ended,
        () = stop => {
            trigger.stop();
            server.await
        }
    };
    trigger.stop();
    // What is half-way from a queue to the store comes first, while the engine's own tasks end.
    let finished = async {
        while background.join_next().await.is_some() {}
        while tasks.join_next().await.is_some() {}
    };
    if tokio::time::timeout(LAST_WORK, finished).await.is_err() {
        tracing::warn!("a background task did not stop in time");
    }
    match ended {
        Ok(result) => result.map_err(RunError::Setup),
        Err(panic) => Err(RunError::Setup(format!("the server ended unexpectedly: {panic}"))),
    }
}

async fn stores(config: &Config) -> Result<Stores, RunError> {
    let path = &config.store.path;
    let disk = match FileStore::open(path).await {
        Ok(store) => Ok(Arc::new(store) as Arc<dyn Store>),
        Err(StoreError::InUse(why)) => return Err(RunError::StoreInUse(why)),
        Err(error) => {
            tracing::error!(%error, "the store folder cannot be used; serving from memory");
            Err(error.to_string())
        }
    };
    let stores = Stores::on_disk(disk);
    #[cfg(feature = "redis")]
    if let Some(redis) = &config.store.redis {
        return Ok(stores.with_redis(Arc::new(connect(redis)?), redis.mirror_keys, ReplicaTimes::default()));
    }
    Ok(stores)
}

/// Never fails because Redis is away: it connects when it is back.
#[cfg(feature = "redis")]
fn connect(redis: &crate::config::RedisConfig) -> Result<crate::store::redis::RedisStore, RunError> {
    use crate::store::redis::{RedisOptions, RedisStore, RedisUrl, ReplicaId};
    let setup = |e: &dyn std::fmt::Display| RunError::Setup(format!("store.url: {e}"));
    let url: RedisUrl = redis.url.expose().parse().map_err(|e| setup(&e))?;
    let id = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
    let replica: ReplicaId = id.parse().map_err(|e| setup(&e))?;
    RedisStore::connect(RedisOptions::new(url, replica, "pikepole")).map_err(|e| setup(&e))
}

/// One source an account and region, and one a file.
async fn sources(config: &Config, clock: &Clock) -> Result<Vec<SourceSetup>, RunError> {
    let mut setups = Vec::new();
    for fleet in &config.fleets {
        if let SourceConfig::File { path } = &fleet.source {
            setups.push(SourceSetup {
                label: format!("file {}", path.display()),
                kind: "file",
                source: Arc::new(FileSource::new(path, clock.clone())) as Arc<dyn Source>,
                fleets: vec![fleet.clone()],
                gap: LOCAL_GAP,
            });
        }
    }
    #[cfg(feature = "aws")]
    setups.extend(aws_sources(config, clock).await?);
    Ok(setups)
}

/// One source for all fleets of a region that are seen through one role.
#[cfg(feature = "aws")]
async fn aws_sources(config: &Config, clock: &Clock) -> Result<Vec<SourceSetup>, RunError> {
    use crate::source::aws::{AwsSettings, AwsSource};
    let mut accounts: BTreeMap<_, Vec<FleetConfig>> = BTreeMap::new();
    for fleet in &config.fleets {
        if let SourceConfig::Aws { assume_role, .. } = &fleet.source {
            accounts.entry((&fleet.region, assume_role)).or_default().push(fleet.clone());
        }
    }
    let mut setups = Vec::new();
    for ((region, role), fleets) in accounts {
        let label = match role {
            Some(role) => format!("aws {region} {role}"),
            None => format!("aws {region}"),
        };
        let mut settings = AwsSettings::new(region.clone(), clock.clone());
        settings.assume_role.clone_from(role);
        settings.endpoint_url.clone_from(&config.aws.endpoint_url);
        settings.calls_per_second = config.aws.calls_per_second;
        let source =
            AwsSource::new(settings).await.map_err(|e| RunError::Setup(format!("source {label}: {e}")))?;
        setups.push(SourceSetup {
            label,
            kind: "aws",
            source: Arc::new(source),
            fleets,
            gap: Duration::from_secs_f64(1.0 / config.aws.calls_per_second),
        });
    }
    Ok(setups)
}
