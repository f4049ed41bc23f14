//! The filters `yaml`, `toml`, `json` and `shell`: a value as that language writes it, on one line.
//!
//! Invariant: what a filter returns is read back as the value it was given, whatever characters are in it.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

/// Values within values.
const MAX_DEPTH: usize = 32;

pub(super) fn add(engine: &mut Environment<'_>) {
    engine.add_filter("yaml", |value: &Value| data(value, Language::Yaml, 0));
    engine.add_filter("toml", |value: &Value| data(value, Language::Toml, 0));
    engine.add_filter("json", |value: &Value| data(value, Language::Json, 0));
    engine.add_filter("shell", |value: &Value| shell(value));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Yaml,
    Toml,
    Json,
}

/// How a text stands in an output that was written by one of the filters, without the quotes around it.
pub(super) fn spellings(text: &str) -> impl Iterator<Item = String> {
    let json = quoted(text, Language::Json);
    let shell = shell(&Value::from(text)).unwrap_or_default();
    let all = [quoted(text, Language::Yaml), json, shell];
    all.into_iter().filter_map(|word| Some(word.get(1..word.len().checked_sub(1)?)?.to_string()))
}

/// Flow style in YAML, an inline value in TOML: in all three it looks much the same.
fn data(value: &Value, language: Language, depth: usize) -> Result<String, Error> {
    if depth > MAX_DEPTH {
        return Err(wrong("too many values within values"));
    }
    match value.kind() {
        ValueKind::String => Ok(quoted(value.as_str().unwrap_or_default(), language)),
        ValueKind::Bool | ValueKind::Number => {
            let text = value.to_string();
            // `NaN` and `inf` are spelled differently everywhere, and JSON has none.
            let is_plain = text.chars().all(|c| c.is_ascii_digit() || "-+.eE".contains(c));
            if is_plain || value.kind() == ValueKind::Bool {
                Ok(text)
            } else {
                Err(wrong("not a finite number"))
            }
        }
        ValueKind::None if language != Language::Toml => Ok("null".into()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Result<Vec<String>, Error> =
                value.try_iter()?.map(|item| data(&item, language, depth + 1)).collect();
            Ok(format!("[{}]", items?.join(", ")))
        }
        ValueKind::Map => {
            let between = if language == Language::Toml { " = " } else { ": " };
            let mut entries = Vec::new();
            for key in value.try_iter()? {
                let Some(name) = key.as_str() else { return Err(wrong("a key that is no text")) };
                let item = data(&value.get_item(&key)?, language, depth + 1)?;
                entries.push(format!("{}{between}{item}", quoted(name, language)));
            }
            Ok(format!("{{{}}}", entries.join(", ")))
        }
        ValueKind::Undefined => Err(Error::new(ErrorKind::UndefinedError, "the filter's value is undefined")),
        kind => Err(wrong(&format!("{kind} cannot be written"))),
    }
}

/// In double quotes. What is not plainly printable is escaped: then the three languages agree.
fn quoted(text: &str, language: Language) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if language == Language::Json => {
                let mut pair = [0; 2];
                for unit in c.encode_utf16(&mut pair) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// One word for a scalar, words between blanks for a list.
fn shell(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let words: Result<Vec<String>, Error> = value.try_iter()?.map(|item| word(&item)).collect();
            Ok(words?.join(" "))
        }
        _ => word(value),
    }
}

fn word(value: &Value) -> Result<String, Error> {
    let text = match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => value.to_string(),
        kind => return Err(wrong(&format!("{kind} is no word of a shell"))),
    };
    if text.contains('\0') {
        return Err(wrong("a word of a shell has no NUL"));
    }
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_string())
}
