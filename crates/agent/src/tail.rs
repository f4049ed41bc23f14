//! `[[tail]]`: reads log files and puts their raw lines into the spool.
//!
//! Not a parser: lines go as they are, and become events on the way out ([`lines::events`]). Not the spool
//! either: that is behind [`Sink`].
//!
//! ```text
//! wake      waits for inotify, receipts and time        (the thread)
//! worker    one step: scan, read, hand over             (no waiting, time passed in)
//! list      what the patterns name on the disk
//! identity  which file is which; generation: one of them
//! file      opens, compares, reads, decompresses
//! split     bytes to lines; lines: lines to a block, and a block to events
//! mark      what the spool remembers of a file
//! ```
//!
//! Invariants: a line is given up never, and given twice only with the same `_id`, but for the window between
//! copy and truncate that copytruncate has by its nature. What the spool has for good and what is remembered
//! of a file become durable together. When the spool takes nothing, files are kept open and nothing is lost
//! but room on the disk, which is counted.

mod file;
mod generation;
mod identity;
pub(crate) mod lines;
mod list;
mod mark;
mod split;
mod status;
mod wake;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use pikepole_spool::{Mark, NewBlock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::TailConfig;
pub use status::{SectionStatus, TailStatus};
use wake::{Bell, Wait};
use worker::Worker;

/// Where blocks go. The spool's side of the seam.
pub(crate) trait Sink: Send {
    /// Keeps a block with its marks. `is_full`: nothing more fits into it, so there is more to come and no
    /// reason to wait for company. Must not wait: when the spool is full, the receipt is simply answered
    /// later. Blocks become durable in the order they come; if one is refused, all that came after it and
    /// before the receipt was answered are refused too.
    fn append(&mut self, block: NewBlock, is_full: bool, receipt: Receipt);

    /// Keeps marks with the next commit. They may overtake blocks that wait for room, so they are only of files of which
    /// nothing is under way. Must not wait.
    fn mark(&mut self, marks: Vec<Mark>);
}

/// Tells the tail what became of a block. Dropped without a word it means: refused.
#[derive(Debug)]
pub(crate) struct Receipt {
    ticket: u64,
    is_durable: bool,
    receipts: Receipts,
}

impl Receipt {
    /// The block is durable, with its marks.
    pub(crate) fn durable(mut self) {
        self.is_durable = true;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let outcome = Outcome { ticket: self.ticket, is_durable: self.is_durable };
        // Without a tail nobody wants to know.
        if self.receipts.outcomes.send(outcome).is_ok() {
            self.receipts.bell.ring();
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Outcome {
    ticket: u64,
    is_durable: bool,
}

/// Makes receipts.
#[derive(Debug, Clone)]
struct Receipts {
    outcomes: mpsc::Sender<Outcome>,
    bell: Bell,
}

impl Receipts {
    fn new(bell: Bell) -> (Self, mpsc::Receiver<Outcome>) {
        let (outcomes, receiver) = mpsc::channel();
        (Self { outcomes, bell }, receiver)
    }

    fn receipt(&self, ticket: u64) -> Receipt {
        Receipt { ticket, is_durable: false, receipts: self.clone() }
    }
}

/// Who sends.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    /// The agent's id, in each `_id`.
    pub(crate) agent: String,
    /// The host's name.
    pub(crate) host: String,
}

/// How much at once, and how soon.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Events in one block: it becomes one window.
    pub(crate) window: u32,
    /// Bytes in one block, but for one line more.
    pub(crate) block_bytes: usize,
    /// Blocks that are handed over and not durable.
    pub(crate) under_way: usize,
    /// And their bytes.
    pub(crate) bytes_under_way: usize,
    /// A line waits at most so long for others.
    pub(crate) linger: Duration,
    /// Between two looks at everything.
    pub(crate) scan_every: Duration,
    /// Bytes that one file may read before it is another's turn.
    pub(crate) quantum: usize,
    /// Files that are open at once.
    pub(crate) max_open: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 2_048,
            block_bytes: 1 << 20,
            // Short lines or small windows make small blocks: then their bytes are no limit.
            under_way: 64,
            // Twice what one fsync takes along, so that reading goes on while it runs.
            bytes_under_way: 8 << 20,
            linger: Duration::from_millis(20),
            scan_every: Duration::from_secs(1),
            quantum: 1 << 20,
            max_open: 4_096,
        }
    }
}

/// Tailing, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Tail {
    status: watch::Receiver<TailStatus>,
    stop: Arc<AtomicBool>,
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    /// Starts it. `marks` are all that the spool remembers. The error is a sentence.
    pub(crate) fn start(
        configs: Vec<TailConfig>,
        who: Who,
        mut limits: Limits,
        marks: &BTreeMap<Bytes, Bytes>,
        sink: Box<dyn Sink>,
        clock: Clock,
    ) -> Result<Self, String> {
        limits.max_open = limits.max_open.min(wake::raise_open_files());
        let bell = Bell::new().map_err(|e| format!("cannot make an eventfd: {e}"))?;
        let (told, status) = watch::channel(TailStatus::default());
        let stop = Arc::new(AtomicBool::new(false));
        let worker =
            Worker::new(configs, who, limits, marks, sink, Receipts::new(bell.clone()), Instant::now());
        let (stopping, waking) = (Arc::clone(&stop), bell.clone());
        let thread = std::thread::Builder::new()
            .name("tail".into())
            .spawn(move || {
                let told = Told { status: told, stop: stopping };
                run(worker, &Wait::new(waking), &told, &clock);
            })
            .map_err(|e| format!("cannot start the thread that tails: {e}"))?;
        Ok(Self { status, stop, bell, thread: Some(thread) })
    }

    /// What it says about itself: when it changes, at most five times a second.
    pub(crate) fn status(&self) -> watch::Receiver<TailStatus> {
        self.status.clone()
    }

    /// Ends it. What was not handed over yet is read again at the next start. Blocks for a few milliseconds.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that tails has panicked");
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.end();
    }
}

/// Between two steps while inotify tells of every line.
const SPACING: Duration = Duration::from_millis(10);
/// Between two reports.
const REPORT: Duration = Duration::from_millis(200);

/// The thread's side of what others see of it. However the thread ends, it is told.
struct Told {
    status: watch::Sender<TailStatus>,
    stop: Arc<AtomicBool>,
}

impl Told {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.is_stopped() {
            tracing::error!("the thread that tails has ended; nothing is read until the agent starts again");
            self.status.send_modify(|status| status.has_ended = true);
        }
    }
}

fn run(mut worker: Worker, wait: &Wait, told: &Told, clock: &Clock) {
    let mut watches = wake::Watches::new();
    let mut reported: Option<Instant> = None;
    while !told.is_stopped() {
        let began = Instant::now();
        let stepped = worker.step(began, clock.now());
        let mut pause = stepped.wait;
        if stepped.has_scanned {
            let followed = watches.follow(worker.folders());
            worker.unwatched(followed.unwatched);
            if followed.new > 0 {
                worker.scan_soon();
                pause = Duration::ZERO;
            }
        }
        let is_news = *told.status.borrow() != *worker.status();
        let is_due = reported.is_none_or(|at| began.saturating_duration_since(at) >= REPORT);
        if is_news && is_due {
            reported = Some(began);
            told.status.send_replace(worker.status().clone());
        } else if is_news {
            pause = pause.min(REPORT);
        }
        if pause.is_zero() {
            // There is more to do; what inotify has to say is taken in passing.
            wait.wait(Some(&watches), Duration::ZERO);
        } else {
            let short = SPACING.min(pause);
            // Only inotify is spaced out: who rings has an answer that reading may be waiting for.
            let has_rung = wait.wait(None, short);
            if !has_rung && !told.is_stopped() {
                wait.wait(Some(&watches), pause.saturating_sub(short));
            }
        }
        watches.drain(&mut worker);
    }
}

#[cfg(test)]
mod tests;
