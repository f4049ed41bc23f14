//! Every limit of the domain, each with its unit and reason.

use std::time::Duration;

/// Bytes in a name: generous for people, small in a label.
pub const MAX_NAME: usize = 128;

/// Characters in the name of an Auto Scaling group (AWS API reference).
pub const MAX_GROUP_NAME: usize = 255;

/// Characters in the name of a lifecycle hook (AWS API reference).
pub const MAX_HOOK_NAME: usize = 255;

/// Characters in the token of a lifecycle action: 36 by the AWS API reference, and room.
pub const MAX_HOOK_TOKEN: usize = 64;

/// Members of one fleet. An Auto Scaling group has a few hundred instances at the most; above this a
/// source is broken, and a roster would not fit the buffers of its readers.
pub const MAX_MEMBERS: usize = 10_000;

/// Facts about instances the overlay holds at once; beyond it the oldest rebalance facts go first.
pub const MAX_OVERLAY: usize = 10_000;

/// Changes of a roster that are remembered for the timeline.
pub const MAX_CHANGES: usize = 50;

/// Lives of instances that are told of at once, without those that are gone.
pub const MAX_LIVES: usize = 10_000;

/// Lives that have ended and are still told of, for the timeline.
pub const MAX_GONE: usize = 30;

/// Lifecycle actions of one instance that are remembered.
pub const MAX_HOOKS: usize = 16;

/// Revisions of a drain that are remembered: an agent that has applied an older one is a minute behind.
pub const MAX_CLEAR: usize = 256;

/// A launch that no describe lists so long after it was told of has failed, or was never one of ours.
pub const MAX_UNLISTED: Duration = Duration::from_secs(60);

/// A dying instance that a describe this long after the event still calls `InService` is not dying:
/// the hook was abandoned or the event was wrong.
pub const DYING_DOUBT: Duration = Duration::from_secs(600);

/// How long a rebalance recommendation keeps a member in the last row.
pub const REBALANCE_TTL: Duration = Duration::from_secs(900);

/// Consecutive reads that must tell the same implausible story before it is believed.
pub const HOLD_READS: u32 = 3;

/// And the least time they must span.
pub const HOLD_TIME: Duration = Duration::from_secs(60);

/// A shrink of fewer nodes than this is never held up: losing one is everyday life.
pub const HOLD_MIN_NODES: usize = 2;

/// While a roster is held, the source is asked again after at most this long.
pub const HOLD_RECHECK: Duration = Duration::from_secs(20);

/// Reads that must agree before an intended empty fleet (`DesiredCapacity` 0) is published.
pub const EMPTY_READS: u32 = 2;

/// An alert that is still true is repeated this often.
pub const ALERT_REPEAT: Duration = Duration::from_secs(3600);
