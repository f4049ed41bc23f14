//! Reads a TOML table key by key and collects every mistake on the way, each with its full name.
//!
//! Invariant: no value that went through `${NAME}` appears in a mistake; it may be a secret.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::{Table, Value};

use crate::ConfigError;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub struct Mistakes(RefCell<Vec<String>>);

impl Mistakes {
    /// Notes a mistake about the key called `name` in full.
    pub fn add(&self, name: &str, what: &str) {
        self.0.borrow_mut().push(format!("{name}: {what}"));
    }

    /// All of them as an error, if there are any.
    pub fn into_result(self) -> Result<(), ConfigError> {
        let mistakes = self.0.into_inner();
        if mistakes.is_empty() { Ok(()) } else { Err(ConfigError(mistakes)) }
    }
}

/// One table, and where it stands.
pub struct Section<'a> {
    name: String,
    table: Table,
    known: Vec<String>,
    /// Texts as they were written, before `${NAME}` was replaced: what a mistake may show.
    written: BTreeMap<String, String>,
    mistakes: &'a Mistakes,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Section<'a> {
    /// The whole file; `env` answers `${NAME}`.
    pub fn root(table: Table, mistakes: &'a Mistakes, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { name: String::new(), table, known: Vec::new(), written: BTreeMap::new(), mistakes, env }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.into() } else { format!("{}.{key}", self.name) }
    }

    /// Notes a mistake about a key of this table. `what` must not show a value that was expanded.
    pub fn mistake(&self, key: &str, what: &str) {
        self.mistakes.add(&self.path(key), what);
    }

    /// Whether a key is there, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Takes a key out unread; says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.table.remove(key).is_some()
    }

    /// Refuses the keys nobody asked for.
    pub fn finish(self) {
        for key in self.table.keys() {
            let near = self.known.iter().find(|known| is_near(known, key));
            let hint = near.map(|n| format!(" (did you mean {n:?}?)")).unwrap_or_default();
            self.mistakes.add(&self.path(key), &format!("unknown key{hint}"));
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.push(key.into());
        self.table.remove(key)
    }

    fn wrong_type(&self, key: &str, value: &Value, wanted: &str) {
        self.mistake(key, &format!("must be {wanted}, not {}", describe(value)));
    }

    /// A table that may be absent, which is the same as empty.
    pub fn section(&mut self, key: &str) -> Self {
        self.optional_section(key).unwrap_or_else(|| self.below(key, Table::new()))
    }

    /// A table that may be absent.
    pub fn optional_section(&mut self, key: &str) -> Option<Self> {
        match self.take(key)? {
            Value::Table(table) => Some(self.below(key, table)),
            other => {
                self.wrong_type(key, &other, "a table");
                None
            }
        }
    }

    /// A table that must be there; `None` is a mistake that is noted.
    pub fn required_section(&mut self, key: &str) -> Option<Self> {
        if !self.table.contains_key(key) {
            self.known.push(key.into());
            self.mistake(key, "required");
            return None;
        }
        self.optional_section(key)
    }

    /// An array of tables: `[[key]]`.
    pub fn sections(&mut self, key: &str) -> Vec<Self> {
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => {
                self.wrong_type(key, &other, "written as [[table]]");
                return Vec::new();
            }
        };
        let mut sections = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let name = format!("{key}[{index}]");
            match value {
                Value::Table(table) => sections.push(self.below(&name, table)),
                other => self.wrong_type(&name, &other, "a table"),
            }
        }
        sections
    }

    fn below(&self, key: &str, table: Table) -> Self {
        Section {
            name: self.path(key),
            table,
            known: Vec::new(),
            written: BTreeMap::new(),
            mistakes: self.mistakes,
            env: self.env,
        }
    }

    /// A text, with `${NAME}` replaced.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => {
                let value = self.expand(key, &text);
                self.written.insert(key.into(), text);
                value
            }
            other => {
                self.wrong_type(key, &other, "a text in quotes");
                None
            }
        }
    }

    /// A mistake about a text, shown as it was written.
    pub fn not(&self, key: &str, wanted: &str) {
        let written = self.written.get(key).map_or("", String::as_str);
        self.mistake(key, &format!("{written:?} is not {wanted}"));
    }

    /// A text that must be there; empty (and a mistake) if it is not.
    pub fn required_text(&mut self, key: &str) -> String {
        if !self.table.contains_key(key) {
            self.known.push(key.into());
            self.mistake(key, "required");
            return String::new();
        }
        let text = self.text(key);
        if text.as_deref() == Some("") {
            self.mistake(key, "must not be empty");
        }
        text.unwrap_or_default()
    }

    /// A name of the domain that must be there; `None` is a mistake that is noted.
    pub fn required_name<T: FromStr<Err: Display>>(&mut self, key: &str) -> Option<T> {
        if !self.table.contains_key(key) {
            self.known.push(key.into());
            self.mistake(key, "required");
            return None;
        }
        let text = self.text(key)?;
        text.parse().map_err(|e: T::Err| self.mistake(key, &e.to_string())).ok()
    }

    /// A text that means something; `wanted` says what, for the mistake.
    pub fn parsed<T: FromStr>(&mut self, key: &str, wanted: &str) -> Option<T> {
        let text = self.text(key)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.not(key, wanted);
        }
        value
    }

    /// A list of texts; absent is empty.
    pub fn texts(&mut self, key: &str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values
                .into_iter()
                .filter_map(|value| match value {
                    Value::String(text) => self.expand(key, &text),
                    other => {
                        self.wrong_type(key, &other, "a list of texts");
                        None
                    }
                })
                .collect(),
            Some(other) => {
                self.wrong_type(key, &other, "a list of texts");
                Vec::new()
            }
        }
    }

    /// A table of texts, under names that are not ours to know; absent is empty.
    pub fn labels(&mut self, key: &str) -> BTreeMap<String, String> {
        let Some(mut section) = self.optional_section(key) else { return BTreeMap::new() };
        let names: Vec<String> = section.table.keys().cloned().collect();
        names.into_iter().filter_map(|name| Some((name.clone(), section.text(&name)?))).collect()
    }

    /// `true` or `false`; absent is `false`.
    pub fn flag(&mut self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    /// `true` or `false`, with what absent means.
    pub fn flag_or(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                self.wrong_type(key, &other, "true or false");
                default
            }
        }
    }

    /// A whole number within a range.
    pub fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        match self.take(key)? {
            Value::Integer(n) if range.contains(&n) => Some(n),
            other => {
                let wanted = format!("a whole number from {} to {}", range.start(), range.end());
                self.wrong_type(key, &other, &wanted);
                None
            }
        }
    }

    /// A number within a range.
    pub fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(key)?;
        let number = match &value {
            Value::Integer(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        };
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            self.wrong_type(key, &value, &format!("a number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A duration like `"30s"`; `seconds` is the allowed range.
    pub fn duration(&mut self, key: &str, seconds: RangeInclusive<u64>) -> Option<Duration> {
        let (least, most) = (Duration::from_secs(*seconds.start()), Duration::from_secs(*seconds.end()));
        self.duration_within(key, least..=most)
    }

    /// A duration like `"30s"` or `"20ms"` within a range.
    pub fn duration_within(&mut self, key: &str, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.text(key)?;
        let duration = pikepole_api::time::parse_duration(&text).filter(|d| allowed.contains(d));
        if duration.is_none() {
            let [least, most] =
                [allowed.start(), allowed.end()].map(|d| pikepole_api::time::format_duration(*d));
            self.not(key, &format!("a duration from {least} to {most}, like \"{most}\""));
        }
        duration
    }

    /// Replaces `${NAME}` by the environment's value.
    fn expand(&self, key: &str, text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let after = &rest[start + 2..];
            let Some(end) = after.find('}') else {
                self.mistake(key, "has ${ without the closing }");
                return None;
            };
            let name = &after[..end];
            let Some(value) = (self.env)(name) else {
                self.mistake(key, &format!("the environment has no variable {name}"));
                return None;
            };
            out.push_str(&value);
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }
}

/// A value in words; texts are not shown, they may be secrets.
fn describe(value: &Value) -> String {
    match value {
        Value::String(_) => "a text".into(),
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::Datetime(_) => "a date".into(),
        Value::Array(_) => "a list".into(),
        Value::Table(_) => "a table".into(),
    }
}

/// Whether two keys differ by one letter, one missing letter or two swapped ones.
fn is_near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let same_start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let same_end =
        a[same_start..].iter().rev().zip(b[same_start..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (left_a, left_b) = (a.len() - same_start - same_end, b.len() - same_start - same_end);
    (left_a <= 1 && left_b <= 1) || (left_a == 2 && left_b == 2 && a[same_start] == b[same_start + 1])
}
