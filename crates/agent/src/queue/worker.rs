//! The spool's thread: takes in what came, writes, begins and ends commits, tells how things are. What goes out is in
//! `deliver`.
//!
//! Fsyncs and walks over segments run on threads beside it, so that writing and reading go on. Invariants: appends are
//! written and answered in the order they came; nothing is tried again without a pause.

mod deliver;
mod threads;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use pikepole_spool::{AppendError, CommitJob, Full, IndexJob, Mark, Seq, Spool};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;

use super::inbox::{Append, Inbox, Reader, Taker, Work};
use super::order::Share;
use super::pace::{Pace, Patience};
use super::{Hurry, Options, QueueError, QueueStats};
use crate::Clock;
use deliver::Unread;

/// The stats are told this often, and who waits for room looks for it.
const TELL: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(200);
/// So many commits are tried after a close.
const LAST_COMMITS: u32 = 5;
/// An fsync that runs so long is told: the disk hangs.
const LONG: Duration = Duration::from_secs(5);
/// That marks were refused is told for so long.
const REFUSED: Duration = Duration::from_secs(60);

/// An append that is written and not durable.
struct Written {
    seq: Seq,
    answer: oneshot::Sender<Result<Seq, QueueError>>,
    _permit: OwnedSemaphorePermit,
}

pub(super) struct Worker {
    spool: Spool,
    clock: Clock,
    inbox: Arc<Inbox>,
    tell: watch::Sender<QueueStats>,
    syncer: mpsc::SyncSender<CommitJob>,
    indexer: mpsc::SyncSender<IndexJob>,
    pace: Pace,
    share: Share,
    appends: VecDeque<Append>,
    written: VecDeque<Written>,
    takers: VecDeque<Taker>,
    readers: VecDeque<Reader>,
    marks: BTreeMap<Bytes, Mark>,
    done: BTreeSet<Seq>,
    /// What is done and cannot be noted now.
    done_later: BTreeSet<Seq>,
    /// Since when an fsync runs.
    committing: Option<Instant>,
    is_closing: bool,
    full: Option<Full>,
    writing: Patience,
    noting: Patience,
    /// Blocks that could not be read.
    unread: BTreeMap<Seq, Unread>,
    /// So many of them are held aside.
    held: usize,
    /// Reads that may fail in this turn.
    may_fail: usize,
    /// The block whose segment is being walked over.
    indexing: Option<Seq>,
    read_trouble: Option<String>,
    /// When marks were refused last.
    refused: Option<Instant>,
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
        let syncer = threads::start_syncer(inbox.clone())?;
        let indexer = threads::start_indexer(inbox.clone())?;
        let mut worker = Self {
            spool,
            clock,
            inbox,
            tell,
            syncer,
            indexer,
            pace: Pace::new(options.commit_every, options.commit_bytes),
            share: options.share,
            appends: VecDeque::new(),
            written: VecDeque::new(),
            takers: VecDeque::new(),
            readers: VecDeque::new(),
            marks: BTreeMap::new(),
            done: BTreeSet::new(),
            done_later: BTreeSet::new(),
            committing: None,
            is_closing: false,
            full: None,
            writing: Patience::default(),
            noting: Patience::default(),
            unread: BTreeMap::new(),
            held: 0,
            may_fail: 0,
            indexing: None,
            read_trouble: None,
            refused: None,
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
            if self.turn(work, Instant::now()) {
                return self.end();
            }
        }
    }

    /// Does what is to be done. True: that was all, for good.
    fn turn(&mut self, work: Work, now: Instant) -> bool {
        self.take_in(work, now);
        self.note_done(now);
        self.write(now);
        self.begin_commit(now);
        self.answer();
        self.hand_out(now);
        let is_over = self.is_over();
        if !is_over {
            self.tell(now);
        }
        is_over
    }

    /// Is it closed, and is all durable that can be?
    fn is_over(&self) -> bool {
        self.is_closing
            && self.committing.is_none()
            && (self.last_commits >= LAST_COMMITS
                || (self.appends.is_empty() && self.marks.is_empty() && !self.spool.needs_commit()))
    }

    /// How long nothing is to be done, if nothing comes in.
    fn patience(&self, now: Instant) -> Duration {
        let mut until = self.told.map_or(now, |told| told + TELL);
        if self.committing.is_none() {
            until = self.pace.due().map_or(until, |due| until.min(due));
        }
        if self.full.is_some() {
            until = until.min(self.looked.map_or(now, |looked| looked + LOOK));
        }
        for again in [self.writing.until, self.noting.until, self.next_read(now)] {
            until = again.map_or(until, |again| until.min(again));
        }
        // Not zero: a deadline that nothing comes of must not become a busy loop.
        until.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    fn take_in(&mut self, work: Work, now: Instant) {
        if let Some(committed) = work.committed {
            self.end_commit(committed, now);
        }
        if let Some(indexed) = work.indexed {
            self.end_index(indexed, now);
        }
        if work.has_refused_marks {
            self.refused = Some(now);
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
            self.pace.end(now);
        }
    }

    fn end_commit(&mut self, committed: pikepole_spool::Committed, now: Instant) {
        self.committing = None;
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
    }

    /// Answers what is durable.
    fn answer(&mut self) {
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
                    tracing::error!(
                        marks = self.marks.len(),
                        "too many marks, or too large ones; forgot them"
                    );
                    self.refused = Some(now);
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
                Err(AppendError::Marks) => {
                    self.refused = Some(now);
                    Some(QueueError::Marks)
                }
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
            }
            AppendError::Busy => {
                // Whoever waits for room looks for it when the commit has ended.
                self.looked = self.full.and(Some(now));
                return self.pace.hurry(now);
            }
            error => {
                tracing::error!(%error, "the spool cannot be written; trying again");
                self.failures += 1;
                self.writing.failed(&error, now);
            }
        }
        if self.is_closing {
            // Who sent them sends them again after the next start.
            self.appends.clear();
            self.marks.clear();
        }
    }

    fn begin_commit(&mut self, now: Instant) {
        if self.committing.is_some()
            || self.last_commits >= LAST_COMMITS
            || self.pace.due().is_none_or(|due| due > now)
        {
            return;
        }
        self.pace.begin(now);
        match self.spool.commit_begin() {
            Ok(None) => {}
            Ok(Some(job)) => match self.syncer.try_send(job) {
                Ok(()) => self.committing = Some(now),
                // It lives as long as this does, and has one job at a time.
                Err(mpsc::TrySendError::Full(job) | mpsc::TrySendError::Disconnected(job)) => {
                    self.end_commit(job.run(), now);
                }
            },
            Err(error) => self.commit_failed(&error, now),
        }
    }

    /// Tells how things are, if it is time or something of note has changed.
    fn tell(&mut self, now: Instant) {
        let trouble = self.trouble(now);
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

    /// What is wrong now, the worst first.
    fn trouble(&self, now: Instant) -> Option<String> {
        let syncing = self.committing.map(|since| now.saturating_duration_since(since));
        let hangs = syncing.filter(|time| *time >= LONG);
        let hangs = hangs.map(|time| format!("an fsync has been running for {} s", time.as_secs()));
        let refused = self.refused.is_some_and(|at| now < at + REFUSED);
        let refused = refused.then_some(
            "positions in files take more room than the spool has for them: raise [spool] max_bytes, or follow fewer files",
        );
        let others = [
            self.spool.trouble(),
            self.writing.last.as_deref(),
            self.read_trouble.as_deref(),
            self.noting.last.as_deref(),
            refused,
        ];
        hangs.or_else(|| others.into_iter().flatten().next().map(String::from))
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

#[cfg(test)]
mod tests;
