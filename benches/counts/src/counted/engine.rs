//! What the engine's benchmarks do, and what is too small for a clock.

use std::hint::black_box;

use crate::{
    frame::{Field, HEAD_BUFFER_BYTES, JobIndex, Part, Sequence, write_head},
    support::{SMALL, work},
};

pub(super) use work::{emit, emit_all, emit_large, quiet};

const READERS: u64 = 64;

pub(super) fn frames(times: u64) {
    let mut place = [0; HEAD_BUFFER_BYTES];
    for n in 0..times {
        // Where a run is already long.
        let sequence = black_box(Sequence::new(1_000_000 + n));
        let bytes = write_head(&mut place, sequence, JobIndex::new(0), Field::Result, SMALL.len(), Part::Last);
        black_box((bytes, &mut place));
    }
}

pub(super) fn commit(times: u64) {
    work::commits(1, times);
}

/// One of the readers is what is counted.
pub(super) fn fan_out(times: u64) {
    work::commits(READERS, times / READERS);
}
