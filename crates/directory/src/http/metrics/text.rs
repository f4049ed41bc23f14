//! The two texts Prometheus' world reads. OpenMetrics is what our library writes; the classic format,
//! version 0.0.4, is what everyone else expects: `promtool`, agents that ask for `text/plain`, people with
//! curl.
//!
//! They differ in little: the classic one names a counter with its `_total` in `HELP` and `TYPE` too, and
//! knows neither `UNIT` nor an end mark.

use http::HeaderValue;

/// The type of OpenMetrics, as the `Accept` header names it.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text";

/// What an answer in OpenMetrics is called.
pub(super) const OPENMETRICS_KIND: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// What an answer in the classic format is called.
pub(super) const CLASSIC_KIND: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// OpenMetrics as our library writes it (`HELP` before `TYPE`; gauges and counters only) in the classic
/// format.
pub(super) fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 1024);
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|r| r.split_once(' ')) {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                text.push_str(&format!("# HELP {name}{total} {words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{total} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::classic;

    #[test]
    fn a_counter_is_named_as_its_samples_are_and_nothing_is_lost() {
        let openmetrics = "# HELP a_b Gauge of b.\n# TYPE a_b gauge\na_b{x=\"# TYPE\"} 1\n\
            # HELP a_c Count of c.\n# TYPE a_c counter\na_c_total 2\n# EOF\n";
        let expected = "# HELP a_b Gauge of b.\n# TYPE a_b gauge\na_b{x=\"# TYPE\"} 1\n\
            # HELP a_c_total Count of c.\n# TYPE a_c_total counter\na_c_total 2\n";
        assert_eq!(classic(openmetrics), expected);
    }
}
