//! What is done to a flow, and what becomes of it: until all that had to wait has been delivered.
//!
//! Not the group: whom it concerns, the group's life decides.

use std::time::Duration;

use pikepole_fleet::InstanceId;
use tokio::time::Instant;

use super::{Flow, State, Totals};

/// After a collector began to hang: lines that are stuck in it shall count as well.
const STUCK: Duration = Duration::from_secs(2);
/// After an agent was dropped: what its proxy writes before it is back shall count as well.
const AWAY: Duration = Duration::from_secs(1);

/// Watches that what waited is delivered.
#[derive(Debug)]
pub(super) struct After {
    begins: Instant,
    /// What waits then, of each proxy, and all together; `None`: it has not begun.
    waits: Option<(Vec<u64>, Totals)>,
}

impl Flow {
    /// Ends all collectors, and starts them again after a while.
    pub(in super::super) fn stop_all(&self, time: Duration) {
        let mut state = self.lock();
        if state.stopped_until.is_some() {
            drop(state);
            return self.say("collectors are stopped already".into());
        }
        state.stopped_until = Some(Instant::now() + time);
        state.after = None;
        let count = state.collectors.len();
        for collector in state.collectors.values_mut() {
            (collector.listens, collector.hangs_until) = (false, None);
        }
        drop(state);
        let seconds = time.as_secs_f64();
        self.say(format!(
            "stopped all {count} collectors for {seconds:.0} s; everything waits at the proxies"
        ));
    }

    /// Makes one hang.
    pub(in super::super) fn hang(&self, id: &InstanceId, time: Duration) {
        let mut state = self.lock();
        let Some(collector) = state.collectors.get_mut(id) else { return };
        collector.hangs_until = Some(Instant::now() + time);
        drop(state);
        self.say(format!("{id} hangs for {:.0} s: it reads nothing, and acks nothing", time.as_secs_f64()));
        self.watch(STUCK);
    }

    /// Drops the agent of one proxy that runs, without a stop; `pick` is told how many there are.
    pub(in super::super) fn kill_agent(&self, pick: impl FnOnce(usize) -> usize) {
        let state = self.lock();
        let running: Vec<_> = state.proxies.iter().filter(|proxy| proxy.is_running).collect();
        if running.is_empty() {
            drop(state);
            return self.say("no agent runs that could be dropped".into());
        }
        let proxy = running[pick(running.len())];
        proxy.kill.notify_one();
        let words = format!("dropped the agent {} without a stop; it starts again", proxy.id);
        drop(state);
        self.say(words);
        self.watch(AWAY);
    }

    /// From `begins` on, what waits then is watched until it is delivered.
    pub(in super::super) fn watch(&self, begins: Duration) {
        let begins = Instant::now() + begins;
        let mut state = self.lock();
        if state.stopped_until.is_none() {
            state.after = Some(After { begins, waits: None });
        }
    }
}

impl State {
    /// What happened by now, in words.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let mut words = Vec::new();
        if self.stopped_until.is_some_and(|until| until <= now) {
            self.stopped_until = None;
            let waiting = self.proxies.iter().filter(|proxy| proxy.waiting() > 0).count();
            let events = thousands(self.totals().waiting);
            words.push(format!("collectors are back; {events} events wait in {waiting} spools"));
            self.after = Some(After { begins: now, waits: None });
        }
        for (id, collector) in &mut self.collectors {
            if collector.hangs_until.is_some_and(|until| until <= now) {
                collector.hangs_until = None;
                words.push(format!("{id} goes on; what is left in its sockets comes twice"));
            }
        }
        words.extend(self.delivered(now));
        words
    }

    /// Whether what waited has been delivered.
    fn delivered(&mut self, now: Instant) -> Option<String> {
        let mut after = self.after.take_if(|after| after.begins <= now)?;
        let totals = self.totals();
        let (upto, before) = after.waits.get_or_insert_with(|| {
            (self.proxies.iter().map(|proxy| proxy.ledger.written()).collect(), totals)
        });
        let left = self.proxies.iter().zip(upto.iter()).any(|(proxy, upto)| {
            let ledger = &proxy.ledger;
            ledger.whole() < *upto && ledger.gaps(*upto) > ledger.gaps(proxy.settled.min(*upto))
        });
        if left {
            self.after = Some(after);
            return None;
        }
        let took = (now - after.begins).as_secs_f64();
        let events = match before.waiting {
            0 | 1 => "nothing that waited is left".into(),
            count => format!("all {} delivered", thousands(count)),
        };
        let duplicates = totals.duplicates - before.duplicates;
        Some(format!("{events} after {took:.1} s, missing {}, duplicates {duplicates}", totals.missing))
    }
}

/// `1240` as `1,240`.
pub(in super::super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
