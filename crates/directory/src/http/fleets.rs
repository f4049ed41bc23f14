//! `GET /v1/fleets` and its kin: the state of fleets for people and programs, and Prometheus' service
//! discovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pikepole_api::time::Rfc3339;
use pikepole_api::v1;
use pikepole_api::v1::ErrorCode;

use super::App;
use super::agents;
use super::query::{duration, repeated, strict};
use super::reply::{ApiError, Reply, json};
use crate::config::SourceConfig;
use crate::engine::{Fleet, Refreshed};
use crate::source::SourceError;

/// Longest `wait` of a refresh.
const MAX_REFRESH_WAIT: Duration = Duration::from_secs(60);

pub(super) fn all(app: &App) -> Reply {
    let without_changes = |fleet: &Arc<Fleet>| v1::Fleet { changes: None, lives: None, ..wire(app, fleet) };
    let fleets = app.engine.fleets().iter().map(without_changes).collect();
    json(&v1::Fleets { fleets })
}

pub(super) fn one(app: &App, fleet: &Fleet) -> Reply {
    json(&wire(app, fleet))
}

fn wire(app: &App, fleet: &Fleet) -> v1::Fleet {
    let config = fleet.config();
    let state = fleet.state();
    let (_, label) = app.engine.source_of(fleet);
    let age = fleet.age(app.engine.clock().now());
    v1::Fleet {
        fleet: config.name.to_string(),
        dc: config.dc.to_string(),
        region: config.region.to_string(),
        port: (!matches!(config.source, SourceConfig::File { .. })).then_some(config.port),
        source: source(app, fleet),
        roster: state.roster.as_ref().map(|r| v1::Roster::new(&config.dc, &config.region, r)),
        confirmed_at: state.confirmed_at.map(Rfc3339),
        age_seconds: age.map(|age| age.as_secs()),
        stale: app.engine.is_stale(fleet),
        guard: v1::Guard {
            state: if state.hold.is_some() { v1::GuardState::Holding } else { v1::GuardState::Ok },
            reason: state.hold.as_ref().map(|hold| hold.doubt.to_string()),
            since: state.hold.as_ref().map(|hold| Rfc3339(hold.since)),
            reads: state.hold.as_ref().map_or(0, |hold| hold.reads),
        },
        alerts: app.engine.alerts().open_about(&[config.name.as_str(), label]),
        watchers: fleet.watchers() as u64,
        convergence: convergence(fleet),
        lives: Some(agents::lives(fleet)),
        changes: Some(state.changes.iter().rev().map(Into::into).collect()),
    }
}

fn convergence(fleet: &Fleet) -> v1::Convergence {
    let (live, applied) = fleet.agents().count(fleet.published().map(|p| p.revision()));
    let state = fleet.state();
    let awaited = state.lives.iter().filter(|(_, life)| life.awaited && life.gone.is_none()).count();
    v1::Convergence { live, applied, awaited: awaited as u64 }
}

fn source(app: &App, fleet: &Fleet) -> v1::Source {
    let health = fleet.health();
    let (kind, _) = app.engine.source_of(fleet);
    let state = match &health.last_error {
        _ if health.elsewhere => v1::SourceState::Elsewhere,
        _ if health.last_attempt.is_none() => v1::SourceState::Waiting,
        Some((_, SourceError::Throttled(_))) if health.failures > 0 => v1::SourceState::Throttled,
        Some(_) if health.failures > 0 => v1::SourceState::Failing,
        _ if fleet.state().missing => v1::SourceState::Missing,
        _ => v1::SourceState::Ok,
    };
    v1::Source {
        kind: kind.into(),
        group: fleet.config().group().to_string(),
        state,
        last_attempt_at: health.last_attempt.map(Rfc3339),
        last_success_at: health.last_success.map(Rfc3339),
        last_error: health
            .last_error
            .map(|(at, error)| v1::SourceFailure { at: Rfc3339(at), message: error.to_string() }),
        consecutive_failures: health.failures,
    }
}

/// `POST …/refresh?wait=`: what became of it.
pub(super) async fn refresh(app: Arc<App>, fleet: Arc<Fleet>, wait: Option<Duration>) -> Reply {
    let pending = || {
        let mut reply = json(&v1::Refresh { status: v1::RefreshStatus::Pending, roster: None });
        *reply.status_mut() = StatusCode::ACCEPTED;
        reply
    };
    let Some(wait) = wait else {
        app.engine.begin_refresh(&fleet);
        return pending();
    };
    match app.engine.refresh(&fleet, wait).await {
        Refreshed::Confirmed(published) => {
            let config = fleet.config();
            let roster = published.map(|p| v1::Roster::new(&config.dc, &config.region, &p.roster));
            json(&v1::Refresh { status: v1::RefreshStatus::Confirmed, roster })
        }
        Refreshed::Failed(why) => ApiError::new(ErrorCode::SourceFailed, why).into_reply(),
        Refreshed::Pending => pending(),
        Refreshed::Stopping => super::roster::stopping(),
    }
}

/// The `wait` of a refresh.
pub(super) fn refresh_wait(query: Option<&str>) -> Result<Option<Duration>, ApiError> {
    let [wait] = strict(query, ["wait"])?;
    wait.map(|text| duration("wait", &text, MAX_REFRESH_WAIT)).transpose()
}

/// Prometheus' HTTP service discovery: one target group a member, so that each carries its labels.
pub(super) fn prometheus_sd(app: &App, query: Option<&str>) -> Result<Reply, ApiError> {
    let names = repeated(query, "fleet")?;
    let chosen: Vec<&Arc<Fleet>> = if names.is_empty() {
        // A definite "does not exist" is an answer: one wrong name must not blind Prometheus to the rest.
        app.engine
            .fleets()
            .iter()
            .filter(|fleet| !fleet.state().missing || fleet.published().is_some())
            .collect()
    } else {
        let find = |name: &std::borrow::Cow<'_, str>| {
            app.engine.fleet(name).ok_or_else(|| ApiError::unknown_fleet(name))
        };
        names.iter().map(find).collect::<Result<_, _>>()?
    };
    if chosen.is_empty()
        && let Some(missing) = app.engine.fleets().first()
    {
        return Err(super::roster::not_ready(missing));
    }
    let mut groups = Vec::new();
    for fleet in chosen {
        // Prometheus keeps its last list on an error, and believes an empty one.
        let published = fleet.published().ok_or_else(|| super::roster::not_ready(fleet))?;
        let config = fleet.config();
        for member in published.roster.members() {
            let labels = BTreeMap::from([
                ("__meta_pikepole_fleet", config.name.to_string()),
                ("__meta_pikepole_dc", config.dc.to_string()),
                ("__meta_pikepole_region", config.region.to_string()),
                ("__meta_pikepole_instance_id", member.instance_id.to_string()),
                ("__meta_pikepole_state", member.state.to_string()),
                ("__meta_pikepole_zone", member.zone.as_ref().map(ToString::to_string).unwrap_or_default()),
            ]);
            let labels = labels.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
            groups.push(v1::SdGroup { targets: vec![member.address.to_string()], labels });
        }
    }
    Ok(json(&groups))
}
