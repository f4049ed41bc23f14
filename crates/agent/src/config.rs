//! `agent.toml`, made into what is meant. [`Config`] cannot be invalid: everything that can be wrong is
//! found here, all of it at once, before anything is touched.

mod collectors;
mod guard;
mod log_path;
mod relay;
mod render;
mod size;
mod spool;
mod tail;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pikepole_api::client::{Client, Target, TlsFiles};
use pikepole_config::{ConfigError, Mistakes, Secret, Section};

pub use collectors::{CollectorsConfig, CollectorsTls, Order};
pub use guard::{Globs, GuardConfig, Policy};
pub use log_path::LogPathConfig;
pub use relay::{RelayConfig, RelayTls};
pub use render::{Command, RenderConfig, Source};
pub use spool::SpoolConfig;
pub use tail::{Part, Pattern, Start, TailConfig};

/// Longest id, in bytes: what the directory takes.
const MAX_ID: usize = 128;
/// Directories that are tried in turn.
const MAX_URLS: usize = 16;
/// Files one agent renders.
const MAX_RENDERS: usize = 64;

/// The whole configuration of an agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[directory]`.
    pub directory: DirectoryConfig,
    /// `[agent]`.
    pub agent: AgentConfig,
    /// `[[render]]`, in the order of the file.
    pub renders: Vec<RenderConfig>,
    /// `[disk_guard]`; `None`: no disk is watched.
    pub guard: Option<GuardConfig>,
    /// `[relay]`, `[[tail]]`, `[spool]`, `[collectors]`; `None`: the agent carries no logs itself.
    pub log_path: Option<LogPathConfig>,
}

/// Whom to follow.
#[derive(Debug, Clone)]
pub struct DirectoryConfig {
    /// The directories, in the order they are tried.
    pub urls: Vec<String>,
    /// The fleet.
    pub target: Target,
    /// The token, if the directories want one.
    pub token: Option<Secret>,
    /// An authority of one's own, and a certificate to show.
    pub tls: TlsFiles,
    /// How long a poll waits.
    pub wait: Duration,
}

/// Who the agent is.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Its stable id.
    pub id: String,
    /// The folder for what must survive a restart.
    pub state: PathBuf,
    /// Where the status is served; `None`: nowhere.
    pub status: Option<SocketAddr>,
}

impl Config {
    /// Reads a file, with the process's environment. `${HOSTNAME}` is the host's name even where the
    /// environment has no such variable: shells have it, services do not.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(vec![format!("cannot read {}: {e}", path.display())]))?;
        let host = |name: &str| (name == "HOSTNAME").then(host_name);
        let config = Self::parse(&text, |name| std::env::var(name).ok().or_else(|| host(name)))?;
        config.clients()?;
        Ok(config)
    }

    /// Reads a text; `env` answers `${NAME}`.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mistakes = Mistakes::default();
        let mut root = Section::root(pikepole_config::parse(text)?, &mistakes, &env);
        let directory = directory(root.section("directory"));
        let agent = agent(root.section("agent"));
        let renders: Vec<RenderConfig> =
            root.sections("render").into_iter().filter_map(render::render).collect();
        let log_path = log_path::log_path(&mut root, &agent.state, &env);
        let own = renders.iter().map(|render| &render.output).chain([&agent.state]);
        let own = own.chain(log_path.iter().map(|part| &part.spool.path)).cloned().collect();
        let guard = root.optional_section("disk_guard").and_then(|s| guard::guard(s, own));
        if renders.is_empty() && log_path.is_none() {
            root.mistake("render", "nothing to do: add [[render]], [relay] or [[tail]]");
        }
        if renders.len() > MAX_RENDERS {
            root.mistake("render", &format!("at most {MAX_RENDERS} of them"));
        }
        check_unique(&renders, &mistakes);
        root.finish();
        mistakes.into_result()?;
        let directory = directory.ok_or_else(|| ConfigError(vec!["directory: required".into()]))?;
        Ok(Self { directory, agent, renders, guard, log_path })
    }

    /// A client of each directory.
    pub fn clients(&self) -> Result<Vec<Client>, ConfigError> {
        let d = &self.directory;
        let token = d.token.as_ref().map(Secret::expose);
        let has_files = d.tls != TlsFiles::default();
        let client = |url: &String| match has_files {
            true => Client::with_tls(url, token, &d.tls),
            false => Client::new(url, token),
        };
        let wrong = |e: pikepole_api::client::ClientError| ConfigError(vec![format!("directory: {e}")]);
        d.urls.iter().map(client).collect::<Result<_, _>>().map_err(wrong)
    }

    /// The renders that share one reload command, by their place; one without reload is alone.
    pub fn units(&self) -> Vec<Vec<usize>> {
        let mut units: Vec<Vec<usize>> = Vec::new();
        for (index, render) in self.renders.iter().enumerate() {
            let same = |unit: &&mut Vec<usize>| {
                let first = unit.first().and_then(|i| self.renders.get(*i));
                render.reload.is_some() && first.is_some_and(|other| other.reload == render.reload)
            };
            match units.iter_mut().find(same) {
                Some(unit) => unit.push(index),
                None => units.push(vec![index]),
            }
        }
        units
    }
}

fn directory(mut s: Section<'_>) -> Option<DirectoryConfig> {
    let urls = s.texts("urls");
    if urls.is_empty() {
        s.mistake("urls", "required, for example [\"http://127.0.0.1:8044\"]");
    }
    if urls.len() > MAX_URLS {
        s.mistake("urls", &format!("at most {MAX_URLS} of them"));
    }
    for url in &urls {
        if !(url.starts_with("http://") || url.starts_with("https://")) || url.contains('@') {
            s.mistake("urls", "each must be like http://127.0.0.1:8044, without a password");
        }
    }
    let (fleet, dc, region) = (s.text("fleet"), s.text("dc"), s.text("region"));
    let target = match (fleet, dc, region) {
        (Some(fleet), None, None) => match fleet.parse::<pikepole_fleet::FleetName>() {
            Ok(name) => Some(Target::Fleet(name.to_string())),
            Err(error) => {
                s.mistake("fleet", &error.to_string());
                None
            }
        },
        (None, Some(dc), Some(region)) => Some(Target::Place { dc, region }),
        _ => {
            s.mistake("fleet", "name the fleet, or its dc and its region; one of the two");
            None
        }
    };
    let token = s.text("token").map(Secret::new);
    let ca = s.text("ca").map(Into::into);
    let identity = identity(&mut s);
    let wait = s.duration("wait", 1..=300).unwrap_or(Duration::from_secs(55));
    s.finish();
    Some(DirectoryConfig { urls, target: target?, token, tls: TlsFiles { ca, identity }, wait })
}

/// `cert` and `key`: who we are, in TLS.
fn identity(s: &mut Section<'_>) -> Option<(PathBuf, PathBuf)> {
    match (s.text("cert"), s.text("key")) {
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
        (None, None) => None,
        _ => {
            s.mistake("cert", "cert and key belong together");
            None
        }
    }
}

fn agent(mut s: Section<'_>) -> AgentConfig {
    let id = s.text("id").unwrap_or_else(host_name);
    if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
        s.mistake("id", &format!("must be 1 to {MAX_ID} printable bytes"));
    }
    let state = s.text("state").unwrap_or_else(|| "/var/lib/pikepole/agent".into()).into();
    let status = match s.text("status").as_deref() {
        None => Some(SocketAddr::from(([127, 0, 0, 1], 8045))),
        Some("off") => None,
        Some(text) => {
            let address = text.parse().ok();
            if address.is_none() {
                s.not("status", "an address like 127.0.0.1:8045, or \"off\"");
            }
            address
        }
    };
    s.finish();
    AgentConfig { id, state, status }
}

fn check_unique(renders: &[RenderConfig], mistakes: &Mistakes) {
    let outputs: BTreeSet<_> = renders.iter().map(|r| &r.output).collect();
    if outputs.len() < renders.len() {
        mistakes.add("render.output", "two of them write the same file");
    }
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
