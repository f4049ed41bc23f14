//! Inflates a zlib stream piece by piece into one buffer, and reads events where they come to lie.
//!
//! Not a `Read`: an event is read in place, and only what is left of a torn one is moved.
//!
//! Invariant: the buffer grows only when it is full of bytes that came out of the stream, never because of a
//! declared length.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

use crate::limits::INFLATE_BUFFER;
use crate::refused::Refused;

/// What one step of inflating did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) taken: usize,
    pub(crate) made: usize,
    /// The stream wants more input: nothing is left that it could give.
    pub(crate) dry: bool,
}

/// Reused for all compressed frames of a connection; costs nothing before the first.
#[derive(Default)]
pub(crate) struct Inflater {
    zlib: Option<Box<Decompress>>,
    buffer: Vec<u8>,
    /// What was inflated and not consumed is `buffer[start..end]`.
    start: usize,
    end: usize,
    finished: bool,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the buffer: what is in it is the client's.
        f.debug_struct("Inflater").field("finished", &self.finished).finish_non_exhaustive()
    }
}

impl Inflater {
    pub(crate) fn begin(&mut self) {
        match &mut self.zlib {
            Some(zlib) => zlib.reset(true),
            none => *none = Some(Box::new(Decompress::new(true))),
        }
        if self.buffer.len() != INFLATE_BUFFER {
            self.buffer = vec![0; INFLATE_BUFFER];
        }
        (self.start, self.end, self.finished) = (0, 0, false);
    }

    /// Takes some of `input`, all of it if the step is dry.
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<Step, Refused> {
        let zlib = self.zlib.as_mut().expect("a stream was begun");
        if self.finished {
            return if input.is_empty() {
                Ok(Step { taken: 0, made: 0, dry: true })
            } else {
                Err(Refused::TrailingBytes)
            };
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end > self.buffer.len() / 2 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        let before = (zlib.total_in(), zlib.total_out());
        let room = &mut self.buffer[self.end..];
        let status =
            zlib.decompress(input, room, FlushDecompress::None).map_err(|_| Refused::CorruptStream)?;
        let taken = usize::try_from(zlib.total_in() - before.0).expect("no more than the input");
        let made = usize::try_from(zlib.total_out() - before.1).expect("no more than the room");
        let full = made == room.len();
        self.end += made;
        self.finished = status == Status::StreamEnd;
        if taken == 0 && made == 0 && !input.is_empty() && !self.finished {
            return Err(Refused::CorruptStream);
        }
        let dry = taken == input.len() && (self.finished || !full);
        Ok(Step { taken, made, dry })
    }

    /// What was inflated and not consumed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Bytes by which the buffer had to grow for one large event.
    pub(crate) fn grown(&self) -> usize {
        self.buffer.len().saturating_sub(INFLATE_BUFFER)
    }

    /// The frame is over: so must be its stream, and the last event in it.
    pub(crate) fn end(&mut self) -> Result<(), Refused> {
        if !self.finished {
            return Err(Refused::UnfinishedStream);
        }
        if self.start != self.end {
            return Err(Refused::TornFrame);
        }
        if self.grown() > 0 {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}
