//! A real directory behind the function: a fleet of a file, tokens, the service as a whole.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pikepole_directory::assemble;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::Config;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::rig::within;

pub(crate) const READ: &str = "s3cret-read-token";
pub(crate) const WRITE: &str = "s3cret-write-token";

/// A terminate hook's message for the member `c0`, as SNS hands it to a function.
pub(crate) const TERMINATING: &str = r#"{"Records":[{"EventSource":"aws:sns","EventVersion":"1.0","Sns":{"Type":"Notification","MessageId":"m1","TopicArn":"arn:aws:sns:ap-south-1:123456789012:pikepole","Subject":"Auto Scaling:  Lifecycle action 'TERMINATING' for instance i-0000000000000000a in progress.","Message":"{\"LifecycleHookName\":\"pikepole-terminate\",\"AccountId\":\"123456789012\",\"LifecycleTransition\":\"autoscaling:EC2_INSTANCE_TERMINATING\",\"AutoScalingGroupName\":\"f1\",\"Service\":\"AWS Auto Scaling\",\"Time\":\"2026-11-22T10:00:00.000Z\",\"EC2InstanceId\":\"i-0000000000000000a\",\"LifecycleActionToken\":\"465e0162-e6af-4786-b4e8-bb544ae58790\"}"}}]}"#;

/// The same, of this moment: what a describe has disproved long since has no effect.
pub(crate) fn terminating_now() -> String {
    TERMINATING.replace("2026-11-22T10:00:00.000Z", &pikepole_api::time::format(Clock::system().now()))
}

/// A running directory with the fleet `f1`.
pub(crate) struct Directory {
    address: SocketAddr,
    _folder: TempDir,
}

impl Directory {
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let members = folder.path().join("members.json");
        std::fs::write(
            &members,
            r#"{"members":[{"instance_id":"i-0000000000000000a","address":"10.0.0.1:5044","zone":"a"},
                           {"instance_id":"i-0000000000000000b","address":"10.0.0.2:5044","zone":"a"}]}"#,
        )
        .unwrap();
        let text = format!(
            "[server]\ntokens = {{ read = {READ:?}, write = {WRITE:?} }}\n[store]\npath = {:?}\n\
             [[fleet]]\nname = \"f1\"\ndc = \"some-dc\"\nregion = \"ap-south-1\"\n\
             source = {{ kind = \"file\", path = {members:?} }}\n",
            folder.path().join("store"),
        );
        let config = Config::parse(&text, |_| None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(assemble::serve(config, listener, Clock::system(), std::future::pending()));
        let directory = Self { address, _folder: folder };
        within("a ready directory", async { while directory.get("/readyz").await.0 != 200 {} }).await;
        directory
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let request = Request::get(format!("{}{path}", self.url()))
            .header("authorization", format!("Bearer {READ}"))
            .body(Full::default())
            .unwrap();
        let response = within("an answer", client.request(request)).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// What the first member of the fleet is now.
    pub(crate) async fn state_of_the_first(&self) -> String {
        let (_, roster) = self.get("/v1/fleets/f1/roster").await;
        let roster: Value = serde_json::from_str(&roster).unwrap();
        roster["members"][0]["state"].as_str().unwrap().into()
    }
}
