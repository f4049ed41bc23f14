//! What each command does.

pub(crate) mod agent;
pub(crate) mod agents;
pub(crate) mod demo;
pub(crate) mod directory;
pub(crate) mod roster;

use std::io::Write;

use clap::CommandFactory as _;
use pikepole_api::client::{Client, ClientError};
use pikepole_api::time::format_duration;
use pikepole_api::v1;

use crate::Failure;
use crate::args::{Args, FleetsArgs, Reach, RefreshArgs, TableFormat};
use crate::table::{Table, terminal_width};

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // The generator panics if it cannot write; a closed pipe is no reason to.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "pikepole", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes to stdout; a closed pipe is an error like any other, and no panic.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

pub(crate) fn client(reach: &Reach) -> Result<Client, Failure> {
    Client::new(&reach.directory, reach.token.as_deref()).map_err(|error| match error {
        ClientError::BadUrl(why) => Failure::WrongUse(why),
        other => other.into(),
    })
}

/// Adds what to do to what happened.
pub(crate) fn hint(error: ClientError) -> Failure {
    let hint = match &error {
        ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => {
            "is it running there? Name another one with --directory URL or PIKEPOLE_DIRECTORY"
        }
        ClientError::Refused { status: 401 | 403, .. } => "pass a token with --token or PIKEPOLE_TOKEN",
        _ => return error.into(),
    };
    Failure::Failed(anyhow::anyhow!("{error}\n{hint}"))
}

pub(crate) async fn fleets(args: FleetsArgs) -> Result<(), Failure> {
    let fleets = client(&args.reach)?.fleets().await.map_err(hint)?;
    if args.format == TableFormat::Json {
        return print_json(&fleets);
    }
    let mut table =
        Table::new(&["fleet", "dc", "region", "active", "last", "drain", "confirmed", "source", "trouble"]);
    for fleet in &fleets.fleets {
        let count = |state| match &fleet.roster {
            Some(roster) => roster.members.iter().filter(|m| m.state == state).count().to_string(),
            None => "?".into(),
        };
        let trouble: Vec<&str> = fleet.alerts.iter().map(|alert| alert.kind.as_str()).collect();
        table.row(vec![
            fleet.fleet.clone(),
            fleet.dc.clone(),
            fleet.region.clone(),
            count(v1::MemberState::Active),
            count(v1::MemberState::LastResort),
            count(v1::MemberState::Draining),
            fleet.age_seconds.map_or_else(|| "never".into(), |age| format!("{} ago", short(age))),
            word(fleet.source.state).into(),
            if trouble.is_empty() { "-".into() } else { trouble.join(" ") },
        ]);
    }
    print(&table.render(terminal_width()))
}

const fn word(state: v1::SourceState) -> &'static str {
    match state {
        v1::SourceState::Waiting => "waiting",
        v1::SourceState::Ok => "ok",
        v1::SourceState::Failing => "failing",
        v1::SourceState::Throttled => "throttled",
        v1::SourceState::Missing => "missing",
        v1::SourceState::Elsewhere => "elsewhere",
    }
}

/// Seconds in the two largest units.
pub(crate) fn short(seconds: u64) -> String {
    let text = format_duration(std::time::Duration::from_secs(seconds));
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

pub(crate) async fn refresh(args: RefreshArgs) -> Result<(), Failure> {
    let refreshed = client(&args.reach)?.refresh(&args.fleet, args.wait).await.map_err(hint)?;
    if args.format == TableFormat::Json {
        return print_json(&refreshed);
    }
    match (refreshed.status, &refreshed.roster) {
        (v1::RefreshStatus::Confirmed, Some(roster)) => {
            let members = roster.members.len();
            print(&format!("{}: confirmed, {members} members, revision {}\n", args.fleet, roster.revision))
        }
        (v1::RefreshStatus::Confirmed, None) => print(&format!("{}: confirmed\n", args.fleet)),
        (v1::RefreshStatus::Pending, _) => print(&format!(
            "{}: still under way after {}; pikepole fleets shows how it goes\n",
            args.fleet,
            format_duration(args.wait)
        )),
    }
}
