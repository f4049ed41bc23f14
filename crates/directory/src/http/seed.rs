//! The seed's two routes, as its crons and Lambdas call them.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{ACCEPT, RETRY_AFTER, WARNING};
use http::{HeaderMap, HeaderValue, StatusCode};
use pikepole_api::accept::prefers;

use super::App;
use super::query::lenient;
use super::reply::{JSON, Reply, TEXT, text, whole};
use super::roster::add_freshness;
use crate::engine::{Fleet, Published, Refreshed, Shown};

/// The seed's own word for "no answer".
const FAILURE: &str = "Failure";

/// `GET /logstash-ip?dcid=&region=`, if a roster is known. `None`: it has to be waited for.
pub(super) fn hosts_now(app: &App, query: Option<&str>, headers: &HeaderMap) -> Option<Reply> {
    let (fleet, warn) = match resolve(app, query) {
        Ok(found) => found,
        Err(unresolved) => return Some(unresolved.into_reply()),
    };
    let published = fleet.published()?;
    Some(hosts_reply(app, fleet, &published, warn, headers))
}

/// The same, waiting for the reconcile that is already under way.
pub(super) async fn hosts_later(app: Arc<App>, query: Option<String>, headers: HeaderMap) -> Reply {
    let (fleet, warn) = match resolve(&app, query.as_deref()) {
        Ok(found) => found,
        Err(unresolved) => return unresolved.into_reply(),
    };
    let mut roster = fleet.watch();
    let is_news = |shown: &Shown| shown.stopping || shown.published.is_some();
    drop(tokio::time::timeout(app.limits.first_answer, roster.wait_for(is_news)).await);
    match fleet.published() {
        Some(published) => hosts_reply(&app, fleet, &published, warn, &headers),
        None => failure(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// Why the seed's parameters name no fleet.
enum Unresolved {
    Missing(&'static str),
    Unknown { dcid: String, region: String },
    OtherGroup(String),
}

impl Unresolved {
    fn into_reply(self) -> Reply {
        let short = |s: String| s.chars().take(128).collect::<String>();
        match self {
            Self::Missing(name) => text(StatusCode::BAD_REQUEST, format!("missing parameter {name}\n")),
            Self::Unknown { dcid, region } => {
                let (dcid, region) = (short(dcid), short(region));
                text(StatusCode::NOT_FOUND, format!("no fleet has dcid {dcid:?} and region {region:?}\n"))
            }
            Self::OtherGroup(name) => {
                text(StatusCode::NOT_FOUND, format!("the group of this fleet is not {:?}\n", short(name)))
            }
        }
    }
}

fn resolve<'a>(app: &'a App, query: Option<&str>) -> Result<(&'a Arc<Fleet>, bool), Unresolved> {
    let [dcid, region] = lenient(query, ["dcid", "region"]);
    let (dcid, region) = (required("dcid", dcid)?, required("region", region)?);
    find(app, &dcid, &region)
        .ok_or_else(|| Unresolved::Unknown { dcid: dcid.into_owned(), region: region.into_owned() })
}

/// The fleet that a hint is about; its group must be the one named.
fn resolve_hint<'a>(app: &'a App, query: Option<&str>) -> Result<&'a Arc<Fleet>, Unresolved> {
    let (fleet, _) = resolve(app, query)?;
    let [as_name] = lenient(query, ["as_name"]);
    let as_name = required("as_name", as_name)?;
    if fleet.config().group().as_str() == as_name {
        Ok(fleet)
    } else {
        Err(Unresolved::OtherGroup(as_name.into_owned()))
    }
}

/// The fleet of a pair, and whether the region had to be ignored: if it is not the fleet's but the data
/// centre has only this one. The seed's cached path ignored the region, so crons may send a wrong one.
fn find<'a>(app: &'a App, dcid: &str, region: &str) -> Option<(&'a Arc<Fleet>, bool)> {
    let mut of_dc = app.engine.fleets().iter().filter(|f| f.config().dc.as_str() == dcid);
    if let Some(fleet) = of_dc.clone().find(|f| f.config().region.as_str() == region) {
        return Some((fleet, false));
    }
    match (of_dc.next(), of_dc.next()) {
        (Some(only), None) => Some((only, true)),
        _ => None,
    }
}

fn required<'a>(name: &'static str, value: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, Unresolved> {
    value.filter(|v| !v.is_empty()).ok_or(Unresolved::Missing(name))
}

fn failure(status: StatusCode) -> Reply {
    let mut reply = text(status, FAILURE);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    reply
}

fn hosts_reply(app: &App, fleet: &Fleet, published: &Published, warn: bool, headers: &HeaderMap) -> Reply {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let mut reply = if prefers(accept, "application/json", "text/plain") {
        whole(StatusCode::OK, JSON, published.hosts.clone())
    } else {
        whole(StatusCode::OK, TEXT, published.seed.clone())
    };
    add_freshness(app, fleet, published, reply.headers_mut());
    if warn {
        app.counters.region_ignored.fetch_add(1, Ordering::Relaxed);
        let region = &fleet.config().region;
        let warning =
            format!("299 pikepole \"the region of this dcid is {region}; the one given was ignored\"");
        if let Ok(value) = HeaderValue::try_from(warning) {
            reply.headers_mut().insert(WARNING, value);
        }
    }
    reply
}

/// `GET /update-ip-list?region=&dcid=&as_name=`: a hint that something changed.
pub(super) async fn update(app: Arc<App>, query: Option<String>) -> Reply {
    let fleet = match resolve_hint(&app, query.as_deref()) {
        Ok(fleet) => fleet,
        Err(unresolved) => return unresolved.into_reply(),
    };
    match app.engine.refresh(fleet, app.limits.update_answer).await {
        Refreshed::Confirmed(_) => text(StatusCode::OK, "Success"),
        Refreshed::Failed(_) => failure(StatusCode::BAD_GATEWAY),
        Refreshed::Pending => text(StatusCode::ACCEPTED, "Accepted"),
        Refreshed::Stopping => failure(StatusCode::SERVICE_UNAVAILABLE),
    }
}
