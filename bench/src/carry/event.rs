//! Access-log lines of 300 bytes, and events as Filebeat makes them of such lines, each with its number.
//!
//! Invariant: an event ends in `NUMBER` digits and three bytes more, so that its number is read without parsing.

use std::fmt::Write as _;

/// Digits of a number.
const NUMBER: usize = 12;
/// What follows them.
const END: usize = 3;

/// A line without its end, as a proxy writes it; about 300 bytes.
pub(super) fn line(random: &mut fastrand::Rng) -> String {
    const PATHS: [&str; 6] = [
        "/api/v2/orders",
        "/api/v2/users/profile",
        "/checkout/cart",
        "/search",
        "/static/app.js",
        "/healthz",
    ];
    const AGENTS: [&str; 3] = [
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
        "okhttp/4.12.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    ];
    let path = PATHS[random.usize(..PATHS.len())];
    let agent = AGENTS[random.usize(..AGENTS.len())];
    let status = [200, 200, 200, 200, 204, 301, 404, 500][random.usize(..8)];
    let mut line = format!(
        "10.{}.{}.{} - - [22/Nov/2026:10:{:02}:{:02} +0000] \"GET {path}/{}?page={} HTTP/1.1\" {status} {} \
         \"https://shop.example.com{path}\" \"{agent}\" rt=0.{:03} uct=0.{:03} id={:016x}{:016x} up=10.4.{}.{}:8080",
        random.u8(..),
        random.u8(..),
        random.u8(..),
        random.u8(..60),
        random.u8(..60),
        random.u32(..1_000_000),
        random.u8(..40),
        random.u32(100..90_000),
        random.u16(..1000),
        random.u16(..1000),
        random.u64(..),
        random.u64(..),
        random.u8(..),
        random.u8(..),
    );
    while line.len() < 300 {
        line.push_str(" pad=-");
    }
    line.truncate(300);
    line
}

/// An event of Filebeat 8 around that line, about 800 bytes.
pub(super) fn filebeat(random: &mut fastrand::Rng) -> Vec<u8> {
    let message = line(random).replace('"', "\\\"");
    let mut event = String::with_capacity(900);
    let (second, milli, offset) = (random.u8(..60), random.u16(..1000), random.u32(..));
    let _infallible = write!(
        event,
        "{{\"@timestamp\":\"2026-11-22T10:00:{second:02}.{milli:03}Z\",\"@metadata\":{{\"beat\":\"filebeat\",\
         \"type\":\"_doc\",\"version\":\"8.17.0\"}},\"log\":{{\"offset\":{offset},\"file\":{{\"path\":\
         \"/var/log/kong/access.log\",\"device_id\":\"65024\",\"inode\":\"1048621\"}}}},\"message\":\"{message}\",\
         \"input\":{{\"type\":\"filestream\"}},\"ecs\":{{\"version\":\"8.0.0\"}},\"host\":{{\"name\":\"proxy-17\"}},\
         \"agent\":{{\"ephemeral_id\":\"6e2c8d6f-0b0a-4a52-9a51-2f0f6f1f2a11\",\"id\":\
         \"c0a1f1de-58a4-4b0c-8a55-9d5d2b7a9f10\",\"name\":\"proxy-17\",\"type\":\"filebeat\",\"version\":\"8.17.0\"}},\
         \"fields\":{{\"env\":\"prod\",\"dc\":\"some-dc\"}},\"event\":{{\"sequence\":\"000000000000\"}}}}"
    );
    event.into_bytes()
}

/// An event of so many bytes that no compression makes much smaller.
pub(super) fn random_text(random: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    let text: String = (0..bytes).map(|_| random.alphanumeric()).collect();
    format!("{{\"message\":\"{text}\",\"event\":{{\"sequence\":\"000000000000\"}}}}").into_bytes()
}

/// Writes the number into an event.
pub(super) fn number(event: &mut [u8], number: u64) {
    let Some(begin) = event.len().checked_sub(NUMBER + END) else { return };
    let mut rest = number;
    for digit in event[begin..begin + NUMBER].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
}

/// The number of an event, if it is one of ours.
pub(super) fn number_of(event: &[u8]) -> Option<u64> {
    let begin = event.len().checked_sub(NUMBER + END)?;
    if event.get(begin + NUMBER..)? != b"\"}}" {
        return None;
    }
    event[begin..begin + NUMBER]
        .iter()
        .try_fold(0, |sum: u64, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_of_the_size_that_is_claimed_and_keeps_its_number() {
        let mut random = fastrand::Rng::with_seed(7);
        for number in [0, 42, 999_999_999_999] {
            let mut event = filebeat(&mut random);
            assert!((750..900).contains(&event.len()), "{}", event.len());
            super::number(&mut event, number);
            assert_eq!(number_of(&event), Some(number));
            let json: serde_json::Value = serde_json::from_slice(&event).unwrap();
            assert_eq!(json["event"]["sequence"], format!("{number:012}"));
            assert_eq!(json["message"].as_str().unwrap().len(), 300);
        }
        assert_eq!(number_of(b"{\"message\":\"000000000000\"}"), None);
        serde_json::from_slice::<serde_json::Value>(&random_text(&mut random, 99)).unwrap();
    }
}
