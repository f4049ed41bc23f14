//! Debian's logrotate does the rotating.

use std::process::Command;
use std::time::Duration;

use super::*;

fn rotate(w: &World, options: &str) {
    let config = w.path("logrotate.conf");
    let log = w.path("access.log");
    fs::write(&config, format!("{} {{\n  rotate 20\n  missingok\n  {options}\n}}\n", log.display())).unwrap();
    let mut command = Command::new("logrotate");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.arg("--force").arg("--state").arg(w.path("state")).arg(&config);
    let output = command.output().expect("logrotate is there: scripts/test --setup installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn play(options: &str, lines: usize) {
    let mut w = World::new();
    w.tick();
    let mut wanted = Vec::new();
    for round in 0..8 {
        let prefix = format!("round {round}");
        w.write("access.log", numbered(&prefix, 0..lines));
        // Sometimes it is behind, sometimes it is not even there.
        if round % 2 == 0 {
            w.tick();
        }
        w.write("access.log", numbered(&prefix, lines..lines + 3));
        wanted.extend(lines_of(&prefix, 0..lines + 3));
        if round == 5 {
            w.stop();
        }
        rotate(&w, &options.replace("ROUND", &round.to_string()));
        if round == 6 {
            w.start();
        }
        if round % 3 == 0 {
            w.tick();
        }
    }
    for _ in 0..4 {
        w.pass(Duration::from_secs(61));
    }
    w.crash_at = Some(usize::MAX);
    w.check(&wanted);
    assert_eq!(w.status().unread_bytes, 0);
}

#[test]
fn in_rename_mode() {
    play("create", 5);
    play("create", 800);
}

#[test]
fn in_rename_mode_with_dates_and_compression() {
    play("create\n  dateext\n  dateformat -%Y%m%dROUND\n  compress\n  delaycompress", 300);
}

#[test]
fn with_copytruncate_and_compression() {
    play("copytruncate\n  compress", 5);
    play("copytruncate\n  compress", 800);
    play("copytruncate\n  compress\n  delaycompress", 300);
}
