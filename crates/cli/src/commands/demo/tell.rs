//! Prints the life of a fleet: a line for every member that changes, for every step of a collector on its
//! way in or out, for every roster that its agents have rendered, and for what is done to the flow of its logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::clock::Clock;
use pikepole_directory::engine::Fleet;
use pikepole_fleet::drain::{Convergence, convergence};
use pikepole_fleet::{Change, HookEnd, InstanceId, Life, MemberChange, Revision, Timestamp, Transition};
use tokio::time::{Instant, sleep};

use super::agents::{AGENTS, Board};
use super::flows::Flow;
use crate::commands::print;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Between two lines that say how many still hold.
const HOLD_EVERY: Duration = Duration::from_millis(1_500);
/// After this it is told who has not rendered a roster yet; with speed 1, and no sooner with any.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What was told of one life.
#[derive(Debug, Default)]
struct Told {
    launched: bool,
    port: bool,
    moved_off: bool,
    deadline: bool,
    /// Agents that still held, and when that was told.
    holders: Option<(usize, Instant)>,
}

/// What was told of one fleet.
struct Teller {
    fleet: Arc<Fleet>,
    agents: Board,
    flow: Flow,
    clock: Clock,
    patience: Duration,
    changes: Option<Revision>,
    /// The newest change, until its agents were told of: one that replaces it replaces that line too.
    spreading: Option<(Revision, Timestamp)>,
    lives: BTreeMap<InstanceId, Told>,
}

/// Prints as long as somebody reads.
pub(super) async fn tell(fleet: Arc<Fleet>, agents: Board, flow: Flow, clock: Clock, patience: Duration) {
    let (changes, spreading, lives) = (None, None, BTreeMap::new());
    let mut teller = Teller { fleet, agents, flow, clock, patience, changes, spreading, lives };
    loop {
        let lines = teller.news();
        if !lines.is_empty() && print(&lines).is_err() {
            return; // whoever read the lines is gone; the page goes on
        }
        sleep(LOOK).await;
    }
}

impl Teller {
    fn news(&mut self) -> String {
        let state = self.fleet.state();
        let name = self.fleet.config().name.as_str();
        let mut lines = String::new();
        for (at, words) in self.flow.said() {
            lines.push_str(&line(at, name, '!', "", &words));
        }
        let last = self.changes;
        for change in state.changes.iter().filter(|change| Some(change.revision) > last) {
            self.changes = Some(change.revision);
            self.spreading = Some((change.revision, change.at));
            lines.extend(change.members.iter().map(|member| changed(name, change, member)));
        }
        self.lives.retain(|id, _| state.lives.get(id).is_some());
        let now = self.clock.now();
        for (id, life) in state.lives.iter() {
            let told = self.lives.entry(id.clone()).or_default();
            for (at, words) in told.news(life, now, || holders(&self.fleet, life)) {
                lines.push_str(&line(at, name, '·', id.as_str(), &words));
            }
        }
        if let Some((revision, at)) = self.spreading
            && let Some(words) = spread(revision, at, &self.agents, now.since(at) >= self.patience)
        {
            self.spreading = None;
            lines.push_str(&line(now, name, '=', "", &words));
        }
        lines
    }
}

/// How far a revision has come among the agents; `None`: they are at it, and it is not yet `late`.
fn spread(revision: Revision, since: Timestamp, agents: &Board, late: bool) -> Option<String> {
    let seats = agents.seats();
    let mut last = since;
    let (mut at_it, mut behind) = (0, Vec::new());
    for (id, seat) in &seats {
        match seat.applied {
            Some((applied, at)) if applied >= revision.get() => {
                at_it += 1;
                last = last.max(Timestamp::from_millis(at));
            }
            _ if seat.is_running => behind.push(id.as_str()),
            _ => {} // it is dead, and comes back with the newest one
        }
    }
    if at_it == 0 || (!behind.is_empty() && !late) {
        return None;
    }
    let not_yet = match behind[..] {
        [] => String::new(),
        [one] => format!("; not {}", one.split('.').next().unwrap_or(one)),
        _ => format!("; {} do not yet", behind.len()),
    };
    let within = last.since(since).as_millis();
    Some(format!("{at_it} of {AGENTS} agents rendered revision {revision} within {within} ms{not_yet}"))
}

/// How many live agents still hold, of how many. `None`: no agent is known.
fn holders(fleet: &Fleet, life: &Life) -> Option<(usize, usize)> {
    let (seen, _) = fleet.agents().seen();
    let live = seen.iter().filter(|agent| agent.live).count();
    match convergence(life, seen) {
        Convergence::NobodyKnown => None,
        Convergence::HeldBy(who) => Some((who.len(), live)),
        Convergence::Converged => Some((0, live)),
    }
}

impl Told {
    /// What happened since the last look, with the time of each.
    fn news(
        &mut self,
        life: &Life,
        now: Timestamp,
        holders: impl Fn() -> Option<(usize, usize)>,
    ) -> Vec<(Timestamp, String)> {
        let mut news = Vec::new();
        if let (false, Some(at)) = (self.launched, life.launched) {
            self.launched = true;
            let until = if life.awaited { "; listed once its port answers" } else { "" };
            news.push((at, format!("launching{until}")));
        }
        // A step that a hook waits for is told together with the hook's end.
        let is_settled = |transition| life.open(transition).next().is_none();
        if let (false, true, Some(at)) =
            (self.port, is_settled(Transition::Launching), life.answered.or(life.given_up))
        {
            self.port = true;
            let (waited, hook) = (after(life.launched, at), ended(life, Transition::Launching));
            news.push((
                at,
                match life.answered {
                    Some(_) => format!("port answers{waited}{hook}"),
                    None => format!("no answer{waited}; listed anyway{hook}"),
                },
            ));
        }
        if life.is_leaving() && life.moved_off.is_none() {
            news.extend(self.hold(holders()).map(|words| (now, words)));
        }
        let over = is_settled(Transition::Terminating);
        if let (false, true, Some(at)) = (self.moved_off, over, life.moved_off) {
            self.moved_off = true;
            let (waited, hook) = (after(life.draining, at), ended(life, Transition::Terminating));
            news.push((now, format!("every agent has moved off{waited}{hook}")));
        }
        let deadline = life.waiting.iter().find_map(|w| w.done.filter(|(_, end)| *end == HookEnd::Deadline));
        if let (false, Some((at, _))) = (self.deadline, deadline) {
            self.deadline = true;
            news.push((at, format!("the deadline came{}; hook completed", after(life.draining, at))));
        }
        news
    }

    fn hold(&mut self, holders: Option<(usize, usize)>) -> Option<String> {
        let (count, of) = holders.filter(|(count, _)| *count > 0)?;
        if self.holders.is_some_and(|(told, at)| told == count || at.elapsed() < HOLD_EVERY) {
            return None;
        }
        self.holders = Some((count, Instant::now()));
        let verb = if count == 1 { "holds" } else { "hold" };
        Some(format!("draining, {count} of {of} agents still {verb}"))
    }
}

/// `; hook completed` if such a hook was.
fn ended(life: &Life, transition: Transition) -> &'static str {
    let mut ends = life.waiting.iter().filter(|w| w.hook.transition == transition).filter_map(|w| w.done);
    match ends.next_back() {
        Some((_, HookEnd::NoSuchAction)) => "; hook had timed out",
        Some((_, HookEnd::Gone)) | None => "",
        Some(_) => "; hook completed",
    }
}

/// ` after 2.1 s`, or nothing.
fn after(since: Option<Timestamp>, at: Timestamp) -> String {
    since.map_or_else(String::new, |since| format!(" after {:.1} s", at.since(since).as_secs_f64()))
}

fn changed(fleet: &str, change: &Change, member: &MemberChange) -> String {
    let (sign, state) = match (member.from, member.to) {
        (None, Some(state)) => ('+', state.as_str()),
        (_, None) => ('-', "gone"),
        (Some(_), Some(state)) => ('~', state.as_str()),
    };
    let words = format!("{:<11} {:<15} {}", state, member.address.to_string(), change.cause);
    line(change.at, fleet, sign, member.instance_id.as_str(), &words)
}

/// `who` is an instance, or nobody in particular.
fn line(at: Timestamp, fleet: &str, sign: char, who: &str, words: &str) -> String {
    let time = pikepole_api::time::format(at);
    let gap = if who.is_empty() { "" } else { "  " };
    format!("{}  {fleet:<18} {sign} {who}{gap}{words}\n", time.get(11..19).unwrap_or_default())
}
