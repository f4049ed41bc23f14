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
use std::path::PathBuf;
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

    fn silence(&self) {
        // It fails when it does not ring, which is what is wanted.
        let _count = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

/// Waits.
#[derive(Debug)]
pub(super) struct Wait(Bell);

impl Wait {
    pub(super) fn new(bell: Bell) -> Self {
        Self(bell)
    }

    /// Until the bell rings, a folder changes, or the time is over.
    pub(super) fn wait(&self, watches: Option<&Watches>, time: Duration) {
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
        self.0.silence();
    }
}

/// The folders that are watched.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Option<OwnedFd>,
    folders: BTreeMap<i32, PathBuf>,
    watched: BTreeMap<PathBuf, i32>,
}

impl Watches {
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "no inotify: new lines are found by looking several times a second");
        }
        Self { inotify: inotify.ok(), folders: BTreeMap::new(), watched: BTreeMap::new() }
    }

    /// Watches these folders and no others; how many of them it cannot.
    pub(super) fn follow(&mut self, folders: &BTreeSet<PathBuf>) -> usize {
        let Some(inotify) = &self.inotify else { return folders.len() };
        let old: Vec<PathBuf> =
            self.watched.keys().filter(|path| !folders.contains(*path)).cloned().collect();
        for path in old {
            if let Some(wd) = self.watched.remove(&path) {
                self.folders.remove(&wd);
                // It is gone already if the folder is.
                let _gone = inotify::remove_watch(inotify, wd);
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
        let mut failed = 0;
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
                    self.watched.insert(path.clone(), wd);
                    self.folders.insert(wd, path.clone());
                }
                // There is nothing to watch yet.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    failed += 1;
                    tracing::debug!(path = %path.display(), %error, "cannot watch a folder");
                }
            }
        }
        failed
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
                (Some(folder), Some(name)) => worker.changed(&folder.join(name)),
                // An overflow, or a folder itself.
                _ => worker.scan_soon(),
            }
        }
        for (wd, name) in written {
            if let Some(folder) = self.folders.get(&wd) {
                worker.written(&folder.join(name));
            }
        }
        for wd in lost {
            if let Some(path) = self.folders.remove(&wd) {
                self.watched.remove(&path);
            }
        }
    }
}
