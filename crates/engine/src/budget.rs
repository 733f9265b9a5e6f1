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
    /// The most that was used since it was last asked for.
    peak: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes, none of them used.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Count { used: AtomicUsize::new(0), peak: AtomicUsize::new(0), limit }))
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

    /// The most bytes that were held at once since this was last called.
    pub fn take_peak(&self) -> usize {
        let used = self.used();
        self.0.peak.swap(used, Ordering::Relaxed).max(used)
    }

    /// A share of the budget, of no bytes yet.
    pub(crate) fn share(&self) -> Share {
        Share { held: 0, budget: self.clone() }
    }
}

/// Bytes that are counted in a budget until this is dropped.
pub(crate) struct Share {
    held: usize,
    budget: Budget,
}

impl Share {
    /// Counts `held` bytes from here on, not fewer than before.
    pub(crate) fn grow_to(&mut self, held: usize) {
        let count = &self.budget.0;
        let more = held - self.held;
        let used = count.used.fetch_add(more, Ordering::Relaxed) + more;
        // Nearly always below, and then nothing is written.
        if used > count.peak.load(Ordering::Relaxed) {
            count.peak.fetch_max(used, Ordering::Relaxed);
        }
        self.held = held;
    }

    /// `bytes`, which this share counts until the last clone or slice of them is dropped, wherever that happens.
    pub(crate) fn pays_for<B: AsRef<[u8]> + Send + 'static>(self, bytes: B) -> Bytes {
        Bytes::from_owner(Paid { bytes, _share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

struct Paid<B> {
    bytes: B,
    _share: Share,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Paid<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_their_last_slice_is_dropped() {
        let budget = Budget::new(10);
        let mut share = budget.share();
        share.grow_to(4);
        assert_eq!(budget.used(), 4);
        share.grow_to(10);
        let whole = share.pays_for(vec![0; 10]);
        assert!(!budget.has_room());
        let part = whole.slice(3..5);
        drop(whole);
        assert_eq!((budget.take_peak(), budget.take_peak()), (10, 10));
        assert_eq!(budget.used(), 10);
        drop(part);
        assert_eq!(budget.used(), 0);
        assert_eq!((budget.take_peak(), budget.take_peak()), (10, 0));
        assert!(budget.has_room());
    }
}
