//! Every limit of the protocol, with its unit and its reason.
//!
//! Not the limits of a server (connections, budgets): those are `server::Options`.
//!
//! Invariant: nothing is allocated because a peer declared a size; a buffer grows with the bytes that came.

use std::time::Duration;

/// What a peer may ask of us. [`Limits::default`] is right for Beats as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Events in one unit handed to the sink. Not refused above it, because a Beat would send the same window
    /// again for ever: a larger window comes in parts of so many events, and is acked when all are safe.
    pub window: u32,
    /// Bytes of events in one unit, for the same reason: the event that reaches it is the last of its part.
    pub unit: usize,
    /// Bytes of one event. Filebeat's own limit is 10 MiB, and it adds an envelope.
    pub event: usize,
    /// Bytes of one compressed frame, as they are on the wire. Beyond any Beat's batch.
    pub compressed: usize,
    /// Bytes that the compressed frames of a window may inflate to while they are denser than [`dense`](Self::dense).
    /// Larger windows of ordinary logs are streamed.
    pub inflated: u64,
    /// Inflated bytes per compressed byte, after the first MiB. Access logs reach 12; a bomb has 1,000.
    pub ratio: u32,
    /// Inflated bytes per compressed byte above [`inflated`](Self::inflated): logs stay below it, bombs don't.
    pub dense: u32,
    /// Pairs in one data frame of version 1. Its clients send a dozen.
    pub v1_pairs: u32,
    /// Bytes, and the time they may take, inside a window: a slow link passes, a peer that trickles does not.
    pub progress: (usize, Duration),
    /// Between two `ack 0` while a window is held. Beats give up after 30 s of silence, ours after 10 s.
    pub keep_alive: Duration,
    /// Compressed bytes of a window that are kept for `WindowEnd::verbatim`; above it there is none.
    pub verbatim: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 10_000,
            unit: 16 * MIB,
            event: 16 * MIB,
            compressed: 64 * MIB,
            inflated: 128 * MIB as u64,
            ratio: 200,
            dense: 20,
            v1_pairs: 1_000,
            progress: (16 * 1024, Duration::from_secs(5)),
            keep_alive: Duration::from_secs(3),
            verbatim: 8 * MIB,
        }
    }
}

const MIB: usize = 1024 * 1024;

/// Inflated bytes of a window before its ratio means anything: short runs of one byte are legitimate.
pub(crate) const RATIO_FROM: u64 = MIB as u64;

/// Compressed bytes in a row that may inflate to nothing. A compressor has a reason for a few at a time.
pub(crate) const BARREN: u64 = 64 * 1024;

/// Where the buffer of an inflater begins. Every call copies 32 KiB for zlib's window, so not much smaller;
/// every connection that compresses has one, so not larger.
pub(crate) const INFLATE_BUFFER: usize = 128 * 1024;

/// A buffer that had to grow for one large event is given back at the end of the window above this.
pub(crate) const KEEP_BUFFER: usize = 1024 * 1024;

/// Bytes of frames in a window that we encode: its length on the wire has 32 bits, and peers refuse far less.
pub(crate) const MAX_ENCODED: usize = 1024 * MIB;
