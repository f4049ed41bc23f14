//! What the running agent knows, between two events. No I/O.
//!
//! Invariant: a failure of a directory changes no roster; it only becomes trouble when it lasts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::client::{ClientError, Event, Freshness};
use pikepole_api::time::Rfc3339;
use pikepole_api::v1;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::{Config, Source};
use crate::guard;
use crate::log_path;
use crate::planner::{Finished, Planner, sendable};
use crate::state::Kept;
use crate::status::{Counts, JobStatus, RenderStatus, RosterStatus, Status, TroubleStatus};
use crate::trouble::{Book, Kind};

/// A directory that does not answer for so long is trouble; before that it restarts.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);
/// A confirmation of the roster is kept on disk this often.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Revisions that are remembered; what is in use and older counts as the oldest of them.
const MAX_TAKEN: usize = 64;
/// Jobs that are remembered.
const MAX_HISTORY: usize = 50;

pub(super) struct Agent {
    pub(super) planner: Planner,
    clock: Clock,
    /// Constant parts, and what only grows.
    base: Status,
    units: Vec<Vec<usize>>,
    /// From disk, until a directory or its silence decides.
    kept: Option<Kept>,
    outlets: Outlets,
    kept_at: Option<Instant>,
    roster: Option<Arc<v1::Roster>>,
    /// The revisions that were taken lately, in that order.
    taken: VecDeque<u64>,
    freshness: Freshness,
    is_from_disk: bool,
    history: VecDeque<JobStatus>,
    last_answer: Instant,
    failures: usize,
    last_error: Option<ClientError>,
    /// What a directory offered last that is older than what is held, since one was accepted.
    older: Option<Older>,
    /// The last roster with somebody to send to.
    accepted: Option<Arc<v1::Roster>>,
    book: Book,
    guard: Option<guard::Report>,
    log_path: Option<log_path::Report>,
    carries: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Older {
    url: String,
    revision: u64,
}

/// Where rosters go.
pub(super) struct Outlets {
    /// To the disk.
    pub(super) keep: watch::Sender<Option<Kept>>,
    /// To the log path.
    pub(super) rosters: watch::Sender<Option<Arc<v1::Roster>>>,
}

impl Agent {
    pub(super) fn new(
        config: &Config,
        start: String,
        planner: Planner,
        kept: Option<Kept>,
        clock: Clock,
        outlets: Outlets,
    ) -> Self {
        let render = |render: &crate::config::RenderConfig| RenderStatus {
            output: render.output.display().to_string(),
            template: match &render.template {
                Source::File(path) => path.display().to_string(),
                Source::Builtin(name) => format!("builtin:{name}"),
            },
            revision: None,
            written_at: None,
            reloaded_at: None,
        };
        let base = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            id: config.agent.id.clone(),
            start,
            directories: config.directory.urls.clone(),
            renders: config.renders.iter().map(render).collect(),
            ..Status::default()
        };
        Self {
            planner,
            clock,
            base,
            units: config.units(),
            kept,
            outlets,
            kept_at: None,
            roster: None,
            taken: VecDeque::new(),
            freshness: Freshness::default(),
            is_from_disk: false,
            history: VecDeque::new(),
            last_answer: Instant::now(),
            failures: 0,
            last_error: None,
            older: None,
            accepted: None,
            book: Book::default(),
            guard: None,
            log_path: None,
            carries: config.log_path.is_some(),
        }
    }

    /// Takes in what the watch saw.
    pub(super) fn saw(&mut self, event: Event, now: Instant) {
        match event {
            Event::Roster(roster, freshness) => {
                self.answered(now);
                if sendable(&roster).is_empty() {
                    // It may be refused. What is owed from before the start is owed for the one on disk.
                    self.use_kept(now);
                }
                self.kept = None;
                self.is_from_disk = false;
                self.freshness = freshness;
                self.take(Arc::new(roster), now);
                self.keep(now);
            }
            Event::Unchanged(freshness) => {
                self.answered(now);
                // The directory says that what is on disk is still the roster.
                self.use_kept(now);
                self.is_from_disk = false;
                let confirmed_at = freshness.confirmed_at.or(self.freshness.confirmed_at);
                self.freshness = Freshness { confirmed_at, ..freshness };
                if self.kept_at.is_none_or(|at| now.saturating_duration_since(at) >= KEEP_EVERY) {
                    self.keep(now);
                }
            }
            Event::Trouble(error) => {
                tracing::debug!(%error, "a poll failed");
                self.failed(Some(error), now);
            }
            Event::Older { url, revision } => {
                self.base.counts.older += 1;
                let older = Some(Older { url, revision });
                if self.older != older
                    && let Some(Older { url, revision }) = &older
                {
                    tracing::warn!(%url, revision, "an older roster is refused; what is held stays");
                }
                self.older = older;
                self.failed(None, now);
            }
            Event::Shortened(wait) => {
                let wait = pikepole_api::time::format_duration(wait);
                tracing::info!(%wait, "something on the way cuts idle requests; polls are shorter now");
            }
        }
    }

    /// Uses the roster on disk, if none has come.
    pub(super) fn use_kept(&mut self, now: Instant) {
        let Some(kept) = self.kept.take() else { return };
        let revision = kept.roster.revision;
        let confirmed = kept.confirmed_at.map(|at| pikepole_api::time::format(at.0));
        tracing::info!(revision, ?confirmed, "the last good roster is used");
        self.freshness = Freshness { confirmed_at: kept.confirmed_at.map(|at| at.0), stale: false };
        self.is_from_disk = true;
        if let Some(accepted) = kept.accepted {
            let accepted = Arc::new(accepted);
            self.taken.push_back(accepted.revision);
            self.accepted = Some(Arc::clone(&accepted));
            self.planner.roster(accepted, now);
        }
        self.take(Arc::new(kept.roster), now);
    }

    /// What the disk guard says.
    pub(super) fn guarded(&mut self, report: Option<guard::Report>) {
        self.guard = report;
    }

    /// What the log path says.
    pub(super) fn carried(&mut self, report: Option<log_path::Report>) {
        self.log_path = report;
    }

    fn answered(&mut self, now: Instant) {
        self.last_answer = now;
        self.failures = 0;
        self.last_error = None;
        self.older = None;
    }

    fn failed(&mut self, error: Option<ClientError>, now: Instant) {
        self.base.counts.poll_failures += 1;
        self.failures += 1;
        self.last_error = error.or_else(|| self.last_error.take());
        if self.failures >= self.base.directories.len() {
            self.use_kept(now);
        }
    }

    fn take(&mut self, roster: Arc<v1::Roster>, now: Instant) {
        self.base.counts.rosters += 1;
        tracing::info!(fleet = %roster.fleet, revision = roster.revision, members = roster.members.len(), "roster");
        self.planner.roster(Arc::clone(&roster), now);
        if !sendable(&roster).is_empty() {
            self.accepted = Some(Arc::clone(&roster));
        }
        self.taken.push_back(roster.revision);
        if self.taken.len() > MAX_TAKEN {
            self.taken.pop_front();
        }
        self.outlets.rosters.send_replace(Some(Arc::clone(&roster)));
        self.roster = Some(roster);
    }

    fn keep(&mut self, now: Instant) {
        let Some(roster) = &self.roster else { return };
        self.kept_at = Some(now);
        let confirmed_at = self.freshness.confirmed_at.map(Rfc3339);
        let accepted = self.accepted.as_deref();
        self.outlets.keep.send_replace(Some(Kept::new(v1::Roster::clone(roster), confirmed_at, accepted)));
    }

    /// A job ended.
    pub(super) fn applied(
        &mut self,
        unit: usize,
        revision: u64,
        result: Finished,
        took: Duration,
        now: Instant,
    ) {
        let at = Rfc3339(self.clock.now());
        let counts: &mut Counts = &mut self.base.counts;
        counts.writes += u64::from(result.written);
        counts.reloads += u64::from(result.reloaded);
        counts.failures += u64::from(result.failure.is_some());
        let mut outputs = Vec::new();
        for index in self.units.get(unit).into_iter().flatten() {
            let Some(render) = self.base.renders.get_mut(*index) else { continue };
            outputs.push(render.output.clone());
            if result.written {
                render.written_at = Some(at);
            }
            if result.reloaded {
                render.reloaded_at = Some(at);
            }
        }
        let (written, reloaded) = (result.written, result.reloaded);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let error = result.failure.as_ref().map(|(kind, detail)| format!("{}: {detail}", kind.as_str()));
        tracing::info!(revision, ?outputs, written, reloaded, took_ms, ?error, "job");
        self.history.push_front(JobStatus { at, outputs, revision, written, reloaded, took_ms, error });
        self.history.truncate(MAX_HISTORY);
        self.planner.finished(unit, result, now);
    }

    /// How things are; trouble that is news is logged.
    pub(super) fn status(&mut self, state_error: Option<String>, now: Instant) -> Status {
        let trouble = self.troubles(state_error, now);
        self.book.observe(trouble, self.clock.now(), now);
        let mut status = self.base.clone();
        status.applied = self.in_use();
        for (unit, renders) in self.units.iter().enumerate() {
            for index in renders {
                if let Some(render) = status.renders.get_mut(*index) {
                    render.revision = self.planner.in_use(unit);
                }
            }
        }
        status.roster = self.roster.as_ref().map(|roster| RosterStatus {
            fleet: roster.fleet.clone(),
            revision: roster.revision,
            members: roster.members.len(),
            sendable: sendable(roster).len(),
            published_at: roster.published_at,
            confirmed_at: self.freshness.confirmed_at.map(Rfc3339),
            age_seconds: None,
            stale: self.freshness.stale,
            from: if self.is_from_disk { "disk" } else { "directory" }.into(),
        });
        status.history = self.history.iter().cloned().collect();
        let trouble = self.book.list().into_iter().map(|t| TroubleStatus {
            alert: t.kind.as_str().into(),
            subject: t.subject,
            detail: t.detail,
            since: Rfc3339(t.since),
        });
        status.trouble = trouble.collect();
        status.disk_guard = self.guard.as_ref().map(|report| report.status.clone());
        status.log_path = self.log_path.as_ref().map(|report| report.status.clone());
        status
    }

    /// Whether the log path has yet to come to use the newest roster.
    pub(super) fn is_carried_later(&self) -> bool {
        let carried = self.log_path.as_ref().and_then(|report| report.applied);
        self.carries && carried != self.roster.as_ref().map(|roster| roster.revision)
    }

    /// The revision that shippers and log path both use: of the two, the one that was taken first.
    fn in_use(&self) -> Option<u64> {
        let rendered = self.planner.applied();
        if !self.carries {
            return rendered;
        }
        let carried = self.log_path.as_ref().and_then(|report| report.applied)?;
        if self.units.is_empty() {
            return Some(carried);
        }
        let place = |revision| self.taken.iter().rposition(|taken| *taken == revision);
        rendered.map(|rendered| if place(rendered) < place(carried) { rendered } else { carried })
    }

    fn troubles(&self, state_error: Option<String>, now: Instant) -> Vec<(Kind, String, String)> {
        let mut troubles = Vec::new();
        for (unit, kind, detail) in self.planner.troubles(now) {
            let outputs = self.units.get(unit).into_iter().flatten();
            let outputs = outputs.filter_map(|i| self.base.renders.get(*i)).map(|r| r.output.as_str());
            troubles.push((kind, outputs.collect::<Vec<_>>().join(" "), detail));
        }
        let lasts = now.saturating_duration_since(self.last_answer) >= UNREACHABLE_AFTER;
        if let (Some(older), Some(roster), true) = (&self.older, &self.roster, lasts) {
            let detail = format!(
                "{} offers revision {}, older than {}, which is held and stays; if the directory is right, stop the \
                 agent, remove roster.rec from its state folder, and start it",
                older.url, older.revision, roster.revision
            );
            troubles.push((Kind::RosterOlder, roster.fleet.clone(), detail));
        }
        if let Some(error) = &self.last_error {
            // What a person has to put right does not get better by waiting.
            let is_refused = matches!(error, ClientError::Refused { status: 400..=499, .. });
            if is_refused || lasts || self.is_from_disk || self.roster.is_none() {
                troubles.push((
                    Kind::DirectoryUnreachable,
                    self.base.directories.join(" "),
                    error.to_string(),
                ));
            }
        }
        if self.freshness.stale
            && let Some(roster) = &self.roster
        {
            let detail = "its source does not confirm it; the directory's alerts say why";
            troubles.push((Kind::RosterStale, roster.fleet.clone(), detail.into()));
        }
        troubles.extend(self.guard.iter().flat_map(|report| report.troubles.iter().cloned()));
        troubles.extend(self.log_path.iter().flat_map(|report| report.troubles.iter().cloned()));
        troubles.extend(state_error.map(|error| (Kind::StateFailed, "state".to_string(), error)));
        troubles
    }
}

#[cfg(test)]
mod tests;
