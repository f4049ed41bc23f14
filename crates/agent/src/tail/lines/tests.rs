use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn header(offset: u64) -> Header<'static> {
    Header {
        generation: 0xab,
        offset,
        path: b"/var/log/\"kong\"/access.log",
        agent: b"proxy-1",
        host: b"proxy-1.example",
        beat: b"filebeat",
        beat_version: b"8.17.0",
        fields: b"{\"env\":\"prod\"}",
    }
}

fn made(body: &[u8]) -> Result<Vec<Value>, Malformed> {
    let mut found = Vec::new();
    events(body, 1_795_341_600_123, &mut |json| found.push(serde_json::from_slice(json).unwrap()))?;
    Ok(found)
}

fn sample() -> Vec<u8> {
    let mut writer = Writer::new(64);
    writer.section(&header(100));
    writer.line(b"GET \"/\" \\ \x01", false, true);
    writer.line(b"caf\xe9", false, false);
    writer.section(&Header { generation: 1, fields: b"", ..header(0) });
    writer.line(b"half", true, false);
    writer.finish()
}

#[test]
fn an_event_is_what_filebeat_sends() {
    let events = made(&sample()).unwrap();
    assert_eq!(
        events[0],
        json!({
            "@timestamp": "2026-11-22T10:00:00.123Z",
            "@metadata": {"beat": "filebeat", "type": "_doc", "version": "8.17.0",
                          "_id": "proxy-1-00000000000000ab-100"},
            "message": "GET \"/\" \\ \u{1}",
            "log": {"offset": 100, "file": {"path": "/var/log/\"kong\"/access.log"}},
            "input": {"type": "filestream"},
            "ecs": {"version": "8.0.0"},
            "host": {"name": "proxy-1.example"},
            "agent": {"id": "proxy-1", "name": "proxy-1.example", "type": "filebeat", "version": "8.17.0"},
            "fields": {"env": "prod"},
        })
    );
    assert_eq!(events[1]["log"]["offset"], 100 + 11 + 2, "the carriage return counts");
    assert_eq!(events[1]["message"], "caf\u{fffd}");
    assert_eq!(events[2]["log"]["flags"], json!(["truncated"]));
    assert_eq!((events.len(), events[2].get("fields")), (3, None));
}

#[test]
fn the_spool_has_the_very_bytes() {
    let body = sample();
    let mut found = Vec::new();
    raw(&body, |_, line| found.push((line.text.to_vec(), line.has_cr))).unwrap();
    assert_eq!(found[1], (b"caf\xe9".to_vec(), false));
    assert!(found[0].1);
}

#[test]
fn a_body_that_is_cut_anywhere_is_malformed_before_its_first_event() {
    let body = sample();
    // Where a section ends, a body may end too.
    let mut whole = vec![1];
    let mut reader = Reader::new(&body).unwrap();
    while reader.section().unwrap().is_some() {
        whole.push(reader.at);
    }
    for len in 0..body.len() {
        let mut given = 0;
        let result = events(&body[..len], 0, &mut |_| given += 1);
        assert_eq!(result.is_ok(), whole.contains(&len), "{len}");
        assert!(result.is_ok() || given == 0);
    }
}

proptest! {
    #[test]
    fn any_line_survives_as_bytes_and_makes_valid_json(
        lines in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..20),
    ) {
        let mut writer = Writer::new(16);
        writer.section(&header(5));
        for (text, has_cr) in &lines {
            writer.line(text, false, *has_cr);
        }
        let body = writer.finish();
        let mut offset = 5;
        let mut seen = lines.iter();
        raw(&body, |_, line| {
            let (text, has_cr) = seen.next().unwrap();
            assert_eq!((line.text, line.has_cr, line.offset), (&text[..], *has_cr, offset));
            offset += text.len() as u64 + 1 + u64::from(*has_cr);
        }).unwrap();
        let events = made(&body).unwrap();
        prop_assert_eq!(events.len(), lines.len());
        for (event, (text, _)) in events.iter().zip(&lines) {
            prop_assert_eq!(event["message"].as_str().unwrap(), &String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn nothing_that_is_read_panics(
        at in any::<proptest::sample::Index>(), byte in any::<u8>(), noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut body = sample();
        let at = at.index(body.len());
        body[at] = byte;
        let _damaged = events(&body, u64::MAX, &mut |_| ());
        let _noise = events(&noise, 0, &mut |_| ());
    }
}
