//! The binary `pikepole`: reads the command line, calls the parts, and decides the exit code.
//!
//! Exit codes: 0 done, 1 it failed, 2 wrong use or configuration.

mod args;
mod commands;
mod logging;
mod stop;
mod table;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Builder;

use args::{Args, Command};

/// How a command failed.
#[derive(Debug)]
enum Failure {
    /// It could not do its work: exit code 1.
    Failed(anyhow::Error),
    /// It was used or configured wrongly: exit code 2.
    WrongUse(String),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn main() -> ExitCode {
    let args = Args::parse(); // exits with 2 by itself
    logging::init(&args.command);
    // Everything that speaks TLS uses this one library; a second call would be the only way to fail.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS library was installed before");
    }
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough: `pikepole roster f | head -1` is no failure.
        Err(Failure::Failed(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            complain(&format!("{error:#}"));
            ExitCode::from(1)
        }
        Err(Failure::WrongUse(what)) => {
            complain(&what);
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    if let Command::Completions { shell } = command {
        return commands::completions(shell);
    }
    if let Command::Agent(args) = command {
        let job = commands::agent::Job::read(args)?;
        // A thread for each of a proxy's cores would only be memory to one that renders now and then.
        let mut runtime = match job.is_busy() {
            true => Builder::new_multi_thread(),
            false => Builder::new_current_thread(),
        };
        return block_on(&mut runtime, job.run());
    }
    block_on(&mut Builder::new_multi_thread(), async {
        match command {
            Command::Directory(args) => Box::pin(commands::directory::run(args)).await,
            Command::Demo(args) => commands::demo::run(args).await,
            Command::Fleets(args) => commands::fleets(args).await,
            Command::Roster(args) => commands::roster::run(args).await,
            Command::Agents(args) => commands::agents::run(args).await,
            Command::Refresh(args) => commands::refresh(args).await,
            Command::Agent(_) | Command::Completions { .. } => unreachable!("handled above"),
        }
    })
}

fn block_on(runtime: &mut Builder, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = runtime.enable_all().build()?;
    let done = runtime.block_on(work);
    // Connections that did not finish in their grace are cut here.
    runtime.shutdown_background();
    done
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed, for people")]
fn complain(what: &str) {
    for line in what.lines() {
        eprintln!("pikepole: {line}");
    }
}
