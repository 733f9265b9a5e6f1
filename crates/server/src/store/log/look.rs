//! Which batches lie in a segment, and what in it is not what was written. It owns what is a torn tail and what is damage,
//! reads one segment and checks each checksum in it. It knows of runs nothing but their records' length.

use std::{ops::Range, sync::Arc};

use outflow_engine::StoreError;

use super::{
    record::{BATCH_BYTES, BatchHead, HEAD_BYTES, HEADER_BYTES, Head, find_batch},
    ring::store_error,
    segment::Segment,
};

/// What a segment holds.
pub(super) struct Looked {
    /// All that lies behind its header, up to where it was sealed.
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) stretches: Vec<Stretch>,
}

/// What lies in a range of a segment's bytes.
pub(super) enum Stretch {
    /// A whole part of a batch, of which everything is what was written.
    Batch(BatchHead, Range<usize>),
    /// Something else was written there.
    Damaged(Range<usize>),
}

/// Reads a segment. What follows its last batch is no damage where it is not known where it was sealed.
pub(super) fn look(segment: &Segment, sealed: Option<u32>) -> Result<Looked, StoreError> {
    let limit = sealed.unwrap_or(segment.bytes).min(segment.bytes);
    let mut bytes = vec![0; limit.saturating_sub(HEADER_BYTES) as usize];
    segment.file.read_at(&mut bytes, u64::from(HEADER_BYTES)).map_err(|error| {
        store_error(&error, || format!("reading {segment:?} of the live journal failed: {error}"))
    })?;
    let mut stretches = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if let Some((head, end)) = whole_batch(segment, &bytes, at) {
            stretches.push(Stretch::Batch(head, at..end));
            at = end;
            continue;
        }
        // A batch is begun when the one before it is durable: with another one behind it, this one was.
        let next = find_batch(&bytes, at + 1, segment.salt, HEADER_BYTES);
        if next.is_none() && sealed.is_none() {
            break;
        }
        let end = next.unwrap_or(bytes.len());
        stretches.push(Stretch::Damaged(at..end));
        at = end;
    }
    Ok(Looked { bytes: Arc::new(bytes), stretches })
}

/// The batch at `at`, and where it ends; `None` where anything of it is not what was written.
fn whole_batch(segment: &Segment, bytes: &[u8], at: usize) -> Option<(BatchHead, usize)> {
    let head = BatchHead::decode(&bytes[at..], segment.salt, HEADER_BYTES + at as u32)?;
    let mut record = at + BATCH_BYTES;
    let end = record.checked_add(usize::try_from(head.bytes).ok()?)?;
    let bytes = bytes.get(..end)?;
    while record < end {
        let offset = HEADER_BYTES + record as u32;
        let head = Head::decode(&bytes[record..], segment.salt, offset)?;
        let body = bytes.get(record + HEAD_BYTES..record + head.record_bytes())?;
        if head.body_crc != segment.salt.body(offset, body) {
            return None;
        }
        record += head.record_bytes();
    }
    Some((head, end))
}
