//! What an event must be to go on: one JSON object in UTF-8 (RFC 8259), whose texts and numbers mean something.
//!
//! Not what is in it: that is the collectors' business.
//!
//! Invariant: an event that passes here can be parsed by every collector that parses JSON at all, so that
//! none of them closes its connection over it for ever.

mod scan;

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Levels of arrays and objects: the least that a parser in use today allows is a hundred (Ruby's).
const MAX_DEPTH: usize = 100;

/// Why an event is no JSON object; `None`: it is one.
pub(super) fn fault(event: &[u8]) -> Option<String> {
    let text = match std::str::from_utf8(event) {
        Ok(text) => text,
        Err(error) => return Some(format!("not UTF-8 from byte {} on", error.valid_up_to())),
    };
    if scan::is_object(text) {
        return None;
    }
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Some(format!("not JSON: {error}"));
    }
    if !text.trim_ascii_start().starts_with('{') {
        return Some("JSON, but not an object".into());
    }
    if is_deep(event) {
        return Some(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    let read = serde_json::from_str::<Read>(text);
    read.err().map(|error| format!("JSON that parsers refuse: {error}"))
}

/// What was read to the last text and number, and not kept. [`IgnoredAny`] looks at the form alone, and lets half of
/// a surrogate pair pass (Python writes those), and a number that is too large for any.
struct Read;

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Read {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while let Some(Self) = seq.next_element()? {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while let Some((Self, Self)) = map.next_entry()? {}
        Ok(self)
    }
}

/// Whether valid JSON nests too deeply. Most events have fewer brackets than that altogether.
fn is_deep(json: &[u8]) -> bool {
    let open = memchr::memchr2_iter(b'{', b'[', json).take(MAX_DEPTH + 1).count();
    if open <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match (byte, in_text) {
            _ if escaped => escaped = false,
            (b'\\', true) => escaped = true,
            (b'"', _) => in_text = !in_text,
            (b'{' | b'[', false) => depth += 1,
            (b'}' | b']', false) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn an_object_passes_and_all_else_is_named() {
        for good in [
            "{}",
            " {\"message\":\"a \\u00e4 [[[ \"}\n",
            "{\"a\":{\"b\":[1,2.5e3,null,true]}}",
            "{\"a\":\"\\ud83d\\ude00\",\"b\":1e300,\"c\":1e-999}",
        ] {
            assert_eq!(fault(good.as_bytes()), None, "{good}");
        }
        for (bad, words) in [
            (&b""[..], "not JSON"),
            (b"{\"message\":\"half", "not JSON: EOF"),
            (b"{} {}", "trailing"),
            (b"[{}]", "not an object"),
            (b"\"text\"", "not an object"),
            (b"{\"a\":\"\xff\"}", "not UTF-8 from byte 6 on"),
            (b"{\"a\":\"\x01\"}", "not JSON"),
            (b"{\"a\":01}", "not JSON"),
            (b"{\"a\":NaN}", "not JSON"),
            // What Python's `json.dumps` makes of bytes that were no UTF-8, and numbers that nothing can hold.
            (b"{\"a\":\"\\udc80\"}", "parsers refuse: "),
            (b"{\"\\ud83d\":1}", "parsers refuse: "),
            (b"{\"a\":[1,-1e400]}", "parsers refuse: number out of range"),
        ] {
            let found = fault(bad).unwrap_or_default();
            assert!(found.contains(words), "{found:?} for {}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn depth_is_counted_in_brackets_and_not_in_texts() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(fault(nested(99).as_bytes()), None);
        assert!(fault(nested(100).as_bytes()).unwrap().contains("nested"));
        let many = format!("{{\"a\":[{}{{}}],\"b\":\"\\\"{}\"}}", "[],".repeat(200), "[".repeat(300));
        assert_eq!(fault(many.as_bytes()), None);
        assert!(fault("[".repeat(200_000).as_bytes()).is_some());
    }
}
