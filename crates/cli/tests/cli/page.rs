//! The page in a real browser: it runs under its own strict policy, and shows the fleets, who goes and who
//! still holds.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::client::{AgentPoll, Client, Poll, Polled};
use pikepole_directory::alerts::Alerts;
use pikepole_directory::assemble::serve_engine;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::{DrainConfig, FleetConfig, ProbeConfig, ServerConfig, SourceConfig};
use pikepole_directory::engine::{Engine, Setup, SourceSetup, Stores};
use pikepole_directory::http::App;
use pikepole_directory::shutdown;
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{GuardPolicy, InstanceId, Lifecycle, Transition};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::harness::{Output, exit_code, pikepole, signal, within};

/// Answers and events of the browser end with a zero byte.
const END: u8 = 0;

/// One page in a browser of its own, driven over a pipe by the DevTools protocol.
struct Page {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Page {
    async fn open(url: &str, size: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // The browser reads commands from descriptor 3 and answers on 4.
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 1>&2", "sh", "--remote-debugging-pipe"]);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        // Nothing that would reach out to the network.
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--window-size={size}"));
        command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut page = Self {
            commands: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
            session: None,
            last: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let to = json!({ "targetId": target["targetId"], "flatten": true });
        let session = page.call("Target.attachToTarget", to).await;
        page.session = session["sessionId"].as_str().map(Into::into);
        page.call("Log.enable", json!({})).await;
        page.call("Runtime.enable", json!({})).await;
        page.call("Page.navigate", json!({ "url": url })).await;
        page
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(END);
        self.commands.write_all(&bytes).await.unwrap();
        loop {
            let mut bytes = Vec::new();
            let length = within(method, self.answers.read_until(END, &mut bytes)).await.unwrap();
            assert!(length > 0, "the browser is gone; is chromium there? ./scripts/test installs it");
            bytes.pop();
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            let event = answer["method"].as_str().unwrap_or_default();
            if matches!(event, "Log.entryAdded" | "Runtime.consoleAPICalled" | "Runtime.exceptionThrown") {
                self.complaints.push(answer["params"].to_string());
            }
        }
    }

    /// Waits until the text that can be seen has all these words, and none of the others.
    async fn shows(&mut self, words: &[&str], but_not: &[&str]) {
        let look = format!(
            "new Promise((done) => {{ const until = Date.now() + 30000; const look = () => {{
                const text = document.body ? document.body.innerText : '';
                if ({words:?}.every((w) => text.includes(w)) && !{but_not:?}.some((w) => text.includes(w))) done('');
                else if (Date.now() > until) done(text);
                else setTimeout(look, 20);
            }}; look(); }})"
        );
        // A navigation ends what runs in the page before it.
        let asked = json!({ "expression": look, "awaitPromise": true, "returnByValue": true });
        let seen = self.call("Runtime.evaluate", asked).await;
        let text = seen["result"]["value"].as_str().unwrap_or("nothing");
        assert_eq!(text, "", "waited in vain for {words:?} without {but_not:?}");
    }

    /// Waits until an expression of JavaScript is true.
    async fn until(&mut self, what: &str) {
        let look = format!(
            "new Promise((done) => {{ const until = Date.now() + 30000; const look = () => {{
                if ({what}) done(true); else if (Date.now() > until) done(false); else setTimeout(look, 20);
            }}; look(); }})"
        );
        let asked = json!({ "expression": look, "awaitPromise": true, "returnByValue": true });
        let seen = self.call("Runtime.evaluate", asked).await;
        assert_eq!(seen["result"]["value"], true, "waited in vain for {what}");
    }

    async fn run(&mut self, script: &str) {
        let ran = self.call("Runtime.evaluate", json!({ "expression": script })).await;
        assert!(ran["exceptionDetails"].is_null(), "{ran}");
    }

    async fn close(mut self) -> Vec<String> {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        exit_code(&mut self.child).await;
        self.complaints
    }
}

#[tokio::test]
async fn the_page_shows_every_fleet_on_a_desk_and_on_a_phone() {
    let mut demo = pikepole(&["demo", "--listen", "127.0.0.1:0", "--seed", "3"]).spawn().unwrap();
    let mut lines = Output::of(&mut demo);
    let line = lines.line_with("page").await;
    let url = line.split_whitespace().last().unwrap().to_string();
    lines.line_with("logstash-frankfurt").await;
    for size in ["1280,900", "360,740"] {
        let mut page = Page::open(&url, size).await;
        let words =
            ["logstash-mumbai", "logstash-virginia", "logstash-frankfurt", "active", "watchers", "36 agents"];
        page.shows(&words, &[]).await;
        page.shows(&["sent", "received", "waiting", "missing", "checked", "duplicates", "out/s"], &[]).await;
        assert_eq!(page.close().await, Vec::<String>::new());
    }
    signal(&demo, rustix::process::Signal::TERM);
    assert_eq!(exit_code(&mut demo).await, Some(0));
}

/// Flows move by themselves, and a button that is clicked does what it says.
#[tokio::test]
async fn the_demos_flows_move_and_its_buttons_work() {
    let args = ["demo", "--listen", "127.0.0.1:0", "--seed", "4", "--speed", "10"];
    let mut demo = pikepole(&args).spawn().unwrap();
    let mut lines = Output::of(&mut demo);
    let line = lines.line_with("page").await;
    let url = line.split_whitespace().last().unwrap().to_string();
    let card = "document.querySelector('[data-fleet=logstash-virginia]')";
    for (size, press, says) in [
        ("1280,900", "stop-all", "All collectors are stopped"),
        ("360,740", "restart-agent", "dropped the agent proxy-"),
    ] {
        let mut page = Page::open(&url, size).await;
        let received =
            format!("Number({card}?.querySelector('.n-received b').textContent.replace(/\\D/g, ''))");
        page.until(&format!("{received} > 0")).await;
        page.run(&format!("globalThis.before = {received}")).await;
        page.until(&format!("{received} > globalThis.before")).await;
        page.until("document.documentElement.scrollWidth <= innerWidth").await;
        page.run(&format!("{card}.querySelector('[data-press={press}]').click()")).await;
        page.shows(&[says], &[]).await;
        lines.line_with("logstash-virginia  ! all ").await;
        page.shows(&["delivered after"], &["All collectors are stopped"]).await;
        page.until(&format!("{card}.querySelector('.n-missing b').textContent === '0'")).await;
        assert_eq!(page.close().await, Vec::<String>::new());
    }
    signal(&demo, rustix::process::Signal::TERM);
    assert_eq!(exit_code(&mut demo).await, Some(0));
}

/// A directory over a simulated group, one of whose two collectors is terminated while one agent, `proxy-7`,
/// does not move off before it is told to.
pub(crate) struct Drain {
    pub(crate) address: SocketAddr,
    pub(crate) dying: InstanceId,
    engine: Arc<Engine>,
    moves_off: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Drain {
    pub(crate) async fn begin() -> Self {
        let clock = Clock::system();
        let cloud = SimCloud::new(clock.clone());
        let config = FleetConfig {
            name: "f1".parse().unwrap(),
            dc: "some-dc".parse().unwrap(),
            region: "ap-south-1".parse().unwrap(),
            port: 5044,
            source: SourceConfig::Sim,
        };
        let group = config.group();
        cloud.create_group(&group, 2);
        let ids = [(); 2].map(|()| cloud.launch(&group));
        for id in &ids {
            cloud.set_lifecycle(&group, id, Lifecycle::InService);
        }
        cloud.put_hook(
            &group,
            Transition::Terminating,
            "pikepole-terminate".parse().unwrap(),
            Duration::from_secs(900),
        );
        let (trigger, shutdown) = shutdown::channel();
        let source = SourceSetup {
            label: "sim".into(),
            kind: "sim",
            source: Arc::new(cloud.source()),
            fleets: vec![config],
            gap: Duration::ZERO,
        };
        let engine = Engine::open(Setup {
            sources: vec![source],
            stores: Stores::default(),
            policy: GuardPolicy::default(),
            reconcile: Duration::from_secs(3_600),
            stale_after: Duration::from_secs(7_200),
            probe: ProbeConfig { enabled: false, ..ProbeConfig::default() },
            drain: DrainConfig { settle: Duration::ZERO, deadline: Duration::from_secs(600) },
            complete_hooks: true,
            clock,
            alerts: Alerts::new(None, shutdown.clone()),
        })
        .await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = ServerConfig { listen: address, tls: None, tokens: None, compat_anonymous: false };
        let app = App::new(Arc::clone(&engine), &server);
        let mut tasks = JoinSet::new();
        let serving = serve_engine(
            Arc::clone(&engine),
            app,
            listener,
            None,
            (trigger, shutdown),
            std::future::pending(),
        );
        tasks.spawn(async move { drop(serving.await) });
        let mut shown = engine.fleets()[0].watch();
        within("a roster", shown.wait_for(|shown| shown.published.is_some())).await.unwrap();
        let moves_off = watch::Sender::new(false);
        tasks.spawn(hold(address, moves_off.subscribe()));
        let drain = Self { address, dying: ids[0].clone(), engine, moves_off, _tasks: tasks };
        drain.until("the agent follows", |agents, _| agents == 1).await;
        cloud.terminate(&group, &drain.dying);
        drain.engine.take_events(&cloud.take_events()).await;
        drain
    }

    /// Lets the agent apply what it has, and waits until the directory knows.
    async fn move_off(&self) {
        self.moves_off.send_replace(true);
        self.until("nobody holds", |_, moved_off| moved_off).await;
    }

    async fn until(&self, what: &str, is_so: impl Fn(u64, bool) -> bool) {
        let fleet = &self.engine.fleets()[0];
        let looks = async {
            loop {
                let (_, applied) = fleet.agents().count(fleet.published().map(|p| p.revision()));
                let moved_off =
                    fleet.state().lives.get(&self.dying).is_some_and(|life| life.moved_off.is_some());
                if is_so(applied, moved_off) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(what, looks).await;
    }
}

/// An agent that applies its first roster, and the next ones only once it may.
async fn hold(address: SocketAddr, mut may: watch::Receiver<bool>) {
    let client = Client::new(&format!("http://{address}"), None).unwrap();
    let (mut have, mut applied) = (None, None);
    loop {
        if applied.is_none() || *may.borrow() {
            applied = have;
        }
        let agent = Some(AgentPoll { id: "proxy-7", start: "0b0c1f52-8f0e-4a37-9f4b-a4b1c7a60f10", applied });
        let poll = client.poll("f1", Poll { after: have, wait: Duration::from_secs(60), agent });
        tokio::select! {
            answer = poll => {
                if let Ok(Polled::Roster(roster, _)) = answer {
                    have = Some(roster.revision);
                }
            }
            _ = may.changed() => {}
        }
    }
}

#[tokio::test]
async fn a_drain_names_who_holds_until_they_have_moved_off() {
    let drain = Drain::begin().await;
    let mut page = Page::open(&format!("http://{}/#f1", drain.address), "360,740").await;
    let holds = ["Held by 1 agent:", "proxy-7.", "1 drain held by 1 agent", "agents 0 of 1 on this revision"];
    page.shows(&[&holds[..], &[drain.dying.as_str()]].concat(), &[]).await;
    // No new roster comes of it: the page asks by itself while somebody holds.
    drain.move_off().await;
    let over = ["every agent moved off", "agents 1 of 1 on this revision", drain.dying.as_str()];
    page.shows(&over, &["Held by", "proxy-7", "held by"]).await;
    assert_eq!(page.close().await, Vec::<String>::new());
}
