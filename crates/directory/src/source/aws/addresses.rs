//! Which private address an instance has: a primary private address never changes while its instance
//! lives, so EC2 is asked once per instance.
//!
//! Invariant: an entry lives exactly as long as its group lists the instance, so the cache is never
//! larger than what Auto Scaling tells.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pikepole_fleet::{GroupName, InstanceId};

/// The addresses known so far, by group.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<GroupName, HashMap<InstanceId, IpAddr>>>);

impl Addresses {
    pub(super) fn get(&self, group: &GroupName, id: &InstanceId) -> Option<IpAddr> {
        self.lock().get(group)?.get(id).copied()
    }

    pub(super) fn learn(&self, group: &GroupName, id: &InstanceId, ip: IpAddr) {
        self.lock().entry(group.clone()).or_default().insert(id.clone(), ip);
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

    fn lock(&self) -> MutexGuard<'_, HashMap<GroupName, HashMap<InstanceId, IpAddr>>> {
        // Every change is one insert or one removal: nothing half done can be left behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
