//! Templates: Jinja, with what the roster says.
//!
//! Not I/O beyond reading a template's file. A template sees `members`, `sendable`, `hosts`, `fleet`,
//! `dc`, `region`, `revision` and `env`; it cannot include other files, run anything or change anything.
//!
//! Invariants: a template spends a bounded amount of work, memory and output, or it is an error. An
//! unknown variable is an error, with its line and column. No value of the environment is in an error.

pub(crate) mod builtin;
mod filters;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context};
use pikepole_api::v1;

use crate::config::Source;
use crate::planner::sendable;

/// Longest template, in bytes: one that is longer is a wrong file.
const MAX_TEMPLATE: u64 = 1024 * 1024;
/// Longest output, in bytes.
const MAX_OUTPUT: usize = 16 * 1024 * 1024;
/// Instructions a template may spend: a roster of 5,000 members needs a few hundred thousand.
const FUEL: u64 = 10_000_000;
/// A value of the environment that is shorter is not worth hiding, and would make mistakes unreadable.
const LEAST_SECRET: usize = 4;
/// Longest piece of a template that an error shows.
const MAX_SNIPPET: usize = 60;

/// Answers `env.NAME`.
pub(crate) type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The environment of this process.
pub(crate) fn variables() -> Variables {
    Arc::new(|name| std::env::var(name).ok())
}

/// Why there is nothing to write. A sentence without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TemplateError(pub(crate) String);

/// What a template made.
#[derive(Clone)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// The values of the environment that are in it: not to be shown.
    pub(crate) used: BTreeSet<String>,
}

/// A template's text, and what errors call it.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    name: String,
    text: String,
}

impl Template {
    /// Reads it. Blocking.
    pub(crate) fn load(source: &Source) -> Result<Self, TemplateError> {
        match source {
            Source::Builtin(name) => {
                let text = builtin::find(name)
                    .ok_or_else(|| TemplateError(format!("there is no builtin:{name}")))?;
                Ok(Self { name: format!("builtin:{name}"), text: text.into() })
            }
            Source::File(path) => Ok(Self { name: path.display().to_string(), text: read(path)? }),
        }
    }

    /// The output for a roster.
    pub(crate) fn render(&self, roster: &v1::Roster, env: &Variables) -> Result<Rendered, TemplateError> {
        let variables = Arc::new(Env { get: Arc::clone(env), used: Mutex::default() });
        let hide = |text: String| variables.hide(text);
        let mut engine = Environment::new();
        engine.set_debug(true);
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        engine.set_auto_escape_callback(|_| AutoEscape::None);
        engine.set_fuel(Some(FUEL));
        let mut syntax = SyntaxConfig::builder();
        engine.set_syntax(
            syntax
                .trim_blocks(true)
                .lstrip_blocks(true)
                .keep_trailing_newline(true)
                .build()
                .map_err(|e| TemplateError(e.to_string()))?,
        );
        filters::add(&mut engine);
        let template = engine
            .template_from_named_str(&self.name, &self.text)
            .map_err(|e| TemplateError(hide(self.explain(&e))))?;
        let mut out = Bounded(Vec::new());
        let rendered = template.render_captured_to(self.values(roster, &variables), &mut out);
        rendered.map(drop).map_err(|e| TemplateError(hide(self.explain(&e))))?;
        let text = String::from_utf8(out.0)
            .map_err(|_| TemplateError(format!("{}: the output is not UTF-8", self.name)))?;
        Ok(Rendered { text, used: variables.secrets() })
    }

    fn values(&self, roster: &v1::Roster, variables: &Arc<Env>) -> Value {
        let usable = sendable(roster);
        let (mut members, mut chosen) = (Vec::new(), Vec::new());
        for member in &roster.members {
            let value = describe(member);
            if usable.contains(&member.address) {
                chosen.push(value.clone());
            }
            members.push(value);
        }
        // Sorted as strings, like the directory's plain lists.
        let hosts: BTreeSet<String> = usable.iter().map(ToString::to_string).collect();
        context! {
            members => members,
            sendable => chosen,
            hosts => hosts.into_iter().collect::<Vec<_>>(),
            fleet => roster.fleet.clone(),
            dc => roster.dc.clone(),
            region => roster.region.clone(),
            revision => roster.revision,
            env => Value::from_dyn_object(Arc::clone(variables)),
        }
    }

    /// What went wrong and where: `file:3:7: undefined value: "membres"`.
    fn explain(&self, error: &minijinja::Error) -> String {
        let range = error.range();
        let start = range.as_ref().map(|r| r.start).filter(|s| self.text.is_char_boundary(*s));
        let column = start.map(|s| self.text[..s].chars().rev().take_while(|c| *c != '\n').count() + 1);
        let place = match (error.line(), column) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}", self.name),
            (Some(line), None) => format!("{}:{line}", self.name),
            _ => self.name.clone(),
        };
        let kind = match error.kind() {
            ErrorKind::OutOfFuel => "it does not end within the work a template may do".to_string(),
            ErrorKind::WriteFailure => format!("the output is longer than {MAX_OUTPUT} bytes"),
            kind => kind.to_string(),
        };
        let snippet = range.and_then(|r| self.text.get(r)).filter(|s| s.len() <= MAX_SNIPPET);
        let what = match (error.detail(), snippet) {
            (_, Some(snippet)) if error.kind() == ErrorKind::UndefinedError => format!(": {snippet:?}"),
            (Some(detail), _) => format!(": {detail}"),
            _ => String::new(),
        };
        format!("{place}: {kind}{what}")
    }
}

fn read(path: &Path) -> Result<String, TemplateError> {
    use std::io::Read as _;
    let failed = |e: io::Error| TemplateError(format!("cannot read {}: {e}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(TemplateError(format!("{} is not a file", path.display())));
    }
    file.take(MAX_TEMPLATE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_TEMPLATE {
        return Err(TemplateError(format!("{} is longer than {MAX_TEMPLATE} bytes", path.display())));
    }
    Ok(text)
}

/// A member as templates see it.
fn describe(member: &v1::Member) -> Value {
    context! {
        instance_id => member.instance_id.clone(),
        address => member.address.to_string(),
        ip => member.address.ip().to_string(),
        port => member.address.port(),
        zone => member.zone.clone(),
        state => pikepole_fleet::MemberState::from(member.state).as_str(),
    }
}

/// `env`: knows what was looked at, so that errors do not show it.
struct Env {
    get: Variables,
    used: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("env")
    }
}

impl Env {
    fn hide(&self, text: String) -> String {
        conceal(text, &self.secrets())
    }

    fn secrets(&self) -> BTreeSet<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let long = used.iter().filter(|v| v.len() >= LEAST_SECRET);
        long.flat_map(|v| filters::spellings(v).chain([v.clone()])).collect()
    }
}

impl Object for Env {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let value = (self.get)(key.as_str()?)?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(value.clone());
        Some(Value::from(value))
    }
}

/// Without these values: the longest first, which may contain another.
pub(crate) fn conceal(text: String, values: &BTreeSet<String>) -> String {
    let mut values: Vec<&String> = values.iter().collect();
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values.into_iter().fold(text, |text, value| text.replace(value.as_str(), "***"))
}

/// Refuses what is too long.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
