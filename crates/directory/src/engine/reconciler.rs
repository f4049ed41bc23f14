//! One reconciler per account and region (or file, or simulation): it alone asks the source, on its
//! own clock and on demand.
//!
//! A demand is met by a describe that began after it. Demands that come while one is under way wait
//! together for the next, so any number of them costs at most one describe per gap.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::{Doubt, Input, InstanceId, Lifecycle, Proof, Verdict, limits};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::pace::{Pace, Sweep};
use super::{Engine, Fleet};
use crate::shutdown::Shutdown;
use crate::source::{Answer, Source, SourceError, Target};

/// Groups that one `DescribeAutoScalingGroups` call can name. Up to here a demand for one fleet costs
/// no more than a sweep over all; above, only the fleets in demand are asked for.
const ONE_CALL: usize = 100;

/// A source that has not answered about [`ONE_CALL`] fleets by then is taken for silent. Sources have
/// limits of their own, for each call; this one only sees to it that no sweep lasts for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// How long a describe may go on after the shutdown: within the five seconds that requests in flight have.
const LAST_DESCRIBE: Duration = Duration::from_secs(4);

/// How a demand ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Met {
    /// The source answered, and it was believed: the roster is confirmed.
    Confirmed,
    /// The source did not answer, or the guard does not believe it.
    Failed(String),
    /// Nobody will ask any more: the directory is stopping.
    Stopping,
}

type Waiters = watch::Sender<Option<Met>>;

/// Why a reconciler looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// It is time, or the source or a new role says so: everything is asked for.
    Sweep,
    /// Somebody demands something.
    Demand,
}

/// Asks one source about its fleets.
pub(super) struct Reconciler {
    /// For people: `aws ap-south-1`.
    pub(super) label: String,
    /// `aws`, `file` or `sim`.
    pub(super) kind: &'static str,
    pub(super) fleets: Vec<Arc<Fleet>>,
    pub(super) describes: AtomicU64,
    source: Arc<dyn Source>,
    interval: Duration,
    gap: Duration,
    /// `None` once nobody meets them any more.
    demands: Mutex<Option<BTreeMap<usize, Waiters>>>,
    in_demand: Notify,
    hurry: Notify,
}

impl fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Reconciler {
    pub(super) fn new(
        label: String,
        kind: &'static str,
        source: Arc<dyn Source>,
        fleets: Vec<Arc<Fleet>>,
        interval: Duration,
        gap: Duration,
    ) -> Self {
        Self {
            label,
            kind,
            fleets,
            describes: AtomicU64::new(0),
            source,
            interval,
            gap,
            demands: Mutex::new(Some(BTreeMap::new())),
            in_demand: Notify::new(),
            hurry: Notify::new(),
        }
    }

    /// Has one fleet described after this call, and waits for what comes of it. `None`: another replica
    /// asks the source now. Cancel-safe.
    pub(super) async fn demand(&self, index: usize) -> Option<Met> {
        let Some(mut demand) = self.join_demand(index) else { return Some(Met::Stopping) };
        let met = demand.wait_for(Option::is_some).await.ok().and_then(|met| met.clone());
        met.or_else(|| self.is_over().then_some(Met::Stopping))
    }

    /// Has one fleet described after this call.
    pub(super) fn want(&self, index: usize) {
        drop(self.join_demand(index));
    }

    fn join_demand(&self, index: usize) -> Option<watch::Receiver<Option<Met>>> {
        let mut demands = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        let demands = demands.as_mut()?;
        let receiver = demands.entry(index).or_insert_with(|| watch::Sender::new(None)).subscribe();
        self.in_demand.notify_one();
        Some(receiver)
    }

    /// Whether nobody will ask any more.
    fn is_over(&self) -> bool {
        self.demands.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// The source itself, for what is not a describe.
    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Calls the source made, by the API's own names.
    pub(super) fn api_calls(&self) -> Vec<(&'static str, u64)> {
        self.source.api_calls()
    }

    /// Makes the next regular sweep due now.
    #[cfg(feature = "redis")]
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    fn take_demands(&self) -> BTreeMap<usize, Waiters> {
        let mut demands = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        demands.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Runs until the shutdown. Demands that are open then, or come later, are dropped: whoever waits for
    /// one hears at once that it will not be met.
    pub(super) async fn run(self: Arc<Self>, engine: Arc<Engine>, shutdown: Shutdown) {
        self.reconcile(&engine, shutdown).await;
        *self.demands.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn reconcile(&self, engine: &Arc<Engine>, mut shutdown: Shutdown) {
        let mut pace = Pace::new(self.interval, self.gap, Instant::now(), fastrand::u64(..));
        loop {
            let wake = tokio::select! {
                biased; // no describe begins after the stop
                () = shutdown.wait() => return,
                () = tokio::time::sleep_until(pace.next_tick()) => Wake::Sweep,
                () = self.in_demand.notified() => Wake::Demand,
                () = self.source.changed() => Wake::Sweep,
                () = self.hurry.notified() => Wake::Sweep,
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = tokio::time::sleep_until(pace.not_before()) => {}
            }
            let demands = self.take_demands();
            if wake == Wake::Demand && demands.is_empty() {
                continue; // the word of demands that came during the gap, and were met with the first
            }
            let began = Instant::now();
            let is_due = wake == Wake::Sweep || began >= pace.next_tick();
            if !engine.may_describe() {
                self.leave_to_the_leader();
                pace.swept(Sweep::Done { again_within: None }, began, Instant::now());
                continue;
            }
            // Up to here a demand for one costs no more than a sweep over all.
            let all = is_due || self.fleets.len() <= ONE_CALL;
            let chosen =
                if all { (0..self.fleets.len()).collect() } else { demands.keys().copied().collect() };
            let sweep = tokio::select! {
                biased; // what is under way may finish: somebody may wait for it
                sweep = self.sweep(engine, chosen, &demands) => sweep,
                () = over(&mut shutdown, &demands) => return,
            };
            if all {
                pace.swept(sweep, began, Instant::now());
            } else {
                pace.swept_some(sweep, began, Instant::now());
            }
        }
    }

    /// Another replica describes; what is demanded here is asked of it instead (`Engine::refresh`). What
    /// failed here before is no longer this replica's trouble.
    fn leave_to_the_leader(&self) {
        for fleet in &self.fleets {
            fleet.note_health(|health| {
                health.elsewhere = true;
                health.failures = 0;
            });
        }
    }

    /// Describes the chosen fleets, applies the answers, tells those who waited.
    async fn sweep(
        &self,
        engine: &Arc<Engine>,
        chosen: Vec<usize>,
        demands: &BTreeMap<usize, Waiters>,
    ) -> Sweep {
        let targets: Vec<Target> = chosen.iter().map(|&i| target(&self.fleets[i])).collect();
        self.describes.fetch_add(1, Ordering::Relaxed);
        let limit = ANSWER_LIMIT * u32::try_from(targets.len().div_ceil(ONE_CALL)).unwrap_or(u32::MAX);
        let answers = tokio::time::timeout(limit, self.source.describe(&targets)).await;
        let answers = answers.unwrap_or_else(|_| {
            let why = format!("the source said nothing within {} s", limit.as_secs());
            vec![Err(SourceError::Unreachable(why)); targets.len()]
        });
        let mut sweep = Sweep::Done { again_within: None };
        for (index, answer) in chosen.into_iter().zip(answers) {
            let fleet = &self.fleets[index];
            let (one, met) = self.take_in(engine, fleet, answer).await;
            sweep = worse(sweep, one);
            if let Some(waiters) = demands.get(&index) {
                waiters.send_replace(Some(met));
            }
        }
        engine.review_alerts();
        sweep
    }

    /// No proof is a fine answer, and so is none in time.
    async fn prove_gone(&self, fleet: &Fleet, suspects: &[InstanceId]) -> Proof {
        let error = match tokio::time::timeout(ANSWER_LIMIT, self.source.prove_gone(suspects)).await {
            Ok(Ok(proof)) => return proof,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the source said nothing".to_owned(),
        };
        tracing::warn!(fleet = %fleet.config().name, error, "no proof of the missing instances");
        Proof::default()
    }

    async fn take_in(
        &self,
        engine: &Arc<Engine>,
        fleet: &Arc<Fleet>,
        answer: Result<Answer, SourceError>,
    ) -> (Sweep, Met) {
        let now = engine.clock.now();
        fleet.note_health(|health| {
            health.last_attempt = Some(now);
            health.elsewhere = false;
            match &answer {
                Ok(_) => {
                    health.last_success = Some(now);
                    health.failures = 0;
                }
                Err(error) => {
                    health.last_error = Some((now, error.clone()));
                    health.failures = health.failures.saturating_add(1);
                }
            }
        });
        let describe = match answer {
            Ok(Answer::Group(describe)) => describe,
            Ok(Answer::DoesNotExist) => {
                engine.apply(fleet, Input::DoesNotExist).await;
                let name = fleet.config().group();
                return (
                    Sweep::Done { again_within: None },
                    Met::Failed(format!("there is no group called {name}")),
                );
            }
            Err(error) => {
                tracing::warn!(fleet = %fleet.config().name, source = %self.label, %error, "source failed");
                let throttled = matches!(error, SourceError::Throttled(_));
                let sweep = if throttled { Sweep::Throttled } else { Sweep::Failed };
                return (sweep, Met::Failed(error.to_string()));
            }
        };
        let waits_for_address =
            describe.instances.iter().any(|i| i.lifecycle == Lifecycle::InService && i.address.is_none());
        let suspects = fleet.state().suspects(&describe, &engine.policy);
        let proof =
            if suspects.is_empty() { Proof::default() } else { self.prove_gone(fleet, &suspects).await };
        let outcome = engine.apply(fleet, Input::Described { describe, proof }).await;
        engine.take_strays(fleet).await;
        engine.hooks.look();
        match outcome.verdict {
            Verdict::Held(doubt) => {
                let soon = match doubt {
                    Doubt::EmptyOnPurpose => self.gap,
                    _ => limits::HOLD_RECHECK,
                };
                (Sweep::Done { again_within: Some(soon) }, Met::Failed(doubt.to_string()))
            }
            Verdict::Accepted | Verdict::Observed(_) | Verdict::Stale => {
                // EC2 is eventually consistent: a new instance gets its address within seconds.
                let again_within = waits_for_address.then_some(self.interval / 10);
                (Sweep::Done { again_within }, Met::Confirmed)
            }
        }
    }
}

/// Waits for the shutdown, and, if anybody still waits for the describe that is under way, for as long
/// as it may take.
async fn over(shutdown: &mut Shutdown, demands: &BTreeMap<usize, Waiters>) {
    shutdown.wait().await;
    if demands.values().any(|waiters| waiters.receiver_count() > 0) {
        tokio::time::sleep(LAST_DESCRIBE).await;
    }
}

fn target(fleet: &Fleet) -> Target {
    Target { group: fleet.config().group(), port: fleet.config().port }
}

/// The sweep as a whole goes as badly as its worst fleet.
fn worse(a: Sweep, b: Sweep) -> Sweep {
    match (a, b) {
        (Sweep::Throttled, _) | (_, Sweep::Throttled) => Sweep::Throttled,
        (Sweep::Failed, _) | (_, Sweep::Failed) => Sweep::Failed,
        (Sweep::Done { again_within: a }, Sweep::Done { again_within: b }) => {
            Sweep::Done { again_within: a.into_iter().chain(b).min() }
        }
    }
}
