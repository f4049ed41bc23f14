//! Networks that swallow packets: collectors in network namespaces of their own.

use std::net::SocketAddr;
use std::time::Duration;

use pikepole_lumberjack::server::collect::Acks;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::collector::{Far, Near};
use super::ledger::Ledger;
use super::shipper::{Load, Shipper};
use super::world::{Agent, World, inside};
use crate::harness::{Place, pikepole, within};

/// Connects a namespace of another process to this one's by a wire: 10.99.N.1 is here, 10.99.N.2 there.
async fn wire(pid: u32, n: u8) {
    ip(&format!("ip link add v{n} type veth peer name eth0 netns {pid}")).await;
    ip(&format!("ip addr add 10.99.{n}.1/24 dev v{n} && ip link set v{n} up")).await;
    let there = format!("nsenter -t {pid} -n ip");
    ip(&format!("{there} addr add 10.99.{n}.2/24 dev eth0 && {there} link set eth0 up")).await;
}

async fn ip(words: &str) {
    let mut command = Command::new("sh");
    command.arg("-c").arg(words).kill_on_drop(true);
    let ended = within(words, command.output()).await.unwrap();
    assert!(ended.status.success(), "{words}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// A collector behind a wire of its own.
async fn beyond(ledger: &Ledger, n: u8) -> Far {
    let far = Far::beyond(ledger, SocketAddr::from(([10, 99, n, 2], 5044))).await;
    wire(far.pid(), n).await;
    far
}

fn of(status: &Value, far: &Far) -> Value {
    let collectors = status["log_path"]["collectors"]["collectors"].as_array().unwrap();
    collectors.iter().find(|c| c["address"] == far.address.to_string()).cloned().unwrap_or_default()
}

async fn is_live(agent: &Agent, far: &Far) {
    agent.until("a collector that is sent to", |s| of(s, far)["state"] == "live").await;
}

/// Says how long it took until the agent left.
async fn is_left(what: &str, agent: &Agent, far: &Far) {
    let began = Instant::now();
    let left = agent.until("a collector that is left", |s| of(s, far)["state"] != "live").await;
    println!("{what}: left after {:?}: {}", began.elapsed(), of(&left, far)["failures"]);
}

#[tokio::test]
async fn a_host_that_vanishes_and_a_network_that_is_cut_lose_nothing() {
    if !inside("logs::network::a_host_that_vanishes_and_a_network_that_is_cut_lose_nothing", "--net").await {
        return;
    }
    ip("ip link set lo up").await;
    let ledger = Ledger::default();
    let (hole, cut) = (beyond(&ledger, 1).await, beyond(&ledger, 2).await);
    let good = Near::start(&ledger, Acks::After(Duration::from_millis(5))).await;
    let world = World::new(&[hole.address, cut.address, good.address]).await;
    let agent = world.start().await;
    let shippers =
        [0; 3].map(|_| Shipper::start(world.relay, &ledger, Load { window: 20, ..Load::default() }));
    is_live(&agent, &hole).await;
    is_live(&agent, &cut).await;
    ledger.reached(500).await;
    // Its packets arrive, and nobody is there: no reset, no error.
    let there = format!("nsenter -t {} -n ip", hole.pid());
    ip(&format!("{there} addr del 10.99.1.2/24 dev eth0")).await;
    is_left("a host that vanished", &agent, &hole).await;
    ip("ip link set v2 down").await;
    is_left("a network that was cut", &agent, &cut).await;
    let received = ledger.counts().received;
    ledger.reached(received + 500).await;
    ip(&format!("{there} addr add 10.99.1.2/24 dev eth0")).await;
    ip("ip link set v2 up").await;
    is_live(&agent, &hole).await;
    is_live(&agent, &cut).await;
    sleep(Duration::from_millis(200)).await;
    for shipper in shippers {
        shipper.finish().await;
    }
    ledger.settled("black hole and partition").await;
    agent.empty().await;
    assert_eq!(world.dead_letters().len(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_directory_whose_host_vanishes_is_left_for_the_next_one_long_before_its_poll_ends() {
    let own =
        "logs::network::a_directory_whose_host_vanishes_is_left_for_the_next_one_long_before_its_poll_ends";
    if !inside(own, "--net").await {
        return;
    }
    ip("ip link set lo up").await;
    let mut host = Command::new("unshare");
    let host = host.args(["-n", "sleep", "infinity"]).kill_on_drop(true).spawn().unwrap();
    let pid = host.id().unwrap();
    let own_net = std::fs::read_link("/proc/self/ns/net").unwrap();
    let is_apart = async { while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own_net {} };
    within("a namespace", is_apart).await;
    wire(pid, 1).await;
    let place = Place::new("insecure = true\n");
    let config = std::fs::read_to_string(place.config()).unwrap();
    place.write("directory.toml", &config.replace("127.0.0.1:0", "10.99.1.2:0"));
    let mut far = Command::new("nsenter");
    far.args(["-t", &pid.to_string(), "-n"]).arg(pikepole(&[]).as_std().get_program());
    far.args(["directory", "-c", &place.config()]).kill_on_drop(true).stderr(std::process::Stdio::piped());
    let far = place.start_by(far).await;
    let near = Place::new("").start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let text = format!(
        "[directory]\nurls = [{:?}, {:?}]\nfleet = \"f1\"\nwait = \"4m\"\n[agent]\nstate = {:?}\n\
         status = \"127.0.0.1:0\"\n[[render]]\ntemplate = \"builtin:hosts-json\"\noutput = {:?}\n",
        far.url(),
        near.url(),
        folder.path().join("state"),
        folder.path().join("hosts.json")
    );
    std::fs::write(folder.path().join("agent.toml"), text).unwrap();
    let agent = pikepole(&["agent", "-c", folder.path().join("agent.toml").to_str().unwrap()]).spawn();
    let agent = Agent::of(agent.unwrap()).await;
    let until = async |what: &str, members: u64| {
        within(what, async { while agent.status().await["roster"]["members"] != members {} }).await;
    };
    until("the far directory's roster", 2).await;
    // The long poll is on its way when the directory knows the agent by it.
    let polls =
        async { while !far.get("/v1/agents?fleet=f1").await.unwrap().body.contains("applied\":1") {} };
    within("a poll", polls).await;
    ip(&format!("nsenter -t {pid} -n ip addr del 10.99.1.2/24 dev eth0")).await;
    near.place.members(&["10.0.0.1:5044", "10.0.0.2:5044", "10.0.0.3:5044"]);
    until("the near directory's roster", 3).await;
    agent.stop().await;
}
