//! The binary as Lambda runs it: its runtime API on one side, directories on the other.

#![expect(clippy::unwrap_used, reason = "helpers of tests: one that cannot go on ends the test")]

#[path = "lambda/cargo_lambda.rs"]
mod cargo_lambda;
#[path = "lambda/delivery.rs"]
mod delivery;
#[path = "lambda/live.rs"]
mod live;
#[path = "lambda/rig.rs"]
mod rig;
#[path = "lambda/secret.rs"]
mod secret;
#[path = "lambda/start.rs"]
mod start;
