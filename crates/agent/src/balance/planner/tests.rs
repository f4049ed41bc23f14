mod lives;
mod world;

use pikepole_api::v1::MemberState::{Active, Draining, LastResort};
use proptest::prelude::*;

use super::*;
use crate::trouble::Kind;
use world::{BUDGET, Mood, POLICY, World, ms};

const WINDOW: u32 = 2048;
const BYTES: u64 = 200 << 10;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three collectors under load.
fn busy() -> World {
    let mut world = World::new(&[1, 2, 3], 7);
    world.fill(400, WINDOW, BYTES);
    world.run(secs(1));
    for id in 1..=3 {
        assert!(world.in_flight(id) > 0, "{id} has nothing");
    }
    world
}

#[test]
fn everything_is_delivered_once_and_in_order() {
    let mut world = World::new(&[1, 2, 3], 1);
    world.fill(300, WINDOW, BYTES);
    world.finish(secs(60));
    let seqs: Vec<_> = world.sends.iter().map(|(_, _, batch)| batch.seq).collect();
    assert!(seqs.is_sorted() && seqs.len() == 300, "oldest first, each once");
    assert_eq!(world.planner.status().events_acked, 300 * u64::from(WINDOW));
    for (id, collector) in &world.collectors {
        assert!(collector.events > 60 * u64::from(WINDOW), "{id} carried little");
    }
}

#[test]
fn a_new_collector_carries_its_share_within_a_second() {
    for latency in [20, 200, 900] {
        let mut world = World::new(&[1, 2], 3);
        world.collectors.values_mut().for_each(|c| c.latency = ms(latency));
        world.fill(5_000, WINDOW, BYTES);
        world.run(secs(5));
        world.launch(3, ms(20));
        world.roster(&[(1, Active), (2, Active), (3, Active)]);
        world.run(secs(1));
        assert!(world.collectors[&3].events > 0, "nothing within a second at {latency} ms");
        let before: Vec<u64> = world.collectors.values().map(|c| c.events).collect();
        world.run(secs(2));
        let carried: Vec<u64> = world.collectors.values().zip(before).map(|(c, b)| c.events - b).collect();
        let share = carried.iter().sum::<u64>() / 4;
        assert!(carried[2] >= share, "{carried:?} at {latency} ms");
    }
}

#[test]
fn a_slow_collector_does_not_hold_the_others() {
    let mut world = World::new(&[1, 2, 3], 5);
    world.collectors.get_mut(&1).unwrap().latency = secs(5);
    world.fill(1_000, WINDOW, BYTES);
    world.run(secs(20));
    let events: Vec<u64> = world.collectors.values().map(|c| c.events / u64::from(WINDOW)).collect();
    assert!(events[1] + events[2] > 950, "{events:?}");
}

/// What was in flight at 1 when it changed its mood is elsewhere after `limit`, not much sooner.
fn left_within(mood: Mood, limit: Duration, least: Duration) {
    let mut world = busy();
    let begun = world.now;
    world.mood(1, mood);
    let sent = world.sends.len();
    world.run(limit);
    world.finish(secs(60) + limit * 3);
    let left = world.closes.iter().find(|(_, id)| *id == 1).expect("it is left").0;
    assert!(left <= begun + limit && left >= begun + least, "{mood:?} is left after {:?}", left - begun);
    let next = world.sends[sent..].iter().find(|(at, id, _)| *at >= left && *id != 1).unwrap();
    assert!(next.0 <= left + ms(200), "what was there goes elsewhere at once");
}

#[test]
fn a_killed_collector_is_left_at_once() {
    left_within(Mood::Dead, ms(200), ms(0));
}

#[test]
fn all_that_was_at_a_killed_collector_is_elsewhere_soon_even_if_acks_are_slow() {
    let mut world = World::new(&[1, 2, 3, 4], 3);
    world.collectors.values_mut().for_each(|c| c.latency = ms(400));
    world.fill(60, WINDOW, BYTES);
    world.run(ms(600));
    let killed = world.now;
    let (sent, held) = (world.sends.len(), world.in_flight(1));
    assert!(held >= 2, "{held}");
    world.mood(1, Mood::Dead);
    world.finish(secs(60));
    let seqs: BTreeSet<Seq> = world.sends[..sent].iter().map(|(_, _, batch)| batch.seq).collect();
    let again: Vec<_> =
        world.sends[sent..].iter().filter(|(_, _, batch)| seqs.contains(&batch.seq)).collect();
    assert_eq!(again.len(), held);
    assert!(again.iter().all(|(at, ..)| *at <= killed + ms(900)), "{again:?} {killed:?}");
}

#[test]
fn a_host_that_vanished_is_left_within_two_seconds() {
    left_within(Mood::Vanished, ms(2_250), ms(1_500));
}

#[test]
fn a_silent_collector_is_left_after_ten_seconds() {
    left_within(Mood::Hung, secs(10), ms(9_900));
}

#[test]
fn a_collector_that_only_keeps_alive_is_left_after_a_minute() {
    left_within(Mood::Stalled, secs(60), ms(59_900));
}

/// One window at one collector, then nothing but what the test does.
fn one_window() -> (Planner, Instant, u64, u64) {
    let now = Instant::now();
    let mut planner = Planner::new(POLICY, 1, now);
    let members = [1, 2].map(|id| world::member(id, Active)).to_vec();
    let roster = pikepole_api::v1::Roster { members, ..roster_of(1) };
    planner.roster(&roster, now);
    let conns: Vec<u64> = planner.poll(now).iter().filter_map(connect).collect();
    planner.connected(conns[0], now);
    assert_eq!(planner.poll(now), [Action::Fetch]);
    planner.block(Seq(0), WINDOW, BYTES);
    let number = planner.poll(now).iter().find_map(send).unwrap();
    planner.begun(conns[0], number, now);
    (planner, now, conns[0], number)
}

/// Time passes, and the planner is asked in time; what it says at the end.
fn pass(planner: &mut Planner, time: Duration, now: &mut Instant) -> Vec<Action> {
    let end = *now + time;
    while let Some(next) = planner.next_wake().filter(|next| *next < end) {
        *now = next.max(*now + ms(1));
        planner.poll(*now);
    }
    *now = end;
    planner.poll(end)
}

/// An ack that came twice passes for that of the next window. So there is none yet when it comes.
#[test]
fn the_first_window_goes_alone_and_the_next_when_a_doubled_ack_would_have_come() {
    let (mut planner, now, conn, number) = one_window();
    planner.written(conn, number, now);
    planner.block(Seq(1), WINDOW, BYTES);
    assert_eq!(planner.poll(now).iter().find_map(send), None, "one at a time");
    let acked = now + ms(5);
    planner.acked(conn, number, acked);
    assert_eq!(planner.poll(acked).iter().find_map(send), None, "not at once");
    assert_eq!(planner.poll(acked + ms(49)).iter().find_map(send), None);
    assert!(planner.next_wake().unwrap() <= acked + ms(50));
    assert!(planner.poll(acked + ms(50)).iter().find_map(send).is_some());
}

fn roster_of(revision: u64) -> pikepole_api::v1::Roster {
    let published_at = pikepole_api::time::Rfc3339(pikepole_fleet::Timestamp::from_millis(0));
    let (fleet, dc, region) = ("f".into(), "d".into(), "r".into());
    pikepole_api::v1::Roster { fleet, dc, region, revision, published_at, members: Vec::new() }
}

fn connect(action: &Action) -> Option<u64> {
    if let Action::Connect { conn, .. } = action { Some(*conn) } else { None }
}

fn send(action: &Action) -> Option<u64> {
    if let Action::Send { number, .. } = action { Some(*number) } else { None }
}

/// The first moment within `limit` at which the connection is closed by the planner, if the kernel always
/// says `path`.
fn closed_after(
    planner: &mut Planner,
    start: Instant,
    conn: u64,
    path: impl Fn(Duration) -> Path,
) -> Duration {
    let mut now = start;
    loop {
        for action in planner.poll(now) {
            match action {
                Action::Probe { conn } => planner.probed(conn, path(now - start), now),
                Action::Close { conn: closed } if closed == conn => return now - start,
                _ => {}
            }
        }
        now = planner.next_wake().unwrap();
    }
}

#[test]
fn the_time_limits_are_met_exactly() {
    let (mut planner, now, conn, number) = one_window();
    planner.written(conn, number, now);
    assert_eq!(closed_after(&mut planner, now, conn, Path::Data), ms(1_875), "nothing acknowledged since");
    let (mut planner, now, conn, number) = one_window();
    planner.written(conn, number, now);
    let was_idle = |since| Path::Data(since + secs(60));
    assert_eq!(closed_after(&mut planner, now, conn, was_idle), ms(1_875), "it was idle for a minute before");
    let (mut planner, now, conn, _) = one_window();
    assert_eq!(closed_after(&mut planner, now, conn, |_| Path::Clear), secs(10));
    let (mut planner, now, conn, _) = one_window();
    let answers = |since: Duration| Path::Data(ms(since.as_millis() as u64 % 1_500));
    assert_eq!(closed_after(&mut planner, now, conn, answers), secs(10), "the host answers");
    let (mut planner, now, conn, _) = one_window();
    let probe = |since: Duration| if since < secs(2) { Path::Clear } else { Path::Probe(since) };
    let left = closed_after(&mut planner, now, conn, probe);
    assert!(left >= ms(1_875) && left <= ms(2_125), "all was acknowledged, then the host vanished: {left:?}");
}

#[test]
fn keep_alives_hold_off_silence_but_not_progress() {
    let (mut planner, start, conn, _) = one_window();
    let mut now = start;
    let mut closed = None;
    while closed.is_none() {
        now += ms(500);
        if (now - start).as_millis() % 5_000 == 0 {
            planner.heard(conn, now);
        }
        closed = planner.poll(now).contains(&Action::Close { conn }).then_some(now - start);
    }
    assert_eq!(closed, Some(secs(60)));
}

#[test]
fn nothing_in_flight_means_no_limit() {
    let (mut planner, mut now, conn, number) = one_window();
    planner.acked(conn, number, now);
    for _ in 0..100 {
        now += secs(10);
        assert!(!planner.poll(now).contains(&Action::Close { conn }));
    }
}

#[test]
fn a_late_ack_from_the_old_place_is_taken_once() {
    let (mut planner, mut now, first, number) = one_window();
    let second = first + 1;
    planner.connected(second, now);
    planner.written(first, number, now);
    let actions = pass(&mut planner, secs(10), &mut now);
    let later = now;
    assert!(actions.contains(&Action::Close { conn: first }));
    let again = actions.iter().find_map(send).expect("it goes elsewhere at once");
    planner.acked(first, number, later);
    assert!(planner.poll(later).contains(&Action::Done(Seq(0))));
    planner.acked(first, number, later);
    planner.acked(second, again, later);
    planner.acked(second, again, later);
    planner.acked(99, 12_345, later);
    assert!(!planner.poll(later).iter().any(|action| matches!(action, Action::Done(_))));
    let status = planner.status();
    assert_eq!((status.events_acked, status.bytes_in_flight), (u64::from(WINDOW), 0));
}

#[test]
fn only_the_best_members_are_sent_to() {
    let mut world = World::new(&[1, 2, 3], 9);
    world.roster(&[(1, Draining), (2, LastResort), (3, Draining)]);
    world.fill(50, WINDOW, BYTES);
    world.finish(secs(30));
    assert!(world.sends.iter().all(|(_, id, _)| *id == 2));
    world.roster(&[(1, Draining), (3, Draining)]);
    world.fill(50, WINDOW, BYTES);
    world.finish(secs(30));
    assert!(world.sends[50..].iter().all(|(_, id, _)| *id != 2));
}

#[test]
fn a_draining_collector_is_applied_when_its_acks_are_in() {
    let mut world = busy();
    world.collectors.get_mut(&1).unwrap().latency = ms(700);
    world.run(secs(1));
    let before = world.planner.applied();
    world.roster(&[(1, Draining), (2, Active), (3, Active)]);
    assert!(world.in_flight(1) > 0);
    assert_eq!(world.planner.applied(), before, "not yet, but what was applied before still holds");
    let resent = world.planner.status().events_resent;
    while world.in_flight(1) > 0 {
        world.run(ms(10));
    }
    assert_eq!(world.planner.applied(), Some(world.revision));
    assert_eq!(world.planner.status().events_resent, resent, "its acks were waited for");
    assert_eq!(world.keys().len(), 2, "it is forgotten");
}

#[test]
fn a_swap_applies_nothing_until_the_old_one_is_left() {
    let mut world = World::new(&[1], 2);
    world.collectors.get_mut(&1).unwrap().latency = secs(1);
    world.fill(50, WINDOW, BYTES);
    world.run(ms(500));
    world.launch(2, ms(20));
    world.roster(&[(1, Draining), (2, Active)]);
    assert_eq!(world.planner.applied(), None, "2 may be sent to, 1 still holds something");
    world.run(secs(4));
    assert_eq!(world.planner.applied(), Some(2));
}

#[test]
fn one_that_left_the_roster_may_still_ack_but_not_for_ever() {
    let mut world = busy();
    world.mood(1, Mood::Stalled);
    world.run(secs(20));
    world.roster(&[(2, Active), (3, Active)]);
    let gone = world.now;
    assert!(world.in_flight(1) > 0);
    world.finish(secs(120));
    let left = world.closes.iter().find(|(_, id)| *id == 1).unwrap().0;
    assert!(left <= gone + secs(60));
    assert_eq!(world.planner.applied(), Some(world.revision));
}

#[test]
fn its_zone_comes_first_until_it_is_full() {
    let policy = Policy { zone: Some("a".into()), ..POLICY };
    let mut world = World::with(policy, &[1, 2], 4);
    for _ in 0..20 {
        world.fill(1, WINDOW, BYTES);
        world.run(ms(100));
    }
    assert!(world.sends.iter().all(|(_, id, _)| *id == 2), "2 is in zone a and has room");
    world.fill(500, WINDOW, BYTES);
    world.run(secs(1));
    assert!(world.collectors[&1].events > 0, "2 is full");
    world.mood(2, Mood::Dead);
    world.finish(secs(60));
}

#[test]
fn with_nobody_there_each_is_tried_every_few_seconds_and_all_stays_in_the_queue() {
    let mut world = busy();
    let start = world.now;
    (1..=3).for_each(|id| world.mood(id, Mood::Dead));
    world.run(secs(120));
    let status = world.planner.status();
    assert_eq!(status.state.as_str(), "no_collector");
    let kinds: Vec<_> = world.planner.troubles(world.now).iter().map(|t| t.0).collect();
    assert!(kinds.contains(&Kind::NoCollector) && kinds.contains(&Kind::CollectorFailing), "{kinds:?}");
    for collector in &status.collectors {
        let tries = collector.failures["refused"];
        assert!((40..250).contains(&tries), "{tries} tries in {:?}", world.now - start);
    }
    (1..=3).for_each(|id| world.mood(id, Mood::Live));
    let blocks = world.done.len();
    world.run(ms(3_100));
    assert!(world.done.len() > blocks, "it goes on within seconds");
    world.finish(secs(60));
    world.run(secs(3));
    world.fill(50, WINDOW, BYTES);
    world.finish(secs(60));
    assert_eq!(world.planner.troubles(world.now), []);
}

#[test]
fn the_faster_collector_gets_more_even_while_both_have_room() {
    let mut world = World::new(&[1, 2], 6);
    world.collectors.get_mut(&1).unwrap().latency = ms(150);
    for _ in 0..400 {
        world.fill(1, WINDOW, BYTES);
        world.run(ms(60));
    }
    let events: Vec<u64> = world.collectors.values().map(|c| c.events / u64::from(WINDOW)).collect();
    assert!(events[1] > 3 * events[0], "{events:?}");
    assert!(events[0] > 0, "it is asked now and then: {events:?}");
}

#[test]
fn one_that_was_given_up_long_ago_is_tried_soon_when_the_last_other_dies() {
    for seed in 0..10 {
        let mut world = World::new(&[1, 2], seed);
        world.mood(1, Mood::Dead);
        world.run(secs(300));
        world.mood(1, Mood::Live);
        world.mood(2, Mood::Dead);
        world.fill(1, WINDOW, BYTES);
        world.run(ms(3_300));
        assert!(world.done.contains(&Seq(0)), "seed {seed}");
    }
}

#[test]
fn a_collector_that_refuses_is_tried_less_and_less_while_others_live() {
    let mut world = busy();
    world.fill(20_000, WINDOW, BYTES);
    world.mood(1, Mood::Dead);
    world.run(secs(300));
    let status = world.planner.status();
    let tries = status.collectors[0].failures["refused"];
    assert!((10..40).contains(&tries), "{tries}");
}

#[test]
fn a_rolling_restart_gives_nothing_up() {
    for seed in 0..10 {
        let mut world = World::new(&[1, 2, 3], seed);
        world.fill(2_000, 1 + (seed as u32 % 3) * 1_000, BYTES);
        for round in 0..40u64 {
            let id = 1 + (round % 3) as u8;
            world.run(ms(37 + (seed * 131 + round * 71) % 900));
            if round % 2 == 0 {
                world.cut(id);
            } else {
                world.mood(id, Mood::Dead);
                world.run(ms(400));
                world.mood(id, Mood::Live);
            }
        }
        world.finish(secs(300));
        assert_eq!(world.dead, [], "seed {seed}");
    }
}

#[test]
fn one_bad_event_among_many_is_found_by_three_collectors_and_the_rest_goes_on() {
    let mut world = World::new(&[1, 2, 3], 11);
    world.poison.insert((Seq(30), 1_234));
    world.fill(100_000, WINDOW, BYTES);
    let start = world.now;
    while world.dead.is_empty() {
        assert!(world.now < start + secs(120), "{:?}", world.planner.status());
        world.run(ms(100));
    }
    world.run(ms(100));
    assert!(world.done.contains(&Seq(30)));
    let done = world.done.len();
    let per_second = done as f64 / (world.now - start).as_secs_f64();
    assert!(per_second > 20.0, "{per_second} blocks a second meanwhile");
    assert_eq!(world.dead, [(Seq(30), 1_234)]);
    let kinds: Vec<_> = world.planner.troubles(world.now).into_iter().map(|t| t.0).collect();
    assert_eq!(kinds, []);
}

#[test]
fn a_single_collector_is_believed_after_three_times() {
    let mut world = World::new(&[1], 11);
    world.poison.extend([(Seq(3), 0), (Seq(9), 2_047)]);
    world.fill(100_000, WINDOW, BYTES);
    let start = world.now;
    while world.dead.len() < 2 {
        assert!(world.now < start + secs(240), "{:?}", world.planner.status());
        world.run(ms(100));
    }
    world.run(secs(1));
    assert!(world.done.contains(&Seq(3)) && world.done.contains(&Seq(9)));
}

#[test]
fn alone_in_the_queue_poison_is_narrowed_down_and_given_up_only_with_proof() {
    let mut world = World::new(&[1, 2], 13);
    world.poison.insert((Seq(0), 77));
    world.fill(1, WINDOW, BYTES);
    world.run(secs(120));
    let parts: u32 =
        world.acked.get(&Seq(0)).map_or(0, |ranges| ranges.iter().map(|(from, to)| to - from).sum());
    assert_eq!(parts, WINDOW - 1, "all but the bad one are acked");
    world.fill(2_000, 100, 10_000);
    world.finish(secs(300));
    assert_eq!(world.dead, [(Seq(0), 77)]);
}

#[test]
fn collectors_that_take_nothing_at_all_prove_nothing() {
    let mut world = World::new(&[1, 2, 3], 17);
    world.poison.extend((0..30).map(|seq| (Seq(seq), 0)));
    world.fill(30, 1, 300);
    world.run(secs(600));
    assert_eq!((world.dead.len(), world.done.len()), (0, 0));
    world.fill(20_000, 100, 10_000);
    world.finish(secs(600));
    assert_eq!(world.dead.len(), 30);
}

#[test]
fn a_dead_letter_that_cannot_be_kept_is_tried_again() {
    let (mut planner, now, conn, number) = one_window();
    planner.unsendable(conn, number, Seq(0), Unsendable::Malformed("no lines".into()));
    let letter = |actions: &[Action]| {
        actions.iter().find_map(|a| match a {
            Action::DeadLetter { batch, whole: true, .. } => Some(*batch),
            _ => None,
        })
    };
    let batch = letter(&planner.poll(now)).unwrap();
    planner.buried(batch, Err("disk full".into()), now);
    assert_eq!(letter(&planner.poll(now)), None);
    let again = now + BURY_AGAIN;
    assert_eq!(letter(&planner.poll(again)), Some(batch));
    planner.buried(batch, Ok(()), again);
    planner.buried(batch, Ok(()), again);
    let done = planner.poll(again).iter().filter(|a| matches!(a, Action::Done(_))).count();
    assert_eq!((done, planner.status().events_dead_lettered), (1, u64::from(WINDOW)));
}

#[test]
fn what_the_queue_has_no_more_is_counted() {
    let (mut planner, now, conn, number) = one_window();
    planner.unsendable(conn, number, Seq(0), Unsendable::Gone);
    planner.poll(now);
    assert!(planner.is_idle());
    assert_eq!(planner.status().events_gone, u64::from(WINDOW));
}

#[test]
fn a_stop_takes_nothing_more_and_releases_what_is_left() {
    let mut world = busy();
    world.planner.stop();
    let sent = world.sends.len();
    world.mood(1, Mood::Dead);
    world.run(secs(2));
    assert_eq!(world.sends.len(), sent);
    assert!(world.planner.is_idle());
    let left = world.planner.release();
    assert!(left.iter().all(|seq| !world.done.contains(seq)) && !left.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Fill(usize, u32),
    Pass(u64),
    Mood(u8, Mood),
    Cut(u8),
    Sleep(u64),
    Roster(Vec<(u8, u8)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Mood::{Closes, Dead, Hung, Live, Stalled, Vanished};
    let mood = prop_oneof![4 => Just(Live), 1 => Just(Dead), 1 => Just(Hung), 1 => Just(Stalled), 1 => Just(Vanished), 1 => Just(Closes)];
    let step = prop_oneof![
        (1usize..60, 1u32..2049).prop_map(|(count, events)| Step::Fill(count, events)),
        (1u64..4_000).prop_map(Step::Pass),
        (1u8..6, mood).prop_map(|(id, mood)| Step::Mood(id, mood)),
        (1u8..6).prop_map(Step::Cut),
        (1u64..60_000).prop_map(Step::Sleep),
        proptest::collection::btree_map(1u8..6, 0u8..4, 0..5)
            .prop_map(|m| Step::Roster(m.into_iter().collect())),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn whatever_happens_all_is_delivered_or_was_poison(
        seed in any::<u64>(), steps in steps(), bad in proptest::collection::btree_set((0u64..60, 0u32..2048), 0..3),
        broken in prop_oneof![Just(Mood::Live), Just(Mood::Hung), Just(Mood::Closes), Just(Mood::Dead)],
        traffic in prop_oneof![Just((40, 100)), Just((1, 1))],
    ) {
        let mut world = World::new(&[1, 2, 3, 4, 5], seed);
        world.poison = bad.into_iter().map(|(seq, event)| (Seq(seq), event)).collect();
        for step in steps {
            match step {
                Step::Fill(count, events) => world.fill(count, events, u64::from(events) * 100),
                Step::Pass(millis) => world.run(ms(millis)),
                Step::Mood(id, mood) => world.mood(id, mood),
                Step::Cut(id) => world.cut(id),
                Step::Sleep(millis) => world.sleep(ms(millis)),
                Step::Roster(members) => {
                    let state = |n| [Active, Active, LastResort, Draining][usize::from(n)];
                    let members: Vec<_> = members.into_iter().map(|(id, n)| (id, state(n))).collect();
                    world.roster(&members);
                }
            }
            world.act();
        }
        (1..6).for_each(|id| world.mood(id, Mood::Live));
        world.mood(2, broken);
        world.roster(&[(1, Active), (2, Active), (3, Draining)]);
        // Other traffic is what proves that collectors live.
        let mut rounds = 0;
        loop {
            let (count, events) = traffic;
            world.fill(count, events, u64::from(events) * 100);
            world.run(secs(2));
            rounds += 1;
            let open = world.poison.iter().any(|(seq, _)| world.blocks().contains(seq) && !world.done.contains(seq));
            if !open { break }
            prop_assert!(rounds < 400, "poison is not found: {:?}", world.planner.status());
        }
        world.finish(secs(200));
        prop_assert_eq!(world.planner.applied(), Some(world.revision));
        prop_assert!(world.planner.in_flight() <= 2 * BUDGET);
    }
}
