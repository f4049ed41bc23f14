//! How far AWS's clock is ahead of ours, from the `Date` of its answers.
//!
//! Not a clock, and nothing is set by it: whoever compares AWS's times with ours asks here.
//!
//! Invariant: what was not measured within a short call, between two looks at a clock that did not step,
//! is not believed.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_autoscaling::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_autoscaling::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_autoscaling::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use pikepole_fleet::Timestamp;

use crate::clock::Clock;

/// Less than this, in milliseconds, is the network and the whole seconds of a `Date`.
const NOTEWORTHY: i64 = 5_000;

/// A call that takes longer says too little about the moment its `Date` was written.
const LONGEST: Duration = Duration::from_secs(4);

/// A `Date` has whole seconds, cut off: on average half a second is missing.
const HALF_A_SECOND: i64 = 500;

/// What the last answer showed.
#[derive(Debug, Default)]
pub(super) struct Skew(AtomicI64);

impl Skew {
    /// Milliseconds that AWS is ahead of us, if that is worth a correction.
    pub(super) fn ahead(&self) -> Option<i64> {
        let ahead = self.0.load(Ordering::Relaxed);
        (ahead.abs() >= NOTEWORTHY).then_some(ahead)
    }

    fn learn(&self, sent: Timestamp, received: Timestamp, date: i64) {
        if received < sent || received.since(sent) > LONGEST {
            return;
        }
        let middle = sent.as_millis() + (received.as_millis() - sent.as_millis()) / 2;
        let middle = i64::try_from(middle).unwrap_or(i64::MAX);
        self.0.store(date.saturating_add(HALF_A_SECOND).saturating_sub(middle), Ordering::Relaxed);
    }
}

/// Looks at one call.
#[derive(Debug)]
pub(super) struct DateSeen {
    clock: Clock,
    skew: Arc<Skew>,
    sent: Mutex<Option<Timestamp>>,
}

impl DateSeen {
    pub(super) fn new(clock: &Clock, skew: &Arc<Skew>) -> Self {
        Self { clock: clock.clone(), skew: Arc::clone(skew), sent: Mutex::new(None) }
    }
}

#[dyn_dispatch_hint]
impl Intercept for DateSeen {
    fn name(&self) -> &'static str {
        "DateSeen"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.clock.now());
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let sent = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let date = context.response().headers().get("date").and_then(read_date);
        if let (Some(sent), Some(date)) = (sent, date) {
            self.skew.learn(sent, self.clock.now(), date);
        }
        Ok(())
    }
}

fn read_date(text: &str) -> Option<i64> {
    DateTime::from_str(text, DateTimeFormat::HttpDate).ok()?.to_millis().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(sent: u64, received: u64, date: i64) -> Option<i64> {
        let skew = Skew::default();
        skew.learn(Timestamp::from_millis(sent), Timestamp::from_millis(received), date);
        skew.ahead()
    }

    #[test]
    fn aws_is_compared_with_the_middle_of_a_short_call() {
        assert_eq!(Skew::default().ahead(), None, "not known yet");
        assert_eq!(learned(100_000, 102_000, 201_000), Some(100_500), "we are behind");
        assert_eq!(learned(300_000, 302_000, 201_000), Some(-99_500), "we are ahead");
        assert_eq!(learned(100_000, 100_000, 104_000), None, "not worth it");
        assert_eq!(learned(100_000, 105_000, 500_000), None, "a long call proves nothing");
        assert_eq!(learned(100_000, 90_000, 500_000), None, "our clock stepped");
        assert_eq!(read_date("Sun, 22 Nov 2026 10:00:00 GMT"), Some(1_795_341_600_000));
        assert_eq!(read_date("yesterday"), None);
    }
}
