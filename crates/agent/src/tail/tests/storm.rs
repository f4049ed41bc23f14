//! Anything that rotates, in any order, with the agent going down and the spool filling up in between. Every
//! line has a number; in the end each is there.
//!
//! Not in it: lines between the copy and the truncation of copytruncate, which nobody can save, and files
//! that are deleted while the agent is down and has not read them.

use std::time::Duration;

use proptest::prelude::*;

use super::super::file::WITHOUT_BIRTH;
use super::*;

const GRACE: Duration = Duration::from_secs(61);

#[derive(Debug, Clone)]
enum Operation {
    /// Whole lines, the first of them the rest of a half one.
    Write(usize),
    Half,
    Rename,
    Reopen,
    CopyTruncate,
    Gzip,
    DeleteOldest,
    Tick(u64),
    Grace,
    Full(bool),
    Crash,
    Down,
    Up,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        8 => (1_usize..120).prop_map(Write),
        2 => Just(Half),
        3 => Just(Rename),
        4 => Just(Reopen),
        3 => Just(CopyTruncate),
        3 => Just(Gzip),
        1 => Just(DeleteOldest),
        8 => (0_u64..900).prop_map(Tick),
        1 => Just(Grace),
        2 => any::<bool>().prop_map(Full),
        2 => Just(Crash),
        1 => Just(Down),
        2 => Just(Up),
    ]
}

struct Storm {
    w: World,
    /// Where the writer writes: 0 is the log, n is `.n`.
    at: usize,
    writer: Option<File>,
    has_half: bool,
    lines: usize,
}

fn name(n: usize) -> String {
    if n == 0 { "access.log".into() } else { format!("access.log.{n}") }
}

impl Storm {
    fn new(can_crash: bool) -> Self {
        let mut w = World::new();
        w.tick();
        w.crash_at = can_crash.then_some(usize::MAX);
        let mut storm = Self { w, at: 0, writer: None, has_half: false, lines: 0 };
        storm.reopen();
        storm
    }

    fn reopen(&mut self) {
        if self.has_half || (self.at == 0 && self.writer.is_some()) {
            return;
        }
        let file = OpenOptions::new().append(true).create(true).open(self.w.path("access.log")).unwrap();
        (self.writer, self.at) = (Some(file), 0);
    }

    fn put(&mut self, text: &str) {
        let mut file = self.writer.as_ref().unwrap().try_clone().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        self.w.touch(&file);
    }

    fn write(&mut self, count: usize) {
        let mut text = String::new();
        for _ in 0..count {
            let line = format!("line {} of the log\n", self.lines);
            text.push_str(if std::mem::take(&mut self.has_half) { &line[4..] } else { &line });
            self.lines += 1;
        }
        self.put(&text);
    }

    fn half(&mut self) {
        if !std::mem::replace(&mut self.has_half, true) {
            self.put("line");
        }
    }

    fn whole(&mut self) {
        if self.has_half {
            self.write(1);
        }
    }

    /// `.n` becomes `.n+1`, from the oldest to the first.
    fn shift(&mut self) {
        for n in (1..30).rev() {
            for ending in ["", ".gz"] {
                let old = format!("{}{ending}", name(n));
                if self.w.path(&old).exists() {
                    self.w.rename(&old, &format!("{}{ending}", name(n + 1)));
                }
            }
        }
        if self.at > 0 {
            self.at += 1;
        }
    }

    fn rename(&mut self) {
        self.shift();
        if self.at == 0 {
            self.w.rename("access.log", "access.log.1");
            self.at = 1;
        }
    }

    fn copy_truncate(&mut self) {
        self.whole();
        if self.at == 0 {
            self.shift();
            self.w.copy("access.log", "access.log.1");
            self.w.truncate("access.log");
        }
    }

    fn gzip(&mut self, slowly: bool) {
        let is_done = |n: &usize| *n != self.at && self.w.path(&name(*n)).exists();
        let Some(n) = (1..31).rev().find(is_done) else { return };
        self.w.compress(&name(n), &format!("{}.gz", name(n)));
        if slowly {
            self.w.tick();
        }
        self.w.remove(&name(n));
    }

    fn delete_oldest(&mut self, can_crash: bool) {
        if can_crash {
            // Who crashes loses what only it had open.
            if self.w.worker.is_none() || self.w.is_full {
                return;
            }
            self.whole();
            self.w.pass(GRACE);
        }
        self.w.tick();
        let oldest = (1..31).rev().filter(|n| *n != self.at);
        let names = oldest.flat_map(|n| [name(n), format!("{}.gz", name(n))]);
        if let Some(name) = names.into_iter().find(|name| self.w.path(name).exists()) {
            self.w.remove(&name);
        }
    }

    fn play(&mut self, operation: &Operation, can_crash: bool) {
        match operation {
            Operation::Write(count) => self.write(*count),
            Operation::Half => self.half(),
            Operation::Rename => self.rename(),
            Operation::Reopen => self.reopen(),
            Operation::CopyTruncate => self.copy_truncate(),
            Operation::Gzip => self.gzip(self.lines.is_multiple_of(2)),
            Operation::DeleteOldest => self.delete_oldest(can_crash),
            Operation::Tick(millis) => self.w.pass(Duration::from_millis(*millis)),
            Operation::Grace => {
                self.whole();
                self.w.pass(GRACE);
            }
            Operation::Full(is_full) => self.w.is_full = *is_full,
            Operation::Crash if can_crash && self.w.worker.is_some() => self.w.crash(),
            Operation::Down if can_crash => self.w.stop(),
            Operation::Up if self.w.worker.is_none() => self.w.start(),
            Operation::Crash | Operation::Down | Operation::Up => {}
        }
    }

    fn end(&mut self) {
        self.whole();
        self.w.is_full = false;
        if self.w.worker.is_none() {
            self.w.start();
        }
        for _ in 0..4 {
            self.w.pass(GRACE);
        }
        let wanted: Vec<String> = (0..self.lines).map(|n| format!("line {n} of the log")).collect();
        self.w.check(&wanted);
        assert_eq!(self.w.status().unread_bytes, 0);
    }
}

fn storm(operations: &[Operation], can_crash: bool) {
    let mut storm = Storm::new(can_crash);
    for operation in operations {
        storm.play(operation, can_crash);
    }
    storm.end();
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_there_once(operations in proptest::collection::vec(operation(), 1..60)) {
        storm(&operations, false);
    }

    #[test]
    fn where_nobody_knows_when_a_file_was_born_every_line_is_there(
        operations in proptest::collection::vec(operation(), 1..60),
    ) {
        WITHOUT_BIRTH.set(true);
        storm(&operations, true);
    }

    #[test]
    fn whatever_crashes_every_line_is_there(operations in proptest::collection::vec(operation(), 1..60)) {
        storm(&operations, true);
    }
}
