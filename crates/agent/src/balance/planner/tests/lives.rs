//! Collectors that are neither dead nor well, light traffic, and our own pauses.

use super::world::{Mood, World, ms};
use super::{BYTES, WINDOW, busy, connect, one_window, secs};
use crate::balance::planner::{Action, Path, Why};
use crate::trouble::Kind;
use pikepole_spool::Seq;

/// One line a second or so, until `over`.
fn trickle(world: &mut World, every: std::time::Duration, limit: u64, over: impl Fn(&World) -> bool) {
    let end = world.now + secs(limit);
    while !over(world) {
        assert!(world.now < end, "{:?} {:?}", world.planner.status(), world.dead);
        world.fill(1, 1, 300);
        world.run(every);
    }
}

#[test]
fn one_wedged_collector_does_not_keep_poison_for_ever() {
    for mood in [Mood::Hung, Mood::Closes] {
        let mut world = World::new(&[1, 2], 3);
        world.mood(2, mood);
        world.poison.insert((Seq(5), 0));
        trickle(&mut world, ms(300), 600, |world| !world.dead.is_empty());
        world.finish(secs(600));
        assert_eq!(world.dead, [(Seq(5), 0)], "{mood:?}");
    }
}

#[test]
fn restarts_beside_a_wedged_collector_strand_nothing() {
    for seed in 0..10 {
        let mut world = World::new(&[1, 2], seed);
        world.mood(2, Mood::Hung);
        world.fill(300, WINDOW, BYTES);
        for _ in 0..20 {
            world.run(ms(700));
            world.cut(1);
        }
        world.finish(secs(300));
        assert_eq!(world.dead, [], "seed {seed}");
    }
}

#[test]
fn under_light_traffic_poison_is_judged_and_nobody_is_closed_on_all_day() {
    for every in [ms(700), secs(5), secs(45)] {
        let mut world = World::new(&[1, 2], 5);
        world.poison.insert((Seq(3), 0));
        trickle(&mut world, every, 900, |world| !world.dead.is_empty());
        assert!(world.closes.len() < 20, "{} closes at {every:?}", world.closes.len());
        world.finish(secs(60));
        let kinds: Vec<_> = world.planner.troubles(world.now).iter().map(|t| t.0).collect();
        assert!(!kinds.contains(&Kind::CollectorFailing), "{kinds:?}");
    }
}

#[test]
fn a_lone_poison_event_is_tried_less_and_less_until_others_pass() {
    let mut world = World::new(&[1, 2], 5);
    world.poison.insert((Seq(0), 0));
    world.fill(1, 1, 300);
    world.run(secs(3600));
    assert!(world.closes.len() < 100, "{} closes in an hour", world.closes.len());
    assert_eq!(world.dead, []);
    trickle(&mut world, secs(1), 120, |world| !world.dead.is_empty());
}

#[test]
fn an_innocent_event_that_is_alone_is_sent_again_at_once() {
    let mut world = World::new(&[1], 5);
    world.collectors.get_mut(&1).unwrap().latency = ms(200);
    world.fill(1, 1, 300);
    world.run(ms(100));
    world.cut(1);
    world.run(secs(1));
    assert!(world.done.contains(&Seq(0)));
}

#[test]
fn a_collector_that_ends_idle_connections_is_healthy() {
    for why in [Why::Closed, Why::Reset] {
        let (mut planner, mut now, mut conn, number) = one_window();
        planner.acked(conn, number, now);
        for _ in 0..10 {
            now += secs(60);
            planner.closed(conn, why, "idle", now);
            planner.poll(now);
            now += secs(1);
            conn = planner.poll(now).iter().filter_map(connect).chain([conn + 2]).next().unwrap_or(conn);
            planner.connected(conn, now);
            planner.poll(now);
        }
        let status = planner.status();
        assert!(status.collectors[0].connects > 5, "{status:?}");
        assert_eq!((status.collectors[0].failures_in_a_row, status.collectors[0].failures.len()), (0, 0));
    }
}

#[test]
fn windows_that_are_acked_with_one_ack_are_sent_one_at_a_time_after_that() {
    let mut world = World::new(&[1], 5);
    world.mood(1, Mood::Merges);
    for _ in 0..300 {
        world.fill(1, 7, 20_000);
        world.fill(1, 600, 40_000);
    }
    world.finish(secs(60));
    let closes = world.closes.len();
    assert!((1..4).contains(&closes), "{closes} times left");
}

/// A planner that is asked late, after `pause`, with everything in order before.
fn after_a_pause(pause: u64) -> (Vec<Action>, u64) {
    let (mut planner, mut now, conn, number) = one_window();
    planner.written(conn, number, now);
    for _ in 0..20 {
        for action in planner.poll(now) {
            if let Action::Probe { conn } = action {
                planner.probed(conn, Path::Data(ms(5)), now);
            }
        }
        now += ms(50);
    }
    (planner.poll(now + secs(pause)), conn)
}

#[test]
fn a_pause_of_ourselves_is_no_fault_of_a_collector() {
    for pause in [3, 30, 300] {
        let (actions, conn) = after_a_pause(pause);
        assert!(!actions.contains(&Action::Close { conn }), "{pause}: {actions:?}");
    }
    let mut world = busy();
    for _ in 0..20 {
        world.run(ms(130));
        world.sleep(secs(40));
    }
    world.finish(secs(60));
    let status = world.planner.status();
    assert_eq!((world.closes.len(), status.events_resent), (0, 0), "{status:?}");
}

#[test]
fn small_blocks_that_waited_share_a_window_and_are_each_done() {
    let mut world = World::new(&[1], 5);
    world.collectors.get_mut(&1).unwrap().latency = ms(500);
    world.fill(2_000, 10, 1_000);
    world.run(secs(10));
    // One window at a time is acked here every 500 ms.
    assert!(world.done.len() > 1_500, "{} of 2000 in {} windows", world.done.len(), world.windows);
    world.finish(secs(60));
    let status = world.planner.status();
    assert_eq!((status.blocks_done, status.events_acked, status.bytes_acked), (2_000, 20_000, 2_000_000));
    assert_eq!((status.events_resent, status.events_sent, world.sends.len()), (0, 20_000, 2_000));
    let seqs: Vec<_> = world.sends.iter().map(|(_, _, batch)| batch.seq).collect();
    assert!(seqs.is_sorted(), "oldest first");
}

#[test]
fn full_windows_and_lone_blocks_go_as_they_came() {
    let mut world = World::new(&[1, 2], 5);
    world.fill(200, WINDOW / 3, BYTES);
    world.finish(secs(60));
    assert_eq!(world.windows, 200, "not worth the work");
    for _ in 0..50 {
        world.fill(1, 1, 300);
        world.run(ms(100));
    }
    assert_eq!(world.windows, 250, "nothing waited");
}

#[test]
fn poison_in_a_shared_window_is_found_between_its_blocks() {
    for collectors in [&[1, 2, 3][..], &[1]] {
        let mut world = World::new(collectors, 5);
        world.collectors.values_mut().for_each(|c| c.latency = ms(100));
        world.poison.extend([(Seq(700), 3), (Seq(701), 0)]);
        world.fill(1_200, 5, 1_000);
        trickle(&mut world, ms(100), 600, |world| world.dead.len() == 2);
        world.finish(secs(200));
        assert_eq!(world.dead.iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
        assert!(world.closes.len() < 100, "{} closes", world.closes.len());
    }
}

#[test]
fn a_collector_that_dies_with_shared_windows_makes_nothing_done_twice() {
    for seed in 0..4 {
        let mut world = World::new(&[1, 2], seed);
        world.collectors.values_mut().for_each(|c| c.latency = ms(200));
        world.fill(1_500, 5, 1_000);
        for round in 0..12u64 {
            world.run(ms(150 + (seed * 31 + round * 77) % 400));
            match round % 3 {
                0 => world.cut(1 + (round % 2) as u8),
                1 => world.mood(1, Mood::Dead),
                _ => world.mood(1, Mood::Live),
            }
        }
        world.finish(secs(300));
        assert_eq!(world.dead, [], "seed {seed}");
    }
}

#[test]
fn no_collector_is_told_when_they_only_accept_connections() {
    for mood in [Mood::Hung, Mood::Closes] {
        let mut world = World::new(&[1, 2], 5);
        [1, 2].iter().for_each(|id| world.mood(*id, mood));
        world.fill(100, 10, 1_000);
        let mut told = 0;
        for _ in 0..120 {
            world.run(secs(1));
            let kinds: Vec<_> = world.planner.troubles(world.now).iter().map(|t| t.0).collect();
            told += usize::from(kinds.contains(&Kind::NoCollector));
        }
        assert!(told > 80, "{mood:?}: told for {told} of 120 s");
        [1, 2].iter().for_each(|id| world.mood(*id, Mood::Live));
        world.finish(secs(60));
        world.run(secs(1));
        assert_eq!(world.planner.status().state.as_str(), "sending");
    }
}

/// Two collectors; three windows are planned at the first, of which one is begun.
#[test]
fn what_is_not_on_the_wire_is_taken_back_from_a_member_that_leaves() {
    let (mut planner, mut now, conn, number) = one_window();
    planner.acked(conn, number, now);
    let mut numbers = Vec::new();
    for seq in 1..4 {
        planner.block(Seq(seq), WINDOW, BYTES);
        now += ms(60);
        numbers.extend(planner.poll(now).iter().filter_map(super::send));
    }
    assert_eq!(numbers.len(), 2);
    planner.begun(conn, numbers[0], now);
    let members = vec![super::world::member(2, pikepole_api::v1::MemberState::Active)];
    planner.roster(&pikepole_api::v1::Roster { members, ..super::roster_of(2) }, now);
    let actions = planner.poll(now);
    assert!(actions.contains(&Action::Recall { conn }), "{actions:?}");
    planner.recalled(conn, numbers[1]);
    planner.acked(conn, numbers[0], now);
    planner.poll(now);
    let other = conn + 1;
    planner.connected(other, now);
    let sends: Vec<_> = planner.poll(now).iter().filter_map(super::send).collect();
    assert_eq!(sends.len(), 1, "it goes to the other");
    let status = planner.status();
    assert_eq!((status.events_resent, status.events_sent), (0, 2 * u64::from(WINDOW)));
}

#[test]
fn a_window_that_could_not_be_written_in_time_is_smaller_the_next_time() {
    let (mut planner, mut now, conn, _) = one_window();
    planner.connected(conn + 1, now);
    let actions = super::pass(&mut planner, secs(10), &mut now);
    let events: Vec<u32> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { batches, .. } => Some(batches.iter().map(|batch| batch.events()).sum()),
            _ => None,
        })
        .collect();
    assert_eq!(events, [WINDOW / 2]);
}

#[test]
fn a_slow_disk_of_ours_is_no_silence_of_a_collector() {
    let (mut planner, mut now, conn, number) = one_window();
    planner.acked(conn, number, now);
    planner.block(Seq(1), WINDOW, BYTES);
    now += ms(60);
    let second = planner.poll(now).iter().find_map(super::send).unwrap();
    for _ in 0..60 {
        assert!(!super::pass(&mut planner, secs(1), &mut now).contains(&Action::Close { conn }));
    }
    planner.begun(conn, second, now);
    assert!(super::pass(&mut planner, secs(10), &mut now).contains(&Action::Close { conn }));
}
