//! The `Accept` header: which of two types a caller would rather have (RFC 9110, 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// Whether the caller names `special`, and likes it no less than `plain`. Wildcards say nothing: who
/// takes anything gets what is plain.
pub(super) fn prefers(headers: &HeaderMap, special: &str, plain: &str) -> bool {
    let special = quality(headers, special);
    special > 0.0 && special >= quality(headers, plain)
}

/// The best `q` that a type is named with; 0 if it is not named.
fn quality(headers: &HeaderMap, media_type: &str) -> f32 {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|item| quality_of(item, media_type)).fold(0.0, f32::max)
}

fn quality_of(item: &str, media_type: &str) -> Option<f32> {
    let mut parts = item.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(media_type) {
        return None;
    }
    let q = parts.filter_map(|p| p.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    Some(q.map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_over_text(accept: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        prefers(&headers, "application/json", "text/plain")
    }

    #[test]
    fn a_type_is_named_whole_in_any_case_and_weighed() {
        for yes in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "text/plain;q=0.5,application/json;q=0.5",
            "text/plain; q=0.5 , application/json",
        ] {
            assert!(json_over_text(yes), "{yes}");
        }
        for no in [
            "*/*",
            "application/*",
            "application/jsonp",
            "application/json;q=0",
            "application/json;q=0.1, text/plain",
            "application/json;q=x",
            "",
        ] {
            assert!(!json_over_text(no), "{no}");
        }
        assert!(!prefers(&HeaderMap::new(), "application/json", "text/plain"));
    }
}
