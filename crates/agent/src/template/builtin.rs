//! The templates that come with the agent: `template = "builtin:NAME"`.
//!
//! Invariant: none depends on the revision alone, so a roster that changes nothing for a shipper does not
//! reload it.

const ALL: [(&str, &str); 8] = [
    ("filebeat", include_str!("../../templates/filebeat.j2")),
    ("fluent-bit", include_str!("../../templates/fluent-bit.j2")),
    ("haproxy", include_str!("../../templates/haproxy.j2")),
    ("hosts-json", include_str!("../../templates/hosts-json.j2")),
    ("logstash-output", include_str!("../../templates/logstash-output.j2")),
    ("nginx-stream", include_str!("../../templates/nginx-stream.j2")),
    ("prometheus-file-sd", include_str!("../../templates/prometheus-file-sd.j2")),
    ("vector", include_str!("../../templates/vector.j2")),
];

/// The text of one.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// What there is.
pub(crate) fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, _)| *name).collect()
}
