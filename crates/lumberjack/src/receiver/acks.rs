//! What was handed over and is not acked, and the acks that are to be written.
//!
//! Not the decision when something is safe.
//!
//! Invariant: a unit leaves at the front alone, accepted; the ack of a window is written when its last unit leaves.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Ack;
use crate::frame::{Version, ack};

/// A window, or a part of one.
#[derive(Debug)]
pub(super) struct Unit {
    /// What acks the window, if it ends with this unit.
    pub(super) ack: Option<Ack>,
    pub(super) bytes: u64,
    pub(super) accepted: bool,
}

#[derive(Debug)]
pub(super) struct Acks {
    /// Between two `ack 0`.
    every: Duration,
    units: VecDeque<Unit>,
    /// The number of the first of them.
    first: u64,
    bytes: u64,
    /// Complete windows among them.
    windows_held: usize,
    /// Windows that were completed, ever.
    windows: u64,
    /// Units from the first one on whose windows are acked.
    acked: u64,
    /// The client has sent what we do not take; in this version it is told that we are alive.
    waits: Option<Version>,
    /// When it last heard from us, or began to wait for us.
    quiet_since: Duration,
    output: BytesMut,
    /// An `ack 0` for an empty window is to be written; one is as good as many.
    empty: Option<Version>,
}

impl Acks {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            units: VecDeque::new(),
            first: 0,
            bytes: 0,
            windows_held: 0,
            windows: 0,
            acked: 0,
            waits: None,
            quiet_since: Duration::ZERO,
            output: BytesMut::new(),
            empty: None,
        }
    }

    /// Takes in a unit and returns its number.
    pub(super) fn add(&mut self, unit: Unit, now: Duration) -> u64 {
        self.bytes += unit.bytes;
        if unit.ack.is_some() {
            if !self.owes() {
                self.quiet_since = now;
            }
            self.windows += 1;
            self.windows_held += 1;
        }
        self.units.push_back(unit);
        self.first + self.units.len() as u64 - 1
    }

    pub(super) fn empty_window(&mut self, version: Version) {
        self.empty = Some(version);
    }

    pub(super) fn accept(&mut self, number: u64, now: Duration) {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(unit) = index.and_then(|index| self.units.get_mut(index)) else { return };
        unit.accepted = true;
        while let Some(unit) = self.units.pop_front_if(|unit| unit.accepted) {
            self.first += 1;
            self.bytes -= unit.bytes;
            if let Some((version, seq)) = unit.ack {
                self.windows_held -= 1;
                self.acked = self.first;
                self.write(version, seq, now);
            }
        }
    }

    fn write(&mut self, version: Version, seq: u32, now: Duration) {
        self.output.extend_from_slice(&ack(version, seq));
        self.quiet_since = now;
    }

    /// A window is begun.
    pub(super) fn begin(&mut self, now: Duration) {
        if !self.owes() {
            self.quiet_since = now;
        }
    }

    /// The client waits for us to go on, in a window that was begun or before one.
    pub(super) fn wait(&mut self, version: Version, begun: bool, now: Duration) {
        if !begun {
            self.begin(now);
        }
        self.waits = Some(version);
    }

    pub(super) fn go_on(&mut self) {
        self.waits = None;
    }

    /// Whether it is us the client waits for.
    fn owes(&self) -> bool {
        self.windows_held > 0 || self.waits.is_some()
    }

    pub(super) fn next_keep_alive(&self) -> Option<Duration> {
        self.owes().then(|| self.quiet_since.saturating_add(self.every))
    }

    /// Says that we are alive, if somebody waits and it is time.
    pub(super) fn keep_alive(&mut self, now: Duration) {
        let oldest = self.units.iter().find_map(|unit| unit.ack).map(|(version, _)| version);
        if let Some(version) = oldest.or(self.waits)
            && self.next_keep_alive().is_some_and(|at| now >= at)
        {
            self.write(version, 0, now);
        }
    }

    pub(super) fn output(&mut self) -> Option<Bytes> {
        if let Some(version) = self.empty.take() {
            self.output.extend_from_slice(&ack(version, 0));
        }
        (!self.output.is_empty()).then(|| self.output.split().freeze())
    }

    pub(super) fn held(&self) -> usize {
        self.units.len()
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn windows(&self) -> u64 {
        self.windows
    }
}
