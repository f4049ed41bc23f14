//! Collectors that die, hang, read slowly, come, go and drain.

use std::net::SocketAddr;
use std::time::Duration;

use pikepole_lumberjack::server::collect::Acks;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::collector::{Far, Near, address};
use super::ledger::Ledger;
use super::shipper::{Load, Shipper};
use super::world::{SPOOL, World, dice, instance, rounds};

/// Limits that pass while one watches.
const HASTY: &str = "[collectors]\nuser_timeout = \"1s\"\nsilence = \"2s\"\nprogress = \"4s\"\n";

fn hasty(world: &World) {
    world.configure(&format!("{SPOOL}{HASTY}"));
}

#[tokio::test]
async fn collectors_that_are_killed_and_stopped_lose_nothing() {
    let mut dice = dice();
    let ledger = Ledger::default();
    let mut fleet = Vec::new();
    for _ in 0..3 {
        fleet.push(Far::start(&ledger).await);
    }
    let addresses: Vec<_> = fleet.iter().map(|far| far.address).collect();
    let world = World::new(&addresses).await;
    hasty(&world);
    let agent = world.start().await;
    let shippers = [0, 3]
        .map(|level| Shipper::start(world.relay, &ledger, Load { level, window: 30, ..Load::default() }));
    ledger.reached(500).await;
    for _ in 0..rounds(3) {
        let (first, second) = (dice.usize(..3), dice.usize(1..3));
        fleet[first].kill().await;
        let stopped = (first + second) % 3;
        fleet[stopped].signal(Signal::STOP);
        sleep(Duration::from_millis(dice.u64(0..1000))).await;
        fleet[first].run(&[]).await;
        sleep(Duration::from_millis(dice.u64(500..2500))).await;
        fleet[stopped].signal(Signal::CONT);
    }
    for shipper in shippers {
        shipper.finish().await;
    }
    ledger.settled("collectors killed and stopped").await;
    agent.empty().await;
    assert_eq!(world.dead_letters().len(), 0);
    agent.stop().await;
}

/// Takes connections, and reads so many bytes every 50 ms, but says nothing.
async fn mute(bytes: usize) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(address()).await.unwrap();
    let (address, mut task) = (listener.local_addr().unwrap(), JoinSet::new());
    task.spawn(async move {
        let mut readers = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            readers.spawn(async move {
                let mut buffer = vec![0; bytes];
                while bytes == 0 || stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn collectors_that_swallow_or_read_slowly_are_left() {
    let ledger = Ledger::default();
    let (hole, _hole) = mute(0).await;
    let (slow, _slow) = mute(100).await;
    let good = Near::start(&ledger, Acks::AtOnce).await;
    let world = World::new(&[hole, slow, good.address]).await;
    hasty(&world);
    let agent = world.start().await;
    // Windows that fill what the kernel takes for a peer that does not read.
    let load = Load { window: 500, bytes: 2_000, level: 0, ..Load::default() };
    let shipper = Shipper::start(world.relay, &ledger, load);
    ledger.reached(5_000).await;
    shipper.finish().await;
    ledger.settled("collectors that are mute").await;
    let status = agent.empty().await;
    let collectors = status["log_path"]["collectors"]["collectors"].as_array().unwrap();
    for mute in [hole, slow] {
        let it = collectors.iter().find(|c| c["address"] == mute.to_string()).unwrap();
        assert!(it["failures"].as_object().unwrap().values().any(|n| n.as_u64() > Some(0)), "{it:#}");
    }
    assert_eq!(world.dead_letters().len(), 0);
    agent.stop().await;
}

/// A way to a collector on which so many bytes pass every 50 ms; its acks come back at once.
async fn narrow(to: SocketAddr, bytes: usize) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(address()).await.unwrap();
    let (address, mut task) = (listener.local_addr().unwrap(), JoinSet::new());
    task.spawn(async move {
        let mut pairs = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(onward) = TcpStream::connect(to).await else { continue };
            let (mut from_agent, mut to_agent) = stream.into_split();
            let (mut from_collector, mut to_collector) = onward.into_split();
            pairs.spawn(async move { drop(tokio::io::copy(&mut from_collector, &mut to_agent).await) });
            pairs.spawn(async move {
                let mut buffer = vec![0; bytes];
                while let Ok(read @ 1..) = from_agent.read(&mut buffer).await {
                    if to_collector.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_collector_that_reads_slowly_and_acks_carries_what_it_can() {
    let ledger = Ledger::default();
    let good = Near::start(&ledger, Acks::AtOnce).await;
    let behind = Near::start(&ledger, Acks::AtOnce).await;
    let (slow, _slow) = narrow(behind.address, 20_000).await;
    let world = World::new(&[slow, good.address]).await;
    let agent = world.start().await;
    let load = Load { window: 200, bytes: 500, level: 0, ..Load::default() };
    let shipper = Shipper::start(world.relay, &ledger, load);
    ledger.reached(10_000).await;
    shipper.finish().await;
    let counts = ledger.settled("a collector that reads slowly").await;
    agent.empty().await;
    assert_eq!((counts.duplicates, world.dead_letters().len()), (0, 0), "it is slow, and not left");
    assert!(behind.collector.totals().windows > 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_roster_that_changes_all_the_time_loses_nothing() {
    let mut dice = dice();
    let ledger = Ledger::default();
    let mut fleet = Vec::new();
    for delay in [0, 5, 20, 100] {
        fleet.push(Near::start(&ledger, Acks::After(Duration::from_millis(delay))).await);
    }
    let all: Vec<_> = fleet.iter().map(|near| near.address).collect();
    let world = World::new(&all).await;
    let agent = world.start().await;
    let shipper = Shipper::start(world.relay, &ledger, Load::default());
    ledger.reached(200).await;
    for _ in 0..rounds(60) {
        let some: Vec<_> = all.iter().copied().filter(|_| dice.bool()).collect();
        world.members(&some);
        sleep(Duration::from_millis(300)).await;
    }
    let before = world.revision().await;
    world.members(&all[1..3]);
    world.moved(before.saturating_sub(1)).await;
    shipper.finish().await;
    let counts = ledger.settled("rosters that change").await;
    let status = agent.empty().await;
    let resent = status["log_path"]["collectors"]["events_resent"].as_u64().unwrap();
    assert!(counts.duplicates <= resent, "{counts:?}, resent {resent}");
    assert_eq!(
        (counts.duplicates, world.dead_letters().len()),
        (0, 0),
        "who leaves the roster is waited for"
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_collectors_makes_no_dead_letter() {
    let ledger = Ledger::default();
    let mut fleet = Vec::new();
    for _ in 0..3 {
        fleet.push(Near::start(&ledger, Acks::After(Duration::from_millis(5))).await);
    }
    let world = World::new(&fleet.iter().map(|near| near.address).collect::<Vec<_>>()).await;
    let agent = world.start().await;
    let shipper = Shipper::start(world.relay, &ledger, Load { window: 10, ..Load::default() });
    ledger.reached(200).await;
    for near in [0, 1, 2, 0, 1, 2] {
        fleet[near].stop().await;
        fleet[near].listen().await;
        ledger.reached(ledger.counts().received + 200).await;
    }
    shipper.finish().await;
    ledger.settled("two rolling restarts").await;
    agent.empty().await;
    assert_eq!(world.dead_letters().len(), 0);
    agent.stop().await;
}

/// Tells the directory that AWS is about to take an instance away.
async fn warn(world: &World, instance: &str) {
    let now = pikepole_api::time::format(pikepole_directory::clock::Clock::system().now());
    let event = json!({
        "version": "0", "id": "1", "detail-type": "EC2 Spot Instance Interruption Warning", "source": "aws.ec2",
        "account": "123456789012", "time": now, "region": "ap-south-1", "resources": [],
        "detail": { "instance-id": instance, "instance-action": "terminate" }
    })
    .to_string();
    let mut stream = TcpStream::connect(world.directory.address).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        event.len()
    );
    stream.write_all(format!("{head}{event}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[tokio::test]
async fn a_draining_collector_gets_nothing_new_and_its_acks_are_waited_for() {
    let ledger = Ledger::default();
    let dying = Near::start(&ledger, Acks::AtOnce).await;
    let good = Near::start(&ledger, Acks::AtOnce).await;
    let world = World::new(&[dying.address, good.address]).await;
    let agent = world.start().await;
    let shipper = Shipper::start(world.relay, &ledger, Load { window: 10, ..Load::default() });
    ledger.reached(100).await;
    let state = |status: &Value, of: SocketAddr| {
        let collectors = status["log_path"]["collectors"]["collectors"].as_array().unwrap();
        collectors.iter().find(|c| c["address"] == of.to_string()).cloned().unwrap_or_default()
    };
    dying.collector.set_acks(Acks::Never);
    agent
        .until("windows that are not acked", |s| {
            state(s, dying.address)["windows_in_flight"].as_u64() > Some(0)
        })
        .await;
    let before = world.revision().await;
    warn(&world, &instance(dying.address)).await;
    let revision = world.revision().await;
    assert!(revision > before);
    agent.until("a draining collector", |s| state(s, dying.address)["state"] == "draining").await;
    let (sent, received) = (dying.collector.totals().windows, ledger.counts().received);
    ledger.reached(received + 500).await;
    assert_eq!(dying.collector.totals().windows, sent, "nothing new");
    assert_eq!(world.applied().await, Some(before), "its acks are not in");
    dying.collector.set_acks(Acks::AtOnce);
    world.moved(before).await;
    shipper.finish().await;
    let counts = ledger.settled("a drain").await;
    assert_eq!(counts.duplicates, 0);
    agent.stop().await;
}

#[tokio::test]
async fn without_any_collector_everything_waits_for_one() {
    let ledger = Ledger::default();
    let mut near = Near::start(&ledger, Acks::AtOnce).await;
    near.stop().await;
    let world = World::new(&[near.address]).await;
    let agent = world.start().await;
    let shipper = Shipper::start(world.relay, &ledger, Load::default());
    agent.trouble("no_collector").await;
    let began = Instant::now();
    while ledger.counts().promised < 3_000 {
        assert!(began.elapsed() < Duration::from_secs(30), "the relay does not ack: {:?}", ledger.counts());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ledger.counts().received, 0);
    agent.kill().await;
    let agent = world.start().await;
    near.listen().await;
    shipper.finish().await;
    ledger.settled("no collector for a while").await;
    agent.empty().await;
    agent.stop().await;
}
