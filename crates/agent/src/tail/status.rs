//! What tailing says about itself.
//!
//! Invariant: counters only grow while the process lives, and count what is durable; the rest is what was
//! true at the last scan.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Paths whose errors are told.
const MAX_ERRORS: usize = 16;

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
    /// Blocks that the spool has not confirmed.
    pub blocks_under_way: u64,
    /// Whether reading waits for the spool.
    pub is_waiting: bool,
    /// Blocks the spool did not take; their lines were read again.
    pub refused: u64,
    /// Folders without inotify: what changes there is seen by the next scan.
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
    /// The last error of each path, as many as there is room for.
    pub errors: BTreeMap<String, String>,
}

impl SectionStatus {
    pub(super) fn failed(&mut self, path: &Path, error: &dyn Display) {
        self.errors_total += 1;
        let before = self.errors.clone();
        note(&mut self.errors, &before, path, error);
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
        return;
    }
    if before.get(&path) != Some(&error) {
        tracing::warn!(path, error, "a tailed file cannot be read as it should");
    }
    errors.insert(path, error);
}
