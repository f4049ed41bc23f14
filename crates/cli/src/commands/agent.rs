//! `pikepole agent`: runs it, checks its configuration, renders once, or says what would change.

mod status;

use pikepole_agent::{Clock, Config};
use tokio::net::TcpListener;

use super::directory::bind;
use super::print;
use crate::Failure;
use crate::args::{AgentArgs, AgentCommand};
use crate::stop;

pub(crate) async fn run(args: AgentArgs) -> Result<(), Failure> {
    if let Some(AgentCommand::Status(args)) = args.command {
        return status::run(args).await;
    }
    let Some(path) = args.config else {
        return Err(Failure::WrongUse("name the configuration with -c FILE".into()));
    };
    let config = Config::load(&path).map_err(|e| Failure::WrongUse(e.to_string()))?;
    if args.check {
        let mistakes = pikepole_agent::check_templates(&config);
        if !mistakes.is_empty() {
            return Err(Failure::WrongUse(mistakes.join("\n")));
        }
        return print(&format!("{}: good, renders {} files\n", path.display(), config.renders.len()));
    }
    if args.dry_run {
        return dry_run(&config).await;
    }
    if args.once {
        return once(&config).await;
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
