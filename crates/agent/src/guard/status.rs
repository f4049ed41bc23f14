//! What the guard says about itself, and what it calls trouble.
//!
//! Invariant: every number is one that was measured; what is not known is absent.

use std::path::Path;

use pikepole_api::time::format_duration;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Disk, Guard, Report, Totals, levels};
use crate::config::Policy;
use crate::trouble::Kind;

/// What the disk guard says about itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskGuardStatus {
    /// What it may do.
    pub policy: String,
    /// How many bytes shall stay free.
    pub min_free: u64,
    /// The disks, those with one folder or more that can be read.
    pub disks: Vec<DiskStatus>,
    /// Whether it knew, at its start or when it last made room, which files somebody has open: not without the
    /// right to look at every process.
    pub knows_writers: bool,
    /// What it has done since its state folder is new.
    pub totals: Totals,
}

/// One file system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// The folders on it.
    pub paths: Vec<String>,
    /// Bytes that are free.
    pub free: u64,
    /// Its bytes.
    pub total: u64,
    /// Seconds until it is full; `null`: not within a month, or not known yet.
    pub full_in_seconds: Option<u64>,
    /// Whether less than `min_free` is free.
    pub low: bool,
}

impl Guard {
    pub(super) fn report(&self) -> Report {
        let totals = self.ledger.totals();
        let disks = self.disks.values().map(|disk| DiskStatus {
            paths: disk.roots.iter().map(|root| shown(root)).collect(),
            free: disk.space.map_or(0, |space| space.free),
            total: disk.space.map_or(0, |space| space.total),
            full_in_seconds: disk.forecast.until_full().map(|left| left.as_secs()),
            low: disk.levels.is_low,
        });
        let status = DiskGuardStatus {
            policy: self.config.policy.as_str().into(),
            min_free: self.config.min_free,
            disks: disks.collect(),
            knows_writers: self.knows_writers,
            totals,
        };
        Report { status, troubles: self.troubles(&totals) }
    }

    fn troubles(&self, totals: &Totals) -> Vec<(Kind, String, String)> {
        let mut troubles = Vec::new();
        for disk in self.disks.values() {
            self.troubles_of(disk, &mut troubles);
        }
        let failed =
            self.unread.iter().map(|(path, error)| (shown(path), format!("cannot be watched: {error}")));
        troubles.extend(failed.map(|(path, error)| (Kind::DiskGuardFailed, path, error)));
        let barred = self.barred.iter().map(|(path, why)| (Kind::DiskGuardFailed, shown(path), why.clone()));
        troubles.extend(barred);
        let mut failing: Vec<String> =
            self.disks.values().flat_map(|disk| disk.failing.iter().cloned()).collect();
        // The others go by the age of a file then; this one has nothing left that it could do.
        if self.config.policy == Policy::CompressRotated && !self.knows_writers {
            let why =
                "which files are open cannot be seen, so nothing is compressed: it needs CAP_SYS_PTRACE";
            failing.push(why.into());
        }
        if !failing.is_empty() {
            troubles.push((Kind::DiskGuardFailed, "disk_guard".into(), failing.join("; ")));
        }
        if self.loss_told_until.is_some_and(|until| Instant::now() < until) {
            let of = |(policy, given): (&str, super::Given)| {
                let about = if given.estimated > 0 { "about " } else { "" };
                format!(
                    "{policy}: {} files, {} bytes, {about}{} lines",
                    given.files, given.bytes, given.lines
                )
            };
            let given = totals.by_policy().into_iter().filter(|(_, given)| given.files > 0);
            let detail = format!("since ever {}", given.map(of).collect::<Vec<_>>().join("; "));
            troubles.push((Kind::LogsGivenUp, "disk_guard".into(), detail));
        }
        if let Some(error) = self.ledger.error() {
            troubles.push((Kind::StateFailed, "disk_guard".into(), error));
        }
        troubles
    }

    fn troubles_of(&self, disk: &Disk, troubles: &mut Vec<(Kind, String, String)>) {
        let (Some(space), Some(first)) = (disk.space, disk.roots.first()) else { return };
        let subject = shown(first);
        let left = disk.forecast.until_full().map(|left| format!(", full in {}", format_duration(left)));
        let left = left.unwrap_or_default();
        let min_free = self.config.min_free;
        if disk.levels.is_filling {
            troubles.push((
                Kind::DiskFilling,
                subject.clone(),
                format!("{} bytes are free{left}", space.free),
            ));
        }
        if disk.levels.is_low {
            let what = match self.config.policy {
                Policy::Alert => "nothing is done about it",
                policy => policy.as_str(),
            };
            let detail = format!("{} bytes are free of {min_free} that shall be{left}; {what}", space.free);
            troubles.push((Kind::DiskLow, subject.clone(), detail));
        }
        if !levels::is_possible(min_free, space.total) {
            let detail = "min_free is more than half of the disk: nothing is touched".to_string();
            troubles.push((Kind::DiskGuardFailed, subject, detail));
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
