//! What is in the guarded folders. Blocking; changes nothing.
//!
//! Not a decision: the planner says what is done.
//!
//! Invariants: links are not followed, other file systems not entered, and nothing is listed but regular
//! files with one name. At most so many entries are looked at; if there are more, it is said.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pikepole_fleet::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, fstat, statat};
use rustix::io::Errno;

use super::place::{self, PREFIX, Place, open_folder, open_root};
use super::planner::{Class, File};
use crate::config::GuardConfig;

/// Entries that are looked at in one pass: each takes about 500 bytes.
const MAX_ENTRIES: usize = 50_000;
/// Folders within folders.
const MAX_DEPTH: usize = 16;
/// Errors that are told.
const MAX_ERRORS: usize = 8;
/// Endings of files that are compressed.
const COMPRESSED: [&str; 7] = ["gz", "zst", "xz", "bz2", "lz4", "br", "zip"];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) places: Vec<Place>,
    /// In the same order. Nobody has looked yet who has them open.
    pub(super) files: Vec<File>,
    /// What was left over by a compression that was interrupted.
    pub(super) leftovers: Vec<Place>,
    pub(super) errors: Vec<String>,
    seen: usize,
}

/// Lists these folders.
pub(super) fn scan(config: &GuardConfig, roots: &[PathBuf], now: Timestamp) -> Listing {
    let mut listing = Listing::default();
    for root in roots {
        let opened = open_root(root).and_then(|folder| Ok((fstat(&folder)?.st_dev, folder)));
        match opened {
            Ok((dev, folder)) => {
                let mut walk = Walk { config, root, dev, now, listing: &mut listing };
                walk.folder(folder, Path::new(""), 0);
            }
            Err(error) => listing.note(root, "open", error),
        }
    }
    if listing.seen > MAX_ENTRIES {
        listing.errors.push(format!("more than {MAX_ENTRIES} entries; the rest is not looked at"));
    }
    listing
}

impl Listing {
    fn note(&mut self, path: &Path, what: &str, error: Errno) {
        if error != Errno::NOENT && self.errors.len() < MAX_ERRORS {
            self.errors.push(format!("{}: {what}: {}", path.display(), std::io::Error::from(error)));
        }
    }
}

struct Walk<'a> {
    config: &'a GuardConfig,
    root: &'a Path,
    dev: u64,
    now: Timestamp,
    listing: &'a mut Listing,
}

impl Walk<'_> {
    fn folder(&mut self, folder: OwnedFd, below: &Path, depth: usize) {
        let entries = match Dir::read_from(&folder) {
            Ok(entries) => entries,
            Err(error) => return self.listing.note(&self.root.join(below), "list", error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.listing.note(&self.root.join(below), "list", error),
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.listing.seen += 1;
            if self.listing.seen > MAX_ENTRIES {
                return;
            }
            self.entry(&folder, below, name, depth);
        }
    }

    fn entry(&mut self, folder: &OwnedFd, below: &Path, name: &OsStr, depth: usize) {
        let path = self.root.join(below).join(name);
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => return self.listing.note(&path, "look at", error),
        };
        if stat.st_dev != self.dev {
            return;
        }
        let is_own = self.config.own.iter().any(|own| path.starts_with(own));
        // What is protected stays so when somebody compresses it.
        let is_named = |path: &Path| self.config.protect.matches(path);
        let is_protected = is_own || is_named(&path) || plain(&path).is_some_and(|plain| is_named(&plain));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if is_protected || depth >= MAX_DEPTH {
                return;
            }
            match open_folder(folder, name) {
                // Somebody may have mounted something there meanwhile.
                Ok(inner) if fstat(&inner).is_ok_and(|s| s.st_dev == self.dev) => {
                    self.folder(inner, &below.join(name), depth + 1);
                }
                Ok(_) => {}
                Err(error) => self.listing.note(&path, "open", error),
            }
            return;
        }
        if !place::is_plain(&stat) {
            return;
        }
        let place = Place {
            root: self.root.into(),
            below: below.into(),
            name: name.into(),
            id: place::id(&stat),
            len: place::len(&stat),
            modified_ns: place::modified_ns(&stat),
        };
        if name.as_bytes().starts_with(PREFIX.as_bytes()) {
            self.listing.leftovers.push(place);
            return;
        }
        let modified = u64::try_from(place.modified_ns / 1_000_000).unwrap_or(0);
        let modified = Timestamp::from_millis(modified);
        let file = File {
            class: class(self.config, &path),
            is_protected,
            is_fresh: self.now.since(modified) < self.config.settle,
            is_written: false,
            is_open: false,
            is_compressed: ending(&path).is_some(),
            is_incompressible: false,
            is_spent: false,
            len: place.len,
            allocated: place::allocated(&stat),
            modified,
        };
        self.listing.places.push(place);
        self.listing.files.push(file);
    }
}

/// What a file is, by its name; one that was compressed is what it was before.
fn class(config: &GuardConfig, path: &Path) -> Class {
    let is_rotated = |path: &Path| config.rotated.matches(path);
    match plain(path) {
        _ if is_rotated(path) => Class::Rotated,
        Some(plain) if is_rotated(&plain) => Class::Rotated,
        None if config.live.matches(path) => Class::Live,
        _ => Class::Other,
    }
}

/// What a compressed file was called before.
fn plain(path: &Path) -> Option<PathBuf> {
    ending(path).map(|_| path.with_extension(""))
}

/// The ending of a file that is compressed.
pub(super) fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(OsStr::to_str).filter(|ending| COMPRESSED.contains(ending))
}
