//! `pikepole agent status`: what the agent on this host says about itself, as a compact table.

use std::time::Duration;

use pikepole_agent::status::Status;
use pikepole_api::client::fetch;
use pikepole_api::time;

use crate::Failure;
use crate::args::{AgentStatusArgs, TableFormat};
use crate::commands::{print, print_json, short};
use crate::table::{Table, terminal_width};

const LIMIT: Duration = Duration::from_secs(5);
/// Jobs that the table shows.
const SHOWN: usize = 5;

pub(super) async fn run(args: AgentStatusArgs) -> Result<(), Failure> {
    let url = args.url.trim_end_matches('/');
    let status: Status = fetch(&format!("{url}/status"), LIMIT).await.map_err(|error| {
        Failure::Failed(anyhow::anyhow!("{error}\nis the agent running? Name another one with --url URL"))
    })?;
    if args.format == TableFormat::Json {
        return print_json(&status);
    }
    print(&render(&status))
}

fn render(status: &Status) -> String {
    let mut text = format!("agent {}, version {}\n", status.id, status.version);
    match &status.roster {
        None => text.push_str("no roster is known yet\n"),
        Some(roster) => {
            let age = roster.age_seconds.map_or_else(|| "never".into(), |age| format!("{} ago", short(age)));
            let stale = if roster.stale { ", STALE" } else { "" };
            let disk = if roster.from == "disk" { ", from disk" } else { "" };
            text.push_str(&format!(
                "roster {} revision {}, {} of {} members sendable, confirmed {age}{stale}{disk}\n",
                roster.fleet, roster.revision, roster.sendable, roster.members
            ));
        }
    }
    let applied = status.applied.map_or_else(|| "none".into(), |revision| revision.to_string());
    text.push_str(&format!("applied {applied}\n\n"));
    let moment = |at: Option<time::Rfc3339>| at.map_or_else(|| "-".into(), |at| time::format(at.0));
    let mut table = Table::new(&["output", "template", "revision", "written", "reloaded"]);
    for render in &status.renders {
        table.row(vec![
            render.output.clone(),
            render.template.clone(),
            render.revision.map_or_else(|| "-".into(), |revision| revision.to_string()),
            moment(render.written_at),
            moment(render.reloaded_at),
        ]);
    }
    text.push_str(&table.render(terminal_width()));
    if !status.history.is_empty() {
        let mut table = Table::new(&["last jobs", "revision", "did", "took", "error"]);
        for job in status.history.iter().take(SHOWN) {
            let did = [(job.written, "wrote"), (job.reloaded, "reloaded")];
            let did: Vec<&str> = did.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
            table.row(vec![
                moment(Some(job.at)),
                job.revision.to_string(),
                if did.is_empty() { "-".into() } else { did.join(" ") },
                format!("{} ms", job.took_ms),
                job.error.clone().unwrap_or_else(|| "-".into()),
            ]);
        }
        text.push_str(&format!("\n{}", table.render(terminal_width())));
    }
    if !status.trouble.is_empty() {
        let mut table = Table::new(&["trouble", "since", "with", "what"]);
        for t in &status.trouble {
            table.row(vec![t.alert.clone(), moment(Some(t.since)), t.subject.clone(), t.detail.clone()]);
        }
        text.push_str(&format!("\n{}", table.render(terminal_width())));
    }
    text
}
