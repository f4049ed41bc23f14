//! Files that are rotated all the time, while they are written and while the agent is killed.
//!
//! What stands in the files in the end is the truth that the ledger is compared with.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pikepole_lumberjack::server::collect::Acks;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::collector::{Near, address};
use super::ledger::Ledger;
use super::world::{Agent, SPOOL, World, dice, rounds};
use crate::harness::{signal, within};

/// A world whose agent reads `logs/access.log`.
async fn tailing(ledger: &Ledger) -> (World, [Near; 2]) {
    let fleet = [
        Near::start(ledger, Acks::AtOnce).await,
        Near::start(ledger, Acks::After(Duration::from_millis(20))).await,
    ];
    let world = World::new(&[fleet[0].address, fleet[1].address]).await;
    std::fs::create_dir(world.path("logs")).unwrap();
    let tail = format!("[[tail]]\npaths = [{:?}]\n", world.path("logs/access.log"));
    world.configure(&format!("{SPOOL}{tail}"));
    (world, fleet)
}

/// The real logrotate, with these lines in its configuration.
struct Rotation<'a>(&'a World);

impl<'a> Rotation<'a> {
    fn new(world: &'a World, lines: &str) -> Self {
        let log = world.path("logs/access.log");
        let text = format!("{:?} {{\nrotate 1000\nmissingok\n{lines}\n}}\n", log);
        world_write(&world.path("rotate.conf"), &text);
        Self(world)
    }

    async fn turn(&self) {
        let mut command = Command::new("/usr/sbin/logrotate");
        command.arg("-f").arg("-s").arg(self.0.path("rotate.state")).arg(self.0.path("rotate.conf"));
        let ended = within("logrotate", command.kill_on_drop(true).output()).await.unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// logrotate wants that nobody else can write its configuration.
fn world_write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

/// The ids of all lines of all generations.
async fn written(world: &World) -> Vec<u64> {
    let mut command = Command::new("sh");
    command.arg("-c").arg("zcat -f access.log*").current_dir(world.path("logs")).kill_on_drop(true);
    let ended = within("reading all generations", command.output()).await.unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    let id = |line: &str| line.split("id=").nth(1)?.split(' ').next()?.parse().ok();
    text.lines().map(|line| id(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

/// Kills the agent and starts it again.
async fn again(agent: Agent, world: &World, dice: &mut fastrand::Rng) -> Agent {
    agent.kill().await;
    if dice.bool() {
        sleep(Duration::from_millis(dice.u64(0..300))).await;
    }
    world.start().await
}

/// Everything that stands in the files has arrived, each line under one document id.
async fn compare(what: &str, ledger: &Ledger, ids: &[u64], agent: Agent) {
    ids.iter().for_each(|id| ledger.promised(*id..*id + 1));
    println!("{what}: {} lines", ids.len());
    assert!(!ids.is_empty());
    let counts = ledger.settled(what).await;
    assert_eq!(counts.received, ids.len() as u64, "nothing came that was not written");
    let status = agent.empty().await;
    assert_eq!(ledger.ambiguous(), [], "a line that comes again has the id it had");
    println!("{}", status["log_path"]["tail"]);
    agent.stop().await;
}

const NGINX: &str = "
user root;
worker_processes 2;
daemon off;
events { worker_connections 256; }
pid nginx.pid;
error_log error.log;
http {
  log_format ids '$remote_addr - [$time_local] \"$request\" id=$arg_id $status $body_bytes_sent';
  client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server { listen ADDRESS; access_log logs/access.log ids; location / { return 200 'ok'; } }
}
";

/// Requests with numbers, not faster than an unoptimised agent can read.
const WRK: &str = "
local n = 0
request = function() n = n + 1; return wrk.format('GET', '/?id=' .. n) end
delay = function() return 1 end
";

async fn nginx(world: &World) -> (Child, SocketAddr) {
    let address = address();
    world_write(&world.path("nginx.conf"), &NGINX.replace("ADDRESS", &address.to_string()));
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(world.folder.path()).arg("-c").arg(world.path("nginx.conf"));
    command.arg("-e").arg(world.path("error.log")).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.kill_on_drop(true).spawn().expect("nginx; ./scripts/test installs it");
    let up = async { while TcpStream::connect(address).await.is_err() {} };
    within("nginx", up).await;
    (child, address)
}

#[tokio::test]
async fn a_rotation_storm_of_nginx_under_load_and_kills_loses_no_line() {
    let mut dice = dice();
    let ledger = Ledger::default();
    let (world, _fleet) = tailing(&ledger).await;
    let (mut nginx, address) = nginx(&world).await;
    // Compressed one rotation later, as Debian does; nginx goes on writing to the renamed file until USR1.
    let rotation = Rotation::new(
        &world,
        "compress\ndelaycompress\nnocreate\npostrotate\nsleep 0.1; kill -USR1 $(cat ROOT/nginx.pid)\nendscript"
            .replace("ROOT", world.folder.path().to_str().unwrap())
            .as_str(),
    );
    world_write(&world.path("wrk.lua"), WRK);
    ledger.issue(1_000_000);
    let mut agent = world.start().await;
    let seconds = rounds(5);
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c4", &format!("-d{seconds}s"), "-s"]).arg(world.path("wrk.lua"));
    wrk.arg(format!("http://{address}/")).stdout(Stdio::null()).kill_on_drop(true);
    let mut load = wrk.spawn().expect("wrk; ./scripts/test installs it");
    while load.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(dice.u64(200..700))).await;
        rotation.turn().await;
        if dice.u8(..3) == 0 {
            agent = again(agent, &world, &mut dice).await;
        }
    }
    signal(&nginx, Signal::QUIT);
    within("the end of nginx", nginx.wait()).await.unwrap();
    compare("nginx", &ledger, &written(&world).await, agent).await;
}

/// Writes and rotates. What is written between the copy and the cut is lost to everybody: here nothing is.
async fn copytruncate(what: &str, turns: u32, kills: bool) {
    use std::io::Write as _;
    let mut dice = dice();
    let ledger = Ledger::default();
    let (world, _fleet) = tailing(&ledger).await;
    let rotation = Rotation::new(&world, "copytruncate\ncompress\ndelaycompress");
    let mut options = std::fs::File::options();
    let mut file = options.append(true).create(true).open(world.path("logs/access.log")).unwrap();
    let mut agent = world.start().await;
    for _ in 0..turns {
        for _ in 0..dice.u64(1..10) {
            let ids = ledger.issue(dice.u64(1..200));
            let lines: Vec<_> = ids.map(|id| format!("GET / id={id} 200\n")).collect();
            file.write_all(lines.concat().as_bytes()).unwrap();
            sleep(Duration::from_millis(dice.u64(0..30))).await;
        }
        rotation.turn().await;
        if kills && dice.u8(..3) == 0 {
            agent = again(agent, &world, &mut dice).await;
        }
    }
    compare(what, &ledger, &written(&world).await, agent).await;
    if !kills {
        assert_eq!(ledger.counts().duplicates, 0, "nothing is read twice");
    }
}

#[tokio::test]
async fn a_storm_of_copytruncate_loses_no_line_and_doubles_none() {
    copytruncate("copytruncate", rounds(8), false).await;
}

#[tokio::test]
async fn a_storm_of_copytruncate_and_kills_loses_no_line() {
    copytruncate("copytruncate and kills", rounds(12), true).await;
}
