//! Cuts what was read into lines.
//!
//! Not a decoder: bytes pass as they are, whatever their encoding.
//!
//! Invariants: a line is given when its end was seen, or when it is longer than it may be, or when the
//! caller says that nothing comes after it. Every byte is in exactly one piece.

use memchr::memchr;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A line; the next piece begins at `next`.
    Line {
        text: &'a [u8],
        /// A carriage return before its end was left out.
        has_cr: bool,
        /// It is not whole.
        is_cut: bool,
        /// Bytes of it that are still to be skipped follow.
        goes_on: bool,
        next: usize,
    },
    /// The rest of a line that was cut, as far as it is here.
    Skipped { next: usize, is_over: bool },
    /// There is no end yet.
    NeedMore,
}

/// The piece that begins at `at`. `is_final`: nothing will ever follow what is here.
pub(super) fn next(buf: &[u8], at: usize, is_skipping: bool, max_line: usize, is_final: bool) -> Piece<'_> {
    let rest = &buf[at.min(buf.len())..];
    if rest.is_empty() {
        return Piece::NeedMore;
    }
    if is_skipping {
        return match memchr(b'\n', rest) {
            Some(end) => Piece::Skipped { next: at + end + 1, is_over: true },
            None => Piece::Skipped { next: buf.len(), is_over: false },
        };
    }
    // One byte more for a carriage return.
    let window = &rest[..rest.len().min(max_line.saturating_add(2))];
    match memchr(b'\n', window) {
        Some(end) => {
            let line = &rest[..end];
            let (text, has_cr) = match line.split_last() {
                Some((b'\r', text)) => (text, true),
                _ => (line, false),
            };
            if text.len() > max_line {
                return cut(text, max_line, at);
            }
            Piece::Line { text, has_cr, is_cut: false, goes_on: false, next: at + end + 1 }
        }
        None if window.len() > max_line.saturating_add(1) || (is_final && rest.len() > max_line) => {
            cut(rest, max_line, at)
        }
        None if is_final => {
            Piece::Line { text: rest, has_cr: false, is_cut: true, goes_on: false, next: buf.len() }
        }
        None => Piece::NeedMore,
    }
}

fn cut(line: &[u8], max_line: usize, at: usize) -> Piece<'_> {
    let text = &line[..max_line];
    Piece::Line { text, has_cr: false, is_cut: true, goes_on: true, next: at + max_line }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &[u8], has_cr: bool, is_cut: bool, goes_on: bool, next: usize) -> Piece<'_> {
        Piece::Line { text, has_cr, is_cut, goes_on, next }
    }

    #[test]
    fn lines_end_where_they_end() {
        assert_eq!(next(b"ab\r\nc", 0, false, 9, false), line(b"ab", true, false, false, 4));
        assert_eq!(next(b"ab\r\nc", 4, false, 9, false), Piece::NeedMore);
        assert_eq!(next(b"ab\r\nc", 4, false, 9, true), line(b"c", false, true, false, 5));
        assert_eq!(next(b"\n", 0, false, 9, false), line(b"", false, false, false, 1));
        assert_eq!(next(b"\xff\xfe\0\n", 0, false, 9, false), line(b"\xff\xfe\0", false, false, false, 4));
        assert_eq!(next(b"a", 7, false, 9, true), Piece::NeedMore);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_its_rest_skipped() {
        assert_eq!(next(b"abc\n", 0, false, 3, false), line(b"abc", false, false, false, 4));
        assert_eq!(next(b"abc\r\n", 0, false, 3, false), line(b"abc", true, false, false, 5));
        assert_eq!(next(b"abcd\n", 0, false, 3, false), line(b"abc", false, true, true, 3));
        // One more byte could still be a carriage return.
        assert_eq!(next(b"abcd", 0, false, 3, false), Piece::NeedMore);
        assert_eq!(next(b"abcd", 0, false, 3, true), line(b"abc", false, true, true, 3));
        assert_eq!(next(b"abcde", 0, false, 3, false), line(b"abc", false, true, true, 3));
        assert_eq!(next(b"abcde", 3, true, 3, false), Piece::Skipped { next: 5, is_over: false });
        assert_eq!(next(b"abcd\nx", 3, true, 3, false), Piece::Skipped { next: 5, is_over: true });
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_piece_however_it_comes(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a')], 0..60),
            chunk in 1_usize..20, max_line in 1_usize..8,
        ) {
            // What is read in one go and what is read in chunks is the same.
            let pieces = |chunk: usize| {
                let (mut at, mut seen, mut skipping, mut found) = (0, 0, false, Vec::new());
                loop {
                    seen = (seen + chunk).min(text.len());
                    let is_final = seen == text.len();
                    match next(&text[..seen], at, skipping, max_line, is_final) {
                        Piece::Line { text, has_cr, is_cut, goes_on, next } => {
                            found.push((text.to_vec(), has_cr, is_cut));
                            prop_assert!(next > at && text.len() <= max_line);
                            (at, skipping) = (next, goes_on);
                        }
                        Piece::Skipped { next, is_over } => (at, skipping) = (next, !is_over),
                        Piece::NeedMore if is_final => break,
                        Piece::NeedMore => {}
                    }
                }
                prop_assert_eq!(at, text.len());
                Ok(found)
            };
            prop_assert_eq!(pieces(chunk)?, pieces(100)?);
        }
    }
}
