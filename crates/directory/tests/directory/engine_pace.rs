//! When the source is asked, and when it is not.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::engine::Refreshed;
use pikepole_directory::source::SourceError;
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::Lifecycle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::engine_rig::{Asked, GAP, Rig, Wall, group, grow, pass, source};

const LONG: Duration = Duration::from_secs(60);
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

async fn one_fleet() -> Rig {
    let rig = Rig::start(&["f"]).await;
    grow(&rig.cloud, "f", 3);
    pass(120).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 3);
    // Two seconds after a sweep: the gap is over, and the next sweep is twenty seconds away.
    let before = rig.asked.count();
    while rig.asked.count() == before {
        pass(1).await;
    }
    pass(2).await;
    rig
}

fn throttled() -> Option<SourceError> {
    Some(SourceError::Throttled("rate exceeded".into()))
}

fn unreachable() -> Option<SourceError> {
    Some(SourceError::Unreachable("503".into()))
}

#[tokio::test(start_paused = true)]
async fn the_source_is_asked_every_interval_give_or_take_a_fifth() {
    let rig = one_fleet().await;
    pass(3_600).await;
    let times: Vec<Instant> = rig.asked.all().into_iter().map(|(at, _)| at).collect();
    let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    assert!(gaps.len() > 100, "{}", gaps.len());
    assert!(gaps.iter().all(|gap| (23.9..=36.1).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap < 28.0) && gaps.iter().any(|gap| *gap > 32.0), "no jitter: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_demand_is_met_at_once_and_the_next_after_the_gap() {
    let rig = one_fleet().await;
    let begin = Instant::now();
    let refreshed = rig.engine.refresh(rig.fleet("f"), LONG).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(Some(_))));
    assert!(begin.elapsed() < Duration::from_millis(10), "{:?}", begin.elapsed());
    rig.engine.refresh(rig.fleet("f"), LONG).await;
    assert!((GAP..GAP + Duration::from_millis(10)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_demands_in_ten_seconds_cost_eleven_describes_and_each_is_met() {
    let rig = one_fleet().await;
    let (before, begin) = (rig.asked.count(), Instant::now());
    let mut callers = JoinSet::new();
    for n in 0..1_000_u64 {
        let (engine, fleet) = (Arc::clone(&rig.engine), Arc::clone(rig.fleet("f")));
        callers.spawn(async move {
            sleep(Duration::from_millis(n * 7 % 10_000)).await;
            let asked_at = Instant::now();
            let refreshed = engine.refresh(&fleet, LONG).await;
            (asked_at, Instant::now(), matches!(refreshed, Refreshed::Confirmed(Some(_))))
        });
    }
    let answers = callers.join_all().await;
    let describes: Vec<Instant> = rig.asked.all()[before..].iter().map(|(at, _)| *at).collect();
    let in_time = describes.iter().filter(|at| **at - begin <= Duration::from_secs(10)).count();
    assert!(in_time <= 11, "{in_time} describes");
    assert_eq!(answers.len(), 1_000);
    for (asked_at, answered_at, confirmed) in answers {
        assert!(confirmed);
        assert!(answered_at - asked_at <= GAP + Duration::from_millis(10));
        assert!(
            describes.iter().any(|at| (asked_at..=answered_at).contains(at)),
            "an older describe was passed on"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn demands_of_one_burst_cost_one_describe_and_not_one_more() {
    let rig = one_fleet().await;
    rig.engine.refresh(rig.fleet("f"), LONG).await;
    let before = rig.asked.count();
    let mut callers = JoinSet::new();
    for n in 0..20_u64 {
        let (engine, fleet) = (Arc::clone(&rig.engine), Arc::clone(rig.fleet("f")));
        callers.spawn(async move {
            sleep(Duration::from_millis(20 * n)).await;
            engine.refresh(&fleet, LONG).await
        });
    }
    callers.join_all().await;
    pass(10).await;
    assert_eq!(rig.asked.count() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_demand_during_a_describe_is_met_by_the_next_one() {
    let rig = one_fleet().await;
    rig.cloud.delay(Duration::from_secs(3));
    let (engine, fleet) = (Arc::clone(&rig.engine), Arc::clone(rig.fleet("f")));
    let first = tokio::spawn(async move { engine.refresh(&fleet, LONG).await });
    pass(1).await;
    // This one is in service after the first describe was made, so only the second can tell of it.
    grow(&rig.cloud, "f", 1);
    let begin = Instant::now();
    let Refreshed::Confirmed(Some(second)) = rig.engine.refresh(rig.fleet("f"), LONG).await else { panic!() };
    assert_eq!(second.roster.hosts().len(), 4);
    assert!(begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());
    let Refreshed::Confirmed(Some(_)) = first.await.unwrap() else { panic!() };
}

#[tokio::test(start_paused = true)]
async fn throttling_backs_off_to_minutes_and_no_demand_breaks_through() {
    let rig = one_fleet().await;
    let before = rig.asked.count();
    rig.cloud.fail_with(throttled());
    pass(2 * 3_600).await;
    let times: Vec<Instant> = rig.asked.all()[before..].iter().map(|(at, _)| *at).collect();
    let gaps: Vec<Duration> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.iter().all(|gap| (GAP..=Duration::from_secs(301)).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap > Duration::from_secs(200)), "{gaps:?}");
    assert!((24..=120).contains(&gaps.len()), "{} describes in two hours", gaps.len());

    // Ask two seconds after a describe, twenty times over. Now and then its own time has come by chance.
    let mut broke_through = 0;
    for _ in 0..20 {
        let seen = rig.asked.count();
        while rig.asked.count() == seen {
            pass(1).await;
        }
        pass(2).await;
        let asked = rig.asked.count();
        let refreshed = rig.engine.refresh(rig.fleet("f"), Duration::from_millis(500)).await;
        assert!(!matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
        broke_through += usize::from(rig.asked.count() != asked);
    }
    assert!(broke_through <= 6, "{broke_through} of 20 demands broke through");
    assert_eq!(rig.hosts("f").unwrap().len(), 3);

    rig.cloud.heal();
    pass(301).await;
    let refreshed = rig.engine.refresh(rig.fleet("f"), LONG).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
}

#[tokio::test(start_paused = true)]
async fn other_failures_are_retried_on_demand() {
    let rig = one_fleet().await;
    rig.cloud.fail_with(unreachable());
    pass(300).await;
    let begin = Instant::now();
    let failed = rig.engine.refresh(rig.fleet("f"), LONG).await;
    assert!(matches!(&failed, Refreshed::Failed(why) if why.contains("503")), "{failed:?}");
    assert!(begin.elapsed() <= GAP + Duration::from_millis(10));
    rig.cloud.heal();
    let refreshed = rig.engine.refresh(rig.fleet("f"), LONG).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)));
    assert!(begin.elapsed() <= 2 * GAP + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn reads_never_ask_the_source() {
    let rig = one_fleet().await;
    let before = rig.asked.count();
    let fleet = rig.fleet("f");
    for _ in 0..10_000 {
        assert!(fleet.published().is_some() && fleet.freshness().is_some() && fleet.state().is_answered());
        fleet.age(rig.wall.now());
        rig.engine.is_stale(fleet);
        rig.engine.is_ready();
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.asked.count(), before);
}

#[tokio::test(start_paused = true)]
async fn demands_for_one_of_many_fleets_do_not_starve_the_others() {
    let names: Vec<String> = (0..250).map(|n| format!("f{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    for name in &names {
        grow(&cloud, name, 2);
    }
    let rig = Rig::start_on(cloud, wall, &names, |_| {}).await;
    pass(1).await;
    assert!(rig.engine.is_ready(), "one sweep answers for all");
    assert_eq!(rig.asked.all()[0].1, 250);
    let (begin, before) = (Instant::now(), rig.asked.count());
    for _ in 0..60 {
        pass(5).await;
        let refreshed = rig.engine.refresh(rig.fleet("f7"), LONG).await;
        assert!(matches!(refreshed, Refreshed::Confirmed(_)));
    }
    let sizes: Vec<usize> = rig.asked.all()[before..].iter().map(|(_, n)| *n).collect();
    let whole = sizes.iter().filter(|n| **n == 250).count();
    let expected = begin.elapsed().as_secs() / 36;
    assert!(whole as u64 >= expected, "{whole} whole sweeps in {:?}", begin.elapsed());
    assert!(sizes.contains(&1), "a demand for one asks for one");
    let oldest = rig.engine.fleets().iter().filter_map(|f| f.age(rig.wall.now())).max().unwrap();
    assert!(oldest <= Duration::from_secs(38), "{oldest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_holds_up_nobody_else() {
    let wall = Wall::new();
    let (cloud, silent) = (SimCloud::new(wall.clock()), SimCloud::new(wall.clock()));
    grow(&cloud, "f", 2);
    grow(&silent, "g", 2);
    silent.delay(FOR_EVER);
    let asked_silent = Asked::default();
    let mut rig = Rig::start_on(cloud, wall, &["f"], |setup| {
        setup.sources.push(source("silent", &silent, &asked_silent, &["g"]));
    })
    .await;
    pass(2).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 2);
    let refreshed = rig.engine.refresh(rig.fleet("f"), LONG).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    let begin = Instant::now();
    let refreshed = rig.engine.refresh(rig.fleet("g"), Duration::from_millis(2_300)).await;
    assert!(matches!(refreshed, Refreshed::Pending), "{refreshed:?}");
    assert_eq!(begin.elapsed(), Duration::from_millis(2_300));
    // It is given up on and asked again, and people are told.
    pass(600).await;
    assert!(asked_silent.count() >= 3, "{} tries", asked_silent.count());
    assert!(rig.fleet("g").health().failures >= 2);
    let told = rig.told();
    assert!(told.iter().any(|(_, subject, _)| subject == "silent"), "{told:?}");
    assert!(told.iter().all(|(_, subject, _)| subject != "sim"), "{told:?}");
    let refreshed = rig.engine.refresh(rig.fleet("f"), LONG).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    let begin = Instant::now();
    rig.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(1), "the shutdown waited {:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_the_source_announces_is_looked_at_at_once() {
    let rig = one_fleet().await;
    rig.cloud.notify(true);
    let id = grow(&rig.cloud, "f", 1).remove(0);
    pass(3).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 4);
    rig.cloud.set_lifecycle(&group("f"), &id, Lifecycle::Leaving);
    pass(3).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 3);
}
