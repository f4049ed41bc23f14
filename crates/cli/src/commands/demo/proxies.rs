//! The simulated proxies of one fleet: each appends lines to an access log, as nginx does, and rotates it.
//!
//! Not what reads them: that is the agent beside each.
//!
//! Invariants: every line has a number that no other line of its proxy has. A rotated file is deleted only when
//! all of its lines have arrived somewhere, and who has too many of them writes no more until then: the demo
//! fills no disk.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use pikepole_directory::clock::Clock;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Pace;
use super::flows::Flow;

/// Between two writes of a proxy: nginx buffers too.
const TICK: Duration = Duration::from_millis(250);
/// Lines a second of each proxy, whatever the speed.
const RATE: (f64, f64) = (20.0, 36.0);
/// Now and then there are so many times more, for so long.
const BURST: f64 = 5.0;
const BURST_TIME: Duration = Duration::from_secs(4);
/// One tick in so many begins one.
const BURST_ONCE_IN: u32 = 400;
/// A log of this size is rotated.
const ROTATE_AT: u64 = 256 * 1024;
/// Rotated logs of one proxy at most; 36 proxies have 81 MiB at the very worst.
const MOST_ROTATED: usize = 8;
/// Of those that have arrived, so many stay to be looked at.
const KEPT: usize = 1;

const PATHS: [&str; 6] =
    ["/v1/orders", "/v1/orders/8831/items", "/v1/cart", "/login", "/static/app.css", "/v1/search?q=kettle"];
const AGENTS: [&str; 3] = ["Mozilla/5.0 (X11; Linux x86_64)", "okhttp/4.12.0", "curl/8.14.1"];

/// One proxy's access log.
#[derive(Debug)]
struct Proxy {
    number: usize,
    id: String,
    log: PathBuf,
    file: Option<File>,
    size: u64,
    /// What could not be written yet.
    rest: Vec<u8>,
    lines: u64,
    rotations: u64,
    /// Rotated logs, oldest first, each with the number of its last line.
    rotated: VecDeque<(PathBuf, u64)>,
    rate: f64,
    /// Lines that are due, and a fraction of the next.
    due: f64,
    burst_until: Option<Instant>,
}

/// Writes for ever; ends between two writes.
pub(super) async fn write(logs: Vec<PathBuf>, flow: Flow, clock: Clock, mut pace: Pace) {
    let mut proxies: Vec<Proxy> = (0..)
        .zip(logs)
        .map(|(number, log)| Proxy::new(number, flow.proxy_id(number), log, &mut pace))
        .collect();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (flow, clock, mut dice) = (flow.clone(), clock.clone(), pace.fork());
        let written = spawn_blocking(move || {
            for proxy in &mut proxies {
                if let Err(error) = proxy.tick(&flow, &clock, &mut dice) {
                    tracing::warn!(proxy = proxy.id, %error, "a proxy of the demo cannot write its log");
                }
            }
            proxies
        });
        match written.await {
            Ok(back) => proxies = back,
            Err(_) => return, // the runtime ends
        }
    }
}

impl Proxy {
    fn new(number: usize, id: String, log: PathBuf, pace: &mut Pace) -> Self {
        Self {
            number,
            id,
            log,
            file: None,
            size: 0,
            rest: Vec::new(),
            lines: 0,
            rotations: 0,
            rotated: VecDeque::new(),
            rate: pace.between(RATE.0, RATE.1),
            due: 0.0,
            burst_until: None,
        }
    }

    fn tick(&mut self, flow: &Flow, clock: &Clock, dice: &mut Pace) -> io::Result<()> {
        let whole = flow.whole(self.number);
        while self.rotated.len() > KEPT
            && let Some((path, _)) = self.rotated.front().filter(|(_, last)| *last <= whole)
        {
            fs::remove_file(path)?;
            self.rotated.pop_front();
        }
        if self.rest.is_empty() && self.rotated.len() < MOST_ROTATED {
            let count = self.count(dice);
            flow.write(self.number, count); // before they are there: they arrive within milliseconds
            let time = pikepole_api::time::format(clock.now());
            for _ in 0..count {
                self.lines += 1;
                self.line(time.get(..19).unwrap_or_default(), dice);
            }
        }
        self.flush()?;
        flow.wrote(self.number);
        if self.size >= ROTATE_AT {
            self.rotate()?;
        }
        Ok(())
    }

    /// How many lines this tick has.
    fn count(&mut self, dice: &mut Pace) -> u64 {
        let now = Instant::now();
        if dice.once_in(BURST_ONCE_IN) {
            self.burst_until = Some(now + BURST_TIME);
        }
        let is_burst = self.burst_until.is_some_and(|until| now < until);
        self.due += self.rate * TICK.as_secs_f64() * if is_burst { BURST } else { 1.0 };
        let count = self.due.floor();
        self.due -= count;
        count as u64 // far below 2^52
    }

    fn line(&mut self, time: &str, dice: &mut Pace) {
        let status = if dice.once_in(40) { 502 } else { 200 };
        let (path, agent) = (PATHS[dice.below(PATHS.len())], AGENTS[dice.below(AGENTS.len())]);
        let (host, bytes, took) = (dice.below(250) + 2, dice.below(9_000) + 200, dice.between(0.001, 0.4));
        let mut line = String::with_capacity(192);
        // Writing to a text cannot fail.
        _ = writeln!(
            line,
            "198.51.100.{host} - - [{time}+00:00] \"GET {path} HTTP/1.1\" {status} {bytes} \"-\" \"{agent}\" \
             {took:.3} id={}/{}",
            self.id, self.lines
        );
        self.rest.extend_from_slice(line.as_bytes());
    }

    /// Writes what there is. What a full disk does not take waits for the next time.
    fn flush(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().create(true).append(true).open(&self.log)?),
        };
        while !self.rest.is_empty() {
            let written = file.write(&self.rest)?;
            self.size += written as u64;
            self.rest.drain(..written);
        }
        Ok(())
    }

    /// As logrotate does: renamed, and a new one is begun.
    fn rotate(&mut self) -> io::Result<()> {
        self.rotations += 1;
        let mut name = self.log.clone().into_os_string();
        name.push(format!(".{}", self.rotations));
        fs::rename(&self.log, &name)?;
        self.rotated.push_back((name.into(), self.lines));
        (self.file, self.size) = (None, 0);
        Ok(())
    }
}

/// The proxy and the number in an event that was made of such a line; `None`: it is something else.
pub(super) fn read(event: &[u8]) -> Option<(String, u64)> {
    #[derive(serde::Deserialize)]
    struct Event {
        message: String,
    }
    let event: Event = serde_json::from_slice(event).ok()?;
    let (proxy, number) = event.message.rsplit_once(" id=")?.1.split_once('/')?;
    Some((proxy.into(), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(log: PathBuf) -> (Proxy, Flow, Clock, Pace) {
        let clock = Clock::from_fn(|| pikepole_fleet::Timestamp::from_millis(0));
        let (flow, _) = Flow::new("f", vec!["proxy-01.x".into()], clock.clone());
        let mut pace = Pace::new(7, 1.0);
        (Proxy::new(0, "proxy-01.x".into(), log, &mut pace), flow, clock, pace)
    }

    #[test]
    fn a_line_is_read_back_from_its_event_and_nothing_else_is_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut proxy, flow, clock, mut pace) = proxy(folder.path().join("access.log"));
        proxy.rate = 40.0;
        proxy.tick(&flow, &clock, &mut pace).unwrap();
        let text = fs::read_to_string(folder.path().join("access.log")).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            let event = serde_json::json!({ "message": line }).to_string();
            assert_eq!(read(event.as_bytes()), Some(("proxy-01.x".into(), number)));
        }
        assert_eq!(text.lines().count() as u64, flow.totals().sent);
        for event in
            ["", "{}", r#"{"message":" id=x"}"#, r#"{"message":"id=a/1"}"#, r#"{"message":" id=a/b"}"#]
        {
            assert_eq!(read(event.as_bytes()), None, "{event}");
        }
    }

    #[test]
    fn a_proxy_keeps_what_has_not_arrived_and_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (mut proxy, flow, clock, mut pace) = proxy(folder.path().join("access.log"));
        proxy.rate = 20_000.0;
        for _ in 0..40 {
            proxy.tick(&flow, &clock, &mut pace).unwrap();
        }
        let files = || fs::read_dir(folder.path()).unwrap().count();
        let (stuck, sent) = (files(), flow.totals().sent);
        assert!(stuck <= MOST_ROTATED + 1, "{stuck}");
        proxy.tick(&flow, &clock, &mut pace).unwrap();
        assert_eq!(flow.totals().sent, sent, "it is full");
        let collector = "i-00000000000000001".parse().unwrap();
        flow.arrive(&collector, (1..=sent).map(|number| ("proxy-01.x".into(), number)));
        proxy.tick(&flow, &clock, &mut pace).unwrap();
        assert!(files() < stuck && flow.totals().sent > sent, "it goes on");
    }
}
