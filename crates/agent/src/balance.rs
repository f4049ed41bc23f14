//! Carries the queue's blocks to whichever collectors live.
//!
//! Not the queue, which is above all collectors and durable; not the protocol, which is behind the seams
//! below: [`Source`], [`Dial`], [`Encode`], [`DeadLetters`].
//!
//! Invariant: a block is done only when all its events were acked or are durable dead letters.

mod planner;
pub mod status;
