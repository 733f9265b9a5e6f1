//! Frames on their way: consecutive ones, whole, as they go to readers and into stores. It knows how long a frame is, and
//! nothing of what is in it.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{Budget, Sequence, frame::PREFIX_BYTES};

/// Consecutive frames, ready to be sent as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    /// One part where all payloads were small; cut between frame heads and shared payloads otherwise.
    pub(crate) parts: SmallVec<[Bytes; 1]>,
}

impl Chunk {
    /// The frames of the sequences `first..=last`, in order, as a store gives back what it was given. No part ends
    /// within a frame's head.
    ///
    /// # Panics
    /// Where there are none.
    pub fn new(first: Sequence, last: Sequence, parts: impl IntoIterator<Item = Bytes>) -> Self {
        assert!(first <= last && first != Sequence::NONE, "a chunk has responses: {first} to {last}");
        Self { first, last, parts: parts.into_iter().collect() }
    }

    /// The sequence of the first response in it.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence of the last response in it.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether it has no bytes; a chunk that a reader was given never is.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Bytes::is_empty)
    }

    /// The bytes of its frames, in order; a cut between two parts means nothing.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The bytes of its frames, in order; a cut between two parts means nothing.
    pub fn into_parts(self) -> impl ExactSizeIterator<Item = Bytes> {
        self.parts.into_iter()
    }

    /// The frames of the sequences `first..=last`, which lie in this chunk.
    ///
    /// # Panics
    /// Where they do not, or the bytes are no frames.
    #[must_use]
    pub fn between(&self, first: Sequence, last: Sequence) -> Self {
        debug_assert!(self.first <= first && first <= last && last <= self.last, "{first:?}..={last:?} of {self:?}");
        if (first, last) == (self.first, self.last) {
            return self.clone();
        }
        let from = self.offset(first.0 - self.first.0);
        let to = self.offset(last.0 - self.first.0 + 1);
        let mut parts = SmallVec::new();
        let mut start = 0;
        for part in &self.parts {
            let end = start + part.len();
            if end > from && start < to {
                parts.push(part.slice(from.saturating_sub(start)..part.len().min(to - start)));
            }
            start = end;
        }
        Self { first, last, parts }
    }

    /// This chunk, its bytes counted in `budget` until the last of them is dropped.
    pub(crate) fn paid_from(self, budget: &Budget) -> Self {
        let paid = |part: Bytes| {
            let mut share = budget.share();
            share.grow_to(part.len());
            share.pays_for(part)
        };
        Self { parts: self.parts.into_iter().map(paid).collect(), ..self }
    }

    /// Adds what follows.
    pub(crate) fn join(&mut self, next: &Self) {
        debug_assert_eq!(self.last.0 + 1, next.first.0, "chunks are joined in order");
        self.last = next.last;
        self.parts.extend(next.parts.iter().cloned());
    }

    /// Where the frame after the first `frames` begins, in bytes from the start.
    fn offset(&self, frames: u64) -> usize {
        let mut offset = 0;
        let (mut part, mut part_start) = (0, 0);
        for _ in 0..frames {
            // A head is never cut: `append` writes it in one piece.
            while offset >= part_start + self.parts[part].len() {
                part_start += self.parts[part].len();
                part += 1;
            }
            let head = &self.parts[part][offset - part_start..];
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            offset += PREFIX_BYTES + length as usize;
        }
        offset
    }
}
