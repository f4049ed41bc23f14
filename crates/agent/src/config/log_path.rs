//! The parts of the configuration that belong to the log path, together.
//!
//! Invariant: where one of `[relay]`, `[[tail]]` and `[spool]` is, all of what they need is there, by default if
//! not by word. `[spool]` alone delivers what is left in it.

use std::path::{Path, PathBuf};

use pikepole_config::Section;

use super::{CollectorsConfig, RelayConfig, SpoolConfig, TailConfig, collectors, relay, spool, tail};

/// Sections of `[[tail]]`.
const MAX_TAILS: usize = 64;
/// Where the environment names the zone.
const ZONE: &str = "AWS_AVAILABILITY_ZONE";

/// What the agent carries, and how.
#[derive(Debug, Clone)]
pub struct LogPathConfig {
    /// What shippers send to.
    pub relay: Option<RelayConfig>,
    /// What is read, in the order of the file.
    pub tails: Vec<TailConfig>,
    /// Where it waits.
    pub spool: SpoolConfig,
    /// Who takes it.
    pub collectors: CollectorsConfig,
    /// The agent's own folder, for dead letters.
    pub state: PathBuf,
}

/// `None`: no part of it is there, or there are mistakes, which are noted.
pub(super) fn log_path(
    root: &mut Section<'_>,
    state: &Path,
    env: impl Fn(&str) -> Option<String>,
) -> Option<LogPathConfig> {
    let is_wanted = ["relay", "tail", "spool"].iter().any(|part| root.has(part));
    if !is_wanted {
        if root.remove("collectors") {
            root.mistake("collectors", "only with [relay], [[tail]] or [spool]");
        }
        return None;
    }
    let has_relay = root.has("relay");
    let relay = root.optional_section("relay").and_then(relay::relay);
    let sections = root.sections("tail");
    let count = sections.len();
    if count > MAX_TAILS {
        root.mistake("tail", &format!("at most {MAX_TAILS} of them"));
    }
    let tails: Vec<TailConfig> = sections.into_iter().filter_map(tail::tail).collect();
    let spool = spool::spool(root.section("spool"), state);
    let collectors = collectors::collectors(root.section("collectors"), env(ZONE));
    let is_whole = relay.is_some() == has_relay && tails.len() == count;
    is_whole.then(|| LogPathConfig { relay, tails, spool, collectors, state: state.into() })
}
