//! What may be chosen, and what is made of it.

use crate::marks::MAX_MARK_BYTES;

/// When the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Nothing more is taken until there is room.
    Block,
    /// The oldest segment is given up, and counted.
    DropOldest,
}

/// What a commit means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: survives a power cut.
    Fsync,
    /// With the system: survives the end of this process alone.
    None,
}

/// How a spool is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes that the folder may hold.
    pub max_bytes: u64,
    /// Bytes of the disk that are left to others.
    pub min_free: u64,
    /// What happens when either is reached.
    pub when_full: WhenFull,
    /// What a commit means.
    pub durability: Durability,
    /// A segment ends after so many bytes; with a small `max_bytes` after an eighth of that: room comes free by whole
    /// segments, so there must be several.
    pub segment_bytes: u64,
    /// Level of zstd.
    pub level: i32,
    /// Bytes of blocks that are kept in memory because they were appended last.
    pub cache_bytes: usize,
    /// Bytes that may be appended between two commits. They are kept in memory too, in case an fsync fails.
    pub uncommitted_bytes: usize,
    /// Room on the disk that is held for noting what is done.
    pub reserve_bytes: u64,
}

/// At a start, what becomes of what the device cannot give back (`EIO` and its like). Any other error fails the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It fails the start: perhaps it can be read the next time.
    Refuse,
    /// It counts as damage: it was tried often enough.
    GiveUp,
}

/// Bytes of one body; so much is allocated to read it.
pub(crate) const MAX_BODY: usize = 64 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 30,
            min_free: 1 << 30,
            when_full: WhenFull::Block,
            durability: Durability::Fsync,
            segment_bytes: 64 << 20,
            level: 1,
            cache_bytes: 8 << 20,
            uncommitted_bytes: 32 << 20,
            reserve_bytes: 4 << 20,
        }
    }
}

impl Options {
    /// Bytes that all marks may have: a checkpoint has them, and with it two in the reserve must leave room for blocks.
    pub(crate) fn mark_bytes(&self) -> usize {
        usize::try_from(self.max_bytes / 8).map_or(MAX_MARK_BYTES, |bytes| bytes.min(MAX_MARK_BYTES))
    }

    /// Offsets are 32 bits wide: a segment, with what is appended while it is being sealed, stays far below that.
    pub(crate) fn bounded(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.min(self.max_bytes / 8).clamp(1024, 1 << 30);
        self.reserve_bytes = self.reserve_bytes.min(self.max_bytes / 8);
        self.uncommitted_bytes = self.uncommitted_bytes.clamp(1024, 1 << 30);
        self
    }
}
