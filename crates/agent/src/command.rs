//! Runs a program with limits: no shell, a time limit, a process group of its own, bounded output.
//!
//! Not a supervisor: what a program leaves running in the background after it ended well is its own affair.
//!
//! Invariants: whoever is too slow gets SIGTERM and then SIGKILL, with its whole group, also when the agent
//! stops waiting. A program that floods its output costs no memory.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// The longest that a program may take to its end when its time is over.
pub(crate) const LONGEST_END: Duration = Duration::from_secs(2 * GRACE.as_secs());
/// For output that is still on its way when the program has ended: a child of it may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Bytes of output that are kept: the last ones, where errors stand.
const MAX_OUTPUT: usize = 1024;

/// Runs a program to its end. The error is a sentence: what happened, and the program's last words.
pub(crate) async fn run(words: &[String], limit: Duration) -> Result<(), String> {
    run_with_grace(words, limit, GRACE).await
}

async fn run_with_grace(words: &[String], limit: Duration, grace: Duration) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else {
        return Err("there is no program to run".into());
    };
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("cannot run {program}: {e}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = {
        let mut reading = std::pin::pin!(async { tokio::join!(out.read(stdout), err.read(stderr)) });
        let mut is_read = false;
        let waiting = async {
            loop {
                tokio::select! {
                    ended = child.wait() => return ended,
                    _ = &mut reading, if !is_read => is_read = true,
                }
            }
        };
        let ended = timeout(limit, waiting).await;
        if let Ok(ended) = ended {
            group.0 = None;
            if !is_read {
                // What does not come any more is not missed.
                drop(timeout(LAST_WORDS, reading).await);
            }
            Some(ended)
        } else {
            None
        }
    };
    let said = |what: String| match (err.text(), out.text()) {
        (text, _) | (_, text) if !text.is_empty() => format!("{what}: {text}"),
        _ => what,
    };
    match ended {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(said(format!("{program} ended with {status}"))),
        Some(Err(error)) => Err(format!("cannot wait for {program}: {error}")),
        None => {
            group.signal(Signal::TERM);
            if timeout(grace, child.wait()).await.is_ok() {
                tracing::debug!(program, "ended after SIGTERM");
            }
            drop(group); // SIGKILL to what is left
            drop(timeout(GRACE, child.wait()).await);
            Err(said(format!("{program} did not end within {} s", limit.as_secs())))
        }
    }
}

/// A process group that does not outlive this value, unless it is let go.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0
            && let Err(error) = kill_process_group(pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, "cannot signal a program");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The last bytes of an output.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = [0; 4096];
        // An error ends the output as its end does.
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            self.0.extend(&buffer[..count]);
            let surplus = self.0.len().saturating_sub(MAX_OUTPUT);
            self.0.drain(..surplus);
        }
    }

    /// One line of printable text.
    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join(" | ");
        line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn sh(script: &str, limit: Duration) -> Result<(), String> {
        run(&["sh".into(), "-c".into(), script.into()], limit).await
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_failure_says_the_programs_last_words() {
        assert_eq!(sh("exit 0", LONG).await, Ok(()));
        let error = sh("echo nothing; printf 'line 1\\nunknown key \\033[1mx\\n' >&2; exit 3", LONG).await;
        assert_eq!(error.unwrap_err(), "sh ended with exit status: 3: line 1 | unknown key ?[1mx");
        let error = sh("echo only out; kill -9 $$", LONG).await.unwrap_err();
        assert!(error.contains("signal: 9") && error.ends_with("only out"), "{error}");
        let error = run(&["/no/such/program".into()], LONG).await.unwrap_err();
        assert!(error.contains("cannot run /no/such/program: No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_flood_of_output_costs_nothing_and_blocks_nothing() {
        let error = sh("yes flood | head -c 50000000; yes more | head -c 5000000 >&2; exit 1", LONG).await;
        assert!(error.unwrap_err().len() < 2 * MAX_OUTPUT);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let error = sh(&script, SHORT).await.unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        assert_gone(&std::fs::read_to_string(file).unwrap()).await;
    }

    #[tokio::test]
    async fn a_program_that_ignores_sigterm_is_killed_with_its_children() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("pid");
        let child = format!("echo $$ > {}; while :; do sleep 0.1; done", file.display());
        let script = format!("trap '' TERM; sh -c '{child}' & wait; sleep 1000");
        let words = ["sh".into(), "-c".into(), script];
        let error = run_with_grace(&words, SHORT, SHORT).await.unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        assert_gone(&std::fs::read_to_string(file).unwrap()).await;
    }

    #[tokio::test]
    async fn a_daemon_that_was_started_is_left_alone_and_not_waited_for() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("pid");
        let began = Instant::now();
        sh(&format!("sleep 1000 & echo $! > {}", file.display()), LONG).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(30));
        let pid = std::fs::read_to_string(file).unwrap();
        assert!(is_alive(&pid), "it was killed");
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    fn is_alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|s| !s.contains(") Z "))
    }

    async fn assert_gone(pid: &str) {
        let gone = async {
            while is_alive(pid) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, gone).await.expect("it lives on");
    }
}
