//! The command line as it can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Steers every log to a live collector.
#[derive(Debug, Parser)]
#[command(name = "pikepole", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the directory: the service that knows which collectors are in service
    Directory(DirectoryArgs),
    /// Run the agent: on a proxy, renders a shipper's configuration from a roster and reloads it
    Agent(AgentArgs),
    /// See it work: a simulated fleet and a directory with its page, in one process
    Demo(DemoArgs),
    /// List the fleets of a directory and how they are
    Fleets(FleetsArgs),
    /// Show a fleet's roster, once or as it changes
    Roster(RosterArgs),
    /// Show who follows a fleet, and which dying collectors wait for whom
    Agents(AgentsArgs),
    /// Have a fleet's source asked again, and wait for the answer
    Refresh(RefreshArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct DirectoryArgs {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Only check the configuration
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    pub(crate) command: Option<AgentCommand>,
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only check the configuration and the templates
    #[arg(long, conflicts_with_all = ["once", "dry_run"])]
    pub(crate) check: bool,
    /// Render once, reload what needs it, and exit
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) once: bool,
    /// Only show what would change, as a unified diff
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl AgentArgs {
    /// Whether it runs until it is told to stop.
    pub(crate) const fn is_service(&self) -> bool {
        self.command.is_none() && !self.check && !self.once && !self.dry_run
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Show how the agent on this host is
    Status(AgentStatusArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AgentStatusArgs {
    /// Where the agent serves its status
    #[arg(long, value_name = "URL", env = "PIKEPOLE_AGENT", default_value = "http://127.0.0.1:8045")]
    pub(crate) url: String,
    /// For people or for scripts
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Where the page is served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8044")]
    pub(crate) listen: SocketAddr,
    /// Stop after this long, for example 30s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Makes the same things happen in the same order
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// How many times faster than a day in production things happen
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) speed: f64,
}

/// How to reach a directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Reach {
    /// The directory
    #[arg(long, value_name = "URL", env = "PIKEPOLE_DIRECTORY", default_value = "http://127.0.0.1:8044")]
    pub(crate) directory: String,
    /// The token, if the directory wants one
    #[arg(long, value_name = "TOKEN", env = "PIKEPOLE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FleetsArgs {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// For people or for scripts
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RosterArgs {
    /// The fleet
    pub(crate) fleet: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Go on showing each change
    #[arg(long)]
    pub(crate) watch: bool,
    /// For people, for scripts, or one sendable `ip:port` a line
    #[arg(long, value_enum, default_value_t = RosterFormat::Table)]
    pub(crate) format: RosterFormat,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AgentsArgs {
    /// The fleet
    pub(crate) fleet: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// For people or for scripts
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RefreshArgs {
    /// The fleet
    pub(crate) fleet: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) wait: Duration,
    /// For people or for scripts
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RosterFormat {
    Table,
    Json,
    Hosts,
}

fn duration(text: &str) -> Result<Duration, String> {
    pikepole_api::time::parse_duration(text).ok_or_else(|| "write a duration like 10s".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
