//! From which end of the queue the next block is taken.
//!
//! Pure. Invariant: of each `of` turns in a row, `live` go to the newest and the rest to the oldest, spread evenly.

/// An end of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Oldest,
    Newest,
}

/// How turns are shared while there is a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    live: u32,
    of: u32,
    spent: u32,
}

impl Share {
    /// So many turns of so many are for what is newest.
    pub(crate) fn new(live: u32, of: u32) -> Self {
        let of = of.clamp(1, 1000);
        Self { live: live.min(of), of, spent: 0 }
    }

    /// Whose turn it is.
    pub(crate) fn turn(&mut self) -> End {
        self.spent += self.live;
        if self.spent >= self.of {
            self.spent -= self.of;
            End::Newest
        } else {
            End::Oldest
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_shared_as_asked_and_evenly() {
        for (live, of) in [(3, 4), (0, 4), (4, 4), (1, 7), (9, 4)] {
            let mut share = Share::new(live, of);
            let turns: Vec<End> = (0..of * 50).map(|_| share.turn()).collect();
            for some in turns.windows(of as usize) {
                let newest = some.iter().filter(|end| **end == End::Newest).count();
                assert_eq!(newest, live.min(of) as usize, "{live} of {of}");
            }
        }
    }
}
