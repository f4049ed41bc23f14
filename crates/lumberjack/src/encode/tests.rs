use super::*;
use crate::frame::Payload;
use crate::{Receiver, Sink, WindowEnd};

fn encode(level: u32, events: &[&[u8]]) -> EncodedWindow {
    let mut encoder = WindowEncoder::new();
    encoder.begin(level);
    for event in events {
        assert!(encoder.push(event));
    }
    encoder.finish()
}

#[test]
fn a_plain_window_is_these_bytes() {
    let window = encode(0, &[b"{}", b"{\"a\":1}"]);
    let (header, body) = frames(&window);
    assert_eq!(header.as_ref(), b"2W\0\0\0\x02");
    assert_eq!(&body[..], b"2J\0\0\0\x01\0\0\0\x02{}2J\0\0\0\x02\0\0\0\x07{\"a\":1}");
    assert_eq!((window.events, window.event_bytes, window.compressed), (2, 9, false));
}

#[test]
fn a_compressed_window_is_one_zlib_stream_of_the_same_bytes() {
    use std::io::Read;
    let plain = encode(0, &[b"{}", b"{\"a\":1}"]);
    for level in 1..=9 {
        let window = encode(level, &[b"{}", b"{\"a\":1}"]);
        let (header, body) = frames(&window);
        let length = u8::try_from(body.len()).unwrap();
        assert_eq!(header.as_ref(), [b"2W\0\0\0\x022C\0\0\0".as_slice(), &[length]].concat());
        let mut inflated = Vec::new();
        flate2::read::ZlibDecoder::new(&body[..]).read_to_end(&mut inflated).unwrap();
        assert_eq!(inflated, plain.body);
    }
}

#[test]
fn an_encoder_starts_anew_with_each_window() {
    let mut encoder = WindowEncoder::new();
    for level in [3, 3, 0, 9, 42, 3] {
        encoder.begin(level);
        encoder.push(b"forgotten");
        encoder.begin(level);
        encoder.push(b"kept");
        assert_eq!(encoder.finish(), encode(level, &[b"kept"]));
        encoder.push(b"next");
        assert_eq!(encoder.finish(), encode(level, &[b"next"]));
    }
}

#[test]
fn what_was_kept_is_read_again() {
    let large = vec![b'x'; 400_000];
    let given: Vec<&[u8]> = vec![b"{}", &large, b"", b"{\"a\":1}"];
    let mut reader = EventReader::new(Limits::default().event);
    for level in [0, 3, 9, 1] {
        let window = encode(level, &given);
        let mut read = Vec::new();
        reader.read(&window.body, window.compressed, &mut |json| read.push(json.to_vec())).unwrap();
        assert_eq!(read, given);
    }
}

#[test]
fn what_was_damaged_is_not() {
    let window = encode(3, &[b"{\"a\":1}", b"{\"b\":2}"]);
    let read = |body: &[u8], compressed| events(body, compressed, &Limits::default(), &mut |_| {});
    let mut flipped = window.body.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(read(&flipped, true), Err(Refused::CorruptStream));
    for cut in 0..window.body.len() {
        assert_eq!(read(&window.body[..cut], true), Err(Refused::UnfinishedStream));
    }
    let longer = [&window.body[..], b"x"].concat();
    assert_eq!(read(&longer, true), Err(Refused::TrailingBytes));
    let plain = encode(0, &[b"{\"a\":1}"]).body;
    assert_eq!(read(&plain[..plain.len() - 1], false), Err(Refused::TornFrame));
    assert_eq!(read(b"2D\0\0\0\x01\0\0\0\0", false), Err(Refused::UnknownFrame(b'D')));
}

#[test]
fn a_window_never_gets_longer_than_its_length_can_say() {
    let mut encoder = WindowEncoder::new();
    encoder.begin(0);
    // Never touched, so it costs no memory.
    let event = vec![0; MAX_ENCODED - EVENT_HEAD];
    assert!(encoder.push(b"{}"));
    assert!(!encoder.push(&event));
    assert_eq!((encoder.events(), encoder.event_bytes()), (1, 2));
}

#[test]
fn debug_does_not_show_events() {
    let window = encode(0, &[b"password"]);
    assert!(!format!("{window:?}").contains("pass"), "{window:?}");
}

struct V1(Vec<String>);

impl Sink for V1 {
    fn event(&mut self, event: Event<'_>) {
        let Payload::Pairs(pairs) = event.payload else { panic!("{event:?}") };
        self.0.push(String::from_utf8(v1_to_json(pairs)).unwrap());
    }
    fn window(&mut self, _: WindowEnd) {}
}

/// What the receiver makes of a data frame with these pairs.
fn v1(pairs: &[(&[u8], &[u8])]) -> String {
    let mut bytes = b"1W\0\0\0\x011D\0\0\0\x01".to_vec();
    let length = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    bytes.extend_from_slice(&length(pairs.len()));
    for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend_from_slice(&length(text.len()));
        bytes.extend_from_slice(text);
    }
    let mut sink = V1(Vec::new());
    let now = std::time::Duration::ZERO;
    Receiver::new(Limits::default(), now).input(&bytes, now, &mut sink).unwrap();
    sink.0.pop().unwrap()
}

#[test]
fn a_data_frame_becomes_an_object_as_with_logstash() {
    assert_eq!(v1(&[]), "{}");
    assert_eq!(
        v1(&[(b"file", b"/a"), (b"line", b"GET /"), (b"offset", b"17")]),
        r#"{"file":"/a","message":"GET /","offset":"17"}"#
    );
    assert_eq!(v1(&[(b"line", b"a"), (b"message", b"b")]), r#"{"line":"a","message":"b"}"#);
    assert_eq!(v1(&[(b"k", b"a"), (b"x", b""), (b"k", b"b")]), r#"{"k":"b","x":""}"#);
    assert_eq!(
        v1(&[(b"\"\\\n\r\t\x01", "\u{e9}\u{1f600}".as_bytes()), (b"bad", b"\xff")]),
        "{\"\\\"\\\\\\n\\r\\t\\u0001\":\"\u{e9}\u{1f600}\",\"bad\":\"\u{fffd}\"}"
    );
}
