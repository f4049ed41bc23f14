//! A block of raw lines: how it is laid out in the spool, and the events that are made of it on the way out.
//!
//! ```text
//! block    version u8 = 1, then sections until its end
//! section  1 u8, length of the header u32, header, lines u32, length of the lines u32, lines
//! header   generation u64, offset of the first line u64, then as u32 + bytes each:
//!          path, agent, host, beat, beat_version, fields (a JSON object, or nothing)
//! line     LEB128 of length << 2 | flags, then its bytes; flags: 1 cut, 2 a carriage return was left out
//! ```
//!
//! Numbers are little-endian. Lines of a section follow one another in their file: the next one begins
//! after this one, its carriage return and its `\n`. Where that does not hold a new section begins.
//!
//! Not UTF-8: the bytes are those of the file. JSON must be UTF-8, so on the way out, and only there, each
//! ill-formed part becomes U+FFFD.
//!
//! Invariant: no body, whatever is in it, makes it panic or allocate more than the body's own length; what
//! is malformed is found before its first event is given.

mod json;

use pikepole_fleet::Timestamp;

/// The `kind` of such a block in the spool.
pub(crate) const LINES: u8 = 2;

const VERSION: u8 = 1;
const SECTION: u8 = 1;
const CUT: u64 = 1;
const CR: u64 = 2;
const FLAG_BITS: u32 = 2;
/// Longest header: paths have at most 4 KiB, fields at most 16 KiB.
const MAX_HEADER: usize = 256 * 1024;

/// The body of a block is not what we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed block of lines at byte {0}")]
pub(crate) struct Malformed(usize);

/// What the lines of a section have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<'a> {
    pub(super) generation: u64,
    pub(super) offset: u64,
    pub(super) path: &'a [u8],
    pub(super) agent: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) beat: &'a [u8],
    pub(super) beat_version: &'a [u8],
    pub(super) fields: &'a [u8],
}

/// Writes the body of one block, line by line.
#[derive(Debug)]
pub(super) struct Writer {
    body: Vec<u8>,
    lines: u32,
    /// Where the numbers of the open section stand.
    counts_at: Option<usize>,
    section_lines: u32,
}

impl Writer {
    /// An empty body.
    pub(super) fn new(capacity: usize) -> Self {
        let mut body = Vec::with_capacity(capacity);
        body.push(VERSION);
        Self { body, lines: 0, counts_at: None, section_lines: 0 }
    }

    /// Begins a section.
    pub(super) fn section(&mut self, header: &Header<'_>) {
        self.close();
        self.body.push(SECTION);
        let at = self.body.len();
        self.body.extend_from_slice(&[0; 4]);
        self.body.extend_from_slice(&header.generation.to_le_bytes());
        self.body.extend_from_slice(&header.offset.to_le_bytes());
        let Header { path, agent, host, beat, beat_version, fields, .. } = header;
        for bytes in [path, agent, host, beat, beat_version, fields] {
            self.body.extend_from_slice(&le32(bytes.len()));
            self.body.extend_from_slice(bytes);
        }
        let len = le32(self.body.len() - at - 4);
        self.body[at..at + 4].copy_from_slice(&len);
        self.counts_at = Some(self.body.len());
        self.section_lines = 0;
        self.body.extend_from_slice(&[0; 8]);
    }

    /// Adds a line to the section.
    pub(super) fn line(&mut self, text: &[u8], is_cut: bool, has_cr: bool) {
        let flags = if is_cut { CUT } else { 0 } | if has_cr { CR } else { 0 };
        let mut n = (text.len() as u64) << FLAG_BITS | flags;
        while n >= 0x80 {
            self.body.push(n.to_le_bytes()[0] | 0x80);
            n >>= 7;
        }
        self.body.push(n.to_le_bytes()[0]);
        self.body.extend_from_slice(text);
        self.lines += 1;
        self.section_lines += 1;
    }

    /// Lines so far.
    pub(super) fn lines(&self) -> u32 {
        self.lines
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// The whole body.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.body
    }

    fn close(&mut self) {
        if let Some(at) = self.counts_at.take() {
            let len = le32(self.body.len() - at - 8);
            self.body[at..at + 4].copy_from_slice(&self.section_lines.to_le_bytes());
            self.body[at + 4..at + 8].copy_from_slice(&len);
        }
    }
}

fn le32(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

/// One line of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    pub(super) offset: u64,
    pub(super) is_cut: bool,
    pub(super) has_cr: bool,
}

/// Gives the events of a block, in order, each as the JSON that Filebeat would send. `at` is the block's, in
/// milliseconds since 1970.
pub(crate) fn events(body: &[u8], at: u64, each: &mut impl FnMut(&[u8])) -> Result<(), Malformed> {
    check(body)?;
    let timestamp = pikepole_api::time::format(Timestamp::from_millis(at));
    let mut out = Vec::with_capacity(4096);
    let mut reader = Reader::new(body)?;
    while let Some(section) = reader.section()? {
        let event = json::Event::new(&section.header, &timestamp);
        section.lines(|line| {
            out.clear();
            event.write(&line, &mut out);
            each(&out);
        })?;
    }
    Ok(())
}

/// The lines of a block as they stand in their files.
#[cfg(test)]
pub(super) fn raw<'a>(body: &'a [u8], mut each: impl FnMut(&Header<'a>, Line<'a>)) -> Result<(), Malformed> {
    let mut reader = Reader::new(body)?;
    while let Some(section) = reader.section()? {
        section.lines(|line| each(&section.header, line))?;
    }
    Ok(())
}

fn check(body: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(body)?;
    while let Some(section) = reader.section()? {
        section.lines(|_| ())?;
    }
    Ok(())
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

struct Section<'a> {
    header: Header<'a>,
    count: u32,
    lines: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(body: &'a [u8]) -> Result<Self, Malformed> {
        if body.first() == Some(&VERSION) { Ok(Self { body, at: 1 }) } else { Err(Malformed(0)) }
    }

    fn section(&mut self) -> Result<Option<Section<'a>>, Malformed> {
        if self.at == self.body.len() {
            return Ok(None);
        }
        let [tag] = self.take()?;
        let len = self.len()?;
        if tag != SECTION || len > MAX_HEADER {
            return Err(Malformed(self.at));
        }
        let end = self.at + len;
        let generation = u64::from_le_bytes(self.take()?);
        let offset = u64::from_le_bytes(self.take()?);
        let mut texts = [&[][..]; 6];
        for text in &mut texts {
            let len = self.len()?;
            *text = self.bytes(len)?;
        }
        let [path, agent, host, beat, beat_version, fields] = texts;
        // A later version may append to the header; what we know of it must be inside.
        if self.at > end {
            return Err(Malformed(self.at));
        }
        let skipped = end - self.at;
        self.bytes(skipped)?;
        let count = u32::from_le_bytes(self.take()?);
        let len = self.len()?;
        let at = self.at;
        let lines = self.bytes(len)?;
        let header = Header { generation, offset, path, agent, host, beat, beat_version, fields };
        Ok(Some(Section { header, count, lines, at }))
    }

    fn len(&mut self) -> Result<usize, Malformed> {
        usize::try_from(u32::from_le_bytes(self.take()?)).map_err(|_| Malformed(self.at))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let first = rest.first_chunk().ok_or(Malformed(self.at))?;
        self.at += N;
        Ok(*first)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(Malformed(self.at))?;
        let bytes = self.body.get(self.at..end).ok_or(Malformed(self.at))?;
        self.at = end;
        Ok(bytes)
    }
}

impl<'a> Section<'a> {
    fn lines(&self, mut each: impl FnMut(Line<'a>)) -> Result<(), Malformed> {
        let (mut rest, mut offset, mut count) = (self.lines, self.header.offset, 0_u32);
        while !rest.is_empty() {
            let malformed = Malformed(self.at + self.lines.len() - rest.len());
            let (n, after) = leb128(rest).ok_or(malformed)?;
            let len = usize::try_from(n >> FLAG_BITS).map_err(|_| malformed)?;
            let (text, after) = after.split_at_checked(len).ok_or(malformed)?;
            let (is_cut, has_cr) = (n & CUT != 0, n & CR != 0);
            each(Line { text, offset, is_cut, has_cr });
            let step = len as u64 + 1 + u64::from(has_cr);
            offset = offset.checked_add(step).ok_or(malformed)?;
            count = count.checked_add(1).ok_or(malformed)?;
            rest = after;
        }
        if count == self.count { Ok(()) } else { Err(Malformed(self.at)) }
    }
}

/// A number and what follows it.
fn leb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut n = 0_u64;
    // Five bytes: a length below 4 GiB with its flags.
    for (index, byte) in bytes.iter().take(5).enumerate() {
        n |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((n, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests;
