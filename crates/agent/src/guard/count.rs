//! How many lines a file has. Blocking; changes nothing.
//!
//! Invariant: at most so much is read; what is more, or cannot be read, is estimated, and that is said.

use std::fs::File;
use std::io::{BufReader, Read};

use flate2::read::MultiGzDecoder;

/// Most that is read of one file, in bytes, after decompression: a second or less.
pub(super) const MOST: u64 = 256 << 20;
/// What is read of one when there is no time: hundredths of a second.
pub(super) const SAMPLE: u64 = 8 << 20;
const CHUNK: usize = 256 << 10;

/// Lines of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) lines: u64,
    /// The last of them has no end yet.
    pub(super) is_open: bool,
    pub(super) is_estimated: bool,
}

impl Lines {
    /// With as many more of the same kind that a file of `len` bytes is one of `longer`.
    pub(super) fn grown(self, len: u64, longer: u64) -> Self {
        Self { lines: scaled(self.lines, longer, len), is_estimated: true, ..self }
    }

    /// With those that come behind.
    pub(super) fn and(self, more: Self) -> Self {
        // A line that had no end is counted again with its rest.
        let again = u64::from(self.is_open && more.lines > 0);
        Self {
            lines: self.lines.saturating_add(more.lines - again),
            is_estimated: self.is_estimated | more.is_estimated,
            ..more
        }
    }
}

/// Counts the lines of an open file of `len` bytes, from where it stands; reads at most so many bytes.
/// `ending` tells how it is written.
pub(super) fn lines(file: &File, len: u64, ending: Option<&str>, most: u64) -> Lines {
    match ending {
        None => of_text(file, len, most),
        Some("gz") => of_gzip(file, len, most),
        // Nothing here reads the others. A number that is too small is said to be an estimate.
        Some(_) => Lines { is_estimated: true, ..Lines::default() },
    }
}

fn of_text(file: &File, len: u64, most: u64) -> Lines {
    let (lines, read, is_whole) = count(file, most.min(len));
    if is_whole && read >= len {
        return lines;
    }
    lines.grown(read, len)
}

fn of_gzip(file: &File, len: u64, most: u64) -> Lines {
    let mut taken = Taken { inner: file, bytes: 0 };
    let (lines, read, is_whole) = count(MultiGzDecoder::new(BufReader::new(&mut taken)), most);
    if is_whole && read < most {
        return lines;
    }
    lines.grown(taken.bytes, len)
}

/// Lines, bytes read, and whether reading went well. A last line without its end counts.
fn count(mut reader: impl Read, most: u64) -> (Lines, u64, bool) {
    let counted = |lines, last| {
        let is_open = last != b'\n';
        Lines { lines: lines + u64::from(is_open), is_open, is_estimated: false }
    };
    let mut chunk = vec![0; CHUNK];
    let (mut lines, mut read, mut last) = (0u64, 0u64, b'\n');
    while read < most {
        let room = usize::try_from(most - read).unwrap_or(CHUNK).min(CHUNK);
        let got = match reader.read(&mut chunk[..room]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return (counted(lines, last), read, false),
        };
        let bytes = &chunk[..got];
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        read += got as u64;
        last = bytes.last().copied().unwrap_or(last);
    }
    (counted(lines, last), read, true)
}

fn scaled(lines: u64, len: u64, read: u64) -> u64 {
    if read == 0 {
        return 0;
    }
    u64::try_from(u128::from(lines) * u128::from(len) / u128::from(read)).unwrap_or(u64::MAX)
}

/// Counts what was taken from the file.
struct Taken<'a> {
    inner: &'a File,
    bytes: u64,
}

impl Read for &mut Taken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.bytes += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn counted(bytes: &[u8], len: u64, ending: Option<&str>) -> (u64, bool) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let found = lines(&file, len, ending, 1 << 20);
        (found.lines, found.is_estimated)
    }

    #[test]
    fn lines_are_exact_where_they_can_be_and_else_said_to_be_estimated() {
        assert_eq!(counted(b"", 0, None), (0, false));
        assert_eq!(counted(b"a\nb\n", 4, None), (2, false));
        assert_eq!(counted(b"a\nb", 3, None), (2, false));
        assert_eq!(counted(b"a\nb\n", 8, None), (4, true), "half of it could be read");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all("line\n".repeat(70_000).as_bytes()).unwrap();
        let gz = gz.finish().unwrap();
        assert_eq!(counted(&gz, gz.len() as u64, Some("gz")), (70_000, false));
        let torn = counted(&gz[..gz.len() / 2], gz.len() as u64, Some("gz"));
        assert!(torn.1, "{torn:?}");
        assert_eq!(counted(b"x\n", 2, Some("zst")), (0, true));
    }

    #[test]
    fn a_sample_is_scaled_and_said_to_be_an_estimate() {
        let long = "a line of 16 b.\n".repeat(200_000);
        assert_eq!(counted(long.as_bytes(), long.len() as u64, None), (200_000, true));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gz.write_all(long.as_bytes()).unwrap();
        let gz = gz.finish().unwrap();
        let (lines, is_estimated) = counted(&gz, gz.len() as u64, Some("gz"));
        assert!(is_estimated && (180_000..220_000).contains(&lines), "{lines}");
    }

    #[test]
    fn a_line_that_is_counted_in_two_parts_is_one() {
        let of = |lines, is_open| Lines { lines, is_open, is_estimated: false };
        assert_eq!(of(2, true).and(of(3, false)), of(4, false));
        assert_eq!(of(2, false).and(of(3, true)), of(5, true));
        assert_eq!(of(2, true).and(Lines { is_estimated: true, ..of(1, true) }).lines, 2);
    }
}
