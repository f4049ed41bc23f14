//! The file that is rendered: compared, written beside, and renamed over the old one. Blocking.
//!
//! Not a decision: what is written and when is the planner's and the job's affair.
//!
//! Invariants: the file is only ever replaced by a rename of a whole, synced one with its owner and mode. A
//! link is followed, not replaced. The new file is in the same folder, so it is on the same file system.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Longest file that is compared, in bytes; a longer one is not what we wrote.
const MAX_FILE: u64 = 32 * 1024 * 1024;
/// Begins the name of the new file. Hidden, so that the `conf.d/*.conf` of most programs does not read it.
const PREFIX: &str = ".pikepole-new.";
/// Ends it, unless a check has to know the file by its ending: to the globs of Go a hidden file is one like any.
const SUFFIX: &str = ".tmp";

/// Where an output really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    path: PathBuf,
    candidate: PathBuf,
    /// What the new file would be called if it had a check, or none: somebody may have changed that.
    other: PathBuf,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
}

impl Place {
    /// Follows links. `keeps_ending`: the new file ends like the old one. The error names the file.
    pub(crate) fn find(output: &Path, keeps_ending: bool) -> Result<Self, String> {
        let failed = |e: io::Error| format!("cannot use {}: {e}", output.display());
        let is_link = fs::symlink_metadata(output).is_ok_and(|m| m.is_symlink());
        let path = if is_link { fs::canonicalize(output).map_err(failed)? } else { output.to_path_buf() };
        let name = path.file_name().ok_or_else(|| format!("{} is no file", output.display()))?;
        let mut plain = OsString::from(PREFIX);
        plain.push(name);
        let mut suffixed = plain.clone();
        suffixed.push(SUFFIX);
        let (candidate, other) = if keeps_ending { (plain, suffixed) } else { (suffixed, plain) };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        if !folder.is_dir() {
            return Err(format!("the folder {} is missing", folder.display()));
        }
        let (candidate, other) = (folder.join(candidate), folder.join(other));
        let (owner, mode) = match fs::metadata(&path) {
            Ok(found) if !found.is_file() => return Err(format!("{} is no regular file", path.display())),
            Ok(found) => (Some((found.uid(), found.gid())), Some(found.mode() & 0o7777)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (None, None),
            Err(e) => return Err(failed(e)),
        };
        Ok(Self { path, candidate, other, owner, mode })
    }

    /// Where the new file stands until it takes the old one's place.
    pub(crate) fn candidate(&self) -> &Path {
        &self.candidate
    }

    /// The file as it is; `None`: there is none, or something that we did not write.
    pub(crate) fn current(&self) -> Result<Option<Vec<u8>>, String> {
        let failed = |e: io::Error| format!("cannot read {}: {e}", self.path.display());
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        Ok((bytes.len() as u64 <= MAX_FILE).then_some(bytes))
    }

    /// Writes the new file beside the old one, with its owner and mode, and syncs it.
    pub(crate) fn stage(&self, bytes: &[u8], new_mode: u32) -> Result<(), String> {
        let shown = self.candidate.display();
        let staged = (|| {
            // Created anew, so that nobody else's link is followed; readable for others only when whole.
            let options = OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
            let mut file = options.open(&self.candidate)?;
            file.write_all(bytes)?;
            if let Some((uid, gid)) = self.owner {
                let made = file.metadata()?;
                if (made.uid(), made.gid()) != (uid, gid) {
                    fchown(&file, Some(uid), Some(gid))?;
                }
            }
            file.set_permissions(fs::Permissions::from_mode(self.mode.unwrap_or(new_mode)))?;
            file.sync_all()
        })();
        staged.map_err(|e: io::Error| {
            self.discard();
            format!("cannot write {shown}: {e}")
        })
    }

    /// Puts the new file in the old one's place.
    pub(crate) fn commit(&self) -> Result<(), String> {
        let renamed = fs::rename(&self.candidate, &self.path);
        renamed.map_err(|e| {
            self.discard();
            format!("cannot replace {}: {e}", self.path.display())
        })?;
        let folder = self.candidate.parent().unwrap_or_else(|| Path::new("."));
        // The file stands; after a power cut it is compared again.
        if let Err(error) = File::open(folder).and_then(|f| f.sync_all()) {
            tracing::warn!(folder = %folder.display(), %error, "cannot sync the output's folder");
        }
        Ok(())
    }

    /// Removes the new file. A failure leaves a hidden file that the next attempt removes.
    pub(crate) fn discard(&self) {
        for file in [&self.candidate, &self.other] {
            match fs::remove_file(file) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::debug!(file = %file.display(), %error, "cannot remove"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn replace(path: &Path, text: &str) -> Result<(), String> {
        let place = Place::find(path, false)?;
        place.discard();
        place.stage(text.as_bytes(), 0o640)?;
        place.commit()
    }

    #[test]
    fn a_file_keeps_its_mode_and_owner_and_a_new_one_gets_what_is_configured() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("f.yml");
        replace(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        }
        let before = fs::metadata(&path).unwrap();
        replace(&path, "two").unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_link_to_another_file_system_is_followed() {
        let (folder, other) = (TempDir::new().unwrap(), TempDir::new_in("/dev/shm").unwrap());
        let (link, real) = (folder.path().join("f.yml"), other.path().join("real.yml"));
        fs::write(&real, "old").unwrap();
        symlink(&real, &link).unwrap();
        replace(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    }

    #[test]
    fn where_nothing_can_be_written_the_sentence_says_so() {
        let folder = TempDir::new().unwrap();
        let dangling = folder.path().join("dangling");
        symlink("/no/such/file", &dangling).unwrap();
        for (path, words) in [
            (folder.path().join("absent/f.yml"), "is missing"),
            (PathBuf::from("/proc/pikepole.yml"), "cannot write"), // read-only even for root
            (PathBuf::from("/dev/null"), "no regular file"),
            (folder.path().into(), "no regular file"),
            (dangling, "cannot use"),
        ] {
            let error = replace(&path, "x").unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_link_in_the_candidates_place_is_not_followed() {
        let folder = TempDir::new().unwrap();
        let (path, victim) = (folder.path().join("f.yml"), folder.path().join("victim"));
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, Place::find(&path, false).unwrap().candidate()).unwrap();
        replace(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
