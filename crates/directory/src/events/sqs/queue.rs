//! The four calls to a queue.
//!
//! Not a retrier: the poller decides what to do.
//!
//! Invariant: every call ends within its limit, and an answer is whole or it is an error.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::delete_message_batch::DeleteMessageBatchOutput;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName,
    QueueAttributeName,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use pikepole_fleet::Timestamp;

use super::place::Place;
use super::{Message, SqsSettings};
use crate::source::SourceError;
use crate::source::aws::credentials::Kept as KeptCredentials;
use crate::source::aws::errors::{self, Api};
use crate::source::aws::setup::sdk;

/// Messages of one receive and entries of one batch (AWS).
pub(super) const BATCH: usize = 10;

/// The longest a message can be hidden, in seconds (AWS).
const MAX_HIDDEN: u64 = 43_200;

/// Why a call to a queue failed. The text is for people and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// There is no queue of this URL.
    #[error("{0}: there is no such queue; check the URL, its region and its account")]
    Missing(&'static str),
    /// Anything else that AWS, the network or the credentials may say.
    #[error(transparent)]
    Aws(#[from] SourceError),
}

impl QueueError {
    /// A word for a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Aws(SourceError::Throttled(_)) => "throttled",
            Self::Aws(SourceError::Denied(_)) => "denied",
            Self::Aws(SourceError::Unreachable(_)) => "unreachable",
            Self::Aws(SourceError::Malformed(_)) => "malformed",
        }
    }

    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Aws(SourceError::Denied(_)))
    }
}

/// A message and how to speak of it to the queue.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) receipt: String,
    /// How often it has come, this time included.
    pub(super) times: u32,
}

/// One queue.
#[derive(Debug)]
pub(super) struct Queue {
    client: Client,
    credentials: KeptCredentials,
    url: String,
    wait: Duration,
    call: Duration,
}

impl Queue {
    pub(super) async fn new(settings: &SqsSettings, place: Place) -> Self {
        let mut aws = settings.aws.clone();
        aws.region = place.region;
        // Each call has its own limit below; a long poll may take longer than any other.
        aws.call_timeout = settings.times.wait + settings.times.call;
        let (config, credentials) = sdk(&aws).await;
        let mut builder = aws_sdk_sqs::config::Builder::from(&config);
        if aws.endpoint_url.is_none()
            && let Some(endpoint) = place.endpoint
        {
            builder = builder.endpoint_url(endpoint);
        }
        Self {
            client: Client::from_conf(builder.build()),
            credentials,
            url: settings.url.clone(),
            wait: settings.times.wait,
            call: settings.times.call,
        }
    }

    /// One long poll.
    pub(super) async fn receive(&self) -> Result<Vec<Received>, QueueError> {
        let request = self.client.receive_message().queue_url(&self.url);
        let request = request
            .max_number_of_messages(BATCH as i32)
            .wait_time_seconds(i32::try_from(self.wait.as_secs()).unwrap_or(0))
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        let told = self.in_time(Api::Receive, self.wait + self.call, request.send()).await?;
        let messages = told.messages.unwrap_or_default();
        // Without a receipt a message can be neither deleted nor hidden: it is left to come again.
        Ok(messages.into_iter().take(BATCH).filter_map(read).collect())
    }

    /// How long the queue hides a received message by itself.
    pub(super) async fn visibility(&self) -> Result<Duration, QueueError> {
        let name = QueueAttributeName::VisibilityTimeout;
        let request = self.client.get_queue_attributes().queue_url(&self.url).attribute_names(name.clone());
        let told = self.in_time(Api::Attributes, self.call, request.send()).await?;
        let seconds = told.attributes.unwrap_or_default().get(&name).and_then(|s| s.parse().ok());
        let seconds: u64 = seconds
            .ok_or_else(|| errors::malformed(Api::Attributes, &"it tells no VisibilityTimeout in seconds"))?;
        Ok(Duration::from_secs(seconds.min(MAX_HIDDEN)))
    }

    /// Deletes at most [`BATCH`] messages. What could not be deleted for a reason that may pass comes back.
    pub(super) async fn delete(&self, receipts: &[String]) -> Result<Undeleted, QueueError> {
        let entries = receipts.iter().enumerate().map(|(n, receipt)| {
            let entry = DeleteMessageBatchRequestEntry::builder();
            entry.id(n.to_string()).receipt_handle(receipt).build()
        });
        let entries =
            entries.collect::<Result<Vec<_>, _>>().map_err(|e| errors::malformed(Api::Delete, &e))?;
        let request = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let told = self.in_time(Api::Delete, self.call, request.send()).await?;
        Ok(Undeleted::read(receipts, &told))
    }

    /// Hides at most [`BATCH`] messages for so long from now, and says how many were not.
    pub(super) async fn hide(&self, messages: &[(String, Duration)]) -> Result<usize, QueueError> {
        let entries = messages.iter().enumerate().map(|(n, (receipt, time))| {
            let seconds = i32::try_from(time.as_secs().min(MAX_HIDDEN)).unwrap_or(0);
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder();
            entry.id(n.to_string()).receipt_handle(receipt).visibility_timeout(seconds).build()
        });
        let entries =
            entries.collect::<Result<Vec<_>, _>>().map_err(|e| errors::malformed(Api::Visibility, &e))?;
        let request =
            self.client.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries));
        Ok(self.in_time(Api::Visibility, self.call, request.send()).await?.failed().len())
    }

    async fn in_time<T, E>(
        &self,
        api: Api,
        limit: Duration,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, QueueError>
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let error = match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_missing(&error) => QueueError::Missing(api.name()),
            Ok(Err(error)) => errors::from_sdk(api, &error).into(),
            Err(_) => errors::timed_out(api, limit).into(),
        };
        if error.is_denied() {
            self.credentials.forget().await;
        }
        Err(error)
    }
}

/// What a batch left undeleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Undeleted {
    /// SQS's own trouble: worth another try.
    pub(super) again: Vec<String>,
    /// Refused for good.
    pub(super) refused: usize,
}

impl Undeleted {
    /// What is not said to be deleted is not deleted.
    fn read(receipts: &[String], told: &DeleteMessageBatchOutput) -> Self {
        let mut undeleted = Self::default();
        for (n, receipt) in receipts.iter().enumerate() {
            let id = n.to_string();
            if told.successful().iter().any(|s| s.id() == id) {
                continue;
            }
            if told.failed().iter().any(|f| f.id() == id && f.sender_fault()) {
                undeleted.refused += 1;
            } else {
                undeleted.again.push(receipt.clone());
            }
        }
        undeleted
    }
}

fn read(message: aws_sdk_sqs::types::Message) -> Option<Received> {
    let attribute =
        |name| message.attributes.as_ref().and_then(|a| a.get(&name)).and_then(|v| v.parse::<u64>().ok());
    let sent_at = attribute(MessageSystemAttributeName::SentTimestamp).map(Timestamp::from_millis);
    let times = attribute(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    let receipt = message.receipt_handle.filter(|r| !r.is_empty())?;
    let body = message.body.unwrap_or_default();
    Some(Received {
        message: Message { body, sent_at },
        receipt,
        times: u32::try_from(times).unwrap_or(u32::MAX),
    })
}

fn is_missing<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: Error + ProvideErrorMetadata + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    matches!(code, "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue")
}
