//! `pikepole agent`: runs it, checks its configuration, renders once, or says what would change.

mod status;

use std::path::{Path, PathBuf};

use pikepole_agent::{Clock, Config};
use tokio::net::TcpListener;

use super::directory::bind;
use super::print;
use crate::Failure;
use crate::args::{AgentArgs, AgentCommand, AgentStatusArgs};
use crate::stop;

/// What the command is about, before there is a runtime.
pub(crate) enum Job {
    /// `pikepole agent status`.
    Status(AgentStatusArgs),
    /// Everything else is about a configuration.
    Agent { args: AgentArgs, path: PathBuf, config: Box<Config> },
}

impl Job {
    /// Reads the configuration.
    pub(crate) fn read(mut args: AgentArgs) -> Result<Self, Failure> {
        if let Some(AgentCommand::Status(args)) = args.command {
            return Ok(Self::Status(args));
        }
        let Some(path) = args.config.take() else {
            return Err(Failure::WrongUse("name the configuration with -c FILE".into()));
        };
        let config = Config::load(&path).map_err(|e| Failure::WrongUse(e.to_string()))?;
        if (args.once || args.dry_run) && config.renders.is_empty() {
            let what = format!("{} has no [[render]], so there is nothing to render", path.display());
            return Err(Failure::WrongUse(what));
        }
        Ok(Self::Agent { args, path, config: Box::new(config) })
    }

    /// Whether it keeps more than one core busy: an agent that only renders does so now and then.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Agent { config, .. } if config.log_path.is_some())
    }

    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Status(args) => status::run(args).await,
            Self::Agent { args, path, config } => run(&args, &path, *config).await,
        }
    }
}

async fn run(args: &AgentArgs, path: &Path, config: Config) -> Result<(), Failure> {
    if args.check {
        return check(path, &config);
    }
    if args.dry_run {
        return dry_run(&config).await;
    }
    if args.once {
        return once(&config).await;
    }
    for warning in pikepole_agent::disk_guard_warnings(&config) {
        tracing::warn!(warning);
    }
    let stop = stop::requested();
    let listener: Option<TcpListener> = config.agent.status.map(bind).transpose()?;
    if let Some(listener) = &listener {
        let listen = listener.local_addr()?;
        tracing::info!(%listen, "agent's status");
    }
    pikepole_agent::run(config, listener, Clock::system(), stop).await?;
    tracing::info!("agent stopped");
    Ok(())
}

fn check(path: &Path, config: &Config) -> Result<(), Failure> {
    let mut mistakes = pikepole_agent::check_templates(config);
    mistakes.extend(pikepole_agent::check_log_path(config));
    if !mistakes.is_empty() {
        return Err(Failure::WrongUse(mistakes.join("\n")));
    }
    for warning in pikepole_agent::disk_guard_warnings(config) {
        crate::complain(&format!("warning: {warning}"));
    }
    let carries = if config.log_path.is_some() { ", carries logs" } else { "" };
    print(&format!("{}: good, renders {} files{carries}\n", path.display(), config.renders.len()))
}

async fn dry_run(config: &Config) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for change in pikepole_agent::dry_run(config).await? {
        match change.diff {
            Ok(diff) => print(&diff)?,
            Err(error) => failures.push(format!("{}: {error}", change.output)),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("\n")).into()) }
}

async fn once(config: &Config) -> Result<(), Failure> {
    // Dropped on a signal, with whatever program it runs; the next pass does what is owed.
    let passed = tokio::select! {
        passed = pikepole_agent::once(config) => passed?,
        () = stop::requested() => return Err(anyhow::anyhow!("stopped before it was done").into()),
    };
    if let Some(why) = &passed.from_disk {
        crate::complain(&format!("{why}; the last good roster is used"));
    }
    let mut failures = Vec::new();
    for unit in &passed.units {
        let outputs = unit.outputs.join(" ");
        if let Some((kind, detail)) = &unit.result.failure {
            failures.push(format!("{outputs}: {}: {detail}", kind.as_str()));
            continue;
        }
        let what = match (unit.result.written, unit.result.reloaded) {
            (true, true) => "written, reloaded",
            (true, false) => "written",
            (false, true) => "reloaded",
            (false, false) => "unchanged",
        };
        print(&format!("{outputs}: {what}, revision {}\n", passed.revision))?;
    }
    if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("\n")).into()) }
}
