//! The agent's durable queue: the spool on a thread of its own, with group commit, for async code.
//!
//! Not the format, that is `pikepole-spool`; and no idea of what a block means.
//!
//! Invariants: an append is answered when its block is durable, and not before. A block is with one taker at a time. A disk
//! that fails or is full makes appends wait, shows in the stats, and is tried again; it is never an answer. All that waits is
//! bounded.

mod inbox;
mod order;
mod pace;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use pikepole_fleet::Timestamp;
use pikepole_spool::files::{Disk, Files};
use pikepole_spool::{
    Block, Full, MAX_MARK, MAX_MARKS, Mark, NewBlock, OpenError, Recovered, Seq, Spool, Stats, Unreadable,
};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use crate::Clock;
use inbox::{Admission, Append, CloseOnDrop, Inbox, Reader, Taker};
pub(crate) use order::Share;

/// How often a start is tried on a disk that fails; the last time, after about 11 s, what the device cannot give back counts
/// as damage.
const STARTS: u32 = 8;

/// A disk that hangs is waited for no longer than this when all is to end.
const CLOSE: Duration = Duration::from_secs(20);

/// How the queue is kept.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where.
    pub(crate) folder: PathBuf,
    /// An append waits no longer than this for others to share its fsync with.
    pub(crate) commit_every: Duration,
    /// With so many bytes it waits no more.
    pub(crate) commit_bytes: usize,
    /// Bytes of blocks that may be under way, from `append` to durable.
    pub(crate) under_way_bytes: usize,
    /// How takes that want the newest first are shared with the backlog.
    pub(crate) share: Share,
    /// The spool's own.
    pub(crate) spool: pikepole_spool::Options,
}

impl Options {
    /// The defaults of the configuration.
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            commit_every: Duration::from_millis(20),
            commit_bytes: 4 << 20,
            under_way_bytes: 16 << 20,
            share: Share::new(3, 4),
            spool: pikepole_spool::Options::default(),
        }
    }
}

/// How soon a block must be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hurry {
    /// Somebody is held up by it: at once, but for the fsync that runs.
    Soon,
    /// With others.
    Group,
}

/// Which block is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// The oldest.
    Oldest,
    /// Live data first, with a share for the backlog.
    NewestFirst,
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum QueueError {
    /// The queue was closed. Nothing is known to be durable.
    #[error("the queue is closed")]
    Closed,
    /// It can never be taken.
    #[error("the block is too large")]
    TooLarge,
    /// They can never be taken, or there are too many.
    #[error("too many marks, or too large ones")]
    Marks,
}

/// What was found at the start.
#[derive(Debug)]
pub(crate) struct Opened {
    /// What sources remember.
    pub(crate) marks: BTreeMap<Bytes, Bytes>,
    /// What the start found out.
    pub(crate) recovered: Recovered,
}

/// How things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueueStats {
    /// The spool's.
    pub(crate) spool: Stats,
    /// Why appends wait, if they wait for room.
    pub(crate) full: Option<Full>,
    /// Blocks that wait to be written.
    pub(crate) appends_waiting: usize,
    /// Blocks that somebody has taken.
    pub(crate) taken: usize,
    /// Commits since the start.
    pub(crate) commits: u64,
    /// Commits, writes and reads that failed since the start.
    pub(crate) failures: u64,
    /// What is wrong now.
    pub(crate) trouble: Option<String>,
    /// As of.
    pub(crate) at: Option<Timestamp>,
}

/// A block that is on its way.
#[derive(Debug)]
pub(crate) struct Receipt(oneshot::Receiver<Result<Seq, QueueError>>);

impl Receipt {
    /// Waits until the block is durable.
    pub(crate) async fn durable(self) -> Result<Seq, QueueError> {
        self.0.await.unwrap_or(Err(QueueError::Closed))
    }
}

/// The queue. Clones share it; it is closed with the last one, but nobody waits for that.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

struct Shared {
    inbox: Arc<Inbox>,
    admission: Admission,
    stats: watch::Receiver<QueueStats>,
    ending: Mutex<Option<Ending>>,
}

/// The thread, and how it ended.
type Ending = (JoinHandle<()>, oneshot::Receiver<Result<(), String>>);

impl Drop for Shared {
    fn drop(&mut self) {
        self.inbox.put(|work| work.is_closing = true);
    }
}

impl Queue {
    /// Opens the folder. Blocking; about as long as it takes to read the last segment.
    pub(crate) fn open(options: Options, clock: Clock) -> Result<(Self, Opened), String> {
        let folder = options.folder.display().to_string();
        let files = Disk::new(&options.folder).map_err(|e| format!("cannot use {folder}: {e}"))?;
        Self::open_on(Arc::new(files), options, clock).map_err(|e| format!("{folder}: {e}"))
    }

    /// Opens on this file system.
    fn open_on(files: Arc<dyn Files>, options: Options, clock: Clock) -> Result<(Self, Opened), String> {
        let (spool, recovered) = open_spool(&files, &options.spool, std::thread::park_timeout)?;
        if recovered.is_damaged() {
            tracing::error!(?recovered, "part of the spool is damaged; the rest is used");
        } else if recovered.torn_bytes > 0 {
            tracing::warn!(
                bytes = recovered.torn_bytes,
                events = recovered.torn.events,
                "cut off what was being written when the agent stopped"
            );
        }
        let opened = Opened { marks: spool.marks().clone(), recovered };
        let inbox = Arc::new(Inbox::default());
        let admission = Admission::new(options.under_way_bytes);
        let (tell, stats) = watch::channel(QueueStats::default());
        let (ended, end) = oneshot::channel();
        let closing = inbox.clone();
        let worker = worker::Worker::new(spool, &options, clock, inbox.clone(), tell)?;
        let thread = std::thread::Builder::new()
            .name("spool".to_string())
            .spawn(move || {
                let _closed = CloseOnDrop(closing);
                // Nobody may be interested any more in how it ended.
                let _gone = ended.send(worker.run());
            })
            .map_err(|e| format!("cannot start the spool's thread: {e}"))?;
        let ending = Mutex::new(Some((thread, end)));
        Ok((Self(Arc::new(Shared { inbox, admission, stats, ending })), opened))
    }

    /// Hands a block over, in order with those before it; several may be under way. Waits as long as the spool is full or the
    /// disk fails. Whoever stops waiting must take it that the block may be durable all the same.
    pub(crate) async fn send(&self, new: NewBlock, hurry: Hurry) -> Result<Receipt, QueueError> {
        let permit = self.0.admission.block(&new).await?;
        Ok(self.put(new, hurry, permit))
    }

    fn put(&self, new: NewBlock, hurry: Hurry, permit: tokio::sync::OwnedSemaphorePermit) -> Receipt {
        let (answer, receipt) = oneshot::channel();
        let append = Append { new, hurry, answer, _permit: permit };
        self.0.inbox.put(|work| work.appends.push_back(append));
        Receipt(receipt)
    }

    /// Remembers marks; durable with the next commit. They may overtake blocks that wait for room.
    pub(crate) fn mark(&self, marks: Vec<Mark>) -> Result<(), QueueError> {
        let is_small =
            |m: &Mark| m.key.len() <= MAX_MARK && m.value.as_ref().is_none_or(|v| v.len() <= MAX_MARK);
        let are_small = marks.iter().all(is_small);
        self.0.inbox.put(|work| {
            if are_small && work.marks.len() + marks.len() <= MAX_MARKS {
                work.marks.extend(marks.into_iter().map(|mark| (mark.key.clone(), mark)));
                Ok(())
            } else {
                work.has_refused_marks = true;
                Err(QueueError::Marks)
            }
        })
    }

    /// The next block that is durable, not done and not taken; waits for one. `None` when the queue is closed.
    pub(crate) async fn take(&self, take: Take) -> Option<Arc<Block>> {
        let permit = self.0.admission.request().await?;
        let (answer, receiver) = oneshot::channel();
        self.0.inbox.put(|work| work.takers.push_back(Taker { take, answer, _permit: permit }));
        Taking { queue: self, receiver }.wait().await
    }

    /// Others may take it again.
    pub(crate) fn give_back(&self, seq: Seq) {
        self.0.inbox.put(|work| work.given_back.insert(seq));
    }

    /// A block, taken or not; `None` if it is done, dropped or damaged, or the queue is closed.
    pub(crate) async fn read(&self, seq: Seq) -> Option<Arc<Block>> {
        let permit = self.0.admission.request().await?;
        let (answer, receiver) = oneshot::channel();
        self.0.inbox.put(|work| work.readers.push_back(Reader { seq, answer, _permit: permit }));
        receiver.await.ok().flatten()
    }

    /// It is in a collector's hands. Never waits.
    pub(crate) fn done(&self, seq: Seq) {
        self.0.inbox.put(|work| work.done.insert(seq));
    }

    /// How things are: at least each second, and on a change of note.
    pub(crate) fn stats(&self) -> watch::Receiver<QueueStats> {
        self.0.stats.clone()
    }

    /// Makes everything durable and ends the thread; waits for a disk that hangs, but not for ever. Appends that wait for
    /// room are told that it is closed.
    pub(crate) async fn close(&self) -> Result<(), String> {
        self.0.admission.close();
        self.0.inbox.put(|work| work.is_closing = true);
        let ending = self.0.ending.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((thread, end)) = ending else { return Ok(()) };
        let ended = tokio::time::timeout(CLOSE, end).await;
        let Ok(ended) = ended else {
            return Err(format!("its disk has not answered for {} s", CLOSE.as_secs()));
        };
        let result = ended.unwrap_or_else(|_| Err("the spool's thread ended early".to_string()));
        // It has nothing left to do but to return.
        thread.join().map_err(|_| "the spool's thread ended early".to_string())?;
        result
    }
}

/// A take that is waited for. If nobody waits any more, the block is not lost to others.
struct Taking<'a> {
    queue: &'a Queue,
    receiver: oneshot::Receiver<Arc<Block>>,
}

impl Taking<'_> {
    async fn wait(mut self) -> Option<Arc<Block>> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(block) = self.receiver.try_recv() {
            self.queue.give_back(block.seq);
        }
    }
}

fn open_spool(
    files: &Arc<dyn Files>,
    options: &pikepole_spool::Options,
    pause: impl Fn(Duration),
) -> Result<(Spool, Recovered), String> {
    let mut tries = 0;
    loop {
        tries += 1;
        let unreadable = if tries < STARTS { Unreadable::Refuse } else { Unreadable::GiveUp };
        match Spool::open(files.clone(), options.clone(), unreadable) {
            Ok(opened) => return Ok(opened),
            Err(error @ OpenError::Newer { .. }) => return Err(error.to_string()),
            Err(error) if tries >= STARTS => return Err(error.to_string()),
            Err(error) => tracing::warn!(%error, tries, "cannot open the spool; trying again"),
        }
        pause(backoff(tries));
    }
}

/// How long to wait after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.min(7)).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests;
