//! Version 1 of the wire types. Fields may be added; none changes its meaning.

use pikepole_fleet as domain;
use serde::{Deserialize, Serialize};

use crate::time::Rfc3339;

/// What proxies may do with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Send here.
    Active,
    /// Send here only while nothing is active.
    LastResort,
    /// Send nothing new, finish, leave.
    Draining,
}

impl From<domain::MemberState> for MemberState {
    fn from(state: domain::MemberState) -> Self {
        match state {
            domain::MemberState::Active => Self::Active,
            domain::MemberState::LastResort => Self::LastResort,
            domain::MemberState::Draining => Self::Draining,
        }
    }
}

impl From<MemberState> for domain::MemberState {
    fn from(state: MemberState) -> Self {
        match state {
            MemberState::Active => Self::Active,
            MemberState::LastResort => Self::LastResort,
            MemberState::Draining => Self::Draining,
        }
    }
}

/// One collector instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The instance's id.
    pub instance_id: String,
    /// `ip:port`; an IPv6 address in brackets.
    pub address: std::net::SocketAddr,
    /// The availability zone, if known.
    #[serde(default)]
    pub zone: Option<String>,
    /// What proxies may do with it.
    pub state: MemberState,
}

/// A fleet's roster at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// The fleet's name.
    pub fleet: String,
    /// Its data centre.
    pub dc: String,
    /// Its region.
    pub region: String,
    /// Changes exactly when the members do.
    pub revision: u64,
    /// When this content came to be.
    pub published_at: Rfc3339,
    /// Sorted by instance id.
    pub members: Vec<Member>,
}

impl Roster {
    /// The roster of a fleet, dressed for the wire.
    pub fn new(dc: &domain::Dc, region: &domain::Region, roster: &domain::Roster) -> Self {
        let member = |m: &domain::Member| Member {
            instance_id: m.instance_id.to_string(),
            address: m.address,
            zone: m.zone.as_ref().map(ToString::to_string),
            state: m.state.into(),
        };
        Self {
            fleet: roster.fleet().to_string(),
            dc: dc.to_string(),
            region: region.to_string(),
            revision: roster.revision().get(),
            published_at: Rfc3339(roster.published_at()),
            members: roster.members().iter().map(member).collect(),
        }
    }

    /// Reads it back into the domain, checking every name.
    pub fn to_domain(&self) -> Result<domain::Roster, domain::NameError> {
        let member = |m: &Member| {
            Ok(domain::Member {
                instance_id: m.instance_id.parse()?,
                address: m.address,
                zone: m.zone.as_deref().map(str::parse).transpose()?,
                state: m.state.into(),
            })
        };
        Ok(domain::Roster::new(
            self.fleet.parse()?,
            domain::Revision::new(self.revision),
            self.published_at.0,
            self.members.iter().map(member).collect::<Result<_, _>>()?,
        ))
    }
}

/// The state of all fleets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fleets {
    /// One entry a fleet, in the order of the configuration.
    pub fleets: Vec<Fleet>,
}

/// The state of one fleet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fleet {
    /// Its name.
    pub fleet: String,
    /// Its data centre.
    pub dc: String,
    /// Its region.
    pub region: String,
    /// The port its collectors listen on; absent for a `file` fleet, whose members name their own.
    pub port: Option<u16>,
    /// Where its truth comes from, and how that goes.
    pub source: Source,
    /// The published roster; `null`: nothing is known yet, which is not the same as empty.
    pub roster: Option<Roster>,
    /// When the source last confirmed the roster.
    pub confirmed_at: Option<Rfc3339>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// Whether that is longer than the operator tolerates.
    pub stale: bool,
    /// Whether the guard holds a describe up.
    pub guard: Guard,
    /// What is wrong with this fleet now.
    pub alerts: Vec<Alert>,
    /// Long polls and event streams that are open on this fleet, on this replica.
    pub watchers: u64,
    /// How far its agents are.
    pub convergence: Convergence,
    /// Instances on their way in or out, and the last that went, newest first. Only where one fleet is
    /// asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lives: Option<Vec<Life>>,
    /// The last changes of the roster, newest first. Only where one fleet is asked for: of all fleets
    /// together they would be megabytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
}

/// Where a fleet's truth comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// `aws`, `file` or `sim`.
    pub kind: String,
    /// The Auto Scaling group, or the fleet's name.
    pub group: String,
    /// How it goes.
    pub state: SourceState,
    /// When it was last asked.
    pub last_attempt_at: Option<Rfc3339>,
    /// When it last answered.
    pub last_success_at: Option<Rfc3339>,
    /// The last thing that went wrong, even if it goes well now.
    pub last_error: Option<SourceFailure>,
    /// Failures since the last answer.
    pub consecutive_failures: u32,
}

/// How a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Not asked yet by this replica.
    Waiting,
    /// It answers.
    Ok,
    /// It does not answer.
    Failing,
    /// AWS throttles us.
    Throttled,
    /// It is sure that there is no such group.
    Missing,
    /// Another replica holds the lease and asks it.
    Elsewhere,
}

/// Something that went wrong with a source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceFailure {
    /// When.
    pub at: Rfc3339,
    /// What, for people.
    pub message: String,
}

/// What the guard does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guard {
    /// `ok` or `holding`.
    pub state: GuardState,
    /// Why it holds.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<Rfc3339>,
    /// How many reads in a row told the same story.
    pub reads: u32,
}

/// Whether the guard holds a describe up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardState {
    /// The last describe was believed.
    Ok,
    /// It was not, and the last good roster is served.
    Holding,
}

/// An open problem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alert {
    /// A stable word: `source_failing`, `guard_holding`, …
    pub kind: String,
    /// Since when.
    pub since: Rfc3339,
    /// What happened and what to do.
    pub detail: String,
}

/// One change of a roster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Rfc3339,
    /// The revision it led to.
    pub revision: u64,
    /// What brought it about.
    pub cause: String,
    /// The members it touched.
    pub members: Vec<MemberChange>,
}

/// How one member changed; `null` means: not in the roster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberChange {
    /// Who.
    pub instance_id: String,
    /// Its address.
    pub address: std::net::SocketAddr,
    /// Its state before.
    pub from: Option<MemberState>,
    /// Its state after.
    pub to: Option<MemberState>,
}

impl From<&domain::Change> for Change {
    fn from(change: &domain::Change) -> Self {
        let member = |m: &domain::MemberChange| MemberChange {
            instance_id: m.instance_id.to_string(),
            address: m.address,
            from: m.from.map(Into::into),
            to: m.to.map(Into::into),
        };
        Self {
            at: Rfc3339(change.at),
            revision: change.revision.get(),
            cause: change.cause.to_string(),
            members: change.members.iter().map(member).collect(),
        }
    }
}

/// `GET /v1/agents`: who follows, and which dying collectors wait for whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agents {
    /// The agents, by fleet and id.
    pub agents: Vec<Agent>,
    /// The dying collectors.
    pub drains: Vec<Drain>,
}

/// One agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agent {
    /// Its stable id.
    pub id: String,
    /// The UUID of its start, if it sends one.
    pub start: Option<String>,
    /// The fleet it follows.
    pub fleet: String,
    /// The revision it really uses, as it says.
    pub applied: Option<u64>,
    /// Its poll is open, or ended less than 5 s ago.
    pub live: bool,
    /// When its last poll began or ended.
    pub last_seen: Rfc3339,
    /// Where it polls from.
    pub address: std::net::IpAddr,
}

/// One dying collector.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drain {
    /// The fleet it belongs to.
    pub fleet: String,
    /// The collector.
    pub instance_id: String,
    /// Since when nobody shall send to it.
    pub since: Rfc3339,
    /// When its lifecycle hook is completed at the latest; `null` if none waits.
    pub deadline: Option<Rfc3339>,
    /// The live agents that have not moved off.
    pub waiting_for: Vec<String>,
    /// The lifecycle hook that waits.
    pub hook: Option<String>,
}

/// How far the agents of a fleet are, and its newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convergence {
    /// Agents that are live.
    pub live: u64,
    /// Those of them that use the published revision.
    pub applied: u64,
    /// Newcomers that are not listed before their port answers.
    #[serde(default)]
    pub awaited: u64,
}

/// What happened to one instance, and when; `null`: not, or not yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Life {
    /// The instance.
    pub instance_id: String,
    /// Its launch was announced.
    pub launched: Option<Rfc3339>,
    /// Its port answered.
    pub answered: Option<Rfc3339>,
    /// Its port did not answer in the time there is; it is listed all the same.
    pub given_up: Option<Rfc3339>,
    /// The source lists it as in service.
    pub in_service: Option<Rfc3339>,
    /// AWS warned that it takes the spot instance back.
    pub warned: Option<Rfc3339>,
    /// Nobody shall send to it any more.
    pub draining: Option<Rfc3339>,
    /// Every agent had moved off.
    pub moved_off: Option<Rfc3339>,
    /// The last of its lifecycle hooks ended.
    pub completed: Option<Rfc3339>,
    /// How: `converged`, `deadline`, `ready`, `gave_up`, `no_such_action`, `gone`.
    pub completed_because: Option<String>,
    /// The source lists it no longer.
    pub gone: Option<Rfc3339>,
    /// It is held back until its port answers.
    pub awaited: bool,
    /// The live agents that have not moved off.
    pub held_by: Vec<String>,
}

/// One target group of Prometheus' HTTP service discovery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SdGroup {
    /// `ip:port` each.
    pub targets: Vec<String>,
    /// Labels that start with `__meta_pikepole_`.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What became of a refresh.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refresh {
    /// `confirmed`: the source answered after the request; `pending`: it is still being asked.
    pub status: RefreshStatus,
    /// The roster it led to, if it was waited for.
    pub roster: Option<Roster>,
}

/// Whether a refresh is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshStatus {
    /// The source answered after the request, and `roster` is what is served now.
    Confirmed,
    /// The source is still being asked.
    Pending,
}

/// What became of a body of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventsTaken {
    /// Events in it.
    pub events: u64,
    /// Those about an instance of a fleet that is served here.
    pub ours: u64,
    /// Those about other groups and instances.
    pub foreign: u64,
    /// Test notifications of AWS.
    pub tests: u64,
    /// Parts that could not be understood; sending them again will not help.
    pub rejected: u64,
}

/// The body of every error of `/v1`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// A stable code, and a sentence that says what to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// The stable codes. Their words never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// No fleet has this name.
    UnknownFleet,
    /// The request itself is wrong.
    BadRequest,
    /// A token is missing or wrong.
    Unauthorized,
    /// The token may not do this.
    Forbidden,
    /// The request is larger than the limit.
    TooLarge,
    /// Nothing is known yet; come again.
    NotReady,
    /// The source did not answer.
    SourceFailed,
    /// The server is stopping or full; go elsewhere or come again.
    Unavailable,
    /// A fault of ours.
    Internal,
}
