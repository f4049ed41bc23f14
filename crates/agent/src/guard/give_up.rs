//! Gives up a rotated file, or what is in a live one. Blocking.
//!
//! Not a decision: the planner says which file.
//!
//! Invariants: nothing is given up that was not counted and written down before; of a live file, what came while
//! it was written down is counted after that, right before the end. Only the very file that was found is touched,
//! and a rotated one only if nobody wrote it since.

use std::fs::File;
use std::os::fd::OwnedFd;

use pikepole_fleet::Timestamp;
use rustix::fs::{AtFlags, OFlags, fstat, ftruncate, unlinkat};

use super::count::{Lines, lines};
use super::ledger::{Ledger, Loss};
use super::place::{Failure, Place, failed, len};
use super::scan::ending;

/// Rounds of counting what a writer adds while it is counted.
const MAX_ROUNDS: usize = 3;

/// Deletes a rotated file, of which at most so many bytes are counted.
pub(super) fn delete(place: &Place, ledger: &Ledger, now: Timestamp, most: u64) -> Result<Loss, Failure> {
    let rotated = Rotated::count(place, most)?;
    let loss = noted(ledger, now, &rotated.loss, || rotated.delete())?;
    rotated.empty()?;
    Ok(loss)
}

/// Empties a live file, of which at most so many bytes are counted. What its writer adds between the last look
/// and this is not counted: microseconds.
pub(super) fn truncate(place: &Place, ledger: &Ledger, now: Timestamp, most: u64) -> Result<Loss, Failure> {
    let mut live = Live::count(place, most)?;
    // Writing it down takes milliseconds, in which megabytes come.
    let intended = Loss { is_estimated: true, ..live.loss() };
    noted(ledger, now, &intended, || live.empty())
}

/// Gives up what was written down before.
fn noted(
    ledger: &Ledger,
    now: Timestamp,
    intended: &Loss,
    give_up: impl FnOnce() -> Result<Loss, Failure>,
) -> Result<Loss, Failure> {
    ledger.intend(intended);
    match give_up() {
        Ok(loss) => {
            ledger.done(loss.clone(), now);
            Ok(loss)
        }
        Err(failure) => {
            ledger.spared();
            Err(failure)
        }
    }
}

/// A rotated file that was counted.
pub(super) struct Rotated<'a> {
    place: &'a Place,
    folder: OwnedFd,
    file: File,
    can_empty: bool,
    pub(super) loss: Loss,
}

impl<'a> Rotated<'a> {
    pub(super) fn count(place: &'a Place, most: u64) -> Result<Self, Failure> {
        let folder = place.folder()?;
        // Whoever still reads it would keep its bytes on the disk: after it has lost its name it is emptied too.
        let opened = place.open(&folder, OFlags::RDWR);
        let can_empty = opened.is_ok();
        let file = match opened {
            Err(Failure::Io(_)) => place.open(&folder, OFlags::RDONLY)?,
            opened => opened?,
        };
        let counted = lines(&file, place.len, ending(&place.path()), most);
        let rotated = Self { place, folder, file, can_empty, loss: loss(place, true, place.len, counted) };
        rotated.check()?;
        Ok(rotated)
    }

    fn check(&self) -> Result<(), Failure> {
        let is_same = self.place.is_as_found(&self.file)? && self.place.is_there(&self.folder);
        if is_same { Ok(()) } else { Err(Failure::Gone) }
    }

    /// Takes its name.
    pub(super) fn delete(&self) -> Result<Loss, Failure> {
        self.check()?;
        unlinkat(&self.folder, &self.place.name, AtFlags::empty()).map_err(failed("delete"))?;
        // Somebody who cannot be seen may have written to it at the last moment.
        let bytes = fstat(&self.file).map_or(self.loss.bytes, |stat| len(&stat));
        let is_estimated = self.loss.is_estimated || bytes != self.loss.bytes;
        Ok(Loss { bytes: bytes.max(self.loss.bytes), is_estimated, ..self.loss.clone() })
    }

    fn empty(&self) -> Result<(), Failure> {
        // A name that was given to it a moment ago keeps it as it is.
        if self.can_empty && fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0) {
            ftruncate(&self.file, 0).map_err(failed("empty"))?;
        }
        Ok(())
    }
}

/// A live file that is counted while it grows.
pub(super) struct Live<'a> {
    place: &'a Place,
    file: File,
    most: u64,
    bytes: u64,
    lines: Lines,
}

impl<'a> Live<'a> {
    pub(super) fn count(place: &'a Place, most: u64) -> Result<Self, Failure> {
        let file = place.open(&place.folder()?, OFlags::RDWR)?;
        let mut live = Self { place, file, most, bytes: 0, lines: Lines::default() };
        live.catch_up()?;
        Ok(live)
    }

    pub(super) fn loss(&self) -> Loss {
        loss(self.place, false, self.bytes, self.lines)
    }

    /// Counts what has come, and empties it.
    pub(super) fn empty(&mut self) -> Result<Loss, Failure> {
        self.catch_up()?;
        ftruncate(&self.file, 0).map_err(failed("truncate"))?;
        Ok(self.loss())
    }

    fn catch_up(&mut self) -> Result<(), Failure> {
        for _ in 0..MAX_ROUNDS {
            let now = self.len()?;
            // Once a part was left out, the rest is not where reading stands.
            if now <= self.bytes || self.lines.is_estimated {
                break;
            }
            let more = lines(&self.file, now - self.bytes, ending(&self.place.path()), self.most);
            self.lines = self.lines.and(more);
            self.bytes = now;
        }
        let now = self.len()?;
        if now > self.bytes {
            self.lines = self.lines.grown(self.bytes, now);
            self.bytes = now;
        }
        Ok(())
    }

    fn len(&self) -> Result<u64, Failure> {
        Ok(len(&fstat(&self.file).map_err(failed("look at"))?))
    }
}

fn loss(place: &Place, is_deleted: bool, bytes: u64, counted: Lines) -> Loss {
    Loss {
        path: place.path(),
        inode: place.id.1,
        is_deleted,
        bytes,
        lines: counted.lines,
        is_estimated: counted.is_estimated,
    }
}
