//! Newcomers: listed as soon as AWS calls them in service and their port answers, or when the time for
//! that is up; their launch hooks completed; the source asked soon, but not often.
//!
//! The ports are real, the time is not.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::config::{ProbeConfig, SourceConfig};
use pikepole_directory::events::{EventKind, WarmPool};
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{AlertKind, HookEnd, InstanceId, Life, Lifecycle, MemberState, Transition};
use tokio::time::{Instant, sleep};

use crate::drain_rig::{Account, Hooks, What, event, hook_event};
use crate::engine_rig::{Rig, Wall, group, grow, pass, until};

/// An account of this process alone: everybody else on the machine uses 127.0.0.1.
fn on_this_machine(wall: &Wall) -> SimCloud {
    let account = 1 + std::process::id() % 250;
    SimCloud::on_loopback(wall.clock(), u8::try_from(account).unwrap())
}

/// An engine over real ports on this machine.
struct Lab {
    rig: Rig,
    hooks: Hooks,
    port: u16,
    ids: Vec<InstanceId>,
    open: Vec<TcpListener>,
}

impl Lab {
    /// `count` members in service that answer, or not.
    async fn of(count: usize, answer: bool) -> Self {
        Self::with(count, answer, true).await
    }

    async fn with(count: usize, answer: bool, probe: bool) -> Self {
        let wall = Wall::new();
        let cloud = on_this_machine(&wall);
        let ids = grow(&cloud, "f", count);
        let hooks = Hooks::default();
        hooks.put("launch", 3_600);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let account = Account { source: Box::new(cloud.source()), hooks: hooks.clone() };
        let mut rig = Rig::open(cloud, wall, &["f"], |setup| {
            setup.sources[0].source = Arc::new(account);
            setup.sources[0].fleets[0].port = port;
            setup.probe = ProbeConfig { enabled: probe, ..ProbeConfig::default() };
        })
        .await;
        let mut lab_open = Vec::new();
        if answer {
            let all = rig.cloud.instances(&group("f")).into_iter();
            lab_open.extend(all.map(|i| TcpListener::bind(SocketAddr::new(i.ip, port)).unwrap()));
        }
        rig.begin();
        let lab = Self { rig, hooks, port, ids, open: lab_open };
        pass(3).await;
        assert_eq!(lab.hosts(), count, "who was there before us is listed");
        lab
    }

    fn hosts(&self) -> usize {
        self.rig.hosts("f").unwrap().len()
    }

    /// An instance is launched; its hook waits, and is told of.
    async fn launch(&self) -> InstanceId {
        let id = self.rig.cloud.launch(&group("f"));
        self.hooks.wait(&id, "launch");
        self.hear(hook_event(&id, "launch", "t", Transition::Launching)).await;
        id
    }

    async fn hear(&self, event: pikepole_directory::events::Event) {
        let event = pikepole_directory::events::Event { at: Some(self.rig.wall.now()), ..event };
        self.rig.engine.take_events(&[event]).await;
    }

    fn opens(&mut self, id: &InstanceId) {
        let ip = self.rig.cloud.instances(&group("f")).into_iter().find(|i| i.id == *id).unwrap().ip;
        self.open.push(TcpListener::bind(SocketAddr::new(ip, self.port)).unwrap());
    }

    fn set(&self, id: &InstanceId, lifecycle: Lifecycle) {
        self.rig.cloud.set_lifecycle(&group("f"), id, lifecycle);
    }

    fn state_of(&self, id: &InstanceId) -> Option<MemberState> {
        let roster = self.rig.fleet("f").published().unwrap();
        roster.roster.members().iter().find(|m| m.instance_id == *id).map(|m| m.state)
    }

    fn life(&self, id: &InstanceId) -> Option<Life> {
        self.rig.fleet("f").state().lives.get(id).cloned()
    }

    /// Seconds until it is listed.
    async fn listed(&self, id: &InstanceId, within: u64) -> f64 {
        let began = Instant::now();
        while self.state_of(id) != Some(MemberState::Active) {
            assert!(began.elapsed() < Duration::from_secs(within), "not listed: {:?}", self.life(id));
            sleep(Duration::from_millis(20)).await;
        }
        began.elapsed().as_secs_f64()
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_let_go_when_its_port_answers_and_listed_when_it_is_in_service() {
    let mut lab = Lab::of(2, true).await;
    let id = lab.launch().await;
    pass(60).await;
    assert!(lab.hooks.waits(&id), "its port is closed");
    lab.opens(&id);
    pass(1).await;
    assert_eq!(lab.hooks.completed(&id).len(), 1);
    assert_eq!(lab.life(&id).unwrap().waiting[0].done.unwrap().1, HookEnd::Ready);
    assert_eq!(lab.hosts(), 2, "not in service yet");
    lab.set(&id, Lifecycle::InService);
    // However long it took to get ready: from here on it is a matter of seconds.
    let seconds = lab.listed(&id, 30).await;
    assert!(seconds <= 3.0, "{seconds}");
    pass(300).await;
    assert_eq!(lab.hooks.made(What::Complete).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_in_service_whose_port_is_closed_is_listed_when_the_time_is_up() {
    let mut lab = Lab::of(2, true).await;
    let id = lab.launch().await;
    pass(5).await;
    lab.set(&id, Lifecycle::InService);
    pass(110).await;
    assert_eq!(lab.state_of(&id), None);
    assert!(lab.hooks.waits(&id));
    pass(8).await;
    assert_eq!(lab.state_of(&id), Some(MemberState::Active));
    assert_eq!(lab.life(&id).unwrap().waiting[0].done.unwrap().1, HookEnd::GaveUp);
    assert_eq!(lab.hooks.completed(&id).len(), 1);
    assert!(lab.rig.is_open(AlertKind::ProbeGaveUp));
    lab.opens(&id);
    pass(40).await;
    assert!(!lab.rig.is_open(AlertKind::ProbeGaveUp), "it answers after all");
    assert!(lab.life(&id).unwrap().answered.is_some());
}

#[tokio::test(start_paused = true)]
async fn without_probes_the_hook_is_completed_at_once_and_in_service_is_enough() {
    let lab = Lab::with(2, false, false).await;
    let id = lab.launch().await;
    pass(1).await;
    assert_eq!(lab.hooks.completed(&id).len(), 1);
    lab.set(&id, Lifecycle::InService);
    assert!(lab.listed(&id, 30).await <= 3.0);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_late_is_probed_when_it_comes() {
    let mut lab = Lab::of(2, true).await;
    lab.rig.cloud.hide_addresses(true);
    let id = lab.launch().await;
    lab.opens(&id);
    pass(20).await;
    assert!(lab.hooks.waits(&id), "there is nothing to connect to");
    assert_eq!(lab.hosts(), 2);
    lab.rig.cloud.hide_addresses(false);
    let began = Instant::now();
    until("its hook is completed", || !lab.hooks.waits(&id)).await;
    assert!(began.elapsed() < Duration::from_secs(32));
    lab.set(&id, Lifecycle::InService);
    assert!(lab.listed(&id, 30).await <= 3.0);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_comes_into_service_is_chased_ever_more_seldom_and_forgotten_when_it_is_gone() {
    let lab = Lab::of(2, true).await;
    let before = lab.rig.cloud.describes();
    let id = lab.launch().await;
    pass(20).await;
    let soon = lab.rig.cloud.describes() - before;
    assert!((5..=7).contains(&soon), "at 0, 1, 3, 7 and 15 s: {soon}");
    pass(1_200).await;
    let all = lab.rig.cloud.describes() - before;
    assert!(all <= 90, "{all} describes in twenty minutes");
    assert_eq!(lab.hosts(), 2);
    lab.rig.cloud.remove(&group("f"), &id);
    pass(60).await;
    assert!(lab.life(&id).is_none_or(|life| life.gone.is_some()));
    assert!(!lab.rig.is_open(AlertKind::ProbeGaveUp));
}

#[tokio::test(start_paused = true)]
async fn a_launch_of_which_no_describe_ever_hears_ends() {
    let lab = Lab::of(2, true).await;
    let id: InstanceId = "i-never".parse().unwrap();
    lab.hear(event(EventKind::Launched, &id)).await;
    lab.hear(hook_event(&"i-hook".parse().unwrap(), "launch", "t", Transition::Launching)).await;
    pass(300).await;
    for id in [id, "i-hook".parse().unwrap()] {
        assert!(lab.life(&id).is_none_or(|life| life.gone.is_some() && !life.has_open()), "{id} is awaited");
    }
    assert!(!lab.rig.is_open(AlertKind::ProbeGaveUp), "nobody is listed in spite of a closed port");
}

#[tokio::test(start_paused = true)]
async fn one_in_service_out_of_nowhere_is_held_back_only_if_somebody_answers_us() {
    let mut lab = Lab::of(2, true).await;
    let id = grow(&lab.rig.cloud, "f", 1).remove(0);
    pass(40).await;
    assert_eq!(lab.state_of(&id), None, "the others answer, so it is its own fault");
    lab.opens(&id);
    assert!(lab.listed(&id, 2).await <= 1.0);
    // Nobody answers us: then that says something about us.
    let lab = Lab::of(2, false).await;
    let id = grow(&lab.rig.cloud, "f", 1).remove(0);
    let seconds = lab.listed(&id, 60).await;
    assert!(seconds <= 38.0, "with the next sweep: {seconds}");
    assert!(!lab.rig.is_open(AlertKind::ProbeGaveUp));
}

#[tokio::test(start_paused = true)]
async fn a_list_is_never_emptied_because_of_a_port() {
    let lab = Lab::of(1, true).await;
    let id = lab.launch().await;
    pass(5).await;
    lab.set(&id, Lifecycle::InService);
    pass(20).await;
    assert_eq!(lab.state_of(&id), None);
    lab.rig.cloud.remove(&group("f"), &lab.ids[0]);
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(lab.hosts(), 1, "nobody is sent nowhere");
    }
    assert_eq!(lab.state_of(&id), Some(MemberState::LastResort));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_events_in_ten_seconds_cost_few_describes_and_lose_no_effect() {
    let lab = Lab::with(60, false, false).await;
    let before = lab.rig.cloud.describes();
    for n in 0..500 {
        lab.hear(event(EventKind::Terminated, &lab.ids[n % 50])).await;
        lab.hear(event(EventKind::Launched, &format!("i-new{}", n % 50).parse().unwrap())).await;
        sleep(Duration::from_millis(20)).await;
    }
    let describes = lab.rig.cloud.describes() - before;
    assert!((3..=10).contains(&describes), "{describes} describes");
    let state = lab.rig.fleet("f").state();
    assert!((0..50).all(|n| lab.state_of(&lab.ids[n]) == Some(MemberState::Draining)));
    assert!((0..50).all(|n| state.lives.get(&format!("i-new{n}").parse().unwrap()).is_some()));
    assert_eq!(lab.hosts(), 10);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_from_standby_is_listed_again_when_it_answers() {
    for announced in [false, true] {
        let mut lab = Lab::of(3, true).await;
        let id = lab.ids[0].clone();
        lab.open.remove(0);
        lab.set(&id, Lifecycle::Leaving);
        pass(40).await;
        assert_eq!(lab.state_of(&id), Some(MemberState::Draining));
        lab.set(&id, Lifecycle::Away);
        pass(400).await;
        assert_eq!(lab.state_of(&id), None);
        assert!(!lab.rig.is_open(AlertKind::ProbeGaveUp));
        lab.set(&id, Lifecycle::Launching);
        if announced {
            lab.hear(event(EventKind::Launched, &id)).await;
        }
        pass(40).await;
        lab.set(&id, Lifecycle::InService);
        pass(40).await;
        assert_eq!(lab.state_of(&id), None, "its port is closed");
        lab.opens(&id);
        assert!(lab.listed(&id, 5).await <= 1.0);
        assert!(!lab.life(&id).unwrap().is_leaving(), "no drain is left");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_the_warm_pool_is_let_in_and_then_left_in_peace() {
    let mut lab = Lab::of(2, true).await;
    let id = lab.rig.cloud.launch(&group("f"));
    lab.set(&id, Lifecycle::Away);
    lab.hooks.wait(&id, "launch");
    let to_pool = hook_event(&id, "launch", "t", Transition::Launching);
    lab.hear(pikepole_directory::events::Event { warm_pool: WarmPool::To, ..to_pool }).await;
    lab.opens(&id);
    pass(5).await;
    assert_eq!(lab.hooks.completed(&id).len(), 1, "it has started up");
    lab.open.pop();
    // It is stopped and waits for hours.
    pass(7_200).await;
    assert_eq!(lab.state_of(&id), None);
    assert!(!lab.rig.is_open(AlertKind::ProbeGaveUp), "it is stopped, not silent");
    assert!(!lab.life(&id).is_some_and(|life| life.wants_probe()));
    // And comes into service, with nobody telling.
    lab.set(&id, Lifecycle::Launching);
    pass(40).await;
    lab.set(&id, Lifecycle::InService);
    pass(40).await;
    assert_eq!(lab.state_of(&id), None, "its port is closed");
    lab.opens(&id);
    assert!(lab.listed(&id, 5).await <= 1.0);
}

#[tokio::test(start_paused = true)]
async fn what_a_file_lists_is_believed_at_once() {
    let wall = Wall::new();
    let cloud = on_this_machine(&wall);
    grow(&cloud, "f", 1);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut rig = Rig::open(cloud, wall, &["f"], |setup| {
        setup.sources[0].fleets[0].port = port;
        setup.sources[0].fleets[0].source = SourceConfig::File { path: "members.json".into() };
        setup.probe = ProbeConfig::default();
    })
    .await;
    let _answers = TcpListener::bind(SocketAddr::new(rig.cloud.instances(&group("f"))[0].ip, port)).unwrap();
    rig.begin();
    pass(3).await;
    grow(&rig.cloud, "f", 1);
    rig.engine.refresh(rig.fleet("f"), Duration::from_secs(5)).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 2, "its port is closed, and nobody asked");
}
