//! The heads of segments and of records, and the names of segments. Not their meaning, and no I/O.
//!
//! ```text
//! segment  0 magic 8 | 8 version 4 | 12 salt 4 | 16 first 8 | 24 id 8 | 32 zeros | 60 crc 4
//! record   0 magic 4 | 4 kind 1 | 5 encoding 1 | 6 block kind 1 | 7 zero | 8 body length 4 | 12 body crc 4 | 16 seq 8
//!          24 at 8 | 32 event bytes 8 | 40 events 4 | 44 raw length 4 | 48 marks length 4 | 52 synced 4 | 56 zeros | 60 crc 4
//! ```
//!
//! Little-endian. Invariant: what is decoded is what was encoded with this salt for this offset, or nothing.

use crate::codec::{Input, put_u32, put_u64};

/// Bytes of either head.
pub(crate) const HEAD: usize = 64;
/// The version of the format that is written.
pub(crate) const VERSION: u32 = 1;
/// Where a record may begin.
pub(crate) const MAGIC: [u8; 4] = [0xA5, 0x50, 0x4B, 0x9C];
const SEGMENT_MAGIC: [u8; 8] = *b"PIKSPOOL";
const ENDING: &str = ".spool";

/// What a record is. The numbers are on disk: none is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Block = 1,
    Finished = 2,
    Marks = 3,
    Checkpoint = 4,
    Synced = 5,
}

impl Kind {
    const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Block,
            2 => Self::Finished,
            3 => Self::Marks,
            4 => Self::Checkpoint,
            5 => Self::Synced,
            _ => return None,
        })
    }
}

/// Which segment this is; all of it is in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentId {
    pub(crate) first: u64,
    pub(crate) id: u64,
    pub(crate) salt: u32,
}

impl SegmentId {
    pub(crate) fn name(self) -> String {
        format!("{:020}-{:010}-{:08x}{ENDING}", self.first, self.id, self.salt)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(ENDING)?.split('-');
        let (first, id, salt) = (parts.next()?, parts.next()?, parts.next()?);
        let found = Self {
            first: first.parse().ok()?,
            id: id.parse().ok()?,
            salt: u32::from_str_radix(salt, 16).ok()?,
        };
        // A seq near the end of its range is nobody's: it would overflow what follows.
        (found.name() == name && found.first < u64::MAX / 2 && found.id < u64::MAX / 2).then_some(found)
    }

    pub(crate) fn head(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut bytes, VERSION);
        put_u32(&mut bytes, self.salt);
        put_u64(&mut bytes, self.first);
        put_u64(&mut bytes, self.id);
        bytes.resize(HEAD - 4, 0);
        let crc = crc32fast::hash(&bytes);
        put_u32(&mut bytes, crc);
        bytes
    }
}

/// The version that a segment was written in; `None` if these bytes are no head.
pub(crate) fn version(head: &[u8; HEAD]) -> Option<u32> {
    let (body, crc) = head.split_at(HEAD - 4);
    let mut input = Input::new(body);
    let is_ours = input.take(8)? == SEGMENT_MAGIC && Input::new(crc).u32()? == crc32fast::hash(body);
    if is_ours { input.u32() } else { None }
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) encoding: u8,
    pub(crate) block_kind: u8,
    pub(crate) len: u32,
    pub(crate) body_crc: u32,
    pub(crate) seq: u64,
    pub(crate) at: u64,
    pub(crate) event_bytes: u64,
    pub(crate) events: u32,
    pub(crate) raw_len: u32,
    pub(crate) marks_len: u32,
    pub(crate) synced: u32,
}

impl Header {
    /// The head of a record that is no block.
    pub(crate) fn plain(kind: Kind, seq: u64, body: &[u8]) -> Self {
        Self {
            kind,
            encoding: 0,
            block_kind: 0,
            len: u32::try_from(body.len()).expect("bodies are bounded far below 4 GiB"),
            body_crc: crc32fast::hash(body),
            seq,
            at: 0,
            event_bytes: 0,
            events: 0,
            raw_len: 0,
            marks_len: 0,
            synced: 0,
        }
    }

    /// Bytes of the whole record.
    pub(crate) const fn record_len(&self) -> u64 {
        HEAD as u64 + self.len as u64
    }

    pub(crate) fn encode(&self, salt: u32, offset: u64) -> [u8; HEAD] {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[self.kind as u8, self.encoding, self.block_kind, 0]);
        put_u32(&mut bytes, self.len);
        put_u32(&mut bytes, self.body_crc);
        put_u64(&mut bytes, self.seq);
        put_u64(&mut bytes, self.at);
        put_u64(&mut bytes, self.event_bytes);
        put_u32(&mut bytes, self.events);
        put_u32(&mut bytes, self.raw_len);
        put_u32(&mut bytes, self.marks_len);
        put_u32(&mut bytes, self.synced);
        put_u32(&mut bytes, 0);
        let crc = checksum(&bytes, salt, offset);
        put_u32(&mut bytes, crc);
        bytes.try_into().expect("the fields above are 64 bytes")
    }

    pub(crate) fn decode(bytes: &[u8; HEAD], salt: u32, offset: u64) -> Option<Self> {
        let (body, crc) = bytes.split_at(HEAD - 4);
        let mut input = Input::new(body);
        if input.take(4)? != MAGIC || Input::new(crc).u32()? != checksum(body, salt, offset) {
            return None;
        }
        let (kind, encoding, block_kind, _) =
            (Kind::from_u8(input.u8()?)?, input.u8()?, input.u8()?, input.u8()?);
        Some(Self {
            kind,
            encoding,
            block_kind,
            len: input.u32()?,
            body_crc: input.u32()?,
            seq: input.u64()?,
            at: input.u64()?,
            event_bytes: input.u64()?,
            events: input.u32()?,
            raw_len: input.u32()?,
            marks_len: input.u32()?,
            synced: input.u32()?,
        })
    }
}

fn checksum(body: &[u8], salt: u32, offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SegmentId = SegmentId { first: 151, id: 3, salt: 0x9f3a_2c41 };

    #[test]
    fn the_bytes_never_change() {
        assert_eq!(ID.name(), "00000000000000000151-0000000003-9f3a2c41.spool");
        assert_eq!(&ID.head()[..16], b"PIKSPOOL\x01\0\0\0\x41\x2c\x3a\x9f");
        let header = Header { events: 7, synced: 9, ..Header::plain(Kind::Marks, 5, b"body") };
        let bytes = header.encode(1, 2);
        assert_eq!(bytes[..8], [0xA5, 0x50, 0x4B, 0x9C, 3, 0, 0, 0]);
        assert_eq!((bytes[8], bytes[16], bytes[40], bytes[52]), (4, 5, 7, 9));
        assert_eq!(bytes[60..], 0xF37A_CDC6_u32.to_le_bytes());
        assert_eq!(Header::decode(&bytes, 1, 2), Some(header));
    }

    #[test]
    fn a_record_counts_only_where_it_was_written() {
        let bytes = Header::plain(Kind::Synced, 5, b"").encode(1, 64);
        assert_eq!(Header::decode(&bytes, 1, 128), None, "another offset");
        assert_eq!(Header::decode(&bytes, 2, 64), None, "another file");
    }

    #[test]
    fn names_of_others_are_none() {
        assert_eq!(SegmentId::from_name(&ID.name()), Some(ID));
        for name in
            ["reserve", "151-3-9f3a2c41.spool", "00000000000000000151-0000000003-9F3A2C41.spool", ".spool"]
        {
            assert_eq!(SegmentId::from_name(name), None, "{name}");
        }
    }
}
