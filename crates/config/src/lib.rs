//! How a TOML configuration is read, by every service the same: unknown keys are refused, every mistake is
//! reported at once with its name, and `${NAME}` reads the environment. What the keys mean is not known
//! here, and no file is opened.
//!
//! Invariant: no value that went through `${NAME}` appears in a mistake; it may be a secret.

mod reader;
mod secret;

pub use reader::{Mistakes, Section};
pub use secret::Secret;

/// Every mistake in a configuration, each with the name of its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Reads a text as TOML.
pub fn parse(text: &str) -> Result<toml::Table, ConfigError> {
    text.parse().map_err(|e| ConfigError(vec![not_toml(text, &e)]))
}

/// Says where the text stops being TOML, without showing the line: it may hold a secret.
fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("not TOML: line {line}: {}", error.message())
}
