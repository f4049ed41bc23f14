//! What holds of the decoder for any event and for any bytes.

use pikepole_fleet::{Hook, Timestamp, Transition};
use proptest::prelude::*;
use serde_json::Value;

use super::super::{Event, EventKind, WarmPool};
use super::tests::corpus;
use super::{Decoded, MAX_DETAIL, MAX_RECORDS, MAX_SAMPLE, decode};

mod encode;

const KINDS: [EventKind; 10] = [
    EventKind::LaunchHook,
    EventKind::TerminateHook,
    EventKind::Launched,
    EventKind::LaunchFailed,
    EventKind::Terminated,
    EventKind::TerminateFailed,
    EventKind::SpotInterruption,
    EventKind::Rebalance,
    EventKind::Stopped,
    EventKind::Running,
];

/// Any event that a body can say.
fn event() -> impl Strategy<Value = Event> {
    let hook = proptest::option::of(("[A-Za-z0-9_/-]{1,255}", proptest::option::of("[a-f0-9-]{1,64}")));
    let region = proptest::option::of("[a-z]{2}-[a-z]{4,9}-[1-9]");
    let at = proptest::option::of(0u64..253_402_300_799_999);
    let warm_pool = prop_oneof![Just(WarmPool::No), Just(WarmPool::From), Just(WarmPool::To)];
    let kind = proptest::sample::select(&KINDS[..]);
    (kind, "i-[0-9a-f]{8,17}", "[^\\p{Cc}]{1,60}", region, at, hook, warm_pool).prop_map(
        |(kind, instance, group, region, at, hook, warm_pool)| {
            let transition = match kind {
                EventKind::LaunchHook => Some(Transition::Launching),
                EventKind::TerminateHook => Some(Transition::Terminating),
                _ => None,
            };
            let of_group = encode::is_of_auto_scaling(kind);
            Event {
                kind,
                instance: instance.parse().unwrap(),
                group: of_group.then(|| group.parse().unwrap()),
                region: region.map(|r| r.parse().unwrap()),
                at: at.map(Timestamp::from_millis),
                hook: transition.zip(hook).map(|(transition, (name, token))| Hook {
                    name: name.parse().unwrap(),
                    token: token.map(|t| t.parse().unwrap()),
                    transition,
                }),
                warm_pool: if of_group { warm_pool } else { WarmPool::No },
            }
        },
    )
}

/// The event as a body of its own, in one of its forms.
fn body(event: &Event, as_event_bridge: bool) -> Value {
    let bare = if as_event_bridge { None } else { encode::bare(event) };
    bare.unwrap_or_else(|| encode::event_bridge(event))
}

/// JSON with its keys in any order and any character as an escape.
fn write(value: &Value, random: &mut fastrand::Rng, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            random.shuffle(&mut entries);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                out.push_str(if i > 0 { " , " } else { " " });
                write(&Value::String(key.clone()), random, out);
                out.push_str(" :\n");
                write(value, random, out);
            }
            out.push('}');
        }
        Value::String(text) => {
            out.push('"');
            for c in text.chars() {
                if c == '"' || c == '\\' || random.u8(..8) == 0 {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04X}"));
                    }
                } else {
                    out.push(c);
                }
            }
            out.push('"');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn wrap(body: String, how: u8) -> String {
    match how {
        0 => encode::in_sns(&body),
        1 => encode::in_lambda_sns(&[body]),
        2 => encode::in_lambda_sqs(&[body]),
        _ => body,
    }
}

/// What holds of every answer.
fn assert_sane(found: &Decoded) {
    let count = found.events.len() + found.tests + found.confirmations + found.irrelevant;
    assert!(count <= MAX_RECORDS && found.rejected.len() <= MAX_RECORDS + 1);
    for rejected in &found.rejected {
        assert!(rejected.detail.len() <= MAX_DETAIL && rejected.sample.len() <= MAX_SAMPLE, "{rejected:?}");
        assert!(!rejected.detail.is_empty());
        let is_control = |text: &str| text.chars().any(char::is_control);
        assert!(!is_control(&rejected.detail) && !is_control(&rejected.sample), "{rejected:?}");
    }
}

/// A body that breaks off says nothing that the whole does not say.
fn assert_truncation_is_harmless(body: &[u8]) {
    let whole = decode(body);
    for cut in 0..body.len() {
        let found = decode(&body[..cut]);
        assert_sane(&found);
        assert!(found.events.iter().all(|event| whole.events.contains(event)), "cut at {cut}: {found:?}");
    }
}

#[test]
fn a_body_of_the_corpus_cut_anywhere_says_nothing_new() {
    for (path, body) in corpus().iter().filter(|(_, body)| body.len() < 4_000) {
        // Cut between the two bodies, the first is whole.
        if !path.ends_with("poison-two-bodies.json") {
            assert_truncation_is_harmless(body);
        }
    }
}

proptest! {
    #[test]
    fn an_event_is_the_same_in_whatever_it_is_wrapped(
        event in event(), as_event_bridge: bool, seed: u64, inner in 0u8..4, outer in 0u8..4,
    ) {
        let mut text = String::new();
        write(&body(&event, as_event_bridge), &mut fastrand::Rng::with_seed(seed), &mut text);
        let found = decode(wrap(wrap(text, inner), outer).as_bytes());
        prop_assert_eq!(found, Decoded { events: vec![event], ..Decoded::default() });
    }

    #[test]
    fn a_batch_keeps_the_order(events in proptest::collection::vec(event(), 0..8), how in 0u8..3) {
        let bodies: Vec<_> = events.iter().map(|e| body(e, true).to_string()).collect();
        let text = match how {
            0 => format!("[{}]", bodies.join(",")),
            1 => encode::in_lambda_sns(&bodies),
            _ => encode::in_lambda_sqs(&bodies),
        };
        prop_assert_eq!(decode(text.as_bytes()), Decoded { events, ..Decoded::default() });
    }

    #[test]
    fn a_bad_record_spoils_no_other(event in event(), junk in "\\PC{0,40}", before: bool) {
        prop_assume!(decode(junk.as_bytes()).rejected.len() == 1);
        let mut bodies = vec![body(&event, true).to_string(), junk];
        if before {
            bodies.reverse();
        }
        let found = decode(encode::in_lambda_sqs(&bodies).as_bytes());
        prop_assert_eq!((found.events, found.rejected.len()), (vec![event], 1));
    }

    #[test]
    fn wrapped_three_times_is_too_deep(event in event(), hows in proptest::collection::vec(0u8..3, 3)) {
        let text = hows.into_iter().fold(body(&event, true).to_string(), wrap);
        let found = decode(text.as_bytes());
        prop_assert!(found.events.is_empty());
        prop_assert_eq!(found.rejected[0].reason, super::RejectReason::TooDeep);
    }

    #[test]
    fn truncation_is_harmless(event in event(), how in 0u8..4) {
        assert_truncation_is_harmless(wrap(body(&event, true).to_string(), how).as_bytes());
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        assert_sane(&decode(&bytes));
    }

    #[test]
    fn a_damaged_body_is_answered(
        which: proptest::sample::Index, at: proptest::sample::Index, byte: u8, cut: proptest::sample::Index,
    ) {
        let (_, mut body) = which.get(&corpus()).clone();
        if !body.is_empty() {
            *at.get_mut(&mut body) = byte;
            body.remove(cut.index(body.len()));
        }
        assert_sane(&decode(&body));
    }

    #[test]
    fn no_secret_reaches_a_log(secret in "[A-Za-z0-9]{16,48}", end in 0.3f64..1.0, how in 0u8..4, level in 0usize..2) {
        let keys = ["LifecycleActionToken", "Token", "Signature", "UnsubscribeURL", "UnsubscribeUrl",
            "SubscribeURL", "SecretAccessKey", "receiptHandle", "NotificationMetadata"];
        let fields: Vec<_> = keys.iter().map(|key| format!("{key:?}:\"{secret}\"")).collect();
        let fields = fields.join(",");
        let text = match level {
            0 => format!("{{{fields},\"EC2InstanceId\":\"i-1\",\"LifecycleTransition\":\"?\"}}"),
            _ => format!("{{\"Type\":\"Notification\",\"a\":[{{{fields}}}],{fields}}}"),
        };
        let text = wrap(text, how);
        let keep = ((text.len() as f64) * end) as usize;
        for body in [&text[..], &text[..keep], &format!("x{text}"), &secret] {
            let found = decode(body.as_bytes());
            prop_assert!(!found.rejected.is_empty());
            prop_assert!(!format!("{:?}", found.rejected).contains(&secret[..12]), "{:?}", found.rejected);
        }
    }
}
