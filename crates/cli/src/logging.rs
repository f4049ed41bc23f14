//! Logs go to stderr: for people on a terminal, as JSON otherwise. Output goes to stdout.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::args::Command;

pub(crate) fn init(command: &Command) {
    // The client's verbs say what went wrong in their last sentence; services say it as it happens.
    let default = match command {
        Command::Directory(_) => "info",
        // One pass and the status say what they have to say on stdout.
        Command::Agent(args) if args.is_service() => "info",
        // The demo tells of its agents' trouble itself: who it is, and not what its own buttons make.
        Command::Demo(_) => "error,pikepole_agent::trouble=off",
        _ => "off",
    };
    let filter = EnvFilter::try_from_env("PIKEPOLE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
