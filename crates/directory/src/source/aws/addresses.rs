//! Which private address an instance has: a primary private address never changes while its instance
//! lives, so EC2 is asked once per instance.
//!
//! Invariant: an entry lives exactly as long as its group lists the instance, so the cache is never
//! larger than what Auto Scaling tells.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pikepole_fleet::{GroupName, InstanceId};
use tokio::time::Instant;

/// An instance that is only launching is asked for at most this often: its group is described far more
/// often than EC2 learns something.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The addresses known so far, by group.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<GroupName, HashMap<InstanceId, Known>>>);

/// What is known of one instance.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// Its address.
    Address(IpAddr),
    /// That EC2 told none at this time.
    AskedAt(Instant),
}

impl Addresses {
    pub(super) fn get(&self, group: &GroupName, id: &InstanceId) -> Option<IpAddr> {
        match self.lock().get(group)?.get(id)? {
            Known::Address(ip) => Some(*ip),
            Known::AskedAt(_) => None,
        }
    }

    /// Whether it is time to ask for an instance that is only launching.
    pub(super) fn may_ask(&self, group: &GroupName, id: &InstanceId) -> bool {
        match self.lock().get(group).and_then(|known| known.get(id)) {
            None => true,
            Some(Known::AskedAt(at)) => at.elapsed() >= ASK_AGAIN,
            Some(Known::Address(_)) => false,
        }
    }

    /// Remembers that EC2 is being asked now.
    pub(super) fn asked(&self, group: &GroupName, id: &InstanceId) {
        let mut known = self.lock();
        let known = known.entry(group.clone()).or_default();
        if !matches!(known.get(id), Some(Known::Address(_))) {
            known.insert(id.clone(), Known::AskedAt(Instant::now()));
        }
    }

    pub(super) fn learn(&self, group: &GroupName, id: &InstanceId, ip: IpAddr) {
        self.lock().entry(group.clone()).or_default().insert(id.clone(), Known::Address(ip));
    }

    /// Forgets the instances of `group` that it no longer lists.
    pub(super) fn keep_only(&self, group: &GroupName, listed: &BTreeSet<&InstanceId>) {
        let mut known = self.lock();
        if let Some(addresses) = known.get_mut(group) {
            addresses.retain(|id, _| listed.contains(id));
            if addresses.is_empty() {
                known.remove(group);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().values().map(HashMap::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GroupName, HashMap<InstanceId, Known>>> {
        // Every change is one insert or one removal: nothing half done can be left behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
