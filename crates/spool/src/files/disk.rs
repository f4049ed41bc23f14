//! The real file system.
//!
//! Invariant: no name leads out of the folder; nothing is opened through a symlink.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, fadvise, fallocate, fdatasync, open, statvfs};
use rustix::io::Errno;

use super::{Entry, File, Files};

/// A folder on a disk. Its files are readable by their owner alone: logs are personal data.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Takes a folder; makes it if it is not there.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(&folder)?;
        make(&folder.join(crate::quarantine::FOLDER))?;
        Ok(Self { folder })
    }

    fn at(&self, name: &str, flags: OFlags) -> io::Result<Arc<dyn File>> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = open(self.folder.join(name), flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Arc::new(DiskFile(fs::File::from(fd))))
    }
}

impl Files for Disk {
    fn list(&self, subfolder: Option<&str>) -> io::Result<Vec<Entry>> {
        let folder = subfolder.map_or_else(|| self.folder.clone(), |name| self.folder.join(name));
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if subfolder.is_some() && e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                found.push(Entry { name, len: meta.len() });
            }
        }
        Ok(found)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.at(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.at(name, OFlags::empty())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        fs::File::open(&self.folder)?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let stat = statvfs(&self.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, len) {
            // Zeros take the room where the file system cannot, or some sandbox does not let it; the first writer cuts them off.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                let zeros = vec![0; 64 * 1024];
                (0..len.div_ceil(zeros.len() as u64))
                    .try_for_each(|n| super::write_all(self, &zeros, n * zeros.len() as u64))
            }
            result => Ok(result?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn will_need(&self) {
        // Only advice.
        let _slower_without = fadvise(&self.0, 0, None, Advice::WillNeed);
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
