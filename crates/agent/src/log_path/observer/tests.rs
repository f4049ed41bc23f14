//! Looks at the log path, and what they are told as.

use pikepole_spool::Full;

use super::*;
use crate::tail::SectionStatus;

fn config() -> SpoolConfig {
    SpoolConfig {
        path: "/spool".into(),
        max_bytes: 1000,
        min_free: 100,
        drop_oldest: false,
        fsync: true,
        commit_every: Duration::from_millis(20),
        commit_bytes: 4096,
    }
}

/// An observer, and the time.
struct World {
    observer: Observer,
    now: Instant,
    stats: QueueStats,
    status: LogPathStatus,
}

impl World {
    fn new() -> Self {
        let (now, stats) = (Instant::now(), QueueStats::default());
        let observer = Observer::new(&stats, &Recovered::default(), now);
        Self { observer, now, stats, status: LogPathStatus::default() }
    }

    /// A second passes, and the spool's thread is heard.
    fn second(&mut self) -> Vec<Kind> {
        let told = self.stats.at.map_or(0, Timestamp::as_millis);
        self.stats.at = Some(Timestamp::from_millis(told + 1000));
        self.look()
    }

    fn look(&mut self) -> Vec<Kind> {
        self.now += Duration::from_secs(1);
        self.troubles().into_iter().map(|(kind, ..)| kind).collect()
    }

    fn troubles(&mut self) -> Vec<Trouble> {
        let wall = Timestamp::from_millis(9_000);
        self.status.spool = self.observer.spool(&config(), &self.stats, self.now, wall);
        self.observer.troubles(&self.status, self.now)
    }

    /// After so many seconds.
    fn later(&mut self, seconds: u64) -> Vec<Kind> {
        self.now += Duration::from_secs(seconds - 1);
        self.second()
    }
}

#[test]
fn room_is_what_both_limits_leave() {
    let mut world = World::new();
    (world.stats.spool.disk_bytes, world.stats.spool.free_bytes) = (300, Some(550));
    world.stats.spool.oldest_at = Some(4_000);
    world.second();
    let spool = &world.status.spool;
    assert_eq!((spool.room, spool.oldest_ms, spool.state), (450, Some(5_000), SpoolState::Ok));
    world.stats.spool.free_bytes = Some(5_000);
    world.second();
    assert_eq!(world.status.spool.room, 700);
    (world.stats.spool.free_bytes, world.stats.trouble) = (Some(1), Some("no sync".into()));
    world.second();
    assert_eq!((world.status.spool.room, world.status.spool.state), (0, SpoolState::Failing));
}

#[test]
fn losses_are_trouble_for_a_while_and_old_ones_are_no_news() {
    let mut stats = QueueStats::default();
    stats.spool.totals.dropped.events = 7;
    let mut world = World::new();
    world.observer = Observer::new(&stats, &Recovered::default(), world.now);
    world.stats = stats;
    assert_eq!(world.second(), []);
    world.stats.spool.totals.dropped.events = 8;
    world.status.dead_letters.kept = 1;
    assert_eq!(world.second(), [Kind::EventsDropped, Kind::EventsDeadLettered]);
    world.status.dead_letters.kept = 2;
    assert_eq!(world.later(500), [Kind::EventsDropped, Kind::EventsDeadLettered]);
    assert_eq!(world.later(200), [Kind::EventsDeadLettered]);
    assert_eq!(world.later(500), []);
}

#[test]
fn what_was_lost_before_the_first_look_is_news_if_it_is_of_this_start() {
    let mut world = World::new();
    (world.status.dead_letters.kept, world.status.dead_letters.given_up) = (9, 4);
    world.stats.spool.totals.dropped.events = 1;
    assert_eq!(world.second(), [Kind::EventsDropped, Kind::EventsDeadLettered, Kind::DeadLettersLost]);
}

#[test]
fn damage_of_blocks_whose_bytes_are_not_known_is_trouble_too() {
    let mut world = World::new();
    world.stats.spool.totals.damaged.blocks = 1;
    assert_eq!(world.second(), [Kind::SpoolDamaged]);
}

#[test]
fn acked_events_that_dead_letters_push_out_have_a_word_of_their_own() {
    let mut world = World::new();
    world.status.dead_letters.file = "/d".into();
    world.status.dead_letters.given_up = 3;
    let troubles = world.troubles();
    let [(Kind::DeadLettersLost, subject, detail)] = &troubles[..] else { panic!("{troubles:?}") };
    assert_eq!((subject.as_str(), detail.starts_with("3 acked events are lost")), ("/d", true), "{detail}");
}

#[test]
fn a_dead_letter_that_cannot_be_written_is_trouble_until_it_is() {
    let mut world = World::new();
    world.status.dead_letters.failing = Some("no space".into());
    assert_eq!(world.second(), [Kind::DeadLettersFailing]);
    assert_eq!(world.later(10_000), [Kind::DeadLettersFailing]);
    world.status.dead_letters.failing = None;
    assert_eq!(world.second(), []);
}

#[test]
fn a_spool_that_is_full_again_and_again_is_one_trouble() {
    let mut world = World::new();
    world.stats.spool.disk_bytes = 900;
    for second in 0..120 {
        world.stats.full = (second % 3 == 0).then_some(Full::MaxBytes);
        assert_eq!(world.second(), [Kind::SpoolFull], "{second}");
    }
    world.stats.full = None;
    let lasts = (0..100).take_while(|_| !world.second().is_empty()).count();
    assert!((50..=60).contains(&lasts), "over after a minute with room: {lasts}");
    world.stats.full = Some(Full::MaxBytes);
    assert_eq!(world.second(), [Kind::SpoolFull]);
    (world.stats.full, world.stats.spool.disk_bytes) = (None, 750);
    assert_eq!(world.second(), [], "a quarter is free");
}

#[test]
fn a_spool_that_is_full_and_fails_says_both() {
    let mut world = World::new();
    (world.stats.full, world.stats.trouble) = (Some(Full::MaxBytes), Some("no sync".into()));
    assert_eq!(world.second(), [Kind::SpoolFull, Kind::SpoolFailing]);
    assert_eq!((world.status.spool.state, world.status.spool.is_full), (SpoolState::Failing, true));
}

#[test]
fn a_spool_whose_disk_hangs_is_trouble() {
    // Its thread says nothing.
    let mut world = World::new();
    assert_eq!(world.second(), []);
    assert_eq!((0..9).find(|_| !world.look().is_empty()), None);
    assert_eq!(world.look(), [Kind::SpoolFailing]);
    assert_eq!(world.second(), []);
    // Its thread is heard, and nothing becomes durable.
    world.stats.spool.uncommitted_bytes = 5;
    assert_eq!((0..9).find(|_| !world.second().is_empty()), None);
    assert_eq!(world.second(), [Kind::SpoolFailing]);
    world.stats.commits += 1;
    assert_eq!(world.second(), []);
    // The agent was stopped meanwhile: that is not the disk's.
    world.now += Duration::from_secs(3600);
    assert_eq!(world.look(), []);
}

#[test]
fn full_in_seconds_is_the_room_by_the_rate_at_which_it_went() {
    let mut world = World::new();
    for second in 0..60 {
        world.stats.spool.disk_bytes = 100 + second * 5;
        world.second();
    }
    let (room, left) = (world.status.spool.room, world.status.spool.full_in_seconds);
    assert_eq!((room, left), (605, Some(605 / 5)));
    // Nothing comes any more: it is not known, or not soon.
    for _ in 0..400 {
        world.second();
    }
    assert_eq!(world.status.spool.full_in_seconds, None);
}

#[test]
fn a_tail_that_cannot_read_says_what_and_why_until_it_can() {
    let mut world = World::new();
    let mut section = SectionStatus { paths: vec!["/l/*.log".into()], ..SectionStatus::default() };
    section.errors =
        [("/l/b.log", "denied"), ("/l/a.log", "denied")].map(|(p, e)| (p.into(), e.into())).into();
    let errors = [("/l".to_string(), "no permission".to_string())].into();
    world.status.tail = Some(TailStatus { sections: vec![section], errors, ..TailStatus::default() });
    let told = |subject: &str, detail: &str| (Kind::TailFailing, subject.to_string(), detail.to_string());
    assert_eq!(
        world.troubles(),
        [told("tail", "/l: no permission"), told("/l/*.log", "/l/a.log: denied; 1 more")]
    );
    world.status.tail =
        Some(TailStatus { sections: vec![SectionStatus::default()], ..TailStatus::default() });
    assert_eq!(world.troubles(), []);
}

#[test]
fn a_truncated_file_whose_rest_is_nowhere_is_told_and_not_again_after_a_restart() {
    let mut world = World::new();
    let tail = |rest_missing| {
        let section = SectionStatus { rest_missing, ..SectionStatus::default() };
        Some(TailStatus { sections: vec![section], ..TailStatus::default() })
    };
    world.status.tail = Some(TailStatus::default());
    assert_eq!(world.second(), []);
    world.status.tail = tail(1);
    assert_eq!(world.second(), [], "it was known before this start");
    world.status.tail = tail(2);
    assert_eq!(world.second(), [Kind::TailLost]);
    assert_eq!(world.later(700), []);
}

#[test]
fn what_files_that_are_gone_had_and_nobody_read_is_told_when_they_go_and_when_they_are_given_up() {
    let mut world = World::new();
    let tail = |missing_bytes, lost_files| {
        let section = SectionStatus { missing_bytes, lost_files, ..SectionStatus::default() };
        Some(TailStatus { sections: vec![section], ..TailStatus::default() })
    };
    world.status.tail = tail(0, 0);
    assert_eq!(world.second(), []);
    world.status.tail = tail(70, 0);
    assert_eq!(world.second(), [Kind::TailLost]);
    assert_eq!(world.later(700), []);
    world.status.tail = tail(0, 1);
    assert_eq!(world.second(), [Kind::TailLost]);
}

#[test]
fn what_a_start_cut_off_is_shown() {
    let mut world = World::new();
    let recovered = Recovered { torn_bytes: 9, ..Recovered::default() };
    world.observer = Observer::new(&world.stats, &recovered, world.now);
    assert_eq!(world.second(), [], "nobody had been told that it is there");
    assert_eq!(world.status.spool.torn_bytes, 9);
}
