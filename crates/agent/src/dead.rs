//! Dead letters: events that nobody can take, kept for a person to look at.
//!
//! A file of JSON lines, and one older generation of it:
//!
//! ```text
//! {"at":"2026-11-22T10:00:00.123Z","source":"relay 127.0.0.1:50312","reason":"…","event":"…"}
//! ```
//!
//! What is no UTF-8 is `event_base64` instead of `event`.
//!
//! Not the spool: nothing reads it back.
//!
//! Invariants: [`DeadLetters::keep`] returns when the letters are on the disk. What a full disk took half of is cut
//! off again. The two files are bounded; what has to make room is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pikepole_api::time::Rfc3339;
use pikepole_fleet::Timestamp;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::clock::Clock;

const NAME: &str = "dead-letters.ndjson";
const OLDER: &str = "dead-letters.1.ndjson";
/// Bytes after which a new file is begun: a thousand of the longest lines a shipper usually sends.
const MAX_FILE: u64 = 64 << 20;
/// Before a disk that refused is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// One event that cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Where it came from.
    pub(crate) source: String,
    /// A sentence.
    pub(crate) reason: String,
    /// Its bytes.
    pub(crate) event: Vec<u8>,
}

/// The file, shared.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetters {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    max_file: u64,
    open: Mutex<Option<Open>>,
    /// Who writes. The others wait where they can be dropped with their letters, not on threads.
    turn: Arc<Semaphore>,
    kept: AtomicU64,
    given_up: AtomicU64,
    /// Why the last try failed.
    failing: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    at: Rfc3339,
    source: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_base64: Option<String>,
}

impl DeadLetters {
    /// The files are in this folder; nothing is touched before the first letter.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::with_limit(folder, MAX_FILE)
    }

    fn with_limit(folder: &Path, max_file: u64) -> Self {
        let (kept, given_up, turn) = (AtomicU64::new(0), AtomicU64::new(0), Arc::new(Semaphore::new(1)));
        let (open, failing) = (Mutex::new(None), Mutex::new(None));
        let shared = Shared { folder: folder.into(), max_file, open, turn, kept, given_up, failing };
        Self { shared: Arc::new(shared) }
    }

    /// The file that is written.
    pub(crate) fn path(&self) -> PathBuf {
        self.shared.folder.join(NAME)
    }

    /// Letters kept since the start.
    pub(crate) fn kept(&self) -> u64 {
        self.shared.kept.load(Ordering::Relaxed)
    }

    /// Letters that had to make room since the start.
    pub(crate) fn given_up(&self) -> u64 {
        self.shared.given_up.load(Ordering::Relaxed)
    }

    /// Why the last try to keep letters failed; whoever has them tries again. `None`: it did not.
    pub(crate) fn failing(&self) -> Option<String> {
        self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Somebody tried to keep letters, and this came of it.
    pub(crate) fn tried(&self, result: &io::Result<()>) {
        let failing = result.as_ref().err().map(ToString::to_string);
        *self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner) = failing;
    }

    /// Keeps letters; on the disk when it returns. Blocks.
    pub(crate) fn keep(&self, letters: &[Letter], at: Timestamp) -> io::Result<()> {
        let mut text = Vec::new();
        for letter in letters {
            let event = std::str::from_utf8(&letter.event).ok();
            let line = Line {
                at: Rfc3339(at),
                source: &letter.source,
                reason: &letter.reason,
                event,
                event_base64: event.is_none().then(|| STANDARD.encode(&letter.event)),
            };
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        // A thread that panicked in here has at worst left half a line, which the next start ends.
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.append(&mut open, &text);
        if result.is_ok() {
            self.shared.kept.fetch_add(letters.len() as u64, Ordering::Relaxed);
        }
        result
    }

    /// Keeps letters, however long that takes while the disk refuses; `false`: the agent stops.
    pub(crate) async fn keep_at_last(&self, letters: Vec<Letter>, clock: &Clock) -> bool {
        let letters = Arc::new(letters);
        loop {
            let (this, at, some) = (self.clone(), clock.now(), Arc::clone(&letters));
            let Ok(turn) = Arc::clone(&self.shared.turn).acquire_owned().await else { return false };
            let trying = tokio::task::spawn_blocking(move || (this.keep(&some, at), turn).0);
            let Ok(kept) = trying.await else { return false };
            self.tried(&kept);
            match kept {
                Ok(()) => return true,
                Err(error) => {
                    tracing::error!(%error, "dead letters cannot be kept; tried again");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn append(&self, open: &mut Option<Open>, text: &[u8]) -> io::Result<()> {
        let path = self.shared.folder.join(NAME);
        let mut current = match open.take() {
            Some(current) => current,
            None => Open::at(&path)?,
        };
        if current.len > 0 && current.len + text.len() as u64 > self.shared.max_file {
            let older = self.shared.folder.join(OLDER);
            let lost = File::open(&older).map_or(Ok(0), lines)?;
            std::fs::rename(&path, &older)?;
            self.shared.given_up.fetch_add(lost, Ordering::Relaxed);
            if lost > 0 {
                tracing::error!(letters = lost, "dead letters gave way to newer ones");
            }
            current = Open::at(&path)?;
        }
        current.extend(text, write_and_sync)?;
        *open = Some(current);
        Ok(())
    }
}

impl Open {
    /// Opens the file, behind whatever stands there; a half line of a crash is ended.
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut len = file.seek(SeekFrom::End(0))?;
        if len == 0 {
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
        } else {
            let mut last = [0];
            file.read_exact_at(&mut last, len - 1)?;
            if last != [b'\n'] {
                file.write_all(b"\n")?;
                len += 1;
            }
        }
        Ok(Self { file, len })
    }

    /// Adds all of it or nothing. After an error the file has to be opened anew.
    fn extend(
        &mut self,
        text: &[u8],
        write: impl FnOnce(&mut File, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Err(error) = write(&mut self.file, text) {
            // Left there, half a batch would grow with each try, and real letters would make room for it. If it
            // cannot be cut off, opening ends the half line.
            self.file.set_len(self.len).ok();
            return Err(error);
        }
        self.len += text.len() as u64;
        Ok(())
    }
}

fn write_and_sync(file: &mut File, text: &[u8]) -> io::Result<()> {
    file.write_all(text)?;
    file.sync_data()
}

fn lines(file: File) -> io::Result<u64> {
    let (mut reader, mut count) = (BufReader::new(file), 0);
    while reader.skip_until(b'\n')? > 0 {
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn letter(event: &[u8]) -> Letter {
        Letter { source: "relay 127.0.0.1:9".into(), reason: "not JSON".into(), event: event.into() }
    }

    fn read(folder: &Path, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
    }

    #[test]
    fn letters_are_lines_that_say_where_from_and_why_whatever_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let letters = DeadLetters::new(folder.path());
        letters.keep(&[letter(b"{\"half"), letter(&[0xff, 0])], Timestamp::from_millis(5)).unwrap();
        let lines = read(folder.path(), NAME);
        assert_eq!((lines.len(), letters.kept()), (2, 2));
        assert_eq!((&lines[0]["event"], &lines[0]["reason"]), (&"{\"half".into(), &"not JSON".into()));
        assert_eq!(
            (&lines[1]["event_base64"], &lines[1]["at"]),
            (&"/wA=".into(), &"1970-01-01T00:00:00.005Z".into())
        );
    }

    #[test]
    fn a_line_that_a_crash_tore_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), "{\"at\":\"20").unwrap();
        DeadLetters::new(folder.path()).keep(&[letter(b"x")], Timestamp::from_millis(5)).unwrap();
        let lines = read(folder.path(), NAME);
        assert_eq!((&lines[0], &lines[1]["event"]), (&Value::Null, &"x".into()));
    }

    #[test]
    fn two_files_are_all_there_is_and_what_gave_way_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let letters = DeadLetters::with_limit(folder.path(), 1000);
        for _ in 0..7 {
            letters.keep(&[letter(&[b'x'; 300])], Timestamp::from_millis(5)).unwrap();
        }
        let counts = [NAME, OLDER].map(|name| read(folder.path(), name).len() as u64);
        assert_eq!(counts.iter().sum::<u64>() + letters.given_up(), letters.kept());
        assert!(letters.given_up() > 0 && counts.iter().all(|count| *count > 0), "{counts:?}");
    }

    #[test]
    fn what_a_full_disk_took_half_of_does_not_stay_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut open = Open::at(&path).unwrap();
        open.extend(b"first\n", write_and_sync).unwrap();
        for _ in 0..3 {
            let full = |file: &mut File, text: &[u8]| {
                file.write_all(&text[..7])?;
                Err(io::ErrorKind::StorageFull.into())
            };
            open.extend(b"a line that does not fit\n", full).unwrap_err();
            assert_eq!(std::fs::read(&path).unwrap(), b"first\n");
            open = Open::at(&path).unwrap();
        }
        open.extend(b"second\n", write_and_sync).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), open.len), (b"first\nsecond\n".to_vec(), 13));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_the_next_try_counts() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("file/below");
        std::fs::write(folder.path().join("file"), "").unwrap();
        let letters = DeadLetters::new(&place);
        letters.keep(&[letter(b"x")], Timestamp::from_millis(5)).unwrap_err();
        std::fs::remove_file(folder.path().join("file")).unwrap();
        letters.keep(&[letter(b"x")], Timestamp::from_millis(5)).unwrap();
        assert_eq!((letters.kept(), read(&place, NAME).len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn letters_that_wait_for_the_disk_say_why_until_they_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let letters = DeadLetters::new(&file);
        let (keeping, clock) = (letters.clone(), Clock::from_fn(|| Timestamp::from_millis(5)));
        let kept = tokio::spawn(async move { keeping.keep_at_last(vec![letter(b"x")], &clock).await });
        while letters.failing().is_none() {
            sleep(RETRY / 2).await;
        }
        std::fs::remove_file(&file).unwrap();
        assert!(kept.await.unwrap());
        assert_eq!((letters.failing(), letters.kept()), (None, 1));
    }
}
