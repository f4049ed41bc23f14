//! Who has a file open: asked of `/proc`, as far as it may be read. Blocking; changes nothing.
//!
//! Not a lock: somebody may open a file a moment later. What is found is asked again before a file is
//! replaced, and nothing is given up that changed meanwhile.
//!
//! Invariant: if not everything could be read, it says so: what is not found open may be open then.

use std::collections::HashSet;
use std::fs::read_dir;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, readlinkat, statx};
use rustix::io::Errno;

use super::place::Id;

/// Open files that are looked at in one pass.
const MAX_OPEN: usize = 1_000_000;

/// Who is open.
#[derive(Debug, Default)]
pub(super) struct InUse {
    pub(super) open: HashSet<Id>,
    /// Those that are open for writing.
    pub(super) written: HashSet<Id>,
    /// Whether every process could be asked.
    pub(super) is_complete: bool,
}

/// Which of these files are open, in any process, this one included.
pub(super) fn in_use(wanted: &HashSet<Id>) -> InUse {
    // Mounted with `hidepid`, `/proc` does not even name the processes that may not be asked.
    let mut found = InUse { is_complete: Path::new("/proc/1").exists(), ..InUse::default() };
    let Ok(processes) = read_dir("/proc") else {
        found.is_complete = false;
        return found;
    };
    let mut left = MAX_OPEN;
    for process in processes.flatten() {
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let files = match read_dir(process.path().join("fd")) {
            Ok(files) => files,
            Err(error) => {
                // A process that ended meanwhile has nothing open.
                found.is_complete &= error.kind() != std::io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        for file in files.flatten() {
            if left == 0 {
                found.is_complete = false;
                return found;
            }
            left -= 1;
            look(&file.path(), wanted, &mut found);
        }
    }
    found
}

fn look(link: &Path, wanted: &HashSet<Id>, found: &mut InUse) {
    // Who may override the modes of files, but not trace other processes, is shown the links and not where
    // they lead. One that was closed meanwhile leads nowhere: that is no refusal.
    let is_refused = |errno| matches!(errno, Errno::ACCESS | Errno::PERM) && link.symlink_metadata().is_ok();
    // Sockets and pipes have no path; most of what is open is one of them.
    match readlinkat(CWD, link, Vec::new()) {
        Ok(to) if to.as_bytes().starts_with(b"/") => {}
        Ok(_) => return,
        Err(errno) => {
            found.is_complete &= !is_refused(errno);
            return;
        }
    }
    // Not asked of a server: one that does not answer must not hold us up.
    let stat = match statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::INO) {
        Ok(stat) => stat,
        Err(errno) => {
            found.is_complete &= !is_refused(errno);
            return;
        }
    };
    let id = (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
    if !wanted.contains(&id) {
        return;
    }
    found.open.insert(id);
    // The mode of the link says how the file was opened: `l-wx` for writing.
    if std::fs::symlink_metadata(link).is_ok_and(|m| is_writing(&m)) {
        found.written.insert(id);
    }
}

fn is_writing(link: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    link.mode() & 0o200 != 0
}
