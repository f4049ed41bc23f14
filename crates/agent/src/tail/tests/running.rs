//! The thread with inotify, on real time. Nothing is waited for but the lines themselves.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::Tail;
use super::super::wake::{Followed, Watches};
use super::*;
use crate::clock::Clock;

const PATIENCE: Duration = Duration::from_secs(20);

/// Everything is durable at once.
struct Direct(Sender<String>);

impl Sink for Direct {
    fn append(&mut self, block: NewBlock, _: bool, receipt: Receipt) {
        lines::raw(&block.body, |_, line| {
            self.0.send(String::from_utf8_lossy(line.text).into_owned()).unwrap();
        })
        .unwrap();
        receipt.durable();
    }

    fn mark(&mut self, _: Vec<Mark>) {}
}

fn run(folder: &TempDir) -> (Tail, Receiver<String>) {
    let pattern = |name: &str| Pattern::parse(&format!("{}/{name}", folder.path().display())).unwrap();
    let config = config(vec![pattern("*.log")], vec![pattern("*.log.*")]);
    // Only inotify can tell of anything after the first scan.
    let limits = Limits { scan_every: Duration::from_secs(3_600), ..Limits::default() };
    let (send, receive) = channel();
    let who = Who { agent: "a".into(), host: "h".into() };
    let tail =
        Tail::start(vec![config], who, limits, &BTreeMap::new(), Box::new(Direct(send)), Clock::system());
    (tail.unwrap(), receive)
}

fn append(folder: &TempDir, name: &str, text: &str) {
    let file = OpenOptions::new().append(true).create(true).open(folder.path().join(name));
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn inotify_tells_of_lines_files_and_renames() {
    let folder = TempDir::new().unwrap();
    append(&folder, "a.log", "first\n");
    let (tail, lines) = run(&folder);
    let next = || lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!(next(), "first");
    append(&folder, "a.log", "second\n");
    assert_eq!(next(), "second");
    append(&folder, "b.log", "new file\n");
    assert_eq!(next(), "new file");
    fs::rename(folder.path().join("a.log"), folder.path().join("a.log.1")).unwrap();
    append(&folder, "a.log.1", "late\n");
    assert_eq!(next(), "late");
    append(&folder, "a.log", "fresh\n");
    assert_eq!(next(), "fresh");
    tail.stop();
    assert!(lines.recv_timeout(PATIENCE).is_err(), "nobody sends any more");
}

#[test]
fn a_folder_that_comes_with_a_log_is_looked_into() {
    let folder = TempDir::new().unwrap();
    let pattern = Pattern::parse(&format!("{}/**/*.log", folder.path().display())).unwrap();
    let limits = Limits { scan_every: Duration::from_secs(3_600), ..Limits::default() };
    let (send, lines) = channel();
    let who = Who { agent: "a".into(), host: "h".into() };
    let (config, sink) = (config(vec![pattern], vec![]), Box::new(Direct(send)));
    append(&folder, "a.log", "first\n");
    let tail = Tail::start(vec![config], who, limits, &BTreeMap::new(), sink, Clock::system()).unwrap();
    let next = || lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!(next(), "first");
    fs::create_dir_all(folder.path().join("b/c")).unwrap();
    append(&folder, "b/c/a.log", "second\n");
    assert_eq!(next(), "second");
    append(&folder, "b/c/a.log", "third\n");
    assert_eq!(next(), "third");
    tail.stop();
}

#[test]
fn a_link_into_another_folder_is_followed_at_once() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    append(&other, "target", "first\n");
    std::os::unix::fs::symlink(other.path().join("target"), folder.path().join("a.log")).unwrap();
    let (_tail, lines) = run(&folder);
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "first");
    append(&other, "target", "second\n");
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "second");
}

#[test]
fn an_overflow_of_inotify_is_made_up_for_by_a_scan() {
    let mut world = World::new();
    world.tick();
    let mut watches = Watches::new();
    let worker = world.worker.as_mut().unwrap();
    assert_eq!(watches.follow(worker.folders()).unwatched, 0);
    // More than the kernel keeps, of names that are not ours; two, as the same one twice is told of once.
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let files = ["odd", "even"].map(|name| File::create(world.folder.path().join(name)).unwrap());
    for n in 0..limit.trim().parse::<usize>().unwrap() {
        (&files[n % 2]).write_all(b"x").unwrap();
    }
    world.write("access.log", "never told of\n");
    watches.drain(world.worker.as_mut().unwrap());
    assert!(world.step().unwrap().has_scanned, "nothing but the overflow asks for it");
    world.pass(Duration::ZERO);
    assert_eq!(world.texts(), ["never told of"]);
}

#[test]
fn what_cannot_be_watched_is_looked_at_more_often() {
    let mut world = World::new();
    world.write("file", "no folder");
    let unwatched = Watches::new().follow(&[world.path("file")].into()).unwatched;
    assert_eq!(unwatched, 1);
    world.worker.as_mut().unwrap().unwatched(unwatched);
    world.tick();
    let wait = world.step().unwrap().wait;
    assert!(wait <= world.limits.scan_every / 4, "{wait:?}");
    assert_eq!(world.worker.as_ref().unwrap().status().unwatched_folders, 1);
}

#[tokio::test]
async fn the_status_is_published() {
    let folder = TempDir::new().unwrap();
    append(&folder, "a.log", "one\ntwo\n");
    let (tail, _lines) = run(&folder);
    let mut status = tail.status();
    let seen = status.wait_for(|status| status.sections.first().is_some_and(|s| s.lines == 2));
    let seen = tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap().clone();
    assert_eq!((seen.open_files, seen.unwatched_folders, seen.sections[0].bytes), (1, 0, 6));
}

/// What the spool took is durable a little later, as it is with a disk.
struct Later(Sender<(usize, Receipt)>);

impl Sink for Later {
    fn append(&mut self, block: NewBlock, _: bool, receipt: Receipt) {
        let mut lines = 0;
        lines::raw(&block.body, |_, _| lines += 1).unwrap();
        // The test is over if nobody takes it.
        drop(self.0.send((lines, receipt)));
    }

    fn mark(&mut self, _: Vec<Mark>) {}
}

#[test]
fn an_answer_of_the_spool_wakes_the_reader_at_any_moment() {
    let folder = TempDir::new().unwrap();
    append(&folder, "a.log", &numbered("a", 0..20_000));
    let pattern = Pattern::parse(&format!("{}/a.log", folder.path().display())).unwrap();
    // Neither inotify nor the next scan tells of anything: nothing but the answers does.
    let scan_every = Duration::from_secs(3_600);
    let limits = Limits { window: 50, under_way: 2, scan_every, ..Limits::default() };
    let (send, receive) = channel();
    let who = Who { agent: "a".into(), host: "h".into() };
    let (config, sink) = (config(vec![pattern], vec![]), Box::new(Later(send)));
    let tail = Tail::start(vec![config], who, limits, &BTreeMap::new(), sink, Clock::system()).unwrap();
    let mut lines = 0;
    while lines < 20_000 {
        let (count, receipt) = receive.recv_timeout(PATIENCE).expect("an answer was not heard");
        std::thread::park_timeout(Duration::from_micros(200));
        receipt.durable();
        lines += count;
    }
    tail.stop();
}

/// Something that must not happen happens.
struct Broken;

impl Sink for Broken {
    fn append(&mut self, _: NewBlock, _: bool, _: Receipt) {
        panic!("this is what the test is about");
    }

    fn mark(&mut self, _: Vec<Mark>) {}
}

#[tokio::test]
async fn a_thread_that_ended_unexpectedly_is_told() {
    let folder = TempDir::new().unwrap();
    append(&folder, "a.log", "one\n");
    let pattern = Pattern::parse(&format!("{}/a.log", folder.path().display())).unwrap();
    let (who, limits) = (Who { agent: "a".into(), host: "h".into() }, Limits::default());
    let (config, sink) = (config(vec![pattern], vec![]), Box::new(Broken));
    let tail = Tail::start(vec![config], who, limits, &BTreeMap::new(), sink, Clock::system()).unwrap();
    let mut status = tail.status();
    let ended = status.wait_for(|status| status.has_ended);
    tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
}

#[test]
fn a_folder_that_was_moved_away_tells_no_more() {
    let mut world = World::new();
    fs::create_dir(world.path("old")).unwrap();
    world.tick();
    let mut watches = Watches::new();
    assert_eq!(watches.follow(&[world.path("old")].into()), Followed { unwatched: 0, new: 1 });
    assert_eq!(watches.follow(&[world.path("old")].into()).new, 0);
    world.rename("old", "away");
    watches.drain(world.worker.as_mut().unwrap());
    assert!(world.step().unwrap().has_scanned, "a folder is gone");
    world.write("away/access.log", "not ours\n");
    world.write("away/access.log", "any more\n");
    watches.drain(world.worker.as_mut().unwrap());
    assert!(!world.step().unwrap().has_scanned);
}
