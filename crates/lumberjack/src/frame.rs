//! Frames: what each looks like on the wire, read from contiguous bytes.
//!
//! ```text
//! version ('1' | '2')  type   all integers unsigned, 32 bits, big-endian
//!   'W'  events                            a window begins
//!   'J'  sequence  length  bytes           an event, JSON
//!   'D'  sequence  pairs   (length key length value)*   an event of version 1
//!   'C'  length    bytes                   a zlib stream of J and D frames
//!   'A'  sequence                          an ack, the only frame of a server
//! ```
//!
//! Not a buffer: whoever calls keeps the bytes, and learns how many are needed.
//!
//! Invariant: a frame that may not come, or is too large, is refused as soon as its first bytes say so.

use crate::limits::Limits;
use crate::refused::Refused;

/// The version of a window; its ack has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Logstash-forwarder.
    V1,
    /// Beats.
    V2,
}

impl Version {
    pub(crate) fn read(byte: u8) -> Result<Self, Refused> {
        match byte {
            b'1' => Ok(Self::V1),
            b'2' => Ok(Self::V2),
            other => Err(Refused::UnknownVersion(other)),
        }
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::V1 => b'1',
            Self::V2 => b'2',
        }
    }
}

/// One event as it came. It is not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The sequence number that its sender gave it.
    pub seq: u32,
    /// What it says.
    pub payload: Payload<'a>,
}

/// The content of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// What should be one JSON object. Nobody has checked.
    Json(&'a [u8]),
    /// The pairs of a data frame of version 1.
    Pairs(Pairs<'a>),
}

impl Payload<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Json(bytes) => bytes.len(),
            Payload::Pairs(pairs) => pairs.0.len(),
        }
    }
}

/// Keys and values of a data frame, whole: their lengths were checked when the frame was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pairs<'a>(&'a [u8]);

impl<'a> Pairs<'a> {
    /// The bytes as they are in the frame: `(length key length value)*`.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Key and value of each pair, in the order of the frame.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || Some((text(&mut rest)?, text(&mut rest)?)))
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(text)
}

/// Where in the conversation the next frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between windows.
    Boundary,
    /// In a window of that version, with so many events missing.
    Window(Version, u32),
    /// In a compressed frame of it.
    Compressed(Version, u32),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Window(Version, u32),
    Compressed(u32),
    Event(Event<'a>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A frame, and how many bytes it has.
    Frame(Frame<'a>, usize),
    /// At least so many bytes, counted from the first of the frame, are needed to go on.
    Need(usize),
}

/// How far a data frame was looked through: it has no length, and is not looked through twice.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    texts_left: u32,
    /// Where the next length is; 0: no data frame is begun.
    at: usize,
}

/// Bytes before the payload of an event.
pub(crate) const EVENT_HEAD: usize = 10;

/// Reads the frame at the beginning of `bytes`. `scan` must be the same until a frame was returned.
pub(crate) fn parse<'a>(
    bytes: &'a [u8],
    place: Place,
    scan: &mut Scan,
    limits: &Limits,
) -> Result<Parsed<'a>, Refused> {
    let Some(&version) = bytes.first() else { return Ok(Parsed::Need(2)) };
    let version = Version::read(version)?;
    let Some(&kind) = bytes.get(1) else { return Ok(Parsed::Need(2)) };
    check_place(version, kind, place)?;
    let Some(first) = integer(bytes, 2) else {
        return Ok(Parsed::Need(if matches!(kind, b'J' | b'D') { EVENT_HEAD } else { 6 }));
    };
    match kind {
        b'W' => return Ok(Parsed::Frame(Frame::Window(version, first), 6)),
        b'C' if first as usize > limits.compressed => {
            return Err(Refused::CompressedTooLarge { size: first, limit: limits.compressed });
        }
        b'C' => return Ok(Parsed::Frame(Frame::Compressed(first), 6)),
        _ => {}
    }
    let Some(second) = integer(bytes, 6) else { return Ok(Parsed::Need(EVENT_HEAD)) };
    let (payload, end) = if kind == b'J' {
        let end = EVENT_HEAD + check_event(u64::from(second), limits)?;
        let Some(json) = bytes.get(EVENT_HEAD..end) else { return Ok(Parsed::Need(end)) };
        (Payload::Json(json), end)
    } else {
        match pairs(bytes, second, scan, limits)? {
            Extent::Ends(end) => (Payload::Pairs(Pairs(&bytes[EVENT_HEAD..end])), end),
            Extent::Need(needed) => return Ok(Parsed::Need(needed)),
        }
    };
    Ok(Parsed::Frame(Frame::Event(Event { seq: first, payload }), end))
}

fn check_place(version: Version, kind: u8, place: Place) -> Result<(), Refused> {
    if !matches!(kind, b'W' | b'J' | b'D' | b'C') {
        return Err(Refused::UnknownFrame(kind));
    }
    match place {
        Place::Boundary if kind == b'W' => Ok(()),
        Place::Boundary => Err(Refused::OutsideWindow(kind)),
        Place::Window(_, left) | Place::Compressed(_, left) if kind == b'W' => {
            Err(Refused::PrematureWindow(left))
        }
        Place::Window(v, _) | Place::Compressed(v, _) if v != version => Err(Refused::MixedVersions),
        Place::Compressed(..) if kind == b'C' => Err(Refused::Nested),
        Place::Compressed(_, 0) => Err(Refused::BeyondWindow),
        Place::Window(..) | Place::Compressed(..) => Ok(()),
    }
}

fn check_event(size: u64, limits: &Limits) -> Result<usize, Refused> {
    let within = usize::try_from(size).ok().filter(|size| *size <= limits.event);
    within.ok_or(Refused::EventTooLarge { size, limit: limits.event })
}

/// How far a data frame goes.
enum Extent {
    /// All of it is there; it ends here.
    Ends(usize),
    /// At least so many bytes are needed to look further.
    Need(usize),
}

fn pairs(bytes: &[u8], pairs: u32, scan: &mut Scan, limits: &Limits) -> Result<Extent, Refused> {
    if scan.at == 0 {
        if pairs > limits.v1_pairs {
            return Err(Refused::TooManyPairs { pairs, limit: limits.v1_pairs });
        }
        *scan = Scan { texts_left: pairs.saturating_mul(2), at: EVENT_HEAD };
    }
    while scan.texts_left > 0 {
        let Some(length) = integer(bytes, scan.at) else { return Ok(Extent::Need(scan.at + 4)) };
        let size = (scan.at + 4 - EVENT_HEAD) as u64 + u64::from(length);
        let end = EVENT_HEAD + check_event(size, limits)?;
        if bytes.len() < end {
            return Ok(Extent::Need(end));
        }
        scan.at = end;
        scan.texts_left -= 1;
    }
    Ok(Extent::Ends(std::mem::take(scan).at))
}

fn integer(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*chunk))
}

/// An ack as it is on the wire.
pub(crate) fn ack(version: Version, seq: u32) -> [u8; 6] {
    head(version, b'A', seq)
}

/// Version, type and one integer: the beginning of every frame.
pub(crate) fn head(version: Version, kind: u8, number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [version.byte(), kind, a, b, c, d]
}
