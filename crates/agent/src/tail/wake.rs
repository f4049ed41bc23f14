//! What wakes the thread that tails: inotify on folders, a bell, and time.
//!
//! Not the truth: what inotify misses, overflows or cannot watch, the next scan finds.
//!
//! Invariant: waiting costs nothing. Nothing here can fail in a way that stops tailing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::worker::Worker;

/// Files that shall be possible to have open; most systems allow it and give less at first.
const OPEN_FILES: u64 = 16_384;
/// Folders that are watched.
const MAX_WATCHES: usize = 512;
/// Room for what inotify tells at once.
const EVENTS: usize = 64 * 1024;

/// Raises the limit of open files; half of what there is then is for tailing.
pub(super) fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let wanted = OPEN_FILES.min(limit.maximum.unwrap_or(u64::MAX));
    if current < wanted {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, current, "cannot raise the limit of open files");
        }
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(have / 2).unwrap_or(usize::MAX).max(16)
}

/// Wakes the thread from anywhere.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(super) fn new() -> rustix::io::Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(|fd| Self(Arc::new(fd)))
    }

    pub(super) fn ring(&self) {
        // It fails only when it has rung so often that it cannot count it: it rings, then.
        let _rung = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Whether it rang.
    fn silence(&self) -> bool {
        // It fails when it does not ring.
        rustix::io::read(&*self.0, &mut [0; 8]).is_ok()
    }
}

/// Waits.
#[derive(Debug)]
pub(super) struct Wait(Bell);

impl Wait {
    pub(super) fn new(bell: Bell) -> Self {
        Self(bell)
    }

    /// Until the bell rings, a folder changes, or the time is over. Whether the bell rang: it does so once.
    pub(super) fn wait(&self, watches: Option<&Watches>, time: Duration) -> bool {
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&*self.0.0, PollFlags::IN)];
        if let Some(inotify) = watches.and_then(|watches| watches.inotify.as_ref()) {
            fds.push(PollFd::new(inotify, PollFlags::IN));
        }
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => tracing::warn!(%error, "cannot wait for files to change"),
        }
        self.0.silence()
    }
}

/// What following folders came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    /// Folders that cannot be watched, or not for all who write there.
    pub(super) unwatched: usize,
    /// Folders that are watched from now on. What happened there since they were listed nobody told.
    pub(super) new: usize,
}

/// The folders that are watched.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Option<OwnedFd>,
    /// One folder may have several names, and has one watch.
    folders: BTreeMap<i32, Vec<PathBuf>>,
    watched: BTreeMap<PathBuf, i32>,
    /// Watched ones that others may write over a network, of which inotify says nothing.
    remote: BTreeSet<PathBuf>,
}

/// File systems that can change without this kernel: NFS, SMB and CIFS, FUSE, 9p, Ceph, AFS, Lustre.
const REMOTE: [u32; 10] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x6b41_4653,
    0x0bd0_0bd0,
];

fn is_remote(path: &Path) -> bool {
    // What cannot be asked cannot be listed either, and the scan says so.
    rustix::fs::statfs(path).is_ok_and(|stat| is_remote_type(stat.f_type))
}

/// The type as `statfs` gives it: a signed number of 32 or 64 bits.
fn is_remote_type(kind: impl TryInto<i64>) -> bool {
    let kind = kind.try_into().unwrap_or(0).to_le_bytes();
    let [a, b, c, d, ..] = kind;
    REMOTE.contains(&u32::from_le_bytes([a, b, c, d]))
}

impl Watches {
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "no inotify: new lines are found by looking several times a second");
        }
        let (folders, watched, remote) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { inotify: inotify.ok(), folders, watched, remote }
    }

    /// Watches these folders and no others.
    pub(super) fn follow(&mut self, folders: &BTreeSet<PathBuf>) -> Followed {
        let Some(inotify) = &self.inotify else { return Followed { unwatched: folders.len(), new: 0 } };
        let old: Vec<PathBuf> =
            self.watched.keys().filter(|path| !folders.contains(*path)).cloned().collect();
        for path in old {
            self.remote.remove(&path);
            if let Some(wd) = self.watched.remove(&path) {
                let names = self.folders.entry(wd).or_default();
                names.retain(|name| *name != path);
                if names.is_empty() {
                    self.folders.remove(&wd);
                    // It is gone already if the folder is.
                    let _gone = inotify::remove_watch(inotify, wd);
                }
            }
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let (mut failed, mut new) = (0, 0);
        for path in folders {
            if self.watched.contains_key(path) {
                continue;
            }
            if self.watched.len() >= MAX_WATCHES {
                failed += 1;
                continue;
            }
            match inotify::add_watch(inotify, path, flags) {
                Ok(wd) => {
                    new += 1;
                    self.watched.insert(path.clone(), wd);
                    if is_remote(path) {
                        self.remote.insert(path.clone());
                    }
                    self.folders.entry(wd).or_default().push(path.clone());
                }
                // There is nothing to watch yet.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    failed += 1;
                    tracing::debug!(path = %path.display(), %error, "cannot watch a folder");
                }
            }
        }
        Followed { unwatched: failed + self.remote.len(), new }
    }

    /// Tells the worker what happened.
    pub(super) fn drain(&mut self, worker: &mut Worker) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = vec![MaybeUninit::uninit(); EVENTS];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let (mut lost, mut written) = (Vec::new(), BTreeSet::new());
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::MOVE_SELF) {
                lost.push(event.wd());
            }
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            match (self.folders.get(&event.wd()), name) {
                // A busy file is told of once a line.
                (Some(_), Some(name)) if flags.contains(ReadFlags::MODIFY) => {
                    written.insert((event.wd(), name.to_os_string()));
                }
                (Some(folders), Some(name)) => {
                    let is_folder = flags.contains(ReadFlags::ISDIR);
                    folders.iter().for_each(|folder| worker.changed(&folder.join(name), is_folder));
                }
                // A folder itself.
                (Some(_), None) => worker.scan_soon(),
                (None, _) if flags.contains(ReadFlags::QUEUE_OVERFLOW) => worker.scan_soon(),
                // A folder that is watched no more.
                (None, _) => {}
            }
        }
        for (wd, name) in written {
            for folder in self.folders.get(&wd).into_iter().flatten() {
                worker.written(&folder.join(&name));
            }
        }
        for wd in lost {
            if let Some(paths) = self.folders.remove(&wd) {
                for path in paths {
                    self.watched.remove(&path);
                    self.remote.remove(&path);
                }
                // One that was moved would go on telling; of one that is gone there is no watch any more.
                let _gone = inotify::remove_watch(inotify, wd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_others_write_is_known_by_its_type() {
        assert!(is_remote_type(0x6969_i64) && is_remote_type(-11_317_950_i32));
        for local in [0xef53_i64, 0x5846_5342, 0x0102_1994, 0x794c_7630, -1_859_950_530] {
            assert!(!is_remote_type(local), "{local:x}");
        }
    }

    #[test]
    fn a_bell_that_rang_is_heard_once() {
        let bell = Bell::new().unwrap();
        let wait = Wait::new(bell.clone());
        bell.ring();
        assert!(wait.wait(None, Duration::from_secs(3_600)));
        assert!(!wait.wait(None, Duration::ZERO));
    }
}
