//! A fake SNS: an authority, signing certificates, signed messages, and the host that serves the certificate and takes
//! confirmations.
//!
//! Its host names are AWS's own; a test tells the code under test where they are and which root to trust. The RSA key
//! is a file, since `ring` makes none; it signs nothing outside of tests.

mod certs;
mod host;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

pub use certs::{Authority, Leaf};
pub use host::Serve;

/// The region of this SNS.
pub const REGION: &str = "ap-south-1";
/// Its host.
pub const HOST: &str = "sns.ap-south-1.amazonaws.com";
/// Its topic.
pub const TOPIC: &str = "arn:aws:sns:ap-south-1:123456789012:pikepole";
/// Where its authority publishes the issuer of its signing certificates.
pub const ISSUER: &str = "http://crt.r2m01.amazontrust.com/r2m01.cer";

/// The RSA key that signs messages.
const KEY: &str = include_str!("sns/key.pem");

/// A running SNS.
pub struct FakeSns {
    root: Authority,
    issuer: Authority,
    state: Arc<Mutex<host::State>>,
    secure: SocketAddr,
    plain: SocketAddr,
    _tasks: JoinSet<()>,
}

impl FakeSns {
    /// Starts it, with a signing certificate as AWS's are: the leaf alone, by an issuer that it names.
    pub async fn start() -> Self {
        let root = Authority::root("Root");
        let issuer = root.issuer("Issuer");
        let leaf = Leaf::new("sns.amazonaws.com").signed_by(&issuer);
        let state = host::State::new(Serve::Body(leaf.into_bytes()), Serve::Body(issuer.der()));
        let state = Arc::new(Mutex::new(state));
        let mut tasks = JoinSet::new();
        let secure = host::serve_tls(&root, Arc::clone(&state), &mut tasks).await;
        let plain = host::serve_plain(Arc::clone(&state), &mut tasks).await;
        Self { root, issuer, state, secure, plain, _tasks: tasks }
    }

    /// The roots to trust.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().into()).expect("a root that was just made");
        roots
    }

    /// The authority below the root, which signs the certificates.
    pub fn issuer(&self) -> &Authority {
        &self.issuer
    }

    /// The root.
    pub fn root(&self) -> &Authority {
        &self.root
    }

    /// Where a host is. Whoever asks is noted, and is led here whatever the name.
    pub fn lookup(&self) -> impl Fn(&str) -> SocketAddr + Send + Sync + 'static {
        let (state, secure, plain) = (Arc::clone(&self.state), self.secure, self.plain);
        move |host| {
            state.lock().expect("no test panics in here").looked_up.push(host.into());
            if host.starts_with("crt.") { plain } else { secure }
        }
    }

    /// What comes for a signing certificate from now on.
    pub fn serve_certificate(&self, serve: Serve) {
        self.state.lock().expect("no test panics in here").certificate = serve;
    }

    /// What comes for the issuer from now on.
    pub fn serve_issuer(&self, serve: Serve) {
        self.state.lock().expect("no test panics in here").issuer = serve;
    }

    /// What comes for a confirmation from now on.
    pub fn serve_confirmation(&self, serve: Serve) {
        self.state.lock().expect("no test panics in here").confirmation = serve;
    }

    /// Every request so far, as `host path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().expect("no test panics in here").requests.clone()
    }

    /// Requests for signing certificates so far.
    pub fn certificate_requests(&self) -> usize {
        self.requests().iter().filter(|r| r.contains("/SimpleNotificationService-")).count()
    }

    /// Every host that was looked for.
    pub fn looked_up(&self) -> Vec<String> {
        self.state.lock().expect("no test panics in here").looked_up.clone()
    }
}

/// The URL of a signing certificate.
pub fn cert_url(number: u64) -> String {
    format!("https://{HOST}/SimpleNotificationService-{number:032x}.pem")
}

/// A notification as SNS makes it, signed.
pub fn notification(id: &str, timestamp: &str, message: &str) -> Value {
    signed(json!({
        "Type": "Notification",
        "MessageId": id,
        "TopicArn": TOPIC,
        "Subject": "Auto Scaling:  Lifecycle action 'TERMINATING' for instance i-0 in progress.",
        "Message": message,
        "Timestamp": timestamp,
        "SignatureVersion": "2",
        "SigningCertURL": cert_url(1),
        "UnsubscribeURL": format!("https://{HOST}/?Action=Unsubscribe&SubscriptionArn={TOPIC}:c9135db0"),
    }))
}

/// A `SubscriptionConfirmation` or an `UnsubscribeConfirmation`, signed. Its SubscribeURL leads elsewhere.
pub fn confirmation(kind: &str, id: &str, timestamp: &str) -> Value {
    signed(json!({
        "Type": kind,
        "MessageId": id,
        "Token": "2336412f37fb687f5d51e6e241d09c8058323f60b964268bfe",
        "TopicArn": TOPIC,
        "Message": "You have chosen to subscribe to the topic.",
        "SubscribeURL": "https://evil.example/?Action=ConfirmSubscription",
        "Timestamp": timestamp,
        "SignatureVersion": "2",
        "SigningCertURL": cert_url(1),
    }))
}

/// Signs a message anew, with version 2.
pub fn signed(mut message: Value) -> Value {
    let key = PrivatePkcs8KeyDer::from_pem_slice(KEY.as_bytes()).expect("the key is a file of ours");
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("the key is a file of ours");
    let mut signature = vec![0; key.public().modulus_len()];
    let text = to_sign(&message);
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).expect("it signs");
    message["Signature"] = STANDARD.encode(signature).into();
    message
}

/// Messages with signatures of version 1, which `ring` cannot make: `openssl dgst -sha1 -sign key.pem` made them. They are
/// a notification, one without a subject, and both confirmations, of 2025-11-22T08:26:40.123Z.
pub fn version_1() -> Vec<Value> {
    serde_json::from_str(include_str!("sns/version_1.json")).expect("the messages are a file of ours")
}

/// What a signature is over, written apart from the code under test.
fn to_sign(message: &Value) -> String {
    let names: &[&str] = if message["Type"] == "Notification" {
        &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
    } else {
        &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    };
    let lines = names.iter().filter_map(|name| Some(format!("{name}\n{}\n", message[*name].as_str()?)));
    lines.collect()
}

/// The headers that SNS sends with a message.
pub fn headers(message: &Value) -> Vec<(&'static str, String)> {
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_string();
    vec![
        ("x-amz-sns-message-type", text("Type")),
        ("x-amz-sns-message-id", text("MessageId")),
        ("x-amz-sns-topic-arn", text("TopicArn")),
        ("Content-Type", "text/plain; charset=UTF-8".into()),
        ("User-Agent", "Amazon Simple Notification Service Agent".into()),
    ]
}
