//! The agent, on every proxy: follows a fleet's roster, renders the configuration of any shipper from it
//! and reloads that, or carries the logs itself. It can guard the disk they are on.
//!
//! Not a parser or a store of logs: what is in them is the collectors' work.
//!
//! Invariant: a file that stands is replaced only by a whole one that its check accepted, and a revision is
//! called applied only when every shipper was reloaded with it.

mod apply;
mod balance;
mod clock;
mod command;
pub mod config;
mod dead;
mod frame;
mod guard;
#[cfg(test)]
mod inside;
mod log_path;
mod once;
mod output;
pub mod planner;
mod queue;
mod relay;
mod run;
mod state;
pub mod status;
mod tail;
mod template;
pub mod trouble;
mod wire;

pub use clock::Clock;
pub use config::Config;
pub use once::{Change, Pass, Passed, check_templates, dry_run, once};
pub use run::{RunError, run, run_watched};

/// What is wrong with the files that the log path's configuration names, as sentences.
pub fn check_log_path(config: &Config) -> Vec<String> {
    config.log_path.as_ref().map(log_path::check).unwrap_or_default()
}

/// What is likely to go wrong with the disk guard, as sentences. Blocking.
pub fn disk_guard_warnings(config: &Config) -> Vec<String> {
    guard::warnings(config)
}
