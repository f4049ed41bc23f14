use std::time::Duration;

use super::*;

/// Plays a scenario with a crash at every point of it, one after the other.
fn at_every_point(play: impl Fn(&mut World) -> Vec<String>) {
    let mut points = 0;
    for crash_at in 0.. {
        let mut w = World::new();
        // The first start has happened: before it is durable, the next one is the first.
        w.tick();
        w.points = 0;
        w.crash_at = (crash_at > 0).then_some(crash_at);
        let wanted = play(&mut w);
        w.pass(Duration::from_secs(120));
        w.pass(Duration::from_secs(120));
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| w.check(&wanted)));
        assert!(got.is_ok(), "after a crash at point {crash_at}");
        if crash_at == 0 {
            points = w.points;
        } else if crash_at > points + 50 {
            return;
        }
    }
}

#[test]
fn a_crash_anywhere_in_a_rename_loses_nothing() {
    at_every_point(|w| {
        w.write("access.log", numbered("a", 0..120));
        w.tick();
        w.rename("access.log", "access.log.1");
        w.write("access.log.1", numbered("a", 120..140));
        w.write("access.log", numbered("b", 0..60));
        w.tick();
        w.rename("access.log.1", "access.log.2");
        w.rename("access.log", "access.log.1");
        w.write("access.log", numbered("c", 0..3));
        w.tick();
        w.gzip("access.log.2");
        w.tick();
        [lines_of("a", 0..140), lines_of("b", 0..60), lines_of("c", 0..3)].concat()
    });
}

#[test]
fn a_crash_anywhere_in_a_copytruncate_loses_nothing() {
    at_every_point(|w| {
        w.write("access.log", numbered("a", 0..80));
        w.tick();
        w.write("access.log", numbered("a", 80..90));
        w.copy("access.log", "access.log.1");
        w.truncate("access.log");
        w.write("access.log", numbered("b", 0..150));
        w.tick();
        w.gzip("access.log.1");
        w.tick();
        w.rename("access.log.1.gz", "access.log.2.gz");
        w.copy("access.log", "access.log.1");
        w.tick();
        w.truncate("access.log");
        w.write("access.log", numbered("c", 0..4));
        w.tick();
        [lines_of("a", 0..90), lines_of("b", 0..150), lines_of("c", 0..4)].concat()
    });
}

#[test]
fn a_crash_anywhere_while_the_spool_is_full_loses_nothing() {
    at_every_point(|w| {
        w.write("access.log", numbered("a", 0..900));
        w.is_full = true;
        w.tick();
        w.rename("access.log", "access.log.1");
        w.write("access.log", numbered("b", 0..90));
        w.tick();
        w.is_full = false;
        w.tick();
        w.write("access.log", "half");
        w.rename("access.log", "access.log.2");
        w.write("access.log", "end\n");
        w.pass(Duration::from_secs(61));
        w.pass(Duration::from_secs(61));
        [lines_of("a", 0..900), lines_of("b", 0..90), vec!["half".into(), "end".into()]].concat()
    });
}
