//! What can fail, where, and with which error.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

/// What fails at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error (`EIO`).
    Io,
    /// The system does not permit it (`EACCES`).
    Denied,
    /// There is no room; half of a write is done.
    Full,
    /// The machine stops: this call and all after it fail, until [`Faulty::crash`].
    Stop,
}

/// Which calls can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Whatever changes something or syncs it.
    Change,
    /// A sync alone.
    Sync,
    /// Whatever reads.
    Read,
}

/// A call that fails each time, until [`Faulty::heal`].
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) what: &'static str,
    /// Whose; `None`: all files.
    pub(super) name: Option<String>,
    /// Of reads: where in the file.
    pub(super) range: Range<u64>,
    pub(super) fault: Fault,
}

impl Fault {
    pub(super) fn error(self, what: &str) -> io::Error {
        match self {
            Self::Io => Errno::IO.into(),
            Self::Denied => Errno::ACCESS.into(),
            Self::Full => io::Error::new(io::ErrorKind::StorageFull, format!("a fault at {what}")),
            Self::Stop => io::Error::other(format!("a fault at {what}")),
        }
    }
}
