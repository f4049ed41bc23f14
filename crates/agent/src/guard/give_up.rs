//! Gives up a rotated file, or what is in a live one. Blocking.
//!
//! Not a decision: the planner says which file.
//!
//! Invariants: nothing is given up that was not counted and written down before. Only the very file that was
//! found is touched, and a rotated one only if nobody wrote it since.

use std::fs::File;
use std::path::Path;

use pikepole_fleet::Timestamp;
use rustix::fs::{AtFlags, OFlags, fstat, ftruncate, unlinkat};

use super::count::{Lines, lines};
use super::ledger::{Ledger, Loss};
use super::place::{Failure, Place, failed, len};
use super::scan::ending;

/// Rounds of counting what a writer adds while it is counted.
const MAX_ROUNDS: usize = 3;

/// Deletes a rotated file.
pub(super) fn delete(place: &Place, ledger: &Ledger, now: Timestamp) -> Result<Loss, Failure> {
    let folder = place.folder()?;
    // Whoever still reads it would keep its bytes on the disk: after it has lost its name it is emptied too.
    let opened = place.open(&folder, OFlags::RDWR);
    let can_empty = opened.is_ok();
    let file = match opened {
        Err(Failure::Io(_)) => place.open(&folder, OFlags::RDONLY)?,
        opened => opened?,
    };
    let counted = lines(&file, place.len, ending(&place.path()));
    if !place.is_as_found(&file)? || !place.is_there(&folder) {
        return Err(Failure::Gone);
    }
    let loss = loss(place, true, place.len, counted);
    ledger.intend(&loss);
    if let Err(error) = unlinkat(&folder, &place.name, AtFlags::empty()) {
        ledger.spared();
        return Err(failed("delete")(error));
    }
    ledger.done(loss.clone(), now);
    // A name that was given to it a moment ago keeps it as it is.
    if can_empty && fstat(&file).is_ok_and(|stat| stat.st_nlink == 0) {
        ftruncate(&file, 0).map_err(failed("empty"))?;
    }
    Ok(loss)
}

/// Empties a live file. What its writer adds between the last look and this is not counted: microseconds.
pub(super) fn truncate(place: &Place, ledger: &Ledger, now: Timestamp) -> Result<Loss, Failure> {
    let folder = place.folder()?;
    let file = place.open(&folder, OFlags::RDWR)?;
    let (bytes, counted) = count_growing(&file, &place.path())?;
    let loss = loss(place, false, bytes, counted);
    ledger.intend(&loss);
    if let Err(error) = ftruncate(&file, 0) {
        ledger.spared();
        return Err(failed("truncate")(error));
    }
    ledger.done(loss.clone(), now);
    Ok(loss)
}

/// Bytes and lines of a file that may grow while it is counted.
fn count_growing(file: &File, path: &Path) -> Result<(u64, Lines), Failure> {
    let mut counted = Lines::default();
    let mut end = 0;
    for _ in 0..MAX_ROUNDS {
        let now = len(&fstat(file).map_err(failed("look at"))?);
        if now <= end {
            break;
        }
        let more = lines(file, now - end, ending(path));
        counted.lines = counted.lines.saturating_add(more.lines);
        counted.is_estimated |= more.is_estimated;
        end = now;
        if more.is_estimated {
            break;
        }
    }
    let bytes = len(&fstat(file).map_err(failed("look at"))?);
    counted.is_estimated |= bytes > end;
    Ok((bytes, counted))
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
