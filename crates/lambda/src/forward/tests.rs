use super::*;

fn forwarder(timeout: &str) -> Forwarder {
    let config = Config::read(|name| match name {
        "PIKEPOLE_DIRECTORY" => Some("http://127.0.0.1:1".into()),
        "PIKEPOLE_TIMEOUT" => Some(timeout.into()),
        _ => Some("1".into()).filter(|_| name.starts_with("AWS_LAMBDA")),
    });
    Forwarder::new(config.unwrap())
}

#[test]
fn the_budget_ends_before_lambda_does() {
    let forwarder = forwarder("2500ms");
    assert_eq!(forwarder.budget(1_003_000, 1_000_000), Duration::from_millis(2_500));
    assert_eq!(forwarder.budget(1_001_000, 1_000_000), Duration::from_millis(850));
    assert_eq!(forwarder.budget(1_000_100, 1_000_000), Duration::ZERO);
    assert_eq!(forwarder.budget(u64::MAX, 0), Duration::from_millis(2_500));
    // What `cargo lambda` says.
    assert_eq!(forwarder.budget(600_000, 1_763_800_000_000), Duration::from_millis(2_500));
}

#[test]
fn a_status_says_who_must_act() {
    let directory = Directory { url: "http://a".into(), events: "http://a/v1/events".parse().unwrap() };
    let judged = |status: u16| judge(&directory, StatusCode::from_u16(status).unwrap(), Counts::default());
    assert!(judged(200).is_ok() && judged(202).is_ok() && judged(204).is_ok());
    for (status, set_up, last) in [
        (301, true, false),
        (400, true, true),
        (401, true, false),
        (403, true, false),
        (404, true, false),
        (408, false, false),
        (413, true, true),
        (429, false, false),
        (500, false, false),
        (503, false, false),
    ] {
        let refusal = judged(status).unwrap_err();
        assert_eq!((refusal.set_up, refusal.last), (set_up, last), "{status}");
    }
}
