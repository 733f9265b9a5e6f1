//! One count of the bytes that all runs hold: in journals, and in chunks that the transport has not let go of yet.
//! It counts and answers; who has to wait is decided by the journal.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

/// The byte budget over all streams. Clones share the count.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Count>);

#[derive(Debug)]
struct Count {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes, none of them used.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Count { used: AtomicUsize::new(0), limit }))
    }

    /// Whether more may be taken. Runs look before each large step and not at every byte, so the count may pass
    /// the limit by one block a run.
    #[inline]
    pub fn has_room(&self) -> bool {
        // Relaxed: an estimate is all anybody needs, and nothing else is published through it.
        self.0.used.load(Ordering::Relaxed) < self.0.limit
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// `bytes`, counted until the last clone or slice of the returned value is dropped, wherever that happens.
    pub(crate) fn charge<B: AsRef<[u8]> + Send + 'static>(&self, bytes: B, held: usize) -> Bytes {
        self.0.used.fetch_add(held, Ordering::Relaxed);
        Bytes::from_owner(Charged { bytes, held, budget: self.clone() })
    }
}

struct Charged<B> {
    bytes: B,
    held: usize,
    budget: Budget,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Charged<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B> Drop for Charged<B> {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_their_last_slice_is_dropped() {
        let budget = Budget::new(10);
        let whole = budget.charge(vec![0; 10], 10);
        assert!(!budget.has_room());
        let part = whole.slice(3..5);
        drop(whole);
        assert_eq!(budget.used(), 10);
        drop(part);
        assert_eq!(budget.used(), 0);
        assert!(budget.has_room());
    }
}
