//! The log path: relay and tail, the spool behind them, and the balancer that carries it to collectors.
//!
//! Not what any of them does: this puts them together, and takes them apart in an order that loses nothing.
//!
//! Invariants: what comes in stops before what goes out. A stop waits for nobody longer than it takes to know
//! what collectors have: the rest is durable, and goes on at the next start.

mod collectors;
mod observer;
mod seams;
pub(crate) mod status;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::v1;
use pikepole_lumberjack::server;
use pikepole_spool::{Durability, WhenFull};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::balance::{self, Balancer, Watches};
use crate::clock::Clock;
use crate::config::{LogPathConfig, Order, host_name};
use crate::dead::DeadLetters;
use crate::queue::{self, Queue, QueueStats, Share};
use crate::relay::{self, Relay, Shippers};
use crate::run::RunError;
use crate::state;
use crate::tail::{self, Tail, TailStatus, Who};
use crate::wire::Wire;
use collectors::Collectors;
use observer::{Observer, Trouble};
use seams::{TailSink, Undeliverable};
use status::{DeadLetterStatus, LogPathStatus};

/// Between two reports, unless something happens that cannot wait.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// For shippers to get the acks of what they have sent.
const GRACE: Duration = Duration::from_secs(2);

/// What the log path says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) status: LogPathStatus,
    pub(crate) troubles: Vec<Trouble>,
    /// The revision that is really used.
    pub(crate) applied: Option<u64>,
}

/// What runs. Dropped, it stops nobody in an orderly way: no goodbye to shippers and collectors, and what they did not
/// ack is sent again. What the spool has taken is still committed.
pub(crate) struct LogPath {
    stop: watch::Sender<bool>,
    tail: Option<Tail>,
    /// Relay and balancer; each ends when it is told to stop.
    carriers: JoinSet<()>,
    /// Never ends by itself.
    reporter: JoinSet<()>,
    queue: Queue,
    /// The spool is ours.
    _lock: File,
}

/// What is looked at for a report.
struct Looks {
    config: LogPathConfig,
    relay: Option<(Arc<Relay>, SocketAddr)>,
    tail: Option<watch::Receiver<TailStatus>>,
    queue: watch::Receiver<QueueStats>,
    balance: Watches,
    dead: DeadLetters,
    observer: Observer,
    clock: Clock,
}

impl LogPath {
    /// Opens the spool, listens, reads and connects. `rosters` says to whom, `reports` gets what there is to say.
    pub(crate) async fn start(
        config: &LogPathConfig,
        agent: &str,
        clock: Clock,
        rosters: watch::Receiver<Option<Arc<v1::Roster>>>,
        reports: watch::Sender<Option<Report>>,
    ) -> Result<Self, RunError> {
        let setup = |what: String| RunError::Setup(what);
        let lock = state::lock(&config.spool.path, "spool", "[spool] path").map_err(setup)?;
        let (options, opening) = (queue_options(config), clock.clone());
        let opened = tokio::task::spawn_blocking(move || Queue::open(options, opening)).await;
        let (queue, opened) = opened.map_err(|e| setup(e.to_string()))?.map_err(setup)?;
        let observer = Observer::new(&queue.stats().borrow(), &opened.recovered, Instant::now());
        let dead = DeadLetters::new(&config.state);
        let dial = Collectors::new(&config.collectors).map_err(|e| setup(format!("collectors.tls: {e}")))?;
        let (stop, stopping) = watch::channel(false);
        let relay = Relay::new(queue.clone(), dead.clone(), clock.clone(), level(config).max(1));
        let mut carriers = JoinSet::new();
        let relay = listen(config, relay, &mut carriers, stopping.clone()).await?;
        let who = Who { agent: agent.into(), host: host_name() };
        let tail = match config.tails.is_empty() {
            true => None,
            false => {
                let sink = Box::new(TailSink::new(queue.clone()));
                let limits = tail::Limits { window: config.collectors.window, ..tail::Limits::default() };
                let tails = config.tails.clone();
                Some(Tail::start(tails, who, limits, &opened.marks, sink, clock.clone()).map_err(setup)?)
            }
        };
        let letters = Arc::new(Undeliverable { dead: dead.clone(), clock: clock.clone() });
        let level = level(config);
        let parts = balance::Parts {
            source: Arc::new(queue.clone()),
            dial: Arc::new(dial),
            encoder: Box::new(move || Wire::new(level)),
            letters,
        };
        let (balancer, balance) = Balancer::new(parts, balance::Options::new(&config.collectors));
        carriers.spawn(balancer.run(rosters, until(stopping)));
        let looks = Looks {
            config: config.clone(),
            relay,
            tail: tail.as_ref().map(Tail::status),
            queue: queue.stats(),
            balance,
            dead,
            observer,
            clock,
        };
        let mut reporter = JoinSet::new();
        reporter.spawn(looks.report(reports));
        Ok(Self { stop, tail, carriers, reporter, queue, _lock: lock })
    }

    /// Ready when a part has ended that ends only when it is told to, with what that was. Nothing flows then as it
    /// should, and only a new start mends it.
    pub(crate) async fn broken(&mut self) -> String {
        let mut tail = self.tail.as_ref().map(Tail::status);
        let tailing = async {
            match &mut tail {
                // A thread lets go of its end when it ends, and of nothing before.
                Some(status) => drop(status.wait_for(|_| false).await),
                None => std::future::pending().await,
            }
        };
        let mut spool = self.queue.stats();
        tokio::select! {
            Some(ended) = self.carriers.join_next() => format!("relay or balancer {}", how(&ended)),
            Some(ended) = self.reporter.join_next() => format!("the log path's reporter {}", how(&ended)),
            () = tailing => "the thread that tails ended by itself".into(),
            _ = spool.wait_for(|_| false) => "the spool's thread ended by itself".into(),
        }
    }

    /// Takes nothing in any more, waits a little for acks both ways, and makes everything durable.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(tail) = self.tail.take()
            && tokio::task::spawn_blocking(move || tail.stop()).await.is_err()
        {
            tracing::error!("stopping the tail ended unexpectedly");
        }
        while let Some(ended) = self.carriers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "relay or balancer ended unexpectedly");
            }
        }
        self.reporter.shutdown().await;
        if let Err(error) = self.queue.close().await {
            tracing::error!(%error, "the spool could not be closed; what is not in it is sent again");
        }
    }
}

/// How a task ended that was not told to.
fn how(ended: &Result<(), JoinError>) -> String {
    match ended {
        Ok(()) => "ended by itself".into(),
        Err(error) => format!("ended unexpectedly: {error}"),
    }
}

/// What is wrong with the files it names, as sentences. Nothing else is touched.
pub(crate) fn check(config: &LogPathConfig) -> Vec<String> {
    let relay = config.relay.as_ref().and_then(|part| relay::options(part, config.collectors.window).err());
    let collectors = Collectors::new(&config.collectors).err();
    let named = [("relay.tls", relay), ("collectors.tls", collectors)];
    named.into_iter().filter_map(|(part, error)| Some(format!("{part}: {}", error?))).collect()
}

/// Ready when the log path stops.
async fn until(mut stopping: watch::Receiver<bool>) {
    // Whoever could stop it is gone: the agent ends.
    drop(stopping.wait_for(|stop| *stop).await);
}

fn level(config: &LogPathConfig) -> u32 {
    config.collectors.compression.into()
}

fn queue_options(config: &LogPathConfig) -> queue::Options {
    let spool = &config.spool;
    let share = match config.collectors.order {
        Order::Oldest => Share::new(0, 1),
        Order::Newest { live_share } => Share::new(live_share.into(), 100),
    };
    let options = queue::Options::new(&spool.path);
    queue::Options {
        commit_every: spool.commit_every,
        commit_bytes: usize::try_from(spool.commit_bytes).unwrap_or(usize::MAX),
        share,
        spool: pikepole_spool::Options {
            max_bytes: spool.max_bytes,
            min_free: spool.min_free,
            when_full: if spool.drop_oldest { WhenFull::DropOldest } else { WhenFull::Block },
            durability: if spool.fsync { Durability::Fsync } else { Durability::None },
            ..options.spool
        },
        ..options
    }
}

/// Binds the relay's port and serves it.
async fn listen(
    config: &LogPathConfig,
    relay: Arc<Relay>,
    carriers: &mut JoinSet<()>,
    stopping: watch::Receiver<bool>,
) -> Result<Option<(Arc<Relay>, SocketAddr)>, RunError> {
    let Some(part) = &config.relay else { return Ok(None) };
    let options = relay::options(part, config.collectors.window);
    let options = options.map_err(|e| RunError::Setup(format!("relay.tls: {e}")))?;
    let bound = TcpListener::bind(part.listen).await;
    let listener = bound.map_err(|e| {
        let hint = "is a shipper or another agent there? [relay] listen chooses another one";
        RunError::Setup(format!("cannot listen on {} for shippers: {e}; {hint}", part.listen))
    })?;
    let address = listener.local_addr().map_err(|e| RunError::Setup(e.to_string()))?;
    tracing::info!(listen = %address, tls = part.tls.is_some(), "relay");
    let options = server::Options { grace: GRACE, ..options };
    let handler = Arc::new(Shippers(Arc::clone(&relay)));
    carriers.spawn(server::serve(listener, options, handler, until(stopping)));
    Ok(Some((relay, address)))
}

impl Looks {
    /// Reports each second, and at once when another revision is applied or something is wrong.
    async fn report(mut self, reports: watch::Sender<Option<Report>>) {
        let mut ticks = interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = self.balance.applied.changed() => {}
                Ok(()) = self.balance.troubles.changed() => {}
            }
            let report = self.look();
            reports.send_replace(Some(report));
        }
    }

    fn look(&mut self) -> Report {
        let now = Instant::now();
        let applied = *self.balance.applied.borrow_and_update();
        let mut troubles = self.balance.troubles.borrow_and_update().clone();
        let stats = self.queue.borrow_and_update().clone();
        let status = LogPathStatus {
            relay: self.relay.as_ref().map(|(relay, listen)| relay.status(*listen)),
            tail: self.tail.as_mut().map(|tail| tail.borrow_and_update().clone()),
            spool: self.observer.spool(&self.config.spool, &stats, now, self.clock.now()),
            collectors: self.balance.status.borrow_and_update().clone(),
            dead_letters: DeadLetterStatus {
                file: self.dead.path().display().to_string(),
                kept: self.dead.kept(),
                given_up: self.dead.given_up(),
                failing: self.dead.failing(),
            },
        };
        troubles.extend(self.observer.troubles(&status, now));
        Report { status, troubles, applied }
    }
}

#[cfg(test)]
mod tests;
