//! One event as JSON, as Filebeat 8 with `filestream` sends it to Logstash.
//!
//! Not a serializer: what is the same for all lines of a section is written once, and a line is put between.
//!
//! Invariant: what comes out is one valid JSON object in UTF-8, whatever bytes the line and the path have.

use super::{Header, Line};

/// The parts of an event that its section knows.
pub(super) struct Event {
    /// To the generation in `_id`.
    before_offset: Vec<u8>,
    /// From there to the text.
    before_text: Vec<u8>,
    /// From the offset to the end.
    after_offset: Vec<u8>,
}

impl Event {
    pub(super) fn new(header: &Header<'_>, timestamp: &str) -> Self {
        let Header { generation, path, agent, host, beat, beat_version, fields, .. } = header;
        let mut before = Vec::with_capacity(512);
        let texts = |out: &mut Vec<u8>, parts: &[(&str, &[u8])]| {
            for (literal, text) in parts {
                out.extend_from_slice(literal.as_bytes());
                escape(text, out);
            }
        };
        let mut id = Vec::new();
        escape(agent, &mut id);
        id.extend_from_slice(format!("-{generation:016x}-").as_bytes());
        texts(
            &mut before,
            &[
                ("{\"@timestamp\":\"", timestamp.as_bytes()),
                ("\",\"@metadata\":{\"beat\":\"", beat),
                ("\",\"type\":\"_doc\",\"version\":\"", beat_version),
                ("\",\"_id\":\"", b""),
            ],
        );
        before.extend_from_slice(&id);
        let mut after = Vec::with_capacity(512);
        texts(
            &mut after,
            &[
                (",\"file\":{\"path\":\"", path),
                (
                    "\"}},\"input\":{\"type\":\"filestream\"},\"ecs\":{\"version\":\"8.0.0\"},\"host\":{\"name\":\"",
                    host,
                ),
                ("\"},\"agent\":{\"id\":\"", agent),
                ("\",\"name\":\"", host),
                ("\",\"type\":\"", beat),
                ("\",\"version\":\"", beat_version),
                ("\"}", b""),
            ],
        );
        // Written by us from the configuration; anything else would break every event of the section.
        if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(fields).is_ok() {
            after.extend_from_slice(b",\"fields\":");
            after.extend_from_slice(fields);
        }
        after.push(b'}');
        Self { before_offset: before, before_text: b"\"},\"message\":\"".to_vec(), after_offset: after }
    }

    /// Appends the event of a line.
    pub(super) fn write(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        let mut digits = [0; 20];
        let offset = decimal(line.offset, &mut digits);
        out.extend_from_slice(&self.before_offset);
        out.extend_from_slice(offset);
        out.extend_from_slice(&self.before_text);
        escape(line.text, out);
        out.extend_from_slice(b"\",\"log\":{\"offset\":");
        out.extend_from_slice(offset);
        if line.is_cut {
            out.extend_from_slice(b",\"flags\":[\"truncated\"]");
        }
        out.extend_from_slice(&self.after_offset);
    }
}

fn decimal(mut n: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        // One digit.
        digits[at] = b'0' + (n % 10).to_le_bytes()[0];
        n /= 10;
        if n == 0 {
            return &digits[at..];
        }
    }
}

/// Appends bytes as the inside of a JSON text.
pub(super) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return escape_utf8(text.as_bytes(), out);
    }
    for chunk in bytes.utf8_chunks() {
        escape_utf8(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_utf8(mut bytes: &[u8], out: &mut Vec<u8>) {
    loop {
        let plain = plain_len(bytes);
        out.extend_from_slice(&bytes[..plain]);
        let Some(&byte) = bytes.get(plain) else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        bytes = &bytes[plain + 1..];
    }
}

/// How many bytes need no escape: eight at a time.
fn plain_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let found = special(u64::from_le_bytes(*word));
        if found != 0 {
            // The lowest bit that is set is right; higher ones may be carries.
            return at + usize::try_from(found.trailing_zeros() / 8).unwrap_or(0);
        }
        at += 8;
    }
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    at + bytes[at..].iter().position(is_special).unwrap_or(bytes.len() - at)
}

/// The high bit of each byte that is a control character, a quote or a backslash.
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let is_zero = |w: u64| w.wrapping_sub(ONES) & !w;
    let quote = is_zero(word ^ (ONES * 0x22));
    let backslash = is_zero(word ^ (ONES * 0x5c));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGH
}
