//! The disk log between a source of events and those who take them: segmented, checksummed, crash-safe.
//!
//! `docs/spool-format.md` has its bytes. Layers that do not know each other: `files`, `frame` and `walk` (heads, records),
//! `state` (what they mean), `spool`. No runtime, no clock, no thread.
//!
//! Invariant: what was committed and is not finished comes back whole, after any crash; what damage takes is counted.

mod block;
mod cache;
mod codec;
pub mod files;
mod frame;
mod marks;
mod options;
mod quarantine;
mod recover;
mod spool;
mod state;
mod walk;

pub use block::{Block, Encoding, Mark, NewBlock, Seq};
pub use marks::{MAX_MARK, MAX_MARK_BYTES, MAX_MARKS};
pub use options::{Durability, Options, Unreadable, WhenFull};
pub use recover::{OpenError, Recovered};
pub use spool::{
    AppendError, CommitError, CommitJob, Committed, Full, IndexJob, Indexed, Order, ReadError, Spool, Stats,
};
pub use state::{Counts, Totals};
