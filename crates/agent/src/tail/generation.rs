//! One generation of a file: from its first byte until it is truncated, rewritten or forgotten, under
//! whatever names.
//!
//! Not the file: it may have none at the moment.
//!
//! Invariants: `durable` is never ahead of what the spool has for good, and `position` never behind it. The
//! file is read only while the bytes before the position are known to be those that were read.

use std::path::{Path, PathBuf};

use pikepole_fleet::Timestamp;
use pikepole_spool::Mark;
use tokio::time::Instant;

use super::file::{Filled, Source, Stat, stat_file};
use super::identity::{Beginning, FileId, Look, Lost, Position, TAIL, Tail};
use super::list::Found;
use super::mark::{self, Identity};

/// Where reading stopped for want of bytes.
type End = (u64, i128);

/// Longer than a tick of any kernel.
const RACY_NANOS: i128 = 50_000_000;

/// A generation.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) id: u64,
    pub(super) section: usize,
    /// Grows with each that is found; the oldest of a lineage is read first.
    pub(super) age: u64,
    pub(super) place: FileId,
    pub(super) path: PathBuf,
    /// The name it had while it was written.
    pub(super) lineage: PathBuf,
    pub(super) is_gz: bool,
    /// Where its name, if it is a link, leads.
    pub(super) target: Option<PathBuf>,
    /// Nothing in it is to be read.
    pub(super) is_ignored: bool,
    /// Its inode holds something else.
    pub(super) is_overwritten: bool,
    pub(super) absent_since: Option<Timestamp>,
    pub(super) beginning: Beginning,
    pub(super) position: Position,
    pub(super) durable: Position,
    /// Whether its identity has changed since it was last given to the spool.
    pub(super) is_dirty: bool,
    /// Whether the spool knows it at all.
    pub(super) is_remembered: bool,
    pub(super) source: Option<Source>,
    /// The bytes before the position; `None`: not compared yet.
    before: Option<Vec<u8>>,
    /// As the last look at it was.
    pub(super) size: u64,
    pub(super) modified: i128,
    pub(super) allocated: u64,
    pub(super) links: u32,
    /// Its size and time when its content was last compared.
    compared: Option<End>,
    /// It was written so shortly before it was read that its time could be the same after a change.
    is_racy: bool,
    /// Its size and time when there was nothing more to read.
    pub(super) end: Option<End>,
    pub(super) grew_at: Instant,
    /// Whether the last scan saw it.
    pub(super) is_listed: bool,
    /// It can be read no more: rotated, quiet, and read to its end.
    pub(super) is_finished: bool,
    pub(super) retry_at: Option<Instant>,
    /// The last try to read it failed.
    pub(super) is_failing: bool,
}

impl Generation {
    /// One that was just found.
    pub(super) fn new(id: u64, age: u64, section: usize, place: FileId, path: PathBuf, now: Instant) -> Self {
        Self {
            id,
            section,
            age,
            place,
            lineage: path.clone(),
            path,
            is_gz: false,
            target: None,
            is_ignored: false,
            is_overwritten: false,
            absent_since: None,
            beginning: Beginning::default(),
            position: Position::default(),
            durable: Position::default(),
            is_dirty: true,
            is_remembered: false,
            source: None,
            before: Some(Vec::new()),
            size: 0,
            modified: 0,
            allocated: 0,
            links: 1,
            compared: None,
            is_racy: false,
            end: None,
            grew_at: now,
            is_listed: true,
            is_finished: false,
            retry_at: None,
            is_failing: false,
        }
    }

    /// One that the spool remembers.
    pub(super) fn remembered(id: u64, identity: Identity, position: Position, now: Instant) -> Self {
        let section = usize::try_from(identity.section).unwrap_or(usize::MAX);
        let mut generation = Self::new(id, identity.age, section, identity.id, identity.path, now);
        let absent = identity.absent_since;
        generation.lineage = identity.lineage;
        generation.is_gz = identity.is_gz;
        generation.is_ignored = identity.is_ignored;
        generation.is_overwritten = identity.is_overwritten;
        generation.absent_since = (absent > 0).then(|| Timestamp::from_millis(absent));
        generation.beginning = identity.beginning;
        generation.beginning.shrink(position.offset);
        generation.position = position;
        generation.durable = position;
        generation.is_finished = identity.is_finished;
        generation.is_dirty = false;
        generation.is_remembered = true;
        generation.before = None;
        generation.is_listed = false;
        generation
    }

    /// What the spool is to remember.
    pub(super) fn identity_mark(&self) -> Mark {
        let identity = Identity {
            age: self.age,
            id: self.place,
            beginning: self.beginning.clone(),
            absent_since: self.absent_since.map_or(0, Timestamp::as_millis),
            is_gz: self.is_gz,
            is_ignored: self.is_ignored,
            is_overwritten: self.is_overwritten,
            is_finished: self.is_finished,
            section: u32::try_from(self.section).unwrap_or(u32::MAX),
            path: self.path.clone(),
            lineage: self.lineage.clone(),
        };
        mark::identity(self.id, &identity)
    }

    /// About what it takes in the spool.
    pub(super) fn mark_bytes(&self) -> usize {
        mark::SIZE + self.beginning.bytes.len() + self.path.as_os_str().len() + self.lineage.as_os_str().len()
    }

    /// Why it has no place; `None`: it has one.
    pub(super) fn lost(&self) -> Option<Lost> {
        match self.is_listed || self.source.is_some() {
            _ if self.is_overwritten => Some(Lost::Overwritten),
            true => None,
            false => Some(Lost::Missing),
        }
    }

    /// Whether it is one that is written, as far as its name tells.
    pub(super) fn is_live(&self) -> bool {
        self.is_listed && self.path == self.lineage && !self.is_overwritten
    }

    /// Whether everything of it is in the spool for good.
    pub(super) fn is_durable(&self) -> bool {
        self.durable == self.position
    }

    /// Whether there may be something to read.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let can_read = !(self.is_ignored || self.is_overwritten || self.is_gz && self.is_finished);
        let is_there = self.source.is_some() || self.is_listed;
        let is_waiting = self.retry_at.is_some_and(|at| now < at);
        can_read && is_there && !is_waiting && self.end != Some((self.size, self.modified))
    }

    /// Whether a file that has its inode may be another one all the same: the file system does not tell when
    /// it was born, and it was not open, so that its number was free as soon as it was deleted.
    pub(super) fn is_doubtful(&self, found: &Found) -> bool {
        let is_unborn = found.stat.id.born == 0 || self.place.born == 0;
        let has_changed = (self.size, self.modified) != (found.stat.size, found.stat.modified);
        is_unborn && self.source.is_none() && has_changed
    }

    /// Compares it with a file that has its inode.
    pub(super) fn is_still(&self, found: &Found) -> bool {
        if self.beginning.bytes.is_empty() {
            // Nothing was read, so nothing tells, whatever its name: it may be a copy of a file that was. If it
            // is none, it is read from its beginning, as it would have been.
            return false;
        }
        // What cannot be opened now is compared before it is read.
        let source = Source::open(found.path(), found.stat.id, found.is_gz);
        let Ok(mut source) = source else { return true };
        match source.look(found.stat.size, &self.beginning, &self.position) {
            Ok((look, _)) => look == Look::Fits || (look == Look::Shorter && !self.is_gz),
            // What is compressed is not compared again.
            Err(_) => !self.is_gz,
        }
    }

    /// Whether it is read as soon as it is written, without a scan.
    pub(super) fn is_followed(&self) -> bool {
        self.lost().is_none() && !self.is_gz && !self.is_ignored
    }

    /// Bytes that were not read yet, as far as it is known.
    pub(super) fn unread(&self) -> u64 {
        let is_countable = !self.is_gz && !self.is_ignored && !self.is_overwritten;
        if is_countable && self.lost().is_none() { self.size.saturating_sub(self.position.offset) } else { 0 }
    }

    /// Bytes that are known not to have been read of a file that is nowhere now.
    pub(super) fn missing(&self) -> u64 {
        let is_readable = !self.is_ignored && !self.is_overwritten && !self.is_finished;
        match self.lost().is_some() && is_readable {
            // Of a compressed one that was begun it is not known.
            true if self.is_gz && self.position.offset > 0 => 0,
            true => self.size.saturating_sub(self.position.offset),
            false => 0,
        }
    }

    /// Takes in what the system says about the file.
    pub(super) fn observe(&mut self, stat: &Stat, now: Instant) {
        if stat.size != self.size || stat.modified != self.modified {
            self.grew_at = now;
            self.is_finished = false;
            if self.is_gz {
                self.end = None;
            }
        }
        self.size = stat.size;
        self.modified = stat.modified;
        self.allocated = stat.allocated;
        self.links = stat.links;
    }

    /// Everything was read. A clock of a file system ticks every few milliseconds: what was written just
    /// now is looked at once more.
    pub(super) fn reached_end(&mut self, wall: Timestamp) {
        self.end = Some((self.size, self.modified));
        // What is compressed tells by itself that it is whole.
        self.is_racy = !self.is_gz && i128::from(wall.as_millis()) * 1_000_000 - self.modified < RACY_NANOS;
    }

    /// A scan saw it. What is not sure is compared again.
    pub(super) fn look_again(&mut self) {
        if std::mem::take(&mut self.is_racy) {
            self.end = None;
            self.compared = None;
        }
    }

    /// Opens the file, if it is not open.
    pub(super) fn open(&mut self) -> std::io::Result<&mut Source> {
        if self.source.is_none() {
            self.source = Some(Source::open(&self.path, self.place, self.is_gz)?);
            // Somebody may have written it while nobody looked.
            self.compared = None;
        }
        self.source.as_mut().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
    }

    /// It can be read no more.
    pub(super) fn finished(&mut self) {
        self.is_finished = true;
        self.is_dirty = true;
        if let Some(source) = &mut self.source {
            source.rest();
        }
    }

    /// Closes it. What is before the position is compared again when it is opened.
    pub(super) fn close(&mut self) {
        self.source = None;
    }

    /// Whether the bytes before the position were compared since the file was opened or found again.
    pub(super) fn is_compared(&self) -> bool {
        self.before.is_some() && self.source.is_some()
    }

    /// The most bytes it can have had since it was listed: it grows meanwhile, and may be cut at any moment.
    pub(super) fn longest(&self) -> u64 {
        match self.source.as_ref().and_then(|source| stat_file(source.file()).ok()) {
            Some(stat) if stat.size < self.position.offset => u64::MAX,
            Some(stat) => stat.size.max(self.size),
            None => self.size,
        }
    }

    /// Its first bytes, as they are now.
    pub(super) fn head(&mut self) -> std::io::Result<Vec<u8>> {
        let was_open = self.source.is_some();
        let head = self.open()?.head();
        if !was_open {
            self.close();
        }
        head
    }

    /// Compares the content with what is known, unless it has not changed since.
    pub(super) fn compare(&mut self, now: Instant) -> std::io::Result<bool> {
        let (beginning, position) = (self.beginning.clone(), self.position);
        let source = self.open()?;
        let stat = stat_file(source.file())?;
        if self.before.is_some() && self.compared == Some((stat.size, stat.modified)) {
            self.observe(&stat, now);
            return Ok(true);
        }
        let Some(source) = self.source.as_mut() else { return Ok(true) };
        let (look, before) = source.look(stat.size, &beginning, &position)?;
        self.observe(&stat, now);
        if look == Look::Fits || (look == Look::Shorter && self.is_gz) {
            self.compared = Some((stat.size, stat.modified));
            // Of what is compressed nothing came along.
            self.before = if self.is_gz { self.before.take().or(Some(before)) } else { Some(before) };
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads at the position.
    pub(super) fn fill(&mut self, buf: &mut [u8]) -> std::io::Result<Filled> {
        let position = self.position;
        self.open()?.fill(&position, buf)
    }

    /// Moves the position over bytes that were read there.
    pub(super) fn advance(&mut self, read: &[u8], is_skipping: bool) {
        let offset = self.position.offset;
        if self.beginning.grow(offset, read) {
            self.is_dirty = true;
        }
        let before = self.before.get_or_insert_default();
        before.extend_from_slice(&read[read.len().saturating_sub(TAIL)..]);
        let excess = before.len().saturating_sub(TAIL);
        before.drain(..excess);
        let tail = Tail::of(before);
        self.position = Position { offset: offset + read.len() as u64, is_skipping, tail };
    }

    /// Moves the position over the hole at the beginning.
    pub(super) fn skip_hole(&mut self, offset: u64) {
        self.beginning.base = offset;
        self.position = Position { offset, ..Position::default() };
        self.is_dirty = true;
    }

    /// Back to what is durable: the rest is read again.
    pub(super) fn rewind(&mut self) {
        if self.is_durable() {
            return;
        }
        self.position = self.durable;
        self.beginning.shrink(self.position.offset);
        self.before = None;
        self.compared = None;
        self.end = None;
        self.is_finished = false;
        self.is_dirty = true;
    }

    /// It is somewhere else now.
    pub(super) fn move_to(&mut self, place: FileId, path: &Path, is_gz: bool, now: Instant) {
        self.place = place;
        self.path = path.into();
        self.is_gz = is_gz;
        self.is_overwritten = false;
        self.is_listed = true;
        self.is_finished = false;
        self.absent_since = None;
        self.is_dirty = true;
        self.source = None;
        self.before = None;
        self.compared = None;
        self.end = None;
        self.grew_at = now;
        self.retry_at = None;
        self.is_failing = false;
    }

    /// Its inode holds something else now.
    pub(super) fn overwritten(&mut self) {
        self.is_overwritten = true;
        self.is_dirty = true;
        self.source = None;
        self.before = None;
        self.end = None;
    }
}
