//! What was given up, ever: counted before it is gone, kept in the state folder.
//!
//! Not the alert: that is in `guard.rs`.
//!
//! Invariants: what is about to be given up is written down first, so that a crash in between loses no count;
//! at the next start it shows whether it happened. That a file was deleted is therefore written down with the
//! next one: a disk that fills does not wait for two records of each. A state folder that cannot be written stops nothing, and
//! is said.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pikepole_api::time::Rfc3339;
use pikepole_fleet::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Policy;
use crate::state::Records;

const RECORD: &str = "guard.rec";

/// What one way of giving up has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Given {
    /// Files.
    pub files: u64,
    /// Bytes, as they were on the disk.
    pub bytes: u64,
    /// Lines.
    pub lines: u64,
    /// Files whose lines are an estimate.
    pub estimated: u64,
}

/// What the guard has done since its state folder is new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Files that were compressed.
    pub compressed_files: u64,
    /// Bytes that came free by that.
    pub compressed_bytes: u64,
    /// What was in rotated files.
    pub deleted: Given,
    /// What was in live files.
    pub truncated: Given,
    /// What went wrong.
    pub errors: u64,
    /// When something was given up last.
    pub last_loss: Option<Rfc3339>,
}

/// What is about to be given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loss {
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    pub(super) is_deleted: bool,
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) is_estimated: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    totals: Totals,
    pending: Option<Loss>,
}

/// The count; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    records: Records,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    /// There is more to it than is written down.
    is_behind: bool,
    error: Option<String>,
}

impl Ledger {
    /// Reads what was counted before. Blocking.
    pub(super) fn open(records: Records, now: Timestamp) -> Self {
        let kept: Kept = records.read(RECORD).unwrap_or_default();
        let ledger =
            Self(Arc::new(Shared { records, state: Mutex::new(State { kept, ..State::default() }) }));
        let pending = ledger.lock().kept.pending.take();
        if let Some(loss) = pending {
            if happened(&loss) {
                tracing::error!(path = %loss.path.display(), bytes = loss.bytes, lines = loss.lines, "given up before the agent was killed");
                ledger.done(loss, now);
            }
            ledger.keep();
        }
        ledger
    }

    #[cfg(test)]
    pub(super) fn has_pending(&self) -> bool {
        self.lock().kept.pending.is_some()
    }

    pub(super) fn totals(&self) -> Totals {
        self.lock().kept.totals
    }

    /// Why the count could not be kept last.
    pub(super) fn error(&self) -> Option<String> {
        self.lock().error.clone()
    }

    /// Notes what is about to be given up. Blocking.
    pub(super) fn intend(&self, loss: &Loss) {
        self.lock().kept.pending = Some(loss.clone());
        self.keep();
    }

    /// It did not come to it. Blocking.
    pub(super) fn spared(&self) {
        self.lock().kept.pending = None;
        self.keep();
    }

    /// It is gone. Blocking. [`flush`](Self::flush) follows, sooner or later.
    pub(super) fn done(&self, loss: Loss, now: Timestamp) {
        let is_deleted = loss.is_deleted;
        {
            let state = &mut *self.lock();
            state.is_behind = true;
            let kept = &mut state.kept;
            kept.pending = None;
            let given = if loss.is_deleted { &mut kept.totals.deleted } else { &mut kept.totals.truncated };
            given.files += 1;
            given.bytes = given.bytes.saturating_add(loss.bytes);
            given.lines = given.lines.saturating_add(loss.lines);
            given.estimated += u64::from(loss.is_estimated);
            kept.totals.last_loss = Some(Rfc3339(now));
        }
        // A live file grows again, and would look then as if nothing had been taken.
        if !is_deleted {
            self.keep();
        }
    }

    /// Writes down what was not yet. Blocking.
    pub(super) fn flush(&self) {
        if self.lock().is_behind {
            self.keep();
        }
    }

    /// A file takes fewer bytes. Blocking.
    pub(super) fn compressed(&self, saved: u64) {
        {
            let totals = &mut self.lock().kept.totals;
            totals.compressed_files += 1;
            totals.compressed_bytes = totals.compressed_bytes.saturating_add(saved);
        }
        self.keep();
    }

    /// Something went wrong. Kept with the next thing that is done.
    pub(super) fn failed(&self) {
        self.lock().kept.totals.errors += 1;
    }

    fn keep(&self) {
        let kept = self.lock().kept.clone();
        let error = self.0.records.write(RECORD, &kept).err();
        let state = &mut *self.lock();
        state.is_behind = error.is_some();
        state.error = error;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    /// By the policy that took it: its word, and what it took.
    pub fn by_policy(&self) -> [(&'static str, Given); 2] {
        [(Policy::DeleteOldestRotated.as_str(), self.deleted), (Policy::Truncate.as_str(), self.truncated)]
    }
}

/// Whether it came to it before the agent was killed. If in doubt, yes: a loss is rather told twice.
fn happened(loss: &Loss) -> bool {
    let is_same = |path: &Path| {
        let found = std::fs::symlink_metadata(path);
        found.is_ok_and(|m| m.ino() == loss.inode && (loss.is_deleted || m.len() >= loss.bytes))
    };
    !is_same(&loss.path)
}
