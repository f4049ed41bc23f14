//! Rotated files that are compressed by something that is not understood here.
//!
//! Invariant: not a byte of them is taken for text. What they may have of a log that was not read to its end
//! is told, once for each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::super::generation::Generation;
use super::super::identity::FileId;
use super::super::list::{self, Found};
use super::Worker;

const WHY: &str =
    "is compressed, but not by gzip with the ending .gz; what was not read before cannot be read";

/// One of them.
#[derive(Debug)]
pub(super) struct Opaque {
    section: usize,
    id: FileId,
    seen: (u64, i128),
    /// What it was while it was written.
    lineage: PathBuf,
}

impl Worker {
    /// Whether a scan before found out that it is one.
    pub(super) fn is_known_opaque(&self, found: &Found) -> bool {
        let seen = (found.stat.size, found.stat.modified);
        let known = self.opaque.get(found.path());
        known.is_some_and(|known| known.id == found.stat.id && known.seen == seen && !found.is_gz)
    }

    /// These are all there are.
    pub(super) fn opaque<'a>(&mut self, found: impl Iterator<Item = &'a Found>) {
        let before = std::mem::take(&mut self.opaque);
        for found in found {
            let Some(section) = self.sections.get(found.section) else { continue };
            let lineage = list::lineage(found.path(), &section.config.paths);
            let seen = (found.stat.size, found.stat.modified);
            let opaque = Opaque { section: found.section, id: found.stat.id, seen, lineage };
            self.opaque.insert(found.path().into(), opaque);
        }
        let sought: BTreeSet<(usize, PathBuf)> = {
            let sought = self.generations.values().filter(|g| is_sought(g));
            sought.map(|generation| (generation.section, generation.lineage.clone())).collect()
        };
        let is_new = |path: &Path| !before.contains_key(path);
        let new: Vec<_> = self.opaque.iter().filter(|(path, _)| is_new(path)).collect();
        let of_lost = new.into_iter().filter(|(_, o)| sought.contains(&(o.section, o.lineage.clone())));
        let told: Vec<_> = of_lost.map(|(path, opaque)| (opaque.section, path.clone())).collect();
        for (section, path) in told {
            self.failed(section, path, &std::io::Error::other(WHY));
        }
    }

    /// How many there are of each section, and how many generations may have their rest there.
    pub(super) fn count_opaque(&self) -> BTreeMap<usize, (u64, u64)> {
        let mut counts: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        let mut lineages = BTreeSet::new();
        for opaque in self.opaque.values() {
            counts.entry(opaque.section).or_default().0 += 1;
            lineages.insert((opaque.section, &opaque.lineage));
        }
        if !lineages.is_empty() {
            let is_there = |g: &&Generation| is_sought(g) && lineages.contains(&(g.section, &g.lineage));
            for generation in self.generations.values().filter(is_there) {
                counts.entry(generation.section).or_default().1 += 1;
            }
        }
        counts
    }
}

/// Whether it is nowhere, and was not known to be read to its end.
fn is_sought(generation: &Generation) -> bool {
    generation.lost().is_some() && !generation.is_ignored && !generation.is_finished
}
