//! Times and durations as text: RFC 3339 with milliseconds, and `55s`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pikepole_fleet::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `2026-11-22T10:00:00.123Z`.
pub fn format(at: Timestamp) -> String {
    // Beyond the year 9999 RFC 3339 has no words; a clock that wrong is shown as the last moment.
    const LAST: u64 = 253_402_300_799_999;
    let at = UNIX_EPOCH + Duration::from_millis(at.as_millis().min(LAST));
    humantime::format_rfc3339_millis(at).to_string()
}

/// Reads what [`format()`] writes, and RFC 3339 in UTC in general.
pub fn parse(text: &str) -> Option<Timestamp> {
    let at: SystemTime = humantime::parse_rfc3339(text).ok()?;
    let millis = at.duration_since(UNIX_EPOCH).ok()?.as_millis();
    u64::try_from(millis).ok().map(Timestamp::from_millis)
}

/// Reads `500ms`, `55s`, `2m`, `1h`. A number needs its unit; zero may stand alone.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    humantime::parse_duration(text).ok()
}

/// A duration in its shortest exact words: `55s`, `1m 30s`.
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A [`Timestamp`] as RFC 3339 on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rfc3339(pub Timestamp);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for Rfc3339 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time in UTC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_absurd_ones_do_not_panic() {
        let at = Timestamp::from_millis(1_763_800_000_123);
        assert_eq!(format(at), "2025-11-22T08:26:40.123Z");
        assert_eq!(parse(&format(at)), Some(at));
        assert_eq!(format(Timestamp::from_millis(u64::MAX)), "9999-12-31T23:59:59.999Z");
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn a_duration_names_its_unit() {
        assert_eq!(parse_duration("55s"), Some(Duration::from_secs(55)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_duration("55"), None);
        assert_eq!(parse_duration("-1s"), None);
    }
}
