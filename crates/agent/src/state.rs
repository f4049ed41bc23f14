//! The state folder: what must survive a restart. Blocking.
//!
//! ```text
//! lock          held by the one agent that works here
//! roster.rec    the last good roster and when it was confirmed
//! reloaded.rec  the content of each output, as a hash, that its shipper was last reloaded with
//! guard.rec     what the disk guard has given up, and what it is about to
//! ```
//!
//! Invariants: a file is only ever replaced by a rename of a whole, synced one. A damaged one is put aside,
//! never believed. Nothing is noted as reloaded before the reload went well, so an agent that was killed in
//! between reloads again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pikepole_api::client::Target;
use pikepole_api::time::Rfc3339;
use pikepole_api::v1;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frame;
use crate::planner::sendable;

/// Longest file that is read, in bytes: a roster is at most 8 MiB.
const MAX_FILE: u64 = 16 * 1024 * 1024;
const ROSTER: &str = "roster.rec";
const RELOADED: &str = "reloaded.rec";

/// The last good roster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The roster.
    pub(crate) roster: v1::Roster,
    /// When its source last confirmed it.
    pub(crate) confirmed_at: Option<Rfc3339>,
    /// If nobody is in it, the last one before that had somebody to send to: what shippers use as long as an
    /// empty one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accepted: Option<v1::Roster>,
}

impl Kept {
    /// `accepted`: the last roster, perhaps this one, with somebody to send to.
    pub(crate) fn new(
        roster: v1::Roster,
        confirmed_at: Option<Rfc3339>,
        accepted: Option<&v1::Roster>,
    ) -> Self {
        let accepted = if sendable(&roster).is_empty() { accepted.cloned() } else { None };
        Self { roster, confirmed_at, accepted }
    }

    /// The last roster with somebody to send to.
    pub(crate) fn accepted(&self) -> Option<&v1::Roster> {
        self.accepted.as_ref().or_else(|| (!sendable(&self.roster).is_empty()).then_some(&self.roster))
    }
}

/// The hash of the content each output's shipper was last reloaded with.
pub(crate) type Reloaded = BTreeMap<PathBuf, String>;

/// The folder, and the proof that it is ours.
#[derive(Debug)]
pub(crate) struct State {
    records: Records,
    _lock: File,
}

impl State {
    /// Makes the folder if there is none, and locks it. The error is a sentence.
    pub(crate) fn open(folder: &Path) -> Result<Self, String> {
        let lock = lock(folder, "state folder", "[agent] state")?;
        Ok(Self { records: Records { folder: folder.into() }, _lock: lock })
    }

    /// The last good roster, if it is one of this fleet.
    pub(crate) fn roster(&self, target: &Target) -> Option<Kept> {
        let kept: Kept = self.records.read(ROSTER)?;
        is_of(&kept, target).then_some(kept)
    }

    /// Keeps a roster.
    pub(crate) fn keep_roster(&self, kept: &Kept) -> Result<(), String> {
        self.records.write(ROSTER, kept)
    }

    /// What was reloaded with what.
    pub(crate) fn reloaded(&self) -> Reloaded {
        self.records.read(RELOADED).unwrap_or_default()
    }

    /// Keeps what was reloaded.
    pub(crate) fn keep_reloaded(&self, reloaded: &Reloaded) -> Result<(), String> {
        self.records.write(RELOADED, reloaded)
    }

    /// Records beside ours, for parts of the agent that keep their own while this one holds the lock.
    pub(crate) fn records(&self) -> Records {
        self.records.clone()
    }
}

/// Makes a folder if there is none, and makes it ours as long as the file lives. The error is a sentence.
pub(crate) fn lock(folder: &Path, what: &str, key: &str) -> Result<File, String> {
    let shown = folder.display();
    let failed = |e: io::Error| format!("cannot use the {what} {shown}: {e}{}", read_only_hint(&e));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"));
    let lock = lock.map_err(failed)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => {
            format!("another agent works on the {what} {shown}; give this one its own {key}")
        }
        e => failed(e.into()),
    })?;
    Ok(lock)
}

/// What is behind most read-only folders: the unit lets the agent write to a few only.
pub(crate) fn read_only_hint(error: &io::Error) -> &'static str {
    let is_read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
    if is_read_only { "; in the systemd unit, name the folder in ReadWritePaths=" } else { "" }
}

/// Files of a folder that this process has locked. Each has one writer.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    /// What was written; `None`: nothing, or it is damaged and was put aside.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.folder.join(name);
        match read(&path) {
            Ok(value) => value,
            Err(why) => {
                let aside = path.with_extension("damaged");
                tracing::warn!(file = %path.display(), why, aside = %aside.display(), "put aside, not believed");
                if let Err(error) = fs::rename(&path, &aside) {
                    tracing::warn!(%error, "cannot put it aside");
                }
                None
            }
        }
    }

    /// Replaces a record by a whole, synced one.
    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<(), String> {
        let path = self.folder.join(name);
        let temporary = path.with_extension("tmp");
        let written = (|| {
            let body = serde_json::to_vec(value).map_err(io::Error::other)?;
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&frame::seal(&body))?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        written.map_err(|e: io::Error| format!("cannot write {}: {e}", path.display()))
    }
}

/// The last good roster of a folder that somebody else may be working on.
pub(crate) fn peek(folder: &Path, target: &Target) -> Option<Kept> {
    let kept: Kept = read(&folder.join(ROSTER)).ok()??;
    is_of(&kept, target).then_some(kept)
}

fn is_of(kept: &Kept, target: &Target) -> bool {
    match target {
        Target::Fleet(name) => kept.roster.fleet == *name,
        Target::Place { dc, region } => kept.roster.dc == *dc && kept.roster.region == *region,
    }
}

/// `Ok(None)`: there is none. `Err`: it is not what we wrote.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let body = frame::open(&bytes).ok_or("torn or damaged")?;
    serde_json::from_slice(body).map(Some).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn kept() -> Kept {
        let text = "{\"roster\":{\"fleet\":\"f\",\"dc\":\"d\",\"region\":\"r\",\"revision\":7,\"published_at\":\
                    \"2026-11-22T10:00:00.123Z\",\"members\":[]},\"confirmed_at\":null}";
        serde_json::from_str(text).unwrap()
    }

    fn fleet(name: &str) -> Target {
        Target::Fleet(name.into())
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_and_only_for_its_fleet() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("deep/state");
        let state = State::open(&path).unwrap();
        assert_eq!((state.roster(&fleet("f")), state.reloaded()), (None, Reloaded::new()));
        state.keep_roster(&kept()).unwrap();
        let reloaded = Reloaded::from([(PathBuf::from("/etc/x"), "abc".to_string())]);
        state.keep_reloaded(&reloaded).unwrap();
        drop(state);
        let state = State::open(&path).unwrap();
        assert_eq!((state.roster(&fleet("f")), state.reloaded()), (Some(kept()), reloaded));
        assert_eq!(state.roster(&fleet("g")), None);
        assert!(state.roster(&Target::Place { dc: "d".into(), region: "r".into() }).is_some());
        assert_eq!(peek(&path, &fleet("f")), Some(kept()));
    }

    #[test]
    fn a_second_agent_is_refused() {
        let folder = TempDir::new().unwrap();
        let first = State::open(folder.path()).unwrap();
        let error = State::open(folder.path()).unwrap_err();
        assert!(error.contains("another agent"), "{error}");
        drop(first);
        State::open(folder.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let folder = TempDir::new().unwrap();
        let state = State::open(folder.path()).unwrap();
        state.keep_roster(&kept()).unwrap();
        let path = folder.path().join(ROSTER);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(state.roster(&fleet("f")), None);
        assert!(folder.path().join("roster.damaged").exists() && !path.exists());
    }
}
