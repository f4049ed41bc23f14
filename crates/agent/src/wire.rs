//! Blocks of the spool as windows on the wire: what is sent of a block, whole or in part.
//!
//! Not the protocol, and not the meaning of a line: those are `pikepole-lumberjack` and `tail/lines.rs`.
//!
//! Invariant: a block has the same events in the same order whenever it is read, so that a part of it can be
//! named by the places of its events.

/// Kind of a block: the zlib stream of a window's JSON frames. The number is on disks, and is never used again.
pub(crate) const WINDOW: u8 = 1;
