//! `[[render]]`: one file that is rendered from the roster, and what is done with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pikepole_config::Section;

use crate::template::builtin;

/// One file that is rendered.
#[derive(Debug, Clone)]
pub struct RenderConfig {
    /// The template.
    pub template: Source,
    /// The file.
    pub output: PathBuf,
    /// Runs on the new file before it takes the old one's place.
    pub check: Option<Command>,
    /// Has the shipper take the new file.
    pub reload: Option<Command>,
    /// Tells, by its exit code, whether the shipper is alive. If it is not configured, and a unit of systemd is
    /// reloaded, systemd is asked.
    pub alive: Option<Command>,
    /// How long after a reload that is asked for the first time.
    pub alive_after: Duration,
    /// Between two reloads.
    pub spacing: Duration,
    /// Additions wait this long for more.
    pub quiet: Duration,
    /// For each command.
    pub timeout: Duration,
    /// Whether an empty roster is rendered.
    pub allow_empty: bool,
    /// The mode of a file that is new; one that is there keeps its own.
    pub mode: u32,
}

/// Where a template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, read each time.
    File(PathBuf),
    /// One of ours, by its name.
    Builtin(String),
}

/// A program and its arguments; no shell looks at them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command(pub Vec<String>);

impl Command {
    /// With the paths of the new file and of its place put in.
    pub fn with(&self, candidate: &str, output: &str) -> Vec<String> {
        self.0.iter().map(|a| a.replace("{candidate}", candidate).replace("{output}", output)).collect()
    }
}

pub(super) fn render(mut s: Section<'_>) -> Option<RenderConfig> {
    let template = template(&mut s);
    let output: PathBuf = s.required_text("output").into();
    if !output.as_os_str().is_empty() && output.file_name().is_none() {
        s.not("output", "the path of a file");
    }
    let check = command(&mut s, "check");
    if check.as_ref().is_some_and(|c| !c.0.iter().any(|a| a.contains("{candidate}"))) {
        s.mistake("check", "must name {candidate}, or it would check the old file");
    }
    let reload = command(&mut s, "reload");
    let alive = alive(&mut s, reload.as_ref());
    let alive_after = s.duration("alive_after", 0..=60).unwrap_or(Duration::from_secs(2));
    let spacing = s.duration("spacing", 0..=3600).unwrap_or(Duration::from_secs(3));
    let quiet = s.duration("quiet", 0..=300).unwrap_or(Duration::from_secs(2));
    let timeout = s.duration("timeout", 1..=600).unwrap_or(Duration::from_secs(30));
    let allow_empty = s.flag("allow_empty");
    let mode = s
        .text("mode")
        .map_or(Some(0o644), |text| u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777));
    if mode.is_none() {
        s.not("mode", "a mode like \"0640\"");
    }
    s.finish();
    Some(RenderConfig {
        template: template?,
        output,
        check,
        spacing: if reload.is_some() { spacing } else { Duration::ZERO },
        reload,
        alive,
        alive_after,
        quiet,
        timeout,
        allow_empty,
        mode: mode?,
    })
}

fn template(s: &mut Section<'_>) -> Option<Source> {
    let text = s.required_text("template");
    match text.strip_prefix("builtin:") {
        None if text.is_empty() => None,
        None => Some(Source::File(text.into())),
        Some(name) if builtin::find(name).is_some() => Some(Source::Builtin(name.into())),
        Some(_) => {
            s.not("template", &format!("a file or one of builtin:{}", builtin::names().join(", builtin:")));
            None
        }
    }
}

fn command(s: &mut Section<'_>, key: &str) -> Option<Command> {
    let is_there = s.has(key);
    let words = s.texts(key); // asked for even if absent, so that a near miss is recognised
    if !is_there {
        return None;
    }
    if words.first().is_none_or(String::is_empty) {
        s.mistake(key, "a program and its arguments, like [\"systemctl\", \"restart\", \"filebeat\"]");
    }
    Some(Command(words))
}

/// An empty list switches it off: a unit that ends after its work is never active.
fn alive(s: &mut Section<'_>, reload: Option<&Command>) -> Option<Command> {
    if !s.has("alive") {
        s.texts("alive"); // so that a near miss is recognised
        return of_systemd(reload?);
    }
    let words = s.texts("alive");
    if reload.is_none() {
        s.mistake("alive", "needs a reload");
    }
    if words.first().is_some_and(String::is_empty) {
        s.mistake("alive", "a program and its arguments, or [] for none");
    }
    (!words.is_empty()).then_some(Command(words))
}

fn of_systemd(reload: &Command) -> Option<Command> {
    const VERBS: [&str; 4] = ["restart", "reload", "reload-or-restart", "try-restart"];
    let [program, verb, unit] = &reload.0[..] else { return None };
    let is_systemctl = Path::new(program).file_name().is_some_and(|name| name == "systemctl");
    let is_unit = is_systemctl && VERBS.contains(&verb.as_str()) && !unit.starts_with('-');
    is_unit.then(|| Command([program, "is-active", "--quiet", unit].map(String::from).into()))
}
