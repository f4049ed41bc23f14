//! What sources remember, and its bytes.
//!
//! ```text
//! number 4, then each: 1 set or 2 forget 1 | key length 2 | value length 4 | key | value
//! ```
//!
//! Invariant: the number of keys and their bytes are bounded, whatever is appended; and `decode` returns what was given to
//! `encode`, or nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::block::Mark;
use crate::codec::{Input, put_u16, put_u32};

/// Keys that may have a value at once: one for each file that is followed, with room for many rotations.
pub const MAX_MARKS: usize = 65_536;
/// Bytes of all keys and values together, in a spool that is not small: 4,096 files with two paths of 4 KiB each and the
/// first KiB of what is in them. They are written at the head of each segment; the reserve grows with them.
pub const MAX_MARK_BYTES: usize = 40 << 20;
/// Bytes of one key, and of one value.
pub const MAX_MARK: usize = 16 << 10;

const SET: u8 = 1;
const FORGET: u8 = 2;

/// The values that hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    values: BTreeMap<Bytes, Bytes>,
    bytes: usize,
}

/// What marks would add to those that hold: keys and bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Growth {
    pub(crate) keys: usize,
    pub(crate) bytes: usize,
}

impl Marks {
    pub(crate) fn apply(&mut self, marks: &[Mark]) {
        for mark in marks {
            let before = match &mark.value {
                Some(value) => {
                    self.bytes += mark.key.len() + value.len();
                    self.values.insert(mark.key.clone(), value.clone())
                }
                None => self.values.remove(&mark.key),
            };
            if let Some(before) = before {
                self.bytes -= mark.key.len() + before.len();
            }
        }
    }

    pub(crate) fn growth(&self, marks: &[Mark]) -> Growth {
        let mut growth = Growth::default();
        for (key, value) in marks.iter().filter_map(|m| Some((&m.key, m.value.as_ref()?))) {
            match self.values.get(key) {
                Some(before) => growth.bytes += value.len().saturating_sub(before.len()),
                None => {
                    growth.keys += 1;
                    growth.bytes += key.len() + value.len();
                }
            }
        }
        growth
    }

    /// Is there room for this on top of what holds?
    pub(crate) fn has_room(&self, growth: Growth, max_bytes: usize) -> bool {
        self.values.len() + growth.keys <= MAX_MARKS && self.bytes + growth.bytes <= max_bytes
    }

    pub(crate) const fn values(&self) -> &BTreeMap<Bytes, Bytes> {
        &self.values
    }

    pub(crate) fn list(&self) -> Vec<Mark> {
        let mark = |(key, value): (&Bytes, &Bytes)| Mark { key: key.clone(), value: Some(value.clone()) };
        self.values.iter().map(mark).collect()
    }
}

/// May these be written at all?
pub(crate) fn are_small(marks: &[Mark]) -> bool {
    let is_small = |m: &Mark| m.key.len() <= MAX_MARK && m.value.as_ref().is_none_or(|v| v.len() <= MAX_MARK);
    marks.len() <= MAX_MARKS
        && marks.iter().all(is_small)
        && marks.iter().map(size).sum::<usize>() <= MAX_MARK_BYTES
}

fn size(mark: &Mark) -> usize {
    mark.key.len() + mark.value.as_ref().map_or(0, Bytes::len)
}

pub(crate) fn encode(marks: &[Mark], to: &mut Vec<u8>) {
    put_u32(to, u32::try_from(marks.len()).expect("their number is bounded"));
    for mark in marks {
        let value = mark.value.as_deref().unwrap_or_default();
        to.push(if mark.value.is_some() { SET } else { FORGET });
        put_u16(to, u16::try_from(mark.key.len()).expect("a key is bounded by MAX_MARK"));
        put_u32(to, u32::try_from(value.len()).expect("a value is bounded by MAX_MARK"));
        to.extend_from_slice(&mark.key);
        to.extend_from_slice(value);
    }
}

pub(crate) fn decode(input: &mut Input<'_>) -> Option<Vec<Mark>> {
    let mut marks = Vec::new();
    for _ in 0..input.u32()? {
        let (what, key_len, value_len) = (input.u8()?, input.u16()?, input.u32()?);
        let key = input.bytes(key_len.into())?;
        let value = input.bytes(usize::try_from(value_len).ok()?)?;
        let value = match what {
            SET => Some(value),
            FORGET => None,
            _ => return None,
        };
        marks.push(Mark { key, value });
    }
    Some(marks)
}

/// Marks and nothing else. No bytes are no marks.
pub(crate) fn decode_all(bytes: &[u8]) -> Option<Vec<Mark>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut input = Input::new(bytes);
    decode(&mut input).filter(|_| input.is_empty())
}
