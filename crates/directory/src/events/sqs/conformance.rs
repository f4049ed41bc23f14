//! What a queue must do, told once and run on SQS as we fake it and as moto does.
//!
//! Invariant: a fake that behaves unlike the real part fails here.

use async_trait::async_trait;
use pikepole_testkit::aws::FakeSqs;
use pikepole_testkit::process::Moto;

use super::place;
use super::queue::Queue;
use super::tests::settings;
use super::*;

const VISIBILITY: Duration = Duration::from_secs(2);

/// A place with one queue.
#[async_trait]
trait World: Send + Sync {
    fn endpoint(&self) -> String;
    fn url(&self) -> String;
    fn send(&self, body: &str);
    fn left(&self) -> usize;
    fn delete_queue(&self);

    async fn queue(&self, wait: u64) -> Queue {
        let mut settings = settings(self.endpoint(), self.url());
        settings.times.wait = Duration::from_secs(wait);
        // A Python program on a busy machine may take its time.
        settings.times.call = Duration::from_secs(60);
        let place = place::find(&settings.url, &settings.aws.region).unwrap();
        Queue::new(&settings, place).await
    }
}

async fn suite(world: &dyn World) {
    let queue = world.queue(1).await;
    assert_eq!(queue.visibility().await, Ok(VISIBILITY));
    an_empty_poll_waits_and_is_no_error(&queue).await;
    a_body_arrives_as_it_was_sent_and_a_poll_ends_with_it(world).await;
    a_received_message_is_hidden_and_comes_back(world, &queue).await;
    deletion_is_for_good_and_may_be_repeated(world, &queue).await;
    a_bad_receipt_fails_alone(world, &queue).await;
    world.delete_queue();
    let error = queue.receive().await.unwrap_err();
    assert_eq!(error, QueueError::Missing("ReceiveMessage"));
}

async fn receive_one(queue: &Queue) -> Received {
    // A poll may come back empty while a message is still hidden.
    for _ in 0..20 {
        let mut messages = queue.receive().await.unwrap();
        if let Some(message) = messages.pop() {
            assert!(messages.is_empty(), "there is only one");
            return message;
        }
    }
    panic!("no message came");
}

async fn an_empty_poll_waits_and_is_no_error(queue: &Queue) {
    let began = Instant::now();
    assert!(queue.receive().await.unwrap().is_empty());
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

async fn a_body_arrives_as_it_was_sent_and_a_poll_ends_with_it(world: &dyn World) {
    let patient = world.queue(20).await;
    let body = "{\"a\":\"\\u00e9 é <&> \u{1f332}\",\n\"b\":[1]}";
    world.send(body);
    let began = Instant::now();
    let received = receive_one(&patient).await;
    assert!(began.elapsed() < Duration::from_secs(19), "it ends when a message is there");
    assert_eq!((received.message.body.as_str(), received.times), (body, 1));
    assert!(received.message.sent_at.is_some_and(|at| at.as_millis() > 1_700_000_000_000));
    assert_eq!(patient.delete(&[received.receipt]).await, Ok(Default::default()));
    assert_eq!(world.left(), 0);
}

async fn a_received_message_is_hidden_and_comes_back(world: &dyn World, queue: &Queue) {
    world.send("again");
    let first = receive_one(queue).await;
    assert_eq!(queue.hide(&[(first.receipt.clone(), Duration::from_secs(600))]).await, Ok(0));
    assert!(queue.receive().await.unwrap().is_empty(), "hidden");
    assert_eq!(world.left(), 1);
    assert_eq!(queue.hide(&[(first.receipt, Duration::ZERO)]).await, Ok(0));
    let second = receive_one(queue).await;
    assert_eq!((second.message.body.as_str(), second.times), ("again", 2));
    let third = receive_one(queue).await;
    assert_eq!(third.times, 3, "by itself, when its time is up");
    assert_eq!(queue.delete(&[third.receipt]).await, Ok(Default::default()));
}

async fn deletion_is_for_good_and_may_be_repeated(world: &dyn World, queue: &Queue) {
    for n in 0..3 {
        world.send(&n.to_string());
    }
    let mut receipts = Vec::new();
    while receipts.len() < 3 {
        receipts.extend(queue.receive().await.unwrap().into_iter().map(|m| m.receipt));
    }
    assert_eq!(queue.delete(&receipts).await, Ok(Default::default()));
    assert_eq!(world.left(), 0);
    assert_eq!(queue.delete(&receipts).await, Ok(Default::default()), "nothing is left to do");
}

async fn a_bad_receipt_fails_alone(world: &dyn World, queue: &Queue) {
    world.send("good");
    let good = receive_one(queue).await.receipt;
    let undeleted = queue.delete(&["bad".to_owned(), good]).await.unwrap();
    assert_eq!((undeleted.refused, undeleted.again.len()), (1, 0));
    assert_eq!(world.left(), 0);
    assert_eq!(queue.hide(&[("bad".to_owned(), Duration::ZERO)]).await, Ok(1));
}

struct Fake(FakeSqs);

#[async_trait]
impl World for Fake {
    fn endpoint(&self) -> String {
        self.0.url()
    }

    fn url(&self) -> String {
        self.0.queue_url()
    }

    fn send(&self, body: &str) {
        self.0.send(body);
    }

    fn left(&self) -> usize {
        self.0.left()
    }

    fn delete_queue(&self) {
        self.0.exists(false);
    }
}

struct Real {
    moto: Moto,
    url: String,
}

#[async_trait]
impl World for Real {
    fn endpoint(&self) -> String {
        self.moto.url()
    }

    fn url(&self) -> String {
        self.url.clone()
    }

    fn send(&self, body: &str) {
        self.moto.send_message(&self.url, body);
    }

    fn left(&self) -> usize {
        self.moto.messages_left(&self.url)
    }

    fn delete_queue(&self) {
        self.moto.delete_queue(&self.url);
    }
}

#[tokio::test]
async fn sqs_as_we_fake_it_conforms() {
    suite(&Fake(FakeSqs::start(VISIBILITY).await)).await;
}

#[tokio::test]
async fn sqs_as_moto_does_it_conforms() {
    let moto = Moto::start();
    let url = moto.create_queue("pikepole", 2);
    suite(&Real { moto, url }).await;
}
