//! The folder of record files: read one, replace one, put one aside. Blocking.
//!
//! Knows names and the order of disk operations, not what a record is.
//!
//! Invariant: a file is only ever replaced by a rename of a whole, synced one, and nothing that was put
//! aside is written over.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pikepole_fleet::FleetName;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::frame::MAX_HEADER;
use super::record::MAX_RECORD;

/// What was put aside, per fleet: enough to look into a fault that repeats, too little to fill a disk.
const MAX_QUARANTINED: usize = 10;

/// Bytes of the largest file that is read.
const MAX_FILE: u64 = (MAX_HEADER + MAX_RECORD) as u64;

const TEMPORARY: &str = ".rec.tmp";

/// A folder, remembered by its identity: after an unmount its path leads to another, empty one, in which
/// no record would be a lie.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    identity: (u64, u64),
}

/// What stands at the place of a record.
#[derive(Debug)]
pub(super) enum Content {
    Absent,
    Bytes(Vec<u8>),
    /// Larger than any record, in bytes.
    TooLarge(u64),
    /// A folder, a pipe, a device.
    NotAFile,
}

impl Folder {
    /// Makes the folder if there is none, and clears away what unfinished writes left.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        if let Some(parent) = path.parent() {
            // Or the next power cut takes the new folder, and all that was synced in it.
            File::open(parent)?.sync_all()?;
        }
        let identity = identity(&path)?;
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(TEMPORARY) {
                remove(&entry.path());
            }
        }
        Ok(Self { path, identity })
    }

    /// The path of a fleet's record. A name has no `/` and no `%`; a leading dot is escaped, so that no
    /// name is hidden, nor one of `.` and `..`.
    pub(super) fn record(&self, fleet: &FleetName) -> PathBuf {
        self.path.join(format!("{}.rec", stem(fleet)))
    }

    pub(super) fn read(&self, fleet: &FleetName) -> io::Result<Content> {
        self.check()?;
        // Without O_NONBLOCK a pipe in a record's place would be waited for.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(self.record(fleet)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
            Err(e) => return Err(e),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Content::NotAFile);
        }
        if metadata.len() > MAX_FILE {
            return Ok(Content::TooLarge(metadata.len()));
        }
        let mut bytes = Vec::new();
        (&mut file).take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(Content::Bytes(bytes))
    }

    /// Replaces a fleet's record and makes that last: write, sync, rename, sync of the folder.
    pub(super) fn replace(&self, fleet: &FleetName, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        let temporary = self.path.join(format!("{}{TEMPORARY}", stem(fleet)));
        let written =
            write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, self.record(fleet)));
        if let Err(e) = written {
            remove(&temporary);
            return Err(e);
        }
        self.sync()
    }

    /// Renames what stands at a fleet's record to the next free `.quarantined-N` and says where that is.
    pub(super) fn put_aside(&self, fleet: &FleetName) -> io::Result<PathBuf> {
        let record = self.record(fleet);
        let mut kept = self.quarantined(fleet)?;
        let mut number = kept.last().map_or(1, |last| last.saturating_add(1));
        loop {
            let place = self.quarantine_place(fleet, number);
            match rename_to_free(&record, &place) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < u64::MAX => number += 1,
                Err(e) => return Err(e),
            }
        }
        kept.push(number);
        // The rename stands, synced or not: after a power cut the damage would be found once more.
        if let Err(e) = self.sync() {
            tracing::warn!(folder = %self.path.display(), error = %e, "cannot sync the store's folder");
        }
        for oldest in &kept[..kept.len().saturating_sub(MAX_QUARANTINED)] {
            remove(&self.quarantine_place(fleet, *oldest));
        }
        Ok(self.quarantine_place(fleet, number))
    }

    fn quarantine_place(&self, fleet: &FleetName, number: u64) -> PathBuf {
        self.path.join(format!("{}.rec.quarantined-{number}", stem(fleet)))
    }

    /// The numbers in use for a fleet, ascending.
    pub(super) fn quarantined(&self, fleet: &FleetName) -> io::Result<Vec<u64>> {
        let prefix = format!("{}.rec.quarantined-", stem(fleet));
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|n| n.strip_prefix(&prefix)).and_then(|n| n.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn check(&self) -> io::Result<()> {
        if identity(&self.path)? == self.identity {
            return Ok(());
        }
        Err(io::Error::other("the folder is not the one that was opened; was it unmounted or replaced?"))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn stem(fleet: &FleetName) -> String {
    match fleet.as_str().strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => fleet.to_string(),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot do it in one step. The folder is ours alone, so two will do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(e) => Err(e),
        },
        other => other.map_err(Into::into),
    }
}

/// Removes a left-over. A failure costs a little space and is tried again by the next one.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => tracing::warn!(path = %path.display(), error = %e, "cannot remove a left-over file"),
    }
}
