//! Names of the headers that every roster answer carries.

/// The revision of the roster.
pub const REVISION: &str = "pikepole-revision";
/// When the source last confirmed the roster, RFC 3339.
pub const CONFIRMED_AT: &str = "pikepole-confirmed-at";
/// `true` if the source has not confirmed the roster for longer than the operator tolerates.
pub const STALE: &str = "pikepole-stale";
