//! Real files in a folder, a worker that is stepped, a spool that commits when it is told to, and a clock
//! that moves when it is told to.

mod archives;
mod crash;
mod logrotate;
mod rotation;
mod running;
mod storm;
mod telling;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use pikepole_fleet::Timestamp;
use pikepole_spool::{Mark, NewBlock};
use tempfile::TempDir;
use tokio::time::Instant;

use super::wake::Bell;
use super::worker::{Stepped, Worker};
use super::{Limits, Receipt, Receipts, SectionStatus, Sink, Who, lines};
use crate::config::{Pattern, Start, TailConfig};

/// A configuration of these patterns.
pub(super) fn config(paths: Vec<Pattern>, rotated: Vec<Pattern>) -> TailConfig {
    TailConfig {
        paths,
        rotated,
        start: Start::Beginning,
        fields: String::new(),
        max_line: 1 << 20,
        beat: "filebeat".into(),
        beat_version: "8.17.0".into(),
        rotate_grace: Duration::from_secs(60),
        expire: Duration::from_secs(86_400),
    }
}

/// What was handed over.
enum Entry {
    Block(NewBlock, Receipt),
    Marks(Vec<Mark>),
}

/// A spool that is not one.
#[derive(Default)]
struct FakeSpool {
    marks: BTreeMap<Bytes, Bytes>,
    blocks: Vec<NewBlock>,
    pending: VecDeque<Entry>,
    /// Whether each block that came was full.
    fullness: Vec<bool>,
}

impl FakeSpool {
    fn remember(&mut self, marks: Vec<Mark>) {
        for Mark { key, value } in marks {
            match value {
                Some(value) => self.marks.insert(key, value),
                None => self.marks.remove(&key),
            };
        }
    }

    /// Makes the next entry durable.
    fn commit_one(&mut self) -> bool {
        match self.pending.pop_front() {
            Some(Entry::Block(block, receipt)) => {
                self.remember(block.marks.clone());
                self.blocks.push(block);
                receipt.durable();
            }
            Some(Entry::Marks(marks)) => self.remember(marks),
            None => return false,
        }
        true
    }
}

struct Shared(Arc<Mutex<FakeSpool>>);

impl Sink for Shared {
    fn append(&mut self, block: NewBlock, is_full: bool, receipt: Receipt) {
        let mut spool = self.0.lock().unwrap();
        spool.fullness.push(is_full);
        spool.pending.push_back(Entry::Block(block, receipt));
    }

    fn mark(&mut self, marks: Vec<Mark>) {
        self.0.lock().unwrap().pending.push_back(Entry::Marks(marks));
    }
}

/// A line that is durable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Got {
    text: String,
    generation: u64,
    offset: u64,
    is_cut: bool,
    path: String,
}

/// Everything around a worker.
struct World {
    folder: TempDir,
    configs: Vec<TailConfig>,
    limits: Limits,
    worker: Option<Worker>,
    spool: Arc<Mutex<FakeSpool>>,
    now: Instant,
    /// Milliseconds since the beginning; every change of a file takes one.
    millis: u64,
    /// Nothing is committed.
    is_full: bool,
    /// The place to crash at, and how many places there were.
    crash_at: Option<usize>,
    points: usize,
}

const EPOCH: u64 = 1_795_341_600_000;

impl World {
    /// An empty folder, `access*.log`, and what logrotate makes of it.
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut TailConfig)) -> Self {
        let folder = TempDir::new().unwrap();
        let pattern = |name: &str| Pattern::parse(&format!("{}/{name}", folder.path().display())).unwrap();
        let rotated = vec![pattern("access*.log.*"), pattern("access*.log-*")];
        let mut config = config(vec![pattern("access*.log")], rotated);
        change(&mut config);
        let limits =
            Limits { window: 50, block_bytes: 4_096, under_way: 8, quantum: 2_048, ..Limits::default() };
        let mut world = Self {
            folder,
            configs: vec![config],
            limits,
            worker: None,
            spool: Arc::default(),
            now: Instant::now(),
            millis: 0,
            is_full: false,
            crash_at: None,
            points: 0,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let who = Who { agent: "a".into(), host: "h".into() };
        let marks = self.spool.lock().unwrap().marks.clone();
        let receipts = Receipts::new(Bell::new().unwrap());
        let sink = Box::new(Shared(Arc::clone(&self.spool)));
        let (configs, limits) = (self.configs.clone(), self.limits.clone());
        self.worker = Some(Worker::new(configs, who, limits, &marks, sink, receipts, self.now));
    }

    /// Ends it without a word; what was not durable is gone.
    fn stop(&mut self) {
        self.worker = None;
        self.spool.lock().unwrap().pending.clear();
    }

    fn crash(&mut self) {
        self.stop();
        self.start();
    }

    /// A place where a crash may happen.
    fn point(&mut self) {
        self.points += 1;
        if self.crash_at == Some(self.points) && self.worker.is_some() {
            self.crash();
        }
    }

    fn step(&mut self) -> Option<Stepped> {
        self.point();
        let wall = Timestamp::from_millis(EPOCH + self.millis);
        let stepped = self.worker.as_mut()?.step(self.now, wall);
        self.point();
        Some(stepped)
    }

    fn commit(&mut self) {
        while !self.is_full && self.spool.lock().unwrap().commit_one() {
            self.point();
        }
    }

    /// Lets time pass, with a scan at its end, and everything done that can be done.
    fn pass(&mut self, time: Duration) {
        self.advance(time);
        if let Some(worker) = &mut self.worker {
            worker.scan_soon();
        }
        for _ in 0..10_000 {
            let Some(stepped) = self.step() else { return };
            let had_pending = !self.spool.lock().unwrap().pending.is_empty();
            self.commit();
            if !stepped.wait.is_zero() && (self.is_full || !had_pending) {
                if stepped.wait > self.limits.linger {
                    return;
                }
                self.advance(stepped.wait);
            }
        }
        panic!("it never comes to rest");
    }

    fn tick(&mut self) {
        self.pass(Duration::from_secs(1));
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.millis += u64::try_from(time.as_millis()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Files change at different times, always: what happens within one tick of a kernel is not tested.
    fn touch(&mut self, file: &File) {
        self.advance(Duration::from_millis(1));
        file.set_modified(UNIX_EPOCH + Duration::from_millis(EPOCH + self.millis)).unwrap();
    }

    fn write(&mut self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
        self.touch(&file);
    }

    fn rename(&mut self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn remove(&mut self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn copy(&mut self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        let file = OpenOptions::new().append(true).open(self.path(to)).unwrap();
        self.touch(&file);
    }

    fn truncate(&mut self, name: &str) {
        let file = OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.set_len(0).unwrap();
        self.touch(&file);
    }

    fn compress(&mut self, from: &str, to: &str) {
        let bytes = fs::read(self.path(from)).unwrap();
        let file = File::create(self.path(to)).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(&file, flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap();
        self.touch(&file);
    }

    fn gzip(&mut self, name: &str) {
        self.compress(name, &format!("{name}.gz"));
        self.remove(name);
    }

    /// Every line that is durable, in order.
    fn got(&self) -> Vec<Got> {
        let spool = self.spool.lock().unwrap();
        let mut got = Vec::new();
        for block in &spool.blocks {
            let mut count = 0;
            lines::raw(&block.body, |header, line| {
                count += 1;
                let text = String::from_utf8_lossy(line.text).into_owned();
                let (generation, offset, is_cut) = (header.generation, line.offset, line.is_cut);
                let path = String::from_utf8_lossy(header.path);
                let path = path.rsplit('/').next().unwrap_or_default().to_string();
                got.push(Got { text, generation, offset, is_cut, path });
            })
            .unwrap();
            assert_eq!(block.events, count);
        }
        got
    }

    fn texts(&self) -> Vec<String> {
        self.got().into_iter().map(|got| got.text).collect()
    }

    fn status(&self) -> SectionStatus {
        self.worker.as_ref().unwrap().status().sections[0].clone()
    }

    /// Each of these lines is there. Twice only with the same id, and only after a crash.
    fn check(&self, wanted: &[String]) {
        let got = self.got();
        let mut by_text: BTreeMap<&str, Vec<&Got>> = BTreeMap::new();
        for line in &got {
            by_text.entry(&line.text).or_default().push(line);
        }
        for text in wanted {
            assert!(by_text.contains_key(text.as_str()), "{text} is lost; {:?}", self.texts());
        }
        let known: std::collections::BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        for (text, lines) in by_text {
            assert!(known.contains(text), "{text:?} was never written");
            assert!(self.crash_at.is_some() || lines.len() == 1, "{text} is there twice: {lines:?}");
            assert!(lines.windows(2).all(|w| w[0] == w[1]), "two ids: {lines:?}");
        }
    }
}

/// Lines `prefix-0` to `prefix-(n-1)`, as text for a file.
fn numbered(prefix: &str, range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{prefix}-{n}\n")).collect()
}

fn lines_of(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{prefix}-{n}")).collect()
}
