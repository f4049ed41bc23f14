//! The binary as people and supervisors use it: exit codes, output, signals.

#![expect(clippy::unwrap_used, reason = "helpers of tests: one that cannot go on ends the test")]

#[path = "cli/agent.rs"]
mod agent;
#[path = "cli/config.rs"]
mod config;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/guard.rs"]
mod guard;
#[path = "cli/harness.rs"]
mod harness;
#[cfg(feature = "aws")]
#[path = "cli/kill.rs"]
mod kill;
#[path = "cli/logs.rs"]
mod logs;
#[path = "cli/page.rs"]
mod page;
#[path = "cli/service.rs"]
mod service;
#[path = "cli/verbs.rs"]
mod verbs;
