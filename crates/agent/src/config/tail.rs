//! `[[tail]]`: which files are read, and what their events say about themselves.
//!
//! Not how they are read: that is in `tail.rs`.
//!
//! Invariant: a pattern begins at the root and goes a bounded number of folders down, so what one scan looks
//! at is bounded by what those hold.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Components, Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use pikepole_config::Section;

use super::size;

/// Patterns of one list.
const MAX_PATTERNS: usize = 64;
/// Parts of one pattern.
const MAX_PARTS: usize = 32;
/// Longest `max_line`, in bytes: a collector takes events of 16 MiB, and JSON is longer than its line.
const MOST_LINE: u64 = 8 << 20;
/// Longest fields, in bytes of JSON.
const MAX_FIELDS: usize = 16 * 1024;
/// Longest `beat` and `beat_version`.
const MAX_NAME: usize = 128;
/// How rotated files are named if nobody says: by a number or a date, or as the old one; and compressed. No
/// more than that: what editors, backups and other shippers leave beside a log is not a part of it.
const ROTATED: &str = "{.[0-9]*,-[0-9]*,.old*}";

/// Where files are begun that are there at the very first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// All of them are read.
    Beginning,
    /// Only what is written from then on.
    End,
}

/// One `[[tail]]`.
#[derive(Debug, Clone)]
pub struct TailConfig {
    /// The files that are written.
    pub paths: Vec<Pattern>,
    /// Where rotated ones go.
    pub rotated: Vec<Pattern>,
    /// Where the first start begins.
    pub start: Start,
    /// A JSON object for `fields` of each event; empty: none.
    pub fields: String,
    /// Longest line, in bytes; longer ones are cut.
    pub max_line: usize,
    /// `@metadata.beat`.
    pub beat: String,
    /// `@metadata.version`.
    pub beat_version: String,
    /// A rotated file that did not grow for this time is not written any more.
    pub rotate_grace: Duration,
    /// After this time a file that is nowhere is forgotten.
    pub expire: Duration,
}

/// A whole path, whose parts may have `*`, `?`, `[a-z]` and `{a,b}`; one may be `**`.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

/// One part of a pattern.
#[derive(Debug, Clone)]
pub enum Part {
    /// A name as it is.
    Name(OsString),
    /// Names that fit.
    Glob(GlobMatcher),
    /// Any number of folders, none too.
    Any,
}

impl Part {
    fn fits(&self, name: &OsStr) -> bool {
        match self {
            Self::Name(part) => name == part,
            Self::Glob(glob) => glob.is_match(name),
            Self::Any => true,
        }
    }
}

fn fit(mut names: Components<'_>, parts: &[Part]) -> bool {
    match parts.split_first() {
        None => names.next().is_none(),
        Some((Part::Any, below)) => loop {
            if fit(names.clone(), below) {
                return true;
            }
            if names.next().is_none() {
                return false;
            }
        },
        Some((part, below)) => match names.next() {
            Some(Component::Normal(name)) => part.fits(name) && fit(names, below),
            _ => false,
        },
    }
}

fn fit_below(mut names: Components<'_>, parts: &[Part]) -> bool {
    match (names.next(), parts.split_first()) {
        (_, None) => false,
        (None, Some(_)) | (_, Some((Part::Any, _))) => true,
        (Some(Component::Normal(name)), Some((part, below))) => part.fits(name) && fit_below(names, below),
        (Some(_), Some(_)) => false,
    }
}

impl Pattern {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its parts below the root.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether a path fits.
    pub fn matches(&self, path: &Path) -> bool {
        let mut names = path.components();
        names.next() == Some(Component::RootDir) && fit(names, &self.parts)
    }

    /// Whether paths below a folder may fit.
    pub fn is_below(&self, folder: &Path) -> bool {
        let mut names = folder.components();
        names.next() == Some(Component::RootDir) && fit_below(names, &self.parts)
    }

    /// Reads one; the error says what it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = "must be a whole path, like /var/log/kong/access*.log, without .., and with ** at most once, for folders";
        let path = PathBuf::from(text);
        let mut names = path.components();
        if names.next() != Some(Component::RootDir) || text.ends_with('/') {
            return Err(wrong.into());
        }
        let mut parts = Vec::new();
        for name in names {
            let Component::Normal(name) = name else { return Err(wrong.into()) };
            let name = name.to_str().ok_or(wrong)?;
            let is_glob = name.contains(['*', '?', '[', '{', '\\']);
            parts.push(match name {
                "**" => Part::Any,
                _ if name.contains("**") => return Err(wrong.into()),
                _ if is_glob => Part::Glob(glob(name)?),
                _ => Part::Name(name.into()),
            });
        }
        let is_any = |part: &Part| matches!(part, Part::Any);
        let is_twice = parts.iter().filter(|part| is_any(part)).count() > 1;
        if is_twice || parts.last().is_none_or(is_any) || parts.len() > MAX_PARTS {
            return Err(wrong.into());
        }
        Ok(Self { text: text.into(), parts })
    }
}

fn glob(name: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(name).literal_separator(true).backslash_escape(true).build();
    // The error of globset shows the glob, which the environment may have written.
    glob.map(|glob| glob.compile_matcher()).map_err(|e| format!("is not a glob: {}", e.kind()))
}

/// Reads one `[[tail]]`; `None`: there are mistakes, which are noted.
pub(super) fn tail(mut s: Section<'_>) -> Option<TailConfig> {
    let texts = s.texts("paths");
    if texts.is_empty() {
        s.mistake("paths", "required, for example [\"/var/log/kong/access*.log\"]");
    }
    let paths = patterns(&s, "paths", &texts);
    let rotated = if s.has("rotated") {
        s.texts("rotated")
    } else {
        texts.iter().map(|path| format!("{path}{ROTATED}")).collect()
    };
    let rotated = patterns(&s, "rotated", &rotated);
    let start = match s.text("start").as_deref() {
        None | Some("beginning") => Some(Start::Beginning),
        Some("end") => Some(Start::End),
        Some(_) => {
            s.not("start", "\"beginning\" or \"end\"");
            None
        }
    };
    let fields = fields(&mut s);
    let max_line = max_line(&mut s);
    let beat = name(&mut s, "beat", "filebeat");
    let beat_version = name(&mut s, "beat_version", "8.17.0");
    let rotate_grace = s.duration("rotate_grace", 1..=86_400).unwrap_or(Duration::from_secs(60));
    let expire = s.duration("expire", 3_600..=31_536_000).unwrap_or(Duration::from_secs(86_400));
    s.finish();
    Some(TailConfig {
        paths: paths?,
        rotated: rotated?,
        start: start?,
        fields: fields?,
        max_line: max_line?,
        beat: beat?,
        beat_version: beat_version?,
        rotate_grace,
        expire,
    })
}

fn patterns(s: &Section<'_>, key: &str, texts: &[String]) -> Option<Vec<Pattern>> {
    if texts.len() > MAX_PATTERNS {
        s.mistake(key, &format!("at most {MAX_PATTERNS} of them"));
        return None;
    }
    let parsed: Result<Vec<_>, _> = texts.iter().map(|text| Pattern::parse(text)).collect();
    parsed.map_err(|what| s.mistake(key, &format!("each {what}"))).ok()
}

/// As JSON.
fn fields(s: &mut Section<'_>) -> Option<String> {
    let labels = s.labels("fields");
    if labels.is_empty() {
        return Some(String::new());
    }
    let json = serde_json::to_string(&labels).ok().filter(|json| json.len() <= MAX_FIELDS);
    if json.is_none() {
        s.mistake("fields", &format!("must not be longer than {MAX_FIELDS} bytes of JSON"));
    }
    json
}

fn max_line(s: &mut Section<'_>) -> Option<usize> {
    let Some(text) = s.text("max_line") else { return Some(1 << 20) };
    let bytes = size::parse(&text).filter(|bytes| (64..=MOST_LINE).contains(bytes));
    if bytes.is_none() {
        s.not("max_line", "a size from 64B to 8MiB, like \"1MiB\"");
    }
    bytes.and_then(|bytes| usize::try_from(bytes).ok())
}

fn name(s: &mut Section<'_>, key: &str, default: &str) -> Option<String> {
    let text = s.text(key).unwrap_or_else(|| default.into());
    let is_good = (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
    if !is_good {
        s.mistake(key, &format!("must be 1 to {MAX_NAME} printable bytes"));
    }
    is_good.then_some(text)
}

#[cfg(test)]
mod tests {
    use pikepole_config::Mistakes;

    use super::*;

    fn parse(text: &str) -> Result<TailConfig, Vec<String>> {
        let mistakes = Mistakes::default();
        let env = |name: &str| (name == "SECRET").then(|| "s3cret[".to_string());
        let root = Section::root(pikepole_config::parse(text).unwrap(), &mistakes, &env);
        let config = tail(root);
        mistakes.into_result().map_err(|error| error.0)?;
        Ok(config.expect("without a mistake there is a configuration"))
    }

    #[test]
    fn the_paths_alone_are_enough() {
        let config = parse("paths = [\"/var/log/kong/access*.log\"]").unwrap();
        assert_eq!((config.start, config.max_line), (Start::Beginning, 1 << 20));
        assert_eq!((config.beat.as_str(), config.beat_version.as_str()), ("filebeat", "8.17.0"));
        assert_eq!((config.fields.as_str(), config.rotate_grace), ("", Duration::from_secs(60)));
        let is_rotated = |path: &str| config.rotated.iter().any(|p| p.matches(Path::new(path)));
        for path in ["access.log.1", "access.log.12.gz", "access-eu.log-20261122.gz", "access.log.old"] {
            assert!(is_rotated(&format!("/var/log/kong/{path}")), "{path}");
        }
        // Those of vim, of logtail, of people.
        for path in ["access.log.swp", "access.log.offset", "access.log.bak", "access.log~", "access.log-x"] {
            assert!(!is_rotated(&format!("/var/log/kong/{path}")), "{path}");
        }
        assert!(!is_rotated("/var/log/kong/access.log") && !is_rotated("/var/log/kong/error.log.1"));
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            "paths = [\"/a/*/x.log\"]\nrotated = []\nstart = \"end\"\nfields = { env = \"prod\", b = \"1\" }\n\
             max_line = \"64KiB\"\nbeat = \"kong\"\nbeat_version = \"9\"\nrotate_grace = \"5s\"\nexpire = \"2h\"",
        )
        .unwrap();
        assert_eq!((config.start, config.max_line, config.rotated.len()), (Start::End, 65_536, 0));
        assert_eq!(config.fields, "{\"b\":\"1\",\"env\":\"prod\"}");
        assert_eq!((config.rotate_grace.as_secs(), config.expire.as_secs()), (5, 7_200));
        assert!(config.paths[0].matches(Path::new("/a/b/x.log")));
        assert!(!config.paths[0].matches(Path::new("/a/b/c/x.log")));
        assert!(!config.paths[0].matches(Path::new("/a/x.log")));
    }

    #[test]
    fn two_stars_are_any_number_of_folders() {
        let pattern = Pattern::parse("/l/**/x/*.log").unwrap();
        for path in ["/l/x/a.log", "/l/a/x/a.log", "/l/a/b/x/x/a.log"] {
            assert!(pattern.matches(Path::new(path)), "{path}");
        }
        for path in ["/l/a.log", "/l/a/a.log", "/x/a.log", "/l/x/a/b.log", "l/x/a.log"] {
            assert!(!pattern.matches(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn below_a_folder_is_what_begins_like_it() {
        let is_below =
            |pattern: &str, folder: &str| Pattern::parse(pattern).unwrap().is_below(Path::new(folder));
        for folder in ["/l", "/l/a1"] {
            assert!(is_below("/l/a*/x.log", folder), "{folder}");
        }
        for folder in ["/k", "/l/b", "/l/a1/x.log", "/l/a1/b", "l"] {
            assert!(!is_below("/l/a*/x.log", folder), "{folder}");
        }
        assert!(is_below("/l/**/x.log", "/l/b/c/d") && !is_below("/l/**/x.log", "/k"));
    }

    #[test]
    fn every_mistake_is_told_at_once_and_no_secret_with_it() {
        let found = parse(
            "paths = [\"relative.log\", \"/${SECRET}\"]\nstart = \"middle\"\nmax_line = \"1\"\nbeat = \"\"\n\
             fields = { a = 1 }\nrotate_grace = \"0s\"\nmax_lines = 1",
        )
        .unwrap_err();
        for key in ["paths", "start", "max_line", "beat", "fields.a", "rotate_grace", "max_lines"] {
            assert!(found.iter().any(|mistake| mistake.starts_with(&format!("{key}:"))), "{key}: {found:?}");
        }
        assert!(parse("paths = [\"/${SECRET}\"]").unwrap_err().iter().all(|m| !m.contains("s3cret")));
        for path in ["/a/**", "/a/b**/c", "/**/b/**/c", "/a/../b", "/", "/a/"] {
            assert!(parse(&format!("paths = [{path:?}]")).is_err(), "{path}");
        }
        assert_eq!(parse("").unwrap_err().len(), 1);
    }
}
