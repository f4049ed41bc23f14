//! A fake AWS: Auto Scaling and EC2 behind the Query protocol, and beside them SQS behind the JSON
//! protocol, over real HTTP on loopback ports.
//!
//! Not a second moto: it knows the few actions Pikepole calls, and refuses every other one. What it
//! adds is what moto lacks: every lifecycle state, hooks that wait, real paging, throttling in all its forms, faults on
//! a given page, EC2 that lags behind, and speed.
//!
//! Invariant: without faults its answers are those of the real thing, as the conformance suite of the
//! directory's sources shows on this fake and on moto.

mod autoscaling;
mod ec2;
mod fault;
mod hooks;
mod model;
mod query;
mod sqs;
mod wire;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use fault::{Action, Fault, When};
pub use hooks::{HookKind, HookOutcome, HookRecord};
pub use model::Launch;
pub use sqs::{FakeSqs, SqsAction, SqsCall, SqsFault};

use fault::Verdict;
use hooks::HookSpec;
use model::Model;
use query::{Params, Reply};
use wire::Dropped;

/// The handle of a running fake. The server ends with it.
#[derive(Debug)]
pub struct FakeAws {
    model: Arc<Mutex<Model>>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl FakeAws {
    /// Starts an empty account on a free loopback port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let model = Arc::new(Mutex::new(Model::default()));
        let served = Arc::clone(&model);
        let server = wire::serve(listener, move |request| answer(request, Arc::clone(&served)));
        Self { model, address, server: tokio::spawn(server) }
    }

    /// Its address as an AWS endpoint: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes an empty group that wants `desired` instances.
    pub fn create_group(&self, group: &str, desired: u32) {
        self.model().create_group(group, desired);
    }

    /// Removes the group; its instances terminate.
    pub fn delete_group(&self, group: &str) {
        self.model().delete_group(group);
    }

    /// Sets `DesiredCapacity`. Nothing is launched or ended by it.
    pub fn set_desired(&self, group: &str, desired: u32) {
        self.model().group_mut(group).desired = desired;
    }

    /// Adds an instance and returns its id. [`Launch::default`] is one in service, with an address.
    pub fn launch(&self, group: &str, how: Launch) -> String {
        self.model().launch(group, how)
    }

    /// Sets the `LifecycleState`: any word, also one that AWS does not know.
    pub fn set_state(&self, id: &str, state: &str) {
        self.model().member_mut(id).state = state.to_owned();
    }

    /// Sets EC2's own state: `running`, `shutting-down`, `terminated`, …
    pub fn set_ec2_state(&self, id: &str, state: &str) {
        self.model().host_mut(id).state = state.to_owned();
    }

    /// Sets or takes away the private address.
    pub fn set_address(&self, id: &str, address: Option<IpAddr>) {
        self.model().host_mut(id).address = address;
    }

    /// Makes EC2 know the instance, or not: it learns of launches later than Auto Scaling.
    pub fn set_visible_in_ec2(&self, id: &str, visible: bool) {
        self.model().host_mut(id).visible = visible;
    }

    /// The private address EC2 tells.
    pub fn address(&self, id: &str) -> Option<IpAddr> {
        self.model().host_mut(id).address
    }

    /// Takes the instance out of its group; EC2 still tells that it terminated.
    pub fn remove(&self, id: &str) {
        self.model().remove(id);
    }

    /// Gives the group a lifecycle hook whose default result is CONTINUE. It is for instances that start
    /// to wait from now on.
    pub fn put_hook(&self, group: &str, name: &str, kind: HookKind, timeout: Duration) {
        let hook = HookSpec { name: name.to_owned(), kind, timeout, default_result: "CONTINUE" };
        self.model().group_mut(group).hooks.push(hook);
    }

    /// Launches an instance that waits for the group's launch hooks: `Pending:Wait`.
    pub fn launch_waiting(&self, group: &str, how: Launch) -> String {
        self.model().launch_waiting(group, how)
    }

    /// Makes the instance wait for its group's terminate hooks: `Terminating:Wait`.
    pub fn begin_terminate(&self, id: &str) {
        self.model().begin_terminate(id);
    }

    /// Ends the time of the actions the instance waits for. It also ends by itself, by tokio's clock.
    pub fn expire_hooks(&self, id: &str) {
        self.model().expire(id);
    }

    /// The token of the first action the instance waits for, if it waits.
    pub fn hook_token(&self, id: &str) -> Option<String> {
        let mut model = self.model();
        model.expire_due();
        model.hook_token(id)
    }

    /// The message of that action, as a hook sends it to a queue or a topic.
    pub fn hook_message(&self, id: &str) -> String {
        self.model().hook_message(id)
    }

    /// The message of that action as EventBridge delivers it.
    pub fn hook_event(&self, id: &str) -> String {
        self.model().hook_event(id)
    }

    /// Every completion and heartbeat so far, in order.
    pub fn hook_calls(&self) -> Vec<HookRecord> {
        self.model().hook_calls.clone()
    }

    /// The `LifecycleState`; `None` once the instance is in no group.
    pub fn state(&self, id: &str) -> Option<String> {
        let mut model = self.model();
        model.expire_due();
        let mut members = model.groups.values().flat_map(|g| &g.members);
        members.find(|m| m.id == id).map(|m| m.state.clone())
    }

    /// The `Date` of every answer from now on; `None` for the true one.
    pub fn date(&self, date: Option<&str>) {
        self.model().date = date.map(str::to_owned);
    }

    /// The ids of a group, oldest first.
    pub fn instances(&self, group: &str) -> Vec<String> {
        self.model().group_mut(group).members.iter().map(|m| m.id.clone()).collect()
    }

    /// Makes matching calls fail from now on. Faults are tried in the order they were added.
    pub fn fault(&self, action: Action, fault: Fault, when: When) {
        self.model().faults.add(action, fault, when);
    }

    /// Ends every fault.
    pub fn clear_faults(&self) {
        self.model().faults.clear();
    }

    /// Every group is told without instances.
    pub fn answer_empty(&self, on: bool) {
        self.model().answer_empty = on;
    }

    /// The group is left out of answers, as if it did not exist.
    pub fn omit_group(&self, group: &str, on: bool) {
        self.model().group_mut(group).omitted = on;
    }

    /// EC2 tells no addresses.
    pub fn hide_addresses(&self, on: bool) {
        self.model().hide_addresses = on;
    }

    /// Every answer is kept back for this long, by tokio's clock.
    pub fn delay(&self, delay: Duration) {
        self.model().delay = delay;
    }

    /// No page holds more than this many groups or instances, whatever the caller asks for.
    pub fn max_page(&self, items: usize) {
        self.model().max_page = items;
    }

    /// How often an action was called, whatever came of it.
    pub fn calls(&self, action: Action) -> u64 {
        self.model().faults.calls(action)
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }
}

impl Drop for FakeAws {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A test that panicked with the lock in its hands is not this test's trouble.
fn lock(model: &Mutex<Model>) -> MutexGuard<'_, Model> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    request: Request<Incoming>,
    model: Arc<Mutex<Model>>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Dropped)?.to_bytes();
    let params = Params::parse(&body);
    let (verdict, delay, date) = {
        let mut model = lock(&model);
        model.expire_due();
        (decide(&mut model, &head, &params), model.delay, model.date.clone())
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match verdict {
        Verdict::Answer(reply) => Ok(dated(reply.into_response(), date)),
        Verdict::Drop => Err(Dropped),
        Verdict::Silence => match std::future::pending::<Infallible>().await {},
    }
}

/// Without a date of its own the server gives the answer the true one.
fn dated(mut response: Response<Full<Bytes>>, date: Option<String>) -> Response<Full<Bytes>> {
    if let Some(date) = date {
        let date = date.parse().expect("the test's date is a header's value");
        response.headers_mut().insert(http::header::DATE, date);
    }
    response
}

/// What one request gets: a fault, or the truth.
fn decide(model: &mut Model, head: &http::request::Parts, params: &Params) -> Verdict {
    let Some(action) = params.get("Action").and_then(Action::from_word) else {
        return Verdict::Answer(query::error(400, "InvalidAction", "the fake does not know this action"));
    };
    let fault = model.faults.next(action, query::page_of(params));
    let signed_for = format!("/{}/aws4_request", action.service());
    let signature = head.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if !signature.is_some_and(|s| s.starts_with("AWS4-HMAC-SHA256 ") && s.contains(&signed_for)) {
        return Verdict::Answer(query::error(403, "MissingAuthenticationToken", "the call is not signed"));
    }
    let before = model.hook_calls.len();
    let verdict = match fault {
        Some(fault) => fault.verdict(action, || truth(model, action, params)),
        None => Verdict::Answer(truth(model, action, params)),
    };
    let about_hook = matches!(action, Action::CompleteHook | Action::Heartbeat);
    if about_hook && model.hook_calls.len() == before {
        hooks::record(model, action, params, HookOutcome::Failed);
    }
    verdict
}

fn truth(model: &mut Model, action: Action, params: &Params) -> Reply {
    let (outcome, reply) = match action {
        Action::DescribeGroups => return autoscaling::describe_groups(model, params),
        Action::DescribeInstances => return ec2::describe_instances(model, params),
        Action::DescribeHooks => return hooks::describe_hooks(model, params),
        Action::CompleteHook => hooks::complete(model, params),
        Action::Heartbeat => hooks::heartbeat(model, params),
    };
    hooks::record(model, action, params, outcome);
    reply
}
