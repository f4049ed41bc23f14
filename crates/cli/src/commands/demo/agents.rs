//! The agents of one fleet: real ones, each with a configuration, a state folder and a rendered file of
//! its own below the demo's folder, and a proxy beside it whose access log it carries. Only what they reload is
//! simulated: a script that sleeps.
//!
//! Not in processes of their own: they share ours, and what one prints. Now and then one hangs in its
//! reload, or dies and comes back under a new start. To die is to be dropped without a stop: nobody says goodbye, and
//! acks that are under way are lost. It is not `kill -9`: what the spool has taken by then is still committed.
//!
//! Invariant: what an agent is told stands in its `agent.toml`, as on a proxy, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pikepole_agent::status::{Status, TroubleStatus};
use pikepole_agent::{Clock, Config};
use pikepole_api::time::format_duration;
use pikepole_directory::engine::Fleet;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::Pace;
use super::flows::Flow;
use crate::Failure;

/// Agents that follow each fleet.
pub(super) const AGENTS: usize = 12;

/// What they render, in turn, and the name of the file.
const TEMPLATES: [(&str, &str); 4] = [
    ("filebeat", "filebeat.yml"),
    ("haproxy", "haproxy.cfg"),
    ("vector", "vector.toml"),
    ("hosts-json", "hosts.json"),
];
/// Between two reloads of an agent; with speed 1.
const SPACING: Duration = Duration::from_secs(1);
/// No speed makes it shorter: each reload is a process, and there are 36 agents.
const LEAST_SPACING: Duration = Duration::from_millis(500);
/// For agents to end when the demo does; a reload that hangs then is killed.
const STOP_TIME: Duration = Duration::from_millis(500);
/// Until an agent that was dropped by a button starts again, as systemd would start it.
const BACK: Duration = Duration::from_secs(2);
/// Troubles that buttons make, and that collectors make as they come and go: twelve agents would say them.
const ORDINARY: [&str; 2] = ["collector_failing", "no_collector"];
/// What each proxy writes, below its agent's folder.
const LOG: &str = "access.log";
/// Of its spool. What it may hold is bounded by the logs, which are deleted when they have arrived.
const SPOOL: &str = "16MiB";
/// Of the disk that the demo runs on.
const MIN_FREE: &str = "64MiB";

/// How one agent is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seat {
    /// Whether it runs just now.
    pub(super) is_running: bool,
    /// The revision it applied last, and when, in milliseconds since 1970.
    pub(super) applied: Option<(u64, u64)>,
}

/// How the agents of one fleet are, by their ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<BTreeMap<String, Seat>>>);

impl Board {
    /// How they are now.
    pub(super) fn seats(&self) -> BTreeMap<String, Seat> {
        self.lock().clone()
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Seat)) {
        change(self.lock().entry(id.into()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All agents of the demo.
#[derive(Debug, Default)]
pub(super) struct Agents {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// Where agents are, and whom they follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Every agent has a folder in it.
    pub(super) folder: &'a Path,
    /// The directory.
    pub(super) directory: SocketAddr,
    /// Whether there are collectors that take logs.
    pub(super) carries: bool,
}

impl Place<'_> {
    /// The access logs of a fleet's proxies.
    pub(super) fn logs(&self, fleet: &Fleet) -> Vec<PathBuf> {
        (1..=AGENTS).map(|number| self.folder.join(id(fleet, number)).join(LOG)).collect()
    }
}

/// The ids of a fleet's proxies, which are those of their agents.
pub(super) fn ids(fleet: &Fleet) -> Vec<String> {
    (1..=AGENTS).map(|number| id(fleet, number)).collect()
}

fn id(fleet: &Fleet, number: usize) -> String {
    format!("proxy-{number:02}.{}", fleet.config().dc)
}

impl Agents {
    /// Starts the agents of one fleet, as soon as there is a roster to follow.
    pub(super) fn start(
        &mut self,
        place: Place<'_>,
        fleet: &Fleet,
        flow: &Flow,
        pace: &mut Pace,
    ) -> Result<Board, Failure> {
        let board = Board::default();
        for number in 1..=AGENTS {
            let told = Told { board: board.clone(), flow: flow.clone(), proxy: number - 1 };
            let agent = Agent::new(place, fleet, number, told, pace.fork())?;
            let (mut shown, mut stop) = (fleet.watch(), self.stop.subscribe());
            self.tasks.spawn(async move {
                tokio::select! {
                    Ok(_) = shown.wait_for(|shown| shown.published.is_some()) => {}
                    () = stopped(&mut stop) => return,
                }
                drop(shown); // only a look, no watcher
                agent.live(stop).await;
            });
        }
        Ok(board)
    }

    /// Lets them end, and kills those that do not.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_TIME, ending).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// Who is told how an agent is.
struct Told {
    board: Board,
    flow: Flow,
    /// Its place among the proxies of the flow.
    proxy: usize,
}

/// One agent.
struct Agent {
    config: Config,
    script: PathBuf,
    told: Told,
    pace: Pace,
    /// How long its reload takes when it does not hang.
    reload: Duration,
    hangs: bool,
}

impl Agent {
    /// Writes what a user would write, and reads it.
    fn new(
        place: Place<'_>,
        fleet: &Fleet,
        number: usize,
        told: Told,
        mut pace: Pace,
    ) -> Result<Self, Failure> {
        let id = id(fleet, number);
        let folder = place.folder.join(&id);
        std::fs::create_dir_all(&folder)?;
        let (template, output) = TEMPLATES[number % TEMPLATES.len()];
        let (state, script) = (folder.join("state"), folder.join("reload"));
        let spacing = format_duration(pace.time(SPACING).max(LEAST_SPACING));
        let text = format!(
            "[directory]\nurls = [\"http://{}\"]\nfleet = \"{}\"\nwait = \"20s\"\n\n\
             [agent]\nid = \"{id}\"\nstate = {state:?}\nstatus = \"off\"\n\n\
             [[render]]\ntemplate = \"builtin:{template}\"\noutput = {:?}\nreload = [\"sh\", {script:?}]\n\
             spacing = \"{spacing}\"\nquiet = \"100ms\"\ntimeout = \"600s\"\n{}",
            place.directory,
            fleet.config().name,
            folder.join(output),
            if place.carries { log_path(&folder.join(LOG)) } else { String::new() },
        );
        std::fs::write(folder.join("agent.toml"), &text)?;
        let config = Config::parse(&text, |_| None)?;
        let reload = pace.some_time(0.05, 0.5);
        let agent = Self { config, script, told, pace, reload, hangs: false };
        agent.write_script(reload)?;
        Ok(agent)
    }

    /// Lives, dies and comes back until it is told to stop.
    async fn live(mut self, mut stop: watch::Receiver<bool>) {
        let kill = self.told.flow.kill(self.told.proxy);
        loop {
            let dies = Instant::now() + self.pace.some_time(60.0, 600.0);
            let mut pause = self.pace.some_time(4.0, 15.0);
            let is_told = tokio::select! {
                () = self.run(stop.clone()) => *stop.borrow(),
                () = sleep_until(dies) => false,
                () = kill.notified() => {
                    pause = BACK;
                    false
                }
            };
            self.told.board.change(&self.config.agent.id, |seat| *seat = Seat::default());
            self.told.flow.runs(self.told.proxy, false);
            if is_told || timeout(pause, stopped(&mut stop)).await.is_ok() {
                return;
            }
        }
    }

    /// One life. An agent that cannot start has said why in the log, and tries again in its next.
    async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        let id = self.config.agent.id.clone();
        self.told.board.change(&id, |seat| seat.is_running = true);
        self.told.flow.runs(self.told.proxy, true);
        let (published, mut statuses) = watch::channel(Arc::default());
        let (config, clock) = (self.config.clone(), Clock::system());
        let stop = async move { stopped(&mut stop).await };
        let mut running = Box::pin(pikepole_agent::run_watched(config, None, clock.clone(), published, stop));
        let (mut applied, mut troubles) = (None, BTreeSet::new());
        loop {
            tokio::select! {
                ended = &mut running => {
                    if let Err(error) = ended {
                        tracing::warn!(id, %error, "an agent of the demo ended");
                    }
                    return;
                }
                Ok(()) = statuses.changed() => {
                    let status = Arc::clone(&statuses.borrow_and_update());
                    self.told.flow.reported(self.told.proxy, &status);
                    tell(&id, &status, &mut troubles);
                    if let Some(revision) = status.applied.filter(|revision| applied != Some(*revision)) {
                        applied = Some(revision);
                        let now = clock.now().as_millis();
                        self.told.board.change(&id, |seat| seat.applied = Some((revision, now)));
                        self.throw_dice();
                    }
                }
            }
        }
    }

    /// Now and then the next reload hangs.
    fn throw_dice(&mut self) {
        let hang = self.pace.hang();
        if hang.is_none() && !self.hangs {
            return;
        }
        self.hangs = hang.is_some();
        if let Err(error) = self.write_script(hang.unwrap_or(self.reload)) {
            tracing::warn!(%error, "cannot change how long a reload takes");
        }
    }

    /// Put in place whole: a shell may be about to read it.
    fn write_script(&self, takes: Duration) -> io::Result<()> {
        let aside = self.script.with_extension("new");
        std::fs::write(
            &aside,
            format!("# Stands for a shipper's reload.\nexec sleep {:.3}\n", takes.as_secs_f64()),
        )?;
        std::fs::rename(aside, &self.script)
    }
}

/// Logs what is newly wrong with an agent. In its own words nobody would know which one it is.
fn tell(id: &str, status: &Status, known: &mut BTreeSet<(String, String)>) {
    let now = status.trouble.iter().filter(|trouble| !ORDINARY.contains(&trouble.alert.as_str()));
    let key = |trouble: &TroubleStatus| (trouble.alert.clone(), trouble.subject.clone());
    for trouble in now.clone().filter(|trouble| !known.contains(&key(trouble))) {
        let TroubleStatus { alert, subject, detail, .. } = trouble;
        tracing::error!(agent = id, alert, subject, detail, "an agent of the demo has trouble");
    }
    *known = now.map(key).collect();
}

/// What a user would write to have an access log carried.
fn log_path(log: &Path) -> String {
    format!(
        "\n[[tail]]\npaths = [{log:?}]\n\n[spool]\nmax_bytes = \"{SPOOL}\"\nmin_free = \"{MIN_FREE}\"\n\
         commit_every = \"100ms\"\n\n[collectors]\n",
    )
}

/// Whoever could say it is gone: that is the end too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
