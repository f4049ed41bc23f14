//! What tailing says about itself.
//!
//! Invariant: counters only grow while the process lives, and count what is durable; the rest is what was
//! true at the last scan.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::generation::Generation;

/// Paths whose errors are told.
const MAX_ERRORS: usize = 16;
/// What stands for the rest of them.
const OTHERS: &str = "others";

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TailStatus {
    /// One for each `[[tail]]`, in the order of the configuration.
    pub sections: Vec<SectionStatus>,
    /// Generations that are known, those that are gone included.
    pub generations: u64,
    /// Files that are open.
    pub open_files: u64,
    /// How many may be.
    pub max_open_files: u64,
    /// Blocks that the spool has not confirmed, the one that is being filled included.
    pub blocks_under_way: u64,
    /// Whether the thread that reads has ended without being told to: nothing is read until a restart.
    pub has_ended: bool,
    /// Whether reading waits for the spool.
    pub is_waiting: bool,
    /// Blocks the spool did not take; their lines were read again.
    pub refused: u64,
    /// Folders without inotify, or where others write over a network: what changes there is seen by the next
    /// scan, several times a second.
    pub unwatched_folders: u64,
    /// What concerns no section.
    pub errors: BTreeMap<String, String>,
}

/// One `[[tail]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SectionStatus {
    /// Its patterns.
    pub paths: Vec<String>,
    /// Files that are there or held open.
    pub files: u64,
    /// Lines that are durable in the spool.
    pub lines: u64,
    /// Their bytes, without line ends.
    pub bytes: u64,
    /// Of them, those that were cut or had no end.
    pub truncated_lines: u64,
    /// NULs before the beginning of files, which were skipped.
    pub nuls_skipped: u64,
    /// Files that were renamed while they were known.
    pub renamed: u64,
    /// Files that were truncated or rewritten in place.
    pub truncated: u64,
    /// Generations that were begun.
    pub new_generations: u64,
    /// Files that were found again elsewhere: copied, moved or compressed.
    pub found_again: u64,
    /// Compressed files that were read to their end.
    pub gz_read: u64,
    /// Files that were gone for so long that they were forgotten.
    pub expired: u64,
    /// Files that were forgotten, or were deleted and could not be read any further, and of which something is
    /// known not to have been read.
    pub lost_files: u64,
    /// Bytes that are known not to have been read of them; of compressed ones as they were on the disk. What a
    /// truncation took is not known in bytes.
    pub lost_bytes: u64,
    /// Bytes that were not read in files that are nowhere now; they may be found again.
    pub missing_bytes: u64,
    /// Files that are compressed, but not by gzip with the ending `.gz`: they are not read.
    pub unreadable_files: u64,
    /// Files that were not read to their end, so far as is known, and that may be one of those now.
    pub rest_unreadable: u64,
    /// Files that look like a copy of one that is still there; they wait until it is clear.
    pub held: u64,
    /// Truncated files whose rest is found nowhere yet.
    pub rest_missing: u64,
    /// Bytes on the disk that deleted files keep, because they are still read.
    pub pinned_deleted_bytes: u64,
    /// Bytes in files that were not read yet; those in compressed ones are not known.
    pub unread_bytes: u64,
    /// Errors since the start.
    pub errors_total: u64,
    /// The last error of each path that cannot be read now; if there are too many, one under `others`.
    pub errors: BTreeMap<String, String>,
}

impl SectionStatus {
    pub(super) fn failed(&mut self, path: &Path, error: &dyn Display) {
        self.errors_total += 1;
        let before = self.errors.clone();
        note(&mut self.errors, &before, path, error);
    }

    /// It can be read.
    pub(super) fn recovered(&mut self, path: &Path) {
        if !self.errors.is_empty() {
            self.errors.remove(&path.display().to_string());
        }
    }

    /// Counts what is lost with one that was deleted and cannot be read.
    pub(super) fn given_up(&mut self, generation: &Generation) {
        self.lost_files += 1;
        self.lost_bytes += generation.unread();
    }

    /// Counts what goes with a generation that is forgotten.
    pub(super) fn forgot(&mut self, generation: &Generation) {
        let was_read = generation.is_remembered || generation.position.offset > 0;
        self.expired += u64::from(was_read);
        let bytes = generation.missing();
        self.lost_bytes += bytes;
        let is_rest_lost = generation.is_overwritten && !generation.is_ignored;
        self.lost_files += u64::from(bytes > 0 || (is_rest_lost && was_read));
    }
}

/// Notes an error, and logs it if it is not one of those before.
pub(super) fn note(
    errors: &mut BTreeMap<String, String>,
    before: &BTreeMap<String, String>,
    path: &Path,
    error: &dyn Display,
) {
    let (path, error) = (path.display().to_string(), error.to_string());
    if !errors.contains_key(&path) && errors.len() >= MAX_ERRORS {
        let error = format!("{path}: {error}");
        if !errors.contains_key(OTHERS) && !before.contains_key(OTHERS) {
            tracing::warn!(error, "more tailed files cannot be read as they should than are told one by one");
        }
        errors.insert(OTHERS.into(), error);
        return;
    }
    if before.get(&path) != Some(&error) {
        tracing::warn!(path, error, "a tailed file cannot be read as it should");
    }
    errors.insert(path, error);
}
