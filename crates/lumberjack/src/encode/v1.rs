//! A data frame of version 1 as a JSON object, as Logstash's Beats input makes one of it.
//!
//! Keys and values are text, whatever they look like. The line of logstash-forwarder is in `line`; Logstash puts
//! it into `message`, unless there is one. A key that comes twice has its last value.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use crate::frame::Pairs;

/// Writes the pairs as one JSON object. What is no UTF-8 is replaced, as Logstash does.
pub fn v1_to_json(pairs: Pairs<'_>) -> Vec<u8> {
    let mut fields: Vec<(Cow<'_, str>, &[u8])> = Vec::new();
    let mut places = HashMap::new();
    for (key, value) in pairs.iter() {
        let key = String::from_utf8_lossy(key);
        let place = *places.entry(key.clone()).or_insert(fields.len());
        match fields.get_mut(place) {
            Some(field) => field.1 = value,
            None => fields.push((key, value)),
        }
    }
    if !places.contains_key("message")
        && let Some(line) = places.get("line")
    {
        fields[*line].0 = Cow::Borrowed("message");
    }
    let mut json = String::with_capacity(pairs.as_bytes().len() + 2);
    json.push('{');
    for (i, (key, value)) in fields.iter().enumerate() {
        if i > 0 {
            json.push(',');
        }
        quote(key, &mut json);
        json.push(':');
        quote(&String::from_utf8_lossy(value), &mut json);
    }
    json.push('}');
    json.into_bytes()
}

fn quote(text: &str, json: &mut String) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            c if c < ' ' => {
                write!(json, "\\u{:04x}", u32::from(c)).expect("a string can be written to");
            }
            c => json.push(c),
        }
    }
    json.push('"');
}
