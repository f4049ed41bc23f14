use proptest::prelude::*;

use super::*;

const QUIET: Duration = Duration::from_secs(2);
const SPACING: Duration = Duration::from_secs(3);
const LONGEST: Duration = Duration::from_secs(100);
const POLICY: Policy =
    Policy { quiet: QUIET, spacing: SPACING, allow_empty: false, alive: false, longest: LONGEST };

fn roster(revision: u64, hosts: &[u8]) -> Arc<v1::Roster> {
    let member = |n: &u8| v1::Member {
        instance_id: format!("i-{n}"),
        address: SocketAddr::from(([10, 0, 0, *n], 5044)),
        zone: None,
        state: v1::MemberState::Active,
    };
    Arc::new(v1::Roster {
        fleet: "f".into(),
        dc: "d".into(),
        region: "r".into(),
        revision,
        published_at: pikepole_api::time::Rfc3339(pikepole_fleet::Timestamp::from_millis(0)),
        members: hosts.iter().map(member).collect(),
    })
}

const DONE: Finished = Finished { written: true, reloaded: true, failure: None };

fn failed(kind: Kind) -> Finished {
    let reloaded = kind == Kind::ReloadFailed;
    Finished { written: reloaded, reloaded, failure: Some((kind, "why".into())) }
}

fn jobs(planner: &mut Planner, now: Instant) -> Vec<(usize, u64)> {
    let job = |action| match action {
        Action::Apply { unit, target } => Some((unit, target.roster.revision)),
        Action::CheckAlive { .. } => None,
    };
    planner.poll(now).into_iter().filter_map(job).collect()
}

/// One unit that uses revision 1 with the hosts 1 and 2, reloaded long ago.
fn settled() -> (Planner, Instant) {
    let mut planner = Planner::new([POLICY]);
    let now = Instant::now();
    planner.roster(roster(1, &[1, 2]), now);
    assert_eq!(jobs(&mut planner, now), [(0, 1)], "the first roster is used at once");
    planner.finished(0, DONE, now);
    (planner, now + SPACING * 10)
}

#[test]
fn a_removal_is_acted_on_at_once() {
    let (mut planner, now) = settled();
    planner.roster(roster(2, &[1]), now);
    assert_eq!(jobs(&mut planner, now), [(0, 2)]);
}

#[test]
fn a_scale_out_is_one_reload() {
    let (mut planner, start) = settled();
    let mut now = start;
    for n in 3..9u8 {
        planner.roster(roster(n.into(), &(1..=n).collect::<Vec<_>>()), now);
        assert_eq!(jobs(&mut planner, now), [], "waits for more");
        now += Duration::from_secs(1);
    }
    let due = planner.next_wake().unwrap();
    assert_eq!(due, start + Duration::from_secs(5) + QUIET);
    assert_eq!(jobs(&mut planner, due), [(0, 8)]);
}

#[test]
fn additions_that_never_end_wait_no_longer_than_four_times_quiet() {
    let (mut planner, start) = settled();
    let mut now = start;
    for n in 3..250u8 {
        planner.roster(roster(n.into(), &(1..=n).collect::<Vec<_>>()), now);
        if !jobs(&mut planner, now).is_empty() {
            break;
        }
        now += Duration::from_secs(1);
    }
    assert_eq!(now, start + QUIET * 4);
}

#[test]
fn a_removal_ends_the_wait_of_additions_but_not_the_spacing() {
    let (mut planner, now) = settled();
    planner.roster(roster(2, &[1, 2, 3]), now);
    planner.roster(roster(3, &[2, 3]), now + Duration::from_millis(10));
    assert_eq!(jobs(&mut planner, now + Duration::from_millis(10)), [(0, 3)]);
    let reloaded = now + Duration::from_secs(1);
    planner.finished(0, DONE, reloaded);
    planner.roster(roster(4, &[2]), reloaded);
    assert_eq!(jobs(&mut planner, reloaded), []);
    assert_eq!(planner.next_wake(), Some(reloaded + SPACING));
    assert_eq!(jobs(&mut planner, reloaded + SPACING), [(0, 4)]);
}

#[test]
fn one_job_at_a_time_and_then_the_newest_roster() {
    let (mut planner, now) = settled();
    planner.roster(roster(2, &[1]), now);
    assert_eq!(jobs(&mut planner, now), [(0, 2)]);
    for revision in 3..6 {
        planner.roster(roster(revision, &[2]), now);
        assert_eq!(jobs(&mut planner, now), []);
    }
    planner.finished(0, DONE, now);
    assert_eq!(planner.applied(), Some(2));
    assert_eq!(jobs(&mut planner, now + SPACING), [(0, 5)]);
}

#[test]
fn applied_waits_for_every_unit() {
    let mut planner = Planner::new([POLICY, POLICY]);
    let now = Instant::now();
    planner.roster(roster(5, &[1]), now);
    jobs(&mut planner, now);
    planner.finished(0, DONE, now);
    assert_eq!(planner.applied(), None);
    planner.finished(1, failed(Kind::ReloadFailed), now);
    assert_eq!(planner.applied(), None);
    let again = now + SPACING;
    assert_eq!(jobs(&mut planner, again), [(1, 5)]);
    planner.finished(1, DONE, again);
    assert_eq!(planner.applied(), Some(5));
}

#[test]
fn applied_follows_what_was_taken_last_when_revisions_fall() {
    let mut planner = Planner::new([POLICY, POLICY]);
    let mut now = Instant::now();
    planner.roster(roster(2000, &[1]), now);
    jobs(&mut planner, now);
    planner.finished(0, DONE, now);
    planner.finished(1, DONE, now);
    now += SPACING;
    planner.roster(roster(1500, &[2]), now); // a store was lost
    jobs(&mut planner, now);
    planner.finished(0, DONE, now);
    assert_eq!(planner.applied(), Some(2000), "unit 1 still uses it");
    planner.finished(1, DONE, now);
    assert_eq!(planner.applied(), Some(1500));
}

#[test]
fn a_check_that_failed_is_tried_with_the_next_roster_and_seldom_without() {
    let (mut planner, now) = settled();
    planner.roster(roster(2, &[1]), now);
    jobs(&mut planner, now);
    planner.finished(0, failed(Kind::CheckFailed), now);
    assert_eq!(planner.troubles(now), [(0, Kind::CheckFailed, "why".into())]);
    assert_eq!(planner.next_wake(), Some(now + SLOW_RETRY));
    planner.roster(roster(3, &[1, 4]), now + Duration::from_secs(1));
    assert_eq!(jobs(&mut planner, now + Duration::from_secs(1)), [(0, 3)]);
    planner.finished(0, DONE, now + Duration::from_secs(1));
    assert_eq!((planner.troubles(now), planner.applied()), (vec![], Some(3)));
}

#[test]
fn a_reload_that_failed_is_retried_with_back_off() {
    let (mut planner, mut now) = settled();
    planner.roster(roster(2, &[1]), now);
    let mut gaps = Vec::new();
    for _ in 0..9 {
        assert_eq!(jobs(&mut planner, now), [(0, 2)]);
        planner.finished(0, failed(Kind::ReloadFailed), now);
        let next = planner.next_wake().unwrap();
        gaps.push((next - now).as_secs());
        now = next;
    }
    assert_eq!(gaps, [3, 3, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(planner.applied(), Some(1));
}

#[test]
fn an_empty_roster_is_rendered_only_where_that_is_allowed() {
    let mut planner = Planner::new([POLICY, Policy { allow_empty: true, ..POLICY }]);
    let now = Instant::now();
    planner.roster(roster(2, &[]), now);
    assert_eq!(jobs(&mut planner, now), [(1, 2)]);
    assert_eq!(planner.troubles(now)[0].1, Kind::RosterEmpty);
    planner.finished(1, DONE, now);
    assert_eq!(planner.applied(), None);
    planner.roster(roster(3, &[1]), now + SPACING);
    assert_eq!(jobs(&mut planner, now + SPACING).first(), Some(&(0, 3)));
    assert_eq!(planner.troubles(now), []);
}

#[test]
fn what_is_owed_is_done_while_an_empty_roster_is_refused() {
    let (mut planner, now) = settled();
    planner.roster(roster(2, &[1]), now);
    assert_eq!(jobs(&mut planner, now), [(0, 2)]);
    planner.roster(roster(3, &[]), now);
    planner.finished(0, failed(Kind::ReloadFailed), now);
    let due = planner.next_wake().expect("the reload is owed");
    assert_eq!((due, jobs(&mut planner, due)), (now + SPACING, vec![(0, 2)]));
    planner.finished(0, DONE, due);
    assert_eq!((planner.applied(), planner.next_wake()), (Some(2), None));
    assert_eq!(planner.troubles(due)[0].1, Kind::RosterEmpty);
}

#[test]
fn a_job_that_lasts_longer_than_its_programs_may_is_told() {
    let (mut planner, now) = settled();
    planner.roster(roster(2, &[1]), now);
    jobs(&mut planner, now);
    assert_eq!(planner.troubles(now + LONGEST), []);
    let late = now + LONGEST + Duration::from_secs(1);
    assert_eq!(planner.troubles(late)[0].1, Kind::JobStuck);
    planner.finished(0, DONE, late);
    assert_eq!(planner.troubles(late), []);
}

#[test]
fn a_shipper_that_died_is_noticed_and_so_is_its_return() {
    let mut planner = Planner::new([Policy { alive: true, ..POLICY }]);
    let now = Instant::now();
    planner.roster(roster(1, &[1]), now);
    jobs(&mut planner, now);
    planner.finished(0, DONE, now);
    let due = planner.next_wake().unwrap();
    assert_eq!(due, now + ALIVE_EVERY);
    assert!(matches!(planner.poll(due)[..], [Action::CheckAlive { unit: 0 }]));
    planner.checked(0, Err("inactive".into()), due);
    assert_eq!(planner.troubles(now), [(0, Kind::ShipperDown, "inactive".into())]);
    planner.poll(due + ALIVE_EVERY);
    planner.checked(0, Ok(()), due + ALIVE_EVERY);
    assert_eq!(planner.troubles(now), []);
}

#[derive(Debug, Clone)]
enum Step {
    Roster(Vec<u8>),
    Pass(u16),
    Finish(usize, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        proptest::collection::btree_set(1u8..6, 0..5).prop_map(|s| Step::Roster(s.into_iter().collect())),
        (1u16..4000).prop_map(Step::Pass),
        (0usize..2, 0u8..6).prop_map(|(unit, how)| Step::Finish(unit, how)),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A planner, and what the world saw of it.
struct World {
    planner: Planner,
    now: Instant,
    running: [Option<u64>; 2],
    used: [Option<u64>; 2],
    reloads: [Option<Instant>; 2],
    empty: BTreeSet<u64>,
}

impl World {
    fn act(&mut self) {
        for action in self.planner.poll(self.now) {
            let Action::Apply { unit, target } = action else { panic!("nobody asked whether it is alive") };
            assert_eq!(self.running[unit], None, "two jobs at a time");
            assert!(!self.empty.contains(&target.roster.revision), "an empty roster");
            let spaced = self.reloads[unit].is_none_or(|last| self.now - last >= SPACING);
            assert!(spaced, "reloads follow each other too fast");
            self.running[unit] = Some(target.roster.revision);
        }
        assert!(self.planner.next_wake().is_none_or(|wake| wake > self.now), "it would spin");
        if let Some(applied) = self.planner.applied() {
            assert_eq!(self.used.iter().min().copied().flatten(), Some(applied), "{:?}", self.used);
        }
    }

    fn finish(&mut self, unit: usize, how: u8) {
        let Some(revision) = self.running[unit].take() else { return };
        let result = match how {
            0 => failed(Kind::ReloadFailed),
            1 => failed(Kind::CheckFailed),
            2 => Finished { written: false, reloaded: false, failure: None },
            _ => DONE,
        };
        if result.failure.is_none() {
            self.used[unit] = Some(revision);
        }
        if result.reloaded {
            self.reloads[unit] = Some(self.now);
        }
        self.planner.finished(unit, result, self.now);
        self.act();
    }
}

proptest! {
    #[test]
    fn whatever_happens_reloads_are_spaced_and_the_newest_roster_is_used_in_the_end(steps in steps()) {
        let mut world = World {
            planner: Planner::new([POLICY, POLICY]),
            now: Instant::now(),
            running: [None; 2],
            used: [None; 2],
            reloads: [None; 2],
            empty: BTreeSet::new(),
        };
        let mut revision = 0;
        for step in steps {
            match step {
                Step::Roster(hosts) => {
                    revision += 1;
                    if hosts.is_empty() {
                        world.empty.insert(revision);
                    }
                    world.planner.roster(roster(revision, &hosts), world.now);
                }
                Step::Pass(millis) => world.now += Duration::from_millis(millis.into()),
                Step::Finish(unit, how) => world.finish(unit, how),
            }
            world.act();
        }
        revision += 1;
        world.planner.roster(roster(revision, &[7]), world.now);
        let limit = world.now + QUIET * 4 + SPACING * 4;
        while !world.planner.is_settled() {
            world.act();
            for unit in 0..2 {
                world.finish(unit, 9);
            }
            if let Some(wake) = world.planner.next_wake() {
                world.now = wake;
            }
            prop_assert!(world.now <= limit, "not settled in time");
        }
        prop_assert_eq!(world.planner.applied(), Some(revision));
    }
}
