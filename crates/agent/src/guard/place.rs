//! The folders that are guarded, and one file in them: opened without following any link.
//!
//! Not a listing: that is in `scan.rs`.
//!
//! Invariants: a path is walked from its folder part by part, and no part may be a link. A file that was
//! found is only worked on if it is the same one still: regular, one name, on the folder's file system.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, accessat, fstat, openat, statat};
use rustix::io::Errno;

use crate::state::read_only_hint;

/// Begins the name of a file that is not whole yet. Hidden, so that no shipper's glob reads it.
pub(super) const PREFIX: &str = ".pikepole-gz.";

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `NONBLOCK`: a pipe in a file's place must not hold us up.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What tells one file from all others that are there.
pub(super) type Id = (u64, u64);

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is not there any more, or not the same; somebody else was faster.
    Gone,
    /// There is no room, or it would not become smaller.
    NoUse(&'static str),
    /// What went wrong.
    Io(String),
}

/// Makes an error of the system a failure; says what was tried.
pub(super) fn failed(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR => Failure::Gone,
        errno => Failure::Io(format!("{what}: {}", io::Error::from(errno))),
    }
}

/// Where a file is, and which one.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The guarded folder.
    pub(super) root: PathBuf,
    /// From there.
    pub(super) below: PathBuf,
    pub(super) name: OsString,
    pub(super) id: Id,
    /// As it was when it was found.
    pub(super) len: u64,
    pub(super) modified_ns: i128,
}

impl Place {
    /// The whole path, for people and globs.
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(&self.below).join(&self.name)
    }

    /// The folder it is in.
    pub(super) fn folder(&self) -> Result<OwnedFd, Failure> {
        let mut folder = open_root(&self.root).map_err(failed("open the folder"))?;
        for part in self.below.components() {
            folder = open_folder(&folder, part.as_os_str()).map_err(failed("open the folder"))?;
        }
        Ok(folder)
    }

    /// The file itself, if it is the one that was found and has not changed.
    pub(super) fn open(&self, folder: &OwnedFd, how: OFlags) -> Result<File, Failure> {
        let file = openat(folder, &self.name, FILE.union(how), Mode::empty()).map_err(failed("open"))?;
        let stat = fstat(&file).map_err(failed("look at"))?;
        if is_plain(&stat) && id(&stat) == self.id { Ok(file.into()) } else { Err(Failure::Gone) }
    }

    /// Whether nobody wrote it since it was found.
    pub(super) fn is_as_found(&self, file: impl AsFd) -> Result<bool, Failure> {
        let stat = fstat(file).map_err(failed("look at"))?;
        Ok(len(&stat) == self.len && modified_ns(&stat) == self.modified_ns && is_plain(&stat))
    }

    /// Whether the name still leads to it.
    pub(super) fn is_there(&self, folder: &OwnedFd) -> bool {
        statat(folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| id(&stat) == self.id)
    }
}

/// Opens a guarded folder; its last part may not be a link.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, FOLDER, Mode::empty())
}

/// Why a guarded folder could not be opened, for people: of a link the system says that it is no folder.
pub(super) fn unopened(path: &Path, errno: Errno) -> io::Error {
    let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    if is_link { io::Error::other("it is a link; name the folder that it leads to") } else { errno.into() }
}

/// Why nothing can be done in a guarded folder, whatever the policy; `None`: it can, or it is not there.
pub(super) fn barred(path: &Path) -> Option<String> {
    match accessat(CWD, path, Access::WRITE_OK, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => None,
        Err(errno) => {
            let error = io::Error::from(errno);
            Some(format!("no room can be made: {error}{}", read_only_hint(&error)))
        }
    }
}

/// Opens a folder in a folder.
pub(super) fn open_folder(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(folder, name, FOLDER, Mode::empty())
}

/// A regular file with one name only.
pub(super) fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1
}

pub(super) fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

pub(super) fn len(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Bytes on the disk.
pub(super) fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

/// Nanoseconds since 1970.
pub(super) fn modified_ns(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}
