//! One unit of delivery, on its way in and on its way out. What its body means is the caller's business.

use bytes::Bytes;

/// The place of a block in the log. Grows by one with each block, and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// How the body is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// As it came: it is compressed already.
    Stored = 1,
    /// The spool compresses it with zstd.
    Zstd = 2,
}

/// What a source remembers, kept in the log with its blocks, so that both are durable at the same moment:
/// the position in a file, for example. The last value of a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub key: Bytes,
    /// `None` forgets it.
    pub value: Option<Bytes>,
}

/// A block to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBlock {
    /// What the body is, in the caller's words. Never 0.
    pub kind: u8,
    /// Events in it.
    pub events: u32,
    /// Bytes of those events as the source counts them, for accounting.
    pub event_bytes: u64,
    /// When it was made, in milliseconds since 1970.
    pub at: u64,
    /// How to keep the body.
    pub encoding: Encoding,
    /// The body.
    pub body: Bytes,
    /// Becomes durable with the block.
    pub marks: Vec<Mark>,
}

/// A block that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its place.
    pub seq: Seq,
    /// As in [`NewBlock`].
    pub kind: u8,
    /// As in [`NewBlock`].
    pub events: u32,
    /// As in [`NewBlock`].
    pub event_bytes: u64,
    /// As in [`NewBlock`].
    pub at: u64,
    /// The body, as it was given.
    pub body: Bytes,
}
