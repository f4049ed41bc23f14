//! The store on a local disk: one file a fleet, replaced whole. For one process: the folder is locked.
//!
//! ```text
//! DIR/lock                             flock'ed while the store is open; holds the owner's process id
//! DIR/agents/NAME.rec                  the agents that followed it (`file/agents.rs`)
//! DIR/fleets/NAME.rec                  the record (`file/frame.rs`); a leading `.` of NAME is `%2E`
//! DIR/fleets/NAME.rec.tmp              a record being written; removed at open
//! DIR/fleets/NAME.rec.quarantined-N    what was no record, at most ten a fleet, the newest kept
//! ```
//!
//! Three kinds of trouble, three behaviours. A record that ends too early (torn) and one that is
//! something else (corrupt, foreign, of another format) are both put aside, but called what they are:
//! the first speaks of a power cut, the second of a disk, a person or a downgrade. An I/O error says
//! nothing about the record, which stays where it is.
//!
//! Invariant: at every moment `NAME.rec` is absent or one whole record, and a write that fails leaves
//! the old one.

mod agents;
mod folder;
mod frame;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pikepole_fleet::{FleetName, FleetState};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::OwnedMutexGuard;

use super::{KnownAgent, SaveError, Store, StoreError, Stored, Version, record};
use folder::{Content, Folder};

/// Records in a folder that belongs to this process alone.
#[derive(Debug)]
pub struct FileStore {
    folder: Arc<Folder>,
    agents: Arc<Folder>,
    /// One lock a fleet: two tasks of this process must not write one file at once. There is an entry
    /// for each fleet of the configuration.
    turns: Mutex<HashMap<FleetName, Arc<tokio::sync::Mutex<()>>>>,
    /// Released by the kernel when the file is closed, also after a crash.
    _lock: File,
}

impl FileStore {
    /// Opens the folder, and makes it (mode 0700) if there is none. Fails if another process has it open.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        let (folder, agents, lock) = blocking(move || {
            make_private(&dir).map_err(|e| unavailable(&dir, "cannot make the folder", &e))?;
            let lock = take_lock(&dir)?;
            let open = |name| {
                Folder::open(dir.join(name))
                    .map(Arc::new)
                    .map_err(|e| unavailable(&dir.join(name), "cannot open the folder", &e))
            };
            Ok::<_, StoreError>((open("fleets")?, open("agents")?, lock))
        })
        .await??;
        Ok(Self { folder, agents, turns: Mutex::default(), _lock: lock })
    }

    /// Waits for this fleet's turn. The guard goes along into the blocking work, which outlives a caller
    /// that gives up.
    async fn turn(&self, fleet: &FleetName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(fleet.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

#[async_trait]
impl Store for FileStore {
    async fn load(&self, fleet: &FleetName) -> Result<Option<Stored>, StoreError> {
        let turn = self.turn(fleet).await;
        let (folder, fleet) = (Arc::clone(&self.folder), fleet.clone());
        blocking(move || {
            let _turn = turn;
            load(&folder, &fleet)
        })
        .await?
    }

    async fn save(&self, state: &FleetState, expected: Option<Version>) -> Result<Version, SaveError> {
        let body = record::encode(state).map_err(|e| {
            StoreError::Unavailable(format!("the state of {} cannot be written down: {e}", state.fleet))
        })?;
        let turn = self.turn(&state.fleet).await;
        let (folder, fleet) = (Arc::clone(&self.folder), state.fleet.clone());
        blocking(move || {
            let _turn = turn;
            save(&folder, &fleet, &body, expected)
        })
        .await?
    }

    async fn load_agents(&self, fleet: &FleetName) -> Result<Vec<KnownAgent>, StoreError> {
        let (folder, fleet) = (Arc::clone(&self.agents), fleet.clone());
        blocking(move || agents::load(&folder, &fleet)).await?
    }

    async fn save_agents(&self, fleet: &FleetName, agents: &[KnownAgent]) -> Result<(), StoreError> {
        let turn = self.turn(fleet).await;
        let (folder, fleet, agents) = (Arc::clone(&self.agents), fleet.clone(), agents.to_vec());
        blocking(move || {
            let _turn = turn;
            agents::save(&folder, &fleet, &agents)
        })
        .await?
    }
}

fn load(folder: &Folder, fleet: &FleetName) -> Result<Option<Stored>, StoreError> {
    let Some((version, bytes, body)) = read_frame(folder, fleet)? else { return Ok(None) };
    match record::decode(&bytes[body..], fleet) {
        Ok(state) => Ok(Some(Stored { version, state })),
        Err(why) => Err(put_aside(folder, fleet, &why.to_string())),
    }
}

fn save(
    folder: &Folder,
    fleet: &FleetName,
    body: &[u8],
    expected: Option<Version>,
) -> Result<Version, SaveError> {
    if read_frame(folder, fleet)?.map(|(version, ..)| version) != expected {
        return Err(SaveError::Conflict);
    }
    let version = Version(expected.map_or(1, |v| v.0.saturating_add(1)));
    folder
        .replace(fleet, &frame::seal(version, body))
        .map_err(|e| unavailable(&folder.record(fleet), "cannot write", &e))?;
    Ok(version)
}

/// The version of a fleet's record, its bytes, and where in them the body begins.
fn read_frame(folder: &Folder, fleet: &FleetName) -> Result<Option<(Version, Vec<u8>, usize)>, StoreError> {
    let content = folder.read(fleet).map_err(|e| unavailable(&folder.record(fleet), "cannot read", &e))?;
    let bytes = match content {
        Content::Absent => return Ok(None),
        Content::Bytes(bytes) => bytes,
        Content::NotAFile => return Err(put_aside(folder, fleet, "foreign: not a regular file")),
        Content::TooLarge(size) => {
            return Err(put_aside(
                folder,
                fleet,
                &format!("foreign: {size} bytes are too many for a record"),
            ));
        }
    };
    match frame::open(&bytes) {
        Ok((version, body)) => Ok(Some((version, bytes, body))),
        Err(why) => Err(put_aside(folder, fleet, &why.to_string())),
    }
}

/// Moves what is no record out of the way. If that fails, it is still there, so it is not reported as
/// moved: the next read tries again.
fn put_aside(folder: &Folder, fleet: &FleetName, why: &str) -> StoreError {
    let path = folder.record(fleet);
    match folder.put_aside(fleet) {
        Ok(kept_at) => StoreError::Damaged {
            what: path.display().to_string(),
            why: why.to_owned(),
            kept_at: kept_at.display().to_string(),
        },
        Err(e) => StoreError::Unavailable(format!(
            "{} is no record ({why}) and cannot be moved aside: {e}",
            path.display()
        )),
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Best effort: the folder above is not ours, and we may not be allowed to open it.
    if let Some(Ok(parent)) = dir.parent().map(File::open)
        && let Err(e) = parent.sync_all()
    {
        tracing::debug!(path = %dir.display(), error = %e, "cannot sync the folder above the store");
    }
    Ok(())
}

fn take_lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(|e| unavailable(&path, "cannot open the lock", &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(dir, &mut file)),
        Err(e) => return Err(unavailable(&path, "cannot lock", &e.into())),
    }
    // The number only makes the other side's refusal more helpful; the lock holds without it.
    if let Err(e) = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())) {
        tracing::debug!(path = %path.display(), error = %e, "cannot write the process id into the lock");
    }
    Ok(file)
}

fn in_use(dir: &Path, lock: &mut File) -> StoreError {
    let mut text = String::new();
    let owner = match lock.take(20).read_to_string(&mut text).map(|_| text.parse::<u32>()) {
        Ok(Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    StoreError::InUse(format!(
        "{} is in use by {owner}; give each directory its own store path, or stop the other one",
        dir.display()
    ))
}

fn unavailable(path: &Path, what: &str, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("{what} {}: {error}", path.display()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| StoreError::Unavailable(format!("the work on the disk did not finish: {e}")))
}
