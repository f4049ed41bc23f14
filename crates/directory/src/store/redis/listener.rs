//! The task that holds the subscription: connects, subscribes, listens, and starts again for ever.
//!
//! Has a connection of its own, so that a subscription that hangs holds up no operation.
//!
//! Invariant: whenever notices may have been missed, [`Notice::Reconnected`](super::Notice) follows. A
//! server that has fallen silent is noticed by a ping it does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::link::{Link, back_off};
use super::notice::{self, Heard, Notices};

/// Notices a reader may be behind before it is told to read everything instead.
const QUEUE: usize = 1024;

/// The subscription of a store. Ends with it.
#[derive(Debug)]
pub(super) struct Listener {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    channel: String,
    sender: broadcast::Sender<Heard>,
    is_connected: AtomicBool,
}

impl Listener {
    pub(super) fn start(link: Arc<Link>, channel: String) -> Self {
        let (sender, _) = broadcast::channel(QUEUE);
        let shared = Arc::new(Shared { channel, sender, is_connected: AtomicBool::new(false) });
        let task = tokio::spawn(run(link, Arc::clone(&shared)));
        Self { shared, task }
    }

    pub(super) fn channel(&self) -> &str {
        &self.shared.channel
    }

    pub(super) fn subscribe(&self) -> Notices {
        // In this order: a connection made in between is announced twice rather than never.
        let receiver = self.shared.sender.subscribe();
        Notices::new(receiver, self.is_connected())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.shared.is_connected.load(Ordering::SeqCst)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn tell(&self, heard: Heard) {
        // An error means that nobody listens.
        drop(self.sender.send(heard));
    }
}

async fn run(link: Arc<Link>, shared: Arc<Shared>) {
    let mut failures = 0;
    loop {
        let why = session(&link, &shared).await;
        let was_connected = shared.is_connected.swap(false, Ordering::SeqCst);
        if was_connected {
            failures = 0;
        }
        if failures == 0 {
            tracing::warn!(url = %link.url(), error = %why, "no subscription to notices, trying for ever");
        } else {
            tracing::debug!(url = %link.url(), error = %why, failures, "still no subscription to notices");
        }
        sleep(back_off(failures, link.limits().back_off)).await;
        failures = failures.saturating_add(1);
    }
}

/// One connection from beginning to end; returns why it ended.
async fn session(link: &Link, shared: &Arc<Shared>) -> String {
    let limits = link.limits();
    let lost = Arc::new(Notify::new());
    let mut connection = match link.connect(hearing(Arc::clone(shared), Arc::clone(&lost))).await {
        Ok(connection) => connection,
        Err(why) => return why,
    };
    match timeout(limits.response, connection.subscribe(&shared.channel)).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => return link.url().redact(&e.to_string()),
        Err(_) => return format!("no answer within {:?}", limits.response),
    }
    tracing::info!(url = %link.url(), channel = %shared.channel, "subscribed to notices");
    link.renew().await;
    shared.is_connected.store(true, Ordering::SeqCst);
    shared.tell(Heard::RECONNECTED);
    loop {
        tokio::select! {
            () = lost.notified() => return "the connection was lost".to_owned(),
            () = sleep(limits.ping_every) => {}
        }
        let ping = redis::cmd("PING");
        match timeout(limits.response, ping.query_async::<Value>(&mut connection)).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return link.url().redact(&e.to_string()),
            Err(_) => return format!("no answer to a ping within {:?}", limits.response),
        }
    }
}

/// What Redis sends unasked goes straight to the readers, through a queue that never blocks.
fn hearing(shared: Arc<Shared>, lost: Arc<Notify>) -> impl Fn(PushInfo) + Send + Sync {
    move |push| match (push.kind, &push.data[..]) {
        (PushKind::Disconnection, _) => lost.notify_one(),
        (PushKind::Message, [_, Value::BulkString(payload)]) => match notice::decode(payload) {
            Some(heard) => shared.tell(heard),
            None => tracing::debug!(bytes = payload.len(), "ignored a message that is no notice"),
        },
        _ => {}
    }
}
