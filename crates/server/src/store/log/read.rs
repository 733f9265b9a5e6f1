//! How frames come back from the live journal: extents of segments, read and verified, the frames of one run taken out.
//! It knows where they lie, and not why.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use outflow_engine::{Chunk, RunId, Sequence, StoreError};

use super::{
    Place,
    record::{HEAD_BYTES, Head, Kind, Salt, find_head},
    ring::store_error,
    segment::Segment,
};

/// Frames of small records are put together up to so many bytes: what a reader takes at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Stretches of segments, which are not used again while this is kept.
#[derive(Default)]
pub(in super::super) struct Extents {
    segments: Vec<Arc<Segment>>,
    list: Vec<Extent>,
}

struct Extent {
    /// Which of `segments`.
    segment: usize,
    offset: u32,
    length: u32,
}

impl Extents {
    /// Adds a stretch of the segment in a slot, which `segment` gives where it is not here yet.
    pub(super) fn push(&mut self, place: Place, segment: impl FnOnce(u32) -> Arc<Segment>) {
        let Place { slot, offset, length } = place;
        let known = self.segments.iter().rposition(|known| known.slot == slot);
        let segment = known.unwrap_or_else(|| {
            self.segments.push(segment(slot));
            self.segments.len() - 1
        });
        self.list.push(Extent { segment, offset, length });
    }

    /// Bytes of all of them.
    pub(in super::super) fn bytes(&self) -> u64 {
        self.list.iter().map(|extent| u64::from(extent.length)).sum()
    }
}

/// Frames of `run` from `from` on, which lies in the first of `extents`, up to about `bytes_max`.
///
/// # Errors
/// Where what lies at `from` is not readable; what comes before something that is not is given.
pub(in super::super) fn read(
    extents: &Extents,
    run: RunId,
    from: Sequence,
    bytes_max: usize,
) -> Result<Vec<Chunk>, StoreError> {
    let mut frames = Gathered::new(run, from);
    for extent in &extents.list {
        if frames.bytes >= bytes_max {
            break;
        }
        match extents.walk(extent, &mut frames, Gaps::End) {
            Ok(Walk::Whole) => {}
            Ok(Walk::Gap) => break,
            Err(_) if frames.bytes > 0 => break,
            Err(error) => return Err(error),
        }
    }
    if frames.bytes == 0 {
        return Err(StoreError::Damaged(format!(
            "response {from} of run {run} is not readable: {:?} of the live journal is damaged there",
            extents.segments.first(),
        )));
    }
    Ok(frames.into_chunks())
}

/// What to make of a place that the disk does not read, where it may do so later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Unread {
    /// It is an error.
    Refused,
    /// It is as lost as what is damaged.
    Lost,
}

/// All that is readable of `run` in `extents` from `from` on, and whether that is all there was.
///
/// # Errors
/// Where the disk does not read something, unless that is to be taken for lost.
pub(in super::super) fn salvage(
    extents: &Extents,
    run: RunId,
    from: Sequence,
    unread: Unread,
) -> Result<(Vec<Chunk>, bool), StoreError> {
    let mut frames = Gathered::new(run, from);
    let mut whole = true;
    for extent in &extents.list {
        let why = match extents.walk(extent, &mut frames, Gaps::Skip) {
            Ok(Walk::Whole) => continue,
            Ok(Walk::Gap) => "what lies there is not what was written".to_owned(),
            Err(error) if unread == Unread::Refused => return Err(error),
            Err(error) => error.to_string(),
        };
        let segment = &extents.segments[extent.segment];
        segment.damaged.store(true, Ordering::Relaxed);
        whole = false;
        tracing::error!(
            "responses of run {run} in {segment:?} of the live journal at {} to {} are not readable, and lost: {why}",
            extent.offset,
            extent.offset + extent.length,
        );
    }
    Ok((frames.into_chunks(), whole))
}

/// What to do where a sequence is missing.
#[derive(Clone, Copy, PartialEq)]
enum Gaps {
    End,
    Skip,
}

/// What a walk through an extent met.
#[derive(PartialEq)]
enum Walk {
    Whole,
    Gap,
}

impl Extents {
    fn walk(&self, extent: &Extent, frames: &mut Gathered, gaps: Gaps) -> Result<Walk, StoreError> {
        let segment = &self.segments[extent.segment];
        let mut bytes = vec![0; extent.length as usize];
        segment.file.read_at(&mut bytes, u64::from(extent.offset)).map_err(|error| {
            store_error(&error, || {
                format!("reading {segment:?} of the live journal at {} failed: {error}", extent.offset)
            })
        })?;
        let records = Records { salt: segment.salt, offset: extent.offset };
        if let Some(head) = records.head(&bytes, 0)
            && head.record_bytes() == bytes.len()
        {
            // One record, as a large chunk is: nothing is copied.
            return Ok(match records.is_sound(&head, &bytes, 0) {
                Some(last) if frames.wants(&head, last) && head.first <= frames.next => {
                    frames.add_whole(&head, last, Bytes::from(bytes).slice(HEAD_BYTES..));
                    Walk::Whole
                }
                Some(last) if frames.wants(&head, last) => frames.skip(&head, last, &bytes[HEAD_BYTES..], gaps),
                Some(_) => Walk::Whole,
                None => Walk::Gap,
            });
        }
        let mut met = Walk::Whole;
        let mut at = 0;
        while at < bytes.len() {
            let Some(head) = records.head(&bytes, at) else {
                met = Walk::Gap;
                match find_head(&bytes, at + 1, segment.salt, extent.offset) {
                    Some(next) => at = next,
                    None => break,
                }
                continue;
            };
            let last = (head.first + u64::from(head.count)).wrapping_sub(1);
            if frames.wants(&head, last) {
                if records.is_sound(&head, &bytes, at).is_none() {
                    met = Walk::Gap;
                } else {
                    let body = &bytes[at + HEAD_BYTES..at + head.record_bytes()];
                    if head.first <= frames.next {
                        frames.add(&head, last, body);
                    } else if frames.skip(&head, last, body, gaps) == Walk::Gap && gaps == Gaps::End {
                        return Ok(Walk::Gap);
                    }
                }
            }
            at += head.record_bytes();
        }
        Ok(if gaps == Gaps::End { Walk::Whole } else { met })
    }
}

/// Records that were read from `offset` of a segment.
struct Records {
    salt: Salt,
    offset: u32,
}

impl Records {
    /// The head at `at`, of a record that ends with these bytes or before.
    fn head(&self, bytes: &[u8], at: usize) -> Option<Head> {
        let head = Head::decode(&bytes[at..], self.salt, self.offset + at as u32)?;
        (at + head.record_bytes() <= bytes.len()).then_some(head)
    }

    /// The last sequence of a record whose body is what was written.
    fn is_sound(&self, head: &Head, bytes: &[u8], at: usize) -> Option<u64> {
        let body = &bytes[at + HEAD_BYTES..at + head.record_bytes()];
        let sound = head.body_crc == self.salt.body(self.offset + at as u32, body);
        sound.then(|| (head.first + u64::from(head.count)).wrapping_sub(1))
    }
}

/// The frames of one run, put together.
struct Gathered {
    run: [u8; RunId::BYTES],
    /// The sequence that is wanted next.
    next: u64,
    chunks: Vec<Chunk>,
    /// Bytes in `chunks` and `open`.
    bytes: usize,
    /// The frames of small records, which become a chunk.
    open: Vec<u8>,
    /// The sequence of the first frame in `open`.
    open_first: u64,
}

impl Gathered {
    fn new(run: RunId, from: Sequence) -> Self {
        Self { run: run.to_bytes(), next: from.get(), chunks: Vec::new(), bytes: 0, open: Vec::new(), open_first: 0 }
    }

    fn wants(&self, head: &Head, last: u64) -> bool {
        head.kind == Kind::Frames && head.run == self.run && last >= self.next
    }

    fn add(&mut self, head: &Head, last: u64, frames: &[u8]) {
        if !self.open.is_empty() && self.open.len() + frames.len() > CHUNK_BYTES {
            self.close();
        }
        if self.open.is_empty() {
            self.open_first = head.first;
        }
        self.open.extend_from_slice(frames);
        self.bytes += frames.len();
        self.next = last + 1;
    }

    fn add_whole(&mut self, head: &Head, last: u64, frames: Bytes) {
        if frames.len() < CHUNK_BYTES / 4 {
            return self.add(head, last, &frames);
        }
        self.close();
        self.bytes += frames.len();
        self.next = last + 1;
        self.chunks.push(Chunk::new(Sequence::new(head.first), Sequence::new(last), [frames]));
    }

    /// Frames before which some are missing.
    fn skip(&mut self, head: &Head, last: u64, frames: &[u8], gaps: Gaps) -> Walk {
        if gaps == Gaps::Skip {
            self.close();
            self.add(head, last, frames);
        }
        Walk::Gap
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let frames = Bytes::from(std::mem::take(&mut self.open));
            self.chunks.push(Chunk::new(Sequence::new(self.open_first), Sequence::new(self.next - 1), [frames]));
        }
    }

    fn into_chunks(mut self) -> Vec<Chunk> {
        self.close();
        self.chunks
    }
}
