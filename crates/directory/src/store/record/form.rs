//! The shapes of record formats 1 and 2 and their conversions to and from the domain.
//!
//! ```text
//! {"format":2, "fleet":NAME,
//!  "snapshot":{"made_at":MS,"desired":N,"instances":[{"id","lifecycle","address","zone"}…]},
//!  "overlay":{ID:{"dying":MS,"launched":MS,"advised":MS}…},
//!  "lives":{ID:{"launched":MS,"answered":MS,"given_up":MS,"in_service":MS,"warned":MS,"draining":MS,
//!               "moved_off":MS,"gone":MS,"awaited":true,"clear":[N…],
//!               "waiting":[{"hook","token","transition","since":MS,"until":MS,"done":MS,"end"}…]}…},
//!  "hold":{"doubt":{"kind",…},"since":MS,"reads":N,"not_found":[ID…]},
//!  "missing":true,
//!  "roster":{"revision":N,"published_at":MS,"members":[{"id","address","zone","state"}…]},
//!  "confirmed_at":MS,
//!  "changes":[{"at":MS,"revision":N,"cause":WORD,"members":[{"id","address","from","to"}…]}…]}
//! ```
//!
//! MS is unix time in milliseconds. What is absent, empty or false is left out.
//!
//! Invariant: every word here is spelled out and never reused; renaming a Rust item changes no record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use pikepole_fleet::limits::{MAX_CHANGES, MAX_MEMBERS};
use pikepole_fleet::{
    Change, Describe, Entry, FleetName, FleetState, Hold, Instance, InstanceId, Member, MemberChange,
    Overlay, Revision, Roster, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{FORMAT, FORMAT_WITH_LIVES, RecordError};

mod life;
mod word;
use life::LifeForm;
use word::{CauseWord, DoubtForm, LifecycleWord, StateWord};

/// Members that all remembered changes of a record touch together. The timeline is a comfort; without
/// this, fifty changes of a huge fleet would be fifty times its roster. The oldest go first.
const MAX_CHANGED_MEMBERS: usize = 20_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    format: u32,
    fleet: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<DescribeForm>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    overlay: BTreeMap<String, EntryForm>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    lives: BTreeMap<String, LifeForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<HoldForm>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    missing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    roster: Option<RosterForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    changes: Vec<ChangeForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribeForm {
    made_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    desired: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    instances: Vec<InstanceForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceForm {
    id: String,
    lifecycle: LifecycleWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dying: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    launched: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advised: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldForm {
    doubt: DoubtForm,
    since: u64,
    reads: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    not_found: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RosterForm {
    revision: u64,
    published_at: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<MemberForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    id: String,
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    state: StateWord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeForm {
    at: u64,
    revision: u64,
    cause: CauseWord,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<MemberChangeForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberChangeForm {
    id: String,
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<StateWord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<StateWord>,
}

// === domain → record ===

impl Form {
    pub(super) fn from_domain(state: &FleetState) -> Self {
        Self {
            format: if state.lives.0.is_empty() { FORMAT } else { FORMAT_WITH_LIVES },
            fleet: state.fleet.to_string(),
            snapshot: state.snapshot.as_ref().map(DescribeForm::from_domain),
            overlay: state.overlay.entries.iter().map(|(id, e)| (id.to_string(), entry_form(e))).collect(),
            lives: life::lives_form(&state.lives),
            hold: state.hold.as_ref().map(HoldForm::from_domain),
            missing: state.missing,
            roster: state.roster.as_deref().map(RosterForm::from_domain),
            confirmed_at: millis(state.confirmed_at),
            changes: changes_form(&state.changes),
        }
    }
}

impl DescribeForm {
    fn from_domain(describe: &Describe) -> Self {
        let instance = |i: &Instance| InstanceForm {
            id: i.id.to_string(),
            lifecycle: i.lifecycle.into(),
            address: i.address.map(|a| a.to_string()),
            zone: i.zone.as_ref().map(ToString::to_string),
        };
        Self {
            made_at: describe.made_at.as_millis(),
            desired: describe.desired,
            instances: describe.instances.iter().map(instance).collect(),
        }
    }
}

impl HoldForm {
    fn from_domain(hold: &Hold) -> Self {
        Self {
            doubt: hold.doubt.into(),
            since: hold.since.as_millis(),
            reads: hold.reads,
            not_found: hold.not_found.iter().map(ToString::to_string).collect(),
        }
    }
}

impl RosterForm {
    fn from_domain(roster: &Roster) -> Self {
        let member = |m: &Member| MemberForm {
            id: m.instance_id.to_string(),
            address: m.address.to_string(),
            zone: m.zone.as_ref().map(ToString::to_string),
            state: m.state.into(),
        };
        Self {
            revision: roster.revision().get(),
            published_at: roster.published_at().as_millis(),
            members: roster.members().iter().map(member).collect(),
        }
    }
}

fn entry_form(entry: &Entry) -> EntryForm {
    EntryForm { dying: millis(entry.dying), launched: millis(entry.launched), advised: millis(entry.advised) }
}

fn changes_form(changes: &VecDeque<Change>) -> Vec<ChangeForm> {
    let mut room = MAX_CHANGED_MEMBERS;
    let newest_first = changes.iter().rev().take(MAX_CHANGES).take_while(|change| {
        let fits = change.members.len() <= room;
        room = room.saturating_sub(change.members.len());
        fits
    });
    let mut kept: Vec<&Change> = newest_first.collect();
    kept.reverse();
    let member = |m: &MemberChange| MemberChangeForm {
        id: m.instance_id.to_string(),
        address: m.address.to_string(),
        from: m.from.map(Into::into),
        to: m.to.map(Into::into),
    };
    let change = |c: &Change| ChangeForm {
        at: c.at.as_millis(),
        revision: c.revision.get(),
        cause: c.cause.into(),
        members: c.members.iter().map(member).collect(),
    };
    kept.into_iter().map(change).collect()
}

fn millis(at: Option<Timestamp>) -> Option<u64> {
    at.map(Timestamp::as_millis)
}

// === record → domain ===

impl Form {
    pub(super) fn into_domain(self) -> Result<FleetState, RecordError> {
        let fleet: FleetName = read("fleet", &self.fleet)?;
        let entry = |(id, e): (String, EntryForm)| {
            let entry = Entry {
                dying: e.dying.map(Timestamp::from_millis),
                launched: e.launched.map(Timestamp::from_millis),
                advised: e.advised.map(Timestamp::from_millis),
            };
            Ok::<_, RecordError>((read("instance id", &id)?, entry))
        };
        if self.changes.len() > MAX_CHANGES {
            return Err(invalid("changes", format_args!("more than {MAX_CHANGES}")));
        }
        Ok(FleetState {
            snapshot: self.snapshot.map(DescribeForm::into_domain).transpose()?,
            overlay: Overlay { entries: self.overlay.into_iter().map(entry).collect::<Result<_, _>>()? },
            lives: life::lives(self.lives)?,
            hold: self.hold.map(HoldForm::into_domain).transpose()?,
            missing: self.missing,
            roster: self.roster.map(|r| r.into_domain(&fleet)).transpose()?.map(Arc::new),
            confirmed_at: self.confirmed_at.map(Timestamp::from_millis),
            changes: self.changes.into_iter().map(ChangeForm::into_domain).collect::<Result<_, _>>()?,
            fleet,
        })
    }
}

impl DescribeForm {
    fn into_domain(self) -> Result<Describe, RecordError> {
        check_count("snapshot", self.instances.len())?;
        let instance = |i: InstanceForm| {
            Ok(Instance {
                id: read("instance id", &i.id)?,
                lifecycle: i.lifecycle.into(),
                address: i.address.as_deref().map(|a| read("address", a)).transpose()?,
                zone: i.zone.as_deref().map(|z| read("zone", z)).transpose()?,
            })
        };
        Ok(Describe {
            made_at: Timestamp::from_millis(self.made_at),
            desired: self.desired,
            instances: self.instances.into_iter().map(instance).collect::<Result<_, RecordError>>()?,
        })
    }
}

impl HoldForm {
    fn into_domain(self) -> Result<Hold, RecordError> {
        let ids = self.not_found.iter().map(|id| read("instance id", id));
        Ok(Hold {
            doubt: self.doubt.into(),
            since: Timestamp::from_millis(self.since),
            reads: self.reads,
            not_found: ids.collect::<Result<BTreeSet<InstanceId>, _>>()?,
        })
    }
}

impl RosterForm {
    fn into_domain(self, fleet: &FleetName) -> Result<Roster, RecordError> {
        check_count("roster", self.members.len())?;
        let member = |m: MemberForm| {
            Ok(Member {
                instance_id: read("instance id", &m.id)?,
                address: read("address", &m.address)?,
                zone: m.zone.as_deref().map(|z| read("zone", z)).transpose()?,
                state: m.state.into(),
            })
        };
        let members: Vec<Member> =
            self.members.into_iter().map(member).collect::<Result<_, RecordError>>()?;
        if !members.is_sorted_by(|a, b| a.instance_id < b.instance_id) {
            return Err(invalid("roster", "its members are not sorted, or one is there twice"));
        }
        let published_at = Timestamp::from_millis(self.published_at);
        Ok(Roster::new(fleet.clone(), Revision::new(self.revision), published_at, members))
    }
}

impl ChangeForm {
    fn into_domain(self) -> Result<Change, RecordError> {
        let member = |m: MemberChangeForm| {
            Ok(MemberChange {
                instance_id: read("instance id", &m.id)?,
                address: read("address", &m.address)?,
                from: m.from.map(Into::into),
                to: m.to.map(Into::into),
            })
        };
        Ok(Change {
            at: Timestamp::from_millis(self.at),
            revision: Revision::new(self.revision),
            cause: self.cause.into(),
            members: self.members.into_iter().map(member).collect::<Result<_, RecordError>>()?,
        })
    }
}

fn check_count(what: &'static str, count: usize) -> Result<(), RecordError> {
    if count > MAX_MEMBERS {
        return Err(invalid(what, format_args!("{count} members, more than {MAX_MEMBERS}")));
    }
    Ok(())
}

fn read<T: FromStr<Err: Display>>(what: &'static str, text: &str) -> Result<T, RecordError> {
    text.parse().map_err(|why| invalid(what, why))
}

fn invalid(what: &'static str, why: impl Display) -> RecordError {
    RecordError::Invalid { what, why: why.to_string() }
}
