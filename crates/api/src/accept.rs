//! The `Accept` header: which of two types a caller would rather have (RFC 9110, 12.5.1).

/// Whether these `Accept` headers name `special`, and like it no less than `plain`. Wildcards say nothing: who
/// takes anything gets what is plain.
pub fn prefers<'a>(accept: impl Iterator<Item = &'a str>, special: &str, plain: &str) -> bool {
    let (mut for_special, mut for_plain) = (0.0_f32, 0.0_f32);
    for item in accept.flat_map(|line| line.split(',')) {
        for_special = for_special.max(quality_of(item, special).unwrap_or(0.0));
        for_plain = for_plain.max(quality_of(item, plain).unwrap_or(0.0));
    }
    for_special > 0.0 && for_special >= for_plain
}

/// The `q` of this type; `None`: another one is named.
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
        prefers([accept].into_iter(), "application/json", "text/plain")
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
        assert!(!prefers([].into_iter(), "application/json", "text/plain"));
    }
}
