//! Real clients in Python: they count on across the windows of a connection, and wait for their last number.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pikepole_lumberjack::Payload;
use pikepole_lumberjack::server::collect::{Acks, Collector};
use tokio::process::Command;
use tokio::time::timeout;

use super::certs::Certs;
use super::sockets::Listening;

/// Longer than Python takes on a busy machine, and than its own socket timeouts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Several windows on one connection, one of them larger than a TLS record.
const PYLOGBEAT: &str = r#"
import sys, pylogbeat
port, tls, ca = int(sys.argv[1]), sys.argv[2] == "tls", sys.argv[3]
client = pylogbeat.PyLogBeatClient("127.0.0.1", port, timeout=20, ssl_enable=tls, ca_certs=ca if tls else None)
with client:
    for size in (3, 1, 500, 7):
        client.send([{"message": "line %d of %d" % (i, size)} for i in range(size)])
"#;

/// What a handler of Python's logging uses: 25 events a window.
const LOGSTASH_ASYNC: &str = r#"
import sys
from logstash_async.transport import BeatsTransport
port, tls, ca = int(sys.argv[1]), sys.argv[2] == "tls", sys.argv[3]
transport = BeatsTransport("127.0.0.1", port, ssl_enable=tls, ssl_verify=True, ssl_verify_flags=None,
                           keyfile=None, certfile=None, ca_certs=ca if tls else None, timeout=20)
transport.send([('{"message": "line %d"}' % i).encode() for i in range(95)])
"#;

/// The interpreter with the clients: `$PIKEPOLE_PYTHON`, else the one `./scripts/test` installs.
fn python() -> PathBuf {
    if let Some(named) = std::env::var_os("PIKEPOLE_PYTHON") {
        return named.into();
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.test-env/venv/bin/python");
    if installed.exists() { installed } else { "python3".into() }
}

/// Runs the script against a collector and returns the sequence numbers and events that came, and the counts.
async fn run(script: &str, tls: bool) -> (Vec<(u32, String)>, u64, u64) {
    let certs = Certs::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let collector = {
        let seen = Arc::clone(&seen);
        Collector::watching(Acks::After(Duration::from_millis(5)), move |_, event| {
            let Payload::Json(json) = event.payload else { panic!("{event:?}") };
            seen.lock().unwrap().push((event.seq, String::from_utf8(json.to_vec()).unwrap()));
        })
    };
    let files = certs.server();
    let listening = Listening::start(collector, tls.then_some(&files)).await;
    let mut command = Command::new(python());
    command.args(["-c", script, &listening.address.port().to_string(), if tls { "tls" } else { "plain" }]);
    command.arg(certs.path("ca.pem")).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("the client hangs");
    let output = output.expect("cannot start Python; run the tests as ./scripts/test, which installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let totals = listening.collector.totals();
    assert_eq!(totals.refused, 0);
    let seen = seen.lock().unwrap().clone();
    (seen, totals.windows, totals.connections)
}

#[tokio::test]
async fn pylogbeat_gets_several_windows_through_one_connection() {
    for tls in [false, true] {
        let (seen, windows, connections) = run(PYLOGBEAT, tls).await;
        assert_eq!((windows, connections), (4, 1));
        let sizes = [3, 1, 500, 7];
        let lines = sizes.iter().flat_map(|size| (0..*size).map(move |i| (i, *size)));
        let expected: Vec<(u32, String)> =
            (1..).zip(lines.map(|(i, size)| format!("{{\"message\": \"line {i} of {size}\"}}"))).collect();
        assert_eq!(seen, expected, "it counts on: the last is 511");
    }
}

#[tokio::test]
async fn logstash_async_gets_several_windows_through_one_connection() {
    for tls in [false, true] {
        let (seen, windows, connections) = run(LOGSTASH_ASYNC, tls).await;
        assert_eq!((windows, connections), (4, 1));
        let expected: Vec<(u32, String)> =
            (1..).zip((0..95).map(|i| format!("{{\"message\": \"line {i}\"}}"))).collect();
        assert_eq!(seen, expected);
    }
}
