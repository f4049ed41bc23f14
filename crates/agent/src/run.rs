//! The running agent: one loop that hands news to the planner and does what it says.
//!
//! Not where anything is decided: what to do with a roster is in `planner.rs`, how in `apply.rs`.
//!
//! Invariants: the loop itself never waits for a disk, a program or the network. Jobs that run when the
//! agent is told to stop have a moment to end; what they leave undone, the next start does.

mod agent;
mod follow;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::client::{Event, Target, Watch};
use pikepole_config::ConfigError;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::apply::{self, Applier};
use crate::clock::Clock;
use crate::config::Config;
use crate::guard;
use crate::log_path::{self, LogPath};
use crate::planner::{Action, Finished, Planner, Policy};
use crate::state::{Kept, State};
use crate::status::{Status, server};
use crate::template::variables;
use crate::trouble::Kind;
use agent::{Agent, Outlets};
use follow::{Certificates, Progress, follow};

/// After this without any answer the roster on disk is used; what a directory says later is simply the next one.
/// To use it early costs nothing: what was rendered and reloaded with it is not again.
const DISK_AFTER: Duration = Duration::from_millis(50);
/// For jobs that run when the agent is told to stop.
const STOP_TIME: Duration = Duration::from_secs(10);

/// Why an agent did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A part could not be set up.
    #[error("{0}")]
    Setup(String),
    /// A part that is needed ended while the agent ran.
    #[error("{0}; the agent ends, so that it is started again")]
    Broken(String),
}

/// What a job came to.
enum Done {
    Applied { unit: usize, revision: u64, result: Finished, took: Duration },
    Checked { unit: usize, result: Result<(), String> },
}

/// Follows, renders and reloads until `stop` is ready.
pub async fn run(
    config: Config,
    listener: Option<TcpListener>,
    clock: Clock,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    run_watched(config, listener, clock, watch::Sender::default(), stop).await
}

/// The same, for a process that looks at its agents: the status is put into `published` whenever the
/// agent turns. Dropping the future ends it without a stop: nothing is waited for, and the next start does what is owed.
pub async fn run_watched(
    config: Config,
    listener: Option<TcpListener>,
    clock: Clock,
    published: watch::Sender<Arc<Status>>,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let clients = config.clients()?;
    let state = State::open(&config.agent.state).map_err(RunError::Setup)?;
    let target = config.directory.target.clone();
    let kept = state.roster(&target);
    let start = uuid();
    let mut watch =
        Watch::at(clients, target.clone(), config.directory.wait).as_agent(&config.agent.id, &start);
    if let Some(kept) = &kept {
        watch.resume(kept.roster.revision, kept.confirmed_at.map(|at| at.0));
    }
    let units = config.units();
    let records = state.records();
    let applier = Applier::new(config.renders.clone(), units.clone(), state, variables());
    let planner = Planner::new(policies(&config, &units));
    let (keep, keeping) = watch::channel(None);
    let (rosters, to_carry) = watch::channel(None);
    let agent = Agent::new(&config, start, planner, kept, clock.clone(), Outlets { keep, rosters });
    let mut tasks = JoinSet::new();
    let (report, guard) = watch::channel(None);
    let (told, carried) = watch::channel(None);
    let mut log_path = match &config.log_path {
        Some(part) => {
            Some(LogPath::start(part, &config.agent.id, clock.clone(), to_carry, told.clone()).await?)
        }
        None => None,
    };
    if let Some(guard) = config.guard.clone() {
        tasks.spawn(guard::watch(guard, records, guard::system_probe(), clock.clone(), report.clone()));
    }
    if let Some(listener) = listener {
        tasks.spawn(server::serve(listener, published.subscribe(), clock));
    }
    let (news, events) = mpsc::channel(4);
    let (told_progress, progress) = watch::channel(Progress::default());
    tasks.spawn(follow(watch, Certificates::new(config.clone()), news, progress));
    let keeper = tokio::spawn(keep_rosters(applier.clone(), keeping));
    tracing::info!(id = %config.agent.id, fleet = %words(&target), renders = config.renders.len(), "agent runs");
    let looks = Looks { guard, carried };
    let (jobs, running) = (JoinSet::new(), HashMap::new());
    let running = Loop { agent, applier, jobs, running, published, progress: told_progress, seen: 0, looks };
    let ended = running.run(events, ended(stop, log_path.as_mut())).await;
    if let Some(log_path) = log_path {
        log_path.stop().await;
    }
    tasks.shutdown().await; // what the disk guard does is broken off
    // The loop is over and its sender gone: the last roster is on its way to the disk.
    if timeout(STOP_TIME, keeper).await.is_err() {
        tracing::warn!("the last roster could not be kept in time");
    }
    ended
}

/// Ready when the agent is told to stop, or cannot go on.
async fn ended(stop: impl Future<Output = ()>, log_path: Option<&mut LogPath>) -> Result<(), RunError> {
    let broken = async {
        match log_path {
            Some(path) => path.broken().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop => Ok(()),
        what = broken => {
            tracing::error!(%what, "the agent cannot go on");
            Err(RunError::Broken(what))
        }
    }
}

/// How each unit wants to be treated: the most careful of its files decides.
fn policies(config: &Config, units: &[Vec<usize>]) -> Vec<Policy> {
    let policy = |unit: &Vec<usize>| {
        let renders = || unit.iter().map(|index| &config.renders[*index]);
        Policy {
            quiet: renders().map(|r| r.quiet).max().unwrap_or_default(),
            spacing: renders().map(|r| r.spacing).max().unwrap_or_default(),
            allow_empty: renders().all(|r| r.allow_empty),
            alive: renders().any(|r| r.alive.is_some()),
            longest: apply::longest(renders()),
        }
    };
    units.iter().map(policy).collect()
}

/// Keeps the newest roster on disk, one write at a time.
async fn keep_rosters(applier: Applier, mut rosters: watch::Receiver<Option<Kept>>) {
    while rosters.changed().await.is_ok() {
        let kept = rosters.borrow_and_update().clone();
        let applier = applier.clone();
        if let Some(kept) = kept
            && tokio::task::spawn_blocking(move || applier.keep_roster(&kept)).await.is_err()
        {
            tracing::error!("keeping the roster ended unexpectedly");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Running {
    Applying { unit: usize },
    Checking { unit: usize },
}

struct Loop {
    agent: Agent,
    applier: Applier,
    jobs: JoinSet<Done>,
    /// What each job is, for those that end without saying.
    running: HashMap<Id, Running>,
    published: watch::Sender<Arc<Status>>,
    progress: watch::Sender<Progress>,
    /// Events of the watch.
    seen: u64,
    looks: Looks,
}

/// What parts with a life of their own report.
struct Looks {
    guard: watch::Receiver<Option<guard::Report>>,
    carried: watch::Receiver<Option<log_path::Report>>,
}

impl Loop {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        ended: impl Future<Output = Result<(), RunError>>,
    ) -> Result<(), RunError> {
        let mut ended = std::pin::pin!(ended);
        let mut disk = std::pin::pin!(tokio::time::sleep(DISK_AFTER));
        let mut is_waiting_for_disk = true;
        let result = loop {
            self.turn();
            let wake = self.agent.planner.next_wake();
            tokio::select! {
                result = &mut ended => break result,
                event = events.recv() => match event {
                    Some(event) => {
                        self.seen += 1;
                        self.agent.saw(event, Instant::now());
                    }
                    None => break Err(RunError::Broken("the watch of the directory ended by itself".into())),
                },
                Some(done) = self.jobs.join_next_with_id() => self.ended(done),
                Ok(()) = self.looks.guard.changed() => {
                    self.agent.guarded(self.looks.guard.borrow_and_update().clone());
                }
                Ok(()) = self.looks.carried.changed() => {
                    self.agent.carried(self.looks.carried.borrow_and_update().clone());
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                () = &mut disk, if is_waiting_for_disk => {
                    is_waiting_for_disk = false;
                    self.agent.use_kept(Instant::now());
                }
            }
        };
        let ending = async { while self.jobs.join_next().await.is_some() {} };
        if timeout(STOP_TIME, ending).await.is_err() {
            tracing::warn!("a job did not end in time; what is owed is done at the next start");
        }
        result
    }

    /// Does what is due and says how things are.
    fn turn(&mut self) {
        let now = Instant::now();
        for action in self.agent.planner.poll(now) {
            let applier = self.applier.clone();
            let (running, handle) = match action {
                Action::Apply { unit, target } => {
                    let job = self.jobs.spawn(async move {
                        let began = Instant::now();
                        let revision = target.roster.revision;
                        let result = applier.apply(unit, target.roster).await;
                        Done::Applied { unit, revision, result, took: began.elapsed() }
                    });
                    (Running::Applying { unit }, job)
                }
                Action::CheckAlive { unit } => {
                    let job = self.jobs.spawn(async move {
                        Done::Checked { unit, result: applier.check_alive(unit).await }
                    });
                    (Running::Checking { unit }, job)
                }
            };
            self.running.insert(handle.id(), running);
        }
        let status = self.agent.status(self.applier.state_error(), now);
        let is_applying = self.running.values().any(|running| matches!(running, Running::Applying { .. }));
        let is_busy = is_applying || self.agent.is_carried_later();
        let progress = Progress { seen: self.seen, is_busy, applied: status.applied };
        self.progress.send_if_modified(|told| std::mem::replace(told, progress) != progress);
        self.published.send_replace(Arc::new(status));
    }

    fn ended(&mut self, done: Result<(Id, Done), tokio::task::JoinError>) {
        let now = Instant::now();
        match done {
            Ok((id, Done::Applied { unit, revision, result, took })) => {
                self.running.remove(&id);
                self.agent.applied(unit, revision, result, took, now);
            }
            Ok((id, Done::Checked { unit, result })) => {
                self.running.remove(&id);
                self.agent.planner.checked(unit, result, now);
            }
            Err(error) => {
                let why = "the job ended unexpectedly".to_string();
                match self.running.remove(&error.id()) {
                    Some(Running::Applying { unit }) => {
                        let failure = Some((Kind::WriteFailed, why));
                        let result = Finished { written: false, reloaded: false, failure };
                        self.agent.planner.finished(unit, result, now);
                    }
                    Some(Running::Checking { unit }) => self.agent.planner.checked(unit, Err(why), now),
                    None => {}
                }
            }
        }
    }
}

/// The fleet, for people.
pub(crate) fn words(target: &Target) -> String {
    match target {
        Target::Fleet(name) => name.clone(),
        Target::Place { dc, region } => format!("{dc} {region}"),
    }
}

/// A random UUID (RFC 9562, version 4): tells this start from others, is no secret.
fn uuid() -> String {
    let bits = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_roster_on_disk_is_used_at_once_when_directories_accept_and_are_silent() {
        let folder = tempfile::TempDir::new().unwrap();
        let silent = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let urls = silent.each_ref().map(|listener| format!("http://{}", listener.local_addr().unwrap()));
        let text = format!(
            "[directory]\nurls = {urls:?}\nfleet = \"f\"\n[agent]\nstate = {:?}\n[[render]]\n\
             template = \"builtin:hosts-json\"\noutput = {:?}\n",
            folder.path().join("state"),
            folder.path().join("hosts.json")
        );
        let config = Config::parse(&text, |_| None).unwrap();
        let roster = "{\"fleet\":\"f\",\"dc\":\"d\",\"region\":\"r\",\"revision\":7,\"published_at\":\
                      \"2026-11-22T10:00:00.123Z\",\"members\":[{\"instance_id\":\"i\",\"address\":\
                      \"10.0.0.1:5044\",\"zone\":null,\"state\":\"active\"}]}";
        let kept = Kept::new(serde_json::from_str(roster).unwrap(), None, None);
        State::open(&config.agent.state).unwrap().keep_roster(&kept).unwrap();
        let (published, mut seen) = watch::channel(Arc::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let began = Instant::now();
        let running = tokio::spawn(run_watched(config, None, Clock::system(), published, async {
            drop(stopped.await)
        }));
        seen.wait_for(|status: &Arc<Status>| status.applied == Some(7)).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(100), "{:?} of paused time", began.elapsed());
        drop(stop);
        running.await.unwrap().unwrap();
    }

    #[test]
    fn a_start_has_a_uuid_of_its_own() {
        let (a, b) = (uuid(), uuid());
        assert_ne!(a, b);
        assert_eq!((a.len(), a.as_bytes()[14]), (36, b'4'), "{a}");
        assert!(b"89ab".contains(&a.as_bytes()[19]), "{a}");
    }
}
