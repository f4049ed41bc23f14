//! The agent, on every proxy: follows a fleet's roster, renders the configuration of any shipper from it
//! and reloads that.
//!
//! Not a shipper: in this version it carries no logs itself. It can guard the disk they are on.
//!
//! Invariant: a file that stands is replaced only by a whole one that its check accepted, and a revision is
//! called applied only when every shipper was reloaded with it.

mod apply;
#[expect(dead_code, unused_imports, reason = "nothing runs it yet")]
mod balance;
mod clock;
mod command;
pub mod config;
mod frame;
mod guard;
mod once;
mod output;
pub mod planner;
mod run;
mod state;
pub mod status;
mod template;
pub mod trouble;

pub use clock::Clock;
pub use config::Config;
pub use once::{Change, Pass, Passed, check_templates, dry_run, once};
pub use run::{RunError, run};
