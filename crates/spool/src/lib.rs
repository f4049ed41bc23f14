//! The disk log between a source of events and those who take them: segmented, checksummed, crash-safe.

mod block;

pub use block::{Block, Encoding, Mark, NewBlock, Seq};
