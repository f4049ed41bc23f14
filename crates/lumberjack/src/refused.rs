//! Why a peer is not listened to any longer.
//!
//! There is no way back into step after any of these: the connection ends. Nothing of an event is in them.

use thiserror::Error;

/// The peer broke the protocol or a limit; its connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// A frame that begins with neither `1` nor `2`: often TLS sent to a plain port, or HTTP.
    #[error("a frame begins with byte {0:#04x}, which is no version of Lumberjack; is the peer using TLS?")]
    UnknownVersion(u8),
    /// A type of frame that does not exist, or not in this direction.
    #[error("frame type {0:#04x} is not one that may come here")]
    UnknownFrame(u8),
    /// A frame in a version that is not the window's.
    #[error("a frame has another version than its window")]
    MixedVersions,
    /// An event, or compressed frames, without a window that announced them.
    #[error("frame type {0:#04x} came outside of a window")]
    OutsideWindow(u8),
    /// A window before the last one was complete.
    #[error("a window began while {0} events of the last one were missing")]
    PrematureWindow(u32),
    /// More events than the window announced.
    #[error("more events came than the window announced")]
    BeyondWindow,
    /// A compressed frame in a compressed frame.
    #[error("a compressed frame is inside of another one")]
    Nested,
    /// An event above `Limits::event`.
    #[error("an event has {size} bytes or more, and {limit} are allowed")]
    EventTooLarge {
        /// Bytes that are known by now.
        size: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// A compressed frame above `Limits::compressed`.
    #[error("a compressed frame has {size} bytes, and {limit} are allowed")]
    CompressedTooLarge {
        /// Bytes declared.
        size: u32,
        /// Bytes allowed.
        limit: usize,
    },
    /// A window that inflates beyond `Limits::ratio`, or beyond `Limits::inflated` and `Limits::dense`.
    #[error("{compressed} compressed bytes inflate to {inflated} or more, which no log does")]
    TooDense {
        /// Bytes taken from compressed frames of the window.
        compressed: u64,
        /// Bytes they became.
        inflated: u64,
    },
    /// A stream that goes on and on, and gives nothing.
    #[error("{compressed} compressed bytes in a row inflate to nothing")]
    Barren {
        /// How many.
        compressed: u64,
    },
    /// A data frame above `Limits::v1_pairs`.
    #[error("a data frame has {pairs} pairs, and {limit} are allowed")]
    TooManyPairs {
        /// Pairs declared.
        pairs: u32,
        /// Pairs allowed.
        limit: u32,
    },
    /// Not zlib, or zlib whose checksum is wrong.
    #[error("a compressed frame is not a valid zlib stream")]
    CorruptStream,
    /// A compressed frame that is over before its zlib stream is.
    #[error("a compressed frame is over before its zlib stream is")]
    UnfinishedStream,
    /// A zlib stream that is over before its compressed frame is.
    #[error("bytes follow the zlib stream of a compressed frame")]
    TrailingBytes,
    /// A zlib stream that is over in the middle of a frame.
    #[error("a compressed frame is over in the middle of an event")]
    TornFrame,
    /// A window that makes no progress.
    #[error("a window was begun, and less than {bytes} bytes of it came in {seconds} s")]
    Stalled {
        /// Bytes expected.
        bytes: usize,
        /// Seconds waited.
        seconds: u64,
    },
    /// An ack for more events than the oldest window has.
    #[error("{ack} events were acked, and the oldest window has {events}")]
    AckTooHigh {
        /// What was acked.
        ack: u32,
        /// Events of the oldest window.
        events: u32,
    },
    /// An ack while nothing waits for one.
    #[error("{0} events were acked while nothing was sent")]
    AckUnasked(u32),
    /// A partial ack below an earlier one of the same window.
    #[error("{ack} events were acked after {before} of the same window")]
    AckBackwards {
        /// What was acked.
        ack: u32,
        /// What had been acked.
        before: u32,
    },
}

impl Refused {
    /// A stable word for the label of a counter.
    pub fn word(&self) -> &'static str {
        match self {
            Self::UnknownVersion(_) => "unknown_version",
            Self::UnknownFrame(_) => "unknown_frame",
            Self::MixedVersions => "mixed_versions",
            Self::OutsideWindow(_) => "outside_window",
            Self::PrematureWindow(_) => "premature_window",
            Self::BeyondWindow => "beyond_window",
            Self::Nested => "nested",
            Self::EventTooLarge { .. } => "event_too_large",
            Self::CompressedTooLarge { .. } => "compressed_too_large",
            Self::TooDense { .. } => "too_dense",
            Self::Barren { .. } => "barren",
            Self::TooManyPairs { .. } => "too_many_pairs",
            Self::CorruptStream => "corrupt_stream",
            Self::UnfinishedStream => "unfinished_stream",
            Self::TrailingBytes => "trailing_bytes",
            Self::TornFrame => "torn_frame",
            Self::Stalled { .. } => "stalled",
            Self::AckTooHigh { .. } => "ack_too_high",
            Self::AckUnasked(_) => "ack_unasked",
            Self::AckBackwards { .. } => "ack_backwards",
        }
    }
}
