use std::time::Duration;

use crate::config::{Pattern, Start, TailConfig};

/// A configuration of these patterns.
pub(super) fn config(paths: Vec<Pattern>, rotated: Vec<Pattern>) -> TailConfig {
    TailConfig {
        paths,
        rotated,
        start: Start::Beginning,
        fields: String::new(),
        max_line: 1 << 20,
        beat: "filebeat".into(),
        beat_version: "8.17.0".into(),
        rotate_grace: Duration::from_secs(60),
        expire: Duration::from_secs(86_400),
    }
}
