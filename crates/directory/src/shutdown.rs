//! The word that the process is to stop, for everyone who waits.

use tokio::sync::watch;

/// Says "stop"; dropping it says so too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Hears "stop".
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A trigger and its listener.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Says "stop".
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Waits for "stop". Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone, which is a "stop" as well.
        drop(self.0.wait_for(|stop| *stop).await);
    }

    /// Whether "stop" was said.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
