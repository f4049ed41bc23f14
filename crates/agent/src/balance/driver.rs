//! Does what the planner says: one task decides, two a connection write and read.
//!
//! Not a decision in it.
//!
//! Invariants: the deciding task waits for nothing but news, so one slow collector holds nobody. A block is
//! held in memory only until it is written; to send it again it is read again. Every channel is bounded.

mod link;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::v1;
use pikepole_spool::{Block, Seq};
use tokio::sync::{mpsc, watch};
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::planner::{Action, Batch, Planner};
use super::status::BalanceStatus;
use super::{DeadLetters, Dial, Encode, Letter, LinkError, Options, Parts, PathProbe, Source};
use crate::trouble::Kind;
use link::{Encoders, Event, Job, Jobs};

/// News of connections that wait to be read; more, and the connections wait.
const EVENTS: usize = 1024;
/// The status is at most so old while something happens.
const PUBLISH_BUSY: Duration = Duration::from_millis(500);
/// And while nothing does.
const PUBLISH_IDLE: Duration = Duration::from_secs(5);

/// How keeping a dead letter ended; `None`: the queue has its block no more.
type Kept = Option<Result<(), String>>;

/// What is wrong: the kind, with whom, a sentence.
pub(crate) type Troubles = Vec<(Kind, String, String)>;

/// What can be watched of a balancer.
#[derive(Debug, Clone)]
pub(crate) struct Watches {
    /// Its status, at most half a second old.
    pub(crate) status: watch::Receiver<BalanceStatus>,
    /// The revision that is really used, at once.
    pub(crate) applied: watch::Receiver<Option<u64>>,
    /// What is wrong, for [`crate::trouble::Book`].
    pub(crate) troubles: watch::Receiver<Troubles>,
}

struct Outlets {
    status: watch::Sender<BalanceStatus>,
    applied: watch::Sender<Option<u64>>,
    troubles: watch::Sender<Troubles>,
}

/// Everything of one connection.
struct Link {
    tasks: Vec<AbortHandle>,
    /// `None` until it stands.
    jobs: Option<Arc<Jobs>>,
    probe: Option<PathProbe>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Carries blocks to collectors.
pub(crate) struct Balancer<S, D: Dial, E, L> {
    planner: Planner,
    source: Arc<S>,
    dial: Arc<D>,
    dead: Arc<L>,
    encoders: Arc<Encoders<E>>,
    options: Options,
    outlets: Outlets,
    links: HashMap<u64, Link>,
    /// Blocks that were fetched and are not on their way.
    blocks: HashMap<Seq, Arc<Block>>,
    fetch: Option<Pin<Box<dyn Future<Output = Arc<Block>> + Send>>>,
    letters: JoinSet<Kept>,
    /// What each of those tasks buries.
    graves: HashMap<task::Id, Batch>,
    news: mpsc::Sender<Event<D::Writer, D::Reader>>,
    events: mpsc::Receiver<Event<D::Writer, D::Reader>>,
    publish_at: Instant,
    is_dirty: bool,
}

impl<S: Source, D: Dial, E: Encode<Window = D::Window>, L: DeadLetters> Balancer<S, D, E, L> {
    /// Nothing happens before [`Balancer::run`].
    pub(crate) fn new(parts: Parts<S, D, E, L>, options: Options) -> (Self, Watches) {
        let (status, status_watch) = watch::channel(BalanceStatus::default());
        let (applied, applied_watch) = watch::channel(None);
        let (troubles, troubles_watch) = watch::channel(Vec::new());
        let (news, events) = mpsc::channel(EVENTS);
        let now = Instant::now();
        let balancer = Self {
            planner: Planner::new(options.policy.clone(), options.seed, now),
            source: parts.source,
            dial: parts.dial,
            dead: parts.letters,
            encoders: Arc::new(Encoders::new(parts.encoder, options.encoders)),
            options,
            outlets: Outlets { status, applied, troubles },
            links: HashMap::new(),
            blocks: HashMap::new(),
            fetch: None,
            letters: JoinSet::new(),
            graves: HashMap::new(),
            news,
            events,
            publish_at: now,
            is_dirty: false,
        };
        let watches = Watches { status: status_watch, applied: applied_watch, troubles: troubles_watch };
        (balancer, watches)
    }

    /// Runs until `stop`; then takes nothing new, waits a while for acks and gives the rest back.
    pub(crate) async fn run(
        mut self,
        mut rosters: watch::Receiver<Option<Arc<v1::Roster>>>,
        stop: impl Future<Output = ()> + Send,
    ) {
        tokio::pin!(stop);
        let mut deadline = None;
        let mut has_rosters = true;
        rosters.mark_changed();
        loop {
            self.catch_up();
            self.act();
            self.publish();
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now || self.planner.is_idle()) {
                break;
            }
            let wake = self.planner.next_wake().into_iter().chain(deadline).chain([self.publish_at]).min();
            let fetch = async {
                match &mut self.fetch {
                    Some(fetch) => fetch.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = self.events.recv() => self.hear(event, Instant::now()),
                block = fetch => {
                    self.fetch = None;
                    self.planner.block(block.seq, block.events, block.body.len() as u64);
                    self.blocks.insert(block.seq, block);
                }
                Some(kept) = self.letters.join_next_with_id() => self.kept(kept),
                changed = rosters.changed(), if has_rosters => {
                    has_rosters = changed.is_ok();
                    if let Some(roster) = rosters.borrow_and_update().clone() {
                        self.planner.roster(&roster, Instant::now());
                    }
                }
                () = sleep_until(wake.unwrap_or(self.publish_at)) => {}
                () = &mut stop, if deadline.is_none() => {
                    self.planner.stop();
                    self.fetch = None;
                    deadline = Some(Instant::now() + self.options.stop_wait);
                }
            }
        }
        self.end();
    }

    fn end(mut self) {
        for seq in self.planner.release() {
            self.source.give_back(seq);
        }
        self.links.clear();
        self.publish_at = Instant::now();
        self.publish();
    }

    /// Takes in what was told while this task waited for its turn: what a collector said in time is not judged late.
    fn catch_up(&mut self) {
        let now = Instant::now();
        for _ in 0..EVENTS {
            let Ok(event) = self.events.try_recv() else { return };
            self.hear(event, now);
        }
    }

    fn hear(&mut self, event: Event<D::Writer, D::Reader>, now: Instant) {
        use super::Ack;
        self.is_dirty = true;
        match event {
            Event::Connected(conn, connection) => {
                let Some(link) = self.links.get_mut(&conn) else { return };
                let jobs = Arc::new(Jobs::default());
                let source = self.source.clone();
                let tools = link::Tools { source, encoders: self.encoders.clone(), news: self.news.clone() };
                let writer = tokio::spawn(link::write(conn, connection.writer, jobs.clone(), tools));
                let reader = tokio::spawn(link::read(conn, connection.reader, self.news.clone()));
                link.tasks = vec![writer.abort_handle(), reader.abort_handle()];
                link.jobs = Some(jobs);
                link.probe = connection.probe;
                self.planner.connected(conn, now);
            }
            Event::Closed(conn, LinkError { why, detail }) => {
                if self.links.remove(&conn).is_some() {
                    tracing::debug!(conn, why = why.as_str(), %detail, "connection to a collector ended");
                }
                self.planner.closed(conn, why, &detail, now);
            }
            Event::Begun(conn, number) => self.planner.begun(conn, number, now),
            Event::Written(conn, number) => self.planner.written(conn, number, now),
            Event::Unsendable(conn, number, seq, why) => self.planner.unsendable(conn, number, seq, why),
            Event::Ack(conn, Ack::Window(number)) => self.planner.acked(conn, number, now),
            Event::Ack(conn, Ack::Partial | Ack::KeepAlive) => self.planner.heard(conn, now),
        }
    }

    fn kept(&mut self, kept: Result<(task::Id, Kept), JoinError>) {
        self.is_dirty = true;
        let (id, kept) = kept.unwrap_or_else(|error| (error.id(), Some(Err(error.to_string()))));
        let Some(batch) = self.graves.remove(&id) else { return };
        match kept {
            None => self.planner.gone(batch.seq),
            Some(result) => self.planner.buried(batch, result, Instant::now()),
        }
    }

    fn act(&mut self) {
        let now = Instant::now();
        for action in self.planner.poll(now) {
            self.obey(action, now);
        }
    }

    fn obey(&mut self, action: Action, now: Instant) {
        self.is_dirty = true;
        match action {
            Action::Connect { conn, to } => {
                let (dial, news) = (self.dial.clone(), self.news.clone());
                let task = tokio::spawn(async move {
                    let event = match dial.connect(&to).await {
                        Ok(connection) => Event::Connected(conn, connection),
                        Err(error) => Event::Closed(conn, error),
                    };
                    link::tell(&news, event).await;
                });
                let link = Link { tasks: vec![task.abort_handle()], jobs: None, probe: None };
                self.links.insert(conn, link);
            }
            Action::Close { conn } => _ = self.links.remove(&conn),
            Action::Send { conn, number, batches } => {
                let parts =
                    batches.into_iter().map(|batch| (batch, self.blocks.remove(&batch.seq))).collect();
                // If the writer has ended, its reason is on its way, and brings this window back.
                if let Some(jobs) = self.links.get(&conn).and_then(|link| link.jobs.as_ref()) {
                    jobs.push(Job { number, parts });
                }
            }
            Action::Recall { conn } => {
                let jobs = self.links.get(&conn).and_then(|link| link.jobs.clone());
                for number in jobs.iter().flat_map(|jobs| jobs.recall()) {
                    self.planner.recalled(conn, number);
                }
            }
            Action::Probe { conn } => {
                let probe = self.links.get(&conn).and_then(|link| link.probe.as_ref());
                if let Some(path) = probe.map(|probe| probe()) {
                    self.planner.probed(conn, path, now);
                }
            }
            Action::Fetch => {
                let (source, order) = (self.source.clone(), self.options.order);
                self.fetch = Some(Box::pin(async move { source.next(order).await }));
            }
            Action::Done(seq) => {
                self.blocks.remove(&seq);
                self.source.done(seq);
            }
            Action::DeadLetter { batch, whole, why } => self.bury(batch, whole, why),
        }
    }

    fn bury(&mut self, batch: Batch, whole: bool, why: String) {
        let (source, letters) = (self.source.clone(), self.dead.clone());
        let encoders = self.encoders.clone();
        let task = self.letters.spawn(async move {
            let block = source.read(batch.seq).await?;
            let (at, body) = (block.at, block.body.clone());
            let event = match whole {
                true => Err(String::new()),
                false => encoders.event(block, batch.from).await,
            };
            let event = event.map(|payload| (Some(batch.from), payload)).unwrap_or((None, body));
            let letter = Letter { seq: batch.seq, event: event.0, at, payload: event.1, why };
            Some(letters.keep(letter).await)
        });
        self.graves.insert(task.id(), batch);
    }

    fn publish(&mut self) {
        let applied = self.planner.applied();
        self.outlets.applied.send_if_modified(|old| std::mem::replace(old, applied) != applied);
        let now = Instant::now();
        if self.publish_at <= now {
            let troubles = self.planner.troubles(now);
            self.outlets.status.send_replace(self.planner.status());
            self.outlets.troubles.send_if_modified(|old| {
                let is_news = *old != troubles;
                *old = troubles;
                is_news
            });
            self.publish_at = now + PUBLISH_IDLE;
            self.is_dirty = false;
        } else if std::mem::take(&mut self.is_dirty) {
            self.publish_at = self.publish_at.min(now + PUBLISH_BUSY);
        }
    }
}

#[cfg(test)]
mod tests;
