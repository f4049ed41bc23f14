//! A flow as the page gets it: numbers, rates and shares, each second.
//!
//! Invariant: everything is bounded: the history by its length, the rest by the fleet.

use std::collections::{BTreeMap, VecDeque};

use pikepole_fleet::InstanceId;
use serde::Serialize;
use tokio::time::Instant;

use super::{Collector, Flow, State, Totals};

/// Seconds of rates that are kept.
const HISTORY: usize = 90;
/// Samples that a rate is made of.
const OVER: usize = 3;

/// The flow of a fleet.
#[derive(Debug, Serialize)]
pub(in super::super) struct Shown {
    fleet: String,
    sent: u64,
    received: u64,
    waiting: u64,
    missing: u64,
    duplicates: u64,
    /// Of the lines sent, those that their agents have not any more: only they are checked for being missing.
    settled: u64,
    /// Lines that nobody wrote.
    foreign: u64,
    /// Events a second that proxies write and collectors get.
    rate_in: f64,
    rate_out: f64,
    /// Both for each of the last seconds, oldest first.
    history: Vec<(u64, u64)>,
    agents: usize,
    agents_running: usize,
    /// Seconds until all collectors are back; `null`: they are there.
    stopped_s: Option<u64>,
    collectors: Vec<Taker>,
    said_at: Option<String>,
    said: Option<String>,
}

#[derive(Debug, Serialize)]
struct Taker {
    id: String,
    address: String,
    /// `takes`, `hangs`, `drains`, `starts` or `stopped`.
    state: &'static str,
    rate: f64,
}

#[derive(Debug, Clone, Default)]
struct Sample {
    written: u64,
    received: u64,
    takers: BTreeMap<InstanceId, u64>,
}

/// The last samples, one a second.
#[derive(Debug, Default)]
pub(super) struct History {
    last: VecDeque<(Instant, Sample)>,
    rates: VecDeque<(u64, u64)>,
}

impl State {
    pub(super) fn sample(&mut self, now: Instant) {
        let totals = self.totals();
        let takers = self.collectors.iter().map(|(id, collector)| (id.clone(), collector.received)).collect();
        // What comes twice is work for a collector too.
        let sample = Sample { written: totals.sent, received: totals.received + totals.duplicates, takers };
        let history = &mut self.history;
        if let Some((at, last)) = history.last.back() {
            let seconds = (now - *at).as_secs_f64().max(0.1);
            let rate = |new: u64, old: u64| ((new - old) as f64 / seconds).round() as u64;
            history
                .rates
                .push_back((rate(sample.written, last.written), rate(sample.received, last.received)));
        }
        history.last.push_back((now, sample));
        while history.last.len() > OVER + 1 {
            history.last.pop_front();
        }
        while history.rates.len() > HISTORY {
            history.rates.pop_front();
        }
    }

    /// By how much something grows in a second.
    fn rate(&self, what: impl Fn(&Sample) -> u64) -> f64 {
        let (Some((from, old)), Some((to, new))) = (self.history.last.front(), self.history.last.back())
        else {
            return 0.0;
        };
        let seconds = (*to - *from).as_secs_f64();
        if seconds > 0.0 { what(new).saturating_sub(what(old)) as f64 / seconds } else { 0.0 }
    }
}

impl Flow {
    /// As it is now.
    pub(in super::super) fn show(&self) -> Shown {
        let state = self.lock();
        let Totals { sent, received, waiting, missing, duplicates } = state.totals();
        let now = Instant::now();
        let takers = state.collectors.iter().map(|(id, collector)| Taker {
            id: id.to_string(),
            address: collector.address.to_string(),
            state: match collector {
                _ if state.stopped_until.is_some() => "stopped",
                Collector { hangs_until: Some(_), .. } => "hangs",
                Collector { leaves: true, .. } => "drains",
                Collector { listens: false, .. } => "starts",
                _ => "takes",
            },
            rate: state.rate(|sample| sample.takers.get(id).copied().unwrap_or_default()),
        });
        Shown {
            fleet: self.fleet().into(),
            sent,
            received,
            waiting,
            missing,
            duplicates,
            settled: state.proxies.iter().map(|proxy| proxy.settled).sum(),
            foreign: state.foreign,
            rate_in: state.rate(|sample| sample.written),
            rate_out: state.rate(|sample| sample.received),
            history: state.history.rates.iter().copied().collect(),
            agents: state.proxies.len(),
            agents_running: state.proxies.iter().filter(|proxy| proxy.is_running).count(),
            stopped_s: state.stopped_until.map(|until| (until.saturating_duration_since(now)).as_secs() + 1),
            collectors: takers.collect(),
            said_at: state.last_said.as_ref().map(|(at, _)| pikepole_api::time::format(*at)),
            said: state.last_said.as_ref().map(|(_, words)| words.clone()),
        }
    }
}
