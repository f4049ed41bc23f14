//! What is in the folders that the patterns name. Blocking; opens no file.
//!
//! Not identity: which of these files is which is decided elsewhere.
//!
//! Invariants: one entry for each inode, however many names and links lead to it. At most so many entries
//! are looked at and so many files listed; if there are more, it is said.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, read_dir};
use std::io;
use std::path::{Path, PathBuf};

use super::file::{Stat, stat_file, stat_path};
use crate::config::{Part, Pattern, TailConfig};

/// Entries that are looked at in one scan.
const MAX_ENTRIES: usize = 100_000;
/// Files in one listing.
const MAX_FILES: usize = 4_096;
/// Folders in one listing.
const MAX_FOLDERS: usize = 512;
/// Folders that `**` stands for at most.
const MAX_DEPTH: usize = 8;
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
    /// Where a link that led here leads.
    pub(super) target: Option<PathBuf>,
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
    /// Files that are compressed, but not by gzip, as their names say.
    pub(super) opaque: Vec<Found>,
    pub(super) errors: Vec<(PathBuf, String)>,
    /// There is more than can be listed: what is not here may well be there.
    pub(super) is_cut: bool,
    entries: usize,
    /// What this process prints into.
    own: Vec<(u64, u64)>,
    by_inode: BTreeMap<(u64, u64), usize>,
}

impl Listing {
    /// The file that has an inode.
    pub(super) fn at_inode(&self, inode: (u64, u64)) -> Option<&Found> {
        self.by_inode.get(&inode).and_then(|index| self.files.get(*index))
    }

    /// Leaves out what is too much: of what was rotated the oldest.
    fn cut(&mut self, most: usize) {
        if self.files.len() > most {
            self.is_cut = true;
            self.files.sort_by_key(|found| match found.is_in_paths {
                true => (false, Reverse(0)),
                false => (true, Reverse(found.stat.modified)),
            });
            self.files.truncate(most);
            let inodes = self.files.iter().enumerate();
            self.by_inode = inodes.map(|(index, f)| ((f.stat.id.dev, f.stat.id.ino), index)).collect();
        }
        if self.is_cut {
            let what = format!(
                "more than {most} files, {MAX_FOLDERS} folders or {MAX_ENTRIES} entries; the rest is not read, or \
                 found later"
            );
            self.errors.push((PathBuf::new(), what));
        }
    }
}

/// Lists what all sections name.
pub(super) fn list(sections: &[&TailConfig]) -> Listing {
    list_without(sections, own_output())
}

fn list_without(sections: &[&TailConfig], own: Vec<(u64, u64)>) -> Listing {
    let mut listing = Listing { own, ..Listing::default() };
    let mut known = BTreeMap::new();
    // No archive of one takes the place of a log of another.
    for is_in_paths in [true, false] {
        for (section, config) in sections.iter().enumerate() {
            for pattern in if is_in_paths { &config.paths } else { &config.rotated } {
                let (listing, known) = (&mut listing, &mut known);
                let mut walk = Walk { listing, known, section, is_in_paths, depth: 0 };
                walk.folder(Path::new("/"), pattern.parts());
            }
        }
    }
    listing.cut(MAX_FILES);
    listing
}

/// The files that standard output and standard error are.
fn own_output() -> Vec<(u64, u64)> {
    let streams = [stat_file(io::stdout()), stat_file(io::stderr())];
    let files = streams.into_iter().flatten().filter(|stat| stat.is_regular);
    files.map(|stat| (stat.id.dev, stat.id.ino)).collect()
}

/// Endings of what is compressed by something that is not understood here.
const OPAQUE: [&str; 16] = [
    "bz2", "xz", "lzma", "zst", "zstd", "lz4", "lzo", "lz", "z", "br", "sz", "zip", "7z", "rar", "tgz", "tar",
];
/// What such files begin with; gzip too, under a name that does not say so.
const MAGIC: [&[u8]; 9] = [
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"\x89LZO\0",
    b"LZIP\x01",
    b"\x1f\x9d",
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
];

/// Whether a name says that it is compressed, but not by gzip.
fn is_opaque(path: &Path) -> bool {
    let ending = path.extension().map(OsStr::to_ascii_lowercase);
    ending.is_some_and(|ending| OPAQUE.iter().any(|opaque| ending == *opaque))
}

/// Whether it begins like something compressed.
pub(super) fn is_compressed(head: &[u8]) -> bool {
    MAGIC.iter().any(|magic| head.starts_with(magic))
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

/// What a folder has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    name: OsString,
    is_link: bool,
    is_folder: bool,
}

struct Walk<'a> {
    listing: &'a mut Listing,
    known: &'a mut BTreeMap<PathBuf, Vec<Entry>>,
    section: usize,
    is_in_paths: bool,
    /// Folders below where `**` stands.
    depth: usize,
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
            Part::Any => {
                self.watch(folder);
                self.folder(folder, below);
                if self.depth < MAX_DEPTH {
                    self.depth += 1;
                    // Links are not followed: they may lead in a circle.
                    for Entry { name, .. } in self.entries(folder).into_iter().filter(|e| e.is_folder) {
                        self.folder(&folder.join(name), parts);
                    }
                    self.depth -= 1;
                }
            }
            Part::Glob(glob) => {
                self.watch(folder);
                for Entry { name, is_link, .. } in self.entries(folder) {
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

    fn entries(&mut self, folder: &Path) -> Vec<Entry> {
        if let Some(names) = self.known.get(folder) {
            return names.clone();
        }
        let mut names = Vec::new();
        match read_dir(folder) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => {
                            let kind = entry.file_type().ok();
                            let is_link = kind.is_some_and(|kind| kind.is_symlink());
                            let is_folder = kind.is_some_and(|kind| kind.is_dir());
                            names.push(Entry { name: entry.file_name(), is_link, is_folder });
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
            Ok(stat) if stat.is_folder => return,
            Ok(_) => return self.no_file(path, "not a file"),
            // Not there, or a link that leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if may_be_link && path.is_symlink() {
                    self.no_file(path, "which is not there");
                }
                return;
            }
            Err(error) => return self.note(&path, &error),
        };
        let inode = (stat.id.dev, stat.id.ino);
        if self.listing.own.contains(&inode) {
            return self.no_file(path, "which this agent itself prints into");
        }
        let is_link = may_be_link && path.is_symlink();
        let target = if is_link { path.canonicalize().ok() } else { None };
        // It is written in another folder, perhaps.
        if let Some(folder) = target.as_deref().and_then(Path::parent) {
            self.watch(folder);
        }
        if let Some(found) = self.listing.by_inode.get(&inode).and_then(|i| self.listing.files.get_mut(*i)) {
            if found.names.len() < MAX_NAMES && !found.names.contains(&path) {
                found.names.push(path);
            }
            found.target = found.target.take().or(target);
            return;
        }
        let is_gz = path.extension().is_some_and(|ending| ending == "gz");
        let (section, is_in_paths, is_opaque) = (self.section, self.is_in_paths, is_opaque(&path));
        let found = Found { section, stat, names: vec![path], is_in_paths, is_gz, target };
        if is_opaque {
            self.listing.opaque.push(found);
            return;
        }
        self.listing.by_inode.insert(inode, self.listing.files.len());
        self.listing.files.push(found);
    }

    /// Somebody expects it to be read.
    fn no_file(&mut self, path: PathBuf, what: &str) {
        let what = match fs::read_link(&path) {
            Ok(target) => format!("a link to {}, {what}", target.display()),
            Err(_) => what.into(),
        };
        if self.listing.errors.len() < MAX_ERRORS {
            self.listing.errors.push((path, what));
        }
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
        let gone = (path.join("b/gone.log"), "a link to nowhere, which is not there".to_string());
        assert_eq!(listing.errors, [gone]);
    }

    #[test]
    fn two_stars_go_a_few_folders_down() {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        for name in
            ["x.log", "a/x.log", "a/b/x.log", "a/b/y.txt", "1/2/3/4/5/6/7/8/x.log", "1/2/3/4/5/6/7/8/9/x.log"]
        {
            fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
            fs::write(path.join(name), name).unwrap();
        }
        symlink("..", path.join("a/circle")).unwrap();
        let listing = list(&[&config(path, &["**/*.log"], &[])]);
        let mut found: Vec<_> = listing.files.iter().map(|f| f.path().strip_prefix(path).unwrap()).collect();
        found.sort();
        let wanted = ["1/2/3/4/5/6/7/8/x.log", "a/b/x.log", "a/x.log", "x.log"].map(Path::new);
        assert_eq!((found, listing.folders.len()), (wanted.to_vec(), 11));
    }

    #[test]
    fn what_is_no_file_and_what_we_write_ourselves_is_told() {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        symlink("/dev/null", path.join("access.log")).unwrap();
        fs::write(path.join("own.log"), "x").unwrap();
        let own = stat_path(&path.join("own.log")).unwrap().id;
        let config = config(path, &["access.log", "own.log", "none.log"], &[]);
        let listing = list_without(&[&config], vec![(own.dev, own.ino)]);
        assert!(listing.files.is_empty());
        let errors: Vec<_> = listing.errors.iter().map(|(_, what)| what.as_str()).collect();
        assert_eq!(errors, ["a link to /dev/null, not a file", "which this agent itself prints into"]);
    }

    #[test]
    fn too_many_archives_of_one_take_no_place_from_the_log_of_another() {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        for (at, name) in ["a.log", "a.log.3", "a.log.2", "a.log.1", "b.log"].into_iter().enumerate() {
            let file = fs::File::create(path.join(name)).unwrap();
            let written = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at as u64);
            file.set_modified(written).unwrap();
        }
        let (a, b) = (config(path, &["a.log"], &["a.log.*"]), config(path, &["b.log"], &[]));
        let mut listing = list(&[&a, &b]);
        listing.cut(3);
        let names: Vec<_> = listing.files.iter().map(|f| f.path().file_name().unwrap()).collect();
        assert_eq!(names, ["a.log", "b.log", "a.log.1"], "of the archives the newest");
        assert!(listing.is_cut && listing.errors.len() == 1);
        for found in &listing.files {
            let listed = listing.at_inode((found.stat.id.dev, found.stat.id.ino));
            assert_eq!(listed.map(Found::path), Some(found.path()));
        }
    }

    #[test]
    fn what_is_compressed_is_known_by_its_name_or_by_what_it_begins_with() {
        for name in ["a.log.1.xz", "a.log-20261122.BZ2", "a.log.1.zst", "a.log.2.Z", "a.log.1.lz4"] {
            assert!(is_opaque(Path::new(name)), "{name}");
        }
        for name in ["a.log", "a.log.1", "a.log.1.gz", "a.log-20261122"] {
            assert!(!is_opaque(Path::new(name)), "{name}");
        }
        assert!(is_compressed(b"\x28\xb5\x2f\xfdxyz") && is_compressed(b"\x1f\x8b\x08\0"));
        assert!(!is_compressed(b"10.0.0.1 - - [26/Nov/2026") && !is_compressed(b""));
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
