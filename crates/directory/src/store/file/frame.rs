//! The bytes of a record file: a header line of ASCII, then the body.
//!
//! ```text
//! pikepole-directory 1 VERSION CRC LENGTH\n
//! BODY
//! ```
//!
//! `1` is the format of the frame; VERSION counts the writes, decimal; CRC is the CRC-32 (IEEE) of
//! `VERSION LENGTH\n` and the body, eight lower-case hex digits; LENGTH is that of the body in bytes,
//! decimal, and the file ends after it. No number has leading zeros.
//!
//! Not I/O, and no idea of what the body means.
//!
//! Invariant: [`open`] returns exactly what was given to [`seal`], or an error: there is one way to write
//! a header, and every bit of the file is either in it or under the checksum.

use super::Version;

const MAGIC: &str = "pikepole-directory";
const FORMAT: &str = "1";

/// The longest header: magic, format, two 20-digit numbers, the checksum, spaces and line end.
pub(super) const MAX_HEADER: usize = MAGIC.len() + FORMAT.len() + 20 + 8 + 20 + 5;

/// Why bytes are not a framed record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// The beginning of a record, or the empty room for one: a write that a power cut ended.
    #[error("torn: {0}")]
    Torn(String),
    /// A record of which some bytes have changed.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Written by a version of pikepole that this one does not know.
    #[error("format {0}, which this version of pikepole does not know")]
    Format(String),
    /// Not ours.
    #[error("foreign: it does not begin like a record")]
    Foreign,
}

/// Frames a body.
pub(super) fn seal(version: Version, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(version, checksum(version, body), body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The version of a framed record, and where its body begins.
pub(super) fn open(bytes: &[u8]) -> Result<(Version, usize), FrameError> {
    if bytes.iter().all(|&b| b == 0) {
        return Err(FrameError::Torn(format!("{} bytes, all zero", bytes.len())));
    }
    let start = &bytes[..bytes.len().min(MAX_HEADER)];
    let known = start.len().min(MAGIC.len());
    if start[..known] != MAGIC.as_bytes()[..known] {
        return Err(FrameError::Foreign);
    }
    let Some(end) = start.iter().position(|&b| b == b'\n') else {
        return Err(match start.len() {
            MAX_HEADER => FrameError::Foreign,
            n => FrameError::Torn(format!("it ends after {n} bytes of header")),
        });
    };
    let body = &bytes[end + 1..];
    let (version, crc, length) = parse(&start[..=end])?;
    if body.len() < length {
        return Err(FrameError::Torn(format!("it ends after {} of {length} bytes", body.len())));
    }
    if body.len() > length {
        return Err(FrameError::Corrupt(format!("{} bytes follow its end", body.len() - length)));
    }
    if checksum(version, body) != crc {
        return Err(FrameError::Corrupt("the checksum is wrong".to_owned()));
    }
    Ok((version, end + 1))
}

fn parse(line: &[u8]) -> Result<(Version, u32, usize), FrameError> {
    let bad = || FrameError::Corrupt("the header is wrong".to_owned());
    let text = str::from_utf8(line).map_err(|_| bad())?;
    let fields: Vec<&str> = text.trim_end_matches('\n').split(' ').collect();
    match fields[..] {
        [MAGIC, FORMAT, version, crc, length] => {
            let version = Version(version.parse().map_err(|_| bad())?);
            let crc = u32::from_str_radix(crc, 16).map_err(|_| bad())?;
            let length = length.parse().map_err(|_| bad())?;
            // `+7`, `007` and `AB` parse too, but are not how we write.
            if header(version, crc, length) == text { Ok((version, crc, length)) } else { Err(bad()) }
        }
        [MAGIC, format, ..] if format.parse::<u32>().is_ok() && format != FORMAT => {
            Err(FrameError::Format(format.to_owned()))
        }
        _ => Err(bad()),
    }
}

fn header(version: Version, crc: u32, length: usize) -> String {
    format!("{MAGIC} {FORMAT} {} {crc:08x} {length}\n", version.0)
}

fn checksum(version: Version, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("{} {}\n", version.0, body.len()).as_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_a_record_file_never_change() {
        let bytes = seal(Version(7), br#"{"format":1,"fleet":"f"}"#);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "pikepole-directory 1 7 d31d59be 24\n{\"format\":1,\"fleet\":\"f\"}"
        );
        let longest = header(Version(u64::MAX), u32::MAX, usize::MAX);
        assert_eq!(longest.len(), MAX_HEADER);
    }

    #[test]
    fn torn_corrupt_foreign_and_future_are_told_apart() {
        let whole = seal(Version(7), b"body");
        let end = whole.iter().position(|&b| b == b'\n').unwrap();
        for cut in 0..whole.len() {
            assert!(matches!(open(&whole[..cut]), Err(FrameError::Torn(_))), "cut at {cut}");
        }
        assert!(matches!(open(&[0; 4096]), Err(FrameError::Torn(_))));
        let longer = [&whole[..], b"!"].concat();
        assert!(matches!(open(&longer), Err(FrameError::Corrupt(_))));
        let zeroed = [&whole[..=end], &[0; 4]].concat();
        assert!(matches!(open(&zeroed), Err(FrameError::Corrupt(_))));
        assert_eq!(open(b"['10.0.0.1:5044']"), Err(FrameError::Foreign));
        assert_eq!(open(b"pikepole-directory 2 x\n"), Err(FrameError::Format("2".to_owned())));
        assert!(matches!(open(b"pikepole-directory 1 7 0 4\nbody"), Err(FrameError::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(version: u64, body: Vec<u8>) {
            let bytes = seal(Version(version), &body);
            let (found, at) = open(&bytes).unwrap();
            prop_assert_eq!((found, &bytes[at..]), (Version(version), &body[..]));
        }

        #[test]
        fn any_bytes_are_a_record_as_we_write_it_or_an_error(bytes: Vec<u8>, after_magic: bool) {
            let bytes = if after_magic { [b"pikepole-directory 1 ", &bytes[..]].concat() } else { bytes };
            if let Ok((version, at)) = open(&bytes) {
                prop_assert_eq!(seal(version, &bytes[at..]), bytes);
            }
        }
    }
}
