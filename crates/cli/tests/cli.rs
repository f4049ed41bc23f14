//! The binary as people and supervisors use it: exit codes, output, signals.

#[path = "cli/config.rs"]
mod config;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/harness.rs"]
mod harness;
#[path = "cli/service.rs"]
mod service;
#[path = "cli/verbs.rs"]
mod verbs;
