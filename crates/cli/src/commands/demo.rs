//! `pikepole demo`: everything in one process. Simulated Auto Scaling groups that live by themselves,
//! collectors that listen, real agents that follow and render, a directory with its page between them, and a
//! line for every step.

mod agents;
mod collectors;
mod ground;
mod life;
mod pace;
mod tell;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
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
use tokio::task::JoinSet;

use super::directory::{bind, raise_file_limit};
use super::print;
use crate::Failure;
use crate::args::DemoArgs;
use crate::stop;
use agents::{AGENTS, Agents, Board, Place};
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
    let ground = ground::find(&places);
    let engine = Engine::open(Setup {
        sources: sources().map(|(cloud, fleet)| source(cloud, fleet, ground.port)).collect(),
        stores: Stores::on_disk(Ok(Arc::new(disk))),
        policy: GuardPolicy::default(),
        reconcile: Duration::from_secs(10),
        stale_after: Duration::from_secs(60),
        probe: ProbeConfig { enabled: ground.can_listen, give_up: scaled(GIVE_UP, args.speed) },
        drain: DrainConfig { settle: scaled(SETTLE, args.speed), deadline: scaled(DEADLINE, args.speed) },
        complete_hooks: true,
        clock: clock.clone(),
        alerts: Alerts::new(None, shutdown.clone()),
    })
    .await;
    let seed = args.seed.unwrap_or_else(|| clock.now().as_millis());
    let mut agents = Agents::default();
    let mut pace = Pace::new(seed, args.speed);
    let boards = follow(&engine, address, &files, &mut agents, &mut pace)?;
    print(&welcome(address, &files, ground))?;
    let mut tasks = bring_to_life(&engine, clouds, boards, ground, &mut pace);
    let server = ServerConfig { listen: address, tls: None, tokens: None, compat_anonymous: false };
    let app = App::new(Arc::clone(&engine), &server);
    let mut ending = None;
    let until = async {
        match args.duration {
            Some(duration) => tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = stop => {}
            },
            None => stop.await,
        }
        ending = Some(tokio::spawn(agents.stop())); // while the server ends
        tasks.shutdown().await;
    };
    serve_engine(engine, app, listener, None, (trigger, shutdown), until).await?;
    if let Some(ending) = ending {
        ending.await?;
    }
    remove(folder).await?;
    print("pikepole demo stopped; nothing was left behind\n")
}

/// Starts the agents of every fleet, and returns how they are.
fn follow(
    engine: &Engine,
    directory: SocketAddr,
    folder: &Path,
    agents: &mut Agents,
    pace: &mut Pace,
) -> Result<Vec<Board>, Failure> {
    let place = Place { folder, directory: reachable(directory) };
    let start = |fleet: &Arc<Fleet>| agents.start(place, fleet, pace);
    engine.fleets().iter().map(start).collect()
}

/// Everything around the directory and its agents: groups, collectors, and who tells of them.
fn bring_to_life(
    engine: &Arc<Engine>,
    clouds: Vec<SimCloud>,
    agents: Vec<Board>,
    ground: Ground,
    pace: &mut Pace,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let patience = pace.time(tell::PATIENCE).max(tell::PATIENCE);
    for ((cloud, fleet), agents) in clouds.into_iter().zip(engine.fleets()).zip(agents) {
        let group = fleet.config().group();
        tasks.spawn(tell::tell(Arc::clone(fleet), agents, engine.clock().clone(), patience));
        tasks.spawn(life::deliver(cloud.clone(), Arc::clone(engine)));
        tasks.spawn(life::Life::new(cloud.clone(), group.clone(), pace.fork()).live());
        if ground.can_listen {
            tasks.spawn(collectors::run(cloud, group, ground.port, pace.fork()));
        }
    }
    tasks
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
         \x20           what each agent is told and renders; its `reload` is a script you can break\n\
         \x20 Ctrl-C stops it, and removes them.\n\n{note}",
        files.display()
    )
}
