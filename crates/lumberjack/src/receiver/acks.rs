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
    keep_alive: Option<Duration>,
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
            keep_alive: None,
            output: BytesMut::new(),
            empty: None,
        }
    }

    /// Takes in a unit and returns its number.
    pub(super) fn add(&mut self, unit: Unit, now: Duration) -> u64 {
        self.bytes += unit.bytes;
        if unit.ack.is_some() {
            self.windows += 1;
            self.windows_held += 1;
            self.keep_alive.get_or_insert_with(|| now.saturating_add(self.every));
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
                self.write(version, seq, now);
            }
        }
    }

    fn write(&mut self, version: Version, seq: u32, now: Duration) {
        self.output.extend_from_slice(&ack(version, seq));
        self.keep_alive = (self.windows_held > 0).then(|| now.saturating_add(self.every));
    }

    pub(super) fn next_keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// Says that we are alive, if somebody waits and it is time.
    pub(super) fn keep_alive(&mut self, now: Duration) {
        let oldest = self.units.iter().find_map(|unit| unit.ack);
        if let Some((version, _)) = oldest
            && self.keep_alive.is_some_and(|at| now >= at)
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

    pub(super) fn windows(&self) -> u64 {
        self.windows
    }
}
