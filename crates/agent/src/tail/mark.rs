//! What is remembered of a file in the spool, byte by byte. Two marks for each generation: one for who it
//! is, which seldom changes, and a small one for how far it was read, which comes with every block. The
//! third kind says that there was a first start.
//!
//! ```text
//! key    "tail/i" generation u64        value  1, age u64, dev u64, ino u64, born u64, base u64,
//!                                              absent_since u64 (ms since 1970, 0: there), flags u8,
//!                                              section u32, prefix (u32 + bytes), path, lineage
//!        "tail/o" generation u64               1, offset u64, flags u8, tail_len u16, tail_crc u32
//!        "tail/s"                              1
//! flags of i: 1 compressed, 2 nothing in it is to be read, 4 its inode was overwritten, 8 read to its end
//! lineage    empty: the same as path
//! flags of o: 1 inside a line that was cut
//! ```
//!
//! All numbers are little-endian. The first byte of a value is its version. A mark that cannot be read is
//! ignored, and its file is read again from the beginning: never the other way round.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pikepole_spool::Mark;

use super::identity::{Beginning, FileId, Position, Tail};

const VERSION: u8 = 1;
const STARTED: &[u8] = b"tail/s";
const IDENTITY: &[u8] = b"tail/i";
const OFFSET: &[u8] = b"tail/o";
const FLAG_GZ: u8 = 1;
const FLAG_IGNORED: u8 = 2;
const FLAG_OVERWRITTEN: u8 = 4;
const FLAG_FINISHED: u8 = 8;
const FLAG_SKIPPING: u8 = 1;
/// Both marks of a generation, but for the bytes of its beginning and its names.
pub(super) const SIZE: usize = 128;

/// Who a generation is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Identity {
    /// Grows with each generation that is found.
    pub(super) age: u64,
    pub(super) id: FileId,
    pub(super) beginning: Beginning,
    /// Milliseconds since 1970 since when it is nowhere; 0: it is there.
    pub(super) absent_since: u64,
    pub(super) is_gz: bool,
    pub(super) is_ignored: bool,
    pub(super) is_overwritten: bool,
    pub(super) is_finished: bool,
    pub(super) section: u32,
    pub(super) path: PathBuf,
    pub(super) lineage: PathBuf,
}

/// What was remembered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    /// Whether there was a start before.
    pub(super) has_started: bool,
    pub(super) generations: BTreeMap<u64, (Identity, Position)>,
}

/// Reads all marks that are ours.
pub(super) fn read(marks: &BTreeMap<Bytes, Bytes>) -> Remembered {
    let mut found = Remembered { has_started: marks.contains_key(STARTED), ..Remembered::default() };
    for (key, value) in marks {
        let Some(generation) = generation(key, IDENTITY) else { continue };
        let Some(identity) = read_identity(value) else {
            tracing::warn!(generation, "a mark of a tailed file cannot be read; the file is read again");
            continue;
        };
        let position = marks.get(&offset_key(generation)).and_then(|value| read_position(value));
        found.generations.insert(generation, (identity, position.unwrap_or_default()));
    }
    found
}

/// There was a first start.
pub(super) fn started() -> Mark {
    Mark { key: Bytes::from_static(STARTED), value: Some(Bytes::from_static(&[VERSION])) }
}

/// Who it is.
pub(super) fn identity(generation: u64, identity: &Identity) -> Mark {
    let Identity { age, id, beginning, absent_since, is_gz, is_ignored, is_overwritten, .. } = identity;
    let mut v = vec![VERSION];
    for number in [*age, id.dev, id.ino, id.born, beginning.base, *absent_since] {
        v.extend_from_slice(&number.to_le_bytes());
    }
    let flags = [
        (*is_gz, FLAG_GZ),
        (*is_ignored, FLAG_IGNORED),
        (*is_overwritten, FLAG_OVERWRITTEN),
        (identity.is_finished, FLAG_FINISHED),
    ];
    v.push(flags.iter().filter(|(is_set, _)| *is_set).fold(0, |flags, (_, flag)| flags | flag));
    v.extend_from_slice(&identity.section.to_le_bytes());
    let path = identity.path.as_os_str().as_bytes();
    let lineage =
        if identity.lineage == identity.path { &[] } else { identity.lineage.as_os_str().as_bytes() };
    for bytes in [&beginning.bytes, path, lineage] {
        v.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        v.extend_from_slice(bytes);
    }
    Mark { key: key(IDENTITY, generation), value: Some(v.into()) }
}

/// How far it was read.
pub(super) fn position(generation: u64, position: &Position) -> Mark {
    let mut v = Vec::with_capacity(16);
    v.push(VERSION);
    v.extend_from_slice(&position.offset.to_le_bytes());
    v.push(if position.is_skipping { FLAG_SKIPPING } else { 0 });
    v.extend_from_slice(&position.tail.len.to_le_bytes());
    v.extend_from_slice(&position.tail.crc.to_le_bytes());
    Mark { key: offset_key(generation), value: Some(v.into()) }
}

/// Forgets it.
pub(super) fn forget(generation: u64) -> [Mark; 2] {
    [key(IDENTITY, generation), offset_key(generation)].map(|key| Mark { key, value: None })
}

fn key(kind: &[u8], generation: u64) -> Bytes {
    [kind, &generation.to_le_bytes()].concat().into()
}

fn offset_key(generation: u64) -> Bytes {
    key(OFFSET, generation)
}

fn generation(key: &[u8], kind: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(key.strip_prefix(kind)?.try_into().ok()?))
}

fn read_identity(value: &[u8]) -> Option<Identity> {
    let mut rest = value.strip_prefix(&[VERSION])?;
    let [age, dev, ino, born, base, absent_since] = {
        let mut numbers = [0_u64; 6];
        for number in &mut numbers {
            *number = u64::from_le_bytes(take(&mut rest)?);
        }
        numbers
    };
    let [flags] = take(&mut rest)?;
    let section = u32::from_le_bytes(take(&mut rest)?);
    let bytes = take_bytes(&mut rest)?.to_vec();
    let path = path(take_bytes(&mut rest)?);
    let lineage = path_or(take_bytes(&mut rest)?, &path);
    Some(Identity {
        age,
        id: FileId { dev, ino, born },
        beginning: Beginning { base, bytes },
        absent_since,
        is_gz: flags & FLAG_GZ != 0,
        is_ignored: flags & FLAG_IGNORED != 0,
        is_overwritten: flags & FLAG_OVERWRITTEN != 0,
        is_finished: flags & FLAG_FINISHED != 0,
        section,
        path,
        lineage,
    })
}

fn read_position(value: &[u8]) -> Option<Position> {
    let mut rest = value.strip_prefix(&[VERSION])?;
    let offset = u64::from_le_bytes(take(&mut rest)?);
    let [flags] = take(&mut rest)?;
    let len = u16::from_le_bytes(take(&mut rest)?);
    let crc = u32::from_le_bytes(take(&mut rest)?);
    Some(Position { offset, is_skipping: flags & FLAG_SKIPPING != 0, tail: Tail { len, crc } })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

fn path_or(bytes: &[u8], other: &Path) -> PathBuf {
    if bytes.is_empty() { other.into() } else { path(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(marks: impl IntoIterator<Item = Mark>) -> BTreeMap<Bytes, Bytes> {
        marks.into_iter().filter_map(|mark| Some((mark.key, mark.value?))).collect()
    }

    fn sample() -> (Identity, Position) {
        let identity = Identity {
            age: 7,
            id: FileId { dev: 1, ino: 2, born: 3 },
            beginning: Beginning { base: 4, bytes: b"GET /".to_vec() },
            absent_since: 5,
            is_gz: true,
            is_ignored: false,
            is_overwritten: true,
            is_finished: true,
            section: 6,
            path: "/var/log/a.log.1".into(),
            lineage: "/var/log/a.log".into(),
        };
        let tail = Tail::of(b"the end");
        (identity, Position { offset: 99, is_skipping: true, tail })
    }

    #[test]
    fn what_was_remembered_is_read_again() {
        let (who, how_far) = sample();
        let mut marks = map([started(), identity(8, &who), position(8, &how_far), identity(9, &who)]);
        let found = read(&marks);
        assert!(found.has_started);
        assert_eq!(found.generations[&8], (who.clone(), how_far));
        assert_eq!(found.generations[&9], (who, Position::default()), "nothing of it was durable");
        for mark in forget(8) {
            marks.remove(&mark.key);
        }
        assert_eq!(read(&marks).generations.len(), 1);
    }

    #[test]
    fn a_name_that_is_the_same_is_there_once() {
        let (mut who, _) = sample();
        let with_both = identity(8, &who).value.unwrap().len();
        let len = who.lineage.as_os_str().len();
        who.lineage.clone_from(&who.path);
        let mark = identity(8, &who);
        assert_eq!(mark.value.as_ref().unwrap().len(), with_both - len);
        assert_eq!(read(&map([mark])).generations[&8].0, who);
    }

    #[test]
    fn a_mark_that_is_damaged_or_of_a_later_version_is_ignored() {
        let (who, how_far) = sample();
        let (i, o) = (identity(8, &who), position(8, &how_far));
        let whole = i.value.clone().unwrap();
        for len in 0..whole.len() - who.lineage.as_os_str().len() {
            let short = Mark { key: i.key.clone(), value: Some(whole.slice(..len)) };
            assert!(read(&map([short, o.clone()])).generations.is_empty(), "{len}");
        }
        let mut later = o.value.clone().unwrap().to_vec();
        later[0] = 2;
        let later = Mark { key: o.key, value: Some(later.into()) };
        assert_eq!(read(&map([i, later])).generations[&8].1, Position::default());
    }
}
