//! What becomes of a window: begun, written, acked, taken back.
//!
//! Invariant: whatever happened to the connection, an ack counts for each of its batches at most once.

use pikepole_spool::Seq;
use tokio::time::Instant;

use super::batch::Place;
use super::endpoint::Link;
use super::up::Path;
use super::{Planner, Unsendable};

impl Planner {
    /// The first bytes of a window are being written.
    pub(crate) fn begun(&mut self, conn: u64, number: u64, now: Instant) {
        let Some(endpoint) = self.conns.get(&conn).and_then(|key| self.endpoints.get_mut(key)) else {
            return;
        };
        let Link::Up(up) = &mut endpoint.link else { return };
        let Some(flight) = up.begun(number, now) else { return };
        let (events, bytes) = (flight.events(), flight.bytes);
        let works = || flight.batches.iter().filter_map(|batch| Some((batch, self.pool.get(*batch)?)));
        let again = works().filter(|(_, work)| work.again);
        let (events_again, bytes_again) =
            again.fold((0, 0), |sum, (b, work)| (sum.0 + u64::from(b.events()), sum.1 + work.bytes));
        let counts = &mut endpoint.counts;
        counts.windows_sent += 1;
        counts.events_sent += events;
        counts.bytes_sent += bytes;
        counts.events_resent += events_again;
        counts.bytes_resent += bytes_again;
        self.totals.events_sent += events;
        self.totals.bytes_sent += bytes;
        self.totals.events_resent += events_again;
        self.totals.bytes_resent += bytes_again;
    }

    /// A window was written whole.
    pub(crate) fn written(&mut self, conn: u64, number: u64, now: Instant) {
        if let Some(up) = self.up_mut(conn) {
            up.written(number, now);
        }
    }

    /// An ack frame came that completes no window: a keep-alive or a partial ack.
    pub(crate) fn heard(&mut self, conn: u64, now: Instant) {
        if let Some(up) = self.up_mut(conn) {
            up.frame(now);
        }
    }

    /// The kernel said what it knows.
    pub(crate) fn probed(&mut self, conn: u64, path: Path, now: Instant) {
        if let Some(up) = self.up_mut(conn) {
            up.probed(path, now);
        }
    }

    /// A window is acked. It may come late, from a connection that was left: what was resent is then done all
    /// the same, once.
    pub(crate) fn acked(&mut self, conn: u64, number: u64, now: Instant) {
        if let Some(key) = self.conns.get(&conn).cloned()
            && let Some(endpoint) = self.endpoints.get_mut(&key)
            && let Link::Up(up) = &mut endpoint.link
            && let Some(flight) = up.take(number)
        {
            up.completed(now);
            up.limit.acked(&mut endpoint.latency, flight.sent, now);
            endpoint.failures = 0;
            endpoint.last_ack = Some(now);
            endpoint.last_error = None;
            endpoint.counts.windows_acked += 1;
            endpoint.counts.events_acked += flight.events();
            endpoint.counts.bytes_acked += flight.bytes;
            self.confirm(&key, now);
        }
        for batch in self.pool.take_number(number) {
            self.totals.events_acked += u64::from(batch.events());
            self.totals.bytes_acked += self.pool.get(batch).map_or(0, |work| work.bytes);
            self.settle(batch);
        }
        self.took = now;
    }

    /// A window could not be made, through no fault of the connection: `seq` is why. The rest goes again.
    pub(crate) fn unsendable(&mut self, conn: u64, number: u64, seq: Seq, why: Unsendable) {
        let batches = self.take_back(conn, number);
        match why {
            Unsendable::Gone => self.gone(seq),
            Unsendable::Malformed(why) => {
                let bad = batches.into_iter().find(|batch| batch.seq == seq);
                bad.into_iter().for_each(|batch| self.bury(batch, true, why.clone()));
            }
        }
    }

    /// Nothing of a window was written, and nothing will be.
    pub(crate) fn recalled(&mut self, conn: u64, number: u64) {
        self.take_back(conn, number);
    }

    fn take_back(&mut self, conn: u64, number: u64) -> Vec<super::Batch> {
        if let Some(up) = self.up_mut(conn) {
            up.take(number);
        }
        let batches = self.pool.take_number(number);
        for batch in &batches {
            if self.pool.get(*batch).is_some_and(|work| work.place == Place::Flying(conn)) {
                self.pool.change(*batch, |work| work.place = Place::Ready);
            }
        }
        batches
    }

    /// The queue has a block no more.
    pub(crate) fn gone(&mut self, seq: Seq) {
        self.totals.events_gone += self.pool.forget(seq);
    }
}
