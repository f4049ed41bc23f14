//! Takes in events: finds the fleets they are about, and tells those what they mean.

use pikepole_fleet::{Fact, FactKind, Input};

use super::Engine;
use crate::events::{Event, EventKind};

/// What became of a list of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Events that were about an instance of one of our fleets, or may yet turn out to be.
    pub ours: usize,
    /// Events of groups and instances that are not ours.
    pub foreign: usize,
    /// Events whose effect is not in any store, so that they must come again.
    pub not_kept: usize,
}

impl Engine {
    /// Takes in events. When this returns, their effects are in the store, except those counted as
    /// [`Taken::not_kept`].
    pub async fn take_events(&self, events: &[Event]) -> Taken {
        let mut taken = Taken::default();
        for event in events {
            let Some(group) = &event.group else { continue };
            let kind = match event.kind {
                EventKind::LaunchHook => FactKind::Launching,
                EventKind::TerminateHook => FactKind::Terminating,
                _ => continue,
            };
            let at = event.at.unwrap_or_else(|| self.clock().now());
            for fleet in self.fleets().iter().filter(|f| f.config().group() == *group) {
                taken.ours += 1;
                let fact = Fact { instance: event.instance.clone(), kind, at };
                self.apply(fleet, Input::Learned(fact)).await;
            }
        }
        taken
    }
}
