//! A quick look at an event: surely one JSON object, or perhaps not.
//!
//! Not a parser, and not who says what is wrong: it knows the grammar of RFC 8259 and nothing of numbers and
//! texts but their form. Whatever is right in form and may mean nothing (half of a surrogate pair, a number that is
//! too large) it leaves to others. It is here because a general parser takes a third of the relay's time.
//!
//! Invariant: what it calls an object, `serde_json` reads as one, and it nests no deeper than [`MAX_DEPTH`].

use super::MAX_DEPTH;

/// What may come next, spaces aside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// A value, or the end of an array.
    FirstValue,
    Key,
    /// A key, or the end of an object.
    FirstKey,
    /// A comma, or the end of what it is in.
    End,
}

/// Whether this, which is UTF-8, is surely one JSON object.
pub(super) fn is_object(text: &str) -> bool {
    object(text.as_bytes()).is_some()
}

fn object(text: &[u8]) -> Option<()> {
    let mut at = after_space(text, 0);
    if text.get(at) != Some(&b'{') {
        return None;
    }
    // One bit for each level: whether it is an object. As many as may be open.
    const { assert!(MAX_DEPTH < 128) };
    let (mut objects, mut depth, mut next) = (0_u128, 0, Next::Value);
    loop {
        at = after_space(text, at);
        let is_in_object = objects & 1 == 1;
        match (*text.get(at)?, next) {
            (byte @ (b'{' | b'['), Next::Value | Next::FirstValue) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return None;
                }
                objects = objects << 1 | u128::from(byte == b'{');
                next = if byte == b'{' { Next::FirstKey } else { Next::FirstValue };
                at += 1;
            }
            (b'"', Next::Key | Next::FirstKey) => {
                at = after_space(text, after_text(text, at + 1)?);
                if text.get(at) != Some(&b':') {
                    return None;
                }
                (at, next) = (at + 1, Next::Value);
            }
            (byte, Next::Value | Next::FirstValue) if byte != b']' => {
                (at, next) = (after_scalar(text, at)?, Next::End);
            }
            (b',', Next::End) => {
                (at, next) = (at + 1, if is_in_object { Next::Key } else { Next::Value });
            }
            (b'}', Next::End | Next::FirstKey) if is_in_object => (at, next) = (at + 1, Next::End),
            (b']', Next::End | Next::FirstValue) if !is_in_object => (at, next) = (at + 1, Next::End),
            _ => return None,
        }
        if next == Next::End && matches!(text.get(at - 1), Some(b'}' | b']')) {
            depth -= 1;
            objects >>= 1;
            if depth == 0 {
                return (after_space(text, at) == text.len()).then_some(());
            }
        }
    }
}

fn after_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Behind a text, number or word; never behind a bracket.
fn after_scalar(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => after_text(text, at + 1),
        b't' => text[at..].starts_with(b"true").then_some(at + 4),
        b'n' => text[at..].starts_with(b"null").then_some(at + 4),
        b'f' => text[at..].starts_with(b"false").then_some(at + 5),
        _ => after_number(text, at),
    }
}

/// Most digits of the whole part, and of an exponent: such numbers are far below the largest, 1.8e308.
const WHOLE_DIGITS: usize = 100;
const EXPONENT_DIGITS: usize = 2;

fn after_number(text: &[u8], mut at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let count = text.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then_some(at + count)
    };
    at += usize::from(text.get(at) == Some(&b'-'));
    let whole = at;
    at = if text.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if at - whole > WHOLE_DIGITS {
        return None;
    }
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = at;
        at = digits(at)?;
        if at - exponent > EXPONENT_DIGITS {
            return None;
        }
    }
    Some(at)
}

/// Behind the quote that ends a text; `at` is inside of it.
fn after_text(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        while let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
            let found = special(u64::from_le_bytes(*word));
            if found != 0 {
                at += usize::try_from(found.trailing_zeros() / 8).ok()?;
                break;
            }
            at += 8;
        }
        match *text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += escape(text.get(at + 1..)?)?,
            0..0x20 => return None,
            _ => at += 1, // among the last few bytes
        }
    }
}

/// How long an escape is, with its backslash.
fn escape(rest: &[u8]) -> Option<usize> {
    match rest.first()? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => {
            let [first, second, third, fourth] = *rest.get(1..)?.first_chunk()?;
            // U+D800 to U+DFFF mean something in pairs alone.
            let may_be_half = matches!(first, b'd' | b'D') && !matches!(second, b'0'..=b'7');
            let is_hex = [first, second, third, fourth].iter().all(u8::is_ascii_hexdigit);
            (is_hex && !may_be_half).then_some(6)
        }
        _ => None,
    }
}

/// The high bit of each byte that is a control character, a quote or a backslash; the lowest that is set is
/// right, higher ones may be carries.
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let is_zero = |w: u64| w.wrapping_sub(ONES) & !w;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_zero(word ^ (ONES * 0x22)) | is_zero(word ^ (ONES * 0x5c)) | control) & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What has the right form and may mean nothing.
    const DOUBTFUL: &[&str] = &[
        "\"\\ud83d\\ude00\"",
        "\"\\udc80\"",
        "\"\\ud83d\"",
        "\"\\uD83d\\u0041\"",
        "\"\\ud7ff\"",
        "\\uDFFF",
        "{\"\\udc80\":1}",
        "1e400",
        "-1e400",
        "1e-400",
        "1E307",
        "0e999",
        "18446744073709551616",
        concat!("1", "00000000000000000000000000000000000000000000000000000000000000000000000000000000"),
        "e99",
        "e999",
    ];

    /// Pieces of JSON put together at random: some are objects, most are nearly so.
    fn nearly_json(more: &[&'static str]) -> impl Strategy<Value = String> + use<> {
        let mut pieces = vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"a\":",
            "{\"a\":",
            "{\"b\":1}",
            "[1,2]",
            "{}",
            "[]",
            " ",
            "\n",
            "0",
            "01",
            "-",
            "-0",
            "1.",
            "1.5e+3",
            "2E",
            "7",
            "true",
            "nul",
            "null",
            "false",
            "\\",
            "\\u00",
            "\u{1}",
            "\"\\u00e4\"",
            "\"\\x\"",
            "\"a long text with ä and 世界 in it\"",
            "\"\\\\\\\"\"",
            "\u{7f}",
            "\"tab\there\"",
        ];
        pieces.extend_from_slice(more);
        let piece = prop::sample::select(pieces);
        prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_called_an_object_is_one(inside in nearly_json(&[]), is_wrapped: bool) {
            let text = if is_wrapped { format!("{{\"a\":{inside}}}") } else { inside };
            let is_one = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|value| value.is_object());
            prop_assert_eq!(is_object(&text), is_one, "{}", text);
        }

        #[test]
        fn an_event_that_passes_can_be_read(inside in nearly_json(DOUBTFUL), is_wrapped: bool) {
            let text = if is_wrapped { format!("{{\"a\":{inside}}}") } else { inside };
            let is_one = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|value| value.is_object());
            prop_assert!(!is_object(&text) || is_one, "{}", text);
            prop_assert_eq!(super::super::fault(text.as_bytes()).is_none(), is_one, "{}", text);
        }
    }
}
