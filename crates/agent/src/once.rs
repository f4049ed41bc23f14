//! One pass without staying: `--once` renders and reloads as needed, `--dry-run` only says what would change.
//!
//! Invariants: a dry run writes nothing and runs nothing. One pass does not count as an agent: nobody waits
//! for it when a collector dies.

use std::sync::Arc;
use std::time::Duration;

use pikepole_api::client::{Event, Watch};
use pikepole_api::time::Rfc3339;
use pikepole_api::v1;
use tokio::time::{Instant, timeout_at};

use crate::apply::Applier;
use crate::config::{Config, Source};
use crate::output::Place;
use crate::planner::{Finished, sendable};
use crate::run::RunError;
use crate::state::{Kept, State, peek};
use crate::template::{Rendered, Template, conceal, variables};
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

/// Renders once, and reloads what needs it. By the same rules as the running agent: from the roster that was kept,
/// which only a newer one replaces, and which that one then is.
pub async fn once(config: &Config) -> Result<Passed, RunError> {
    let state = State::open(&config.agent.state).map_err(RunError::Setup)?;
    let (kept, from_disk) = roster(config, state.roster(&config.directory.target)).await?;
    let units = config.units();
    let applier = Applier::new(config.renders.clone(), units.clone(), state, variables());
    if from_disk.is_none() {
        applier.keep_roster(&kept);
        if let Some(error) = applier.state_error() {
            tracing::warn!(error, "the roster is not kept for the next pass");
        }
    }
    let roster = Arc::new(kept.roster.clone());
    let accepted = kept.accepted().cloned().map(Arc::new);
    let mut passes = Vec::new();
    for (unit, renders) in units.iter().enumerate() {
        let of_unit = || renders.iter().map(|index| &config.renders[*index]);
        let is_refused = sendable(&roster).is_empty() && !of_unit().all(|r| r.allow_empty);
        let mut result = match (is_refused, &accepted) {
            (false, _) => applier.apply(unit, Arc::clone(&roster)).await,
            // What was owed before the empty one came still is.
            (true, Some(accepted)) => applier.apply(unit, Arc::clone(accepted)).await,
            (true, None) => Finished { written: false, reloaded: false, failure: None },
        };
        if is_refused && result.failure.is_none() {
            let why = "the roster is empty; the file stays (allow_empty = true renders it)";
            result.failure = Some((Kind::RosterEmpty, why.into()));
        }
        let outputs = of_unit().map(|r| r.output.display().to_string()).collect();
        passes.push(Pass { outputs, result });
    }
    Ok(Passed { revision: roster.revision, from_disk, units: passes })
}

/// Says what a pass would change. Touches nothing, and needs no lock.
pub async fn dry_run(config: &Config) -> Result<Vec<Change>, RunError> {
    let (kept, _) = roster(config, peek(&config.agent.state, &config.directory.target)).await?;
    let env = variables();
    let change = |render: &crate::config::RenderConfig| Change {
        output: render.output.display().to_string(),
        diff: Template::load(&render.template)
            .and_then(|t| t.render(&kept.roster, &env))
            .map_err(|e| e.0)
            .and_then(|r| diff(render, &r)),
    };
    Ok(config.renders.iter().map(change).collect())
}

/// Renders every template with the last good roster, or with a made-up one: finds what does not compile and
/// which variables are unknown.
pub fn check_templates(config: &Config) -> Vec<String> {
    let env = variables();
    let kept = peek(&config.agent.state, &config.directory.target);
    let roster = kept.and_then(|kept| kept.accepted().cloned()).unwrap_or_else(sample);
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
        published_at: Rfc3339(pikepole_fleet::Timestamp::from_millis(1)),
        // More than one to send to: a template may name the second.
        members: vec![
            member(1, v1::MemberState::Active),
            member(2, v1::MemberState::Active),
            member(3, v1::MemberState::Active),
            member(4, v1::MemberState::Draining),
        ],
    }
}

fn diff(render: &crate::config::RenderConfig, rendered: &Rendered) -> Result<String, String> {
    let output = render.output.display().to_string();
    let current = Place::find(&render.output, render.check.is_some())?.current()?.unwrap_or_default();
    let current = String::from_utf8_lossy(&current);
    if current == rendered.text {
        return Ok(String::new());
    }
    if current.len() + rendered.text.len() > MAX_DIFF {
        return Ok(format!("--- {output}\n+++ {output}\n(too long to compare line by line)\n"));
    }
    Ok(compare(&output, &current, rendered))
}

/// A unified diff without the values of the environment that the template used. What stands where one of them
/// comes may be the one before, so that is not shown either.
fn compare(output: &str, current: &str, rendered: &Rendered) -> String {
    let hidden = |text: &str| conceal(text.to_string(), &rendered.used);
    let (old, new) = (hidden(current), hidden(&rendered.text));
    let has_secrets = new != rendered.text;
    if old == new {
        return format!("--- {output}\n+++ {output}\n(only values of the environment differ)\n");
    }
    let lines = similar::TextDiff::from_lines(&old, &new);
    let shown = lines.unified_diff().header(output, output).to_string();
    if !has_secrets {
        return shown;
    }
    let mut out: Vec<&str> = Vec::new();
    let mut removed = 0; // where the lines begin that the next ones replace
    for line in shown.lines() {
        if line.starts_with('+') && line.contains("***") {
            out[removed..].iter_mut().filter(|line| line.starts_with('-')).for_each(|line| *line = "-***");
        }
        if !line.starts_with(['+', '-']) {
            removed = out.len() + 1;
        }
        out.push(line);
    }
    out.join("\n") + "\n"
}

/// The roster to use, and why it is the last good one, if no directory says that it still is.
async fn roster(config: &Config, kept: Option<Kept>) -> Result<(Kept, Option<String>), RunError> {
    let clients = config.clients()?;
    let most = clients.len() * ROUNDS;
    let mut watch = Watch::at(clients, config.directory.target.clone(), config.directory.wait);
    if let Some(kept) = &kept {
        watch.resume(kept.roster.revision, kept.confirmed_at.map(|at| at.0));
    }
    let deadline = Instant::now() + ANSWER_TIME;
    let mut why = format!("no directory answers within {} s", ANSWER_TIME.as_secs());
    let mut failures = 0;
    while failures < most {
        match (timeout_at(deadline, watch.next()).await, &kept) {
            (Ok(Event::Roster(roster, freshness)), _) => {
                let accepted = kept.as_ref().and_then(Kept::accepted);
                return Ok((Kept::new(roster, freshness.confirmed_at.map(Rfc3339), accepted), None));
            }
            (Ok(Event::Unchanged(freshness)), Some(kept)) => {
                let confirmed_at = freshness.confirmed_at.map(Rfc3339).or(kept.confirmed_at);
                return Ok((Kept { confirmed_at, ..kept.clone() }, None));
            }
            (Ok(Event::Older { url, revision }), Some(kept)) => {
                why = format!("{url} offers revision {revision}, older than {}", kept.roster.revision);
                failures += 1;
            }
            (Ok(Event::Trouble(error)), _) => {
                why = error.to_string();
                failures += 1;
            }
            (Ok(_), _) => failures += 1,
            (Err(_), _) => break,
        }
    }
    match kept {
        Some(kept) => Ok((kept, Some(why))),
        None => Err(RunError::Setup(format!("{why}; and no roster was kept"))),
    }
}

#[cfg(test)]
mod tests;
