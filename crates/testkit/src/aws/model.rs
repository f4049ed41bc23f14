//! The account behind the fake: groups, their instances, and what EC2 knows of them.
//!
//! Not a simulation: nothing happens by itself, except that the time of a lifecycle action is up.
//!
//! Invariant: ids and addresses are never given out twice, and groups keep the order of their names,
//! so that a walk over pages is repeatable.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::fault::Faults;
use super::hooks::{HookRecord, HookSpec, Waiting};

/// Zones are given out in turn.
const ZONES: [&str; 3] = ["ap-south-1a", "ap-south-1b", "ap-south-1c"];

/// How a test's instance comes into the world.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its `LifecycleState`.
    pub state: String,
    /// Its private address; `None` for the next free one.
    pub address: Option<IpAddr>,
    /// Whether EC2 knows it already.
    pub visible_in_ec2: bool,
}

impl Default for Launch {
    fn default() -> Self {
        Self { state: "InService".to_owned(), address: None, visible_in_ec2: true }
    }
}

impl Launch {
    /// One in this `LifecycleState`.
    pub fn in_state(state: &str) -> Self {
        Self { state: state.to_owned(), ..Self::default() }
    }
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) hosts: BTreeMap<String, Host>,
    pub(super) faults: Faults,
    pub(super) answer_empty: bool,
    pub(super) hide_addresses: bool,
    pub(super) delay: Duration,
    pub(super) max_page: usize,
    pub(super) date: Option<String>,
    pub(super) hook_calls: Vec<HookRecord>,
    pub(super) tokens: u32,
    launched: u32,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) desired: u32,
    pub(super) omitted: bool,
    pub(super) members: Vec<Member>,
    pub(super) hooks: Vec<HookSpec>,
    pub(super) waiting: Vec<Waiting>,
}

/// An instance as Auto Scaling sees it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) zone: &'static str,
    pub(super) state: String,
}

/// An instance as EC2 sees it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) zone: &'static str,
    pub(super) state: String,
    pub(super) address: Option<IpAddr>,
    pub(super) visible: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
            hosts: BTreeMap::new(),
            faults: Faults::default(),
            answer_empty: false,
            hide_addresses: false,
            delay: Duration::ZERO,
            max_page: usize::MAX,
            date: None,
            hook_calls: Vec::new(),
            tokens: 0,
            launched: 0,
        }
    }
}

impl Model {
    pub(super) fn create_group(&mut self, name: &str, desired: u32) {
        self.groups.insert(name.to_owned(), Group { desired, ..Group::default() });
    }

    pub(super) fn delete_group(&mut self, name: &str) {
        for member in self.groups.remove(name).map(|g| g.members).unwrap_or_default() {
            self.host_mut(&member.id).terminate();
        }
    }

    pub(super) fn launch(&mut self, group: &str, how: Launch) -> String {
        self.launched += 1;
        let number = self.launched;
        let zone = ZONES[number as usize % ZONES.len()];
        let id = format!("i-{number:017x}");
        let next = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number));
        let host = Host {
            zone,
            state: "running".to_owned(),
            address: Some(how.address.unwrap_or(next)),
            visible: how.visible_in_ec2,
        };
        self.group_mut(group).members.push(Member { id: id.clone(), zone, state: how.state });
        self.hosts.insert(id.clone(), host);
        id
    }

    pub(super) fn remove(&mut self, id: &str) {
        for group in self.groups.values_mut() {
            group.members.retain(|m| m.id != id);
            group.waiting.retain(|w| !w.is_of(id));
        }
        self.host_mut(id).terminate();
    }

    pub(super) fn group_mut(&mut self, name: &str) -> &mut Group {
        self.groups.get_mut(name).expect("the test made this group")
    }

    pub(super) fn member_mut(&mut self, id: &str) -> &mut Member {
        let members = self.groups.values_mut().flat_map(|g| g.members.iter_mut());
        members.into_iter().find(|m| m.id == id).expect("the test launched this instance into a group")
    }

    pub(super) fn host_mut(&mut self, id: &str) -> &mut Host {
        self.hosts.get_mut(id).expect("the test launched this instance")
    }
}

impl Host {
    /// EC2 goes on telling of the instance for about an hour, without its address.
    fn terminate(&mut self) {
        self.state = "terminated".to_owned();
        self.address = None;
    }
}
