//! A directory, and one agent that carries logs: both the real binary.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::collector::address;
use crate::harness::{Directory, Place, exit_code, get, pikepole, signal, within};

const PATIENCE: Duration = Duration::from_secs(45);

/// Without a guard and a probe: the tests change rosters as they like.
const SERVER: &str = "[guard]\nobserve_only = true\n[probe]\nenabled = false\n";

/// Everything but shippers and collectors. The agent does not run yet.
pub(super) struct World {
    pub(super) directory: Directory,
    pub(super) relay: SocketAddr,
    pub(super) folder: TempDir,
}

/// What the agent is told about its spool, unless a test says otherwise.
pub(super) const SPOOL: &str = "[spool]\nmax_bytes = \"256MiB\"\nmin_free = \"1MiB\"\n";

impl World {
    pub(super) async fn new(members: &[SocketAddr]) -> Self {
        let place = Place::new(SERVER);
        let world = Self {
            directory: {
                put(&place, members);
                place.start().await
            },
            relay: address(),
            folder: TempDir::new().unwrap(),
        };
        world.configure(SPOOL);
        world
    }

    /// A relay, and these sections.
    pub(super) fn configure(&self, sections: &str) {
        self.configure_relay("", sections);
    }

    pub(super) fn configure_relay(&self, relay: &str, sections: &str) {
        let text = format!(
            "[directory]\nurls = [{:?}]\nfleet = \"f1\"\n[agent]\nid = \"proxy-1\"\nstate = {:?}\n\
             status = \"127.0.0.1:0\"\n[relay]\nlisten = \"{}\"\n{relay}\n{sections}",
            self.directory.url(),
            self.path("state"),
            self.relay
        );
        std::fs::write(self.path("agent.toml"), text).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on these are the fleet.
    pub(super) fn members(&self, members: &[SocketAddr]) {
        put(&self.directory.place, members);
    }

    /// A process that is about to be an agent.
    pub(super) fn spawn(&self) -> Child {
        pikepole(&["agent", "-c", self.path("agent.toml").to_str().unwrap()]).spawn().unwrap()
    }

    pub(super) async fn start(&self) -> Agent {
        Agent::of(self.spawn()).await
    }

    /// What the directory knows of our agent.
    pub(super) async fn applied(&self) -> Option<u64> {
        let answer = self.directory.get("/v1/agents?fleet=f1").await?;
        let agents: Value = serde_json::from_str(&answer.body).ok()?;
        agents["agents"].as_array()?.iter().find(|agent| agent["id"] == "proxy-1")?["applied"].as_u64()
    }

    pub(super) async fn revision(&self) -> u64 {
        let answer = self.directory.get("/v1/fleets/f1/roster").await.unwrap();
        serde_json::from_str::<Value>(&answer.body).unwrap()["revision"].as_u64().unwrap()
    }

    /// Waits until the directory knows that the agent uses its newest roster, which is newer than `before`.
    pub(super) async fn moved(&self, before: u64) -> u64 {
        let began = Instant::now();
        loop {
            let revision = self.revision().await;
            if revision > before && self.applied().await == Some(revision) {
                return revision;
            }
            assert!(began.elapsed() < PATIENCE, "revision {revision} is not applied");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Dead letters as they are on the disk.
    pub(super) fn dead_letters(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("state/dead-letters.ndjson")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The id of the collector at an address.
pub(super) fn instance(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else { panic!("{address} is not of version 4") };
    format!("i-{:08x}{:04x}", u32::from(ip), address.port())
}

fn put(place: &Place, members: &[SocketAddr]) {
    // A name for each address: one that comes back is the same.
    let member = |address: &SocketAddr| serde_json::json!({ "instance_id": instance(*address), "address": address, "zone": "a" });
    let members: Vec<_> = members.iter().map(member).collect();
    let text = serde_json::json!({ "members": members, "desired": members.len() });
    place.write("members.json", &text.to_string());
}

/// An agent that runs.
pub(super) struct Agent {
    pub(super) child: Child,
    status: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    pub(super) async fn of(mut child: Child) -> Self {
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let status = loop {
            let Some(line) = within("the agent's log", lines.next_line()).await.unwrap() else {
                panic!("the agent did not start: {:#?}", log.lock().unwrap());
            };
            let entry: Value = serde_json::from_str(&line).unwrap();
            log.lock().unwrap().push(line);
            if entry["message"] == "agent's status" {
                break entry["listen"].as_str().unwrap().parse().unwrap();
            }
        };
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, status, log }
    }

    pub(super) async fn status(&self) -> Value {
        let answer = get(self.status, "/status", || ()).await.unwrap();
        let answer = answer.unwrap_or_else(|| panic!("no status: {}", self.log()));
        serde_json::from_str(&answer.body).unwrap()
    }

    /// What it says of the log path, once that runs.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if !status["log_path"].is_null() && wanted(&status) {
                return status;
            }
            let log = || self.log();
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}: {status:#}\n{}", log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn trouble(&self, alert: &str) -> Value {
        self.until(alert, |s| s["trouble"].as_array().unwrap().iter().any(|t| t["alert"] == alert)).await
    }

    /// Waits until nothing is in the spool.
    pub(super) async fn empty(&self) -> Value {
        self.until("an empty spool", |s| s["log_path"]["spool"]["waiting"]["blocks"] == 0).await
    }

    pub(super) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(super) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(super) async fn stop(mut self) {
        signal(&self.child, Signal::TERM);
        assert_eq!(exit_code(&mut self.child).await, Some(0), "{}", self.log());
    }
}

/// How often a soak does its thing: `PIKEPOLE_FAULT_ROUNDS`, or this.
pub(super) fn rounds(default: u32) -> u32 {
    std::env::var("PIKEPOLE_FAULT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

/// The dice of a test: `PIKEPOLE_FAULT_SEED`, or new ones; they are printed.
pub(super) fn dice() -> fastrand::Rng {
    let given = std::env::var("PIKEPOLE_FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("PIKEPOLE_FAULT_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Set inside of a namespace, to the id that the process outside has.
const INSIDE: &str = "PIKEPOLE_TEST_INSIDE";

/// The id of this process, or of the one that stands for it outside of its namespace.
pub(super) fn own_id() -> u32 {
    let outside = std::env::var(INSIDE).ok().and_then(|id| id.parse().ok());
    outside.unwrap_or_else(std::process::id)
}

/// Whether this is the test inside of a namespace of its own. If not, it is run there, by `unshare` with this
/// flag, and its success is this one's; where that is not permitted, it is skipped and said.
pub(super) async fn inside(test: &str, flag: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // Whatever is started in there ends with it.
    let flags = ["--pid", "--fork", "--kill-child", "--mount-proc", flag];
    let permitted = Command::new("unshare").args(flags).arg("true").stderr(Stdio::null()).status().await;
    if !permitted.as_ref().is_ok_and(ExitStatus::success) {
        println!("SKIPPED {test}: unshare {flags:?} is not permitted here ({permitted:?})");
        return false;
    }
    let mut command = Command::new("unshare");
    command.args(flags).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let command = command.env(INSIDE, own_id().to_string()).kill_on_drop(true);
    let status = within(test, command.status()).await.unwrap();
    assert!(status.success(), "{test} failed in its namespace");
    false
}
