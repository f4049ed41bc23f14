use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

pub(super) fn corpus() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/events");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// What was found, a line for each thing.
fn compact(found: &Decoded) -> String {
    fn or_dash(value: Option<&impl ToString>) -> String {
        value.map_or_else(|| "-".to_owned(), ToString::to_string)
    }
    let mut out = String::new();
    for event in &found.events {
        let at = event.at.map(pikepole_api::time::format);
        let hook = event
            .hook
            .as_ref()
            .map(|h| format!("{}/{}", h.name, h.token.as_ref().map_or("-", |t| t.expose())));
        let (group, region) = (or_dash(event.group.as_ref()), or_dash(event.region.as_ref()));
        let (at, hook) = (or_dash(at.as_ref()), or_dash(hook.as_ref()));
        let Event { kind, instance, warm_pool, .. } = event;
        writeln!(
            out,
            "{kind:?} {instance} group={group} region={region} at={at} hook={hook} warm_pool={warm_pool:?}"
        )
        .unwrap();
    }
    let counts =
        [("tests", found.tests), ("confirmations", found.confirmations), ("irrelevant", found.irrelevant)];
    for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        writeln!(out, "{name} {count}").unwrap();
    }
    for Rejected { reason, detail, sample } in &found.rejected {
        writeln!(out, "rejected {reason}: {detail}\n  {sample}").unwrap();
    }
    if out.is_empty() { "nothing\n".to_owned() } else { out }
}

/// To accept what the decoder says now: `BLESS=1 cargo nextest run -p pikepole-directory decode::`, then
/// read the difference.
#[test]
fn every_body_of_the_corpus_decodes_to_the_text_beside_it() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = String::new();
    let bodies = corpus();
    assert!(bodies.len() > 60, "only {} bodies were found", bodies.len());
    for (path, body) in bodies {
        let beside = path.with_extension("txt");
        let found = compact(&decode(&body));
        if bless {
            fs::write(&beside, &found).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            writeln!(wrong, "{}\n- {expected}+ {found}", path.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

const HOOK: &str = r#"{"LifecycleTransition":"autoscaling:EC2_INSTANCE_TERMINATING",
    "AutoScalingGroupName":"g","LifecycleHookName":"drain","EC2InstanceId":"i-1"}"#;

fn reasons(found: &Decoded) -> Vec<RejectReason> {
    found.rejected.iter().map(|r| r.reason).collect()
}

#[test]
fn a_body_over_the_limit_is_not_read() {
    let mut body = HOOK.as_bytes().to_vec();
    body.resize(MAX_BODY, b' ');
    assert_eq!(decode(&body).events.len(), 1);
    body.push(b' ');
    let found = decode(&body);
    assert_eq!((found.events.len(), reasons(&found)), (0, vec![RejectReason::TooLarge]));
}

#[test]
fn of_too_many_records_the_first_are_read_and_the_rest_is_told_once() {
    let full = vec![HOOK; MAX_RECORDS].join(",");
    let found = decode(format!("[{full}]").as_bytes());
    assert_eq!((found.events.len(), found.rejected.len()), (MAX_RECORDS, 0));

    let found = decode(format!("[{full},{HOOK},{HOOK}]").as_bytes());
    assert_eq!((found.events.len(), reasons(&found)), (MAX_RECORDS, vec![RejectReason::TooMany]));
}

#[test]
fn records_inside_records_share_one_limit() {
    let hook = serde_json::to_string(HOOK).unwrap();
    let many = vec![format!(r#"{{"body":{hook}}}"#); 6_000].join(",");
    let inner = serde_json::to_string(&format!(r#"{{"Records":[{many}]}}"#)).unwrap();
    let body = format!(r#"{{"Records":[{{"body":{inner}}},{{"body":{inner}}},{{"body":{inner}}}]}}"#);
    let found = decode(body.as_bytes());
    // Two of the records were used up by those that hold others.
    assert_eq!((found.events.len(), reasons(&found)), (MAX_RECORDS - 2, vec![RejectReason::TooMany]));
}

#[test]
fn thousands_of_bad_records_leave_few_samples() {
    let body = format!(r#"{{"Records":[{}]}}"#, vec![r#"{"neither":1}"#; MAX_RECORDS].join(","));
    let found = decode(body.as_bytes());
    assert_eq!(found.rejected.len(), MAX_RECORDS);
    assert_eq!(found.rejected.iter().filter(|r| !r.sample.is_empty()).count(), MAX_SAMPLES);
    assert!(found.rejected[9_999].detail.starts_with("Records[9999]: "), "{}", found.rejected[9_999].detail);
}

#[test]
fn depth_costs_no_stack() {
    for (open, close) in [("[", "]"), (r#"{"Message":"#, "}"), (r#"{"detail":["#, "]}")] {
        let deep = 200_000;
        let body = format!("{}0{}", open.repeat(deep), close.repeat(deep));
        let wrapped = format!(r#"{{"detail-type":"x","source":"aws.ec2","detail":{body}}}"#);
        assert!(decode(body.as_bytes()).events.is_empty());
        assert_eq!(decode(wrapped.as_bytes()).irrelevant, 1);
    }
}

#[test]
fn a_byte_order_mark_and_white_space_are_tolerated() {
    let plain = decode(HOOK.as_bytes());
    assert_eq!(plain.events.len(), 1);
    assert_eq!(decode(format!("\u{feff}{HOOK}").as_bytes()), plain);
    assert_eq!(decode(format!(" \r\n\t{HOOK}\n\n").as_bytes()), plain);
}

#[test]
fn a_bad_token_costs_the_token_and_a_bad_hook_name_the_hook() {
    let with = |name: &str, token: &str| {
        let body = HOOK.replace(
            r#""LifecycleHookName":"drain""#,
            &format!(r#""LifecycleHookName":{name},"LifecycleActionToken":{token}"#),
        );
        let found = decode(body.as_bytes());
        assert!(found.rejected.is_empty(), "{found:?}");
        found.events[0].hook.clone().map(|h| (h.name.to_string(), h.token.map(|t| t.expose().to_owned())))
    };
    let drain = |token: Option<&str>| Some(("drain".to_owned(), token.map(str::to_owned)));
    assert_eq!(with(r#""drain""#, r#""465e0162""#), drain(Some("465e0162")));
    for token in ["null", "7", r#""a b""#, r#""\ud800""#, r#""""#, "{}", &format!(r#""{}""#, "x".repeat(65))]
    {
        assert_eq!(with(r#""drain""#, token), drain(None), "{token}");
    }
    assert_eq!(with("null", r#""465e0162""#), None);
    assert_eq!(with(r#""a hook""#, r#""465e0162""#), None);
}

#[test]
fn time_and_region_that_make_no_sense_are_left_out() {
    for time in ["null", "0", r#""yesterday""#, r#""2024-13-45T00:00:00Z""#, r#""\udc00""#, "[[]]", "1e999"] {
        let body = HOOK.replacen('{', &format!(r#"{{"Time":{time},"AutoScalingGroupARN":{time},"#), 1);
        let found = decode(body.as_bytes());
        assert_eq!((found.events[0].at, &found.events[0].region), (None, &None), "{time}");
    }
}

#[test]
fn every_reason_has_its_own_label() {
    let labels: std::collections::BTreeSet<_> = RejectReason::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(labels.len(), RejectReason::ALL.len());
}
