//! Tests that need a file system or rights of their own: such a test runs itself again in a mount namespace.
//! Where that is not permitted, it is skipped and said; then what is injected elsewhere has to do.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const INSIDE: &str = "PIKEPOLE_TEST_INSIDE";

/// What the unit of the agent leaves root, as `setpriv` says it.
pub(crate) const AS_IN_THE_UNIT: &str = "setpriv --bounding-set -all,+dac_override,+chown,+fowner";

/// Runs the test of this whole name again, after `setup`, with a folder of its own. The folder: this is that run.
/// What `setup` leaves in `$@` behind the folder is what is run.
pub(crate) fn run_inside(test: &str, setup: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return Some(folder.into());
    }
    let permitted = Command::new("unshare").args(["-m", "true"]).output();
    if !permitted.as_ref().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED {test}: a mount namespace is not permitted here");
        return None;
    }
    let folder = TempDir::new().unwrap();
    let script = format!("set -e; cd \"$1\"; {setup}; shift; exec \"$@\"");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    None
}

/// A setup that has the test run with these limits as well.
pub(crate) fn limited(setup: &str, limits: &str) -> String {
    format!("{setup}; shift; set -- x {limits} \"$@\"")
}
