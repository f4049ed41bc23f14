//! From what stands in the folder to the state, at a start.
//!
//! Changes nothing but a torn tail, which it cuts. Invariants: only the last segment is read, unless its head cannot be;
//! damage is counted and never an error; an I/O error changes nothing; the one refusal is a newer format.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use thiserror::Error;

use crate::block::Mark;
use crate::files::{Entry, Files};
use crate::frame::{HEAD, Header, Kind, SegmentId, VERSION, version};
use crate::marks;
use crate::options::{Durability, Options};
use crate::quarantine::Quarantine;
use crate::state::{Counts, Finish, State, Why, decode_finished};
use crate::walk::{Item, Walk};

/// Why a spool cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder cannot be read. Nothing was changed: try again.
    #[error("cannot read the spool: {0}")]
    Io(#[from] io::Error),
    /// Written by a newer version.
    #[error(
        "{segment} has version {found} of the spool's format, and this program knows versions up to {VERSION}: \
         run the program that wrote it, or a newer one"
    )]
    Newer {
        /// Its name.
        segment: String,
        /// Its version.
        found: u32,
    },
}

/// What was found at a start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments that were there.
    pub segments: usize,
    /// Bytes of what was being written when it stopped. They were nobody's yet.
    pub torn_bytes: u64,
    /// What was found damaged at this start.
    pub damaged: Counts,
    /// Bytes of that.
    pub damaged_bytes: u64,
    /// Segments that should be there and are not.
    pub missing_segments: usize,
    /// Segments whose head could not be read.
    pub headless_segments: usize,
}

/// What a start begins with.
pub(crate) struct Start {
    pub(crate) state: State,
    pub(crate) next_id: u64,
    pub(crate) recovered: Recovered,
    /// Files that nothing is left of. They may go when the next checkpoint is durable.
    pub(crate) leftovers: Vec<Entry>,
}

/// Reads the folder. What it finds is durable when it returns: who is told of a mark goes on behind it.
pub(crate) fn recover(
    files: &dyn Files,
    quarantine: &mut Quarantine,
    options: &Options,
) -> Result<Start, OpenError> {
    let accept_unreadable = options.accept_unreadable;
    let durability = options.durability;
    let mut found: Vec<(SegmentId, u64)> =
        files.list(None)?.iter().filter_map(|e| Some((SegmentId::from_name(&e.name)?, e.len))).collect();
    found.sort_unstable();
    let recovered = Recovered { segments: found.len(), ..Recovered::default() };
    let next_id = found.iter().map(|(id, _)| id.id + 1).max().unwrap_or(1);
    let (base, state) = base(files, &found, accept_unreadable)?;
    let is_new = found.is_empty();
    let mut job = Recovery { files, quarantine, accept_unreadable, durability, state, recovered };
    job.recovered.headless_segments = found.len() - base.map_or(0, |index| index + 1);
    let damaged_before = job.state.totals;
    let from = base.unwrap_or(0);
    for (index, (id, _)) in found.iter().enumerate().skip(from) {
        if base != Some(index) {
            job.state.lost(id.first);
            job.state.begin(*id);
        }
        job.replay(*id, found.get(index + 1).map(|(next, _)| next.first))?;
    }
    if durability == Durability::Fsync && !is_new {
        files.sync_folder()?;
    }
    let known = found.iter().take(from);
    known.for_each(|(id, len)| job.set_len(*id, *len));
    job.find_missing(&found);
    if is_new {
        job.state.next = 1;
    }
    let totals = &job.state.totals;
    job.recovered.damaged = totals.damaged.minus(damaged_before.damaged);
    job.recovered.damaged_bytes = totals.damaged_bytes - damaged_before.damaged_bytes;
    job.state.segments.retain(|segment| segment.left.blocks > 0);
    let kept: BTreeSet<SegmentId> = job.state.segments.iter().map(|segment| segment.id).collect();
    let leftovers = found.iter().filter(|(id, _)| !kept.contains(id));
    let leftovers = leftovers.map(|(id, len)| Entry { name: id.name(), len: *len }).collect();
    Ok(Start { state: job.state, next_id, recovered: job.recovered, leftovers })
}

/// The newest segment that begins with a checkpoint, and that.
fn base(
    files: &dyn Files,
    found: &[(SegmentId, u64)],
    accept_unreadable: bool,
) -> Result<(Option<usize>, State), OpenError> {
    for (index, (id, _)) in found.iter().enumerate().rev() {
        let file = match files.open(&id.name()) {
            Ok(file) => file,
            Err(_) if accept_unreadable => continue,
            Err(error) => return Err(error.into()),
        };
        let mut head = [0; HEAD];
        let is_read = match crate::files::read_exact(&*file, &mut head, 0) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || accept_unreadable => false,
            Err(error) => return Err(error.into()),
        };
        if let Some(found) = version(&head).filter(|found| is_read && *found > VERSION) {
            return Err(OpenError::Newer { segment: id.name(), found });
        }
        let mut walk = Walk::new(&*file, id.salt, HEAD as u64, true, accept_unreadable)?;
        if let Some((_, Item::Record(Header { kind: Kind::Checkpoint, .. }))) = walk.next()?
            && let Some(state) = State::decode(walk.body(), *id)
        {
            return Ok((Some(index), state));
        }
    }
    Ok((None, State::default()))
}

/// What a record says.
enum Said {
    Block(Header, Vec<Mark>),
    Finished(Vec<Finish>),
    Marks(Vec<Mark>),
    Nothing,
    Bad(Option<Header>),
}

struct Recovery<'a> {
    files: &'a dyn Files,
    quarantine: &'a mut Quarantine,
    accept_unreadable: bool,
    durability: Durability,
    state: State,
    recovered: Recovered,
}

impl Recovery<'_> {
    /// Takes in the records of the last segment of the state. `limit` is where the next segment begins.
    fn replay(&mut self, id: SegmentId, limit: Option<u64>) -> Result<(), OpenError> {
        let file = match self.files.open(&id.name()) {
            Ok(file) => file,
            Err(_) if self.accept_unreadable => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut walk = Walk::new(&*file, id.salt, HEAD as u64, true, self.accept_unreadable)?;
        let (mut said, mut synced, mut next) = (Vec::new(), 0, 0);
        while let Some((range, item)) = walk.next()? {
            let header = match &item {
                Item::Record(header) | Item::Bad(Some(header)) => Some(header),
                Item::Bad(None) => None,
            };
            synced = header.map_or(synced, |header| synced.max(header.synced.into()));
            // Of records that say nothing else only the last seq counts.
            match meaning(item, walk.body()) {
                (Said::Nothing, seq) => next = next.max(seq),
                (what, seq) => {
                    said.push((range, next.max(seq), what));
                    next = 0;
                }
            }
        }
        let len = walk.len();
        let is_torn = |(range, _, what): &(Range<u64>, u64, Said)| {
            matches!(what, Said::Bad(_)) && range.start >= synced
        };
        let cut = if limit.is_none() { said.iter().position(is_torn) } else { None };
        let mut kept = len;
        if let Some(index) = cut {
            let end = said[index].0.start;
            said.truncate(index);
            next = 0;
            self.recovered.torn_bytes += len - end;
            // What stays because this fails does not count: the next segment begins before it.
            kept = if file.truncate(end).is_ok() { end } else { len };
        }
        if self.durability == Durability::Fsync
            && let Err(error) = file.sync()
            && !self.accept_unreadable
        {
            return Err(error.into());
        }
        let limit = limit.unwrap_or(u64::MAX);
        for (range, seq, what) in said {
            let is_wanted = self.state.next < limit || range.start < synced;
            self.apply(&what, seq, limit);
            if let (Said::Bad(_), true) = (&what, is_wanted) {
                self.state.totals.damaged_bytes += range.end - range.start;
                self.quarantine.keep(self.files, id, &*file, range.start, range.end - range.start);
            }
        }
        if next <= limit {
            self.state.lost(next);
        }
        self.set_len(id, kept);
        Ok(())
    }

    fn apply(&mut self, what: &Said, next: u64, limit: u64) {
        if next <= limit {
            self.state.lost(next);
        }
        match what {
            Said::Block(header, marks) if header.seq < limit => self.state.block(header, marks),
            Said::Finished(entries) => entries.iter().for_each(|entry| {
                self.state.finish(entry);
            }),
            Said::Marks(marks) if next <= limit => self.state.marks.apply(marks),
            Said::Bad(Some(header)) if header.kind == Kind::Block && header.seq < limit => {
                let before = self.state.next;
                self.state.block(header, &[]);
                if self.state.next == header.seq + 1 && before <= header.seq {
                    let seqs = header.seq..=header.seq;
                    self.state.finish(&Finish {
                        why: Why::Damaged,
                        seqs,
                        counts: Counts::of(header),
                        bytes: 0,
                    });
                }
            }
            _ => {}
        }
    }

    fn set_len(&mut self, id: SegmentId, len: u64) {
        if let Some(segment) = self.state.segments.iter_mut().find(|segment| segment.id == id) {
            segment.len = len;
        }
    }

    /// What was left of segments that are not there is lost.
    fn find_missing(&mut self, found: &[(SegmentId, u64)]) {
        for index in 0..self.state.segments.len() {
            let id = self.state.segments[index].id;
            let is_there = found.binary_search_by_key(&id, |(there, _)| *there).is_ok();
            if let (false, Some(rest)) = (is_there, self.state.rest_of(index, Why::Damaged)) {
                self.recovered.missing_segments += 1;
                self.state.finish(&Finish { bytes: self.state.segments[index].len, ..rest });
            }
        }
    }
}

/// What a record says, and a seq that was not there yet when it was written.
fn meaning(item: Item, body: &[u8]) -> (Said, u64) {
    let Item::Record(header) = item else {
        let Item::Bad(header) = item else { return (Said::Nothing, 0) };
        return (Said::Bad(header), 0);
    };
    let said = match header.kind {
        Kind::Block => {
            let marks = body.get(..header.marks_len as usize).and_then(marks::decode_all);
            return (marks.map_or(Said::Bad(Some(header)), |marks| Said::Block(header, marks)), 0);
        }
        Kind::Finished => decode_finished(body).map(Said::Finished),
        Kind::Marks => marks::decode_all(body).map(Said::Marks),
        Kind::Checkpoint | Kind::Synced => Some(Said::Nothing),
    };
    (said.unwrap_or(Said::Bad(Some(header))), header.seq)
}
