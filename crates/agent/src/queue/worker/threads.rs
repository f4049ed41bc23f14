//! The threads beside the spool's: one syncs, one looks where blocks are. What comes of it goes into the inbox.
//!
//! Invariant: each ends when the worker is gone, and has one job at a time.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use pikepole_spool::{CommitJob, IndexJob};

use crate::queue::inbox::Inbox;

/// Runs fsyncs.
pub(super) fn start_syncer(inbox: Arc<Inbox>) -> Result<SyncSender<CommitJob>, String> {
    start("spool-sync", move |job: CommitJob| {
        let committed = job.run();
        inbox.put(|work| work.committed = Some(committed));
    })
}

/// Walks over segments.
pub(super) fn start_indexer(inbox: Arc<Inbox>) -> Result<SyncSender<IndexJob>, String> {
    start("spool-index", move |job: IndexJob| {
        let indexed = job.run();
        inbox.put(|work| work.indexed = Some(indexed));
    })
}

fn start<T: Send + 'static>(name: &str, run: impl Fn(T) + Send + 'static) -> Result<SyncSender<T>, String> {
    let (jobs, queue) = sync_channel::<T>(1);
    let work = move || {
        while let Ok(job) = queue.recv() {
            run(job);
        }
    };
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(work);
    thread.map(|_| jobs).map_err(|e| format!("cannot start the thread {name}: {e}"))
}
