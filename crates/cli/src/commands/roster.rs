//! `pikepole roster FLEET`.

use std::time::Duration;

use pikepole_api::client::{ClientError, Event, Freshness, Polled, Watch};
use pikepole_api::{time, v1};

use super::{client, hint, print};
use crate::Failure;
use crate::args::{RosterArgs, RosterFormat};
use crate::stop;
use crate::table::{Table, terminal_width};

/// Long polls of a watch.
const WAIT: Duration = Duration::from_secs(55);

pub(crate) async fn run(args: RosterArgs) -> Result<(), Failure> {
    let client = client(&args.reach)?;
    if !args.watch {
        return match client.roster(&args.fleet).await.map_err(hint)? {
            Polled::Roster(roster, freshness) => show(&args, &roster, freshness),
            Polled::Unchanged(_) => Err(anyhow::anyhow!("the directory sent no roster").into()),
        };
    }
    let mut watch = Watch::new(client, &args.fleet, WAIT);
    let mut in_trouble = false;
    let mut stop = std::pin::pin!(stop::requested());
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = &mut stop => return Ok(()),
        };
        match event {
            Event::Roster(roster, freshness) => {
                in_trouble = false;
                show(&args, &roster, freshness)?;
            }
            Event::Unchanged(_) => in_trouble = false,
            Event::Older { .. } | Event::Shortened(_) => {}
            // A wrong name or token does not get right by waiting.
            Event::Trouble(error @ ClientError::Refused { status: 400..=499, .. }) => {
                return Err(hint(error));
            }
            Event::Trouble(error) => {
                if !in_trouble {
                    crate::complain(&format!("{error}; trying again"));
                }
                in_trouble = true;
            }
        }
    }
}

fn show(args: &RosterArgs, roster: &v1::Roster, freshness: Freshness) -> Result<(), Failure> {
    match args.format {
        // One line each, so that `--watch` is a stream of JSON.
        RosterFormat::Json => print(&format!("{}\n", serde_json::to_string(roster)?)),
        RosterFormat::Hosts => {
            let mut text = roster.to_domain()?.hosts().join("\n");
            text.push('\n');
            print(if text == "\n" && !args.watch { "" } else { &text })
        }
        RosterFormat::Table => print(&as_table(roster, freshness)),
    }
}

fn as_table(roster: &v1::Roster, freshness: Freshness) -> String {
    let confirmed = freshness.confirmed_at.map_or_else(|| "never".into(), time::format);
    let stale = if freshness.stale { ", STALE" } else { "" };
    let mut table = Table::new(&["instance", "address", "zone", "state"]);
    for member in &roster.members {
        table.row(vec![
            member.instance_id.clone(),
            member.address.to_string(),
            member.zone.clone().unwrap_or_else(|| "-".into()),
            pikepole_fleet::MemberState::from(member.state).to_string(),
        ]);
    }
    format!(
        "{} ({} {}), revision {}, confirmed {confirmed}{stale}\n{}\n",
        roster.fleet,
        roster.dc,
        roster.region,
        roster.revision,
        table.render(terminal_width())
    )
}
