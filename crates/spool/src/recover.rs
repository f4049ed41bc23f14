//! From what stands in the folder to the state, at a start.
//!
//! Changes nothing but the tail of the last segment: cuts it where it is torn, and notes that it is durable. Invariants: only the last segment is read, unless its head cannot be;
//! damage is counted and never an error; an I/O error changes nothing; the one refusal is a newer format.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use thiserror::Error;

use crate::block::Mark;
use crate::files::{Entry, File, Files, is_media, write_all};
use crate::frame::{HEAD, Header, Kind, SegmentId, VERSION, version};
use crate::marks;
use crate::options::{Durability, Unreadable};
use crate::quarantine::Quarantine;
use crate::state::{Counts, Finish, State, Why, decode_finished};
use crate::walk::{Item, Walk};

/// Why a spool cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder cannot be read. Nothing was changed: try again.
    #[error("cannot read the spool: {0}")]
    Io(#[from] io::Error),
    /// One of its files cannot be read, or not be put aside. Nothing was changed: try again.
    #[error(
        "cannot use {segment} of the spool: {error}; it was left as it is, and whoever runs this must be able to read and write it"
    )]
    Segment {
        /// Its name.
        segment: String,
        /// Why.
        error: io::Error,
    },
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
    /// The blocks among that whose heads survived.
    pub torn: Counts,
    /// What was found damaged at this start.
    pub damaged: Counts,
    /// Bytes of that.
    pub damaged_bytes: u64,
    /// Segments that should be there and are not.
    pub missing_segments: usize,
    /// Segments whose head could not be read, although they had been begun for good.
    pub headless_segments: usize,
    /// Segments that the device did not even open: they are in quarantine now, and their bytes are damaged ones.
    pub unreadable_segments: usize,
}

impl Recovered {
    /// Is something of note damaged?
    pub const fn is_damaged(&self) -> bool {
        self.damaged_bytes > 0
            || self.missing_segments > 0
            || self.headless_segments > 0
            || self.unreadable_segments > 0
    }
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
    durability: Durability,
    unreadable: Unreadable,
) -> Result<Start, OpenError> {
    let mut found: Vec<(SegmentId, u64)> =
        files.list(None)?.iter().filter_map(|e| Some((SegmentId::from_name(&e.name)?, e.len))).collect();
    found.sort_unstable();
    let recovered = Recovered { segments: found.len(), ..Recovered::default() };
    let next_id = found.iter().map(|(id, _)| id.id + 1).max().unwrap_or(1);
    let accept_unreadable = unreadable == Unreadable::GiveUp;
    let Base { index, state, mut unread } = base(files, &found, accept_unreadable)?;
    let is_new = found.is_empty();
    let mut job = Recovery { files, quarantine, accept_unreadable, durability, state, recovered };
    let damaged_before = job.state.totals;
    let from = index.unwrap_or(0);
    for (at, (id, _)) in found.iter().enumerate().skip(from) {
        if index != Some(at) {
            job.state.lost(id.first);
            job.state.begin(*id);
        }
        if unread.contains(id) {
            job.state.totals.damaged_bytes += found[at].1;
            job.recovered.unreadable_segments += 1;
            continue;
        }
        let read = job.replay(*id, found.get(at + 1).map(|(next, _)| next.first));
        let read = read.map_err(|error| of_segment(*id, error))?;
        job.recovered.headless_segments += usize::from(index != Some(at) && read.counts);
        if read.is_unreadable {
            unread.insert(*id);
        }
    }
    // Of a folder without segments too: one that was removed and comes back in a crash would have an id that was given anew.
    if durability == Durability::Fsync {
        files.sync_folder()?;
    }
    let known = found.iter().take(from);
    known.for_each(|(id, len)| job.set_len(*id, *len));
    job.find_missing(&found);
    if is_new {
        job.state.next = 1;
    }
    job.state.segments.retain(|segment| segment.left.blocks > 0);
    let kept: BTreeSet<SegmentId> = job.state.segments.iter().map(|segment| segment.id).collect();
    let (aside, leftovers): (Vec<_>, Vec<_>) =
        found.iter().filter(|(id, _)| !kept.contains(id)).partition(|(id, _)| unread.contains(id));
    job.put_aside(&aside)?;
    let leftovers = leftovers.into_iter().map(|(id, len)| Entry { name: id.name(), len: *len }).collect();
    let totals = &job.state.totals;
    job.recovered.damaged = totals.damaged.minus(damaged_before.damaged);
    job.recovered.damaged_bytes = totals.damaged_bytes - damaged_before.damaged_bytes;
    Ok(Start { state: job.state, next_id, recovered: job.recovered, leftovers })
}

fn of_segment(id: SegmentId, error: io::Error) -> OpenError {
    OpenError::Segment { segment: id.name(), error }
}

/// Where reading begins.
#[derive(Default)]
struct Base {
    /// The newest segment that begins with a checkpoint; `None`: none does.
    index: Option<usize>,
    /// What it says.
    state: State,
    /// Newer ones that the device does not even open.
    unread: BTreeSet<SegmentId>,
}

fn base(files: &dyn Files, found: &[(SegmentId, u64)], accept_unreadable: bool) -> Result<Base, OpenError> {
    let mut base = Base::default();
    for (index, (id, _)) in found.iter().enumerate().rev() {
        let is_given_up = |error: &io::Error| accept_unreadable && is_media(error);
        let file = match files.open(&id.name()) {
            Ok(file) => file,
            Err(error) if is_given_up(&error) => {
                base.unread.insert(*id);
                continue;
            }
            Err(error) => return Err(of_segment(*id, error)),
        };
        let mut head = [0; HEAD];
        let is_read = match crate::files::read_exact(&*file, &mut head, 0) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || is_given_up(&error) => false,
            Err(error) => return Err(of_segment(*id, error)),
        };
        if let Some(found) = version(&head).filter(|found| is_read && *found > VERSION) {
            return Err(OpenError::Newer { segment: id.name(), found });
        }
        let state =
            first_checkpoint(&*file, *id, accept_unreadable).map_err(|error| of_segment(*id, error))?;
        if let Some(state) = state {
            return Ok(Base { index: Some(index), state, ..base });
        }
    }
    Ok(base)
}

fn first_checkpoint(file: &dyn File, id: SegmentId, accept_unreadable: bool) -> io::Result<Option<State>> {
    let mut walk = Walk::new(file, id.salt, HEAD as u64, true, accept_unreadable)?;
    let first = walk.next()?;
    let is_checkpoint = matches!(first, Some((_, Item::Record(Header { kind: Kind::Checkpoint, .. }))));
    Ok(is_checkpoint.then(|| State::decode(walk.body(), id)).flatten())
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

/// What came of a segment.
struct Read {
    /// Does what its beginning said matter: was it begun for good, and not only for what stands elsewhere?
    counts: bool,
    /// The device did not give back all of it.
    is_unreadable: bool,
}

impl Recovery<'_> {
    /// Takes in the records of the last segment of the state. `limit` is where the next segment begins.
    fn replay(&mut self, id: SegmentId, limit: Option<u64>) -> io::Result<Read> {
        let file = self.files.open(&id.name())?;
        let mut walk = Walk::new(&*file, id.salt, HEAD as u64, true, self.accept_unreadable)?;
        let (mut said, mut synced, mut next, mut end) = (Vec::new(), 0, 0, 0);
        while let Some((range, item)) = walk.next()? {
            let header = match &item {
                Item::Record(header) | Item::Bad(Some(header)) => Some(header),
                Item::Bad(None) => None,
            };
            synced = header.map_or(synced, |header| synced.max(header.synced.into()));
            if header.is_none_or(|header| header.kind != Kind::Synced) {
                end = range.end;
            }
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
        let is_unreadable = walk.is_unreadable(&(0..len));
        // Who is interrupted in writing leaves no place that the device cannot read: that is damage, wherever it is.
        let is_torn = |(range, _, what): &(Range<u64>, u64, Said)| {
            matches!(what, Said::Bad(_)) && range.start >= synced && !walk.is_unreadable(range)
        };
        let cut = if limit.is_none() { said.iter().position(is_torn) } else { None };
        let mut kept = len;
        let mut counts = !said.is_empty() && limit.is_none_or(|limit| self.state.next < limit);
        if let Some(index) = cut {
            let end = said[index].0.start;
            counts = end > HEAD as u64;
            self.torn(&said[index..]);
            said.truncate(index);
            next = 0;
            self.recovered.torn_bytes += len - end;
            kept = end;
        }
        // What stays because this fails does not count: the next segment begins before it. Where nothing is cut, room that
        // was allocated behind the end comes free.
        let is_cut = limit.is_none() && file.truncate(kept).is_ok();
        if limit.is_none() && !is_cut {
            kept = len;
        }
        let is_synced = self.sync(&*file)?;
        let vouches = is_cut && is_synced && !is_unreadable && end.min(kept) > synced.max(HEAD as u64);
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
        // If it fails, what is durable is so all the same; half of a record is a torn tail.
        if vouches && self.vouch(&*file, id, kept).is_ok() {
            kept += HEAD as u64;
        }
        self.set_len(id, kept);
        Ok(Read { counts, is_unreadable })
    }

    /// Says whether it is durable; not if the device refuses, and that is accepted.
    fn sync(&self, file: &dyn File) -> io::Result<bool> {
        let result = if self.durability == Durability::Fsync { file.sync() } else { Ok(()) };
        match result {
            Err(error) if self.accept_unreadable && is_media(&error) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Notes at its end that the segment is durable, as a commit does. Callers act on what a start tells them, so damage to
    /// that is no torn tail at the next start, which may come before any commit.
    fn vouch(&self, file: &dyn File, id: SegmentId, end: u64) -> io::Result<()> {
        let synced = u32::try_from(end).map_err(io::Error::other)?;
        let header = Header { synced, ..Header::plain(Kind::Synced, self.state.next, b"") };
        write_all(file, &header.encode(id.salt, end), end)?;
        self.sync(file).map(|_| ())
    }

    /// Notes what is cut off.
    fn torn(&mut self, said: &[(Range<u64>, u64, Said)]) {
        for (_, _, what) in said {
            if let Said::Block(header, _) | Said::Bad(Some(header)) = what
                && header.kind == Kind::Block
            {
                self.recovered.torn += Counts::of(header);
            }
        }
    }

    /// Segments that were not read, or not as a whole, are not removed: somebody may get them back from the device.
    fn put_aside(&mut self, segments: &[&(SegmentId, u64)]) -> Result<(), OpenError> {
        for (id, len) in segments {
            self.quarantine.take_over(self.files, *id, *len).map_err(|error| of_segment(*id, error))?;
        }
        if !segments.is_empty() && self.durability == Durability::Fsync {
            // If they come back in a crash, nobody knows that they were never read. More cannot be done about it.
            let _as_good_as_it_gets = self.files.sync_folder();
        }
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
