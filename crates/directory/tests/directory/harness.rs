//! A directory in this process: an engine over simulated groups, behind a real server on port 0.
//!
//! Rosters come in two ways: [`Rig::describe`] hands one to the engine as if a source had said it, and
//! with [`Plan::reconciling`] the engine asks [`Rig::cloud`] by itself.

#[path = "harness/wire.rs"]
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pikepole_directory::alerts::Alerts;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::{
    DrainConfig, EventsConfig, FleetConfig, ProbeConfig, Secret, ServerConfig, SnsSignature, SourceConfig,
    TlsConfig, Tokens,
};
use pikepole_directory::engine::{Engine, Fleet, Setup, SourceSetup, Stores};
use pikepole_directory::events::Feed;
use pikepole_directory::events::sns::{Outside, Sns};
use pikepole_directory::http::{App, Limits, run};
use pikepole_directory::shutdown::{self, Trigger};
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{
    Describe, GroupName, GuardPolicy, Input, Instance, Lifecycle, Outcome, Proof, Timestamp,
};
use pikepole_testkit::sns::{FakeSns, TOPIC};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) use wire::{Answer, Events, Wire, request};

/// No wait in a test is longer: what has not happened by then never will.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What [`Rig::now`] begins at.
const EPOCH: u64 = 1_763_800_000_000;

/// Waits for `future`, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// Waits until something that has no event of its own is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A fleet that [`Plan::fleet`] adds.
pub(crate) fn fleet(name: &str, dc: &str, region: &str) -> FleetConfig {
    FleetConfig {
        name: name.parse().unwrap(),
        dc: dc.parse().unwrap(),
        region: region.parse().unwrap(),
        port: 5044,
        source: SourceConfig::Sim,
    }
}

/// One topic, the fake SNS's.
pub(crate) fn events_config(sns_signature: SnsSignature) -> EventsConfig {
    EventsConfig { sqs: Vec::new(), sns_topics: vec![TOPIC.into()], complete_hooks: true, sns_signature }
}

/// What a test wants of its directory.
pub(crate) struct Plan {
    fleets: Vec<FleetConfig>,
    tokens: Option<Tokens>,
    compat_anonymous: bool,
    tls: Option<TlsConfig>,
    limits: Limits,
    policy: GuardPolicy,
    reconciling: bool,
    sns: Option<Outside>,
}

impl Plan {
    /// One fleet, `f1` of `some-dc` in `ap-south-1`; no tokens; nothing happens by itself.
    pub(crate) fn new() -> Self {
        Self {
            fleets: vec![fleet("f1", "some-dc", "ap-south-1")],
            tokens: None,
            compat_anonymous: false,
            tls: None,
            limits: Limits::default(),
            policy: GuardPolicy::default(),
            reconciling: false,
            sns: None,
        }
    }

    pub(crate) fn fleet(mut self, name: &str, dc: &str, region: &str) -> Self {
        self.fleets.push(fleet(name, dc, region));
        self
    }

    pub(crate) fn tokens(mut self, read: &str, write: &str) -> Self {
        self.tokens = Some(Tokens { read: Secret::new(read), write: Secret::new(write) });
        self
    }

    pub(crate) fn compat_anonymous(mut self) -> Self {
        self.compat_anonymous = true;
        self
    }

    pub(crate) fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Lets every describe through.
    pub(crate) fn without_guard(mut self) -> Self {
        self.policy.observe_only = true;
        self
    }

    /// The engine asks the simulated account at its start, and on demand.
    pub(crate) fn reconciling(mut self) -> Self {
        self.reconciling = true;
        self
    }

    /// Messages of a topic of the fake SNS are taken.
    pub(crate) fn sns(mut self, sns: &FakeSns) -> Self {
        self.sns = Some(Outside::replaced(sns.roots(), sns.lookup()));
        self
    }

    pub(crate) async fn start(self) -> Rig {
        let now = Arc::new(AtomicU64::new(EPOCH));
        let read = Arc::clone(&now);
        let clock = Clock::from_fn(move || Timestamp::from_millis(read.load(Ordering::SeqCst)));
        let cloud = SimCloud::new(clock.clone());
        let (trigger, shutdown) = shutdown::channel();
        let source = SourceSetup {
            label: "sim".into(),
            kind: "sim",
            source: Arc::new(cloud.source()),
            fleets: self.fleets,
            gap: Duration::ZERO,
        };
        let engine = Engine::open(Setup {
            sources: vec![source],
            stores: Stores::default(),
            policy: self.policy,
            reconcile: Duration::from_secs(3_600),
            stale_after: Duration::from_secs(180),
            probe: ProbeConfig { enabled: false, ..ProbeConfig::default() },
            drain: DrainConfig::default(),
            complete_hooks: true,
            clock,
            alerts: Alerts::new(None, shutdown.clone()),
        })
        .await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = ServerConfig {
            listen: address,
            tls: self.tls.clone(),
            tokens: self.tokens,
            compat_anonymous: self.compat_anonymous,
        };
        let sns = self.sns.and_then(|outside| {
            Sns::new(&events_config(SnsSignature::Any), engine.clock().clone(), outside).unwrap()
        });
        let app = App::with_feed(Arc::clone(&engine), &server, self.limits, Arc::new(Feed::new(sns)));
        let tasks = if self.reconciling { engine.start(&shutdown) } else { JoinSet::new() };
        let server = tokio::spawn(run(listener, app, self.tls, shutdown));
        Rig { engine, cloud, address, now, trigger, server, tasks }
    }
}

/// A running directory.
pub(crate) struct Rig {
    pub(crate) engine: Arc<Engine>,
    pub(crate) cloud: SimCloud,
    pub(crate) address: SocketAddr,
    now: Arc<AtomicU64>,
    trigger: Trigger,
    server: JoinHandle<Result<(), String>>,
    tasks: JoinSet<()>,
}

impl Rig {
    /// One fleet with two collectors: what most tests need.
    pub(crate) async fn with_two() -> Self {
        let rig = Plan::new().start().await;
        rig.describe("f1", &["10.0.0.1:5044", "10.0.0.2:5044"]).await;
        rig
    }

    pub(crate) fn fleet(&self, name: &str) -> &Arc<Fleet> {
        self.engine.fleet(name).unwrap()
    }

    /// The revision that is published.
    pub(crate) fn revision(&self, fleet: &str) -> u64 {
        self.fleet(fleet).published().unwrap().revision().get()
    }

    /// A describe with one instance in service per address, named after its place: `i-0`, `i-1`, ….
    pub(crate) async fn describe(&self, fleet: &str, addresses: &[&str]) -> Outcome {
        let instance = |(place, address): (usize, &&str)| Instance {
            id: format!("i-{place}").parse().unwrap(),
            lifecycle: Lifecycle::InService,
            address: Some(address.parse().unwrap()),
            zone: Some("a".parse().unwrap()),
        };
        let instances = addresses.iter().enumerate().map(instance).collect();
        self.described(fleet, instances).await
    }

    /// A describe with these instances, made now.
    pub(crate) async fn described(&self, fleet: &str, instances: Vec<Instance>) -> Outcome {
        let made_at = self.engine.clock().now();
        let describe = Describe { made_at, desired: None, instances };
        self.engine.apply(self.fleet(fleet), Input::Described { describe, proof: Proof::default() }).await
    }

    /// Launches an instance in the simulated group of a fleet, and puts it in service.
    pub(crate) fn launch(&self, fleet: &str) {
        let group: GroupName = fleet.parse().unwrap();
        let id = self.cloud.launch(&group);
        self.cloud.set_lifecycle(&group, &id, Lifecycle::InService);
    }

    /// Moves the wall clock on.
    pub(crate) fn step(&self, by: Duration) {
        self.now.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Moves the wall clock back.
    pub(crate) fn step_back(&self, by: Duration) {
        self.now.fetch_sub(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) async fn connect(&self) -> Wire<TcpStream> {
        Wire::new(within("a connection", TcpStream::connect(self.address)).await.unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.connect().await.ask(method, path, headers).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    /// Posts a body.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let length = body.len().to_string();
        let headers = [headers, &[("Content-Length", &*length)]].concat();
        let mut wire = self.connect().await;
        wire.send([&request("POST", path, &headers)[..], body.as_bytes()].concat()).await;
        wire.answer().await
    }

    /// Starts a request whose answer will come later.
    pub(crate) async fn begin(&self, method: &str, path: &str) -> Wire<TcpStream> {
        let mut wire = self.connect().await;
        wire.request(method, path, &[]).await;
        wire
    }

    /// Opens an event stream.
    pub(crate) async fn watch(&self, query: &str) -> Events<TcpStream> {
        self.begin("GET", &format!("/v1/watch{query}")).await.events().await
    }

    /// Waits until so many polls, streams and waiting requests follow a fleet.
    pub(crate) async fn watched_by(&self, fleet: &str, count: usize) {
        let fleet = self.fleet(fleet);
        eventually("watchers", || fleet.watchers() == count).await;
    }

    /// The value of a series in `/metrics`, written as it stands there; 0 if it is not there.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.text().to_string();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    pub(crate) async fn eventually_metric(&self, series: &str, wanted: f64) {
        within(series, async {
            while self.metric(series).await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Says "stop" and returns while the server is still stopping.
    pub(crate) fn begin_stop(&self) {
        self.trigger.stop();
    }

    /// Why the server ended by itself.
    pub(crate) async fn failed(self) -> String {
        within("the end of the server", self.server).await.unwrap().unwrap_err()
    }

    /// Waits for the end of server and engine.
    pub(crate) async fn stopped(mut self) {
        within("the end of the server", &mut self.server).await.unwrap().unwrap();
        within("the end of the engine", async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}
