//! The guard on real files. The disk is as large as a test says: what is free is that less what the files take.

mod disks;
mod running;
mod steps;

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use pikepole_fleet::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::state::State;

const KB: u64 = 1024;
/// `min_free` of every test.
const MIN_FREE: u64 = 1024 * KB;
/// The time of every test, in milliseconds.
const NOW: u64 = 1_800_000_000_000;
/// What a file is taken to be old after, in seconds.
const SETTLE: u64 = 60;

struct World {
    logs: PathBuf,
    state: State,
    _folders: (TempDir, TempDir),
}

impl World {
    fn new() -> Self {
        let (logs, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let opened = State::open(state.path()).unwrap();
        Self { logs: logs.path().into(), state: opened, _folders: (logs, state) }
    }

    fn config(&self, policy: &str, more: &str) -> GuardConfig {
        let text = format!(
            "[directory]\nurls = [\"http://127.0.0.1:1\"]\nfleet = \"f\"\n\
             [[render]]\ntemplate = \"builtin:hosts-json\"\noutput = \"/nowhere/x\"\n\
             [disk_guard]\npaths = [{:?}]\nmin_free = \"1MiB\"\npolicy = \"{policy}\"\n{more}",
            self.logs
        );
        Config::parse(&text, |_| None).unwrap().guard.unwrap()
    }

    /// A worker on a disk of which so many bytes are free now.
    fn worker(&self, policy: &str, more: &str, free: u64) -> Worker {
        self.worker_at(policy, more, free, NOW)
    }

    fn worker_at(&self, policy: &str, more: &str, free: u64, now: u64) -> Worker {
        let clock = Clock::from_fn(move || Timestamp::from_millis(now));
        Worker {
            config: Arc::new(self.config(policy, more)),
            probe: disk_of(free + used(&self.logs)),
            ledger: Ledger::open(self.state.records(), clock.now()),
            clock,
            in_use: seen_by_root,
            stop: Arc::default(),
            incompressible: BTreeMap::new(),
        }
    }

    fn pass(&self, worker: &mut Worker) -> Passed {
        worker.pass(std::slice::from_ref(&self.logs))
    }

    /// A file that was written so many seconds ago.
    fn file(&self, name: &str, age: u64, bytes: &[u8]) -> PathBuf {
        let path = self.logs.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        set_age(&path, age);
        path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.logs)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn set_age(path: &Path, age: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW) - Duration::from_secs(age);
    OpenOptions::new().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Who has a file open, as root knows it: in a test nobody else's process has.
fn seen_by_root(wanted: &HashSet<place::Id>) -> in_use::InUse {
    in_use::InUse { is_complete: true, ..in_use::in_use(wanted) }
}

/// A disk of this size with nothing on it but the folder.
fn disk_of(size: u64) -> Probe {
    Arc::new(move |path| Ok(Space { device: 1, free: size.saturating_sub(used(path)), total: 1 << 40 }))
}

fn used(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => used(&entry.path()),
        Ok(m) if m.is_file() => m.blocks() * 512,
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

/// Lines of 64 bytes that compress as logs do.
fn log(kilobytes: u64) -> Vec<u8> {
    let line = |n: u64| format!("{n:010} GET /some/path HTTP/1.1 200 upstream.example.com 0.1\n");
    let text: String = (0..kilobytes * 16).map(line).collect();
    assert_eq!(text.len() as u64, kilobytes * KB);
    text.into_bytes()
}

/// Bytes that do not compress.
fn noise(kilobytes: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..kilobytes * KB).map(|_| random.u8(..)).collect()
}

/// Another process that has a file open: `>>` for writing, `<` for reading.
struct Holder(Child);

impl Holder {
    fn of(path: &Path, how: &str) -> Self {
        let script = format!("exec 3{how}\"$1\"; echo ready; read -r line");
        let mut child = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn gunzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn found(world: &World, worker: &Worker, name: &str) -> place::Place {
    let listing = scan::scan(&worker.config, std::slice::from_ref(&world.logs), worker.clock.now());
    listing.places.into_iter().find(|place| place.name == *name).unwrap()
}
