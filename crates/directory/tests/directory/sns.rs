//! SNS over HTTP(S), against a fake SNS with real certificates and real signatures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use pikepole_directory::clock::Clock;
use pikepole_directory::config::SnsSignature;
use pikepole_directory::events::sns::{
    Admitted, CertError, NoKey, NotAdmitted, NotNow, Outside, OutsideError, Refusal, SignatureError, Sns,
};
use pikepole_fleet::Timestamp;
use pikepole_testkit::sns::{
    Authority, FakeSns, HOST, Leaf, Serve, TOPIC, cert_url, confirmation, headers, notification, signed,
    version_1,
};
use serde_json::{Value, json};

use super::events_http::hook;
use super::harness::{Answer, Plan, Rig, events_config};

/// The time of every message here, and of the clock at the start.
const NOW: &str = "2025-11-22T08:26:40.123Z";
const PATH: &str = "/v1/events/sns";

/// What judges, without HTTP around it.
struct Gate {
    aws: FakeSns,
    sns: Arc<Sns>,
    now: Arc<AtomicU64>,
}

impl Gate {
    async fn new() -> Self {
        Self::with(SnsSignature::Any, Duration::from_secs(20)).await
    }

    async fn with(signature: SnsSignature, ask_time: Duration) -> Self {
        let aws = FakeSns::start().await;
        let now = Arc::new(AtomicU64::new(1_763_800_000_123));
        let read = Arc::clone(&now);
        let clock = Clock::from_fn(move || Timestamp::from_millis(read.load(Ordering::SeqCst)));
        let outside = Outside::replaced(aws.roots(), aws.lookup());
        let sns = Sns::with_time(&events_config(signature), clock, outside, ask_time).unwrap().unwrap();
        Self { aws, sns: Arc::new(sns), now }
    }

    fn step(&self, seconds: u64) {
        self.now.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }

    async fn admit(&self, message: &Value) -> Result<Admitted, NotAdmitted> {
        self.sns.admit(&header_map(message), message.to_string().as_bytes()).await
    }

    async fn refused(&self, message: &Value) -> Refusal {
        match self.admit(message).await {
            Err(NotAdmitted::Refused(refusal)) => refusal,
            other => panic!("{other:?} for {message}"),
        }
    }

    async fn not_now(&self, message: &Value) -> NotNow {
        match self.admit(message).await {
            Err(NotAdmitted::NotNow(why)) => why,
            other => panic!("{other:?} for {message}"),
        }
    }

    async fn taken(&self, message: &Value) {
        let admitted = self.admit(message).await;
        assert!(matches!(admitted, Ok(Admitted::Notification { .. })), "{admitted:?} for {message}");
    }
}

fn header_map(message: &Value) -> HeaderMap {
    let pairs = headers(message).into_iter();
    pairs.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

fn message(id: &str) -> Value {
    notification(id, NOW, &hook("f1", "i-0"))
}

const WRONG: Refusal = Refusal::Signature(SignatureError::Wrong);

#[tokio::test]
async fn both_versions_of_a_signature_are_taken() {
    let gate = Gate::new().await;
    gate.taken(&message("m")).await;
    let golden = version_1();
    gate.taken(&golden[0]).await;
    gate.taken(&golden[1]).await;
    assert!(matches!(gate.admit(&golden[2]).await, Ok(Admitted::Confirmed)));
    assert!(matches!(gate.admit(&golden[3]).await, Ok(Admitted::Unsubscribed)));
    // A signature of one version is none of the other.
    for (mut message, version) in [(message("m"), "1"), (golden[0].clone(), "2")] {
        message["SignatureVersion"] = version.into();
        assert_eq!(gate.refused(&message).await, WRONG);
    }
}

#[tokio::test]
async fn version_1_can_be_switched_off() {
    let gate = Gate::with(SnsSignature::V2, Duration::from_secs(20)).await;
    for message in version_1() {
        assert_eq!(gate.refused(&message).await, Refusal::Signature(SignatureError::TooWeak));
    }
    assert_eq!(gate.aws.looked_up(), Vec::<String>::new());
    gate.taken(&message("m")).await;
}

#[tokio::test]
async fn every_signed_field_is_covered() {
    let gate = Gate::new().await;
    for name in ["Message", "MessageId", "Subject"] {
        let mut message = message("m");
        message[name] = format!("{}.", message[name].as_str().unwrap()).into();
        assert_eq!(gate.refused(&message).await, WRONG, "{name}");
        message.as_object_mut().unwrap().remove("Subject");
        assert_eq!(gate.refused(&message).await, WRONG, "no Subject");
    }
    let mut later = message("m");
    later["Timestamp"] = "2025-11-22T08:26:40.124Z".into();
    assert_eq!(gate.refused(&later).await, WRONG, "Timestamp");
    for name in ["Message", "MessageId", "Token", "SubscribeURL"] {
        let mut message = confirmation("SubscriptionConfirmation", "m", NOW);
        message[name] = format!("{}x", message[name].as_str().unwrap()).into();
        assert_eq!(gate.refused(&message).await, WRONG, "{name}");
    }
    let mut kind = confirmation("UnsubscribeConfirmation", "m", NOW);
    kind["Type"] = "SubscriptionConfirmation".into();
    assert_eq!(gate.refused(&kind).await, WRONG, "Type");
    assert!(!gate.aws.requests().iter().any(|r| r.contains("ConfirmSubscription")));
    assert!(gate.sns.unsubscribed().is_empty());
}

#[tokio::test]
async fn the_topic_is_covered_by_the_signature_too() {
    let aws = FakeSns::start().await;
    let mut config = events_config(SnsSignature::Any);
    let other = format!("{TOPIC}-2");
    config.sns_topics.push(other.clone());
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_763_800_000_123));
    let sns = Sns::new(&config, clock, Outside::replaced(aws.roots(), aws.lookup())).unwrap().unwrap();
    let mut message = message("m");
    message["TopicArn"] = other.into();
    let admitted = sns.admit(&header_map(&message), message.to_string().as_bytes()).await;
    assert_eq!(admitted.unwrap_err(), NotAdmitted::Refused(WRONG));
}

#[tokio::test]
async fn what_is_not_signed_does_not_matter() {
    let gate = Gate::new().await;
    let mut extra = message("m");
    extra["UnsubscribeURL"] = Value::Null;
    extra["MessageAttributes"] = json!({"a": {"Type": "String", "Value": [1, {"b": 2}]}});
    gate.taken(&extra).await;

    // `null` is a subject that is not there; an empty one is there.
    let mut null = message("m");
    null.as_object_mut().unwrap().remove("Subject");
    let mut null = signed(null);
    gate.taken(&null).await;
    null["Subject"] = Value::Null;
    gate.taken(&null).await;
    null["Subject"] = "".into();
    assert_eq!(gate.refused(&null).await, WRONG);

    let reversed: Vec<String> =
        message("m").as_object().unwrap().iter().rev().map(|(k, v)| format!("{}:{v}", json!(k))).collect();
    let body = format!("{{{}}}", reversed.join(" ,\n"));
    let admitted = gate.sns.admit(&header_map(&message("m")), body.as_bytes()).await;
    assert!(matches!(admitted, Ok(Admitted::Notification { .. })), "{admitted:?}");
}

#[tokio::test]
async fn what_can_be_refused_at_once_asks_nobody() {
    let gate = Gate::new().await;
    let with = |name: &str, value: &str| {
        let mut message = message("m");
        message[name] = value.into();
        message
    };
    for (message, refusal) in [
        (with("TopicArn", "arn:aws:sns:ap-south-1:123456789012:other"), Refusal::Topic),
        (with("TopicArn", "arn:aws:sns:us-east-1:123456789012:pikepole"), Refusal::Topic),
        (with("TopicArn", "arn:aws:sns:s3-us-west-2:123456789012:pikepole"), Refusal::Topic),
        (with("TopicArn", "x"), Refusal::Topic),
        (with("Timestamp", "2025-11-22T07:26:40.122Z"), Refusal::Expired),
        (with("Timestamp", "1970-01-01T00:00:00Z"), Refusal::Expired),
        (with("SignatureVersion", "3"), Refusal::Signature(SignatureError::UnknownVersion)),
        (with("SignatureVersion", "01"), Refusal::Signature(SignatureError::UnknownVersion)),
        (with("Signature", "?"), Refusal::Signature(SignatureError::Malformed)),
        (with("Signature", &"A".repeat(100_000)), Refusal::Signature(SignatureError::Malformed)),
        (with("SigningCertURL", &cert_url(1).replace("ap-south-1", "us-east-1")), Refusal::CertUrl),
        (with("SigningCertURL", &cert_url(1).replace("ap-south-1", "s3-us-west-2")), Refusal::CertUrl),
        (with("SigningCertURL", &cert_url(1).replace(HOST, "sns.evil.com")), Refusal::CertUrl),
        (with("SigningCertURL", &cert_url(1).replace("https", "http")), Refusal::CertUrl),
        (with("SigningCertURL", &format!("{}?x", cert_url(1))), Refusal::CertUrl),
    ] {
        assert_eq!(gate.refused(&message).await, refusal, "{message}");
    }
    for name in ["Timestamp", "MessageId"] {
        assert!(matches!(gate.refused(&with(name, "")).await, Refusal::Malformed(_)), "{name}");
    }
    assert_eq!(gate.not_now(&with("Timestamp", "2025-11-22T09:26:40.124Z")).await, NotNow::Future);
    assert_eq!(gate.aws.looked_up(), Vec::<String>::new());
}

#[tokio::test]
async fn the_headers_must_say_what_the_body_says() {
    let gate = Gate::new().await;
    let message = message("m");
    let body = message.to_string();
    for name in ["x-amz-sns-message-type", "x-amz-sns-topic-arn", "x-amz-sns-message-id"] {
        let mut other = header_map(&message);
        other.insert(name, "UnsubscribeConfirmation".parse().unwrap());
        let mut missing = header_map(&message);
        missing.remove(name);
        for headers in [other, missing] {
            let admitted = gate.sns.admit(&headers, body.as_bytes()).await;
            assert_eq!(admitted.unwrap_err(), NotAdmitted::Refused(Refusal::Header(name)));
        }
    }
    let mut raw = header_map(&message);
    raw.insert("x-amz-sns-rawdelivery", "true".parse().unwrap());
    let admitted = gate.sns.admit(&raw, hook("f1", "i-0").as_bytes()).await;
    assert_eq!(admitted.unwrap_err(), NotAdmitted::Refused(Refusal::Raw));
    assert_eq!(gate.aws.looked_up(), Vec::<String>::new());
}

#[tokio::test]
async fn a_message_is_a_replay_only_once_its_effect_is_kept() {
    let gate = Gate::new().await;
    gate.taken(&message("m")).await;
    gate.taken(&message("m")).await;
    gate.sns.remember("m");
    assert!(matches!(gate.admit(&message("m")).await, Ok(Admitted::Replay)));
    gate.taken(&message("n")).await;
    // A forged copy of it is still forged, and a late one is too late.
    let mut forged = message("m");
    forged["Message"] = "{}".into();
    assert_eq!(gate.refused(&forged).await, WRONG);
    gate.step(3_601);
    assert_eq!(gate.refused(&message("m")).await, Refusal::Expired);
}

#[tokio::test]
async fn a_certificate_that_is_not_snss_is_not_believed() {
    let gate = Gate::new().await;
    let issuer = gate.aws.issuer();
    let stranger = Authority::root("Stranger");
    let leaf = || Leaf::new("sns.amazonaws.com");
    for (what, pem) in [
        ("self-signed", leaf().self_signed()),
        ("by a stranger", leaf().signed_by(&stranger)),
        ("by a stranger who comes along", leaf().signed_by(&stranger) + &stranger.pem()),
        ("of another name", Leaf::new("sns.evil.com").signed_by(issuer)),
        ("of another service", Leaf::new("sqs.amazonaws.com").signed_by(issuer)),
        ("of another region", Leaf::new("sns.us-east-1.amazonaws.com").signed_by(issuer)),
        ("expired", leaf().expired().signed_by(issuer)),
        ("without its issuer", leaf().issued_at("http://evil.example/r2m01.cer").signed_by(issuer)),
        ("on a curve", leaf().on_a_curve().signed_by(issuer)),
    ] {
        gate.aws.serve_certificate(Serve::Body(pem.into_bytes()));
        let why = gate.not_now(&message("m")).await;
        assert!(matches!(why, NotNow::NoKey(NoKey::NotBelieved(_))), "{what}: {why:?}");
        gate.step(31);
    }
    assert_eq!(
        gate.not_now(&message("m")).await.to_string(),
        NotNow::from(NoKey::NotBelieved(CertError::NotRsa)).to_string()
    );
    assert!(!gate.aws.looked_up().iter().any(|host| host == "evil.example"));

    // Nothing of it sticks.
    gate.step(31);
    for name in ["sns.amazonaws.com", "sns-signing.ap-south-1.amazonaws.com", HOST] {
        gate.aws.serve_certificate(Serve::Body(Leaf::new(name).signed_by(issuer).into_bytes()));
        let mut message = message("m");
        message["SigningCertURL"] = cert_url(name.len() as u64).into();
        gate.taken(&message).await;
    }
}

#[tokio::test]
async fn trouble_with_the_certificate_is_not_the_messages_fault_and_passes() {
    let gate = Gate::new().await;
    let good = Leaf::new("sns.amazonaws.com").signed_by(gate.aws.issuer()).into_bytes();
    for trouble in [
        Serve::Status(404),
        Serve::Status(500),
        Serve::Redirect(format!("https://{HOST}/SimpleNotificationService-{:032x}.pem", 2)),
        Serve::Redirect("https://evil.example/x.pem".into()),
        Serve::Body(Vec::new()),
        Serve::Body(b"garbage".to_vec()),
        Serve::Body(b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n".to_vec()),
        Serve::Body([good.clone(), vec![b'\n'; 16 * 1024]].concat()),
    ] {
        let before = gate.aws.certificate_requests();
        gate.aws.serve_certificate(trouble.clone());
        gate.not_now(&message("m")).await;
        gate.aws.serve_certificate(Serve::Body(good.clone()));
        // Asked once, and not again at once.
        gate.not_now(&message("m")).await;
        gate.step(29);
        gate.not_now(&message("m")).await;
        assert_eq!(gate.aws.certificate_requests(), before + 1, "{trouble:?}");
        gate.step(1);
    }
    assert!(!gate.aws.looked_up().iter().any(|host| host == "evil.example"));
    gate.taken(&message("m")).await;
}

#[tokio::test]
async fn trouble_with_the_issuer_passes_too() {
    let gate = Gate::new().await;
    gate.aws.serve_issuer(Serve::Status(500));
    assert!(matches!(gate.not_now(&message("m")).await, NotNow::NoKey(NoKey::Issuer(_))));
    gate.aws.serve_issuer(Serve::Body(Authority::root("Stranger").der()));
    gate.step(30);
    assert!(matches!(gate.not_now(&message("m")).await, NotNow::NoKey(NoKey::NotBelieved(_))));
    // An issuer in PEM is one too, and one that comes along is not fetched.
    gate.aws.serve_issuer(Serve::Body(gate.aws.issuer().pem().into_bytes()));
    gate.step(30);
    gate.taken(&message("m")).await;
    gate.aws.serve_issuer(Serve::Status(500));
    let whole = Leaf::new("sns.amazonaws.com").signed_by(gate.aws.issuer()) + &gate.aws.issuer().pem();
    gate.aws.serve_certificate(Serve::Body(whole.into_bytes()));
    let mut other = message("m");
    other["SigningCertURL"] = cert_url(2).into();
    gate.taken(&other).await;
}

#[tokio::test]
async fn a_host_that_says_nothing_is_not_waited_for() {
    let gate = Gate::with(SnsSignature::Any, Duration::from_millis(200)).await;
    gate.aws.serve_certificate(Serve::Silence);
    assert_eq!(gate.not_now(&message("m")).await, NotNow::NoKey(NoKey::Certificate(OutsideError::Slow)));
}

#[tokio::test]
async fn a_host_whose_own_certificate_is_not_trusted_is_not_asked() {
    let (aws, other) = (FakeSns::start().await, FakeSns::start().await);
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_763_800_000_123));
    let outside = Outside::replaced(other.roots(), aws.lookup());
    let sns = Sns::new(&events_config(SnsSignature::Any), clock, outside).unwrap().unwrap();
    let message = message("m");
    let admitted = sns.admit(&header_map(&message), message.to_string().as_bytes()).await;
    let unreachable = matches!(
        admitted,
        Err(NotAdmitted::NotNow(NotNow::NoKey(NoKey::Certificate(OutsideError::Unreachable(_)))))
    );
    assert!(unreachable, "{admitted:?}");
    assert_eq!(aws.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_thousand_messages_at_once_fetch_one_certificate() {
    let gate = Gate::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    let message = message("m");
    for _ in 0..1_000 {
        let (sns, headers, body) = (Arc::clone(&gate.sns), header_map(&message), message.to_string());
        tasks.spawn(async move { sns.admit(&headers, body.as_bytes()).await });
    }
    while let Some(admitted) = tasks.join_next().await {
        assert!(matches!(admitted.unwrap(), Ok(Admitted::Notification { .. })));
    }
    assert_eq!(gate.aws.requests().len(), 2, "the certificate and its issuer: {:?}", gate.aws.requests());
}

#[tokio::test]
async fn a_caller_who_goes_away_does_not_break_the_fetch_of_the_others() {
    let gate = Gate::new().await;
    let message = message("m");
    let (headers, body) = (header_map(&message), message.to_string());
    {
        let mut first = std::pin::pin!(gate.sns.admit(&headers, body.as_bytes()));
        assert!(futures_util::poll!(&mut first).is_pending());
    }
    gate.taken(&message).await;
    assert_eq!(gate.aws.certificate_requests(), 1);
}

#[tokio::test]
async fn ten_thousand_forged_messages_cost_few_fetches_and_push_no_key_out() {
    let gate = Gate::new().await;
    gate.taken(&message("m")).await;
    gate.aws.serve_certificate(Serve::Status(404));
    let mut forged = message("m");
    for number in 0..10_000 {
        forged["SigningCertURL"] = cert_url(1_000 + number).into();
        gate.not_now(&forged).await;
    }
    assert!(gate.aws.certificate_requests() <= 32, "{}", gate.aws.certificate_requests());
    gate.taken(&message("m")).await;
}

#[tokio::test]
async fn a_certificate_that_is_kept_runs_out_all_the_same() {
    let gate = Gate::new().await;
    let leaf = Leaf::new("sns.amazonaws.com").until(2025, 11, 24).signed_by(gate.aws.issuer());
    gate.aws.serve_certificate(Serve::Body(leaf.into_bytes()));
    gate.taken(&message("m")).await;
    gate.step(86_400);
    gate.taken(&notification("n", "2025-11-23T08:26:40.123Z", "{}")).await;
    gate.step(86_400);
    let why = gate.not_now(&notification("o", "2025-11-24T08:26:40.123Z", "{}")).await;
    assert!(matches!(why, NotNow::NoKey(NoKey::NotBelieved(CertError::Untrusted(_)))), "{why:?}");
    assert_eq!(gate.aws.certificate_requests(), 1);
}

#[tokio::test]
async fn a_subscription_is_confirmed_once_and_only_where_its_topic_is() {
    let gate = Gate::new().await;
    let message = confirmation("SubscriptionConfirmation", "c", NOW);
    assert!(matches!(gate.admit(&message).await, Ok(Admitted::Confirmed)));
    assert!(matches!(gate.admit(&message).await, Ok(Admitted::Replay)));
    let confirmations: Vec<String> =
        gate.aws.requests().into_iter().filter(|r| r.contains("ConfirmSubscription")).collect();
    let expected = format!(
        "{HOST} /?Action=ConfirmSubscription&TopicArn=arn%3Aaws%3Asns%3Aap-south-1%3A123456789012%3Apikepole\
         &Token=2336412f37fb687f5d51e6e241d09c8058323f60b964268bfe"
    );
    assert_eq!(confirmations, [expected]);
    assert!(!gate.aws.looked_up().iter().any(|host| host == "evil.example"), "{:?}", gate.aws.looked_up());
}

#[tokio::test]
async fn a_confirmation_that_fails_can_be_tried_again_and_follows_no_redirect() {
    let gate = Gate::new().await;
    let message = confirmation("SubscriptionConfirmation", "c", NOW);
    for trouble in [
        Serve::Status(500),
        Serve::Status(400),
        Serve::Redirect("https://evil.example/".into()),
        Serve::Body(vec![b'x'; 20_000]),
    ] {
        gate.aws.serve_confirmation(trouble);
        assert!(matches!(gate.not_now(&message).await, NotNow::Confirm(_)));
    }
    gate.aws.serve_confirmation(Serve::Body(b"<ConfirmSubscriptionResponse/>".to_vec()));
    assert!(matches!(gate.admit(&message).await, Ok(Admitted::Confirmed)));
    assert!(!gate.aws.looked_up().iter().any(|host| host == "evil.example"));
}

#[tokio::test]
async fn the_end_of_a_subscription_is_remembered() {
    let gate = Gate::new().await;
    let message = confirmation("UnsubscribeConfirmation", "u", NOW);
    assert!(matches!(gate.admit(&message).await, Ok(Admitted::Unsubscribed)));
    assert!(matches!(gate.admit(&message).await, Ok(Admitted::Replay)));
    let ended = gate.sns.unsubscribed();
    assert_eq!((ended.len(), ended[0].topic.as_str()), (1, TOPIC));
    assert!(!gate.aws.requests().iter().any(|r| r.contains("Subscri")));
}

#[tokio::test]
async fn a_topic_that_is_none_is_a_mistake_of_the_configuration() {
    let aws = FakeSns::start().await;
    let mut config = events_config(SnsSignature::Any);
    config.sns_topics.push("arn:aws:sns:evil.com/:1:t".into());
    let error = Sns::new(&config, Clock::system(), Outside::replaced(aws.roots(), aws.lookup())).unwrap_err();
    assert!(error.contains("evil.com"), "{error}");
}

/// Posts a message as SNS does.
async fn post(rig: &Rig, message: &Value) -> Answer {
    let headers = headers(message);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    rig.post(PATH, &headers, &message.to_string()).await
}

async fn served() -> (FakeSns, Rig) {
    let aws = FakeSns::start().await;
    let rig = Plan::new().tokens("read-token", "write-token").sns(&aws).start().await;
    rig.describe("f1", &["10.0.0.1:5044", "10.0.0.2:5044"]).await;
    (aws, rig)
}

#[tokio::test]
async fn a_message_of_sns_takes_effect_without_a_token() {
    let (aws, rig) = served().await;
    let before = rig.revision("f1");
    let answer = post(&rig, &message("m")).await;
    assert_eq!((answer.status, answer.json()["ours"].as_u64()), (200, Some(1)), "{answer:?}");
    let after = rig.revision("f1");
    assert!(after > before);
    // A retry is acknowledged, and so is poison: neither may come again.
    let again = post(&rig, &message("m")).await;
    assert_eq!((again.status, again.json()["events"].as_u64(), rig.revision("f1")), (200, Some(0), after));
    let poison = post(&rig, &notification("p", NOW, "poison")).await;
    assert_eq!((poison.status, poison.json()["rejected"].as_u64()), (200, Some(1)));
    assert_eq!(post(&rig, &confirmation("SubscriptionConfirmation", "c", NOW)).await.status, 200);
    assert_eq!(post(&rig, &confirmation("UnsubscribeConfirmation", "u", NOW)).await.status, 200);
    let metrics = rig.ask("GET", "/metrics", &[("Authorization", "Bearer read-token")]).await;
    for outcome in ["ours", "replayed", "rejected", "confirmed", "unsubscribed"] {
        let line = format!("pikepole_events_total{{way=\"sns\",outcome=\"{outcome}\"}} 1\n");
        assert!(metrics.text().contains(&line), "{outcome}");
    }
    drop(aws);
}

#[tokio::test]
async fn only_what_must_not_come_again_is_refused() {
    let (aws, rig) = served().await;
    let with = |name: &str, value: &str| {
        let mut message = message("m");
        message[name] = value.into();
        message
    };
    for (message, status) in [
        (with("Message", "x"), 403),
        (with("TopicArn", "arn:aws:sns:ap-south-1:123456789012:other"), 403),
        (with("SigningCertURL", "https://sns.evil.com/x.pem"), 403),
        (with("Timestamp", "2025-11-21T00:00:00Z"), 403),
        (with("Timestamp", "2025-11-23T00:00:00Z"), 503),
        (with("Signature", "?"), 400),
        (with("Type", "Other"), 400),
    ] {
        let answer = post(&rig, &message).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{answer:?}");
    }
    aws.serve_certificate(Serve::Status(500));
    let answer = post(&rig, &with("SigningCertURL", &cert_url(10))).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    assert!(answer.header("retry-after").is_some());

    let raw = rig.post(PATH, &[("x-amz-sns-rawdelivery", "true")], &hook("f1", "i-0")).await;
    assert_eq!((raw.status, raw.code().as_str()), (400, "bad_request"));
    // Its length alone is enough: a body that is sent all the same would meet a closed door.
    let large = rig.ask("POST", PATH, &[("Content-Length", "1048577"), ("Expect", "100-continue")]).await;
    assert_eq!((large.status, large.code().as_str()), (413, "too_large"));
}

#[tokio::test]
async fn a_password_in_the_endpoint_is_accepted_and_not_required() {
    let (_aws, rig) = served().await;
    let message = message("m");
    for authorization in ["Basic c25zOndyaXRlLXRva2Vu", "Basic c25zOndyb25n"] {
        let headers = headers(&message);
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        headers.push(("Authorization", authorization));
        assert_eq!(rig.post(PATH, &headers, &message.to_string()).await.status, 200);
    }
}

#[tokio::test]
async fn without_a_topic_the_route_says_what_to_configure() {
    let rig = Rig::with_two().await;
    let answer = post(&rig, &message("m")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"));
    assert!(answer.text().contains("sns_topics"), "{}", answer.text());
}

#[tokio::test]
async fn a_slow_message_may_come_again() {
    let aws = FakeSns::start().await;
    let rig = Plan::new().sns(&aws).limits(|l| l.body_time = Duration::from_millis(50)).start().await;
    let mut wire = rig.connect().await;
    wire.request("POST", PATH, &[("Content-Length", "100")]).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
}

#[tokio::test]
async fn sns_hears_an_answer_in_time_whatever_happens() {
    let aws = FakeSns::start().await;
    aws.serve_certificate(Serve::Silence);
    let rig = Plan::new().sns(&aws).limits(|l| l.sns_answer = Duration::from_millis(50)).start().await;
    let answer = post(&rig, &message("m")).await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
}
