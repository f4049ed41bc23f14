//! The disk guard of a real agent: on a disk of its own, and under the limits of its unit.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use super::agent::{Agent, PLAIN, Proxy, TWO, stop};
use super::harness::{Place, ended, get};

/// Bytes of each rotated file.
const ROTATED: u64 = 512 * 1024;

/// Whether this test may have mounts of its own.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
async fn is_permitted(test: &str) -> bool {
    let permitted = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status().await;
    let is_permitted = permitted.is_ok_and(|status| status.success());
    if !is_permitted {
        println!("SKIPPED {test}: a mount namespace is not permitted here");
    }
    is_permitted
}

/// The agent of a proxy with mounts of its own, made by `setup` in the proxy's folder, run by `limits`.
fn inside(proxy: &Proxy, setup: &str, limits: &[String]) -> Command {
    let agent = proxy.command(&[]);
    let agent = agent.as_std();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("set -e; {setup}; exec \"$@\""), "sh"]);
    command.args(limits).arg(agent.get_program()).args(agent.get_args());
    command.current_dir(proxy.path(".")).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn guarded(proxy: &Proxy, policy: &str) -> String {
    format!(
        "{PLAIN}[disk_guard]\npaths = [{:?}]\nmin_free = \"2MiB\"\npolicy = \"{policy}\"\nevery = \"1s\"\n",
        proxy.path("logs")
    )
}

/// Has a disk of 8 MiB on `logs`.
const DISK: &str = "mkdir -p logs; mount -t tmpfs -o size=8m none logs";

#[tokio::test]
async fn a_disk_guard_makes_room_and_tells_what_that_cost_also_after_a_restart() {
    if !is_permitted("a_disk_guard_makes_room").await {
        return;
    }
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[], "");
    proxy.configure(&[&directory.url()], &guarded(&proxy, "delete_oldest_rotated"));
    let fill = format!(
        "{DISK}; head -c 1000 /dev/urandom > logs/access.log; for n in 10 11 12 13 14 15 16 17 18 19 20 21 22; do \
         head -c {ROTATED} /dev/urandom > logs/access.log.$n; touch -d @17000000$n logs/access.log.$n; done"
    );
    let agent = Agent::of(inside(&proxy, &fill, &[]).spawn().unwrap()).await;
    let status = agent.trouble("logs_given_up").await;
    let deleted = &status["disk_guard"]["totals"]["deleted"];
    // 1.5 MiB were free without the live file and 2.2 shall be: two files.
    assert_eq!((deleted["files"].as_u64(), deleted["bytes"].as_u64()), (Some(2), Some(2 * ROTATED)));
    assert!(deleted["lines"].as_u64() > Some(1000), "{deleted}");
    let roomy = agent.until("room", |s| s["disk_guard"]["disks"][0]["low"] == false).await;
    assert_eq!(roomy["disk_guard"]["disks"][0]["total"], 8 << 20);
    let logs =
        PathBuf::from(format!("/proc/{}/root{}", agent.child.id().unwrap(), proxy.path("logs").display()));
    let is_there = |name: &str| logs.join(name).exists();
    assert!(!is_there("access.log.10") && !is_there("access.log.11") && is_there("access.log.12"));
    assert_eq!(logs.join("access.log").metadata().unwrap().len(), 1000);
    let metrics = get(agent.status, "/metrics", || ()).await.unwrap().unwrap().body;
    let line = format!(
        "pikepole_agent_disk_given_up_bytes_total{{policy=\"delete_oldest_rotated\"}} {}",
        2 * ROTATED
    );
    assert!(metrics.contains(&line), "{metrics}");
    agent.stops().await;
    // On a new disk with room, where nothing needs to be done.
    let agent = Agent::of(inside(&proxy, DISK, &[]).spawn().unwrap()).await;
    let again = agent.trouble("logs_given_up").await;
    assert_eq!(&again["disk_guard"]["totals"]["deleted"], deleted);
    agent.stops().await;
    stop(directory).await;
}

/// What the unit says of a key.
fn of_the_unit(key: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/systemd/pikepole-agent.service");
    let unit = std::fs::read_to_string(path).unwrap();
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.next_back().unwrap_or_else(|| panic!("the unit has no {key}")).to_owned()
}

/// Runs a program with the capabilities of the unit.
fn capabilities() -> Vec<String> {
    let of = |name: &str| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase());
    let all: String = of_the_unit("CapabilityBoundingSet").split(' ').map(of).collect();
    vec!["setpriv".into(), "--no-new-privs".into(), "--bounding-set".into(), format!("-all{all}")]
}

#[tokio::test]
async fn an_agent_under_the_limits_of_its_unit_does_its_work_and_tells_what_it_may_not() {
    if !is_permitted("an_agent_under_the_limits_of_its_unit").await {
        return;
    }
    assert_eq!(of_the_unit("ProtectSystem"), "strict");
    let directory = Place::new("").start().await;
    let proxy = Proxy::new(&[], "");
    proxy.configure(&[&directory.url()], &guarded(&proxy, "compress_rotated"));
    // It may write to its own folder, and to nothing else.
    let strict = format!(
        "mount --bind . .; mount -o remount,bind,ro /; cd \"$PWD\"; {DISK}; mount -o remount,ro logs"
    );
    let agent = Agent::of(inside(&proxy, &strict, &capabilities()).spawn().unwrap()).await;
    agent.settled().await;
    assert_eq!(proxy.read("hosts.json"), TWO);
    let words = ["Read-only file system", "ReadWritePaths=", "CAP_SYS_PTRACE"];
    let is_told = |s: &serde_json::Value| {
        let told = s["trouble"].to_string();
        told.contains("disk_guard_failed") && words.iter().all(|word| told.contains(word))
    };
    let status = agent.until("what it may not do", is_told).await;
    assert_eq!(status["disk_guard"]["knows_writers"], false);
    assert_eq!(status["disk_guard"]["disks"][0]["low"], false, "it is told while there is room");
    agent.stops().await;
    // A spool on another disk that the unit does not name.
    let spool = format!("{PLAIN}[spool]\npath = {:?}\n", proxy.path("logs/spool"));
    proxy.configure(&[&directory.url()], &spool);
    let refused = ended(inside(&proxy, &strict, &capabilities())).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("ReadWritePaths="), "{refused:?}");
    stop(directory).await;
}

#[tokio::test]
async fn a_check_warns_of_a_guard_that_takes_lines_from_a_tail() {
    let proxy = Proxy::new(&[], "");
    std::fs::create_dir(proxy.path("logs")).unwrap();
    let tail = format!("[[tail]]\npaths = [{:?}]\n", proxy.path("logs/access.log"));
    for (policy, warns) in [("compress_rotated", false), ("truncate", true)] {
        proxy.configure(&["http://127.0.0.1:1"], &(guarded(&proxy, policy) + &tail));
        let checked = proxy.run(&["--check"]).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert_eq!(checked.err.contains("warning: disk_guard: "), warns, "{checked:?}");
    }
}
