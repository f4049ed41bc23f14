//! The spool's thread: takes in what came, writes, begins and ends commits, tells how things are. What goes out is in
//! `deliver`.
//!
//! Fsyncs run on a thread beside it, so that writing and reading go on. Invariants: appends are written and answered in the
//! order they came; nothing is tried again without a pause.

mod deliver;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use pikepole_spool::{AppendError, CommitJob, Full, Mark, Seq, Spool};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;

use super::inbox::{Append, Inbox, Reader, Taker, Work};
use super::order::Share;
use super::pace::Pace;
use super::{Hurry, Options, QueueError, QueueStats, backoff};
use crate::Clock;

/// The stats are told this often, and who waits for room looks for it.
const TELL: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(200);
/// So many commits are tried after a close.
const LAST_COMMITS: u32 = 5;

/// An append that is written and not durable.
struct Written {
    seq: Seq,
    answer: oneshot::Sender<Result<Seq, QueueError>>,
    _permit: OwnedSemaphorePermit,
}

/// Waits longer after each failure in a row.
#[derive(Default)]
struct Patience {
    failures: u32,
    until: Option<Instant>,
    last: Option<String>,
}

impl Patience {
    fn failed(&mut self, error: &dyn std::fmt::Display, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + backoff(self.failures));
        self.last = Some(error.to_string());
    }

    fn may(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    fn succeeded(&mut self) {
        *self = Self::default();
    }
}

pub(super) struct Worker {
    spool: Spool,
    clock: Clock,
    inbox: Arc<Inbox>,
    tell: watch::Sender<QueueStats>,
    syncer: mpsc::SyncSender<CommitJob>,
    pace: Pace,
    share: Share,
    appends: VecDeque<Append>,
    written: VecDeque<Written>,
    takers: VecDeque<Taker>,
    readers: VecDeque<Reader>,
    marks: BTreeMap<Bytes, Mark>,
    done: BTreeSet<Seq>,
    is_committing: bool,
    is_closing: bool,
    full: Option<Full>,
    writing: Patience,
    reading: Patience,
    /// How often a block could not be read.
    unread: BTreeMap<Seq, u32>,
    commits: u64,
    failures: u64,
    last_commits: u32,
    is_failing: bool,
    told: Option<Instant>,
    looked: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        spool: Spool,
        options: &Options,
        clock: Clock,
        inbox: Arc<Inbox>,
        tell: watch::Sender<QueueStats>,
    ) -> Result<Self, String> {
        let syncer = start_syncer(inbox.clone())?;
        let mut worker = Self {
            spool,
            clock,
            inbox,
            tell,
            syncer,
            pace: Pace::new(options.commit_every, options.commit_bytes),
            share: options.share,
            appends: VecDeque::new(),
            written: VecDeque::new(),
            takers: VecDeque::new(),
            readers: VecDeque::new(),
            marks: BTreeMap::new(),
            done: BTreeSet::new(),
            is_committing: false,
            is_closing: false,
            full: None,
            writing: Patience::default(),
            reading: Patience::default(),
            unread: BTreeMap::new(),
            commits: 0,
            failures: 0,
            last_commits: 0,
            is_failing: false,
            told: None,
            looked: None,
        };
        worker.tell(Instant::now());
        Ok(worker)
    }

    /// Until it is closed and all is durable.
    pub(super) fn run(mut self) -> Result<(), String> {
        loop {
            let work = self.inbox.take(self.patience(Instant::now()));
            let now = Instant::now();
            self.take_in(work, now);
            self.note_done(now);
            self.write(now);
            self.begin_commit(now);
            self.hand_out(now);
            if self.is_over() {
                return self.end();
            }
            self.tell(now);
        }
    }

    /// Is it closed, and is all durable that can be?
    fn is_over(&self) -> bool {
        let has_work = self.spool.needs_commit() || !self.appends.is_empty() || !self.marks.is_empty();
        self.is_closing && !self.is_committing && (!has_work || self.last_commits >= LAST_COMMITS)
    }

    /// How long nothing is to be done, if nothing comes in.
    fn patience(&self, now: Instant) -> Duration {
        let mut until = self.told.map_or(now, |told| told + TELL);
        if !self.is_committing {
            until = self.pace.due().map_or(until, |due| until.min(due));
        }
        if self.full.is_some() {
            until = until.min(self.looked.map_or(now, |looked| looked + LOOK));
        }
        for patience in [&self.writing, &self.reading] {
            until = patience.until.map_or(until, |again| until.min(again));
        }
        // Not zero: a deadline that nothing comes of must not become a busy loop.
        until.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    fn take_in(&mut self, work: Work, now: Instant) {
        if let Some(committed) = work.committed {
            self.end_commit(committed, now);
        }
        self.appends.extend(work.appends);
        self.takers.extend(work.takers);
        self.readers.extend(work.readers);
        self.marks.extend(work.marks);
        self.done.extend(work.done);
        for seq in work.given_back {
            self.spool.give_back(seq);
        }
        self.is_closing |= work.is_closing;
        if self.is_closing {
            self.takers.clear();
            self.pace.hurry(now);
        }
    }

    fn end_commit(&mut self, committed: pikepole_spool::Committed, now: Instant) {
        self.is_committing = false;
        match self.spool.commit_end(committed) {
            Ok(()) => {
                self.commits += 1;
                self.is_failing = false;
                // On a disk that fails or is full there is always something left to do.
                self.last_commits += u32::from(self.is_closing && self.appends.is_empty());
                self.pace.succeeded(self.spool.needs_commit(), now);
                if self.full.is_some() {
                    // It may have made room.
                    self.looked = None;
                    if self.spool.needs_commit() {
                        self.pace.hurry(now);
                    }
                }
            }
            Err(error) => self.commit_failed(&error, now),
        }
        let durable = self.spool.durable();
        while let Some(written) = self.written.pop_front_if(|written| written.seq < durable) {
            // Who does not wait any more does not need to know.
            let _gone = written.answer.send(Ok(written.seq));
        }
    }

    fn commit_failed(&mut self, error: &dyn std::fmt::Display, now: Instant) {
        tracing::error!(%error, "the spool cannot be made durable; trying again");
        self.failures += 1;
        self.is_failing = true;
        self.last_commits += u32::from(self.is_closing);
        self.pace.failed(now);
    }

    fn write(&mut self, now: Instant) {
        if !self.writing.may(now) || (self.full.is_some() && self.looked.is_some_and(|at| now < at + LOOK)) {
            return;
        }
        if !self.marks.is_empty() {
            match self.spool.mark(self.marks.values().cloned().collect()) {
                Ok(()) => {
                    self.marks.clear();
                    self.pace.noted(now);
                }
                Err(AppendError::Marks) => {
                    tracing::error!(marks = self.marks.len(), "too many marks; forgot some");
                    self.marks.clear();
                }
                Err(error) => return self.not_written(error, now),
            }
        }
        while let Some(append) = self.appends.front() {
            if self.is_closing && self.full.is_some() {
                break;
            }
            let len = append.new.body.len();
            let result = self.spool.append(append.new.clone());
            let refused = match result {
                Ok(_) => None,
                Err(AppendError::TooLarge(_)) => Some(QueueError::TooLarge),
                Err(AppendError::Marks) => Some(QueueError::Marks),
                Err(error) => return self.not_written(error, now),
            };
            let Some(Append { hurry, answer, _permit, .. }) = self.appends.pop_front() else { break };
            match (result, refused) {
                (Ok(seq), _) => {
                    self.pace.appended(len, hurry == Hurry::Soon, now);
                    self.written.push_back(Written { seq, answer, _permit });
                }
                (Err(_), refused) => {
                    // Who does not wait any more does not need to know.
                    let _gone = answer.send(Err(refused.unwrap_or(QueueError::Closed)));
                }
            }
        }
        (self.full, self.looked) = (None, None);
        self.writing.succeeded();
    }

    fn not_written(&mut self, error: AppendError, now: Instant) {
        match error {
            AppendError::Full(full) => {
                self.looked = Some(now);
                if self.full.replace(full).is_none() {
                    tracing::warn!(?full, "the spool is full; its sources wait");
                    // What is done and not written down yet may make room.
                    if self.spool.needs_commit() {
                        self.pace.hurry(now);
                    }
                }
                if self.is_closing {
                    self.appends.clear();
                }
            }
            AppendError::Busy => self.pace.hurry(now),
            error => {
                tracing::error!(%error, "the spool cannot be written; trying again");
                self.failures += 1;
                self.writing.failed(&error, now);
                if self.is_closing {
                    self.appends.clear();
                }
            }
        }
    }

    fn begin_commit(&mut self, now: Instant) {
        if self.is_committing
            || self.last_commits >= LAST_COMMITS
            || self.pace.due().is_none_or(|due| due > now)
        {
            return;
        }
        self.pace.begin(now);
        match self.spool.commit_begin() {
            Ok(None) => {}
            Ok(Some(job)) => match self.syncer.try_send(job) {
                Ok(()) => self.is_committing = true,
                // It lives as long as this does, and has one job at a time.
                Err(mpsc::TrySendError::Full(job) | mpsc::TrySendError::Disconnected(job)) => {
                    self.is_committing = true;
                    self.end_commit(job.run(), now);
                }
            },
            Err(error) => self.commit_failed(&error, now),
        }
    }

    /// Tells how things are, if it is time or something of note has changed.
    fn tell(&mut self, now: Instant) {
        let trouble = [self.spool.trouble(), self.writing.last.as_deref(), self.reading.last.as_deref()];
        let trouble = trouble.into_iter().flatten().next().map(String::from);
        let totals = *self.spool.totals();
        let is_news = {
            let known = self.tell.borrow();
            known.full != self.full
                || known.trouble != trouble
                || known.spool.totals.damaged != totals.damaged
                || known.spool.totals.dropped != totals.dropped
        };
        if !is_news && self.told.is_some_and(|told| now < told + TELL) {
            return;
        }
        self.told = Some(now);
        self.tell.send_replace(QueueStats {
            spool: self.spool.stats(),
            full: self.full,
            appends_waiting: self.appends.len(),
            taken: self.spool.taken(),
            commits: self.commits,
            failures: self.failures,
            trouble,
            at: Some(self.clock.now()),
        });
    }

    fn end(mut self) -> Result<(), String> {
        self.tell(Instant::now());
        let is_failing = self.is_failing;
        // Whoever waits still is told by the end of their channels.
        let Self { spool, .. } = self;
        let result = spool.close().map_err(|e| e.to_string());
        match result {
            Ok(()) if is_failing => Err("the spool's disk fails".to_string()),
            result => result,
        }
    }
}

/// Runs fsyncs, one after the other, until the worker is gone.
fn start_syncer(inbox: Arc<Inbox>) -> Result<mpsc::SyncSender<CommitJob>, String> {
    let (jobs, queue) = mpsc::sync_channel::<CommitJob>(1);
    let run = move || {
        while let Ok(job) = queue.recv() {
            let committed = job.run();
            inbox.put(|work| work.committed = Some(committed));
        }
    };
    let thread = std::thread::Builder::new().name("spool-sync".to_string()).spawn(run);
    thread.map(|_| jobs).map_err(|e| format!("cannot start the spool's sync thread: {e}"))
}
