//! Writes log files: as fast as the disk takes them, or so many lines a second.
#![expect(clippy::disallowed_methods, reason = "a thread of its own that paces itself; there is no runtime")]

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::{event, micros};

/// Different lines; they come again after that.
const LINES: usize = 50_000;
/// A paced writer wakes so often.
const TICK: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file; it is appended to
    #[arg(long)]
    to: PathBuf,
    /// How many lines
    #[arg(long)]
    lines: u64,
    /// Lines a second; without it as fast as it goes
    #[arg(long)]
    rate: Option<u64>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let file = OpenOptions::new().create(true).append(true).open(&args.to);
    let mut file = BufWriter::with_capacity(1 << 20, file.context("cannot write the log file")?);
    let mut random = fastrand::Rng::with_seed(1);
    let pool: Vec<String> = (0..LINES).map(|_| event::line(&mut random) + "\n").collect();
    let began = micros();
    let (mut written, mut bytes) = (0, 0_usize);
    for line in pool.iter().cycle() {
        if written == args.lines {
            break;
        }
        if let Some(rate) = args.rate {
            let due = |at: u64| (at - began) * rate / 1_000_000;
            while written >= due(micros()) {
                file.flush()?;
                sleep(TICK);
            }
        }
        file.write_all(line.as_bytes())?;
        written += 1;
        bytes += line.len();
    }
    file.flush()?;
    let seconds = f64::from(u32::try_from(micros() - began)?) / 1e6;
    Ok(json!({ "lines": written, "bytes": bytes, "seconds": seconds }))
}
