//! The file system as the spool sees it: one flat folder with one subfolder, files that are read and written at offsets.
//!
//! No idea of segments or records.
//!
//! Invariant: nothing here is durable before `sync` (a file's bytes) and `sync_folder` (names) returned `Ok`.

mod disk;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;

use std::io;
use std::sync::Arc;

pub use disk::Disk;
use rustix::io::Errno;

/// What stands in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the folder.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// One folder. Names are plain file names, or `quarantine/` and a file name.
pub trait Files: Send + Sync {
    /// The files of the folder, or of its subfolder. A subfolder that is not there is empty.
    fn list(&self, subfolder: Option<&str>) -> io::Result<Vec<Entry>>;
    /// Makes a file that must not be there yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, which must not be taken.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Bytes that may still be written on this disk.
    fn free(&self) -> io::Result<u64>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Reads at an offset; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at an offset; may be short.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts the file.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Takes room for so many bytes from the beginning, without making the file longer.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes the bytes durable.
    fn sync(&self) -> io::Result<()>;
    /// All of it will be read soon.
    fn will_need(&self) {}
    /// Bytes in it.
    fn size(&self) -> io::Result<u64>;
}

/// Reads exactly this; an end before is `UnexpectedEof`.
pub(crate) fn read_exact(file: &dyn File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of it.
pub(crate) fn write_all(file: &dyn File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Is this an error that room would cure?
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero
    )
}

/// Is this what a device says of places that it cannot give back? Anything else may pass: rights, limits, the network.
pub(crate) fn is_media(error: &io::Error) -> bool {
    let of_media = [Errno::IO, Errno::NODATA, Errno::BADMSG, Errno::UCLEAN];
    error.raw_os_error().is_some_and(|code| of_media.iter().any(|errno| errno.raw_os_error() == code))
}
