//! What is done next to a disk that is low. Pure: a listing, the free space and the policy in, one step out.
//!
//! Not I/O: whether a step can be done shows when it is done.
//!
//! Invariants: nothing that is protected is proposed, nor a file that is neither rotated nor live. Nothing
//! that is written is proposed but by `truncate`. No step is proposed once the goal is reached. What was
//! tried is not proposed again, so it ends.

use pikepole_fleet::Timestamp;

use crate::config::Policy;

/// Smaller files are not worth compressing, in bytes.
const LEAST_COMPRESSED: u64 = 64 * 1024;
/// The best that gzip does with logs: if there is no room for even that, it is not tried.
const BEST_RATIO: u64 = 20;

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Done with, unless somebody still writes it.
    Rotated,
    /// Written.
    Live,
    /// Not a log, as far as is known.
    Other,
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) class: Class,
    pub(super) is_protected: bool,
    /// Changed a moment ago.
    pub(super) is_fresh: bool,
    /// Somebody has it open, for writing.
    pub(super) is_written: bool,
    /// Somebody has it open, or may have.
    pub(super) is_open: bool,
    pub(super) is_compressed: bool,
    /// Compressing it was tried and did not go.
    pub(super) is_incompressible: bool,
    /// Was tried in this pass, well or not.
    pub(super) is_spent: bool,
    /// In bytes.
    pub(super) len: u64,
    /// Bytes on the disk: what comes free without it.
    pub(super) allocated: u64,
    pub(super) modified: Timestamp,
}

/// One thing to do, to the file at this place of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Compress(usize),
    Delete(usize),
    Truncate(usize),
}

/// The disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) free: u64,
    pub(super) min_free: u64,
    /// As much shall be free.
    pub(super) goal: u64,
}

impl Room {
    /// What compressing must leave free, in bytes. A policy that may do more does not wait for gzip when the
    /// disk is nearly full.
    pub(super) const fn floor(&self, policy: Policy) -> u64 {
        match policy {
            Policy::Alert | Policy::CompressRotated => self.min_free / 8,
            Policy::DeleteOldestRotated | Policy::Truncate => self.min_free / 2,
        }
    }

    /// Whether there is no time for anything but giving up.
    pub(super) const fn is_nearly_full(&self) -> bool {
        self.free < self.min_free / 2
    }

    /// What a compressed file may take, in bytes.
    pub(super) const fn budget(&self, policy: Policy) -> u64 {
        self.free.saturating_sub(self.floor(policy)) / 2
    }
}

/// What is done next; `None`: enough is free, or nothing can be done.
pub(super) fn next(policy: Policy, room: &Room, files: &[File]) -> Option<Step> {
    if room.free >= room.goal {
        return None;
    }
    let allowed =
        || files.iter().enumerate().filter(|(_, f)| !f.is_protected && !f.is_spent && f.allocated > 0);
    let settled = || allowed().filter(|(_, f)| f.class == Class::Rotated && !f.is_fresh && !f.is_written);
    let oldest = |(index, file): &(usize, &File)| (file.modified, *index);
    if policy >= Policy::CompressRotated {
        let fits = |f: &File| f.len >= LEAST_COMPRESSED && room.budget(policy) >= f.len / BEST_RATIO;
        let can = |f: &File| !f.is_open && !f.is_compressed && !f.is_incompressible && fits(f);
        let found = settled().filter(|(_, f)| can(f)).min_by_key(oldest);
        if let Some((index, _)) = found.filter(|_| room.budget(policy) > 0) {
            return Some(Step::Compress(index));
        }
    }
    if policy >= Policy::DeleteOldestRotated
        && let Some((index, _)) = settled().min_by_key(oldest)
    {
        return Some(Step::Delete(index));
    }
    if policy >= Policy::Truncate {
        // A rotated file that is still here is one that somebody writes.
        let found = allowed().filter(|(_, f)| f.class != Class::Other);
        let largest = found.max_by_key(|(index, f)| (f.allocated, std::cmp::Reverse(*index)));
        return largest.map(|(index, _)| Step::Truncate(index));
    }
    None
}

#[cfg(test)]
mod tests;
