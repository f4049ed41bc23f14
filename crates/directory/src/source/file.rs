//! A fleet whose members stand in a JSON file, for collectors that are not in an Auto Scaling group.
//!
//! `{"members":[{"instance_id":"c1","address":"10.0.0.1:5044","zone":"a"}],"desired":1}`; `zone` and
//! `desired` may be left out. Not a directory of files, and not a place for state: whoever writes it
//! replaces it by rename.
//!
//! Invariant: the file counts whole or not at all. A missing file is no answer rather than "does not
//! exist": one that is being replaced may be away for a moment.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_fleet::limits::MAX_MEMBERS;
use pikepole_fleet::{Describe, Instance, InstanceId, Lifecycle, Timestamp, Zone};
use serde::{Deserialize, Deserializer, de};
use tokio::time::MissedTickBehavior;

use super::{Answer, Source, SourceError, Target};
use crate::clock::Clock;

/// Bytes of a members file: ten thousand members with long names are two megabytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// How often the file is looked at. A look is one `stat`.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Characters of a parser's message that are passed on.
const MAX_MESSAGE: usize = 200;

/// One file, one fleet.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    clock: Clock,
    /// The file as it was last read, or as [`Source::changed`] last reported it.
    seen: Mutex<Option<Stamp>>,
}

/// What tells one version of a file from another without reading it. `None` in place of one: no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Absent,
    File { modified: (i64, i64), size: u64, device: u64, inode: u64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    members: Vec<Entry>,
    #[serde(default)]
    desired: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(deserialize_with = "name")]
    instance_id: InstanceId,
    #[serde(deserialize_with = "address")]
    address: SocketAddr,
    #[serde(default, deserialize_with = "zone")]
    zone: Option<Zone>,
}

impl FileSource {
    /// The source of the fleet in `path`. The file is not touched yet.
    pub fn new(path: impl Into<PathBuf>, clock: Clock) -> Self {
        Self { path: path.into(), clock, seen: Mutex::new(None) }
    }

    async fn read(&self, made_at: Timestamp) -> Result<Answer, SourceError> {
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let (stamp, text) = read(&path);
            let described = text
                .map_err(|e| unreadable(&path, &e))
                .and_then(|text| parse(&text, made_at).map_err(|why| bad(&path, &why)));
            (stamp, described)
        });
        let (stamp, described) = match reading.await {
            Ok(read) => read,
            Err(e) => return Err(SourceError::Unreachable(format!("the reader of the file ended: {e}"))),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
        described.map(Answer::Group)
    }
}

#[async_trait]
impl Source for FileSource {
    /// Every target gets what stands in the file: it holds one fleet, whatever its name, and the ports.
    async fn describe(&self, targets: &[Target]) -> Vec<Result<Answer, SourceError>> {
        let answer = self.read(self.clock.now()).await;
        vec![answer; targets.len()]
    }

    /// Resolves once per change of the file since it was last read.
    async fn changed(&self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = Stamp::of(tokio::fs::metadata(&self.path).await.ok().as_ref());
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen != Some(now) {
                *seen = Some(now);
                return;
            }
        }
    }
}

impl Stamp {
    fn of(metadata: Option<&Metadata>) -> Self {
        metadata.map_or(Self::Absent, |m| Self::File {
            modified: (m.mtime(), m.mtime_nsec()),
            size: m.size(),
            device: m.dev(),
            inode: m.ino(),
        })
    }
}

/// The file and the stamp it had before it was read: a write in between shows as a change.
fn read(path: &Path) -> (Stamp, io::Result<Vec<u8>>) {
    let mut stamp = Stamp::Absent;
    let text = (|| {
        // Looked at before it is opened: to open a pipe would wait for its writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidData, "is not a regular file"));
        }
        let file = std::fs::File::open(path)?;
        let metadata = file.metadata()?;
        stamp = Stamp::of(Some(&metadata));
        let mut text = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("is longer than {MAX_FILE} bytes")));
        }
        Ok(text)
    })();
    (stamp, text)
}

fn unreadable(path: &Path, error: &io::Error) -> SourceError {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied => SourceError::Denied(message),
        ErrorKind::InvalidData => SourceError::Malformed(message),
        _ => SourceError::Unreachable(message),
    }
}

fn bad(path: &Path, why: &str) -> SourceError {
    SourceError::Malformed(format!("{}: {why}", path.display()))
}

fn parse(text: &[u8], made_at: Timestamp) -> Result<Describe, String> {
    let file: Members = serde_json::from_slice(text).map_err(|e| shorten(&e))?;
    if file.members.len() > MAX_MEMBERS {
        return Err(format!("has {} members, and a fleet at most {MAX_MEMBERS}", file.members.len()));
    }
    let mut ids = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for entry in &file.members {
        if let Some(other) = ids.insert(&entry.instance_id, entry.address) {
            return Err(format!("{} stands twice, at {other} and {}", entry.instance_id, entry.address));
        }
        if let Some(other) = addresses.insert(entry.address, &entry.instance_id) {
            return Err(format!("{} stands twice, for {other} and {}", entry.address, entry.instance_id));
        }
    }
    let instances = file.members.into_iter().map(|entry| Instance {
        id: entry.instance_id,
        lifecycle: Lifecycle::InService,
        address: Some(entry.address),
        zone: entry.zone,
    });
    Ok(Describe { made_at, desired: file.desired, instances: instances.collect() })
}

/// The parser's words end with the line and the column, which is what must not be cut off.
fn shorten(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.chars().count() <= MAX_MESSAGE {
        return text;
    }
    let start: String = text.chars().take(MAX_MESSAGE).collect();
    format!("{start}… at line {} column {}", error.line(), error.column())
}

fn name<'de, D: Deserializer<'de>, T>(de: D) -> Result<T, D::Error>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let text = String::deserialize(de)?;
    text.parse().map_err(|e| de::Error::custom(format_args!("{text:?} {e}")))
}

fn zone<'de, D: Deserializer<'de>>(de: D) -> Result<Option<Zone>, D::Error> {
    let Some(text) = Option::<String>::deserialize(de)? else { return Ok(None) };
    text.parse().map(Some).map_err(|e| de::Error::custom(format_args!("the zone {text:?} {e}")))
}

fn address<'de, D: Deserializer<'de>>(de: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(de)?;
    let address: SocketAddr = text.parse().map_err(|_| {
        de::Error::custom(format_args!("{text:?} is not ip:port, like 10.0.0.1:5044 or [::1]:5044"))
    })?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(de::Error::custom(format_args!("{text:?} is no place to send to")));
    }
    Ok(address)
}

#[cfg(test)]
mod tests;
