//! Alerts: looks at the engine for problems, decides with [`AlertBook`], logs, and hands over to the
//! webhook. Telling people never holds anything up: the queue is bounded, what does not fit is counted.

mod webhook;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pikepole_api::time::{Rfc3339, format_duration};
use pikepole_api::v1;
use pikepole_fleet::{Alert, AlertBook, AlertKind, Doubt, Notice, Problem, Timestamp};
use tokio::sync::mpsc;

use crate::config::Webhook;
use crate::engine::{Engine, Fleet};
use crate::events::Feed;
use crate::shutdown::Shutdown;
use crate::source::SourceError;

/// Alerts that wait for the webhook.
const QUEUE: usize = 256;
/// One failure is everyday life; the second in a row is a problem.
const FAILURES: u32 = 2;

/// A cloneable handle.
#[derive(Clone)]
pub struct Alerts(Arc<Inner>);

struct Inner {
    /// Held from the first look to the last word, so that an older look never overrules a newer one.
    review: Mutex<()>,
    book: Mutex<Book>,
    queue: Option<mpsc::Sender<Alert>>,
    undelivered: Arc<AtomicU64>,
    /// The ways in, once they stand.
    feed: OnceLock<Arc<Feed>>,
}

#[derive(Default)]
struct Book {
    open: AlertBook,
    details: BTreeMap<Problem, String>,
}

impl Alerts {
    /// To the log only, or to a webhook too.
    pub fn new(webhook: Option<Webhook>, shutdown: Shutdown) -> Self {
        let undelivered = Arc::new(AtomicU64::new(0));
        let queue = webhook.map(|webhook| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(webhook::deliver(webhook, receiver, Arc::clone(&undelivered), shutdown));
            sender
        });
        Self::over(queue, undelivered)
    }

    /// To the log and to a queue that somebody else empties: another way of delivery, a test.
    pub fn to_queue(queue: mpsc::Sender<Alert>) -> Self {
        Self::over(Some(queue), Arc::default())
    }

    fn over(queue: Option<mpsc::Sender<Alert>>, undelivered: Arc<AtomicU64>) -> Self {
        let feed = OnceLock::new();
        Self(Arc::new(Inner { review: Mutex::default(), book: Mutex::default(), queue, undelivered, feed }))
    }

    /// Alerts that no webhook took, since the start.
    pub fn undelivered(&self) -> &AtomicU64 {
        &self.0.undelivered
    }

    /// From now on the problems of the ways in are told too.
    pub fn watch_feed(&self, feed: &Arc<Feed>) {
        // A directory has one.
        drop(self.0.feed.set(Arc::clone(feed)));
    }

    /// Looks at every problem the engine can have.
    pub(crate) fn review(&self, engine: &Engine) {
        let _turn = self.0.review.lock().unwrap_or_else(PoisonError::into_inner);
        let now = engine.clock().now();
        let mut findings = Findings(BTreeMap::new());
        for (label, fleets) in engine.by_source() {
            findings.source(label, fleets, now);
        }
        for fleet in engine.fleets() {
            findings.fleet(engine, fleet, now);
            findings.lives(fleet);
        }
        findings.hooks(engine);
        let feed = self.0.feed.get().map(|feed| feed.problems(now)).unwrap_or_default();
        for (kind, subject, detail) in engine.stores().problems().into_iter().chain(feed) {
            findings.is(kind, &subject, true, || detail);
        }
        self.settle(findings, now);
    }

    /// Raises what is found and resolves what no longer is.
    fn settle(&self, findings: Findings, now: Timestamp) {
        let mut book = self.0.book.lock().unwrap_or_else(PoisonError::into_inner);
        let over: Vec<Problem> =
            book.open.open().map(|(p, _)| p.clone()).filter(|p| !findings.0.contains_key(p)).collect();
        let mut told = Vec::new();
        for problem in over {
            let detail = book.details.remove(&problem).unwrap_or_default();
            told.extend(book.open.observe(problem, false, now, || format!("it is over: {detail}")));
        }
        for (problem, detail) in findings.0 {
            told.extend(book.open.observe(problem.clone(), true, now, || detail.clone()));
            book.details.insert(problem, detail);
        }
        drop(book);
        for alert in told {
            self.tell(alert);
        }
    }

    fn tell(&self, alert: Alert) {
        let (kind, subject, detail) = (alert.problem.kind.as_str(), &alert.problem.subject, &alert.detail);
        match alert.notice {
            Notice::Raised => tracing::warn!(alert = kind, subject, detail, "alert raised"),
            Notice::Repeated => tracing::warn!(alert = kind, subject, detail, "alert still open"),
            Notice::Resolved => tracing::info!(alert = kind, subject, detail, "alert resolved"),
        }
        if let Some(queue) = &self.0.queue
            && queue.try_send(alert).is_err()
        {
            self.0.undelivered.fetch_add(1, Ordering::Relaxed);
            tracing::error!("the queue of alerts is full; one was not delivered");
        }
    }

    /// The open problems of these subjects.
    pub fn open_about(&self, subjects: &[&str]) -> Vec<v1::Alert> {
        let book = self.0.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.open
            .open()
            .filter(|(problem, _)| subjects.contains(&problem.subject.as_str()))
            .map(|(problem, since)| v1::Alert {
                kind: problem.kind.to_string(),
                since: Rfc3339(since),
                detail: book.details.get(problem).cloned().unwrap_or_default(),
            })
            .collect()
    }

    /// How many problems of each kind are open.
    pub fn open_by_kind(&self) -> BTreeMap<AlertKind, i64> {
        let book = self.0.book.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = BTreeMap::new();
        for (problem, _) in book.open.open() {
            *counts.entry(problem.kind).or_insert(0) += 1;
        }
        counts
    }
}

/// The problems that exist now, each with a sentence.
struct Findings(BTreeMap<Problem, String>);

impl Findings {
    fn is(&mut self, kind: AlertKind, subject: &str, exists: bool, detail: impl FnOnce() -> String) {
        if exists {
            self.0.insert(Problem { kind, subject: subject.into() }, detail());
        }
    }

    /// One alert a source, not one a fleet: a hundred fleets fail together.
    fn source(&mut self, label: &str, fleets: &[Arc<Fleet>], now: Timestamp) {
        let failing: Vec<(&Arc<Fleet>, SourceError)> = fleets
            .iter()
            .filter_map(|fleet| {
                let health = fleet.health();
                (health.failures >= FAILURES).then_some(())?;
                Some((fleet, health.last_error?.1))
            })
            .collect();
        let Some((_, error)) = failing.first() else { return };
        let oldest = failing.iter().filter_map(|(fleet, _)| fleet.age(now)).max();
        let served = match oldest {
            Some(age) => format!("the last good rosters are served, the oldest confirmed {} ago", words(age)),
            None => "nothing can be served of them yet".into(),
        };
        let count = failing.len();
        let detail = || format!("{error}; {count} of {} fleets concerned; {served}", fleets.len());
        let throttled = failing.iter().any(|(_, e)| matches!(e, SourceError::Throttled(_)));
        let kind = if throttled { AlertKind::Throttled } else { AlertKind::SourceFailing };
        self.is(kind, label, true, detail);
    }

    fn fleet(&mut self, engine: &Engine, fleet: &Fleet, now: Timestamp) {
        let name = fleet.config().name.as_str();
        let state = fleet.state();
        if let Some(hold) = state.hold.as_ref().filter(|hold| hold.doubt != Doubt::EmptyOnPurpose) {
            self.is(AlertKind::GuardHolding, name, true, || {
                format!(
                    "{}; the last good roster is served; if it is meant, lower the desired capacity or wait",
                    hold.doubt
                )
            });
        }
        let empty = state.roster.as_ref().is_some_and(|roster| roster.members().is_empty());
        self.is(AlertKind::FleetEmpty, name, empty, || {
            "no collector is in service; shippers have nowhere to send".into()
        });
        self.is(AlertKind::FleetMissing, name, state.missing, || {
            let group = fleet.config().group();
            format!("the source says there is no group called {group}; check the fleet's source and region")
        });
        let (_, is_full) = fleet.agents().seen();
        self.is(AlertKind::TooManyAgents, name, is_full, || {
            "agents find no place on the roll, so no drain ends before its deadline; look for a host that \
             invents agent ids"
                .into()
        });
        let age = fleet.age(now).unwrap_or_default();
        self.is(AlertKind::FleetStale, name, engine.is_stale(fleet), || {
            format!("the source has not confirmed the roster for {}; the last good one is served", words(age))
        });
    }

    fn lives(&mut self, fleet: &Fleet) {
        let state = fleet.state();
        let silent = state.lives.iter().filter(|(_, life)| {
            life.given_up.is_some()
                && life.answered.is_none()
                && life.draining.is_none()
                && life.gone.is_none()
        });
        let silent: Vec<String> = silent.map(|(id, _)| id.to_string()).collect();
        self.is(AlertKind::ProbeGaveUp, fleet.config().name.as_str(), !silent.is_empty(), || {
            format!(
                "the port of {} never answered; listed all the same: check the collector, and whether this \
                 directory may reach it",
                some(&silent)
            )
        });
    }

    fn hooks(&mut self, engine: &Engine) {
        let mut failing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut why = BTreeMap::new();
        for (fleet, instance, reason) in engine.failing_hooks() {
            failing.entry(fleet.to_string()).or_default().push(instance.to_string());
            why.insert(fleet.to_string(), reason);
        }
        for (fleet, instances) in failing {
            let reason = why.remove(&fleet).unwrap_or_default();
            self.is(AlertKind::HookFailing, &fleet, true, || {
                format!(
                    "the lifecycle hooks of {} cannot be completed: {reason}; they time out by themselves",
                    some(&instances)
                )
            });
        }
        for (fleet, instance, agents) in engine.held_at_deadline() {
            let problem = Problem { kind: AlertKind::DrainDeadline, subject: fleet.to_string() };
            let detail = format!(
                "{instance} was let go at the deadline while {} agents still held: {}",
                agents.len(),
                some(&agents)
            );
            self.0.entry(problem).or_insert(detail);
        }
    }
}

/// A few names of many.
fn some(names: &[String]) -> String {
    const FEW: usize = 5;
    let mut text = names.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > FEW {
        text.push_str(&format!(" and {} more", names.len() - FEW));
    }
    text
}

/// A duration for people, to the second.
fn words(duration: std::time::Duration) -> String {
    format_duration(std::time::Duration::from_secs(duration.as_secs()))
}
