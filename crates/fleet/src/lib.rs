//! The pure domain of Pikepole: which collectors of a fleet are in service.
//!
//! `snapshot` (what the source said) + `overlay` (what events say) pass the `guard` and become a
//! `roster`. All of it is one function of (state, input, now): [`FleetState::apply`].
//!
//! Invariant: this crate has no runtime, no clock, no I/O and no serialisation. Time is passed in.

mod alert;
pub mod drain;
mod guard;
mod hook;
mod life;
pub mod limits;
mod name;
mod overlay;
mod roster;
mod snapshot;
mod state;
mod time;

pub use alert::{Alert, AlertBook, AlertKind, Notice, Problem};
pub use guard::{Doubt, GuardPolicy, Hold, Proof};
pub use hook::{Hook, Transition};
pub use life::{HookEnd, Life, Lives, Waiting};
pub use name::{Dc, FleetName, GroupName, HookName, HookToken, InstanceId, NameError, Region, Zone};
pub use overlay::{Entry, Fact, FactKind, Overlay};
pub use roster::{Member, MemberState, Revision, Roster};
pub use snapshot::{Describe, Instance, Lifecycle};
pub use state::{Cause, Change, FleetState, Input, MemberChange, Outcome, Probed, Verdict};
pub use time::Timestamp;
