//! One file that is read: opened, looked at, read from a position, compressed or not. Blocking.
//!
//! Not a decision about it: what is found here is judged in `identity.rs`.
//!
//! Invariant: nothing is written, and no read takes longer than one quantum, however much must be
//! decompressed first.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, makedev, open, statx};

use super::identity::{Beginning, FileId, Look, PREFIX, Position, TAIL, Tail};

/// Bytes that are decompressed only to be skipped, in one go.
const SKIP: u64 = 16 << 20;
/// What the decoder reads at once.
const GZ_READ: usize = 128 * 1024;
/// And for the first bytes.
const HEAD_READ: usize = 4 * 1024;

/// What the system says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) id: FileId,
    pub(super) size: u64,
    /// Nanoseconds since 1970.
    pub(super) modified: i128,
    pub(super) links: u32,
    /// Bytes on the disk.
    pub(super) allocated: u64,
    pub(super) is_regular: bool,
    pub(super) is_folder: bool,
}

/// Of a path; links are followed.
pub(super) fn stat_path(path: &Path) -> io::Result<Stat> {
    Ok(stat(&statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::BTIME)?))
}

/// Of an open file.
pub(super) fn stat_file(file: impl AsFd) -> io::Result<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(stat(&statx(file.as_fd(), "", AtFlags::EMPTY_PATH, wanted)?))
}

fn stat(s: &Statx) -> Stat {
    let has_born = StatxFlags::from_bits_retain(s.stx_mask).contains(StatxFlags::BTIME);
    let born = i128::from(s.stx_btime.tv_sec) * 1_000_000_000 + i128::from(s.stx_btime.tv_nsec);
    let kind = FileType::from_raw_mode(s.stx_mode.into());
    Stat {
        id: FileId {
            dev: makedev(s.stx_dev_major, s.stx_dev_minor),
            ino: s.stx_ino,
            born: if has_born && !without_birth() { u64::try_from(born).unwrap_or(0) } else { 0 },
        },
        size: s.stx_size,
        modified: i128::from(s.stx_mtime.tv_sec) * 1_000_000_000 + i128::from(s.stx_mtime.tv_nsec),
        links: s.stx_nlink,
        allocated: s.stx_blocks.saturating_mul(512),
        is_regular: kind == FileType::RegularFile,
        is_folder: kind == FileType::Directory,
    }
}

#[cfg(not(test))]
const fn without_birth() -> bool {
    false
}

#[cfg(test)]
thread_local! {
    /// Whether file systems of this thread's tests tell no time of birth.
    pub(super) static WITHOUT_BIRTH: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn without_birth() -> bool {
    WITHOUT_BIRTH.get()
}

/// A file that is open.
#[derive(Debug)]
pub(super) enum Source {
    Plain(File),
    Gz(Box<Gz>),
}

/// What one read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// So many bytes from the position on; `is_end`: a compressed file has no more.
    Bytes { len: usize, is_end: bool },
    /// Still skipping to the position.
    Busy,
    /// It ends before the position.
    Short,
    /// What is before the position is not what it was.
    Differs,
}

impl Source {
    /// Opens a path, if the file there is still this one.
    pub(super) fn open(path: &Path, id: FileId, is_gz: bool) -> io::Result<Self> {
        // `NONBLOCK`: a pipe in its place must not hold us up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open(path, flags, Mode::empty())?);
        let stat = stat_file(&file)?;
        if !stat.is_regular || !stat.id.is(&id) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(if is_gz { Self::Gz(Box::new(Gz::new(file))) } else { Self::Plain(file) })
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Plain(file) => file,
            Self::Gz(gz) => &gz.file,
        }
    }

    /// Reads what is at a position.
    pub(super) fn fill(&mut self, position: &Position, buf: &mut [u8]) -> io::Result<Filled> {
        match self {
            Self::Plain(file) => {
                let len = read_at(file, position.offset, buf)?;
                Ok(Filled::Bytes { len, is_end: false })
            }
            Self::Gz(gz) => gz.fill(position, buf),
        }
    }

    /// Compares it with what is known. The bytes before the position come along if it fits.
    pub(super) fn look(
        &mut self,
        size: u64,
        beginning: &Beginning,
        position: &Position,
    ) -> io::Result<(Look, Vec<u8>)> {
        match self {
            Self::Plain(file) => look(file, size, beginning, position),
            Self::Gz(gz) => Ok((gz.look(beginning)?, Vec::new())),
        }
    }

    /// Its first bytes, of a compressed one those that are in it.
    pub(super) fn head(&mut self) -> io::Result<Vec<u8>> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gz(gz) => return gz.head(),
        };
        let mut head = vec![0; PREFIX];
        let len = read_at(file, 0, &mut head)?;
        head.truncate(len);
        Ok(head)
    }

    /// Whether it has a decoder, which takes some memory.
    pub(super) fn is_decoding(&self) -> bool {
        matches!(self, Self::Gz(gz) if gz.decoder.is_some())
    }

    /// Gives back the memory that reading takes. What is read next is decompressed from the beginning.
    pub(super) fn rest(&mut self) {
        if let Self::Gz(gz) = self {
            gz.forget();
        }
    }

    /// Where the data after a hole begins, if there is a hole at this offset.
    pub(super) fn after_hole(&self, offset: u64) -> u64 {
        let Self::Plain(file) = self else { return offset };
        rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)).unwrap_or(offset).max(offset)
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buf.len() {
        match file.read_at(&mut buf[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn look(file: &File, size: u64, beginning: &Beginning, position: &Position) -> io::Result<(Look, Vec<u8>)> {
    let Beginning { base, bytes } = beginning;
    if *base > 0 {
        let mut first = [1];
        if read_at(file, 0, &mut first)? == 0 || first != [0] {
            return Ok((Look::Differs, Vec::new()));
        }
    }
    let mut found = vec![0; bytes.len()];
    let len = read_at(file, *base, &mut found)?;
    if found[..len] != bytes[..len] || (len == 0 && !bytes.is_empty()) {
        return Ok((Look::Differs, Vec::new()));
    }
    if size < position.offset || len < bytes.len() {
        return Ok((Look::Shorter, Vec::new()));
    }
    let wanted = usize::from(position.tail.len).min(TAIL);
    let mut before = vec![0; wanted];
    let len = read_at(file, position.offset.saturating_sub(wanted as u64), &mut before)?;
    let fits = len == wanted && Tail::of(&before) == position.tail;
    Ok((if fits { Look::Fits } else { Look::Differs }, before))
}

/// Reads a file from its beginning, beside whoever else reads it.
#[derive(Debug)]
struct Cursor {
    file: File,
    at: u64,
}

impl io::Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buf, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

type Decoder = MultiGzDecoder<BufReader<Cursor>>;

/// A compressed file. It can only be read forward.
#[derive(Debug)]
pub(super) struct Gz {
    file: File,
    decoder: Option<Decoder>,
    /// What the decoder gave and nobody took; its first byte is at `at`.
    window: Vec<u8>,
    at: u64,
    /// The last bytes before `at`.
    before: Vec<u8>,
    is_end: bool,
    /// Told when what came before it is taken.
    failed: Option<io::Error>,
}

impl Gz {
    fn new(file: File) -> Self {
        Self {
            file,
            decoder: None,
            window: Vec::new(),
            at: 0,
            before: Vec::new(),
            is_end: false,
            failed: None,
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.forget();
        self.decoder = Some(self.decoder(GZ_READ)?);
        Ok(())
    }

    /// A decoder at the beginning.
    fn decoder(&self, capacity: usize) -> io::Result<Decoder> {
        let cursor = Cursor { file: self.file.try_clone()?, at: 0 };
        Ok(MultiGzDecoder::new(BufReader::with_capacity(capacity, cursor)))
    }

    fn forget(&mut self) {
        (self.decoder, self.window, self.before) = (None, Vec::new(), Vec::new());
        (self.at, self.is_end, self.failed) = (0, false, None);
    }

    /// The first bytes that are in it; an error if it is not whole and has less.
    fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(PREFIX);
        self.decoder(HEAD_READ)?.take(PREFIX as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Whether its trailer says that it has exactly so many bytes. Of several members it tells only the
    /// last one's size, which then does not fit.
    fn holds(&self, offset: u64) -> bool {
        let mut size = [0; 4];
        let len = stat_file(&self.file).map_or(0, |stat| stat.size);
        let is_read = len > 18 && self.file.read_exact_at(&mut size, len - 4).is_ok();
        is_read && u64::from(u32::from_le_bytes(size)) == offset & 0xffff_ffff
    }

    fn fill(&mut self, position: &Position, buf: &mut [u8]) -> io::Result<Filled> {
        let offset = position.offset;
        if self.decoder.is_none() && offset > 0 && self.holds(offset) {
            return Ok(Filled::Bytes { len: 0, is_end: true });
        }
        if (self.decoder.is_none() && self.failed.is_none()) || self.at > offset {
            self.restart()?;
        }
        let mut skipped = 0;
        loop {
            let ahead = usize::try_from(offset - self.at).unwrap_or(usize::MAX).min(self.window.len());
            let was_before = self.at < offset;
            self.drop_front(ahead);
            skipped += ahead as u64;
            if was_before && self.at == offset && Tail::of(self.before_position(position)) != position.tail {
                return Ok(Filled::Differs);
            }
            let is_there = self.at == offset;
            if is_there && (self.window.len() >= buf.len() || self.is_end) {
                let len = self.window.len().min(buf.len());
                buf[..len].copy_from_slice(&self.window[..len]);
                return Ok(Filled::Bytes { len, is_end: self.is_end && len == self.window.len() });
            }
            if let Some(error) = self.failed.take() {
                if is_there && self.window.contains(&b'\n') {
                    self.failed = Some(error);
                    let len = self.window.len().min(buf.len());
                    buf[..len].copy_from_slice(&self.window[..len]);
                    return Ok(Filled::Bytes { len, is_end: false });
                }
                return Err(error);
            }
            if self.is_end {
                return Ok(Filled::Short);
            }
            if skipped > SKIP {
                return Ok(Filled::Busy);
            }
            self.decode();
        }
    }

    fn before_position(&self, position: &Position) -> &[u8] {
        let len = usize::from(position.tail.len).min(self.before.len());
        &self.before[self.before.len() - len..]
    }

    fn drop_front(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let last = &self.window[count.saturating_sub(TAIL)..count];
        self.before.extend_from_slice(last);
        let excess = self.before.len().saturating_sub(TAIL);
        self.before.drain(..excess);
        self.window.drain(..count);
        self.at += count as u64;
    }

    fn decode(&mut self) {
        let Some(decoder) = &mut self.decoder else { return };
        let len = self.window.len();
        self.window.resize(len + GZ_READ, 0);
        let read = decoder.read(&mut self.window[len..]);
        self.window.truncate(len + read.as_ref().map_or(0, |n| *n));
        match read {
            Ok(0) => self.is_end = true,
            Ok(_) => {}
            Err(error) => {
                self.decoder = None;
                self.failed = Some(error);
            }
        }
    }

    /// Compares only the beginning; what is before the position is compared on the way to it.
    fn look(&self, beginning: &Beginning) -> io::Result<Look> {
        if *beginning == Beginning::default() {
            return Ok(Look::Fits);
        }
        let mut decoder = self.decoder(HEAD_READ)?;
        if beginning.base > 0 {
            let mut first = [1];
            decoder.read_exact(&mut first)?;
            if first != [0] || beginning.base > SKIP {
                return Ok(Look::Differs);
            }
            io::copy(&mut (&mut decoder).take(beginning.base - 1), &mut io::sink())?;
        }
        let mut found = Vec::with_capacity(beginning.bytes.len());
        decoder.take(beginning.bytes.len() as u64).read_to_end(&mut found)?;
        let known = &beginning.bytes;
        Ok(match found.len() {
            0 => Look::Differs,
            len if known[..len] != found => Look::Differs,
            len if len < known.len() => Look::Shorter,
            _ => Look::Fits,
        })
    }
}
