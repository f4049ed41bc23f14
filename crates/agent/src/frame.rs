//! The bytes of a file in the state folder: a header line of ASCII, then the body.
//!
//! ```text
//! pikepole-agent 1 CRC LENGTH\n
//! BODY
//! ```
//!
//! `1` is the format; CRC is the CRC-32 (IEEE) of the body, eight lower-case hex digits; LENGTH is that of
//! the body in bytes, decimal, and the file ends after it.
//!
//! Not I/O, and no idea of what the body means.
//!
//! Invariant: [`open`] returns exactly what was given to [`seal`], or nothing.

const MAGIC: &str = "pikepole-agent 1";

/// Frames a body.
pub(crate) fn seal(body: &[u8]) -> Vec<u8> {
    let mut bytes = header(body).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The body of a framed file; `None` if a bit of it is not as it was written.
pub(crate) fn open(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let (head, body) = bytes.split_at(end + 1);
    (head == header(body).as_bytes()).then_some(body)
}

fn header(body: &[u8]) -> String {
    format!("{MAGIC} {:08x} {}\n", crc32fast::hash(body), body.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_never_change() {
        assert_eq!(seal(b"{}"), b"pikepole-agent 1 a3a6bf43 2\n{}");
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened_and_what_was_damaged_is_not(
            body in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), bit in 0u8..8,
        ) {
            let mut bytes = seal(&body);
            prop_assert_eq!(open(&bytes), Some(&body[..]));
            let at = at % bytes.len();
            prop_assert_eq!(open(&bytes[..at]), None);
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(open(&bytes), None);
        }
    }
}
