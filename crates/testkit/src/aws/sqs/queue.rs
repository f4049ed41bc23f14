//! The queue behind the fake SQS.
//!
//! Not durable and not FIFO.
//!
//! Invariant: a message is in the queue until it is deleted or dead.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// When the queue was made, in Unix milliseconds; its times count on from there.
const MADE_AT: u128 = 1_795_341_600_000;

/// Entries of one batch, and messages of one receive (AWS).
const MAX_BATCH: u64 = 10;

/// Seconds of one long poll (AWS).
const MAX_WAIT: u64 = 20;

#[derive(Debug)]
pub(super) struct Queue {
    made: Instant,
    visibility: Duration,
    messages: Vec<Message>,
    numbers: u64,
    pub(super) max_receive_count: u32,
    pub(super) dead: Vec<String>,
}

#[derive(Debug)]
struct Message {
    number: u64,
    body: String,
    sent: u128,
    visible_at: Instant,
    received: u32,
}

/// How many messages are wanted, and how long the caller waits for them.
pub(super) fn receive_params(params: &Value) -> Result<(usize, Duration), String> {
    let number = |name: &str, default: u64, most: u64| match &params[name] {
        Value::Null => Ok(default),
        value => value.as_u64().filter(|n| *n <= most).ok_or_else(|| format!("{name} is out of range")),
    };
    let most = number("MaxNumberOfMessages", 1, MAX_BATCH)?;
    if most == 0 {
        return Err("MaxNumberOfMessages is out of range".to_owned());
    }
    let wait = number("WaitTimeSeconds", 0, MAX_WAIT)?;
    Ok((usize::try_from(most).unwrap_or(1), Duration::from_secs(wait)))
}

impl Queue {
    pub(super) fn new(visibility: Duration) -> Self {
        Self {
            made: Instant::now(),
            visibility,
            messages: Vec::new(),
            numbers: 0,
            max_receive_count: u32::MAX,
            dead: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn send(&mut self, body: &str) {
        self.numbers += 1;
        self.messages.push(Message {
            number: self.numbers,
            body: body.to_owned(),
            sent: MADE_AT + self.made.elapsed().as_millis(),
            visible_at: Instant::now(),
            received: 0,
        });
    }

    /// When the next hidden message shows.
    pub(super) fn next_visible(&self) -> Option<Instant> {
        self.messages.iter().map(|m| m.visible_at).min()
    }

    /// Up to so many visible messages; hides them unless it is to deliver them twice.
    pub(super) fn receive(&mut self, most: usize, twice: bool) -> Vec<Value> {
        let now = Instant::now();
        let limit = self.max_receive_count;
        let dead = |m: &Message| m.visible_at <= now && m.received >= limit;
        self.dead.extend(self.messages.iter().filter(|m| dead(m)).map(|m| m.body.clone()));
        self.messages.retain(|m| !dead(m));
        let visible = self.messages.iter_mut().filter(|m| m.visible_at <= now).take(most);
        let delivered = visible.map(|m| {
            m.received += 1;
            if !twice {
                m.visible_at = now + self.visibility;
            }
            json!({
                "MessageId": format!("m-{}", m.number),
                "ReceiptHandle": m.handle(),
                "Body": m.body,
                "Attributes": {
                    "SentTimestamp": m.sent.to_string(),
                    "ApproximateReceiveCount": m.received.to_string(),
                },
            })
        });
        delivered.collect()
    }

    pub(super) fn delete(&mut self, params: &Value, failing: usize) -> Value {
        each(params, failing, |entry| {
            let number = number_of(entry)?;
            // What is gone already is a success, and so is an old handle.
            self.messages.retain(|m| m.number != number);
            Ok(())
        })
    }

    pub(super) fn change_visibility(&mut self, params: &Value, failing: usize) -> Value {
        let now = Instant::now();
        each(params, failing, |entry| {
            let number = number_of(entry)?;
            let seconds = entry["VisibilityTimeout"].as_u64().filter(|s| *s <= 43_200);
            let seconds = seconds.ok_or("InvalidParameterValue")?;
            let message = self.messages.iter_mut().find(|m| m.number == number);
            let message = message.filter(|m| m.visible_at > now).ok_or("MessageNotInflight")?;
            message.visible_at = now + Duration::from_secs(seconds);
            Ok(())
        })
    }

    pub(super) fn attributes(&self) -> Value {
        json!({ "Attributes": { "VisibilityTimeout": self.visibility.as_secs().to_string() } })
    }
}

impl Message {
    fn handle(&self) -> String {
        format!("receipt-{}-{}", self.number, self.received)
    }
}

fn number_of(entry: &Value) -> Result<u64, &'static str> {
    let handle = entry["ReceiptHandle"].as_str().and_then(|h| h.strip_prefix("receipt-"));
    let number = handle.and_then(|h| h.split('-').next()).and_then(|n| n.parse().ok());
    number.ok_or("ReceiptHandleIsInvalid")
}

/// One result for each entry; the first `failing` ones fail by themselves.
fn each(params: &Value, failing: usize, mut change: impl FnMut(&Value) -> Result<(), &'static str>) -> Value {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (n, entry) in params["Entries"].as_array().into_iter().flatten().enumerate() {
        let id = &entry["Id"];
        let result = if n < failing { Err("InternalError") } else { change(entry) };
        match result {
            Ok(()) => successful.push(json!({ "Id": id })),
            Err(code) => {
                failed.push(json!({ "Id": id, "SenderFault": code != "InternalError", "Code": code }));
            }
        }
    }
    json!({ "Successful": successful, "Failed": failed })
}
