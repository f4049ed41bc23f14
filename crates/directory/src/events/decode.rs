//! From a body to events: hook messages, notifications, EventBridge events, and what they come wrapped in.
//!
//! Pure: no I/O and no clock. It verifies nothing; whoever calls it vouches for the body.
//!
//! Every record is judged by itself. Text is descended into twice at the most: an EventBridge event in an
//! SNS envelope in an SQS record is the deepest there is.
//!
//! Invariant: no body panics, work and answer are bounded by the limits below, and nothing that is meant
//! for a log holds a value that could be a secret.

use std::fmt;

use serde_json::error::Category;

use super::Event;
use read::Verdict;
use wire::{Body, Elements, Record};

#[cfg(test)]
mod properties;
mod read;
mod shape;
#[cfg(test)]
mod tests;
mod wire;

/// Bytes of a body. SQS and SNS carry 1 MiB at the most, a Lambda's batch 6 MB.
pub const MAX_BODY: usize = 8 << 20;

/// Records in one body, all levels together: the largest batch that Lambda takes from SQS.
pub const MAX_RECORDS: usize = 10_000;

/// How often text inside a body is itself read as a body.
pub const MAX_DEPTH: usize = 2;

/// Bytes of a [`Rejected::sample`].
pub const MAX_SAMPLE: usize = 512;

/// Bytes of a [`Rejected::detail`].
pub const MAX_DETAIL: usize = 256;

/// Only the first few things rejected in a body carry a sample: a log needs no more.
pub const MAX_SAMPLES: usize = 16;

/// What was found in one body. A body with nothing in it, as an empty batch, is all zeros.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    /// What happened, in the body's order.
    pub events: Vec<Event>,
    /// Test notifications, sent when a hook or a notification is set up.
    pub tests: usize,
    /// SNS confirmations that came by SQS or Lambda, where nothing has to be confirmed.
    pub confirmations: usize,
    /// Well-formed events of AWS that say nothing about an instance of a group.
    pub irrelevant: usize,
    /// What could not be understood. It never will be: acknowledge it.
    pub rejected: Vec<Rejected>,
}

/// Something that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The kind of mistake, for a metric's label.
    pub reason: RejectReason,
    /// Where it is and what is wrong: `Records[3].body: EC2InstanceId is missing`. Safe to log, at most
    /// [`MAX_DETAIL`] bytes.
    pub detail: String,
    /// The shape of what was there: `{"Type":"Notification","Signature":string(344)}`. Keys, sizes and the
    /// few values that name a kind of event; safe to log, at most [`MAX_SAMPLE`] bytes. Empty after the
    /// first [`MAX_SAMPLES`] of a body.
    pub sample: String,
}

/// Why something could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// It is not JSON: empty, cut off, HTML, not UTF-8.
    NotJson,
    /// It is JSON, but nothing that AWS sends about instances.
    UnknownShape,
    /// Wrapped more than twice.
    TooDeep,
    /// Longer than [`MAX_BODY`].
    TooLarge,
    /// A field that matters is missing, twice there, or has a value that cannot be.
    BadField,
    /// More than [`MAX_RECORDS`] in one body; the first ones were read.
    TooMany,
}

impl RejectReason {
    /// All of them, for a metric that begins at zero.
    pub const ALL: [Self; 6] =
        [Self::NotJson, Self::UnknownShape, Self::TooDeep, Self::TooLarge, Self::BadField, Self::TooMany];

    /// As a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::UnknownShape => "unknown_shape",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::BadField => "bad_field",
            Self::TooMany => "too_many",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Reads a body of any of the known shapes.
pub fn decode(body: &[u8]) -> Decoded {
    let mut decoder = Decoder { found: Decoded::default(), left: MAX_RECORDS };
    decoder.top(body);
    decoder.found
}

/// Why one thing is rejected.
struct Problem {
    reason: RejectReason,
    detail: String,
}

impl Problem {
    fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    fn bad(detail: impl Into<String>) -> Self {
        Self::new(RejectReason::BadField, detail)
    }

    /// Safe because every field is taken raw: a mistake of form names keys of ours, never a value.
    fn json(error: &serde_json::Error) -> Self {
        match error.classify() {
            Category::Data => Self::bad(error.to_string()),
            Category::Io | Category::Syntax | Category::Eof => {
                Self::new(RejectReason::NotJson, error.to_string())
            }
        }
    }
}

/// Where in the body we are, for people: `Records[3].body.Message`.
#[derive(Clone, Copy)]
struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step,
    /// How many times text was descended into.
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Top,
    Element(usize),
    Record(usize),
    Field(&'static str),
}

impl At<'_> {
    const TOP: At<'static> = At { parent: None, step: Step::Top, depth: 0 };

    /// To something at the same depth.
    fn step(&self, step: Step) -> At<'_> {
        At { parent: Some(self), step, depth: self.depth }
    }

    /// Into the text of a field.
    fn text_of(&self, field: &'static str) -> At<'_> {
        At { parent: Some(self), step: Step::Field(field), depth: self.depth + 1 }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.filter(|p| !matches!(p.step, Step::Top));
        let dot = if parent.is_some() { "." } else { "" };
        if let Some(parent) = parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Top => Ok(()),
            Step::Element(i) => write!(f, "[{i}]"),
            Step::Record(i) => write!(f, "{dot}Records[{i}]"),
            Step::Field(name) => write!(f, "{dot}{name}"),
        }
    }
}

/// Walks one body.
struct Decoder {
    found: Decoded,
    /// How many more records may be looked at.
    left: usize,
}

impl Decoder {
    fn top(&mut self, body: &[u8]) {
        let at = At::TOP;
        if body.len() > MAX_BODY {
            let detail = format!("{} bytes are more than {MAX_BODY}", body.len());
            return self.reject(&at, Problem::new(RejectReason::TooLarge, detail), "");
        }
        match std::str::from_utf8(body) {
            Ok(text) => self.body(text, &at),
            Err(e) => {
                let (valid, broken) = body.split_at(e.valid_up_to());
                let detail = format!("not UTF-8 at byte {} of {}", valid.len(), valid.len() + broken.len());
                let valid = std::str::from_utf8(valid).expect("the error says that it is UTF-8 so far");
                self.reject(&at, Problem::new(RejectReason::NotJson, detail), valid);
            }
        }
    }

    /// A whole text: the body itself, or a string in it that holds another one.
    fn body(&mut self, text: &str, at: &At<'_>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_ascii();
        let batch = at.depth == 0 && text.starts_with('[');
        if batch { self.batch(text, at) } else { self.object(text, at) }
    }

    /// An array of events at the top.
    fn batch(&mut self, text: &str, at: &At<'_>) {
        match serde_json::from_str::<Elements<'_>>(text) {
            Ok(elements) => {
                for (i, element) in elements.first.iter().enumerate() {
                    if !self.take_one(at) {
                        return;
                    }
                    self.object(element.get(), &at.step(Step::Element(i)));
                }
                self.note_the_rest(elements.more, at);
            }
            Err(e) => self.reject(at, Problem::json(&e), text),
        }
    }

    /// One thing with keys, whichever it is.
    fn object(&mut self, text: &str, at: &At<'_>) {
        match Body::read(text) {
            Ok(body) => self.known(&body, text, at),
            Err(problem) => self.reject(at, problem, text),
        }
    }

    /// In the order that tells the shapes apart.
    fn known(&mut self, body: &Body<'_>, text: &str, at: &At<'_>) {
        if body.detail_type.is_some() {
            self.conclude(read::event_bridge(body), text, at);
        } else if body.is_sns() {
            self.envelope(body, text, at);
        } else if let Some(records) = body.records {
            match serde_json::from_str::<Elements<'_>>(records.get()) {
                Ok(records) => self.records(&records, at),
                Err(_) => self.reject(at, Problem::bad("Records is not an array"), text),
            }
        } else if body.transition.is_some() || body.event.is_some() {
            self.conclude(read::notification(text), text, at);
        } else {
            let detail =
                "has neither detail-type, nor a Type of SNS, nor Records, nor LifecycleTransition or Event";
            self.reject(at, Problem::new(RejectReason::UnknownShape, detail), text);
        }
    }

    fn records(&mut self, records: &Elements<'_>, at: &At<'_>) {
        for (i, record) in records.first.iter().enumerate() {
            if !self.take_one(at) {
                return;
            }
            self.record(record.get(), &at.step(Step::Record(i)));
        }
        self.note_the_rest(records.more, at);
    }

    /// One record of Lambda.
    fn record(&mut self, text: &str, at: &At<'_>) {
        let record = match Record::read(text) {
            Ok(record) => record,
            Err(problem) => return self.reject(at, problem, text),
        };
        if let Some(sns) = record.sns {
            match Body::read(sns.get()) {
                Ok(body) => self.envelope(&body, sns.get(), &at.step(Step::Field("Sns"))),
                Err(problem) => self.reject(&at.step(Step::Field("Sns")), problem, sns.get()),
            }
        } else if record.is_of_another_service() {
            self.found.irrelevant += 1;
        } else if let Some(body) = record.body {
            self.descend(body, "body", text, at);
        } else {
            let detail = "has neither Sns nor body";
            self.reject(at, Problem::new(RejectReason::UnknownShape, detail), text);
        }
    }

    /// What SNS wraps a message in.
    fn envelope(&mut self, body: &Body<'_>, text: &str, at: &At<'_>) {
        if body.is_confirmation() {
            self.found.confirmations += 1;
        } else if let Some(message) = body.message {
            self.descend(message, "Message", text, at);
        } else {
            self.reject(at, Problem::bad("Message is missing"), text);
        }
    }

    /// Into a string that holds a body.
    fn descend(&mut self, raw: wire::Raw<'_>, field: &'static str, text: &str, at: &At<'_>) {
        if at.depth == MAX_DEPTH {
            let detail = format!("its {field} is wrapped more than {MAX_DEPTH} times");
            return self.reject(at, Problem::new(RejectReason::TooDeep, detail), text);
        }
        match wire::text(field, raw) {
            Ok(inner) => self.body(&inner, &at.text_of(field)),
            Err(problem) => self.reject(at, problem, text),
        }
    }

    fn conclude(&mut self, verdict: Result<Verdict, Problem>, text: &str, at: &At<'_>) {
        match verdict {
            Ok(Verdict::Event(event)) => self.found.events.push(event),
            Ok(Verdict::Test) => self.found.tests += 1,
            Ok(Verdict::Irrelevant) => self.found.irrelevant += 1,
            Err(problem) => self.reject(at, problem, text),
        }
    }

    /// Whether one more record may be looked at; says so once if not.
    fn take_one(&mut self, at: &At<'_>) -> bool {
        let Some(left) = self.left.checked_sub(1) else {
            self.note_the_rest(1, at);
            return false;
        };
        self.left = left;
        true
    }

    fn note_the_rest(&mut self, more: usize, at: &At<'_>) {
        let noted = self.found.rejected.last().is_some_and(|r| r.reason == RejectReason::TooMany);
        if more > 0 && !noted {
            let detail = format!("more than {MAX_RECORDS} records: the rest was not read");
            self.reject(at, Problem::new(RejectReason::TooMany, detail), "");
        }
    }

    fn reject(&mut self, at: &At<'_>, problem: Problem, text: &str) {
        let Problem { reason, detail } = problem;
        let place = at.to_string();
        let detail = if place.is_empty() { detail } else { format!("{place}: {detail}") };
        let wants_sample = self.found.rejected.len() < MAX_SAMPLES && !text.is_empty();
        let sample = if wants_sample { shape::of(text) } else { String::new() };
        self.found.rejected.push(Rejected { reason, detail: shape::clip(detail, MAX_DETAIL), sample });
    }
}
