//! The agent as people and supervisors use it: the real binary against a real directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::harness::{Directory, Ended, Place, ended, exit_code, get, pikepole, signal, within};

/// A folder with an agent's configuration, its state and its outputs.
pub(super) struct Proxy {
    folder: TempDir,
}

/// What is written into `[[render]]` beyond the template and the output.
pub(super) const PLAIN: &str =
    "reload = [\"sh\", \"-c\", \"echo reload >> log\"]\nspacing = \"0\"\nquiet = \"0\"\n";

impl Proxy {
    pub(super) fn new(urls: &[&str], render: &str) -> Self {
        let proxy = Self { folder: TempDir::new().unwrap() };
        proxy.configure(urls, render);
        proxy
    }

    pub(super) fn configure(&self, urls: &[&str], render: &str) {
        let text = format!(
            "[directory]\nurls = {urls:?}\nfleet = \"f1\"\n[agent]\nid = \"proxy-1\"\nstate = {:?}\n\
             status = \"127.0.0.1:0\"\n[[render]]\ntemplate = \"builtin:hosts-json\"\noutput = {:?}\n{render}",
            self.path("state"),
            self.path("hosts.json")
        );
        std::fs::write(self.path("agent.toml"), text).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn reloads(&self) -> usize {
        self.read("log").lines().count()
    }

    pub(super) fn command(&self, flags: &[&str]) -> Command {
        let mut command = pikepole(&["agent", "-c", self.path("agent.toml").to_str().unwrap()]);
        command.args(flags).current_dir(self.folder.path());
        command
    }

    pub(super) async fn run(&self, flags: &[&str]) -> Ended {
        ended(self.command(flags)).await
    }

    async fn start(&self) -> Agent {
        Agent::of(self.command(&[]).spawn().unwrap()).await
    }
}

pub(super) struct Agent {
    pub(super) child: Child,
    pub(super) status: SocketAddr,
}

impl Agent {
    /// Waits until it says where its status is.
    pub(super) async fn of(mut child: Child) -> Self {
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let status = loop {
            let line = within("the agent's log", lines.next_line()).await.unwrap();
            let line = line.expect("the agent did not start");
            let Ok(entry) = serde_json::from_str::<serde_json::Value>(&line) else { panic!("{line}") };
            if entry["message"] == "agent's status" {
                break entry["listen"].as_str().unwrap().parse().unwrap();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, status }
    }

    async fn status(&self) -> serde_json::Value {
        let answer = get(self.status, "/status", || ()).await.unwrap().expect("no status");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Asks until the status is as wanted.
    pub(super) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let mut last = serde_json::Value::Null;
        let asked = async {
            loop {
                last = self.status().await;
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(40), asked).await.is_err() {
            panic!("waited in vain for {what}: {last:#}");
        }
        last
    }

    pub(super) async fn settled(&self) -> serde_json::Value {
        self.until("what is known to be applied", |s| {
            !s["applied"].is_null() && s["applied"] == s["roster"]["revision"]
        })
        .await
    }

    pub(super) async fn trouble(&self, alert: &str) -> serde_json::Value {
        self.until(alert, |s| s["trouble"].as_array().unwrap().iter().any(|t| t["alert"] == alert)).await
    }

    pub(super) async fn stops(mut self) {
        signal(&self.child, Signal::TERM);
        assert_eq!(exit_code(&mut self.child).await, Some(0));
    }
}

pub(super) const TWO: &str = "[\"10.0.0.1:5044\", \"10.0.0.2:5044\"]\n";

pub(super) async fn stop(mut directory: Directory) {
    signal(&directory.child, Signal::TERM);
    directory.ends().await;
}

#[tokio::test]
async fn an_agent_follows_its_fleet_and_tells_what_it_applied() {
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[&directory.url()], PLAIN);
    let agent = proxy.start().await;
    agent.settled().await;
    assert_eq!((proxy.read("hosts.json"), proxy.reloads()), (TWO.into(), 1));
    directory.place.members(&["10.0.0.2:5044", "10.0.0.3:5044", "10.0.0.4:5044"]);
    // The new one may come a revision later, when its port was tried.
    agent.until("three members", |s| s["roster"]["sendable"] == 3).await;
    let second = agent.settled().await;
    assert_eq!(proxy.read("hosts.json"), "[\"10.0.0.2:5044\", \"10.0.0.3:5044\", \"10.0.0.4:5044\"]\n");
    let reloads = proxy.reloads();
    assert!((2..=3).contains(&reloads), "{reloads}");
    let told = async {
        loop {
            let answer = directory.get("/v1/agents?fleet=f1").await.unwrap();
            let agents: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            if agents["agents"][0]["applied"] == second["applied"] {
                return agents;
            }
        }
    };
    let agents = within("the directory to know", told).await;
    assert_eq!((&agents["agents"][0]["id"], &agents["agents"][0]["live"]), (&"proxy-1".into(), &true.into()));
    let metrics = get(agent.status, "/metrics", || ()).await.unwrap().unwrap();
    assert!(metrics.body.contains(&format!("pikepole_agent_reloads_total {reloads}\n")), "{}", metrics.body);
    assert_eq!(get(agent.status, "/healthz", || ()).await.unwrap().unwrap().body, "ok\n");
    let url = format!("http://{}", agent.status);
    let table = super::harness::run(&["agent", "status", "--url", &url]).await;
    assert_eq!(table.code, Some(0), "{table:?}");
    assert!(table.out.contains("hosts.json") && table.out.contains("f1 revision"), "{}", table.out);
    agent.stops().await;
}

#[tokio::test]
async fn an_agent_moves_to_the_next_directory_and_lives_without_any() {
    let first = Place::new("").start().await;
    let second = Place::new("").start().await;
    let proxy = Proxy::new(&[&first.url(), &second.url()], PLAIN);
    let agent = proxy.start().await;
    agent.settled().await;
    stop(first).await;
    second.place.members(&["10.0.0.1:5044", "10.0.0.2:5044", "10.0.0.9:5044"]);
    agent.until("the second directory's roster", |s| s["roster"]["members"] == 3).await;
    agent.settled().await;
    stop(second).await;
    agent.until("failed polls", |s| s["counts"]["poll_failures"].as_u64() > Some(3)).await;
    assert!(proxy.read("hosts.json").contains("10.0.0.9:5044"));
    agent.stops().await;
    // And after a restart, from disk; nothing is reloaded that was reloaded.
    let reloads = proxy.reloads();
    let agent = proxy.start().await;
    let status = agent.settled().await;
    assert_eq!(status["roster"]["from"], "disk");
    assert!(status["roster"]["age_seconds"].is_u64());
    assert_eq!(proxy.reloads(), reloads);
    assert_eq!(agent.trouble("directory_unreachable").await["roster"]["members"], 3);
    agent.stops().await;
}

#[tokio::test]
async fn a_fleet_that_becomes_empty_or_vanishes_leaves_the_last_file() {
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[&directory.url()], PLAIN);
    let agent = proxy.start().await;
    agent.settled().await;
    directory.place.write("members.json", "{\"members\": [], \"desired\": 0}");
    agent.trouble("roster_empty").await;
    assert_eq!((proxy.read("hosts.json"), proxy.reloads()), (TWO.into(), 1));
    let address = directory.address.to_string();
    let config = std::fs::read_to_string(directory.place.config()).unwrap();
    let mut directory = directory;
    signal(&directory.child, Signal::TERM);
    directory.ends().await;
    let place = directory.place;
    let renamed = config.replace("127.0.0.1:0", &address).replace("\"f1\"", "\"f2\"");
    place.write("directory.toml", &renamed);
    let other = place.start().await;
    let told = |s: &serde_json::Value| {
        let all = s["trouble"].as_array().unwrap().iter();
        all.filter(|t| t["alert"] == "directory_unreachable")
            .any(|t| t["detail"].to_string().contains("no fleet"))
    };
    agent.until("that the fleet is not known", told).await;
    assert_eq!(proxy.read("hosts.json"), TWO);
    agent.stops().await;
    drop(other);
}

#[tokio::test]
async fn a_check_or_a_reload_that_fails_holds_applied_back_and_is_told() {
    let directory = Place::new("").start().await;
    let check = "check = [\"sh\", \"-c\", \"! grep -q 10.0.0.66 $0\", \"{candidate}\"]\n";
    let reload = PLAIN.replace("echo", "test ! -e broken && echo");
    let proxy = Proxy::new(&[&directory.url()], &format!("{reload}{check}"));
    let agent = proxy.start().await;
    let before = agent.settled().await;
    directory.place.members(&["10.0.0.1:5044", "10.0.0.66:5044"]);
    let status = agent.trouble("check_failed").await;
    assert_eq!(status["applied"], before["applied"]);
    assert_eq!(proxy.read("hosts.json"), TWO);
    directory.place.members(&["10.0.0.1:5044", "10.0.0.7:5044"]);
    agent.until("the trouble to be over", |s| s["trouble"].as_array().unwrap().is_empty()).await;
    assert!(proxy.read("hosts.json").contains("10.0.0.7:5044"));
    let before = agent.settled().await;
    std::fs::write(proxy.path("broken"), "").unwrap();
    directory.place.members(&["10.0.0.7:5044"]);
    let status = agent.trouble("reload_failed").await;
    assert_eq!(status["applied"], before["applied"]);
    assert_eq!(
        proxy.read("hosts.json"),
        "[\"10.0.0.7:5044\"]\n",
        "what is not reloaded is written all the same"
    );
    std::fs::remove_file(proxy.path("broken")).unwrap();
    agent.until("the trouble to be over", |s| s["trouble"].as_array().unwrap().is_empty()).await;
    agent.settled().await;
    agent.stops().await;
}

#[tokio::test]
async fn an_agent_answers_and_follows_while_a_reload_hangs() {
    let directory = Place::new("[probe]\nenabled = false\n").start().await;
    let reload = "reload = [\"sh\", \"-c\", \"until test -e go; do sleep 0.01; done\"]\nspacing = \"0\"\n";
    let proxy = Proxy::new(&[&directory.url()], reload);
    let agent = proxy.start().await;
    agent.until("a roster", |s| s["roster"]["members"] == 2).await;
    directory.place.members(&["10.0.0.1:5044"]);
    let status = agent.until("the next roster", |s| s["roster"]["members"] == 1).await;
    assert!(status["applied"].is_null(), "{status}");
    std::fs::write(proxy.path("go"), "").unwrap();
    agent.settled().await;
    assert_eq!(proxy.read("hosts.json"), "[\"10.0.0.1:5044\"]\n");
    agent.stops().await;
}

#[tokio::test]
async fn a_template_that_fails_keeps_no_agent_from_starting() {
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[&directory.url()], PLAIN);
    for (text, words) in [("{{ hosts[7] }}\n", "undefined"), ("{% for x %}\n", "syntax error")] {
        std::fs::write(proxy.path("t.j2"), text).unwrap();
        let config = proxy.read("agent.toml");
        let config = config.replace("builtin:hosts-json", proxy.path("t.j2").to_str().unwrap());
        std::fs::write(proxy.path("agent.toml"), config).unwrap();
        let agent = proxy.start().await;
        let status = agent.trouble("template_failed").await;
        assert!(status["trouble"].to_string().contains(words), "{status}");
        assert!(!proxy.path("hosts.json").exists());
        agent.stops().await;
    }
}

#[tokio::test]
async fn a_fleet_of_5000_reaches_the_file() {
    let place = Place::new("[guard]\nobserve_only = true\n[probe]\nenabled = false\n");
    let address = |n: u32| format!("{}:5044", std::net::Ipv4Addr::from(0x0a00_0000 + n));
    let addresses: Vec<String> = (1..=5000).map(address).collect();
    place.members(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let directory = place.start().await;
    let proxy = Proxy::new(&[&directory.url()], PLAIN);
    let agent = proxy.start().await;
    agent.settled().await;
    let written: std::collections::BTreeSet<String> =
        serde_json::from_str(&proxy.read("hosts.json")).unwrap();
    assert_eq!(written, addresses.into_iter().collect());
    agent.stops().await;
}

#[tokio::test]
async fn one_pass_renders_once_and_a_second_agent_is_refused() {
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[&directory.url()], PLAIN);
    let dry = proxy.run(&["--dry-run"]).await;
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.out.contains("+++ ") && dry.out.contains("+[\"10.0.0.1:5044\""), "{}", dry.out);
    assert!(
        !proxy.path("hosts.json").exists() && !proxy.path("state").exists(),
        "a dry run touched something"
    );
    let pass = proxy.run(&["--once"]).await;
    assert_eq!(pass.code, Some(0), "{pass:?}");
    assert!(pass.out.contains("written, reloaded"), "{}", pass.out);
    let pass = proxy.run(&["--once"]).await;
    assert!(pass.out.contains("unchanged"), "{}", pass.out);
    assert_eq!((proxy.run(&["--dry-run"]).await.out.as_str(), proxy.reloads()), ("", 1));
    let agent = proxy.start().await;
    agent.settled().await;
    let second = proxy.run(&["--once"]).await;
    assert_eq!(second.code, Some(1));
    assert!(second.err.contains("another agent works on the state folder"), "{second:?}");
    assert_eq!(proxy.reloads(), 1);
    agent.stops().await;
}

/// Kills the agent from within: its check or its reload does it.
const KILL: &str = "[\"sh\", \"-c\", \"kill -9 $PPID\"]";

#[tokio::test]
async fn an_agent_killed_between_write_and_rename_starts_over() {
    let directory = Place::new("").start().await;
    let kill = KILL.replace("$PPID\"", "$PPID\", \"{candidate}\"");
    let proxy = Proxy::new(&[&directory.url()], &format!("{PLAIN}check = {kill}\n"));
    assert_eq!(proxy.run(&["--once"]).await.code, None, "it was killed");
    assert!(!proxy.path("hosts.json").exists());
    assert!(proxy.path(".pikepole-new.hosts.json").exists(), "the new file was written");
    proxy.configure(&[&directory.url()], PLAIN);
    assert!(proxy.run(&["--once"]).await.out.contains("written, reloaded"));
    assert!(proxy.run(&["--once"]).await.out.contains("unchanged"));
    assert_eq!((proxy.read("hosts.json"), proxy.reloads()), (TWO.into(), 1));
    assert!(!proxy.path(".pikepole-new.hosts.json").exists());
}

#[tokio::test]
async fn an_agent_killed_between_rename_and_reload_owes_the_reload() {
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[&directory.url()], &format!("reload = {KILL}\n"));
    assert_eq!(proxy.run(&["--once"]).await.code, None, "it was killed");
    assert_eq!(proxy.read("hosts.json"), TWO);
    proxy.configure(&[&directory.url()], PLAIN);
    let pass = proxy.run(&["--once"]).await;
    assert!(pass.out.contains(": reloaded,"), "{pass:?}");
    assert!(proxy.run(&["--once"]).await.out.contains("unchanged"));
    assert_eq!(proxy.reloads(), 1);
}

#[tokio::test]
async fn a_reload_that_a_killed_agent_owes_is_made_although_the_fleet_is_empty_by_then() {
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[&directory.url()], &format!("reload = {KILL}\n"));
    assert_eq!(proxy.run(&["--once"]).await.code, None, "it was killed");
    proxy.configure(&[&directory.url()], PLAIN);
    directory.place.write("members.json", "{\"members\": [], \"desired\": 0}");
    let agent = proxy.start().await;
    agent.trouble("roster_empty").await;
    agent.until("the reload", |s| s["counts"]["reloads"] == 1).await;
    assert_eq!((proxy.read("hosts.json"), proxy.reloads()), (TWO.into(), 1));
    agent.stops().await;
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_file() {
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[&directory.url()], PLAIN);
    proxy.run(&["--once"]).await;
    directory.place.members(&["10.0.0.1:5044", "10.0.0.2:5044", "10.0.0.3:5044"]);
    let synced = async {
        while directory.run(&["roster", "f1", "--format", "hosts"]).await.out.lines().count() != 3 {}
    };
    within("three members", synced).await;
    // No file may grow: a write fails like on a full disk.
    let agent = proxy.command(&["--once"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]).arg(agent.as_std().get_program());
    limited.args(agent.as_std().get_args()).current_dir(proxy.folder.path());
    limited.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let full = ended(limited).await;
    assert_eq!(full.code, Some(1), "{full:?}");
    assert!(full.err.contains("write_failed") && full.err.contains("File too large"), "{full:?}");
    assert_eq!((proxy.read("hosts.json"), proxy.reloads()), (TWO.into(), 1));
    assert!(!proxy.path(".pikepole-new.hosts.json").exists());
}

#[tokio::test]
async fn a_check_finds_mistakes_before_anything_is_touched() {
    let proxy = Proxy::new(&["http://127.0.0.1:1"], PLAIN);
    assert_eq!(proxy.run(&["--check"]).await.code, Some(0));
    std::fs::write(proxy.path("t.j2"), "{{ hosts|yaml }}\n{{ nope }}\n").unwrap();
    let config = proxy.read("agent.toml").replace("builtin:hosts-json", proxy.path("t.j2").to_str().unwrap());
    std::fs::write(proxy.path("agent.toml"), config).unwrap();
    let wrong = proxy.run(&["--check"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.err.contains("t.j2:2:4") && wrong.err.contains("nope"), "{wrong:?}");
    std::fs::write(proxy.path("agent.toml"), "[relay]\nlisten = \"5044\"\n[agent]\nx = 1\n").unwrap();
    for flags in [&["--check"][..], &[], &["--once"], &["--dry-run"]] {
        let wrong = proxy.run(flags).await;
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        assert!(
            wrong.err.contains("relay.listen: \"5044\" is not") && wrong.err.contains("agent.x"),
            "{wrong:?}"
        );
    }
    let relay = "[directory]\nurls = [\"http://127.0.0.1:1\"]\nfleet = \"f\"\n[relay]\n";
    std::fs::write(proxy.path("agent.toml"), relay).unwrap();
    for flag in ["--once", "--dry-run"] {
        let wrong = proxy.run(&[flag]).await;
        assert!(wrong.code == Some(2) && wrong.err.contains("nothing to render"), "{wrong:?}");
    }
    assert!(!Path::new(&proxy.path("state")).exists());
}

#[tokio::test]
async fn without_a_directory_and_without_a_kept_roster_one_pass_fails() {
    let proxy = Proxy::new(&["http://127.0.0.1:1"], PLAIN);
    let pass = proxy.run(&["--once"]).await;
    assert_eq!(pass.code, Some(1));
    assert!(pass.err.contains("no roster was kept"), "{pass:?}");
    assert!(!proxy.path("hosts.json").exists());
}
