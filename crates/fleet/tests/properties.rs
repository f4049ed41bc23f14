//! Random lives of a fleet: describes that tell the truth, lie or fail, events that come twice, late or
//! in any order, clocks that step. The invariants of the design hold after every step.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::time::Duration;

use pikepole_fleet::drain::{self, Step as Due};
use pikepole_fleet::{
    Describe, Fact, FactKind, FleetState, GuardPolicy, Hook, Input, Instance, InstanceId, Lifecycle, Member,
    MemberState, Probed, Proof, Revision, Timestamp, Transition, Verdict,
};
use proptest::prelude::*;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Launch,
    /// The n-th instance comes into service.
    Serve(usize),
    /// The n-th instance begins to leave; its event is delivered now, twice, or never.
    Leave(usize, u8),
    /// The n-th instance is gone.
    Remove(usize),
    /// The n-th instance may be taken away.
    Advise(usize),
    /// A whole and true answer.
    Describe,
    /// An answer without some of the instances, which the source does not know to be partial.
    Partial(u8),
    /// An answer without any instance.
    Empty,
    /// An answer without addresses.
    NoAddresses,
    /// An event of the past is delivered again.
    Replay(usize),
    Wait(u32),
    ClockBack(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Launch),
        4 => (0..20_usize).prop_map(Step::Serve),
        2 => (0..20_usize, 0..3_u8).prop_map(|(i, times)| Step::Leave(i, times)),
        2 => (0..20_usize).prop_map(Step::Remove),
        1 => (0..20_usize).prop_map(Step::Advise),
        5 => Just(Step::Describe),
        2 => any::<u8>().prop_map(Step::Partial),
        1 => Just(Step::Empty),
        1 => Just(Step::NoAddresses),
        1 => (0..50_usize).prop_map(Step::Replay),
        4 => (1..40_u32).prop_map(Step::Wait),
        1 => (1..3_600_u32).prop_map(Step::ClockBack),
    ]
}

/// The truth, and the state that has to find it out.
struct World {
    now: Timestamp,
    instances: BTreeMap<InstanceId, Lifecycle>,
    launched: u32,
    events: Vec<Fact>,
    state: FleetState,
    lies_in_a_row: u32,
}

impl World {
    fn new() -> Self {
        Self {
            now: Timestamp::from_millis(1_700_000_000_000),
            instances: BTreeMap::new(),
            launched: 0,
            events: Vec::new(),
            state: FleetState::unknown("f".parse().unwrap()),
            lies_in_a_row: 0,
        }
    }

    fn nth(&self, n: usize) -> Option<InstanceId> {
        (!self.instances.is_empty())
            .then(|| self.instances.keys().nth(n % self.instances.len()).cloned())
            .flatten()
    }

    fn describe(&self, keep: impl Fn(usize) -> bool, with_address: bool) -> Describe {
        let instance = |(n, (id, lifecycle)): (usize, (&InstanceId, &Lifecycle))| Instance {
            id: id.clone(),
            lifecycle: *lifecycle,
            address: with_address.then(|| format!("10.0.0.{}:5044", n % 250 + 1).parse().unwrap()),
            zone: None,
        };
        let kept = self.instances.iter().enumerate().filter(|(n, _)| keep(*n));
        let desired = self.instances.values().filter(|l| **l != Lifecycle::Leaving).count();
        Describe { made_at: self.now, desired: Some(desired as u32), instances: kept.map(instance).collect() }
    }

    fn hear(&mut self, fact: Fact) {
        self.apply(Input::Learned(fact));
    }

    fn apply(&mut self, input: Input) -> Verdict {
        let before = self.state.clone();
        let outcome = self.state.apply(input, &GuardPolicy::default(), self.now);
        self.check(&before, outcome.change.is_some());
        outcome.verdict
    }

    /// The invariants, after every single input.
    fn check(&self, before: &FleetState, changed: bool) {
        let (old, new) = (before.roster.as_deref(), self.state.roster.as_deref());
        let (Some(old), Some(new)) = (old, new) else {
            assert!(old.is_none(), "a roster that is known stays known");
            return;
        };
        assert_eq!(changed, old.members() != new.members(), "a change is told exactly when there is one");
        assert_eq!(
            changed,
            old.revision() != new.revision(),
            "the revision changes exactly with the content"
        );
        assert!(new.revision() >= old.revision(), "revisions grow");
        assert_eq!(new.members().is_empty(), new.hosts().is_empty(), "only an empty fleet has an empty list");
        let serving = new.members().iter().filter(|m| m.state != MemberState::Draining).count();
        let last = new.members().iter().filter(|m| m.state == MemberState::LastResort).count();
        assert!(last * 2 <= serving, "at most half of a fleet is put in the last row");
        for member in new.members() {
            if self.state.overlay.is_dying(&member.instance_id) {
                assert_eq!(member.state, MemberState::Draining, "what is known to die gets nothing new");
            }
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Launch => {
                self.launched += 1;
                let id = format!("i-{:05}", self.launched).parse().unwrap();
                self.instances.insert(id, Lifecycle::Launching);
            }
            Step::Serve(n) => {
                if let Some(id) = self.nth(n).filter(|id| self.instances[id] == Lifecycle::Launching) {
                    self.instances.insert(id, Lifecycle::InService);
                }
            }
            Step::Leave(n, deliveries) => {
                if let Some(id) = self.nth(n) {
                    self.instances.insert(id.clone(), Lifecycle::Leaving);
                    let fact = Fact { instance: id, kind: FactKind::Terminating, at: self.now };
                    self.events.push(fact.clone());
                    for _ in 0..deliveries {
                        self.hear(fact.clone());
                    }
                }
            }
            Step::Remove(n) => {
                if let Some(id) = self.nth(n).filter(|id| self.instances[id] == Lifecycle::Leaving) {
                    self.instances.remove(&id);
                }
            }
            Step::Advise(n) => {
                if let Some(id) = self.nth(n) {
                    self.hear(Fact { instance: id, kind: FactKind::Rebalance, at: self.now });
                }
            }
            Step::Describe => {
                self.lies_in_a_row = 0;
                let describe = self.describe(|_| true, true);
                self.apply(Input::Described { describe, proof: Proof::default() });
            }
            Step::Partial(mask) => {
                self.lies_in_a_row += 1;
                let kept = |n: usize| mask.rotate_left(n as u32 % 8) & 1 == 1;
                self.lie(self.describe(kept, true));
            }
            Step::Empty => {
                self.lies_in_a_row += 1;
                self.lie(self.describe(|_| false, true));
            }
            Step::NoAddresses => {
                self.lies_in_a_row += 1;
                self.lie(self.describe(|_| true, false));
            }
            Step::Replay(n) => {
                if let Some(fact) = self.events.get(n).cloned() {
                    self.hear(fact);
                }
            }
            Step::Wait(seconds) => self.now = self.now + Duration::from_secs(u64::from(seconds)),
            Step::ClockBack(seconds) => {
                self.now = Timestamp::from_millis(self.now.as_millis() - u64::from(seconds) * 1000);
            }
        }
    }

    /// What the source says is not the truth: a roster must not empty because of it, nor lose most of
    /// its members, unless the lie was told three times in a row.
    fn lie(&mut self, describe: Describe) {
        let count = |state: &FleetState| state.roster.as_ref().map_or(0, |r| r.members().len());
        let dying = |state: &FleetState| {
            let members = state.roster.as_ref().map_or(&[][..], |r| r.members());
            members.iter().filter(|m| m.state == MemberState::Draining).count()
        };
        let (before, going) = (count(&self.state), dying(&self.state));
        let listed: Vec<InstanceId> = describe.instances.iter().map(|i| i.id.clone()).collect();
        let leaving_now = describe.instances.iter().filter(|i| i.lifecycle == Lifecycle::Leaving).count();
        self.apply(Input::Described { describe, proof: Proof::default() });
        let after = count(&self.state);
        let steady = before - going.min(before);
        if self.lies_in_a_row < 3 && steady > 1 {
            assert!(
                after + leaving_now > 0,
                "a lie emptied the roster: {steady} steady members, the answer listed {listed:?}"
            );
        }
    }
}

/// What reaches the fleet, in whatever order.
#[derive(Debug, Clone)]
enum Word {
    /// Of instance n: an event of this kind, at this second, with the hook of this number.
    Event(usize, FactKind, u64, Option<u8>),
    /// A describe with each instance in this state; 5: not listed.
    Describe(Vec<u8>),
    /// The n-th instance's port answers, or the time for that is up.
    Probe(usize, bool),
}

fn word() -> impl Strategy<Value = Word> {
    let kind = prop_oneof![
        3 => Just(FactKind::Launching),
        3 => Just(FactKind::Terminating),
        1 => Just(FactKind::SpotInterruption),
        1 => Just(FactKind::Rebalance),
    ];
    prop_oneof![
        5 => (0..6_usize, kind, 0..2_000_u64, prop::option::of(0..3_u8))
            .prop_map(|(n, kind, at, hook)| Word::Event(n, kind, at, hook)),
        3 => prop::collection::vec(0..6_u8, 6).prop_map(Word::Describe),
        1 => (0..6_usize, any::<bool>()).prop_map(|(n, answers)| Word::Probe(n, answers)),
    ]
}

fn lifecycle(word: u8) -> Option<Lifecycle> {
    let all =
        [Lifecycle::Launching, Lifecycle::InService, Lifecycle::Leaving, Lifecycle::Away, Lifecycle::Unknown];
    all.get(usize::from(word)).copied()
}

/// A fleet of two that stay, `i-s0` and `i-s1`, and six of whom everything is told.
struct Told {
    now: Timestamp,
    state: FleetState,
    policy: GuardPolicy,
}

impl Told {
    fn new() -> Self {
        let policy = GuardPolicy { probe: true, probe_unannounced: true, ..GuardPolicy::default() };
        let state = FleetState::unknown("f".parse().unwrap());
        Self { now: Timestamp::from_millis(1_700_000_000_000), state, policy }
    }

    fn apply(&mut self, input: Input) {
        self.state.apply(input, &self.policy, self.now);
    }

    fn describe(&mut self, words: &[u8]) {
        let stay = ["i-s0", "i-s1"].map(|id| (id.to_owned(), Lifecycle::InService));
        let told = words.iter().enumerate().filter_map(|(n, w)| Some((format!("i-{n}"), lifecycle(*w)?)));
        let all = stay.into_iter().chain(told).enumerate();
        let instances = all.map(|(place, (id, lifecycle))| Instance {
            id: id.parse().unwrap(),
            lifecycle,
            address: Some(format!("10.0.0.{}:5044", place + 1).parse().unwrap()),
            zone: None,
        });
        let describe = Describe { made_at: self.now, desired: None, instances: instances.collect() };
        self.apply(Input::Described { describe, proof: Proof::default() });
    }

    fn hear(&mut self, start: Timestamp, word: &Word) {
        let id = |n: usize| format!("i-{n}").parse::<InstanceId>().unwrap();
        match word {
            Word::Event(n, kind, at, hook) => {
                let at = start + Duration::from_secs(*at);
                let fact = Fact { instance: id(*n), kind: *kind, at };
                let transition = match kind {
                    FactKind::Launching => Transition::Launching,
                    _ => Transition::Terminating,
                };
                let hook = hook.filter(|_| matches!(kind, FactKind::Launching | FactKind::Terminating));
                match hook {
                    Some(number) => {
                        let name = format!("hook{number}").parse().unwrap();
                        let token = Some(format!("token-{}", at.as_millis()).parse().unwrap());
                        let until = self.now + Duration::from_secs(90);
                        self.apply(Input::HookWaits { fact, hook: Hook { name, token, transition }, until });
                    }
                    None => self.apply(Input::Learned(fact)),
                }
            }
            Word::Describe(words) => self.describe(words),
            Word::Probe(n, answers) => {
                let result = if *answers { Probed::Answered } else { Probed::GaveUp };
                self.apply(Input::Probed { instance: id(*n), result });
            }
        }
    }

    /// What the directory does by itself: probes that answer, and hooks that are due.
    fn act(&mut self) {
        for (id, life) in self.state.lives.clone().iter() {
            let listed = self.state.snapshot.as_ref().and_then(|s| s.get(id)).map(|i| i.lifecycle);
            if life.wants_probe() && matches!(listed, Some(Lifecycle::Launching | Lifecycle::InService)) {
                self.apply(Input::Probed { instance: id.clone(), result: Probed::Answered });
            }
            let steps =
                [drain::terminating(life, None, Duration::ZERO, self.now), drain::launching(life, self.now)];
            for (transition, step) in [Transition::Terminating, Transition::Launching].into_iter().zip(steps)
            {
                if let Due::Complete(end) = step {
                    for waiting in life.open(transition) {
                        let hook = waiting.hook.clone();
                        self.apply(Input::HookDone { instance: id.clone(), hook, end });
                    }
                }
            }
        }
    }

    /// Everything has been told; from here on the source tells the truth, and time goes by.
    fn settle(&mut self, truth: &[u8]) -> Vec<Member> {
        for _ in 0..6 {
            self.now = self.now + Duration::from_secs(700);
            self.describe(truth);
            self.act();
        }
        self.state.roster.as_ref().unwrap().members().to_vec()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_after_every_step(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        // Whatever happened: some true answers later, the roster is the truth.
        for _ in 0..8 {
            world.now = world.now + Duration::from_secs(3_700);
            world.run(Step::Describe);
        }
        if let Some(roster) = &world.state.roster {
            let serving = |l: &Lifecycle| matches!(l, Lifecycle::InService | Lifecycle::Leaving);
            let truth: Vec<_> = world.instances.iter().filter(|(_, l)| serving(l)).map(|(id, _)| id.clone()).collect();
            let known: Vec<_> = roster.members().iter().map(|m| m.instance_id.clone()).collect();
            // That nothing at all is left in a group that wants instances takes proof, which is not given
            // here: without it the last members stay listed.
            let unbelievable = !world.instances.values().any(|l| *l == Lifecycle::InService);
            prop_assert!(known == truth || unbelievable, "{known:?} is not {truth:?}");
            for member in roster.members() {
                let leaves = world.instances.get(&member.instance_id) == Some(&Lifecycle::Leaving);
                if !unbelievable {
                    prop_assert_eq!(member.state == MemberState::Draining, leaves);
                }
            }
        }
    }

    #[test]
    fn events_in_any_order_and_number_lead_to_the_same_members(
        facts in prop::collection::vec((0..6_usize, 0..4_usize, 0..2_000_u64), 1..20),
        order in any::<prop::sample::Index>(),
        twice in prop::collection::vec(any::<bool>(), 20),
    ) {
        let kinds = [FactKind::Launching, FactKind::Terminating, FactKind::SpotInterruption, FactKind::Rebalance];
        let start = Timestamp::from_millis(1_700_000_000_000);
        let facts: Vec<Fact> = facts
            .iter()
            .map(|(n, kind, second)| Fact {
                instance: format!("i-{n}").parse().unwrap(),
                kind: kinds[*kind],
                at: start + Duration::from_secs(*second),
            })
            .collect();
        let members = |facts: &[Fact]| {
            let mut world = World::new();
            for n in 0..6 {
                world.instances.insert(format!("i-{n}").parse().unwrap(), Lifecycle::InService);
            }
            world.now = start;
            world.run(Step::Describe);
            world.now = start + Duration::from_secs(2_000);
            for fact in facts {
                world.hear(fact.clone());
            }
            world.state.roster.unwrap().members().to_vec()
        };
        let mut other: Vec<Fact> = facts.iter().zip(&twice).flat_map(|(f, t)| vec![f.clone(); 1 + usize::from(*t)]).collect();
        let middle = order.index(other.len());
        other.rotate_left(middle);
        other.reverse();
        prop_assert_eq!(members(&facts), members(&other));
    }

    #[test]
    fn whatever_is_told_in_whatever_order_nobody_is_awaited_for_ever_and_no_drain_is_left(
        (words, shuffled) in prop::collection::vec(word(), 1..30)
            .prop_flat_map(|words| (Just(words.clone()), Just(words).prop_shuffle())),
        truth in prop::collection::vec(prop_oneof![3 => Just(1_u8), 1 => Just(2), 1 => Just(3), 2 => Just(5)], 6),
    ) {
        let end = |words: &[Word], times: usize| {
            let mut told = Told::new();
            let start = told.now;
            told.describe(&[1, 1, 1, 5, 5, 5]);
            told.now = start + Duration::from_secs(2_000);
            for word in words {
                told.now = told.now + Duration::from_secs(1);
                (0..times).for_each(|_| told.hear(start, word));
                told.act();
            }
            let members = told.settle(&truth);
            (members, told.state)
        };
        let (members, state) = end(&words, 1);
        let (other, other_state) = end(&shuffled, 2);
        prop_assert_eq!(&members, &other);
        let expected = |n: usize| match truth[n] {
            1 => Some(MemberState::Active),
            2 => Some(MemberState::Draining),
            _ => None,
        };
        for n in 0..6 {
            let id: InstanceId = format!("i-{n}").parse().unwrap();
            let found = members.iter().find(|m| m.instance_id == id).map(|m| m.state);
            prop_assert_eq!(found, expected(n), "{}", id);
        }
        for (id, life) in state.lives.iter().chain(other_state.lives.iter()) {
            let is_leaving = id.as_str().strip_prefix("i-").and_then(|n| n.parse::<usize>().ok())
                .is_some_and(|n| matches!(truth[n], 2 | 3));
            prop_assert!(!life.is_leaving() || is_leaving, "a drain is left: {} {:?}", id, life);
            prop_assert!(!life.awaited || life.gone.is_some(), "{} is awaited: {:?}", id, life);
            prop_assert!(!life.has_open(), "{} waits for its hook: {:?}", id, life);
            prop_assert!(life.clear.len() <= 256 && life.waiting.len() <= 16);
        }
    }

    #[test]
    fn two_replicas_that_went_separate_ways_agree_after_merging(
        left in prop::collection::vec(step(), 1..40),
        right in prop::collection::vec(step(), 1..40),
    ) {
        let mut a = World::new();
        for n in 0..5 {
            a.instances.insert(format!("i-{n:05}").parse().unwrap(), Lifecycle::InService);
        }
        a.run(Step::Describe);
        let mut b = World::new();
        b.instances = a.instances.clone();
        (a.launched, b.launched) = (100, 200);
        b.state = a.state.clone();
        left.into_iter().for_each(|s| a.run(s));
        right.into_iter().for_each(|s| b.run(s));
        let now = a.now.max(b.now);
        // One of them writes what it merged; the other reads it, and has nothing to add.
        let mut merged = a.state.clone();
        merged.merge(&b.state, now);
        let highest = a.state.roster.as_ref().map(|r| r.revision()).max(b.state.roster.as_ref().map(|r| r.revision()));
        prop_assert!(merged.roster.as_ref().map(|r| r.revision()) >= b.state.roster.as_ref().map(|r| r.revision()));
        if merged.changes.back() != b.state.changes.back() {
            prop_assert!(merged.roster.as_ref().map(|r| r.revision()) >= highest);
        }
        let mut other = b.state.clone();
        other.merge(&merged, now);
        prop_assert_eq!(other.roster.as_ref().map(|r| r.members().to_vec()), merged.roster.as_ref().map(|r| r.members().to_vec()));
        prop_assert_eq!(other.roster.map(|r| r.revision()), merged.roster.map(|r| r.revision()));
    }
}

#[test]
fn a_revision_of_the_future_is_never_undercut() {
    let mut world = World::new();
    world.instances.insert("i-1".parse().unwrap(), Lifecycle::InService);
    world.run(Step::Describe);
    let first = world.state.roster.as_ref().unwrap().revision();
    world.run(Step::ClockBack(3_600));
    world.instances.insert("i-2".parse().unwrap(), Lifecycle::InService);
    world.run(Step::Describe);
    assert_eq!(world.state.roster.as_ref().unwrap().revision(), Revision::new(first.get() + 1));
}
