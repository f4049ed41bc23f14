//! The disk guard: watches the disks that logs are on, tells early, and makes room as far as it may.
//!
//! Not a shipper and not logrotate: a disk with room is left alone.
//!
//! Invariant: no loss is silent. What is given up is counted before it is gone, and told.

mod forecast;
mod levels;
mod planner;
