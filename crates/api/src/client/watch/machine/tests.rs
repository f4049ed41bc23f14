use super::*;

const WAIT: Duration = Duration::from_secs(55);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn at(millis: u64) -> Option<Timestamp> {
    Some(Timestamp::from_millis(millis))
}

/// A machine, and the moment it is at.
struct Run {
    machine: Machine,
    now: Instant,
    asked: Vec<(Instant, usize)>,
}

impl Run {
    fn new(endpoints: usize) -> Self {
        let now = Instant::now();
        Self { machine: Machine::new(endpoints, false, WAIT, now), now, asked: Vec::new() }
    }

    /// Sleeps until it asks.
    fn ask(&mut self) -> (usize, Option<u64>, Duration) {
        loop {
            match self.machine.step(self.now) {
                Step::Sleep(until) => {
                    assert!(until > self.now, "it would spin");
                    self.now = until;
                }
                Step::Poll { endpoint, after, wait } => {
                    self.asked.push((self.now, endpoint));
                    return (endpoint, after, wait);
                }
                Step::Resolve { .. } => panic!("the fleet is known by name"),
            }
        }
    }

    /// Asks, and is answered after some time.
    fn answer(&mut self, took: Duration, ending: Ending) -> Verdict {
        self.ask();
        self.now += took;
        self.machine.ended(ending, self.now)
    }

    fn roster(&mut self, revision: u64, confirmed_at: u64) -> Verdict {
        self.answer(Duration::from_millis(1), Ending::Roster { revision, confirmed_at: at(confirmed_at) })
    }
}

#[test]
fn a_lower_revision_is_taken_only_if_it_was_confirmed_later() {
    let mut run = Run::new(1);
    assert_eq!(run.roster(1000, 500), Verdict::Take);
    assert_eq!(run.roster(900, 400), Verdict::Older);
    assert_eq!(run.roster(900, 500), Verdict::Older);
    assert_eq!(run.ask().1, Some(1000), "what is held stays");
    assert_eq!(run.roster(900, 501), Verdict::Take);
    assert_eq!(run.roster(1001, 400), Verdict::Take, "a higher one is news, whenever it was confirmed");
}

#[test]
fn a_confirmation_of_what_is_held_counts() {
    let mut run = Run::new(1);
    run.roster(1000, 500);
    run.answer(WAIT, Ending::Unchanged { confirmed_at: at(9000) });
    assert_eq!(run.roster(900, 8000), Verdict::Older);
}

#[test]
fn directories_are_tried_in_turn_and_a_whole_round_soon() {
    let mut run = Run::new(3);
    let begin = run.now;
    for _ in 0..3 {
        assert_eq!(run.answer(Duration::ZERO, Ending::Failed), Verdict::Failed);
    }
    assert_eq!(run.asked.iter().map(|a| a.1).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(run.now - begin < seconds(1), "{:?}", run.now - begin);
    run.roster(1, 1);
    let begin = run.now;
    for _ in 0..3 {
        run.answer(Duration::ZERO, Ending::Failed);
    }
    assert!(run.now - begin < SPREAD + seconds(1), "only the first of a round waits: {:?}", run.now - begin);
}

/// What a thousand watches do when their directories end at once and come back. Each polls at its own
/// moment, as a minute of polling has it.
struct Loss {
    /// Losses like this one since a poll was not cut.
    before: u32,
    /// Of each directory: for how long it is away, from the loss on.
    away: Vec<Duration>,
    ending: Ending,
}

impl Loss {
    /// The most requests at one directory in any 100 ms, and the time until every watch was answered.
    fn happens(&self) -> (usize, Duration) {
        let begin = Instant::now();
        let lost = begin + seconds(120);
        let (mut asked, mut last) = (vec![Vec::new(); self.away.len()], lost);
        for _ in 0..1000 {
            let mut run = Run::new(self.away.len());
            run.now = begin;
            run.roster(7, 7);
            for _ in 0..self.before {
                run.answer(seconds(20), self.ending);
                run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(7) });
            }
            run.ask();
            run.now = lost;
            run.machine.ended(self.ending, lost);
            run.asked.clear();
            loop {
                let (endpoint, ..) = run.ask();
                if run.now >= lost + self.away[endpoint] {
                    break;
                }
                run.machine.ended(Ending::Cut, run.now);
            }
            last = last.max(run.now);
            run.asked.iter().for_each(|(at, endpoint)| asked[*endpoint].push(*at));
        }
        let most = |times: &mut Vec<Instant>| {
            times.sort_unstable();
            let until = |from: &Instant| *from + Duration::from_millis(100);
            let before = |end: Instant| times.partition_point(|at| *at < end);
            let window = |from: &Instant| before(until(from)) - before(*from);
            times.iter().map(window).max().unwrap_or(0)
        };
        (asked.iter_mut().map(most).max().unwrap_or(0), last - lost)
    }
}

#[test]
fn a_thousand_watches_that_lose_their_directory_come_back_spread_and_soon() {
    fastrand::seed(7);
    let killed = Ending::Cut;
    let stopped = Ending::Busy { retry_after: Some(Duration::ZERO) };
    for (ending, before) in [(killed, 0), (killed, 1), (stopped, 0), (Ending::Failed, 0)] {
        for away in [vec![0], vec![2], vec![2, 0], vec![2, 2, 2], vec![60], vec![60, 60]] {
            let longest = seconds(away.iter().copied().min().unwrap());
            let away: Vec<_> = away.into_iter().map(seconds).collect();
            let words = format!("{ending:?} {away:?} {before}");
            let (most, took) = Loss { before, away, ending }.happens();
            assert!(most <= 50, "{words}: {most} in 100 ms");
            assert!(took <= longest + seconds(10), "{words}: the last after {took:?}");
        }
    }
}

#[test]
fn told_to_come_later_they_do_not_come_together() {
    fastrand::seed(7);
    let ending = Ending::Busy { retry_after: Some(seconds(5)) };
    let (most, took) = Loss { before: 0, away: vec![Duration::ZERO], ending }.happens();
    assert!(most <= 50 && took >= seconds(5) && took <= seconds(10), "{most} {took:?}");
}

#[test]
fn failures_back_off_to_a_limit_and_are_forgotten() {
    let mut run = Run::new(1);
    for _ in 0..200 {
        run.answer(Duration::ZERO, Ending::Failed);
    }
    let gaps: Vec<Duration> = run.asked.windows(2).skip(20).map(|w| w[1].0 - w[0].0).collect();
    let mean = gaps.iter().sum::<Duration>() / u32::try_from(gaps.len()).unwrap();
    assert!(gaps.iter().all(|g| *g <= LONGEST_WAIT), "{gaps:?}");
    assert!(gaps.iter().all(|g| *g >= SPREAD), "{gaps:?}");
    assert!((seconds(6)..seconds(8)).contains(&mean), "jitter between the two: {mean:?}");
    run.roster(1, 1);
    run.answer(Duration::ZERO, Ending::Failed);
    let before = run.now;
    run.ask();
    assert!(run.now - before <= SPREAD);
}

#[test]
fn nothing_that_is_answered_makes_it_hammer() {
    let answers: [fn(u64) -> Ending; 7] = [
        |n| Ending::Roster { revision: n, confirmed_at: at(n) }, // a new revision, always, at once
        |_| Ending::Roster { revision: 7, confirmed_at: at(7) },
        |n| Ending::Roster { revision: n % 2, confirmed_at: at(n) },
        |_| Ending::Unchanged { confirmed_at: at(7) },
        |_| Ending::Cut,
        |_| Ending::Busy { retry_after: Some(Duration::ZERO) },
        |_| Ending::Unknown,
    ];
    for (which, answer) in answers.into_iter().enumerate() {
        let mut run = Run::new(2);
        run.roster(1, 1);
        let begin = run.now;
        let mut count = 0u64;
        while run.now - begin < seconds(60) && count < 1000 {
            count += 1;
            run.answer(Duration::ZERO, answer(count));
        }
        assert!(count <= 60 * 2 + 8, "answer {which} is asked for {count} times a minute");
    }
}

#[test]
fn a_cache_that_answers_at_once_is_asked_less_and_less() {
    let mut run = Run::new(1);
    run.roster(7, 7);
    let begin = run.now;
    let mut count = 0;
    while run.now - begin < seconds(600) && count < 1000 {
        run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(7) });
        count += 1;
    }
    assert!(count < 200, "{count} in ten minutes");
}

#[test]
fn a_directory_that_ended_makes_no_poll_shorter() {
    let mut run = Run::new(1);
    run.roster(7, 7);
    for _ in 0..3 {
        assert_eq!(run.ask().2, WAIT);
        run.now += seconds(3);
        assert_eq!(run.machine.ended(Ending::Cut, run.now), Verdict::Failed, "it was killed");
        run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(8) });
        run.answer(WAIT, Ending::Unchanged { confirmed_at: at(9) });
    }
}

#[test]
fn polls_that_are_cut_become_shorter_and_slowly_longer_again() {
    let mut run = Run::new(1);
    run.roster(7, 7);
    assert_eq!(run.answer(seconds(30), Ending::Cut), Verdict::Failed, "it may have been killed");
    run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(8) });
    assert_eq!(run.ask().2, WAIT);
    run.now += seconds(30); // a load balancer with an idle time-out of 30 s
    let Verdict::Shortened(wait) = run.machine.ended(Ending::Cut, run.now) else { panic!("not noticed") };
    assert_eq!(wait, Duration::from_millis(22_500));
    let before = run.now;
    assert_eq!(run.ask(), (0, Some(7), wait));
    assert!(run.now - before <= SPREAD, "the next poll follows soon");
    run.now += wait;
    assert_eq!(run.machine.ended(Ending::Unchanged { confirmed_at: at(8) }, run.now), Verdict::Same);
    assert_eq!(run.ask().2, wait, "not longer at once");
    run.now += LENGTHEN_AFTER;
    run.machine.ended(Ending::Unchanged { confirmed_at: at(9) }, run.now);
    let longer = run.ask().2;
    assert!(longer > wait && longer < wait * 2, "{longer:?}");
    for _ in 0..9 {
        run.now += LENGTHEN_AFTER;
        run.machine.ended(Ending::Unchanged { confirmed_at: at(9) }, run.now);
        run.ask();
    }
    run.now += WAIT;
    run.machine.ended(Ending::Unchanged { confirmed_at: at(9) }, run.now);
    assert_eq!(run.ask().2, WAIT, "and no longer than configured");
}

#[test]
fn a_connection_that_is_refused_or_hangs_is_not_cut() {
    let mut run = Run::new(1);
    run.roster(7, 7);
    assert_eq!(run.answer(Duration::from_millis(3), Ending::Cut), Verdict::Failed);
    run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(8) });
    assert_eq!(run.answer(WAIT + seconds(10), Ending::Cut), Verdict::Failed);
    run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(8) });
    assert_eq!(run.ask().2, WAIT);
}

#[test]
fn polls_on_connections_that_are_forgotten_become_shorter_but_not_those_of_a_directory_that_hangs() {
    let mut run = Run::new(1);
    run.roster(7, 7);
    for _ in 0..2 {
        assert_eq!(run.ask().2, WAIT);
        run.now += WAIT + seconds(10);
        let verdict = run.machine.ended(Ending::Silent, run.now);
        if run.machine.endpoints[0].cuts == 1 {
            assert_eq!(verdict, Verdict::Failed, "it may hang");
            run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(8) });
        } else {
            assert_eq!(verdict, Verdict::Shortened(WAIT / 2));
        }
    }
    assert_eq!(run.ask().2, Duration::ZERO, "whether somebody is there comes first");
    run.machine.ended(Ending::Unchanged { confirmed_at: at(8) }, run.now);
    assert_eq!(run.ask().2, WAIT / 2);
    run.machine.ended(Ending::Unchanged { confirmed_at: at(8) }, run.now);

    let mut run = Run::new(2);
    run.roster(7, 7);
    run.answer(WAIT + seconds(10), Ending::Silent);
    for _ in 0..10 {
        assert_eq!(run.answer(seconds(10), Ending::Silent), Verdict::Failed, "a silence of no poll's length");
    }
    run.answer(Duration::ZERO, Ending::Unchanged { confirmed_at: at(8) });
    assert_eq!(run.ask().2, WAIT);
}

#[test]
fn the_first_poll_and_the_one_after_a_failure_do_not_wait() {
    let mut run = Run::new(1);
    run.machine.hold(7, at(7));
    assert_eq!(run.ask(), (0, Some(7), Duration::ZERO));
    run.machine.ended(Ending::Unchanged { confirmed_at: at(8) }, run.now);
    let before = run.now;
    assert_eq!((run.ask().2, run.now), (WAIT, before), "an answer at once was asked for");
    run.machine.ended(Ending::Failed, run.now);
    assert_eq!(run.ask().2, Duration::ZERO, "or the return of a directory is seen only a minute later");
}

#[test]
fn a_poll_that_is_dropped_is_asked_again_at_once() {
    let mut run = Run::new(1);
    run.roster(7, 7);
    run.ask();
    let before = run.now;
    run.ask();
    assert_eq!(run.now, before);
}

#[test]
fn a_fleet_known_by_place_is_looked_up_again_when_it_vanished() {
    let now = Instant::now();
    let mut machine = Machine::new(2, true, WAIT, now);
    assert_eq!(machine.step(now), Step::Resolve { endpoint: 0 });
    assert_eq!(machine.ended(Ending::Resolved, now), Verdict::Continue);
    assert!(matches!(machine.step(now), Step::Poll { endpoint: 0, after: None, .. }));
    assert_eq!(machine.ended(Ending::Unknown, now), Verdict::Failed);
    assert_eq!(machine.step(now + LONGEST_WAIT), Step::Resolve { endpoint: 1 });
}

#[test]
fn a_server_that_asks_for_patience_gets_it_within_reason() {
    for (asked, least, most) in [(5, 5, 15), (86_400, 60, 70)] {
        let mut run = Run::new(1);
        run.answer(Duration::ZERO, Ending::Busy { retry_after: Some(seconds(asked)) });
        let before = run.now;
        run.ask();
        assert!((seconds(least)..=seconds(most)).contains(&(run.now - before)), "{:?}", run.now - before);
    }
}
