//! States of fleets for tests: one that uses every field, and arbitrary ones.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use pikepole_fleet::{
    Cause, Change, Describe, Doubt, Entry, FactKind, FleetState, Hold, Hook, HookEnd, Instance, InstanceId,
    Life, Lifecycle, Lives, Member, MemberChange, MemberState, Overlay, Revision, Roster, Timestamp,
    Transition, Waiting, Zone,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

/// A state in which nothing is left out.
pub(crate) fn rich_state(fleet: &str) -> FleetState {
    let at = Timestamp::from_millis;
    let id = |i: u8| -> InstanceId { format!("i-{i}").parse().unwrap() };
    let zone = || Some("ap-south-1a".parse().unwrap());
    let address = |i: u8| SocketAddr::from(([10, 0, 0, i], 5044));
    let instance = |i, lifecycle| Instance { id: id(i), lifecycle, address: Some(address(i)), zone: zone() };
    let member = |i, state| Member { instance_id: id(i), address: address(i), zone: zone(), state };
    let bare = Instance { id: id(3), lifecycle: Lifecycle::Launching, address: None, zone: None };
    let members = vec![member(1, MemberState::Active), member(2, MemberState::Draining)];
    let touched = MemberChange {
        instance_id: id(2),
        address: address(2),
        from: Some(MemberState::Active),
        to: Some(MemberState::Draining),
    };
    let name: pikepole_fleet::FleetName = fleet.parse().unwrap();
    FleetState {
        snapshot: Some(Describe {
            made_at: at(1_763_800_000_000),
            desired: Some(3),
            instances: vec![instance(1, Lifecycle::InService), instance(2, Lifecycle::InService), bare],
        }),
        overlay: Overlay {
            entries: [(id(2), Entry { dying: Some(at(1_763_800_000_100)), ..Entry::default() })].into(),
        },
        lives: Lives([(id(2), rich_life())].into()),
        hold: Some(Hold {
            doubt: Doubt::Shrink { from: 9, to: 3, unproven: 6 },
            since: at(1_763_800_000_050),
            reads: 2,
            not_found: [id(7)].into(),
        }),
        missing: true,
        roster: Some(Arc::new(Roster::new(
            name.clone(),
            Revision::new(1_763_800_000_123),
            at(1_763_800_000_123),
            members,
        ))),
        confirmed_at: Some(at(1_763_800_000_000)),
        changes: [Change {
            at: at(1_763_800_000_123),
            revision: Revision::new(1_763_800_000_123),
            cause: Cause::Event(FactKind::Terminating),
            members: vec![touched],
        }]
        .into(),
        fleet: name,
    }
}

fn rich_life() -> Life {
    let at = |ms: u64| Some(Timestamp::from_millis(1_763_800_000_000 + ms));
    let hook = Hook {
        name: "drain".parse().unwrap(),
        token: Some("465e0162-e6af-4786-b4e8-bb544ae58790".parse().unwrap()),
        transition: Transition::Terminating,
    };
    let wait = |done| Waiting { hook: hook.clone(), since: at(1).unwrap(), until: at(90_000).unwrap(), done };
    Life {
        launched: at(1),
        answered: at(2),
        given_up: at(3),
        in_service: at(4),
        warned: at(5),
        draining: at(6),
        moved_off: at(7),
        gone: at(8),
        awaited: true,
        waiting: vec![wait(None), wait(at(9).map(|at| (at, HookEnd::Converged)))],
        clear: [Revision::new(1_763_800_000_123)].into(),
    }
}

/// Any state of this fleet.
pub(crate) fn state(fleet: &'static str) -> impl Strategy<Value = FleetState> {
    let overlay = btree_map(id(), entry(), 0..4).prop_map(|entries| Overlay { entries });
    let lives = btree_map(id(), life(), 0..3).prop_map(Lives);
    let believed = (option::of(describe()), overlay, lives, option::of(hold()), any::<bool>());
    let published = (option::of(roster(fleet)), option::of(time()), vec(change(), 0..4));
    (believed, published).prop_map(
        move |((snapshot, overlay, lives, hold, missing), (roster, confirmed_at, changes))| FleetState {
            fleet: fleet.parse().unwrap(),
            snapshot,
            overlay,
            lives,
            hold,
            missing,
            roster: roster.map(Arc::new),
            confirmed_at,
            changes: changes.into(),
        },
    )
}

fn life() -> impl Strategy<Value = Life> {
    let times = proptest::array::uniform8(option::of(time()));
    let clear = btree_set(any::<u64>().prop_map(Revision::new), 0..3);
    (times, any::<bool>(), vec(waiting(), 0..3), clear).prop_map(|(times, awaited, waiting, clear)| {
        let [launched, answered, given_up, in_service, warned, draining, moved_off, gone] = times;
        Life {
            launched,
            answered,
            given_up,
            in_service,
            warned,
            draining,
            moved_off,
            gone,
            awaited,
            waiting,
            clear,
        }
    })
}

fn waiting() -> impl Strategy<Value = Waiting> {
    use HookEnd::*;
    let transition = prop::sample::select(vec![Transition::Launching, Transition::Terminating]);
    let token = option::of("[a-f0-9-]{1,36}".prop_map(|s| s.parse().unwrap()));
    let end = prop::sample::select(vec![Converged, Deadline, Ready, GaveUp, NoSuchAction, Gone]);
    ("[a-zA-Z0-9_/-]{1,12}", token, transition, time(), time(), option::of((time(), end))).prop_map(
        |(name, token, transition, since, until, done)| Waiting {
            hook: Hook { name: name.parse().unwrap(), token, transition },
            since,
            until,
            done,
        },
    )
}

fn describe() -> impl Strategy<Value = Describe> {
    let instance = (id(), lifecycle(), option::of(address()), option::of(zone()))
        .prop_map(|(id, lifecycle, address, zone)| Instance { id, lifecycle, address, zone });
    (time(), option::of(any::<u32>()), vec(instance, 0..5))
        .prop_map(|(made_at, desired, instances)| Describe { made_at, desired, instances })
}

fn roster(fleet: &'static str) -> impl Strategy<Value = Roster> {
    let member = (id(), address(), option::of(zone()), member_state())
        .prop_map(|(instance_id, address, zone, state)| Member { instance_id, address, zone, state });
    (any::<u64>(), time(), vec(member, 0..5)).prop_map(move |(revision, at, members)| {
        Roster::new(fleet.parse().unwrap(), Revision::new(revision), at, members)
    })
}

fn hold() -> impl Strategy<Value = Hold> {
    let not_found = btree_set(id(), 0..3).prop_map(|ids: BTreeSet<InstanceId>| ids);
    (doubt(), time(), any::<u32>(), not_found).prop_map(|(doubt, since, reads, not_found)| Hold {
        doubt,
        since,
        reads,
        not_found,
    })
}

fn change() -> impl Strategy<Value = Change> {
    let member = (id(), address(), option::of(member_state()), option::of(member_state()))
        .prop_map(|(instance_id, address, from, to)| MemberChange { instance_id, address, from, to });
    (time(), any::<u64>(), cause(), vec(member, 0..4)).prop_map(|(at, revision, cause, members)| Change {
        at,
        revision: Revision::new(revision),
        cause,
        members,
    })
}

fn doubt() -> impl Strategy<Value = Doubt> {
    prop_oneof![
        any::<u32>().prop_map(|desired| Doubt::EmptyDespiteDesired { desired }),
        any::<usize>().prop_map(|in_service| Doubt::NoAddress { in_service }),
        any::<usize>().prop_map(|unproven| Doubt::NoneLeft { unproven }),
        Just(Doubt::EmptyOnPurpose),
        any::<[usize; 3]>().prop_map(|[from, to, unproven]| Doubt::Shrink { from, to, unproven }),
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    let kind = prop::sample::select(vec![
        FactKind::Launching,
        FactKind::Terminating,
        FactKind::SpotInterruption,
        FactKind::Rebalance,
    ]);
    prop_oneof![
        Just(Cause::Source),
        Just(Cause::SourceAfterHold),
        Just(Cause::Probe),
        kind.prop_map(Cause::Event)
    ]
}

fn lifecycle() -> impl Strategy<Value = Lifecycle> {
    use Lifecycle::*;
    prop::sample::select(vec![Launching, InService, Leaving, Away, Unknown])
}

fn member_state() -> impl Strategy<Value = MemberState> {
    use MemberState::*;
    prop::sample::select(vec![Active, LastResort, Draining])
}

fn entry() -> impl Strategy<Value = Entry> {
    (option::of(time()), option::of(time()), option::of(time()))
        .prop_map(|(dying, launched, advised)| Entry { dying, launched, advised })
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

fn address() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>().prop_map(|a| SocketAddr::new(a.ip(), a.port()))
}

fn id() -> impl Strategy<Value = InstanceId> {
    "[a-zA-Z0-9._-]{1,12}".prop_map(|s| s.parse().unwrap())
}

fn zone() -> impl Strategy<Value = Zone> {
    "[a-z0-9-]{1,12}".prop_map(|s| s.parse().unwrap())
}
