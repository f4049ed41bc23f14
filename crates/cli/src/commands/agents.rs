//! `pikepole agents FLEET`: who follows a fleet, and which dying collectors wait for whom.
//!
//! Times are told by this machine's clock; one that differs from the directory's shows in them.

use pikepole_api::v1;
use pikepole_directory::clock::Clock;
use pikepole_fleet::Timestamp;

use super::{client, hint, print, print_json, short};
use crate::Failure;
use crate::args::{AgentsArgs, TableFormat};
use crate::table::{Table, terminal_width};

/// Names of agents that fit beside the rest of a row in 80 columns.
const NAMED: usize = 2;

/// A narrower terminal shows no hooks: who is waited for says more.
const ROOM_FOR_HOOKS: usize = 72;

pub(crate) async fn run(args: AgentsArgs) -> Result<(), Failure> {
    let client = client(&args.reach)?;
    let agents = client.agents(&args.fleet).await.map_err(hint)?;
    if args.format == TableFormat::Json {
        return print_json(&agents);
    }
    let fleet = client.fleet(&args.fleet).await.map_err(hint)?;
    let now = Clock::system().now();
    let revision = fleet.roster.as_ref().map(|roster| roster.revision);
    let width = terminal_width();
    let text = format!(
        "{}\n{}",
        followers(&args.fleet, &agents.agents, revision, now, width),
        drains(&agents, now, width)
    );
    print(&text)
}

fn followers(
    fleet: &str,
    agents: &[v1::Agent],
    revision: Option<u64>,
    now: Timestamp,
    width: Option<usize>,
) -> String {
    if agents.is_empty() {
        return format!("No agent follows {fleet}.\n");
    }
    let live = agents.iter().filter(|agent| agent.live);
    let there = live.clone().filter(|agent| agent.applied.is_some() && agent.applied == revision).count();
    let live = live.count();
    let title = match revision {
        Some(revision) => format!("Revision {revision}: {there} of {live} live agents use it"),
        None => format!("No roster yet: {live} live agents wait for it"),
    };
    let mut table = Table::new(&["agent", "applied", "live", "seen", "address"]);
    for agent in agents {
        table.row(vec![
            agent.id.clone(),
            match agent.applied {
                None => "nothing".into(),
                applied if applied == revision => "current".into(),
                Some(other) => other.to_string(),
            },
            if agent.live { "yes" } else { "no" }.into(),
            ago(agent.last_seen.0, now),
            agent.address.to_string(),
        ]);
    }
    format!("{title}\n{}", table.render(width))
}

fn drains(agents: &v1::Agents, now: Timestamp, width: Option<usize>) -> String {
    if agents.drains.is_empty() {
        return "No collector is draining.\n".into();
    }
    let with_hook = width.is_none_or(|width| width >= ROOM_FOR_HOOKS);
    let mut heading = vec!["draining", "since", "deadline", "waiting for"];
    heading.extend(with_hook.then_some("hook"));
    let mut table = Table::new(&heading);
    for drain in &agents.drains {
        let mut row = vec![
            drain.instance_id.clone(),
            ago(drain.since.0, now),
            match drain.deadline {
                Some(at) if at.0 <= now => "passed".into(),
                Some(at) => format!("in {}", seconds(at.0, now)),
                None => "-".into(),
            },
            names(&drain.waiting_for, !agents.agents.is_empty()),
        ];
        if with_hook {
            row.push(drain.hook.clone().unwrap_or_else(|| "-".into()));
        }
        table.row(row);
    }
    table.render(width)
}

/// The count comes first: it must survive a narrow terminal.
fn names(holders: &[String], anybody_known: bool) -> String {
    match holders {
        [] if anybody_known => "nobody".into(),
        // Nothing is converged then: the deadline decides.
        [] => "its deadline".into(),
        [only] => only.clone(),
        many => {
            let some = many.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            match many.len().saturating_sub(NAMED) {
                0 => format!("{}: {some}", many.len()),
                more => format!("{}: {some} +{more}", many.len()),
            }
        }
    }
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", seconds(now, at))
}

/// From the earlier to the later: `4 s`, `2m 5s`.
fn seconds(later: Timestamp, earlier: Timestamp) -> String {
    match later.since(earlier).as_secs() {
        few @ 0..60 => format!("{few} s"),
        many => short(many),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pikepole_api::time::Rfc3339;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn both_tables_fit_small_terminals_and_lose_no_count() {
        let agents = (0..30).map(|n| v1::Agent {
            id: format!("proxy-{n:02}.mumbai.example.com"),
            start: None,
            fleet: "f".into(),
            applied: Some(1_795_366_999_000 + n % 2),
            live: n % 3 > 0,
            last_seen: Rfc3339(at(96)),
            address: "10.200.100.101".parse().unwrap(),
        });
        let agents: Vec<v1::Agent> = agents.collect();
        let drain = v1::Drain {
            fleet: "f".into(),
            instance_id: "i-0123456789abcdef0".into(),
            since: Rfc3339(at(30)),
            deadline: Some(Rfc3339(at(190))),
            waiting_for: agents.iter().map(|agent| agent.id.clone()).collect(),
            hook: Some("pikepole-terminate".into()),
        };
        let agents = v1::Agents { agents, drains: vec![drain] };
        for width in [80, 60] {
            let text = followers("f", &agents.agents, Some(1_795_366_999_001), at(100), Some(width))
                + &drains(&agents, at(100), Some(width));
            for words in ["10 of 20 live", "current", "4 s ago", "1m 10s ago", "in 1m 30s", "30: pro"] {
                assert!(text.contains(words), "{words}:\n{text}");
            }
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}:\n{text}");
        }
    }

    #[test]
    fn holders_are_few_names_and_a_count() {
        let names = |count: usize| {
            let all: Vec<String> = (1..=count).map(|n| format!("p{n}")).collect();
            names(&all, true)
        };
        assert_eq!((names(0), names(1)), ("nobody".into(), "p1".into()));
        assert_eq!((names(2), names(5)), ("2: p1, p2".into(), "5: p1, p2 +3".into()));
        assert_eq!(super::names(&[], false), "its deadline");
    }
}
