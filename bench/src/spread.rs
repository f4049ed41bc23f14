//! How a set of measured values is spread: the figures that stand in the table.

use std::time::Duration;

use serde_json::{Value, json};

/// p50, p99 and the largest, in milliseconds. `null` for an empty set.
pub(crate) fn of(values: &mut [Duration]) -> Value {
    values.sort_unstable();
    json!({
        "p50_ms": quantile(values, 0.50).map(millis),
        "p99_ms": quantile(values, 0.99).map(millis),
        "max_ms": values.last().copied().map(millis),
    })
}

/// The smallest value that at least this share of all values does not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn millis(value: Duration) -> f64 {
    (value.as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(of(&mut values), json!({"p50_ms": 100.0, "p99_ms": 198.0, "max_ms": 200.0}));
        assert_eq!(of(&mut []), json!({"p50_ms": null, "p99_ms": null, "max_ms": null}));
        assert_eq!(of(&mut [Duration::from_micros(1_234)])["p50_ms"], 1.23);
    }
}
