//! The two texts Prometheus' world reads. OpenMetrics is what our library writes; the classic format,
//! version 0.0.4, is what everyone else expects: `promtool`, agents that ask for `text/plain`, people with
//! curl.
//!
//! They differ in little: the classic one names a counter with its `_total` in `HELP` and `TYPE` too, and
//! knows neither `UNIT` nor an end mark.

use crate::accept::prefers;

/// OpenMetrics, as an `Accept` header names it.
const OPENMETRICS: &str = "application/openmetrics-text";
/// What an answer in OpenMetrics is called.
const OPENMETRICS_KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What an answer in the classic format is called.
const CLASSIC_KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type and the text for whoever sent these `Accept` headers: OpenMetrics if they name it, as Prometheus' do;
/// the classic text for all others.
pub fn negotiated<'a>(openmetrics: String, accept: impl Iterator<Item = &'a str>) -> (&'static str, String) {
    if prefers(accept, OPENMETRICS, "text/plain") {
        (OPENMETRICS_KIND, openmetrics)
    } else {
        (CLASSIC_KIND, classic(&openmetrics))
    }
}

/// OpenMetrics as our library writes it (`HELP` before `TYPE`; gauges and counters only) in the classic
/// format.
fn classic(openmetrics: &str) -> String {
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
