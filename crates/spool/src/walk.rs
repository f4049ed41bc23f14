//! Walks over the records of one file, and over what is none.
//!
//! No idea of what records mean. Invariant: the items it yields lie one behind the other and cover the file from where it
//! started to its end; each byte is either in a record or in a bad place.

use std::io;
use std::ops::Range;

use crate::files::{File, is_media, read_exact};
use crate::frame::{HEAD, Header, MAGIC};

/// What is read at once while heads are looked at, and while bodies are.
const HEADS: usize = 4096;
const BODIES: usize = 256 * 1024;
/// What a disk cannot read, it cannot read in pieces of this size.
const SECTOR: usize = 4096;

/// What is in a place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A record. [`Walk::body`] has its body, if bodies are looked at.
    Record(Header),
    /// None. If it was a record whose head is whole, that.
    Bad(Option<Header>),
}

/// The walk.
pub(crate) struct Walk<'a> {
    file: &'a dyn File,
    salt: u32,
    len: u64,
    at: u64,
    with_bodies: bool,
    accept_unreadable: bool,
    window: Vec<u8>,
    window_at: u64,
    body: Range<usize>,
    /// Where the device gave nothing back, in order.
    unreadable: Vec<Range<u64>>,
}

impl<'a> Walk<'a> {
    /// From this offset. Sectors that the device cannot give back count as zeros if `accept_unreadable`, else they are an
    /// error. Any other error is one in either case.
    pub(crate) fn new(
        file: &'a dyn File,
        salt: u32,
        at: u64,
        with_bodies: bool,
        accept_unreadable: bool,
    ) -> io::Result<Self> {
        let len = file.size()?;
        let (window, unreadable) = (Vec::new(), Vec::new());
        let (window_at, body) = (0, 0..0);
        Ok(Self { file, salt, len, at, with_bodies, accept_unreadable, window, window_at, body, unreadable })
    }

    /// Bytes of the file.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Was something of this place not given back by the device?
    pub(crate) fn is_unreadable(&self, place: &Range<u64>) -> bool {
        self.unreadable.iter().any(|sector| sector.start < place.end && place.start < sector.end)
    }

    /// The body of the record that was yielded last.
    pub(crate) fn body(&self) -> &[u8] {
        &self.window[self.body.clone()]
    }

    /// What comes next, and where.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Range<u64>, Item)>> {
        let from = self.at;
        if from >= self.len {
            return Ok(None);
        }
        let Some(header) = self.head(from)? else {
            self.at = self.resync(from + 1)?;
            return Ok(Some((from..self.at, Item::Bad(None))));
        };
        let end = from + header.record_len();
        if end > self.len {
            self.at = self.len;
            return Ok(Some((from..self.len, Item::Bad(Some(header)))));
        }
        self.at = end;
        let item = if self.with_bodies && !self.check_body(from, &header)? {
            Item::Bad(Some(header))
        } else {
            Item::Record(header)
        };
        Ok(Some((from..end, item)))
    }

    fn check_body(&mut self, from: u64, header: &Header) -> io::Result<bool> {
        let len = header.len as usize;
        let start = self.fill(from + HEAD as u64, len)?;
        self.body = start..start + len;
        Ok(crc32fast::hash(self.body()) == header.body_crc)
    }

    /// The head of a record that begins here.
    fn head(&mut self, at: u64) -> io::Result<Option<Header>> {
        if at + HEAD as u64 > self.len {
            return Ok(None);
        }
        let start = self.fill(at, HEAD)?;
        let bytes = self.window[start..].first_chunk().expect("the window was filled for a head");
        Ok(Header::decode(bytes, self.salt, at))
    }

    /// Where the next record begins, from here on.
    fn resync(&mut self, mut at: u64) -> io::Result<u64> {
        while at + HEAD as u64 <= self.len {
            let start = self.fill(at, HEAD)?;
            let window = &self.window[start..];
            let found = window.windows(MAGIC.len()).position(|bytes| bytes == MAGIC);
            match found {
                Some(ahead) => {
                    at += ahead as u64;
                    if self.head(at)?.is_some() {
                        return Ok(at);
                    }
                    at += 1;
                }
                None => at += (window.len() - MAGIC.len() + 1) as u64,
            }
        }
        Ok(self.len)
    }

    /// Has these bytes in the window; where they begin there. They must lie in the file.
    fn fill(&mut self, at: u64, want: usize) -> io::Result<usize> {
        let end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + want as u64 > end {
            let ahead = if self.with_bodies { BODIES } else { HEADS };
            let len = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(ahead.max(want));
            self.window.clear();
            self.window.resize(len, 0);
            self.window_at = at;
            let result = match read_exact(self.file, &mut self.window, at) {
                Err(error) if self.accept_unreadable && is_media(&error) => self.read_sectors(at),
                result => result,
            };
            if let Err(error) = result {
                self.window.clear();
                return Err(error);
            }
        }
        Ok(usize::try_from(at - self.window_at).expect("the window is in memory"))
    }

    /// Reads what can be read, sector by sector of the device; the rest is zeros.
    fn read_sectors(&mut self, at: u64) -> io::Result<()> {
        let mut done = 0;
        while done < self.window.len() {
            let from = at + done as u64;
            let len = SECTOR - usize::try_from(from % SECTOR as u64).expect("less than a sector");
            let end = (done + len).min(self.window.len());
            let piece = &mut self.window[done..end];
            match read_exact(self.file, piece, from) {
                Err(error) if is_media(&error) => {
                    piece.fill(0);
                    let end = from + piece.len() as u64;
                    match self.unreadable.last_mut().filter(|last| (last.start..=last.end).contains(&from)) {
                        Some(last) => last.end = last.end.max(end),
                        None => self.unreadable.push(from..end),
                    }
                }
                result => result?,
            }
            done = end;
        }
        Ok(())
    }
}
