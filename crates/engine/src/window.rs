//! The newest durable responses of a run, for the readers that keep up with it: they share the same bytes. It counts
//! who still needs which; it knows nothing of locks, wakers and stores. HOT, once per chunk.

use std::collections::VecDeque;

use crate::{Chunk, Sequence};

/// Chunks that follow each other, the last one durable last. Every live reader is counted on each chunk that it has not
/// been given whole.
#[derive(Default)]
pub(crate) struct Window {
    chunks: VecDeque<Shown>,
    bytes: usize,
}

struct Shown {
    chunk: Chunk,
    /// Live readers that have not been given all of it.
    waiting: u32,
}

/// As much as a reader takes at once.
const TAKEN_BYTES_MAX: usize = 64 * 1024;

impl Window {
    /// Adds what follows, for so many live readers.
    pub(crate) fn push(&mut self, chunk: Chunk, live: u32) {
        if live > 0 {
            self.bytes += chunk.len();
            self.chunks.push_back(Shown { chunk, waiting: live });
        }
    }

    /// Lets the oldest go, until no more than `bytes_max` are held. Who needed them has to read them from the store.
    pub(crate) fn trim(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.chunks.len() > 1 {
            self.pop();
        }
    }

    /// The chunk that begins at `next`, with those that follow it where they are small, at most to `last_wanted`; it
    /// no longer waits for this reader where it was given whole.
    pub(crate) fn take(&mut self, next: Sequence, last_wanted: Sequence) -> Option<Chunk> {
        let at = self.chunks.partition_point(|shown| shown.chunk.last() < next);
        let first = self.chunks.get_mut(at).filter(|shown| shown.chunk.first() <= next)?;
        let last = first.chunk.last().min(last_wanted);
        let mut taken = first.chunk.between(next, last);
        first.waiting -= u32::from(last == first.chunk.last());
        let mut bytes = taken.len();
        for shown in self.chunks.range_mut(at + 1..) {
            bytes += shown.chunk.len();
            if bytes > TAKEN_BYTES_MAX || shown.chunk.last() > last_wanted {
                break;
            }
            taken.join(&shown.chunk);
            shown.waiting -= 1;
        }
        self.release();
        Some(taken)
    }

    /// Whether a reader that wants `next` finds it here, or will as the next chunk; `visible` is the last one durable.
    pub(crate) fn serves(&self, next: Sequence, visible: Sequence) -> bool {
        next > visible || self.chunks.front().is_some_and(|oldest| oldest.chunk.first() <= next)
    }

    /// One more reader that keeps up, from `next` on.
    pub(crate) fn enter(&mut self, next: Sequence) {
        self.from(next).for_each(|shown| shown.waiting += 1);
    }

    /// One reader less that keeps up; it was given what lies before `next`.
    pub(crate) fn leave(&mut self, next: Sequence) {
        self.from(next).for_each(|shown| shown.waiting -= 1);
        self.release();
    }

    fn from(&mut self, next: Sequence) -> impl Iterator<Item = &mut Shown> {
        let at = self.chunks.partition_point(|shown| shown.chunk.last() < next);
        self.chunks.range_mut(at..)
    }

    fn release(&mut self) {
        while self.chunks.front().is_some_and(|shown| shown.waiting == 0) {
            self.pop();
        }
        if self.chunks.is_empty() {
            // One place costs as much as an idle run's journal, and is taken once a commit.
            self.chunks = VecDeque::new();
        }
    }

    fn pop(&mut self) {
        if let Some(shown) = self.chunks.pop_front() {
            self.bytes -= shown.chunk.len();
        }
    }
}
