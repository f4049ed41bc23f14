//! Drains: a dying collector is let go exactly once, when every live agent has really moved off and the
//! settle delay is over, and at the deadline otherwise.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use pikepole_directory::events::EventKind;
use pikepole_fleet::{AlertKind, HookEnd, MemberState, Notice, Transition};

use crate::drain_rig::{Drains, HookFault, Proxy, What, event, hook_event};
use crate::engine_rig::{Rig, grow, pass};

/// Two proxies that use the roster as it is.
fn two_proxies(d: &Drains) -> [Proxy; 2] {
    let proxies = [Proxy::new("a"), Proxy::new("b")];
    proxies.iter().for_each(|p| p.polls(d.engine(), Some(d.revision())));
    proxies
}

fn end_of(d: &Drains, n: usize) -> HookEnd {
    let state = d.rig.fleet("f").state();
    state.lives.get(&d.ids[n]).unwrap().waiting[0].done.expect("the action has ended").1
}

#[tokio::test(start_paused = true)]
async fn the_hook_is_completed_once_when_the_last_agent_has_moved_off_and_the_delay_is_over() {
    let mut d = Drains::of(3).await;
    let [a, b] = two_proxies(&d);
    d.terminate(0).await;
    assert_eq!(d.state_of(0), Some(MemberState::Draining));
    a.polls(d.engine(), Some(d.revision()));
    pass(10).await;
    assert!(d.completed(0).is_empty(), "b has not moved off");
    b.polls(d.engine(), Some(d.revision()));
    pass(1).await;
    assert!(d.completed(0).is_empty(), "the settle delay is not over");
    pass(300).await;
    d.completed_once(0, 12.0, 12.7);
    assert_eq!(d.hooks.made(What::Complete).len(), 1, "nothing is asked of AWS twice");
    assert_eq!(end_of(&d, 0), HookEnd::Converged);
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_says_counts_by_what_that_revision_holds() {
    for lie in ["nothing", "higher", "highest", "zero", "before"] {
        let mut d = Drains::of(3).await;
        let [a, b] = two_proxies(&d);
        let before = d.revision();
        d.terminate(0).await;
        a.polls(d.engine(), Some(d.revision()));
        let applied = match lie {
            "nothing" => None,
            "higher" => Some(d.revision() + 1),
            "highest" => Some(u64::MAX),
            "zero" => Some(0),
            _ => Some(before),
        };
        b.polls(d.engine(), applied);
        pass(300).await;
        d.completed_once(0, 90.0, 90.7);
        assert_eq!(end_of(&d, 0), HookEnd::Deadline, "{lie}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_roster_without_the_collector_counts_too_and_an_agent_that_goes_back_does_not() {
    let mut d = Drains::of(3).await;
    let [a, b] = two_proxies(&d);
    let before = d.revision();
    d.terminate(0).await;
    let first = d.revision();
    grow(&d.rig.cloud, "f", 1);
    pass(40).await;
    assert!(d.revision() > first, "a newcomer made another roster");
    a.polls(d.engine(), Some(first));
    b.polls(d.engine(), Some(d.revision()));
    pass(1).await;
    // One that restores an old configuration begins the wait anew.
    a.polls(d.engine(), Some(before));
    pass(5).await;
    assert!(d.completed(0).is_empty());
    a.polls(d.engine(), Some(first));
    pass(30).await;
    d.completed_once(0, 48.0, 48.8);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_comes_with_an_alert_that_names_who_held() {
    let mut d = Drains::of(3).await;
    let [a, _b] = two_proxies(&d);
    d.terminate(0).await;
    a.polls(d.engine(), Some(d.revision()));
    pass(100).await;
    d.completed_once(0, 90.0, 90.7);
    let told = d.rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::DrainDeadline, Notice::Raised), 1, "{told:?}");
    let open = d.engine().alerts().open_about(&["f"]);
    let text = serde_json::to_string(&open).unwrap();
    assert!(text.contains("1 agents still held: b"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_stays_below_the_hooks_own_timeout() {
    for (timeout, completed) in [(60, 54.0), (30, 25.0), (3_600, 90.0)] {
        let mut d = Drains::of(3).await;
        d.hooks.put("drain", timeout);
        let _proxies = two_proxies(&d);
        d.terminate(0).await;
        pass(300).await;
        d.completed_once(0, completed, completed + 0.7);
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_the_hook_alive_while_it_waits() {
    let mut d = Drains::of(3).await;
    d.hooks.put("drain", 60);
    let _proxies = two_proxies(&d);
    d.terminate(0).await;
    pass(300).await;
    let beats = d.hooks.made(What::Heartbeat);
    assert!((2..=3).contains(&beats.len()), "{beats:?}");
    assert!(beats.iter().all(|b| b.done));
    // Nothing known of the hook: it may have the least time there is.
    let mut d = Drains::of(3).await;
    d.hooks.timeouts_fail();
    let _proxies = two_proxies(&d);
    d.terminate(0).await;
    pass(300).await;
    assert!(d.hooks.made(What::Heartbeat).len() >= 8);
    d.completed_once(0, 90.0, 90.7);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_for_every_one_of_many() {
    let mut d = Drains::of(60).await;
    d.hooks.put("drain", 30);
    let _proxies = two_proxies(&d);
    for n in 0..40 {
        d.terminate(n).await;
    }
    pass(24).await;
    for n in 0..40 {
        let beats = d.hooks.made(What::Heartbeat).into_iter().filter(|b| b.instance == d.ids[n]).count();
        assert!(beats >= 2, "collector {n} had {beats}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_repeated_until_it_is_done() {
    use HookFault::{Denied, LostAnswer, Silent, Throttled};
    for fault in [Throttled, Denied, Silent, LostAnswer] {
        let mut d = Drains::of(3).await;
        let [a, b] = two_proxies(&d);
        d.hooks.fail([fault; 4]);
        d.terminate(0).await;
        a.polls(d.engine(), Some(d.revision()));
        b.polls(d.engine(), Some(d.revision()));
        pass(8).await;
        assert!(d.rig.is_open(AlertKind::HookFailing) || fault == Silent || fault == LostAnswer);
        pass(60).await;
        assert!(!d.hooks.waits(&d.ids[0]), "{fault:?}");
        assert_eq!(d.completed(0).len(), 1, "{fault:?}");
        assert_eq!(d.hooks.made(What::Complete).len(), 5, "{fault:?}: repeated, and then no more");
        assert!(!d.rig.is_open(AlertKind::HookFailing), "{fault:?}");
        let end = if fault == LostAnswer { HookEnd::NoSuchAction } else { HookEnd::Converged };
        assert_eq!(end_of(&d, 0), end);
    }
}

#[tokio::test(start_paused = true)]
async fn an_alert_about_a_hook_ends_with_its_instance_though_others_drain_on() {
    let mut d = Drains::of(6).await;
    let [a, b] = two_proxies(&d);
    d.hooks.fail([HookFault::Denied; 60]);
    d.terminate(0).await;
    a.polls(d.engine(), Some(d.revision()));
    b.polls(d.engine(), Some(d.revision()));
    pass(10).await;
    assert!(d.rig.is_open(AlertKind::HookFailing));
    d.end(0);
    d.hooks.fail([]);
    // Another one drains meanwhile, held by everybody.
    d.terminate(1).await;
    pass(60).await;
    assert!(d.hooks.waits(&d.ids[1]));
    assert!(!d.rig.is_open(AlertKind::HookFailing), "nobody fails any more");
}

#[tokio::test(start_paused = true)]
async fn an_action_that_is_over_is_not_asked_for_again() {
    let mut d = Drains::of(3).await;
    let [a, b] = two_proxies(&d);
    let over = hook_event(&d.ids[0], "drain", "t", Transition::Terminating);
    d.hear(&over).await;
    a.polls(d.engine(), Some(d.revision()));
    b.polls(d.engine(), Some(d.revision()));
    pass(60).await;
    assert_eq!(end_of(&d, 0), HookEnd::NoSuchAction);
    // Its event comes again: it is known to be over.
    d.hear(&over).await;
    pass(60).await;
    assert_eq!(d.hooks.made(What::Complete).len(), 1);
    d.terminate(1).await;
}

#[tokio::test(start_paused = true)]
async fn every_hook_of_an_instance_is_completed_each_by_its_own_deadline() {
    let mut d = Drains::of(3).await;
    d.hooks.put("short", 40);
    let [a, b] = two_proxies(&d);
    for n in [0, 1] {
        d.hooks.wait(&d.ids[n], "short");
        d.hear(&hook_event(&d.ids[n], "short", "u", Transition::Terminating)).await;
    }
    d.terminate(0).await;
    pass(60).await;
    // The instance lives on as long as one of its hooks waits: there is no reason to give both up.
    d.completed_once(0, 35.0, 35.7);
    assert!(d.hooks.waits(&d.ids[0]));
    a.polls(d.engine(), Some(d.revision()));
    b.polls(d.engine(), Some(d.revision()));
    pass(60).await;
    let all = d.completed(0);
    assert!(all.len() == 2 && (62.0..=62.7).contains(&all[1]), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn with_no_agent_at_all_the_deadline_decides() {
    let mut d = Drains::of(3).await;
    d.terminate(0).await;
    pass(300).await;
    d.completed_once(0, 90.0, 90.7);
    assert!(!d.rig.is_open(AlertKind::DrainDeadline), "nobody held");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_is_waited_for_five_seconds() {
    let mut d = Drains::of(3).await;
    let [a, b] = two_proxies(&d);
    d.terminate(0).await;
    a.polls(d.engine(), Some(d.revision()));
    pass(10).await;
    b.leaves(d.engine());
    pass(60).await;
    d.completed_once(0, 17.0, 17.7);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_restarts_or_is_cloned_counts_by_its_start() {
    // Restarted: the old start is waited for a moment, the new one until it has moved off.
    let mut d = Drains::of(3).await;
    let [a, b] = two_proxies(&d);
    d.terminate(0).await;
    a.polls(d.engine(), Some(d.revision()));
    b.leaves(d.engine());
    let again = Proxy::started("b", "s2");
    again.polls(d.engine(), None);
    pass(20).await;
    assert!(d.completed(0).is_empty());
    again.polls(d.engine(), Some(d.revision()));
    pass(60).await;
    d.completed_once(0, 22.0, 22.7);
    // Cloned: both live at once, and both count.
    let mut d = Drains::of(3).await;
    let clones = [Proxy::started("a", "s1"), Proxy::started("a", "s2")];
    clones.iter().for_each(|p| p.polls(d.engine(), Some(d.revision())));
    d.terminate(0).await;
    clones[0].polls(d.engine(), Some(d.revision()));
    pass(300).await;
    d.completed_once(0, 90.0, 90.7);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_invents_agents_holds_until_the_deadline_and_fills_no_memory() {
    let mut d = Drains::of(3).await;
    let honest = Proxy::new("honest").behind([10, 2, 0, 1]);
    honest.polls(d.engine(), Some(d.revision()));
    d.terminate(0).await;
    honest.polls(d.engine(), Some(d.revision()));
    let mut invented = Vec::new();
    for n in 0..10_000 {
        let one = Proxy::new(&format!("x{n}"));
        one.polls(d.engine(), Some(d.revision()));
        invented.push(one);
    }
    let agents = d.rig.fleet("f").agents();
    assert!(agents.list().len() <= 4_097, "{}", agents.list().len());
    assert!(agents.refused() >= 5_900);
    // They go on coming, with the revision that would let the collector go.
    for _ in 0..25 {
        pass(4).await;
        Proxy::new("one more").polls(d.engine(), Some(d.revision()));
    }
    d.completed_once(0, 90.0, 90.7);
    assert!(d.rig.is_open(AlertKind::TooManyAgents));
    drop(invented);
}

#[tokio::test(start_paused = true)]
async fn the_last_collector_is_kept_to_the_deadline_because_agents_still_send_to_it() {
    let mut d = Drains::of(1).await;
    let [a, b] = two_proxies(&d);
    d.terminate(0).await;
    assert_eq!(d.rig.hosts("f").unwrap().len(), 1, "better a dying one than nobody");
    a.polls(d.engine(), Some(d.revision()));
    b.polls(d.engine(), Some(d.revision()));
    pass(40).await;
    assert!(d.completed(0).is_empty());
    // Someone to go to comes: now they can move off.
    grow(&d.rig.cloud, "f", 1);
    pass(40).await;
    a.polls(d.engine(), Some(d.revision()));
    b.polls(d.engine(), Some(d.revision()));
    pass(60).await;
    d.completed_once(0, 82.0, 82.7);
    let mut d = Drains::of(1).await;
    let proxies = two_proxies(&d);
    d.terminate(0).await;
    proxies.iter().for_each(|p| p.polls(d.engine(), Some(d.revision())));
    pass(300).await;
    d.completed_once(0, 90.0, 90.7);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_agents_cost_no_more_time_than_the_last_of_them() {
    let mut d = Drains::of(3).await;
    let proxies: Vec<Proxy> = (0..1_000_u16)
        .map(|n| Proxy::new(&format!("p{n}")).behind([10, 3, (n >> 8) as u8, n as u8]))
        .collect();
    proxies.iter().for_each(|p| p.polls(d.engine(), Some(d.revision())));
    d.terminate(0).await;
    for proxy in &proxies {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        proxy.polls(d.engine(), Some(d.revision()));
    }
    pass(60).await;
    d.completed_once(0, 12.0, 14.0);
    let after = d.completed(0)[0] - 10.0;
    assert!(after <= 3.1, "{after} s after the last one applied");
}

#[tokio::test(start_paused = true)]
async fn a_warned_collector_that_was_not_to_die_serves_again() {
    let d = Drains::of(3).await;
    let _proxies = two_proxies(&d);
    d.hear(&event(EventKind::SpotInterruption, &d.ids[0])).await;
    assert_eq!(d.state_of(0), Some(MemberState::Draining));
    pass(700).await;
    assert_eq!(d.state_of(0), Some(MemberState::Active));
    let state = d.rig.fleet("f").state();
    assert!(state.lives.iter().all(|(_, life)| !life.is_leaving()), "no drain is left");
}
