//! Any bytes as the body of an event.
//!
//! Invariants: no body panics; the answer is bounded and safe to log; every event that is read can be
//! written again, in each of its forms, and reads the same; and an envelope around a body changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pikepole_directory::events::decode::{
    Decoded, MAX_DETAIL, MAX_RECORDS, MAX_SAMPLE, MAX_SAMPLES, RejectReason, decode,
};
use pikepole_directory::events::{Event, EventKind, WarmPool};

#[path = "../../crates/directory/src/events/decode/properties/encode.rs"]
mod encode;

fuzz_target!(|body: &[u8]| {
    let found = decode(body);
    assert_safe(&found);
    assert_eq!(decode(body), found, "the same body reads differently");
    for event in &found.events {
        assert_written_again(event);
    }
    assert_envelopes_change_nothing(body, &found);
});

fn assert_safe(found: &Decoded) {
    let understood = found.events.len() + found.tests + found.confirmations + found.irrelevant;
    assert!(understood <= MAX_RECORDS && found.rejected.len() <= MAX_RECORDS + 1);
    for (i, rejected) in found.rejected.iter().enumerate() {
        assert!(!rejected.detail.is_empty() && rejected.detail.len() <= MAX_DETAIL, "{rejected:?}");
        assert!(rejected.sample.len() <= MAX_SAMPLE, "{rejected:?}");
        assert!(i < MAX_SAMPLES || rejected.sample.is_empty());
        let line = [&rejected.detail, &rejected.sample];
        assert!(!line.iter().any(|text| text.chars().any(char::is_control)), "{rejected:?}");
    }
}

fn assert_written_again(event: &Event) {
    let expected = Decoded { events: vec![event.clone()], ..Decoded::default() };
    let forms = [Some(encode::event_bridge(event)), encode::bare(event)];
    assert_eq!(forms[1].is_some(), encode::is_of_auto_scaling(event.kind));
    for form in forms.into_iter().flatten().map(|form| form.to_string()) {
        assert_eq!(decode(form.as_bytes()), expected, "{form}");
        let deepest = encode::in_lambda_sqs(&[encode::in_sns(&form)]);
        assert_eq!(decode(deepest.as_bytes()), expected, "{deepest}");
    }
}

/// What a body says it says in an envelope too, unless that makes it too deep, or it is a batch, which is
/// taken at the top alone.
fn assert_envelopes_change_nothing(body: &[u8], found: &Decoded) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    if text.trim_start_matches('\u{feff}').trim_start().starts_with('[') {
        return;
    }
    let same = [text.to_owned()];
    for wrapped in [encode::in_sns(text), encode::in_lambda_sns(&same), encode::in_lambda_sqs(&same)] {
        let inner = decode(wrapped.as_bytes());
        let limited = |r: RejectReason| matches!(r, RejectReason::TooDeep | RejectReason::TooMany);
        if inner.rejected.iter().any(|r| limited(r.reason)) {
            continue;
        }
        let counts = |d: &Decoded| (d.tests, d.confirmations, d.irrelevant, d.rejected.len());
        assert_eq!((&inner.events, counts(&inner)), (&found.events, counts(found)), "{wrapped}");
    }
}
