//! `pikepole demo`: everything in one process. Simulated Auto Scaling groups that live by themselves, proxies
//! that write access logs, real agents that follow, render and carry those logs, collectors that count every
//! line, a directory with its page between them, and a line for every step.

mod agents;
mod buttons;
mod collectors;
mod flows;
mod ground;
mod ledger;
mod life;
mod pace;
mod proxies;
mod tell;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::alerts::Alerts;
use pikepole_directory::assemble::serve_engine;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::{DrainConfig, FleetConfig, ProbeConfig, ServerConfig, SourceConfig};
use pikepole_directory::engine::{Engine, Fleet, Setup, SourceSetup, Stores};
use pikepole_directory::http::App;
use pikepole_directory::shutdown;
use pikepole_directory::source::sim::SimCloud;
use pikepole_directory::store::file::FileStore;
use pikepole_fleet::GuardPolicy;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::directory::{bind, raise_file_limit};
use super::print;
use crate::Failure;
use crate::args::DemoArgs;
use crate::stop;
use agents::{AGENTS, Agents, Board, Place};
use buttons::Buttons;
use flows::{Flow, Press, Totals};
use ground::Ground;
use pace::Pace;

/// The fleets of the demo: name, data centre, region, collectors at the start.
const FLEETS: [(&str, &str, &str, u32); 3] = [
    ("logstash-mumbai", "mumbai", "ap-south-1", 6),
    ("logstash-virginia", "virginia", "us-east-1", 8),
    ("logstash-frankfurt", "frankfurt", "eu-central-1", 3),
];

/// A new collector is listed after this long although its port never answered; with speed 1.
const GIVE_UP: Duration = Duration::from_secs(30);
/// From the moment every agent has moved off to the completion of the hook; with speed 1.
const SETTLE: Duration = Duration::from_secs(2);
/// At the latest a drain ends then; with speed 1.
const DEADLINE: Duration = Duration::from_secs(60);
/// Below the demo's folder.
const AGENT_FILES: &str = "agents";
/// Tries to remove the folder, and the time between two.
const REMOVALS: usize = 10;
const REMOVE_AGAIN: Duration = Duration::from_millis(20);
/// No speed makes these times shorter.
const LEAST_TIME: Duration = Duration::from_secs(3);

pub(crate) async fn run(args: DemoArgs) -> Result<(), Failure> {
    if !(args.speed.is_finite() && (0.1..=100.0).contains(&args.speed)) {
        return Err(Failure::WrongUse("--speed is a factor from 0.1 to 100".into()));
    }
    raise_file_limit();
    let listener = bind(args.listen).map_err(|failure| match failure {
        Failure::Failed(error) => {
            Failure::Failed(anyhow::anyhow!("{error}\nchoose another place with --listen 127.0.0.1:9044"))
        }
        other => other,
    })?;
    let address = listener.local_addr()?;
    let stop = stop::requested();
    let folder = tempfile::Builder::new().prefix("pikepole-demo-").tempdir()?;
    let files = folder.path().join(AGENT_FILES);
    let clock = Clock::system();
    let (trigger, shutdown) = shutdown::channel();
    let disk = FileStore::open(&folder.path().join("directory")).await?;
    let clouds: Vec<SimCloud> =
        (1..).zip(FLEETS).map(|(account, _)| SimCloud::on_loopback(clock.clone(), account)).collect();
    let sources = || clouds.iter().zip(FLEETS);
    for (cloud, fleet) in sources() {
        life::begin(cloud, &fleet_config(fleet, 0).group(), fleet.3);
    }
    let places: Vec<IpAddr> = sources()
        .flat_map(|(cloud, fleet)| cloud.instances(&fleet_config(fleet, 0).group()))
        .map(|instance| instance.ip)
        .collect();
    let (ground, _claim) = ground::find(&places);
    let sources = sources().map(|(cloud, fleet)| source(cloud, fleet, ground.port)).collect();
    let stores = Stores::on_disk(Ok(Arc::new(disk)));
    let alerts = Alerts::new(None, shutdown.clone());
    let probes = ground.can_listen;
    let engine = Engine::open(setup(sources, stores, alerts, clock.clone(), (probes, args.speed))).await;
    let seed = args.seed.unwrap_or_else(|| clock.now().as_millis());
    let mut agents = Agents::default();
    let mut pace = Pace::new(seed, args.speed);
    let place = Place { folder: &files, directory: reachable(address), carries: ground.can_listen };
    let streams =
        engine.fleets().iter().map(|fleet| Stream::begin(place, fleet, &clock, &mut agents, &mut pace));
    let streams = streams.collect::<Result<Vec<_>, _>>()?;
    let flows: Vec<Flow> = streams.iter().map(|stream| stream.flow.clone()).collect();
    print(&welcome(address, &files, ground))?;
    let (writers, mut others) = bring_to_life(&engine, clouds, streams, ground, &mut pace);
    let server = ServerConfig { listen: address, tls: None, tokens: None, compat_anonymous: false };
    let app = if ground.can_listen {
        App::with_extra(Arc::clone(&engine), &server, Arc::new(Buttons(flows.clone())))
    } else {
        App::new(Arc::clone(&engine), &server)
    };
    let mut ending = None;
    let until = async {
        match args.duration {
            Some(duration) => tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = stop => {}
            },
            None => stop.await,
        }
        // While the server ends: those who write, then those who carry, then those who take.
        ending = Some(tokio::spawn(async move {
            drop(writers);
            agents.stop().await;
            others.shutdown().await;
        }));
    };
    serve_engine(engine, app, listener, None, (trigger, shutdown), until).await?;
    if let Some(ending) = ending {
        ending.await?;
    }
    if ground.can_listen {
        print(&balance(&flows))?;
    }
    remove(folder).await?;
    print("pikepole demo stopped; nothing was left behind\n")
}

/// A fleet's agents and what they carry.
struct Stream {
    board: Board,
    flow: Flow,
    presses: mpsc::Receiver<Press>,
    logs: Vec<PathBuf>,
}

impl Stream {
    /// Starts the agents.
    fn begin(
        place: Place<'_>,
        fleet: &Arc<Fleet>,
        clock: &Clock,
        agents: &mut Agents,
        pace: &mut Pace,
    ) -> Result<Self, Failure> {
        let name = fleet.config().name.as_str();
        let (flow, presses) = Flow::new(name, agents::ids(fleet), clock.clone());
        let board = agents.start(place, fleet, &flow, pace)?;
        Ok(Self { board, flow, presses, logs: place.logs(fleet) })
    }
}

/// Everything around the directory and its agents: proxies that write; then groups, collectors, and who tells of
/// them.
fn bring_to_life(
    engine: &Arc<Engine>,
    clouds: Vec<SimCloud>,
    streams: Vec<Stream>,
    ground: Ground,
    pace: &mut Pace,
) -> (JoinSet<()>, JoinSet<()>) {
    let (mut writers, mut tasks) = (JoinSet::new(), JoinSet::new());
    let patience = pace.time(tell::PATIENCE).max(tell::PATIENCE);
    let clock = engine.clock();
    for ((cloud, fleet), stream) in clouds.into_iter().zip(engine.fleets()).zip(streams) {
        let Stream { board, flow, presses, logs } = stream;
        let group = fleet.config().group();
        tasks.spawn(tell::tell(Arc::clone(fleet), board, flow.clone(), clock.clone(), patience));
        tasks.spawn(life::deliver(cloud.clone(), Arc::clone(engine)));
        let life = life::Life::new(cloud.clone(), group.clone(), flow.clone(), pace.fork());
        tasks.spawn(life.live(presses));
        if ground.can_listen {
            tasks.spawn(flow.clone().live());
            writers.spawn(proxies::write(logs, flow.clone(), clock.clone(), pace.fork()));
            tasks.spawn(collectors::run(cloud, group, ground.port, flow, pace.fork()));
        }
    }
    (writers, tasks)
}

/// The account at the end, in a line.
fn balance(flows: &[Flow]) -> String {
    let mut all = Totals::default();
    for flow in flows {
        all += flow.totals();
    }
    let [sent, received, waiting] = [all.sent, all.received, all.waiting].map(flows::thousands);
    let (missing, duplicates) = (flows::thousands(all.missing), flows::thousands(all.duplicates));
    format!(
        "sent {sent} = received {received} + waiting {waiting}, missing {missing}, duplicates {duplicates}\n"
    )
}

/// Removes the demo's folder. What was killed in the middle of a write may still put a file into it.
async fn remove(folder: TempDir) -> std::io::Result<()> {
    let path = folder.keep();
    for _ in 0..REMOVALS {
        // A slow disk takes a second for hundreds of files, but only one after the other.
        let mut removals = JoinSet::new();
        for agent in std::fs::read_dir(path.join(AGENT_FILES)).into_iter().flatten().flatten() {
            removals.spawn(tokio::fs::remove_dir_all(agent.path()));
        }
        while removals.join_next().await.is_some() {} // what one left is seen below
        match tokio::fs::remove_dir_all(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {}
            _ => return Ok(()),
        }
        tokio::time::sleep(REMOVE_AGAIN).await;
    }
    tokio::fs::remove_dir_all(&path).await
}

/// Where to reach a server that listens there.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

/// The directory's engine, with times that suit the speed.
fn setup(
    sources: Vec<SourceSetup>,
    stores: Stores,
    alerts: Alerts,
    clock: Clock,
    (probes, speed): (bool, f64),
) -> Setup {
    Setup {
        sources,
        stores,
        policy: GuardPolicy::default(),
        reconcile: Duration::from_secs(10),
        stale_after: Duration::from_secs(60),
        probe: ProbeConfig { enabled: probes, give_up: scaled(GIVE_UP, speed) },
        drain: DrainConfig { settle: scaled(SETTLE, speed), deadline: scaled(DEADLINE, speed) },
        complete_hooks: true,
        clock,
        alerts,
    }
}

/// The engine's own steps take about a second whatever the speed.
fn scaled(time: Duration, speed: f64) -> Duration {
    time.div_f64(speed).clamp(LEAST_TIME.min(time), time.max(LEAST_TIME))
}

fn fleet_config((name, dc, region, _): (&str, &str, &str, u32), port: u16) -> FleetConfig {
    FleetConfig {
        name: name.parse().expect("the demo's names are names"),
        dc: dc.parse().expect("the demo's names are names"),
        region: region.parse().expect("the demo's names are names"),
        port,
        source: SourceConfig::Sim,
    }
}

fn source(cloud: &SimCloud, fleet: (&str, &str, &str, u32), port: u16) -> SourceSetup {
    SourceSetup {
        label: format!("sim {}", fleet.2),
        kind: "sim",
        source: Arc::new(cloud.source()),
        fleets: vec![fleet_config(fleet, port)],
        gap: Duration::from_millis(100),
    }
}

fn welcome(address: SocketAddr, files: &Path, ground: Ground) -> String {
    let note = match ground {
        Ground { can_listen: false, .. } => {
            "  This machine lets nobody listen on 127.1.0.1, only on 127.0.0.1: ports of collectors are not probed.\n\n"
                .into()
        }
        Ground { port: 5044, .. } => String::new(),
        Ground { port, .. } => format!("  Port 5044 is taken, so collectors listen on {port}.\n\n"),
    };
    format!(
        "\n  Pikepole demo: three simulated Auto Scaling groups, {AGENTS} real agents on each, one directory.\n\n\
         \x20 page      http://{address}/\n\
         \x20 the cron  curl -f 'http://{address}/logstash-ip?dcid=mumbai&region=ap-south-1'\n\
         \x20 files     {}\n\
         \x20           what each agent is told, renders and carries; its `reload` is a script you can break\n\
         \x20 Ctrl-C stops it, and removes them.\n\n{note}",
        files.display()
    )
}
