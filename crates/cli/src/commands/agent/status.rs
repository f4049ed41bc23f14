//! `pikepole agent status`: what the agent on this host says about itself, as a compact table.

mod log_path;

use std::time::Duration;

use pikepole_agent::status::{DiskGuardStatus, Status};
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
    text.push_str(&format!("applied {applied}\n"));
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
    if !status.renders.is_empty() {
        text.push_str(&format!("\n{}", table.render(terminal_width())));
    }
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
    if let Some(path) = &status.log_path {
        text.push_str(&log_path::log_path(path, terminal_width()));
    }
    if let Some(guard) = &status.disk_guard {
        text.push_str(&disk_guard(guard, terminal_width()));
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

fn disk_guard(guard: &DiskGuardStatus, width: Option<usize>) -> String {
    let mut table = Table::new(&["disk", "free", "of", "full in"]);
    for disk in &guard.disks {
        let low = if disk.low { " LOW" } else { "" };
        table.row(vec![
            disk.paths.join(" "),
            format!("{}{low}", size(disk.free)),
            size(disk.total),
            disk.full_in_seconds.map_or_else(|| "-".into(), short),
        ]);
    }
    let totals = &guard.totals;
    let mut text = format!(
        "\n{}disk guard: {} below {}; {} files compressed, {} saved\n",
        table.render(width),
        guard.policy,
        size(guard.min_free),
        totals.compressed_files,
        size(totals.compressed_bytes),
    );
    for (policy, given) in totals.by_policy() {
        if given.files > 0 {
            let about = if given.estimated > 0 { "about " } else { "" };
            let (files, bytes, lines) = (given.files, size(given.bytes), given.lines);
            text.push_str(&format!("GIVEN UP by {policy}: {files} files, {bytes}, {about}{lines} lines\n"));
        }
    }
    text
}

/// Bytes for people: `12.3 GiB`.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, bits)| bytes >> bits > 0) {
        Some((unit, bits)) => {
            let tenths = (u128::from(bytes) * 10) >> bits;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use pikepole_agent::status::{DiskStatus, Given, Totals};

    use super::*;

    #[test]
    fn a_disk_is_shown_with_what_was_given_up() {
        let disk = DiskStatus {
            paths: vec!["/var/log/kong".into()],
            free: (12 << 30) + (310 << 20),
            total: 200 << 30,
            full_in_seconds: Some(88),
            low: true,
        };
        let deleted = Given { files: 2, bytes: 3 << 20, lines: 7, estimated: 1 };
        let guard = DiskGuardStatus {
            policy: "truncate".into(),
            min_free: 20 << 30,
            disks: vec![disk],
            totals: Totals { deleted, ..Totals::default() },
            ..DiskGuardStatus::default()
        };
        let text = disk_guard(&guard, Some(80));
        for words in [
            "12.3 GiB LOW",
            "200.0 GiB",
            "1m 28s",
            "GIVEN UP by delete_oldest_rotated: 2 files, 3.0 MiB, about 7 lines",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        assert!(!text.contains("by truncate"), "{text}");
        assert_eq!((size(0), size(1023), size(1024)), ("0 B".into(), "1023 B".into(), "1.0 KiB".into()));
    }
}
