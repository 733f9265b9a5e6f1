//! A place among the runs alive.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::Refusal;

/// A place among the runs alive; given back when the run is dropped.
pub(crate) struct RunPermit(Arc<AtomicUsize>);

impl RunPermit {
    pub(crate) fn acquire(runs: &Arc<AtomicUsize>, max: usize) -> Result<Self, Refusal> {
        let permit = Self(runs.clone());
        if runs.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(Refusal::Exhausted { what: "the limit on runs alive at once", max });
        }
        Ok(permit)
    }

    /// For a run that was admitted before, by the process that this one follows.
    pub(crate) fn beyond_limits(runs: &Arc<AtomicUsize>) -> Self {
        runs.fetch_add(1, Ordering::Relaxed);
        Self(runs.clone())
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
