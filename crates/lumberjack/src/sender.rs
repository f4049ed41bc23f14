//! The sending side of one connection: what the server's acks say about the windows that were sent.
//!
//! Not the windows themselves: those come from [`encode`](crate::encode), and whoever sends keeps them until acked.
//!
//! Every window that we send is numbered from 1, so the count of its events and its last sequence number are
//! the same, and servers that ack the one or the other look alike. The protocol does not say which window an ack
//! is for: it is always the oldest. Hence a doubled ack of a full window passes for the ack of the next one if
//! that has as many events, and for a partial one if that has more; no client can tell.
//!
//! Invariant: a window is acked by its whole count alone, the oldest first, each once.

use std::collections::VecDeque;
use std::time::Duration;

use crate::frame::{Version, ack};
use crate::refused::Refused;

/// What an ack means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// The oldest window is safe with the server.
    Window {
        /// What the caller called it.
        number: u64,
    },
    /// Some events of the oldest window are; a sign of life, not a reason to forget any of them.
    Partial {
        /// What the caller called the window.
        number: u64,
        /// How many of its events.
        events: u32,
    },
    /// The server is alive and works on it.
    KeepAlive,
}

/// The acks of one connection.
#[derive(Debug)]
pub struct Sender {
    windows: VecDeque<Sent>,
    /// The beginning of an ack of which more must come.
    torn: [u8; ACK],
    torn_len: usize,
    heard: Duration,
    progress: Duration,
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    events: u32,
    partial: u32,
}

const ACK: usize = 6;

impl Sender {
    /// For a connection that begins now.
    pub fn new(now: Duration) -> Self {
        Self {
            windows: VecDeque::new(),
            torn: [0; ACK],
            torn_len: 0,
            heard: now,
            progress: now,
            refused: None,
        }
    }

    /// A window is being sent; `number` is the caller's name for it. To be called before its first byte is
    /// written, and not for a window without events, which nobody would ack.
    pub fn sent(&mut self, number: u64, events: u32, now: Duration) {
        if events == 0 {
            return;
        }
        if self.windows.is_empty() {
            (self.heard, self.progress) = (now, now);
        }
        self.windows.push_back(Sent { number, events, partial: 0 });
    }

    /// Takes bytes of the server. After an error the connection must be closed, and what is in flight be sent
    /// again elsewhere; every later call says the same.
    pub fn input(
        &mut self,
        mut bytes: &[u8],
        now: Duration,
        sink: &mut impl FnMut(Acked),
    ) -> Result<(), Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(ACK - self.torn_len));
            self.torn[self.torn_len..self.torn_len + piece.len()].copy_from_slice(piece);
            self.torn_len += piece.len();
            bytes = rest;
            match self.take(now) {
                Ok(Some(acked)) => sink(acked),
                Ok(None) => {}
                Err(refused) => {
                    self.refused = Some(refused);
                    return Err(refused);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, now: Duration) -> Result<Option<Acked>, Refused> {
        let expected = ack(Version::V2, 0);
        if self.torn[0] != expected[0] {
            let other_version = self.torn[0] == b'1';
            return Err(if other_version {
                Refused::MixedVersions
            } else {
                Refused::UnknownVersion(self.torn[0])
            });
        }
        if self.torn_len > 1 && self.torn[1] != expected[1] {
            return Err(Refused::UnknownFrame(self.torn[1]));
        }
        if self.torn_len < ACK {
            return Ok(None);
        }
        self.torn_len = 0;
        let [_, _, a, b, c, d] = self.torn;
        let acked = self.judge(u32::from_be_bytes([a, b, c, d]))?;
        self.heard = now;
        if acked != Acked::KeepAlive {
            self.progress = now;
        }
        Ok(Some(acked))
    }

    fn judge(&mut self, ack: u32) -> Result<Acked, Refused> {
        if ack == 0 {
            return Ok(Acked::KeepAlive);
        }
        let Some(oldest) = self.windows.front_mut() else { return Err(Refused::AckUnasked(ack)) };
        let (number, events, before) = (oldest.number, oldest.events, oldest.partial);
        if ack > events {
            return Err(Refused::AckTooHigh { ack, events });
        }
        if ack < before {
            return Err(Refused::AckBackwards { ack, before });
        }
        if ack == events {
            self.windows.pop_front();
            return Ok(Acked::Window { number });
        }
        oldest.partial = ack;
        Ok(if ack == before { Acked::KeepAlive } else { Acked::Partial { number, events: ack } })
    }

    /// Windows that were sent and not acked.
    pub fn in_flight(&self) -> usize {
        self.windows.len()
    }

    /// When the last ack of any kind came, or when we began to wait for one, if that was later.
    pub fn last_heard(&self) -> Duration {
        self.heard
    }

    /// When the last ack came that acked anything, or when we began to wait for one, if that was later.
    pub fn last_progress(&self) -> Duration {
        self.progress
    }
}

#[cfg(test)]
mod tests;
