//! The blocks that were appended last, so that live data need not be read again.
//!
//! Invariant: bodies of never more than the given bytes; the oldest goes first.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::block::Block;

#[derive(Debug)]
pub(crate) struct Cache {
    blocks: BTreeMap<u64, Arc<Block>>,
    bytes: usize,
    max: usize,
}

/// What a block costs besides its body.
const EACH: usize = 128;

impl Cache {
    pub(crate) const fn new(max: usize) -> Self {
        Self { blocks: BTreeMap::new(), bytes: 0, max }
    }

    pub(crate) fn put(&mut self, block: Arc<Block>) {
        self.bytes += block.body.len() + EACH;
        self.blocks.insert(block.seq.0, block);
        while self.bytes > self.max {
            let Some((seq, _)) = self.blocks.first_key_value() else { return };
            let seq = *seq;
            self.remove(seq);
        }
    }

    pub(crate) fn get(&self, seq: u64) -> Option<Arc<Block>> {
        self.blocks.get(&seq).cloned()
    }

    pub(crate) fn has(&self, seq: u64) -> bool {
        self.blocks.contains_key(&seq)
    }

    pub(crate) fn remove(&mut self, seq: u64) {
        if let Some(block) = self.blocks.remove(&seq) {
            self.bytes -= block.body.len() + EACH;
        }
    }
}
