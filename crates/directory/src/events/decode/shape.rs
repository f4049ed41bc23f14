//! The shape of a body for a log line: its keys, and of its values only kind and size.
//!
//! Not the body: it may hold tokens, signatures and links that confirm or end a subscription. The values of
//! the few keys in [`TELLING`] name a kind of event and are shown.
//!
//! Invariant: at most [`MAX_SAMPLE`] bytes, no control character, and no value that is not in [`TELLING`].

use std::fmt;
use std::fmt::Write;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::MAX_SAMPLE;

/// Keys whose values say what kind of thing this is.
const TELLING: &[&str] = &[
    "Type",
    "Event",
    "LifecycleTransition",
    "detail-type",
    "source",
    "eventSource",
    "EventSource",
    "Service",
];

/// Bytes of a key or a value that is shown.
const MAX_WORD: usize = 64;

/// Objects and arrays inside one another that are looked into.
const MAX_LEVELS: usize = 3;

/// Elements of an array that are looked at.
const MAX_ELEMENTS: usize = 3;

/// What stands where something was cut off.
const CUT: char = '…';

/// The shape of a text, up to where it stops to be JSON.
pub(super) fn of(text: &str) -> String {
    match text.as_bytes().first() {
        Some(b'{' | b'[' | b'"') => {}
        Some(b'<') => return format!("markup({})", text.len()),
        _ => return format!("text({})", text.len()),
    }
    let mut out = String::new();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let whole = Shape { out: &mut out, level: 0, shown: false }.deserialize(&mut deserializer);
    if whole.and_then(|()| deserializer.end()).is_err() {
        out.push(CUT);
    }
    clip(out, MAX_SAMPLE)
}

/// A value in quotes for a person: bounded, on one line.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(MAX_WORD + 8);
    out.push('"');
    for c in text.chars() {
        if out.len() > MAX_WORD {
            out.push(CUT);
            break;
        }
        // Writing to a String cannot fail.
        out.extend(c.escape_debug());
    }
    out.push('"');
    out
}

/// Cuts a text off at a number of bytes, between two characters.
pub(super) fn clip(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = text.floor_char_boundary(limit - CUT.len_utf8());
        text.truncate(end);
        text.push(CUT);
    }
    text
}

/// Writes the shape of one value as it is read, so that a body that breaks off leaves the shape so far.
struct Shape<'a> {
    out: &'a mut String,
    level: usize,
    /// It stands under a key in [`TELLING`].
    shown: bool,
}

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.level > MAX_LEVELS {
            self.out.push(CUT);
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| ());
        }
        deserializer.deserialize_any(self)
    }
}

impl Shape<'_> {
    fn write<E: Error>(self, shape: fmt::Arguments<'_>) -> Result<(), E> {
        self.out.write_fmt(shape).map_err(E::custom)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.write(format_args!("null"))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.write(format_args!("boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.write(format_args!("number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.write(format_args!("number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.write(format_args!("number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.shown {
            return self.write(format_args!("{}", quote(text)));
        }
        self.write(format_args!("string({})", text.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { out, level, .. } = self;
        out.push('[');
        for i in 0..MAX_ELEMENTS {
            let before = out.len();
            if i > 0 {
                out.push(',');
            }
            if seq.next_element_seed(Shape { out, level: level + 1, shown: false })?.is_none() {
                out.truncate(before);
                out.push(']');
                return Ok(());
            }
        }
        let mut more = 0usize;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        if more > 0 {
            write!(out, ",{CUT}{more} more").map_err(A::Error::custom)?;
        }
        out.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { out, level, .. } = self;
        out.push('{');
        let mut first = true;
        while let Some(key) = map.next_key::<String>()? {
            if out.len() > MAX_SAMPLE {
                return Err(A::Error::custom("enough"));
            }
            if !first {
                out.push(',');
            }
            first = false;
            write!(out, "{}:", quote(&key)).map_err(A::Error::custom)?;
            let shown = TELLING.contains(&key.as_str());
            map.next_value_seed(Shape { out, level: level + 1, shown })?;
        }
        out.push('}');
        Ok(())
    }
}
