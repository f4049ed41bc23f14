//! The rules one by one, as an operator would tell them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::{Entry, Instance, Lifecycle, limits};

struct Fleet {
    state: FleetState,
    policy: GuardPolicy,
    now: Timestamp,
}

impl Fleet {
    /// A fleet of `n` members in service, described once.
    fn of(n: usize) -> Self {
        let mut fleet = Self {
            state: FleetState::unknown("f".parse().unwrap()),
            policy: GuardPolicy::default(),
            now: Timestamp::from_millis(1_700_000_000_000),
        };
        let verdict = fleet.describe(Some(n as u32), &in_service(0..n));
        assert_eq!(verdict, Verdict::Accepted);
        fleet
    }

    fn describe(&mut self, desired: Option<u32>, instances: &[Instance]) -> Verdict {
        self.describe_with(desired, instances, Proof::default())
    }

    fn describe_with(&mut self, desired: Option<u32>, instances: &[Instance], proof: Proof) -> Verdict {
        let describe = Describe { made_at: self.now, desired, instances: instances.to_vec() };
        self.state.apply(Input::Described { describe, proof }, &self.policy, self.now).verdict
    }

    fn event(&mut self, n: usize, kind: FactKind) {
        let fact = Fact { instance: id(n), kind, at: self.now };
        self.state.apply(Input::Learned(fact), &self.policy, self.now);
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now = self.now + Duration::from_secs(seconds);
        self
    }

    fn members(&self) -> usize {
        self.state.roster.as_ref().map_or(0, |r| r.members().len())
    }

    fn state_of(&self, n: usize) -> Option<MemberState> {
        let roster = self.state.roster.as_ref()?;
        roster.members().iter().find(|m| m.instance_id == id(n)).map(|m| m.state)
    }
}

fn id(n: usize) -> InstanceId {
    format!("i-{n:03}").parse().unwrap()
}

fn instance(n: usize, lifecycle: Lifecycle) -> Instance {
    let address = format!("10.0.0.{}:5044", n + 1).parse().unwrap();
    Instance { id: id(n), lifecycle, address: Some(address), zone: None }
}

fn in_service(range: std::ops::Range<usize>) -> Vec<Instance> {
    range.map(|n| instance(n, Lifecycle::InService)).collect()
}

fn is_held(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Held(_))
}

#[test]
fn losing_one_of_two_is_everyday_life() {
    let mut fleet = Fleet::of(2);
    assert_eq!(fleet.later(30).describe(Some(2), &in_service(0..1)), Verdict::Accepted);
    assert_eq!(fleet.members(), 1);
}

#[test]
fn sixty_percent_gone_without_proof_is_held_then_believed() {
    let mut fleet = Fleet::of(10);
    assert!(is_held(&fleet.later(30).describe(Some(10), &in_service(0..4))));
    assert_eq!(fleet.members(), 10);
    assert!(is_held(&fleet.later(20).describe(Some(10), &in_service(0..4))), "two reads are not three");
    assert!(is_held(&fleet.later(20).describe(Some(10), &in_service(0..4))), "40 s are not 60");
    assert_eq!(fleet.later(20).describe(Some(10), &in_service(0..4)), Verdict::Accepted);
    assert_eq!(fleet.members(), 4);
    assert_eq!(fleet.state.changes.back().unwrap().cause, Cause::SourceAfterHold);
}

#[test]
fn a_true_answer_in_between_ends_the_hold() {
    let mut fleet = Fleet::of(10);
    assert!(is_held(&fleet.later(30).describe(Some(10), &in_service(0..4))));
    assert_eq!(fleet.later(30).describe(Some(10), &in_service(0..10)), Verdict::Accepted);
    assert!(fleet.state.hold.is_none());
    assert!(is_held(&fleet.later(30).describe(Some(10), &in_service(0..4))), "the count begins anew");
}

#[test]
fn events_the_group_itself_and_ec2_prove_removals() {
    let mut by_event = Fleet::of(10);
    (4..10).for_each(|n| by_event.event(n, FactKind::Terminating));
    assert_eq!(by_event.later(1).describe(Some(10), &in_service(0..4)), Verdict::Accepted);

    let mut by_group = Fleet::of(10);
    let mut listed = in_service(0..4);
    listed.extend((4..10).map(|n| instance(n, Lifecycle::Leaving)));
    assert_eq!(by_group.later(30).describe(Some(10), &listed), Verdict::Accepted);
    assert_eq!(by_group.state_of(5), Some(MemberState::Draining));

    let mut by_ec2 = Fleet::of(10);
    let describe = Describe { made_at: by_ec2.later(30).now, desired: Some(10), instances: in_service(0..4) };
    let suspects = by_ec2.state.suspects(&describe, &by_ec2.policy);
    assert_eq!(suspects.len(), 6);
    let proof = Proof { gone: suspects.into_iter().collect(), not_found: BTreeSet::new() };
    assert_eq!(by_ec2.describe_with(Some(10), &in_service(0..4), proof), Verdict::Accepted);
}

#[test]
fn what_ec2_does_not_know_twice_is_gone() {
    let mut fleet = Fleet::of(10);
    let proof = Proof { gone: BTreeSet::new(), not_found: (4..10).map(id).collect() };
    assert!(is_held(&fleet.later(30).describe_with(Some(10), &in_service(0..4), proof.clone())));
    assert_eq!(fleet.later(1).describe_with(Some(10), &in_service(0..4), proof), Verdict::Accepted);
}

#[test]
fn a_falling_desired_capacity_explains_as_many_removals() {
    let mut fleet = Fleet::of(10);
    assert_eq!(fleet.later(30).describe(Some(4), &in_service(0..4)), Verdict::Accepted);
    let mut partial = Fleet::of(20);
    assert!(is_held(&partial.later(30).describe(Some(18), &in_service(0..4))), "2 of 16 are explained");
}

#[test]
fn an_empty_answer_of_a_group_that_wants_instances_is_never_believed() {
    let mut fleet = Fleet::of(3);
    for _ in 0..200 {
        assert!(is_held(&fleet.later(30).describe(Some(3), &[])));
    }
    assert_eq!(fleet.members(), 3);
}

#[test]
fn a_group_emptied_on_purpose_is_published_on_the_second_read() {
    let mut fleet = Fleet::of(3);
    assert!(is_held(&fleet.later(30).describe(Some(0), &[])));
    assert_eq!(fleet.later(1).describe(Some(0), &[]), Verdict::Accepted);
    assert_eq!(fleet.state.roster.as_ref().unwrap().hosts(), Vec::<String>::new());
}

#[test]
fn nothing_known_and_a_true_empty_group_is_an_empty_roster() {
    let mut state = FleetState::unknown("f".parse().unwrap());
    let now = Timestamp::from_millis(1);
    let describe = Describe { made_at: now, desired: Some(0), instances: Vec::new() };
    let input = Input::Described { describe, proof: Proof::default() };
    assert_eq!(state.apply(input, &GuardPolicy::default(), now).verdict, Verdict::Accepted);
    assert!(state.roster.unwrap().members().is_empty());
}

#[test]
fn replacements_that_are_not_there_yet_do_not_empty_the_roster() {
    let mut fleet = Fleet::of(3);
    let pending: Vec<_> = (3..6).map(|n| instance(n, Lifecycle::Launching)).collect();
    for _ in 0..10 {
        assert!(is_held(&fleet.later(30).describe(Some(3), &pending)));
    }
    assert_eq!(fleet.members(), 3);
}

#[test]
fn instances_without_addresses_are_no_roster() {
    let mut fleet = Fleet::of(1);
    let mut fresh = in_service(5..8);
    fresh.iter_mut().for_each(|i| i.address = None);
    assert!(is_held(&fleet.later(30).describe(Some(3), &fresh)));
    assert_eq!(fleet.members(), 1);
}

#[test]
fn a_known_address_survives_an_answer_without_it() {
    let mut fleet = Fleet::of(3);
    let mut bare = in_service(0..3);
    bare.iter_mut().for_each(|i| i.address = None);
    assert_eq!(fleet.later(30).describe(Some(3), &bare), Verdict::Accepted);
    assert_eq!(fleet.members(), 3);
}

#[test]
fn a_whole_replacement_is_no_shrink() {
    let mut fleet = Fleet::of(4);
    assert_eq!(fleet.later(30).describe(Some(4), &in_service(10..14)), Verdict::Accepted);
    assert_eq!(fleet.members(), 4);
}

#[test]
fn words_nobody_knows_prove_nothing() {
    let mut fleet = Fleet::of(4);
    let odd: Vec<_> = (0..4).map(|n| instance(n, Lifecycle::Unknown)).collect();
    assert!(is_held(&fleet.later(30).describe(Some(4), &odd)));
    assert_eq!(fleet.members(), 4);
}

#[test]
fn an_observing_guard_reports_and_lets_through() {
    let mut fleet = Fleet::of(10);
    fleet.policy.observe_only = true;
    assert!(matches!(fleet.later(30).describe(Some(10), &in_service(0..4)), Verdict::Observed(_)));
    assert_eq!(fleet.members(), 4);
    assert!(is_held(&fleet.later(30).describe(Some(10), &[])), "never an empty list, not even then");
}

#[test]
fn a_dying_member_drains_whatever_describes_say_until_they_are_clear() {
    let mut fleet = Fleet::of(3);
    fleet.event(1, FactKind::SpotInterruption);
    assert_eq!(fleet.state_of(1), Some(MemberState::Draining));
    fleet.later(30).describe(Some(3), &in_service(0..3));
    assert_eq!(fleet.state_of(1), Some(MemberState::Draining), "a describe that still says InService");
    fleet.later(limits::DYING_DOUBT.as_secs()).describe(Some(3), &in_service(0..3));
    assert_eq!(fleet.state_of(1), Some(MemberState::Active), "ten minutes later the event was wrong");
}

#[test]
fn a_member_that_a_warm_pool_brings_back_is_active_again() {
    let mut fleet = Fleet::of(3);
    fleet.event(1, FactKind::Terminating);
    fleet.later(60).event(1, FactKind::Launching);
    assert_eq!(fleet.state_of(1), Some(MemberState::Active));
    // The first event comes once more, late.
    let late =
        Fact { instance: id(1), kind: FactKind::Terminating, at: Timestamp::from_millis(1_700_000_000_000) };
    fleet.state.apply(Input::Learned(late), &GuardPolicy::default(), fleet.now);
    assert_eq!(fleet.state_of(1), Some(MemberState::Active));
}

#[test]
fn at_most_half_of_a_fleet_is_put_in_the_last_row() {
    let mut fleet = Fleet::of(5);
    for n in 0..5 {
        fleet.later(1).event(n, FactKind::Rebalance);
    }
    let last = (0..5).filter(|n| fleet.state_of(*n) == Some(MemberState::LastResort)).count();
    assert_eq!(last, 2);
    assert_eq!(fleet.state_of(0), Some(MemberState::LastResort), "the first advised go first");
    fleet.later(limits::REBALANCE_TTL.as_secs()).describe(Some(5), &in_service(0..5));
    assert_eq!(fleet.state_of(0), Some(MemberState::Active));
}

#[test]
fn an_older_describe_does_not_undo_a_newer_one() {
    let mut fleet = Fleet::of(3);
    let older = Timestamp::from_millis(fleet.now.as_millis() - 1000);
    let describe = Describe { made_at: older, desired: Some(1), instances: in_service(0..1) };
    let input = Input::Described { describe, proof: Proof::default() };
    assert_eq!(fleet.state.apply(input, &fleet.policy, fleet.now).verdict, Verdict::Stale);
    assert_eq!(fleet.members(), 3);
}

#[test]
fn a_clock_that_stepped_back_does_not_stop_the_world() {
    let mut fleet = Fleet::of(3);
    fleet.now = Timestamp::from_millis(fleet.now.as_millis() - 3_600_000);
    assert_eq!(fleet.describe(Some(4), &in_service(0..4)), Verdict::Accepted);
    assert_eq!(fleet.members(), 4);
}

#[test]
fn no_such_group_changes_no_roster() {
    let mut fleet = Fleet::of(3);
    fleet.state.apply(Input::DoesNotExist, &GuardPolicy::default(), fleet.now);
    assert!(fleet.state.missing);
    assert_eq!(fleet.members(), 3);
    let mut unknown = FleetState::unknown("g".parse().unwrap());
    assert!(!unknown.is_answered());
    unknown.apply(Input::DoesNotExist, &GuardPolicy::default(), fleet.now);
    assert!(unknown.is_answered() && unknown.roster.is_none());
}

#[test]
fn an_empty_file_without_a_desired_number_is_held_for_a_minute() {
    let mut fleet = Fleet::of(2);
    assert!(is_held(&fleet.later(1).describe(None, &[])));
    assert!(is_held(&fleet.later(20).describe(None, &[])));
    assert_eq!(fleet.later(40).describe(None, &[]), Verdict::Accepted);
    assert_eq!(fleet.members(), 0);
}

#[test]
fn the_timeline_is_bounded() {
    let mut fleet = Fleet::of(1);
    for n in 0..200 {
        fleet.later(30).describe(Some(2), &in_service(n..n + 2));
    }
    assert_eq!(fleet.state.changes.len(), MAX_CHANGES);
}

#[test]
fn a_store_that_was_filled_anew_by_someone_who_knew_less_forgets_no_death() {
    let mut knows = Fleet::of(4);
    knows.describe(Some(4), &in_service(0..4));
    let mut less = knows.state.clone();
    knows.event(1, FactKind::Terminating);
    let before = knows.state.roster.as_ref().unwrap().revision();
    let at = knows.now + Duration::from_secs(5);
    let describe = Describe { made_at: at, desired: Some(4), instances: in_service(0..4) };
    less.apply(Input::Described { describe, proof: Proof::default() }, &GuardPolicy::default(), at);
    knows.state.adopt(&less, at);
    assert_eq!(knows.state_of(1), Some(MemberState::Draining));
    assert_eq!(knows.state.confirmed_at, Some(at), "the describe is the other's");
    assert!(knows.state.roster.as_ref().unwrap().revision() >= before);
    // The other one hears of it in turn, and then the two agree.
    less.adopt(&knows.state, at);
    assert_eq!(less, knows.state);
}

#[test]
fn adopting_what_descends_from_this_state_adds_nothing_to_it() {
    let mut fleet = Fleet::of(4);
    fleet.describe(Some(4), &in_service(0..4));
    fleet.event(0, FactKind::Terminating);
    let mut behind = fleet.state.clone();
    fleet.later(30).describe(Some(3), &in_service(1..4));
    behind.adopt(&fleet.state, fleet.now);
    assert_eq!(behind, fleet.state);
    // A describe by a clock that stepped back is the later one all the same.
    let at = Timestamp::from_millis(fleet.now.as_millis() - 3_600_000);
    let describe = Describe { made_at: at, desired: Some(4), instances: in_service(1..5) };
    fleet.state.apply(Input::Described { describe, proof: Proof::default() }, &GuardPolicy::default(), at);
    behind.adopt(&fleet.state, at);
    assert_eq!(behind, fleet.state);
}

#[test]
fn joining_a_record_without_a_roster_changes_no_revision() {
    let mut fleet = Fleet::of(3);
    fleet.describe(Some(3), &in_service(0..3));
    let roster = fleet.state.roster.clone();
    let mut ignorant = FleetState::unknown("f".parse().unwrap());
    let fact = Fact { instance: id(9), kind: FactKind::Terminating, at: fleet.now };
    ignorant.apply(Input::Learned(fact), &GuardPolicy::default(), fleet.now);
    for join in [FleetState::merge, FleetState::adopt] {
        let mut joined = fleet.state.clone();
        assert_eq!(join(&mut joined, &ignorant, fleet.now), None);
        assert_eq!(joined.roster, roster);
        assert!(joined.overlay.is_dying(&id(9)));
        assert_eq!(joined.snapshot, fleet.state.snapshot);
    }
    let mut missing = FleetState::unknown("f".parse().unwrap());
    missing.apply(Input::DoesNotExist, &GuardPolicy::default(), fleet.now);
    let mut unknown = FleetState::unknown("f".parse().unwrap());
    unknown.adopt(&missing, fleet.now);
    assert!(unknown.missing);
}

#[test]
fn a_joined_overlay_keeps_its_limit() {
    let of = |from: usize| {
        let mut state = FleetState::unknown("f".parse().unwrap());
        let entry = Entry { dying: Some(Timestamp::from_millis(1)), ..Entry::default() };
        state.overlay.entries = (from..from + limits::MAX_OVERLAY).map(|n| (id(n), entry)).collect();
        state
    };
    let mut joined = of(0);
    joined.merge(&of(limits::MAX_OVERLAY - 3), Timestamp::from_millis(2));
    assert_eq!(joined.overlay.entries.len(), limits::MAX_OVERLAY);
}
