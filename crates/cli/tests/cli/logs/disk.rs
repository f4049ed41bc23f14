//! Disks that are full, and spools that are damaged between two runs.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pikepole_lumberjack::server::collect::Acks;
use tokio::time::{Instant, sleep};

use super::collector::Near;
use super::ledger::Ledger;
use super::shipper::{Load, Shipper};
use super::world::{World, dice, inside};

/// Waits until no more is acked to shippers.
async fn stuck(ledger: &Ledger) -> u64 {
    let (mut promised, mut since) = (ledger.counts().promised, Instant::now());
    while since.elapsed() < Duration::from_millis(1500) {
        sleep(Duration::from_millis(50)).await;
        let now = ledger.counts().promised;
        if now != promised {
            (promised, since) = (now, Instant::now());
        }
    }
    promised
}

/// Takes all the room that is left, to the last byte.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for piece in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
}

/// A real file system without room, in a mount namespace of its own.
#[tokio::test]
async fn a_full_disk_holds_shippers_up_and_loses_nothing() {
    if !inside("logs::disk::a_full_disk_holds_shippers_up_and_loses_nothing", "--mount").await {
        return;
    }
    let ledger = Ledger::default();
    let near = Near::start(&ledger, Acks::Never).await;
    let world = World::new(&[near.address]).await;
    std::fs::create_dir(world.path("disk")).unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=40m", "none"]).arg(world.path("disk"));
    assert!(mount.status().unwrap().success());
    world.configure(&format!(
        "[spool]\npath = {:?}\nmax_bytes = \"256MiB\"\nmin_free = \"0B\"\n[collectors]\nprogress = \"600s\"\n",
        world.path("disk/spool")
    ));
    let agent = world.start().await;
    let load = Load { window: 500, bytes: 2_000, pause: Duration::ZERO, ..Load::default() };
    let shipper = Shipper::start(world.relay, &ledger, load);
    agent.trouble("spool_full").await;
    let promised = stuck(&ledger).await;
    let full = agent.status().await;
    let spool = &full["log_path"]["spool"];
    println!("full with {promised} events acked: {spool}");
    assert!(promised > 1_000, "{spool}");
    // Somebody else takes what was left, and the agent is killed.
    fill(&world.path("disk/filler"));
    agent.kill().await;
    let agent = world.start().await;
    agent.trouble("spool_full").await;
    assert!(ledger.counts().promised < promised + 2_000, "nothing can be acked");
    // Acks of collectors free space, although the disk has none for noting them but what is reserved.
    near.collector.set_acks(Acks::AtOnce);
    ledger.reached(promised + 3_000).await;
    std::fs::remove_file(world.path("disk/filler")).unwrap();
    shipper.finish().await;
    ledger.settled("a full disk").await;
    let status = agent.empty().await;
    assert_eq!(status["log_path"]["spool"]["damaged_bytes"], 0);
    assert_eq!(status["log_path"]["spool"]["dropped"]["events"], 0);
    agent.until("an end of the trouble", |s| s["log_path"]["spool"]["state"] == "ok").await;
    agent.stop().await;
}

/// One block in a segment, as docs/spool-format.md describes it.
#[derive(Debug, Clone, Copy)]
struct Record {
    at: u64,
    len: u64,
    events: u64,
}

fn segments(world: &World) -> Vec<PathBuf> {
    let files = std::fs::read_dir(world.path("state/spool")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "spool")).collect();
    files.sort();
    files
}

fn blocks(segment: &Path) -> Vec<Record> {
    let bytes = std::fs::read(segment).unwrap();
    let number = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let (mut at, mut blocks) = (64, Vec::new());
    while at + 64 <= bytes.len() && bytes[at..at + 4] == [0xa5, 0x50, 0x4b, 0x9c] {
        let len = 64 + number(at + 8);
        if bytes[at + 4] == 1 {
            blocks.push(Record { at: at as u64, len, events: number(at + 40) });
        }
        at += len as usize;
    }
    blocks
}

fn flip(segment: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test]
async fn damage_between_two_runs_is_counted_exactly_and_the_rest_arrives() {
    let mut dice = dice();
    let ledger = Ledger::default();
    let mut near = Near::start(&ledger, Acks::AtOnce).await;
    near.stop().await;
    let world = World::new(&[near.address]).await;
    for sent in [400, 800] {
        let agent = world.start().await;
        let shipper = Shipper::start(world.relay, &ledger, Load { window: 10, ..Load::default() });
        while ledger.counts().promised < sent {
            sleep(Duration::from_millis(10)).await;
        }
        shipper.finish().await;
        agent.kill().await;
    }
    let mut hit: BTreeMap<(usize, u64), Record> = BTreeMap::new();
    let segments = segments(&world);
    let full: Vec<_> = segments.iter().map(|path| blocks(path)).collect();
    let full: Vec<_> = full.iter().enumerate().filter(|(_, blocks)| blocks.len() > 20).collect();
    let [(old, olds), (new, news)] = full[..] else { panic!("{segments:?}") };
    let any = |blocks: &[Record], dice: &mut fastrand::Rng| blocks[dice.usize(..blocks.len() - 1)];
    while hit.len() < 3 {
        let block = any(news, &mut dice);
        if hit.insert((new, block.at), block).is_none() {
            flip(&segments[new], block.at + 64 + dice.u64(..block.len - 64));
        }
    }
    let whole_heads: u64 = hit.values().map(|block| block.events).sum();
    // One whose head is damaged too, and one in the older segment, of which the checkpoint knows.
    let headless = news.iter().find(|block| !hit.contains_key(&(new, block.at))).unwrap();
    flip(&segments[new], headless.at + dice.u64(..60));
    hit.insert((new, headless.at), *headless);
    let older = any(olds, &mut dice);
    flip(&segments[old], older.at + dice.u64(..older.len));
    hit.insert((old, older.at), older);
    // The machine went down while a block was being written.
    let torn = std::fs::read(&segments[new]).unwrap()[news[0].at as usize..][..80].to_vec();
    std::io::Write::write_all(
        &mut std::fs::OpenOptions::new().append(true).open(&segments[new]).unwrap(),
        &torn,
    )
    .unwrap();
    let agent = world.start().await;
    agent.trouble("spool_damaged").await;
    near.listen().await;
    let status = agent.empty().await;
    let (spool, counts) = (&status["log_path"]["spool"], ledger.counts());
    println!("damage: {counts:?}, {spool}");
    assert_eq!(counts.lost, hit.values().map(|block| block.events).sum::<u64>());
    assert_eq!(spool["damaged"]["blocks"], hit.len());
    assert_eq!(spool["damaged"]["events"], whole_heads + older.events);
    assert_eq!(spool["damaged_bytes"], hit.values().map(|block| block.len).sum::<u64>());
    assert_eq!(counts.duplicates, 0);
    agent.stop().await;
}
