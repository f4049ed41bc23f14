//! Compresses a rotated file in place. Blocking, and slow on purpose: at the lowest priority.
//!
//! Not a decision: the planner says which file.
//!
//! Invariants: the original stays until the whole compressed one is on the disk, under its name, with the
//! same owner, mode and time. Nothing is replaced by it. It takes no more room than it was given. Whatever
//! goes wrong, nothing but the original is left, or, if the agent is killed, what the next pass tidies up.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use flate2::{Compression, Crc, GzBuilder};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, fchmod, fchown,
    fstat, fsync, futimens, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::in_use::in_use;
use super::place::{Failure, PREFIX, Place, allocated, failed, id, is_plain};

const CHUNK: usize = 256 << 10;
/// After so many bytes it is asked whether to go on.
const ASK_EVERY: u64 = 4 << 20;
/// What gzip puts at the end: the checksum and the length of what was compressed, four bytes each.
const TRAILER: u64 = 8;

/// Compresses; says how many bytes came free. `budget` is what the new file may take, in bytes; `go_on` is
/// asked every few megabytes.
pub(super) fn compress(
    place: &Place,
    budget: u64,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<u64, Failure> {
    let work = || {
        // It only takes more of the processor than it should if this is refused.
        let _refused = rustix::process::setpriority_process(None, 19);
        work(place, budget, go_on)
    };
    // A thread of its own: its priority ends with it.
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(Failure::Io("compressing ended unexpectedly".into())))
}

fn work(place: &Place, budget: u64, go_on: &dyn Fn() -> bool) -> Result<u64, Failure> {
    let folder = place.folder()?;
    let source = place.open(&folder, OFlags::RDONLY)?;
    if !place.is_as_found(&source)? {
        return Err(Failure::Gone);
    }
    let stat = fstat(&source).map_err(failed("look at"))?;
    let names = Names::of(place);
    let made = match openat(
        &folder,
        &names.whole,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    ) {
        // A compression was interrupted between its last two steps, or somebody else did the same.
        Ok(there) => {
            let there = File::from(there);
            if !is_copy(&there, &source, go_on)? {
                return Err(Failure::NoUse("a compressed file of that name is there"));
            }
            fstat(&there).map_err(failed("look at"))?
        }
        Err(Errno::NOENT) => {
            let made = write(&folder, &names, &source, &stat, budget, go_on);
            drop(source); // or it would be us who have it open
            let put = made.and_then(|made| put(&folder, &names, place).map(|()| made));
            put.inspect_err(|_| discard(&folder, &names.part))?
        }
        Err(error) => return Err(failed("open the compressed file")(error)),
    };
    remove_original(&folder, place, &names, id(&made))?;
    Ok(allocated(&stat).saturating_sub(allocated(&made)))
}

struct Names {
    /// Until it is whole.
    part: OsString,
    whole: OsString,
}

impl Names {
    fn of(place: &Place) -> Self {
        let mut whole = place.name.clone();
        whole.push(".gz");
        let mut part = OsString::from(PREFIX);
        part.push(&whole);
        Self { part, whole }
    }
}

/// Writes and syncs the new file; how it is then.
fn write(
    folder: &OwnedFd,
    names: &Names,
    source: &File,
    like: &Stat,
    budget: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Stat, Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, &names.part, flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(file.map_err(failed("create the compressed file"))?);
    let length = u64::try_from(like.st_size).unwrap_or(0);
    // Nine tenths of the original are no use.
    let limit = budget.min(length / 10 * 9);
    let mtime = u32::try_from(like.st_mtime).unwrap_or(0);
    let out = Bounded { file: &file, left: limit };
    let mut gzip = GzBuilder::new().mtime(mtime).write(out, Compression::fast());
    let read = copy(source, &mut gzip, go_on)?;
    gzip.finish().map_err(written)?;
    if read != length {
        return Err(Failure::Gone);
    }
    let made = fstat(&file).map_err(failed("look at"))?;
    if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid) {
        let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
        fchown(&file, Some(uid), Some(gid)).map_err(failed("keep the owner"))?;
    }
    fchmod(&file, Mode::from_raw_mode(like.st_mode & 0o7777)).map_err(failed("keep the mode"))?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: like.st_mtime, tv_nsec: like.st_mtime_nsec as _ },
    };
    futimens(&file, &times).map_err(failed("keep the time"))?;
    fsync(&file).map_err(failed("sync"))?;
    fstat(&file).map_err(failed("look at"))
}

/// Gives the new file its name, if the original is still done with.
fn put(folder: &OwnedFd, names: &Names, place: &Place) -> Result<(), Failure> {
    if !in_use(&HashSet::from([place.id])).open.is_empty() {
        return Err(Failure::NoUse("somebody opened it meanwhile"));
    }
    let source = place.open(folder, OFlags::RDONLY)?;
    if !place.is_as_found(source)? {
        return Err(Failure::Gone);
    }
    let named = renameat_with(folder, &names.part, folder, &names.whole, RenameFlags::NOREPLACE);
    named.map_err(failed("name the compressed file"))?;
    fsync(folder).map_err(failed("sync the folder"))
}

/// Takes the original away, or, if it is not as it was, the new one again.
fn remove_original(folder: &OwnedFd, place: &Place, names: &Names, made: (u64, u64)) -> Result<(), Failure> {
    let is_same = place.open(folder, OFlags::RDONLY).and_then(|file| place.is_as_found(file));
    if matches!(is_same, Ok(true)) {
        return unlinkat(folder, &place.name, AtFlags::empty()).map_err(failed("delete the original"));
    }
    let new = Place { name: names.whole.clone(), id: made, ..place.clone() };
    // If the original is gone, the compressed file is all there is.
    if is_same.is_ok() && new.is_there(folder) {
        discard(folder, &names.whole);
    }
    Err(Failure::Gone)
}

/// Removes what an interrupted compression left over.
pub(super) fn tidy(place: &Place) -> Result<(), Failure> {
    let folder = place.folder()?;
    if !place.is_there(&folder) {
        return Err(Failure::Gone);
    }
    unlinkat(&folder, &place.name, AtFlags::empty()).map_err(failed("remove"))
}

fn discard(folder: &OwnedFd, name: &OsStr) {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // The next pass removes it.
        Err(error) => tracing::debug!(name = %name.display(), %error, "cannot remove"),
    }
}

/// Whether a compressed file holds exactly what the other one does: by gzip's own checksum and length.
fn is_copy(there: &File, source: &File, go_on: &dyn Fn() -> bool) -> Result<bool, Failure> {
    use std::os::unix::fs::FileExt as _;
    let stat = fstat(there).map_err(failed("look at"))?;
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    let mut trailer = [0; TRAILER as usize];
    if !is_plain(&stat) || length < TRAILER || there.read_exact_at(&mut trailer, length - TRAILER).is_err() {
        return Ok(false);
    }
    let mut sum = Summed(Crc::new());
    copy(source, &mut sum, go_on)?;
    let [a, b, c, d, e, f, g, h] = trailer;
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])) == (sum.0.sum(), sum.0.amount()))
}

/// All of a file; how much it was.
fn copy(mut source: &File, out: &mut impl Write, go_on: &dyn Fn() -> bool) -> Result<u64, Failure> {
    let mut chunk = vec![0; CHUNK];
    let (mut read, mut asked) = (0u64, 0u64);
    loop {
        if read >= asked {
            if !go_on() {
                return Err(Failure::NoUse("there is no time or room for it any more"));
            }
            asked = read + ASK_EVERY;
        }
        match source.read(&mut chunk) {
            Ok(0) => return Ok(read),
            Ok(got) => {
                out.write_all(&chunk[..got]).map_err(written)?;
                read += got as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Io(format!("read: {error}"))),
        }
    }
}

fn written(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::FileTooLarge => Failure::NoUse("it does not become small enough"),
        _ => Failure::Io(format!("write the compressed file: {error}")),
    }
}

/// A file that takes so much and no more.
struct Bounded<'a> {
    file: &'a File,
    left: u64,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.write_all(bytes)?;
        self.left = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Summed(Crc);

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
