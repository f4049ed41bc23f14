//! `[disk_guard]`: which folders are watched, and what may be done when they fill.
//!
//! Not what is done: that is in `guard/planner.rs`.
//!
//! Invariant: without a `policy` nothing is ever touched.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use pikepole_config::Section;

use super::size;

/// Folders of one guard.
const MAX_PATHS: usize = 16;
/// Globs of one list.
const MAX_GLOBS: usize = 64;
/// Least that `min_free` may be, in bytes: less does not leave time to do anything.
const LEAST_FREE: u64 = 1 << 20;
/// Rotated files, as logrotate and most programs name them.
const ROTATED: [&str; 3] = ["*.log.[0-9]*", "*.log-[0-9]*", "*.log.old"];
/// Files that are written.
const LIVE: [&str; 1] = ["*.log"];

/// What may be done when a disk fills. A ladder: each step includes the gentler ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Only tell.
    Alert,
    /// Compress rotated files.
    CompressRotated,
    /// Give up rotated files, the oldest first.
    DeleteOldestRotated,
    /// Give up what is in live files, the largest first.
    Truncate,
}

impl Policy {
    const ALL: [Self; 4] = [Self::Alert, Self::CompressRotated, Self::DeleteOldestRotated, Self::Truncate];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::CompressRotated => "compress_rotated",
            Self::DeleteOldestRotated => "delete_oldest_rotated",
            Self::Truncate => "truncate",
        }
    }
}

/// A disk guard.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// The folders, with all that is in them.
    pub paths: Vec<PathBuf>,
    /// Bytes that shall stay free on the file system of each folder.
    pub min_free: u64,
    /// What may be done when they are not.
    pub policy: Policy,
    /// Which files are rotated.
    pub rotated: Globs,
    /// Which files are written, and may be truncated.
    pub live: Globs,
    /// Which files and folders are never touched.
    pub protect: Globs,
    /// The agent's own files: never touched either.
    pub own: Vec<PathBuf>,
    /// Between two looks at the free space.
    pub every: Duration,
    /// A rotated file that changed within this time is taken for one that is written.
    pub settle: Duration,
}

/// Globs that are asked together. One without `/` is about the name, another about the whole path.
#[derive(Debug, Clone)]
pub struct Globs {
    names: GlobSet,
    paths: GlobSet,
}

impl Globs {
    /// Whether one of them fits.
    pub fn matches(&self, path: &Path) -> bool {
        self.paths.is_match(path) || path.file_name().is_some_and(|name| self.names.is_match(name))
    }

    fn build(patterns: &[String]) -> Result<Self, String> {
        let mut sets = [GlobSetBuilder::new(), GlobSetBuilder::new()];
        for pattern in patterns {
            let is_path = pattern.contains('/');
            if is_path && !pattern.starts_with('/') && !pattern.starts_with("**/") {
                return Err(
                    "a glob with / must be a whole path, like /var/log/kong/audit* or **/audit/*".into()
                );
            }
            // The error of globset shows the glob, which the environment may have written.
            let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
            let glob = glob.map_err(|e| format!("is not a glob: {}", e.kind()))?;
            sets[usize::from(is_path)].add(glob);
        }
        let [names, paths] = sets.map(|set| set.build().map_err(|e| format!("is not a glob: {}", e.kind())));
        Ok(Self { names: names?, paths: paths? })
    }
}

/// `own` are files and folders of the agent itself.
pub(super) fn guard(mut s: Section<'_>, own: Vec<PathBuf>) -> Option<GuardConfig> {
    let paths: Vec<PathBuf> = s.texts("paths").into_iter().map(PathBuf::from).collect();
    check_paths(&s, &paths);
    let min_free = min_free(&mut s);
    let policy = match s.text("policy") {
        None => Some(Policy::Alert),
        Some(word) => {
            let policy = Policy::ALL.into_iter().find(|policy| policy.as_str() == word);
            if policy.is_none() {
                let words = Policy::ALL.map(Policy::as_str).join(", ");
                s.not("policy", &format!("one of {words}"));
            }
            policy
        }
    };
    let rotated = globs(&mut s, "rotated", &ROTATED);
    let live = globs(&mut s, "live", &LIVE);
    let protect = globs(&mut s, "protect", &[]);
    let every = s.duration("every", 1..=60).unwrap_or(Duration::from_secs(5));
    let settle = s.duration("settle", 10..=86_400).unwrap_or(Duration::from_secs(60));
    s.finish();
    Some(GuardConfig {
        paths,
        min_free: min_free?,
        policy: policy?,
        rotated: rotated?,
        live: live?,
        protect: protect?,
        own,
        every,
        settle,
    })
}

fn min_free(s: &mut Section<'_>) -> Option<u64> {
    let text = s.required_text("min_free");
    if text.is_empty() {
        return None;
    }
    let bytes = size::parse(&text).filter(|bytes| *bytes >= LEAST_FREE);
    if bytes.is_none() {
        s.not("min_free", "a size of at least 1MiB, like \"10GiB\" or \"500MB\"");
    }
    bytes
}

fn check_paths(s: &Section<'_>, paths: &[PathBuf]) {
    if paths.is_empty() {
        s.mistake("paths", "required, for example [\"/var/log/kong\"]");
    }
    if paths.len() > MAX_PATHS {
        s.mistake("paths", &format!("at most {MAX_PATHS} of them"));
    }
    let is_plain = |path: &PathBuf| {
        let mut parts = path.components();
        parts.next() == Some(Component::RootDir)
            && path.components().count() > 1
            && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    if !paths.iter().all(is_plain) {
        s.mistake("paths", "each must be a whole path, like /var/log/kong, not / and without ..");
    }
    for (index, path) in paths.iter().enumerate() {
        if paths.iter().enumerate().any(|(other, inner)| other != index && inner.starts_with(path)) {
            s.mistake("paths", "one of them is inside another, or is there twice");
            return;
        }
    }
}

fn globs(s: &mut Section<'_>, key: &str, default: &[&str]) -> Option<Globs> {
    let is_there = s.has(key);
    let mut patterns = s.texts(key);
    if !is_there {
        patterns = default.iter().map(ToString::to_string).collect();
    }
    if patterns.len() > MAX_GLOBS {
        s.mistake(key, &format!("at most {MAX_GLOBS} of them"));
        return None;
    }
    if patterns.iter().any(String::is_empty) {
        s.mistake(key, "must not be empty");
        return None;
    }
    Globs::build(&patterns).map_err(|what| s.mistake(key, &what)).ok()
}
