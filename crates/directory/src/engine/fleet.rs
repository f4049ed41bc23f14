//! One fleet inside the engine: its state behind a lock for writers, its published roster for readers.
//!
//! Invariant: a reader never waits for a writer, a store or a source.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use pikepole_api::{time, v1};
use pikepole_fleet::{FleetState, Revision, Roster, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::agents::Agents;
use crate::config::FleetConfig;
use crate::source::SourceError;
use crate::store::Version;

/// A roster in every form it is served in, made once per revision and shared by all its readers.
#[derive(Debug)]
pub struct Published {
    /// The roster.
    pub roster: Arc<Roster>,
    /// `application/json`, version 1.
    pub json: Bytes,
    /// The same as one server-sent event.
    pub event: Bytes,
    /// The seed's `['10.0.0.1:5044', …]`.
    pub seed: Bytes,
    /// The sendable addresses as a JSON array.
    pub hosts: Bytes,
    /// The strong validator of `json`.
    pub etag: HeaderValue,
    /// The revision as a header.
    pub revision: HeaderValue,
}

impl Published {
    fn new(config: &FleetConfig, roster: Arc<Roster>) -> Self {
        let wire = v1::Roster::new(&config.dc, &config.region, &roster);
        let json = serde_json::to_vec(&wire).expect("a roster has only texts and numbers");
        let revision = roster.revision();
        // Replicas cut off from each other may give one number to two lists: the content decides.
        let etag = format!("\"{revision}-{:08x}\"", crc32fast::hash(&json));
        let (event, json) = as_event(revision, &json);
        let hosts = roster.hosts();
        Self {
            json,
            event,
            seed: Bytes::from(seed_list(&hosts)),
            hosts: Bytes::from(serde_json::to_vec(&hosts).expect("a list of texts is JSON")),
            etag: HeaderValue::try_from(etag).expect("digits and hyphens are visible ASCII"),
            revision: HeaderValue::from(revision.get()),
            roster,
        }
    }

    /// The revision.
    pub fn revision(&self) -> Revision {
        self.roster.revision()
    }
}

/// One buffer for both: the JSON is a slice of the event.
fn as_event(revision: Revision, json: &[u8]) -> (Bytes, Bytes) {
    let head = format!("event: roster\nid: {revision}\ndata: ");
    let mut buffer = BytesMut::with_capacity(head.len() + json.len() + 2);
    buffer.put_slice(head.as_bytes());
    buffer.put_slice(json);
    buffer.put_slice(b"\n\n");
    let event = buffer.freeze();
    let json = event.slice(head.len()..event.len() - 2);
    (event, json)
}

/// `str()` of a Python list of texts, which is what the seed's readers parse.
pub(super) fn seed_list(hosts: &[String]) -> String {
    let quoted: Vec<String> = hosts.iter().map(|host| format!("'{host}'")).collect();
    format!("[{}]", quoted.join(", "))
}

/// What watchers follow: one value, so that one wake-up tells everything.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The published roster; `None` while nothing is known.
    pub published: Option<Arc<Published>>,
    /// The server stops: watchers go elsewhere.
    pub stopping: bool,
}

/// When a roster was last confirmed: beside it, not in it.
#[derive(Debug, Clone)]
pub struct Freshness {
    /// By the wall clock.
    pub confirmed_at: Timestamp,
    /// The same as a header.
    pub header: HeaderValue,
    /// When that came to be known here.
    known_since: Instant,
}

impl Freshness {
    /// How long ago that was, by the wall clock, but at least as long as it is known: a clock that
    /// stepped back makes nothing younger.
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.confirmed_at).max(self.known_since.elapsed())
    }
}

/// How a fleet's source is doing, as this replica sees it.
#[derive(Debug, Clone, Default)]
pub struct SourceHealth {
    /// When it was last asked.
    pub last_attempt: Option<Timestamp>,
    /// When it last answered.
    pub last_success: Option<Timestamp>,
    /// What last went wrong, and when.
    pub last_error: Option<(Timestamp, SourceError)>,
    /// Failures since the last answer.
    pub failures: u32,
    /// Another replica asks it.
    pub elsewhere: bool,
}

/// What writers hold while they change a fleet.
#[derive(Debug)]
pub(super) struct Held {
    /// The group's name: the seed's key.
    #[cfg(feature = "redis")]
    pub(super) group: pikepole_fleet::GroupName,
    pub(super) state: FleetState,
    /// The version of the record on disk, and what it says.
    pub(super) local: Option<Version>,
    pub(super) on_disk: Option<FleetState>,
    /// The version of the shared record that `state` descends from.
    pub(super) shared: Option<Version>,
    /// Whether `state` has gone its own way since: the shared store was not reachable.
    pub(super) diverged: bool,
}

/// One fleet.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    held: tokio::sync::Mutex<Held>,
    shown: watch::Sender<Shown>,
    freshness: RwLock<Option<Freshness>>,
    view: Mutex<Arc<FleetState>>,
    health: Mutex<SourceHealth>,
    /// Whether a refresh that nobody waits for is under way.
    refreshing: AtomicBool,
    agents: Agents,
    /// Whether any collector of it ever answered a probe of ours.
    answers_us: AtomicBool,
}

impl Fleet {
    pub(super) fn new(config: FleetConfig) -> Self {
        let state = FleetState::unknown(config.name.clone());
        Self {
            view: Mutex::new(Arc::new(state.clone())),
            held: tokio::sync::Mutex::new(Held {
                #[cfg(feature = "redis")]
                group: config.group(),
                state,
                local: None,
                on_disk: None,
                shared: None,
                diverged: false,
            }),
            shown: watch::Sender::new(Shown::default()),
            freshness: RwLock::new(None),
            health: Mutex::new(SourceHealth::default()),
            refreshing: AtomicBool::new(false),
            agents: Agents::default(),
            answers_us: AtomicBool::new(false),
            config,
        }
    }

    /// What the operator wrote about it.
    pub fn config(&self) -> &FleetConfig {
        &self.config
    }

    /// The published roster; `None` while nothing is known.
    pub fn published(&self) -> Option<Arc<Published>> {
        self.shown.borrow().published.clone()
    }

    /// Follows the published roster. Each change wakes once.
    pub fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// How many follow it.
    pub fn watchers(&self) -> usize {
        self.shown.receiver_count()
    }

    /// When the source last confirmed the roster.
    pub fn freshness(&self) -> Option<Freshness> {
        self.freshness.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long ago that was. `None`: never.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.freshness().map(|f| f.age(now))
    }

    /// The whole state, as of the last change.
    pub fn state(&self) -> Arc<FleetState> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How its source is doing.
    pub fn health(&self) -> SourceHealth {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The agents that follow it.
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    pub(super) fn answers_us(&self) -> bool {
        self.answers_us.load(Ordering::Relaxed)
    }

    pub(super) fn set_answers_us(&self, answers: bool) {
        self.answers_us.store(answers, Ordering::Relaxed);
    }

    /// Sends every watcher elsewhere.
    pub(super) fn send_away(&self) {
        self.shown.send_modify(|shown| shown.stopping = true);
    }

    /// Whether the caller is the one to run the refresh that nobody waits for.
    pub(super) fn begin_refresh(&self) -> bool {
        !self.refreshing.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_refresh(&self) {
        self.refreshing.store(false, Ordering::Release);
    }

    pub(super) fn note_health(&self, note: impl FnOnce(&mut SourceHealth)) {
        note(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) async fn hold(&self) -> tokio::sync::MutexGuard<'_, Held> {
        self.held.lock().await
    }

    /// Shows a state to readers. Watchers wake only if the roster is another one. The roster comes
    /// before its freshness: for a moment a new list may look older than it is, never newer.
    pub(super) fn show(&self, state: &FleetState) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(state.clone());
        if let Some(roster) = &state.roster
            && self.published().is_none_or(|p| *p.roster != **roster)
        {
            let published = Arc::new(Published::new(&self.config, Arc::clone(roster)));
            self.shown.send_modify(|shown| shown.published = Some(published));
        }
        let mut freshness = self.freshness.write().unwrap_or_else(PoisonError::into_inner);
        if freshness.as_ref().map(|f| f.confirmed_at) != state.confirmed_at {
            *freshness = state.confirmed_at.map(|confirmed_at| Freshness {
                confirmed_at,
                header: HeaderValue::try_from(time::format(confirmed_at)).expect("RFC 3339 is visible ASCII"),
                known_since: Instant::now(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_list_is_a_python_list_of_texts() {
        assert_eq!(seed_list(&[]), "[]");
        let hosts = ["10.0.0.1:5044".to_string(), "10.0.0.2:5044".to_string()];
        assert_eq!(seed_list(&hosts), "['10.0.0.1:5044', '10.0.0.2:5044']");
    }

    #[test]
    fn the_json_is_a_slice_of_the_event() {
        let (event, json) = as_event(Revision::new(7), b"{}");
        assert_eq!(&event[..], b"event: roster\nid: 7\ndata: {}\n\n");
        assert_eq!(&json[..], b"{}");
    }
}
