//! What is in the folders that the patterns name. Blocking; opens no file.
//!
//! Not identity: which of these files is which is decided elsewhere.
//!
//! Invariants: one entry for each inode, however many names and links lead to it. At most so many entries
//! are looked at and so many files listed; if there are more, it is said.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, read_dir};
use std::io;
use std::path::{Path, PathBuf};

use super::file::{Stat, stat_path};
use crate::config::{Part, Pattern, TailConfig};

/// Entries that are looked at in one scan.
const MAX_ENTRIES: usize = 100_000;
/// Files in one listing.
const MAX_FILES: usize = 4_096;
/// Folders in one listing.
const MAX_FOLDERS: usize = 512;
/// Names that are kept of one file.
const MAX_NAMES: usize = 8;
/// Errors that are told.
const MAX_ERRORS: usize = 8;

/// One file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) section: usize,
    pub(super) stat: Stat,
    /// Its names, the best one first.
    pub(super) names: Vec<PathBuf>,
    /// Whether one of its names fits `paths`, not only `rotated`.
    pub(super) is_in_paths: bool,
    pub(super) is_gz: bool,
    /// A link led here.
    pub(super) is_link: bool,
}

impl Found {
    pub(super) fn path(&self) -> &Path {
        self.names.first().map_or_else(|| Path::new(""), PathBuf::as_path)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<Found>,
    /// Where they can come and go.
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) errors: Vec<(PathBuf, String)>,
    entries: usize,
    is_cut: bool,
    by_inode: BTreeMap<(u64, u64), usize>,
}

impl Listing {
    /// The file that has an inode.
    pub(super) fn at_inode(&self, inode: (u64, u64)) -> Option<&Found> {
        self.by_inode.get(&inode).and_then(|index| self.files.get(*index))
    }
}

/// Lists what all sections name.
pub(super) fn list(sections: &[&TailConfig]) -> Listing {
    let mut listing = Listing::default();
    for (section, config) in sections.iter().enumerate() {
        let mut known = BTreeMap::new();
        for (patterns, is_in_paths) in [(&config.paths, true), (&config.rotated, false)] {
            for pattern in patterns {
                let mut walk = Walk { listing: &mut listing, known: &mut known, section, is_in_paths };
                walk.folder(Path::new("/"), pattern.parts());
            }
        }
    }
    if listing.is_cut {
        let what = format!("more than {MAX_FILES} files or {MAX_ENTRIES} entries; the rest is not read");
        listing.errors.push((PathBuf::new(), what));
    }
    listing
}

/// The name that a rotated file had while it was written: what of it fits `paths` when endings are taken
/// off.
pub(super) fn lineage(path: &Path, paths: &[Pattern]) -> PathBuf {
    let mut name = path.to_path_buf();
    loop {
        if paths.iter().any(|pattern| pattern.matches(&name)) {
            return name;
        }
        let Some(text) = name.file_name().and_then(OsStr::to_str) else { return path.into() };
        let Some(end) = text.rfind(['.', '-']).filter(|end| *end > 0) else { return path.into() };
        let shorter = text[..end].to_string();
        name.set_file_name(shorter);
    }
}

/// Names of a folder, and which of them are links.
type Names = Vec<(OsString, bool)>;

struct Walk<'a> {
    listing: &'a mut Listing,
    known: &'a mut BTreeMap<PathBuf, Names>,
    section: usize,
    is_in_paths: bool,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, parts: &[Part]) {
        let Some((part, below)) = parts.split_first() else { return };
        match part {
            Part::Name(name) if below.is_empty() => {
                self.watch(folder);
                self.file(folder.join(name), true);
            }
            Part::Name(name) => self.folder(&folder.join(name), below),
            Part::Glob(glob) => {
                self.watch(folder);
                for (name, is_link) in self.names(folder) {
                    if !glob.is_match(&name) {
                        continue;
                    }
                    match below.is_empty() {
                        true => self.file(folder.join(name), is_link),
                        false => self.folder(&folder.join(name), below),
                    }
                }
            }
        }
    }

    fn watch(&mut self, folder: &Path) {
        if self.listing.folders.len() < MAX_FOLDERS {
            self.listing.folders.insert(folder.into());
        } else {
            self.listing.is_cut |= !self.listing.folders.contains(folder);
        }
    }

    fn names(&mut self, folder: &Path) -> Names {
        if let Some(names) = self.known.get(folder) {
            return names.clone();
        }
        let mut names = Vec::new();
        match read_dir(folder) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => {
                            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                            names.push((entry.file_name(), is_link));
                        }
                        Err(error) => self.note(folder, &error),
                    }
                    self.listing.entries += 1;
                    if self.listing.entries > MAX_ENTRIES {
                        self.listing.is_cut = true;
                        break;
                    }
                }
            }
            Err(error) => self.note(folder, &error),
        }
        names.sort();
        self.known.insert(folder.into(), names.clone());
        names
    }

    fn file(&mut self, path: PathBuf, may_be_link: bool) {
        let stat = match stat_path(&path) {
            Ok(stat) if stat.is_regular => stat,
            Ok(_) => return,
            Err(error) => return self.note(&path, &error),
        };
        let mut is_link = false;
        if may_be_link && let Ok(target) = fs::read_link(&path) {
            is_link = true;
            // Its target is written in another folder, perhaps.
            let target = path.parent().unwrap_or_else(|| Path::new("/")).join(target);
            if let Some(folder) = target.canonicalize().ok().as_deref().and_then(Path::parent) {
                self.watch(folder);
            }
        }
        let inode = (stat.id.dev, stat.id.ino);
        if let Some(found) = self.listing.by_inode.get(&inode).and_then(|i| self.listing.files.get_mut(*i)) {
            if found.names.len() < MAX_NAMES && !found.names.contains(&path) {
                found.names.push(path);
            }
            found.is_link |= is_link;
            return;
        }
        if self.listing.files.len() >= MAX_FILES {
            self.listing.is_cut = true;
            return;
        }
        self.listing.by_inode.insert(inode, self.listing.files.len());
        let is_gz = path.extension().is_some_and(|ending| ending == "gz");
        self.listing.files.push(Found {
            section: self.section,
            stat,
            names: vec![path],
            is_in_paths: self.is_in_paths,
            is_gz,
            is_link,
        });
    }

    fn note(&mut self, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound && self.listing.errors.len() < MAX_ERRORS {
            self.listing.errors.push((path.into(), error.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn config(folder: &Path, paths: &[&str], rotated: &[&str]) -> TailConfig {
        let patterns = |names: &[&str]| {
            names.iter().map(|n| Pattern::parse(&format!("{}/{n}", folder.display())).unwrap()).collect()
        };
        super::super::tests::config(patterns(paths), patterns(rotated))
    }

    #[test]
    fn every_inode_is_there_once_by_its_best_name() {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        for name in ["a/x.log", "a/x.log.1", "b/x.log", "b/y.txt", "real/target"] {
            fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
            fs::write(path.join(name), name).unwrap();
        }
        fs::hard_link(path.join("a/x.log"), path.join("a/x.log.2")).unwrap();
        symlink("../real/target", path.join("b/z.log")).unwrap();
        symlink("nowhere", path.join("b/gone.log")).unwrap();
        fs::create_dir(path.join("b/dir.log")).unwrap();
        let listing = list(&[&config(path, &["*/*.log"], &["*/*.log.*"])]);
        let name = |found: &Found| found.path().strip_prefix(path).unwrap().display().to_string();
        let found: Vec<_> = listing.files.iter().map(|f| (name(f), f.is_in_paths, f.names.len())).collect();
        let wanted =
            [("a/x.log", true, 2), ("b/x.log", true, 1), ("b/z.log", true, 1), ("a/x.log.1", false, 1)];
        assert_eq!(found, wanted.map(|(name, p, n)| (name.to_string(), p, n)));
        let folders: Vec<_> = listing.folders.iter().filter_map(|f| f.strip_prefix(path).ok()).collect();
        for folder in ["", "a", "b", "real"] {
            assert!(folders.contains(&Path::new(folder)), "{folder}: {folders:?}");
        }
        assert_eq!(listing.errors, []);
    }

    #[test]
    fn a_rotated_file_belongs_to_the_log_it_was() {
        let paths = [Pattern::parse("/l/access*.log").unwrap()];
        for (path, wanted) in [
            ("/l/access.log.2.gz", "/l/access.log"),
            ("/l/access.log-20261122.gz", "/l/access.log"),
            ("/l/access-eu.log.1", "/l/access-eu.log"),
            ("/l/access.log", "/l/access.log"),
            ("/l/other.1", "/l/other.1"),
        ] {
            assert_eq!(lineage(Path::new(path), &paths), Path::new(wanted));
        }
    }
}
