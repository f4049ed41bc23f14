//! One pass without staying: `--once` renders and reloads as needed, `--dry-run` only says what would change.
//!
//! Invariants: a dry run writes nothing and runs nothing. One pass does not count as an agent: nobody waits
//! for it when a collector dies.

use std::sync::Arc;
use std::time::Duration;

use pikepole_api::client::{Event, Watch};
use pikepole_api::v1;
use tokio::time::{Instant, timeout_at};

use crate::apply::Applier;
use crate::config::{Config, Source};
use crate::output::Place;
use crate::planner::{Finished, sendable};
use crate::run::RunError;
use crate::state::{Kept, State, peek};
use crate::template::{Template, variables};
use crate::trouble::Kind;

/// For a directory to answer; then the roster on disk is used.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// Rounds through all directories.
const ROUNDS: usize = 2;
/// Longest text that is compared line by line, in bytes.
const MAX_DIFF: usize = 4 * 1024 * 1024;

/// What one pass came to, for one unit.
#[derive(Debug)]
pub struct Pass {
    /// The files.
    pub outputs: Vec<String>,
    /// What was done.
    pub result: Finished,
}

/// What one pass came to.
#[derive(Debug)]
pub struct Passed {
    /// The revision.
    pub revision: u64,
    /// Why the roster on disk was used, if no directory answered.
    pub from_disk: Option<String>,
    /// Unit by unit.
    pub units: Vec<Pass>,
}

/// What would change in one file.
#[derive(Debug)]
pub struct Change {
    /// The file.
    pub output: String,
    /// A unified diff, empty if nothing would change; or why it cannot be rendered.
    pub diff: Result<String, String>,
}

/// Renders once, and reloads what needs it.
pub async fn once(config: &Config) -> Result<Passed, RunError> {
    let state = State::open(&config.agent.state).map_err(RunError::Setup)?;
    let (roster, from_disk) = roster(config, state.roster(&config.directory.target)).await?;
    let units = config.units();
    let applier = Applier::new(config.renders.clone(), units.clone(), state, variables());
    let revision = roster.revision;
    let roster = Arc::new(roster);
    let mut passes = Vec::new();
    for (unit, renders) in units.iter().enumerate() {
        let of_unit = || renders.iter().map(|index| &config.renders[*index]);
        let is_refused = sendable(&roster).is_empty() && !of_unit().all(|r| r.allow_empty);
        let result = if is_refused {
            let why = "the roster is empty; the file stays (allow_empty = true renders it)";
            Finished { written: false, reloaded: false, failure: Some((Kind::RosterEmpty, why.into())) }
        } else {
            applier.apply(unit, Arc::clone(&roster)).await
        };
        let outputs = of_unit().map(|r| r.output.display().to_string()).collect();
        passes.push(Pass { outputs, result });
    }
    Ok(Passed { revision, from_disk, units: passes })
}

/// Says what a pass would change. Touches nothing, and needs no lock.
pub async fn dry_run(config: &Config) -> Result<Vec<Change>, RunError> {
    let (roster, _) = roster(config, peek(&config.agent.state, &config.directory.target)).await?;
    let env = variables();
    let change = |render: &crate::config::RenderConfig| Change {
        output: render.output.display().to_string(),
        diff: Template::load(&render.template)
            .and_then(|t| t.render(&roster, &env))
            .map_err(|e| e.0)
            .and_then(|r| diff(render, &r.text)),
    };
    Ok(config.renders.iter().map(change).collect())
}

/// Renders every template with a made-up roster: finds what does not compile and which variables are
/// unknown, before any roster has come.
pub fn check_templates(config: &Config) -> Vec<String> {
    let env = variables();
    let roster = sample();
    let mut mistakes = Vec::new();
    for (index, render) in config.renders.iter().enumerate() {
        if let Err(error) = Template::load(&render.template).and_then(|t| t.render(&roster, &env)) {
            mistakes.push(format!("render[{index}].template: {error}"));
        }
        if let Source::File(path) = &render.template
            && path == &render.output
        {
            mistakes.push(format!("render[{index}].output: is the template itself"));
        }
    }
    mistakes
}

fn sample() -> v1::Roster {
    let member = |n: u8, state| v1::Member {
        instance_id: format!("i-{n}"),
        address: ([192, 0, 2, n], 5044).into(), // RFC 5737: for documentation
        zone: Some("a".into()),
        state,
    };
    v1::Roster {
        fleet: "fleet".into(),
        dc: "dc".into(),
        region: "region".into(),
        revision: 1,
        published_at: pikepole_api::time::Rfc3339(pikepole_fleet::Timestamp::from_millis(1)),
        members: vec![member(1, v1::MemberState::Active), member(2, v1::MemberState::Draining)],
    }
}

fn diff(render: &crate::config::RenderConfig, text: &str) -> Result<String, String> {
    let output = render.output.display().to_string();
    let place = Place::find(&render.output)?;
    let current = place.current()?.unwrap_or_default();
    let current = String::from_utf8_lossy(&current);
    if current == text {
        return Ok(String::new());
    }
    if current.len() + text.len() > MAX_DIFF {
        return Ok(format!("--- {output}\n+++ {output}\n(too long to compare line by line)\n"));
    }
    let lines = similar::TextDiff::from_lines(current.as_ref(), text);
    Ok(lines.unified_diff().header(&output, &output).to_string())
}

/// The roster as it is now, or the last good one and why.
async fn roster(config: &Config, kept: Option<Kept>) -> Result<(v1::Roster, Option<String>), RunError> {
    let clients = config.clients()?;
    let most = clients.len() * ROUNDS;
    let mut watch = Watch::at(clients, config.directory.target.clone(), config.directory.wait);
    let deadline = Instant::now() + ANSWER_TIME;
    let mut why = format!("no directory answers within {} s", ANSWER_TIME.as_secs());
    let mut failures = 0;
    while failures < most {
        match timeout_at(deadline, watch.next()).await {
            Ok(Event::Roster(roster, _)) => return Ok((roster, None)),
            Ok(Event::Trouble(error)) => {
                why = error.to_string();
                failures += 1;
            }
            Ok(Event::Unchanged(_) | Event::Older { .. } | Event::Shortened(_)) => failures += 1,
            Err(_) => break,
        }
    }
    match kept {
        Some(kept) => Ok((kept.roster, Some(why))),
        None => Err(RunError::Setup(format!("{why}; and no roster was kept"))),
    }
}
