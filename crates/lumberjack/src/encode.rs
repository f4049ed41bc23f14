//! Writes windows, and reads again what was kept of them.
//!
//! Not sending, and no JSON: a payload is bytes.
//!
//! Invariant: events are numbered from 1 in every window, as Beats do it.

mod v1;

use std::fmt;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::frame::{EVENT_HEAD, Event, Frame, Parsed, Payload, Place, Scan, Version, head, parse};
use crate::limits::{KEEP_BUFFER, Limits, MAX_ENCODED};
use crate::receiver::Inflater;
use crate::refused::Refused;
pub use v1::v1_to_json;

/// Encodes windows one after the other; its compressor is made once.
pub struct WindowEncoder {
    level: u32,
    zlib: Option<Compress>,
    /// Frames that are not compressed yet: two calls for each event take their time.
    frames: Vec<u8>,
    body: Vec<u8>,
    /// How large the last body was: the next one will be similar.
    expected: usize,
    events: u32,
    event_bytes: u64,
}

/// A window without its header: what is kept and sent.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedWindow {
    /// How many events it has.
    pub events: u32,
    /// Bytes of their payloads.
    pub event_bytes: u64,
    /// The zlib stream of the JSON frames, or the frames as they are.
    pub body: Bytes,
    /// Which of the two.
    pub compressed: bool,
}

impl fmt::Debug for EncodedWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, event_bytes, body, compressed } = self;
        write!(f, "EncodedWindow {{ events: {events}, event_bytes: {event_bytes}, ")?;
        write!(f, "body: {} bytes, compressed: {compressed} }}", body.len())
    }
}

impl fmt::Debug for WindowEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowEncoder {{ level: {}, events: {} }}", self.level, self.events)
    }
}

/// The smallest room that is given to the compressor.
const ROOM: usize = 16 * 1024;

impl Default for WindowEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl WindowEncoder {
    /// An encoder with an empty window that is not compressed.
    pub fn new() -> Self {
        let (frames, body) = (Vec::new(), Vec::new());
        Self { level: 0, zlib: None, frames, body, expected: ROOM, events: 0, event_bytes: 0 }
    }

    /// Begins a window; what was pushed and not finished is forgotten. `level` is zlib's: 1 is fast, 9 is small,
    /// 0 does not compress, and what is above 9 is 9.
    pub fn begin(&mut self, level: u32) {
        let level = level.min(9);
        match &mut self.zlib {
            Some(zlib) if level == self.level => zlib.reset(),
            zlib => *zlib = (level > 0).then(|| Compress::new(Compression::new(level), true)),
        }
        self.level = level;
        self.frames.clear();
        self.body.clear();
        self.body.reserve(self.expected);
        (self.events, self.event_bytes) = (0, 0);
    }

    /// Adds an event. `false`: the window would have more than 1 GiB, and the event is not in it.
    pub fn push(&mut self, json: &[u8]) -> bool {
        let frames = self.event_bytes + (u64::from(self.events) + 1) * EVENT_HEAD as u64;
        let length = u32::try_from(json.len()).ok().filter(|n| frames + u64::from(*n) <= MAX_ENCODED as u64);
        let Some(length) = length else { return false };
        self.events += 1;
        self.event_bytes += u64::from(length);
        let mut header = [0; EVENT_HEAD];
        header[..6].copy_from_slice(&head(Version::V2, b'J', self.events));
        header[6..].copy_from_slice(&length.to_be_bytes());
        match &mut self.zlib {
            None => {
                self.body.extend_from_slice(&header);
                self.body.extend_from_slice(json);
            }
            // A long event is not copied.
            Some(zlib) if json.len() >= ROOM => {
                self.frames.extend_from_slice(&header);
                deflate(zlib, &self.frames, &mut self.body);
                self.frames.clear();
                deflate(zlib, json, &mut self.body);
            }
            Some(zlib) => {
                self.frames.extend_from_slice(&header);
                self.frames.extend_from_slice(json);
                if self.frames.len() >= ROOM {
                    deflate(zlib, &self.frames, &mut self.body);
                    self.frames.clear();
                }
            }
        }
        true
    }

    /// How many events were pushed.
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Bytes of their payloads.
    pub fn event_bytes(&self) -> u64 {
        self.event_bytes
    }

    /// The window; another one is begun at the same level. A window without events is not to be sent.
    pub fn finish(&mut self) -> EncodedWindow {
        if let Some(zlib) = &mut self.zlib {
            deflate(zlib, &self.frames, &mut self.body);
            self.frames.clear();
            finish(zlib, &mut self.body);
        }
        let body = std::mem::take(&mut self.body);
        self.expected = (body.len() + body.len() / 8).clamp(ROOM, KEEP_BUFFER);
        let window = EncodedWindow {
            events: self.events,
            event_bytes: self.event_bytes,
            body: Bytes::from(body),
            compressed: self.zlib.is_some(),
        };
        if let Some(zlib) = &mut self.zlib {
            zlib.reset();
        }
        (self.events, self.event_bytes) = (0, 0);
        window
    }
}

fn deflate(zlib: &mut Compress, mut bytes: &[u8], body: &mut Vec<u8>) {
    while !bytes.is_empty() {
        body.reserve(ROOM);
        let before = zlib.total_in();
        compress(zlib, bytes, body, FlushCompress::None);
        let taken = usize::try_from(zlib.total_in() - before).expect("no more than the input");
        bytes = &bytes[taken..];
    }
}

fn finish(zlib: &mut Compress, body: &mut Vec<u8>) {
    loop {
        body.reserve(ROOM);
        if compress(zlib, &[], body, FlushCompress::Finish) == Status::StreamEnd {
            return;
        }
    }
}

fn compress(zlib: &mut Compress, bytes: &[u8], body: &mut Vec<u8>, flush: FlushCompress) -> Status {
    zlib.compress_vec(bytes, body, flush).expect("a stream that is not finished takes bytes")
}

/// What stands before the body on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; 12],
    len: usize,
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A window as it is written: its header, then its body, which is shared and not copied.
pub fn frames(window: &EncodedWindow) -> (Header, Bytes) {
    let mut header = Header { bytes: [0; 12], len: 6 };
    header.bytes[..6].copy_from_slice(&head(Version::V2, b'W', window.events));
    if window.compressed {
        let length = u32::try_from(window.body.len()).expect("a window has at most 1 GiB");
        header.bytes[6..].copy_from_slice(&head(Version::V2, b'C', length));
        header.len = 12;
    }
    (header, window.body.clone())
}

/// Reads the events of a body that was kept, in their order. A body of ours, or one that a receiver called
/// verbatim, is never refused; a damaged one is.
pub fn events(
    body: &[u8],
    compressed: bool,
    limits: &Limits,
    each: &mut impl FnMut(&[u8]),
) -> Result<(), Refused> {
    EventReader::new(limits.event).read(body, compressed, each)
}

/// Does what [`events`] does, again and again with the same buffers.
#[derive(Debug)]
pub struct EventReader {
    limits: Limits,
    inflater: Inflater,
}

impl EventReader {
    /// A reader that has no buffers yet. No event may have more bytes than this.
    pub fn new(max_event: usize) -> Self {
        let limits = Limits { event: max_event, ..Limits::default() };
        Self { limits, inflater: Inflater::default() }
    }

    /// Reads the events of one body.
    pub fn read(
        &mut self,
        mut body: &[u8],
        compressed: bool,
        each: &mut impl FnMut(&[u8]),
    ) -> Result<(), Refused> {
        if !compressed {
            let taken = take(body, &self.limits, each)?;
            return if taken == body.len() { Ok(()) } else { Err(Refused::TornFrame) };
        }
        self.inflater.begin();
        loop {
            let step = self.inflater.step(body)?;
            body = &body[step.taken..];
            let taken = take(self.inflater.bytes(), &self.limits, each)?;
            self.inflater.consume(taken);
            if step.dry {
                return self.inflater.end();
            }
        }
    }
}

/// Reads all whole frames; returns how many bytes they have.
fn take(bytes: &[u8], limits: &Limits, each: &mut impl FnMut(&[u8])) -> Result<usize, Refused> {
    let mut taken = 0;
    // One more than any window has: how many come, the caller knows.
    let place = Place::Compressed(Version::V2, u32::MAX);
    loop {
        match parse(&bytes[taken..], place, &mut Scan::default(), limits)? {
            Parsed::Frame(Frame::Event(Event { payload: Payload::Json(json), .. }), size) => {
                each(json);
                taken += size;
            }
            Parsed::Frame(..) => return Err(Refused::UnknownFrame(b'D')),
            Parsed::Need(_) => return Ok(taken),
        }
    }
}

#[cfg(test)]
mod tests;
