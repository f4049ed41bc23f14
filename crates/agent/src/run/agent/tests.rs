use pikepole_fleet::Timestamp;

use super::*;
use crate::planner::{Action, Policy};

fn roster(revision: u64, hosts: &[u8]) -> v1::Roster {
    let member = |n: &u8| v1::Member {
        instance_id: format!("i-{n}"),
        address: ([10, 0, 0, *n], 5044).into(),
        zone: None,
        state: v1::MemberState::Active,
    };
    v1::Roster {
        fleet: "f".into(),
        dc: "d".into(),
        region: "r".into(),
        revision,
        published_at: Rfc3339(Timestamp::from_millis(0)),
        members: hosts.iter().map(member).collect(),
    }
}

fn config() -> Config {
    let text = "[directory]\nurls = [\"http://a:1\", \"http://b:1\"]\nfleet = \"f\"\n\
                [[render]]\ntemplate = \"builtin:hosts-json\"\noutput = \"/tmp/x\"\n";
    Config::parse(text, |_| None).unwrap()
}

/// An agent, what it keeps, and the moment it is at.
fn agent(kept: Option<Kept>) -> (Agent, watch::Receiver<Option<Kept>>, Instant) {
    let (keep, keeps) = watch::channel(None);
    let outlets = Outlets { keep, rosters: watch::Sender::default() };
    let policy = Policy {
        quiet: Duration::ZERO,
        spacing: Duration::ZERO,
        allow_empty: false,
        alive: false,
        longest: Duration::from_secs(60),
    };
    let clock = Clock::system();
    (Agent::new(&config(), "s".into(), Planner::new([policy]), kept, clock, outlets), keeps, Instant::now())
}

fn alerts(agent: &mut Agent, now: Instant) -> Vec<(String, String)> {
    agent.status(None, now).trouble.into_iter().map(|t| (t.alert, t.detail)).collect()
}

#[test]
fn directories_that_offer_only_older_rosters_are_told_until_one_is_accepted() {
    let (mut agent, _keeps, now) = agent(None);
    agent.saw(Event::Roster(roster(9, &[1]), Freshness::default()), now);
    let older = |url: &str| Event::Older { url: url.into(), revision: 5 };
    for n in 0..4 {
        agent.saw(older("http://a:1"), now + Duration::from_secs(n));
    }
    assert_eq!(alerts(&mut agent, now + Duration::from_secs(5)), [], "a replica that lags catches up");
    let late = now + UNREACHABLE_AFTER;
    let told = alerts(&mut agent, late);
    assert_eq!((told.len(), told[0].0.as_str()), (1, "roster_older"));
    for words in ["http://a:1", "revision 5", "than 9", "roster.rec"] {
        assert!(told[0].1.contains(words), "{}", told[0].1);
    }
    agent.saw(Event::Unchanged(Freshness::default()), late);
    assert_eq!(alerts(&mut agent, late + UNREACHABLE_AFTER), []);
}

/// The revisions that are rendered now.
fn rendered(agent: &mut Agent, now: Instant) -> Vec<u64> {
    let revision = |action| match action {
        Action::Apply { target, .. } => Some(target.roster.revision),
        Action::CheckAlive { .. } => None,
    };
    agent.planner.poll(now).into_iter().filter_map(revision).collect()
}

#[test]
fn what_is_owed_since_before_a_start_is_done_although_the_fleet_is_empty_now() {
    // It became empty while the agent ran …
    let (mut first, keeps, now) = agent(None);
    first.saw(Event::Roster(roster(7, &[1]), Freshness::default()), now);
    first.saw(Event::Roster(roster(8, &[]), Freshness::default()), now);
    let kept = keeps.borrow().clone().unwrap();
    assert_eq!(kept.roster.revision, 8);
    let (mut second, keeps, now) = agent(Some(kept));
    second.saw(Event::Unchanged(Freshness::default()), now);
    assert_eq!(rendered(&mut second, now), [7]);
    assert!(keeps.borrow().as_ref().unwrap().accepted.is_some(), "and after another start");
    // … or while it did not.
    let (mut third, _keeps, now) = agent(Some(Kept::new(roster(7, &[1]), None, None)));
    third.saw(Event::Roster(roster(8, &[]), Freshness::default()), now);
    assert_eq!(rendered(&mut third, now), [7]);
    assert_eq!(alerts(&mut third, now)[0].0, "roster_empty");
}
