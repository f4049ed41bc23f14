//! How long things take in the demo: from a seed, and faster or slower as asked.

use std::time::Duration;

/// Dice and the factor of `--speed`.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    rng: fastrand::Rng,
    speed: f64,
}

impl Pace {
    pub(super) fn new(seed: u64, speed: f64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), speed }
    }

    /// Another one, which goes its own way from here.
    pub(super) fn fork(&mut self) -> Self {
        Self { rng: self.rng.fork(), speed: self.speed }
    }

    /// Between so many seconds of production.
    pub(super) fn some_time(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64((least + (most - least) * self.rng.f64()) / self.speed)
    }

    /// A number between these.
    pub(super) fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.rng.f64()
    }

    /// So much of production's time.
    pub(super) fn time(&self, time: Duration) -> Duration {
        time.div_f64(self.speed)
    }

    /// Whether an agent's next reload hangs, and for how long. One in two hundred does; some of those longer
    /// than a drain may last.
    pub(super) fn hang(&mut self) -> Option<Duration> {
        match self.rng.u32(0..800) {
            0 => Some(self.some_time(70.0, 90.0)),
            1..=3 => Some(self.some_time(8.0, 40.0)),
            _ => None,
        }
    }

    pub(super) fn once_in(&mut self, times: u32) -> bool {
        self.rng.u32(0..times) == 0
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.rng.usize(0..end)
    }
}
