//! What nobody should send: garbage, bombs, endless windows, and events that nobody can take.

use std::time::Duration;

use pikepole_lumberjack::encode::{WindowEncoder, frames};
use pikepole_lumberjack::server::collect::Acks;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::collector::{Near, POISON};
use super::ledger::{Ledger, identify};
use super::shipper::{Load, Shipper, deliver};
use super::world::World;

/// Bytes of a whole window.
fn wire(events: &[Vec<u8>], level: u32) -> Vec<u8> {
    let mut encoder = WindowEncoder::new();
    encoder.begin(level);
    for event in events {
        assert!(encoder.push(event));
    }
    let window = encoder.finish();
    let (header, body) = frames(&window);
    [header.as_ref(), &body].concat()
}

/// Beginnings of connections that are not as they should be.
fn openings(ledger: &Ledger) -> Vec<Vec<u8>> {
    let id = || ledger.issue(1).start;
    let noise: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 500]].concat();
    let good = wire(&[format!("{{\"id\":{}}}", id()).into_bytes()], 3);
    let good_plain = wire(&[format!("{{\"id\":{}}}", id()).into_bytes()], 0);
    let huge = [b"2W\0\0\0\x01".as_slice(), b"2J\0\0\0\x01\xff\xff\xff\xff", &[b'a'; 1000]].concat();
    vec![
        noise,
        hello,
        b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n".to_vec(),
        // Bombs: one event of 20 MiB, and many that compress to nothing.
        wire(&[[b"{\"id\":1,\"a\":\"".to_vec(), vec![b'a'; 20 << 20], b"\"}".to_vec()].concat()], 9),
        wire(&vec![vec![b' '; 100 << 10]; 200], 9),
        // Half a window, then silence.
        good[..good.len() / 2].to_vec(),
        b"2W\0\0\x10\0".to_vec(),
        huge,
        // A window in a window, one event too many, a number that jumps.
        b"2W\0\0\0\x022W\0\0\0\x01".to_vec(),
        [good_plain.as_slice(), b"2J\0\0\0\x02\0\0\0\x02{}"].concat(),
        b"2W\0\0\0\x022J\0\0\0\x07\0\0\0\x02".to_vec(),
        b"2W\0\0\0\x012C\xff\xff\xff\xff\x78\x9c".to_vec(),
        // A v1 data frame that promises a billion pairs.
        b"1W\0\0\0\x011D\0\0\0\x01\x3f\xff\xff\xff\0\0\0\x01a".to_vec(),
        b"2A\0\0\0\x01".to_vec(),
    ]
}

/// A window of four billion events, as fast as it is taken.
async fn endless(mut stream: TcpStream, ledger: Ledger) {
    if stream.write_all(b"2W\xff\xff\xff\xff").await.is_err() {
        return;
    }
    for seq in 1u32.. {
        let id = ledger.issue(1).start;
        let event = format!("{{\"id\":{id},\"message\":\"{}\"}}", "a".repeat(200));
        let head = [b"2J".as_slice(), &seq.to_be_bytes(), &(event.len() as u32).to_be_bytes()].concat();
        if stream.write_all(&[head, event.into_bytes()].concat()).await.is_err() {
            return;
        }
        if seq % 100 == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The most memory that a process ever had, in MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn hostile_senders_do_not_disturb_a_good_one_and_memory_stays_bounded() {
    let ledger = Ledger::default();
    let near = Near::start(&ledger, Acks::AtOnce).await;
    let world = World::new(&[near.address]).await;
    let all = openings(&ledger);
    let agent = world.start().await;
    let shipper = Shipper::start(world.relay, &ledger, Load::default());
    ledger.reached(500).await;
    let mut senders = JoinSet::new();
    let relay = world.relay;
    let task = ledger.clone();
    senders.spawn(async move { endless(TcpStream::connect(relay).await.unwrap(), task).await });
    for opening in [all.clone(), all.clone(), all].concat() {
        senders.spawn(async move {
            let mut stream = TcpStream::connect(relay).await.unwrap();
            if stream.write_all(&opening).await.is_ok() {
                // Until it is thrown out.
                drop(stream.read_to_end(&mut Vec::new()).await);
            }
        });
    }
    let all = "whoever is hostile, but for the endless window, is thrown out";
    let status = agent.until(all, |s| s["log_path"]["relay"]["connections"] == 2).await;
    let received = ledger.counts().received;
    ledger.reached(received + 1_000).await;
    let did = shipper.finish().await;
    senders.shutdown().await;
    ledger.settled("hostile senders").await;
    println!("peak: {} MiB; {}", peak(agent.child.id().unwrap()), status["log_path"]["relay"]);
    assert_eq!((did.connections, did.resent), (1, 0), "the good one is not disturbed");
    assert!(peak(agent.child.id().unwrap()) < 200);
    agent.stop().await;
}

#[tokio::test]
async fn why_somebody_was_thrown_out_stands_in_the_log() {
    let world = World::new(&[]).await;
    let agent = world.start().await;
    agent.until("a relay", |_| true).await;
    let mut stream = TcpStream::connect(world.relay).await.unwrap();
    let own = stream.local_addr().unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // A reset is an end too.
    drop(stream.read_to_end(&mut Vec::new()).await);
    let says_why = |log: &str| {
        let reason = "begins with byte 0x47, which is no version of Lumberjack";
        log.lines().any(|line| line.contains(reason) && line.contains(&own.to_string()))
    };
    agent.until("a line about it", |_| says_why(&agent.log())).await;
    agent.until("a count of it", |s| s["log_path"]["relay"]["ended"]["unknown_version"] == 1).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_event_that_is_no_json_is_a_dead_letter_and_its_window_is_acked() {
    let ledger = Ledger::default();
    let near = Near::start(&ledger, Acks::AtOnce).await;
    let world = World::new(&[near.address]).await;
    let agent = world.start().await;
    agent.until("a relay", |_| true).await;
    for level in [0, 3] {
        let ids = ledger.issue(20);
        let bad = ids.start + 7;
        let event = |id| if id == bad { format!("{{\"id\":{id},") } else { format!("{{\"id\":{id}}}") };
        deliver(world.relay, &ids.clone().map(|id| event(id).into_bytes()).collect::<Vec<_>>(), level).await;
        ledger.promised(ids);
        let letters = world.dead_letters();
        assert_eq!(
            letters.last().unwrap()["event"],
            format!("{{\"id\":{bad},"),
            "it was there before the ack"
        );
        ledger.dead(bad);
    }
    let counts = ledger.settled("events that are no JSON").await;
    assert_eq!((counts.received, counts.dead, counts.duplicates), (38, 2, 0));
    agent.stop().await;
}

#[tokio::test]
async fn an_event_on_which_every_collector_closes_is_found_and_the_rest_arrives() {
    let ledger = Ledger::default();
    let (a, b) = (Near::start(&ledger, Acks::AtOnce).await, Near::start(&ledger, Acks::AtOnce).await);
    let world = World::new(&[a.address, b.address]).await;
    let agent = world.start().await;
    agent.until("a relay", |_| true).await;
    let shipper = Shipper::start(world.relay, &ledger, Load { window: 20, ..Load::default() });
    let ids = ledger.issue(50);
    let bad = ids.start + 31;
    let word = |id| if id == bad { POISON } else { "fine" };
    let events = ids.clone().map(|id| format!("{{\"id\":{id},\"message\":\"{}\"}}", word(id)).into_bytes());
    deliver(world.relay, &events.collect::<Vec<_>>(), 3).await;
    ledger.promised(ids);
    agent.until("a dead letter", |s| s["log_path"]["dead_letters"]["kept"] == 1).await;
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 1);
    let event = letters[0]["event"].as_str().unwrap();
    assert_eq!(identify(event.as_bytes()).0, bad);
    ledger.dead(bad);
    shipper.finish().await;
    let counts = ledger.settled("poison").await;
    agent.empty().await;
    assert_eq!(world.dead_letters().len(), 1, "{counts:?}");
    let reason: &Value = &letters[0]["reason"];
    assert!(reason.as_str().unwrap().contains("closed the connection"), "{reason}");
    agent.stop().await;
}
