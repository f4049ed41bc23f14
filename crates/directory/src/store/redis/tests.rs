//! The conformance suite on a real Redis, and what happens when it stops, freezes or forgets.

use std::future::Future;
use std::process::{Child, Command, Stdio};

use pikepole_testkit::process::RedisServer;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::super::conformance::{self, name};
use super::super::record::strategy::rich_state;
use super::*;

/// Long enough for a busy machine; nothing waits this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

fn options(url: &str, replica: &str) -> RedisOptions {
    let mut options = RedisOptions::new(url.parse().unwrap(), replica.parse().unwrap(), "pikepole");
    options.limits.ping_every = Duration::from_millis(50);
    options.limits.back_off = Duration::from_millis(200);
    options
}

fn store(redis: &RedisServer, replica: &str) -> Arc<RedisStore> {
    Arc::new(RedisStore::connect(options(&redis.url(), replica)).unwrap())
}

/// A connection past the store, for looking and for spoiling.
async fn raw(redis: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn run(raw: &MultiplexedConnection, command: &[&str]) -> redis::Value {
    let mut cmd = redis::cmd(command[0]);
    cmd.arg(&command[1..]);
    cmd.query_async(&mut raw.clone()).await.unwrap()
}

async fn get(raw: &MultiplexedConnection, key: &str) -> Option<String> {
    redis::cmd("GET").arg(key).query_async(&mut raw.clone()).await.unwrap()
}

async fn reconnected(notices: &mut Notices) {
    let heard = within("the subscription", async {
        loop {
            match notices.recv().await {
                Some(Heard { notice: Notice::Reconnected, .. }) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    });
    assert!(heard.await, "the store is gone");
}

fn is_unavailable<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

#[tokio::test]
async fn it_conforms() {
    let redis = RedisServer::start();
    let store = store(&redis, "a");
    let raw = raw(&redis).await;
    conformance::keeps_one_record_a_fleet(store.clone()).await;
    conformance::takes_every_name(store.clone()).await;
    conformance::loses_no_write_of_a_race(store.clone()).await;
    let spoil = async |fleet: &FleetName| {
        run(&raw, &["SET", &format!("pikepole:1:fleet:{fleet}"), "['10.0.0.1:5044']"]).await;
    };
    conformance::reports_damage_once(store, spoil).await;
}

#[tokio::test]
async fn replicas_that_race_lose_no_write() {
    let redis = RedisServer::start();
    let stores = [store(&redis, "a"), store(&redis, "b")];
    let fleet = name("f");
    let mut writers = JoinSet::new();
    for n in 0..20 {
        let (store, fleet) = (stores[n % 2].clone(), fleet.clone());
        writers.spawn(async move { conformance::learn(&*store, &fleet, &format!("i-{n}")).await });
    }
    writers.join_all().await;
    let stored = stores[0].load(&fleet).await.unwrap().unwrap();
    assert_eq!(stored.state.overlay.entries.len(), 20);
}

#[tokio::test]
async fn what_is_no_record_is_renamed_whatever_it_is() {
    let redis = RedisServer::start();
    let store = store(&redis, "a");
    let raw = raw(&redis).await;
    let fleet = name("f");
    let key = "pikepole:1:fleet:f";
    let other = String::from_utf8(record::encode(&rich_state("g")).unwrap()).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["SET", key, "x"], "a string instead of a hash"),
        (&["RPUSH", key, "x"], "a list instead of a hash"),
        (&["HSET", key, "v", "1"], "a hash without v and body"),
        (&["HSET", key, "v", "one", "body", "{}"], "its version is no number"),
        (&["HSET", key, "v", "1234567890123456789", "body", "{}"], "larger than any record"),
        (&["HSET", key, "v", "1", "body", "{\"format\":3}"], "format 3"),
        (&["HSET", key, "v", "1", "body", &other], "the record of the fleet g"),
    ];
    for (spoil, expected) in cases {
        run(&raw, spoil).await;
        let found = store.load_all(&[name("e"), fleet.clone()]).await.unwrap();
        assert!(matches!(found[0], Ok(None)));
        let Err(StoreError::Damaged { what, why, kept_at }) = &found[1] else { panic!("{found:?}") };
        assert!(what.contains(key) && why.contains(expected), "{what}: {why}");
        assert_eq!(kept_at, "pikepole:1:fleet:f:quarantined");
        assert_eq!(run(&raw, &["EXISTS", kept_at]).await, redis::Value::Int(1));
        assert_eq!(store.load(&fleet).await.unwrap(), None, "{expected}");
    }
}

#[tokio::test]
async fn a_record_that_was_repaired_meanwhile_is_not_put_aside() {
    let redis = RedisServer::start();
    let store = store(&redis, "a");
    let fleet = name("f");
    let version = store.save(&rich_state("f"), None).await.unwrap();
    let text = version.0.to_string();
    for seen in [["", ""], [&text, "{}"], ["1", ""]] {
        let seen = seen.map(str::as_bytes);
        assert!(store.put_aside(&fleet, seen, "bad".to_owned()).await.unwrap().is_none());
    }
    assert_eq!(store.load(&fleet).await.unwrap().unwrap().state, rich_state("f"));
    assert!(store.put_aside(&name("gone"), [b"", b""], "bad".to_owned()).await.unwrap().is_none());
}

#[tokio::test]
async fn many_records_come_in_one_go() {
    let redis = RedisServer::start();
    let store = store(&redis, "a");
    let names: Vec<FleetName> = (0..50).map(|n| name(&format!("f-{n}"))).collect();
    for fleet in names.iter().step_by(2) {
        store.save(&rich_state(fleet.as_str()), None).await.unwrap();
    }
    let found = store.load_all(&names).await.unwrap();
    assert_eq!(found.len(), 50);
    for (n, found) in found.into_iter().enumerate() {
        let state = found.unwrap().map(|s| s.state);
        assert_eq!(state, (n % 2 == 0).then(|| rich_state(&format!("f-{n}"))));
    }
    assert!(store.load_all(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_redis_that_is_down_is_no_reason_to_fail_and_none_to_wait() {
    let mut redis = RedisServer::start();
    redis.stop();
    let store = store(&redis, "a");
    let mut notices = store.subscribe();
    let asked = Instant::now();
    for _ in 0..20 {
        assert!(is_unavailable(&store.load(&name("f")).await));
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "refused connections cost no time");
    redis.restart_empty();
    reconnected(&mut notices).await;
    assert_eq!(store.load(&name("f")).await.unwrap(), None);

    redis.stop();
    assert!(is_unavailable(&store.load(&name("f")).await));
    redis.restart_empty();
    reconnected(&mut notices).await;
    assert_eq!(store.load(&name("f")).await.unwrap(), None);
}

#[tokio::test]
async fn a_frozen_redis_holds_nobody_up() {
    let redis = RedisServer::start();
    let store = store(&redis, "a");
    let mut notices = store.subscribe();
    reconnected(&mut notices).await;
    let fleet = name("f");
    let version = store.save(&rich_state("f"), None).await.unwrap();

    redis.pause();
    let asked = Instant::now();
    let (rich, changed) = (rich_state("f"), Notice::Changed(fleet.clone()));
    let all = tokio::join!(
        store.load(&fleet),
        store.load_all(std::slice::from_ref(&fleet)),
        store.try_lease("reconcile", Duration::from_secs(30)),
        store.publish(&changed),
        async { store.mirror(&name("f"), Version(1), &"group".parse().unwrap(), "[]").await },
        store.save(&rich, Some(version)),
    );
    assert!(is_unavailable(&all.0) && is_unavailable(&all.1) && is_unavailable(&all.2));
    assert!(is_unavailable(&all.3) && is_unavailable(&all.4));
    assert!(matches!(all.5, Err(SaveError::Store(StoreError::Unavailable(_)))), "{:?}", all.5);
    assert!(is_unavailable(&store.load(&fleet).await), "a new connection is no better");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    within("the silence to be noticed", async {
        while store.listener.is_connected() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    redis.resume();
    reconnected(&mut notices).await;
    // The save that got no answer may be done by now, or in a moment. It is met as a conflict, not lost.
    let again = within("a save", async {
        loop {
            let stored = store.load(&fleet).await.unwrap().unwrap();
            assert_eq!(stored.state, rich);
            match store.save(&rich, Some(stored.version)).await {
                Ok(version) => return version,
                Err(SaveError::Conflict) => {}
                Err(e) => panic!("{e}"),
            }
        }
    });
    assert!(again.await > version);
}

#[tokio::test]
async fn a_redis_that_forgot_everything_confuses_no_versions() {
    let mut redis = RedisServer::start();
    let (a, b) = (store(&redis, "a"), store(&redis, "b"));
    let mut notices = a.subscribe();
    reconnected(&mut notices).await;
    let before = a.save(&rich_state("f"), None).await.unwrap();
    redis.restart_empty();
    reconnected(&mut notices).await;
    assert_eq!(a.load(&name("f")).await.unwrap(), None);

    let mut b_notices = b.subscribe();
    reconnected(&mut b_notices).await;
    let after = b.save(&FleetState::unknown(name("f")), None).await.unwrap();
    assert!(after > before);
    let late = a.save(&rich_state("f"), Some(before)).await;
    assert!(matches!(late, Err(SaveError::Conflict)), "{late:?}");
}

#[tokio::test]
async fn notices_reach_the_other_replica_and_say_who_sent_them() {
    let mut redis = RedisServer::start();
    let (a, b) = (store(&redis, "a"), store(&redis, "b"));
    let mut heard = b.subscribe();
    let mut echo = a.subscribe();
    reconnected(&mut heard).await;
    reconnected(&mut echo).await;
    let from = Some("a".parse::<ReplicaId>().unwrap());
    let fleet = name("f");
    let expect = async |heard: &mut Notices, notice: Notice| {
        let got = within("a notice", heard.recv()).await;
        assert_eq!(got, Some(Heard { from: from.clone(), notice }));
    };
    a.save(&rich_state("f"), None).await.unwrap();
    expect(&mut heard, Notice::Changed(fleet.clone())).await;
    expect(&mut echo, Notice::Changed(fleet.clone())).await;
    let conflict = a.save(&rich_state("f"), None).await;
    assert!(matches!(conflict, Err(SaveError::Conflict)), "and tells nobody");
    for notice in [Notice::Refresh { id: "x".into(), fleet }, Notice::Refreshed { id: "x".into(), ok: false }]
    {
        a.publish(&notice).await.unwrap();
        expect(&mut heard, notice).await;
    }
    run(&raw(&redis).await, &["PUBLISH", "pikepole:1:notices", "hello"]).await;
    a.publish(&Notice::Reconnected).await.unwrap();

    redis.restart_empty();
    let got = within("the reconnect", heard.recv()).await;
    assert_eq!(got, Some(Heard { from: None, notice: Notice::Reconnected }));
    reconnected(&mut echo).await;
    a.publish(&Notice::Refreshed { id: "y".into(), ok: true }).await.unwrap();
    expect(&mut heard, Notice::Refreshed { id: "y".into(), ok: true }).await;

    let mut late = b.subscribe();
    reconnected(&mut late).await;
    drop(b);
    assert_eq!(within("the end", heard.recv()).await, None, "the task ends with the store");
}

#[tokio::test]
async fn one_of_many_gets_the_lease_and_the_next_only_after_its_end() {
    let redis = RedisServer::start();
    let stores: Vec<_> = (0..6).map(|n| store(&redis, &format!("r-{n}"))).collect();
    let long = Duration::from_secs(60);
    let mut tries = JoinSet::new();
    for (n, store) in stores.iter().cloned().enumerate() {
        tries.spawn(async move { (n, store.try_lease("raced", long).await.unwrap()) });
    }
    let won: Vec<_> = tries.join_all().await.into_iter().filter(|(_, l)| *l != LeaseState::Theirs).collect();
    let [(winner, LeaseState::Mine { until })] = won[..] else { panic!("{won:?}") };
    let LeaseState::Mine { until: renewed } = stores[winner].try_lease("raced", long).await.unwrap() else {
        panic!("the holder renews")
    };
    assert!(renewed > until);
    let loser = &stores[(winner + 1) % stores.len()];
    loser.release("raced").await.unwrap();
    assert_eq!(loser.try_lease("raced", long).await.unwrap(), LeaseState::Theirs, "nobody ends another's");
    stores[winner].release("raced").await.unwrap();
    assert_ne!(loser.try_lease("raced", long).await.unwrap(), LeaseState::Theirs);

    let short = Duration::from_millis(200);
    let LeaseState::Mine { until } = stores[0].try_lease("short", short).await.unwrap() else { panic!() };
    within("the end of the lease", async {
        while stores[1].try_lease("short", short).await.unwrap() == LeaseState::Theirs {}
    })
    .await;
    assert!(Instant::now() >= until, "it was over for the first before the second got it");
}

#[tokio::test]
async fn a_lease_outlives_no_release_and_a_foreign_value_keeps_nobody_out() {
    let redis = RedisServer::start();
    let raw = raw(&redis).await;
    let (a, namesake) = (store(&redis, "a"), store(&redis, "a"));
    let ttl = Duration::from_secs(60);
    let key = "pikepole:1:lease:l";
    assert_ne!(a.try_lease("l", ttl).await.unwrap(), LeaseState::Theirs);
    assert_eq!(namesake.try_lease("l", ttl).await.unwrap(), LeaseState::Theirs, "same name, other process");
    let first = get(&raw, key).await.unwrap();
    assert!(first.starts_with("a/"), "{first}");
    a.release("l").await.unwrap();
    assert_eq!(get(&raw, key).await, None);
    a.release("l").await.unwrap();
    assert_ne!(a.try_lease("l", ttl).await.unwrap(), LeaseState::Theirs);
    assert_ne!(get(&raw, key).await.unwrap(), first, "a release that comes late does not end the next one");

    for foreign in [["SET", "pikepole:1:lease:m", "x"], ["RPUSH", "pikepole:1:lease:m", "x"]] {
        run(&raw, &foreign).await;
        assert_ne!(a.try_lease("m", ttl).await.unwrap(), LeaseState::Theirs);
        a.release("m").await.unwrap();
    }
}

#[tokio::test]
async fn the_seeds_readers_find_their_list() {
    let redis = RedisServer::start();
    let raw = raw(&redis).await;
    let store = store(&redis, "a");
    let group: GroupName = "some dc / asg".parse().unwrap();
    run(&raw, &["RPUSH", group.as_str(), "odd"]).await;
    let first = store.save(&FleetState::unknown(name("f")), None).await.unwrap();
    store.mirror(&name("f"), first, &group, "['10.0.0.1:5044']").await.unwrap();
    assert_eq!(get(&raw, group.as_str()).await.unwrap(), "['10.0.0.1:5044']");
}

#[tokio::test]
async fn a_late_mirror_does_not_undo_a_newer_list() {
    let redis = RedisServer::start();
    let raw = raw(&redis).await;
    let store = store(&redis, "a");
    let group: GroupName = "asg".parse().unwrap();
    let unknown = FleetState::unknown(name("f"));
    let first = store.save(&unknown, None).await.unwrap();
    let second = store.save(&unknown, Some(first)).await.unwrap();
    store.mirror(&name("f"), second, &group, "['10.0.0.2:5044']").await.unwrap();
    store.mirror(&name("f"), first, &group, "['10.0.0.1:5044']").await.unwrap();
    assert_eq!(get(&raw, group.as_str()).await.unwrap(), "['10.0.0.2:5044']");
}

#[tokio::test]
async fn a_password_is_used_and_never_shown() {
    let redis = RedisServer::start();
    let raw = raw(&redis).await;
    run(&raw, &["CONFIG", "SET", "requirepass", "another"]).await;
    let url = format!("redis://:s3cr%40t@127.0.0.1:{}/0", redis.port());
    let refused = RedisStore::connect(options(&url, "a")).unwrap();
    let error = refused.load(&name("f")).await.unwrap_err();
    let shown = format!("{error} {error:?} {refused:?} {:?}", options(&url, "a"));
    assert!(is_unavailable::<()>(&Err(error)));
    assert!(!shown.contains("s3cr"), "{shown}");

    run(&raw, &["CONFIG", "SET", "requirepass", "s3cr@t"]).await;
    let store = RedisStore::connect(options(&url, "a")).unwrap();
    assert_eq!(store.load(&name("f")).await.unwrap(), None);
    reconnected(&mut store.subscribe()).await;
}

/// A server of its own, because the test kit's has no TLS.
struct TlsServer {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn tls_server() -> (TlsServer, Vec<u8>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pem = certified.cert.pem();
    std::fs::write(dir.path().join("cert.pem"), &pem).unwrap();
    std::fs::write(dir.path().join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("redis-server")
        .args(["--port", "0", "--bind", "127.0.0.1", "--save", "", "--tls-auth-clients", "no"])
        .args(["--tls-port", &port.to_string(), "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"])
        .args(["--tls-ca-cert-file", "cert.pem"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (TlsServer { child, port, _dir: dir }, pem.into_bytes())
}

#[tokio::test]
async fn tls_works_with_ones_own_authority_and_trusts_no_other() {
    let (server, ca) = tls_server();
    let url = format!("rediss://localhost:{}/0", server.port);
    let mut ours = options(&url, "a");
    ours.ca = Some(ca);
    let store = RedisStore::connect(ours).unwrap();
    reconnected(&mut store.subscribe()).await;
    store.save(&rich_state("f"), None).await.unwrap();
    assert_eq!(store.load(&name("f")).await.unwrap().unwrap().state, rich_state("f"));

    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut wrong = options(&url, "b");
    wrong.ca = Some(stranger.cert.pem().into_bytes());
    let wrong = RedisStore::connect(wrong).unwrap();
    assert!(is_unavailable(&wrong.load(&name("f")).await));
}
