//! The roster: who is in a fleet at one revision. Immutable once made.

use std::fmt;
use std::net::SocketAddr;

use crate::name::{FleetName, InstanceId, Zone};
use crate::time::Timestamp;

/// What proxies may do with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// Send here.
    Active,
    /// Send here only while nothing is active.
    LastResort,
    /// Send nothing new, finish, leave.
    Draining,
}

impl MemberState {
    /// The word used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::LastResort => "last_resort",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One collector instance of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is, across changes of address.
    pub instance_id: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its availability zone, if the source says.
    pub zone: Option<Zone>,
    /// What proxies may do with it.
    pub state: MemberState,
}

/// A number that changes exactly when the content of a roster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// A revision read from a store or from the wire.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision after `previous`: `max(previous + 1, unix time in ms)`. Seeded by time, so that it
    /// grows across lost state; never below its predecessor, so that it grows across a clock that
    /// steps back.
    pub fn next(previous: Option<Self>, now: Timestamp) -> Self {
        let least = previous.map_or(1, |p| p.0.saturating_add(1));
        Self(least.max(now.as_millis()))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The members of a fleet at one revision, sorted by instance id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    fleet: FleetName,
    revision: Revision,
    published_at: Timestamp,
    members: Vec<Member>,
}

impl Roster {
    /// Sorts the members; the first of two with one instance id wins.
    pub fn new(
        fleet: FleetName,
        revision: Revision,
        published_at: Timestamp,
        mut members: Vec<Member>,
    ) -> Self {
        members.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
        members.dedup_by(|a, b| a.instance_id == b.instance_id);
        Self { fleet, revision, published_at, members }
    }

    /// Whose roster this is.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Which revision this is.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When this content came to be.
    pub fn published_at(&self) -> Timestamp {
        self.published_at
    }

    /// All members, sorted by instance id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The members a plain list of hosts contains: the active ones; if there are none, the ones of
    /// last resort; if none either, the draining ones. Empty only if the fleet is.
    pub fn sendable(&self) -> impl Iterator<Item = &Member> {
        let best = self.members.iter().map(|m| m.state).min();
        self.members.iter().filter(move |m| Some(m.state) == best)
    }

    /// The sendable addresses as `ip:port`, sorted as strings like the seed's, each once.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = self.sendable().map(|m| m.address.to_string()).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, address: &str, state: MemberState) -> Member {
        Member { instance_id: id.parse().unwrap(), address: address.parse().unwrap(), zone: None, state }
    }

    fn roster(members: Vec<Member>) -> Roster {
        Roster::new("f".parse().unwrap(), Revision::new(1), Timestamp::default(), members)
    }

    #[test]
    fn revisions_follow_the_clock_and_survive_its_steps_back() {
        let first = Revision::next(None, Timestamp::from_millis(1000));
        assert_eq!(first.get(), 1000);
        assert_eq!(Revision::next(Some(first), Timestamp::from_millis(2000)).get(), 2000);
        assert_eq!(Revision::next(Some(first), Timestamp::from_millis(10)).get(), 1001);
    }

    #[test]
    fn a_list_falls_back_from_active_to_last_resort_to_draining() {
        use MemberState::*;
        let a = member("i-1", "10.0.0.10:5044", Active);
        let l = member("i-2", "10.0.0.2:5044", LastResort);
        let d = member("i-3", "10.0.0.3:5044", Draining);
        assert_eq!(roster(vec![a.clone(), l.clone(), d.clone()]).hosts(), ["10.0.0.10:5044"]);
        assert_eq!(roster(vec![l, d.clone()]).hosts(), ["10.0.0.2:5044"]);
        assert_eq!(roster(vec![d]).hosts(), ["10.0.0.3:5044"]);
        assert_eq!(roster(vec![]).hosts(), Vec::<String>::new());
    }

    #[test]
    fn hosts_are_sorted_as_strings_and_ipv6_is_bracketed() {
        use MemberState::*;
        let r = roster(vec![
            member("i-1", "10.0.0.9:5044", Active),
            member("i-2", "10.0.0.10:5044", Active),
            member("i-3", "[fd00::1]:5044", Active),
        ]);
        assert_eq!(r.hosts(), ["10.0.0.10:5044", "10.0.0.9:5044", "[fd00::1]:5044"]);
    }
}
