//! How many lines a file has. Blocking; changes nothing.
//!
//! Invariant: at most so much is read; what is more, or cannot be read, is estimated, and that is said.

use std::fs::File;
use std::io::{BufReader, Read};

use flate2::read::MultiGzDecoder;

/// Most that is read of one file, in bytes, after decompression: a second or less.
const MAX_READ: u64 = 256 << 20;
const CHUNK: usize = 256 << 10;

/// Lines of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) lines: u64,
    pub(super) is_estimated: bool,
}

/// Counts the lines of an open file of `len` bytes, from where it stands. `ending` tells how it is written.
pub(super) fn lines(file: &File, len: u64, ending: Option<&str>) -> Lines {
    match ending {
        None => of_text(file, len),
        Some("gz") => of_gzip(file, len),
        // Nothing here reads the others. A number that is too small is said to be an estimate.
        Some(_) => Lines { lines: 0, is_estimated: true },
    }
}

fn of_text(file: &File, len: u64) -> Lines {
    let (lines, read, is_whole) = count(file, MAX_READ.min(len));
    if is_whole && read >= len {
        return Lines { lines, is_estimated: false };
    }
    Lines { lines: scaled(lines, len, read), is_estimated: true }
}

fn of_gzip(file: &File, len: u64) -> Lines {
    let mut taken = Taken { inner: file, bytes: 0 };
    let (lines, read, is_whole) = count(MultiGzDecoder::new(BufReader::new(&mut taken)), MAX_READ);
    if is_whole && read < MAX_READ {
        return Lines { lines, is_estimated: false };
    }
    Lines { lines: scaled(lines, len, taken.bytes), is_estimated: true }
}

/// Lines, bytes read, and whether reading went well. A last line without its end counts.
fn count(mut reader: impl Read, most: u64) -> (u64, u64, bool) {
    let mut chunk = vec![0; CHUNK];
    let (mut lines, mut read, mut last) = (0u64, 0u64, b'\n');
    while read < most {
        let room = usize::try_from(most - read).unwrap_or(CHUNK).min(CHUNK);
        let got = match reader.read(&mut chunk[..room]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return (lines, read, false),
        };
        let bytes = &chunk[..got];
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        read += got as u64;
        last = bytes.last().copied().unwrap_or(last);
    }
    (lines + u64::from(last != b'\n'), read, true)
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
        let found = lines(&file, len, ending);
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
}
