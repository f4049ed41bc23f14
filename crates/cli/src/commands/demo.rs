//! `pikepole demo`: everything in one process. Simulated Auto Scaling groups that live by themselves, a
//! directory that follows them, its page, and a line for every change.

mod life;

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
use pikepole_fleet::{Change, GuardPolicy, MemberChange};

use super::directory::{bind, raise_file_limit};
use super::print;
use crate::Failure;
use crate::args::DemoArgs;
use crate::stop;

/// The fleets of the demo: name, data centre, region, collectors at the start.
const FLEETS: [(&str, &str, &str, u32); 3] = [
    ("logstash-mumbai", "mumbai", "ap-south-1", 6),
    ("logstash-virginia", "virginia", "us-east-1", 8),
    ("logstash-frankfurt", "frankfurt", "eu-central-1", 3),
];

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
    let folder = tempfile::tempdir()?;
    let clock = Clock::system();
    let (trigger, shutdown) = shutdown::channel();
    let disk = FileStore::open(folder.path()).await?;
    let clouds: Vec<SimCloud> = FLEETS.iter().map(|_| SimCloud::on_loopback(clock.clone())).collect();
    let engine = Engine::open(Setup {
        sources: clouds.iter().zip(FLEETS).map(|(cloud, fleet)| source(cloud, fleet)).collect(),
        stores: Stores::on_disk(Ok(Arc::new(disk))),
        policy: GuardPolicy::default(),
        reconcile: Duration::from_secs(10),
        stale_after: Duration::from_secs(60),
        probe: ProbeConfig { enabled: false, ..ProbeConfig::default() },
        drain: DrainConfig::default(),
        complete_hooks: true,
        clock: clock.clone(),
        alerts: Alerts::new(None, shutdown.clone()),
    })
    .await;
    print(&welcome(address))?;

    let mut tasks = tokio::task::JoinSet::new();
    let seed = args.seed.unwrap_or_else(|| fastrand_seed(&clock));
    for (index, cloud) in clouds.into_iter().enumerate() {
        let fleet = Arc::clone(&engine.fleets()[index]);
        tasks.spawn(tell(Arc::clone(&fleet)));
        let life = life::Life::new(cloud, Arc::clone(&engine), fleet, seed + index as u64, args.speed);
        tasks.spawn(life.live());
    }
    let server = ServerConfig { listen: address, tls: None, tokens: None, compat_anonymous: false };
    let app = App::new(Arc::clone(&engine), &server);
    let until = async {
        match args.duration {
            Some(duration) => tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = stop => {}
            },
            None => stop.await,
        }
    };
    serve_engine(engine, app, listener, None, (trigger, shutdown), until).await?;
    tasks.abort_all();
    print("pikepole demo stopped; nothing was left behind\n")
}

fn source(cloud: &SimCloud, (name, dc, region, desired): (&str, &str, &str, u32)) -> SourceSetup {
    let config = FleetConfig {
        name: name.parse().expect("the demo's names are names"),
        dc: dc.parse().expect("the demo's names are names"),
        region: region.parse().expect("the demo's names are names"),
        port: 5044,
        source: SourceConfig::Sim,
    };
    life::begin(cloud, &config.group(), desired);
    SourceSetup {
        label: format!("sim {region}"),
        kind: "sim",
        source: Arc::new(cloud.source()),
        fleets: vec![config],
        gap: Duration::from_millis(100),
    }
}

fn fastrand_seed(clock: &Clock) -> u64 {
    clock.now().as_millis()
}

fn welcome(address: std::net::SocketAddr) -> String {
    format!(
        "\n  Pikepole demo: three simulated Auto Scaling groups, one directory.\n\n\
         \x20 page      http://{address}/\n\
         \x20 the cron  curl -f 'http://{address}/logstash-ip?dcid=mumbai&region=ap-south-1'\n\
         \x20 Ctrl-C stops it.\n\n"
    )
}

/// Prints a line for every member that changes.
async fn tell(fleet: Arc<Fleet>) {
    let mut roster = fleet.watch();
    let mut told = None;
    loop {
        let state = fleet.state();
        let last = told;
        for change in state.changes.iter().filter(|change| Some(change.revision) > last) {
            told = Some(change.revision);
            let lines: String = change.members.iter().map(|member| line(&fleet, change, member)).collect();
            if print(&lines).is_err() {
                return; // whoever read the lines is gone; the page goes on
            }
        }
        if roster.changed().await.is_err() {
            return;
        }
    }
}

fn line(fleet: &Fleet, change: &Change, member: &MemberChange) -> String {
    let (sign, state) = match (member.from, member.to) {
        (None, Some(state)) => ('+', state.as_str()),
        (_, None) => ('-', "gone"),
        (Some(_), Some(state)) => ('~', state.as_str()),
    };
    let time = pikepole_api::time::format(change.at);
    format!(
        "{}  {:<19} {sign} {:<21} {:<17} {:<11} {}\n",
        time.get(11..19).unwrap_or_default(),
        fleet.config().name,
        member.instance_id,
        member.address.to_string(),
        state,
        change.cause
    )
}
