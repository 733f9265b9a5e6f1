//! The live journal: append-only segments, all runs together, in the order of commits. It owns what a commit is on
//! disk. It knows no archive, and of a run only its name.

mod body;
mod entries;
mod index;
mod look;
mod memory;
mod moving;
mod read;
mod record;
mod replay;
mod ring;
mod scan;
mod segment;

use std::{
    collections::HashMap,
    io,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use outflow_engine::{Batch, Record, Room, RunId, Sequence, StoreError};
use parking_lot::Mutex;

pub(super) use index::{Doomed, Index, Lookup, Snapshot};
pub(super) use read::{Unread, read, salvage};
pub(super) use record::DirectoryId;
use record::{BATCH_BYTES, BatchHead, HEAD_BYTES, HEADER_BYTES, Head};
pub(super) use replay::{Base, Opened, open};
use ring::Ring;
pub(super) use ring::{Size, store_error};
pub(super) use segment::Segment;

/// Whether a file of this name is, or was, one of the live journal.
pub(super) fn is_file(name: &str) -> bool {
    segment::slot(name).is_some() || segment::number_aside(name).is_some()
}

/// What a commit has encoded is written when it is so long, so that no batch takes more memory than this and its
/// longest record, and what the kernel copies is still in the processor's cache.
const WRITE_BYTES: usize = 1024 * 1024;

/// Memory of which letting go is worth a walk over the heap.
const WORTH_BYTES: usize = 256 * 1024;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    slot: u32,
    offset: u32,
    /// Bytes of the whole record.
    length: u32,
}

/// The live journal, as far as it is written.
pub(super) struct Log {
    ring: Ring,
    writer: Mutex<Writer>,
}

struct Writer {
    /// The segment that is being written, where there is one: none after opening, and none after a failure.
    current: Option<Current>,
    /// The end of the last whole batch: the segment's number, and the offset in it.
    tail: (u64, u32),
    /// What is encoded and not written yet.
    buffer: Vec<u8>,
    /// The encoded bodies of the batch's records that are no frames.
    bodies: Vec<u8>,
    /// The length of the body of each record of the batch.
    lengths: Vec<u32>,
    /// Where each record of the batch was put.
    places: Vec<Place>,
}

struct Current {
    segment: Arc<Segment>,
    /// Where the next batch begins.
    at: u32,
    /// Where the segment before this one was sealed, and its number.
    link: (u64, u32),
}

/// The records of a batch that go into one segment.
struct Part {
    records: Range<usize>,
    bytes: u32,
}

impl Log {
    fn new(ring: Ring, tail: (u64, u32)) -> Self {
        let writer = Writer {
            current: None,
            tail,
            buffer: Vec::new(),
            bodies: Vec::new(),
            lengths: Vec::new(),
            places: Vec::new(),
        };
        Self { ring, writer: Mutex::new(writer) }
    }

    /// Prepares segments whenever too few are ready, until [`Log::stop`].
    pub(super) fn prepare_until_stopped(&self) {
        self.ring.prepare_until_stopped();
    }

    /// Ends [`Log::prepare_until_stopped`].
    pub(super) fn stop(&self) {
        self.ring.stop();
    }

    /// Takes back a segment that is needed no more, nor any before it.
    ///
    /// # Errors
    /// Where it is damaged and cannot be put aside; then it still counts.
    pub(super) fn free(&self, segment: &Arc<Segment>) -> Result<(), StoreError> {
        self.ring.free(segment).map_err(|error| self.cannot_put_aside(&error))
    }

    /// Puts aside the files of which it is not known what they are. What was concluded from their being there has to be
    /// durable before: nobody finds them again.
    pub(super) fn put_aside(&self) -> Result<(), StoreError> {
        self.ring.put_aside().map_err(|error| self.cannot_put_aside(&error))
    }

    fn cannot_put_aside(&self, error: &io::Error) -> StoreError {
        store_error(error, || {
            format!("a damaged segment of the live journal in {} cannot be put aside: {error}", self.ring.place())
        })
    }

    /// Lets go of what a burst of large batches has left, in a quiet time; says whether that was worth speaking of.
    pub(super) fn rest(&self) -> bool {
        // Who writes now does not rest.
        let Some(mut writer) = self.writer.try_lock() else { return false };
        let is_worth = writer.buffer.capacity() + writer.bodies.capacity() >= WORTH_BYTES;
        (writer.buffer, writer.bodies) = Default::default();
        (writer.lengths, writer.places) = Default::default();
        is_worth
    }

    /// Notes that the archive refuses to take anything, for who waits for that.
    pub(super) fn is_refused(&self, why: &str) {
        self.ring.is_refused(why);
    }

    /// Whether a commit waits for segments to be freed.
    pub(super) fn is_short(&self) -> bool {
        self.ring.is_short()
    }

    /// Whether the archive is to have the room of segments that are freed, on a disk that is full.
    pub(super) fn give_way(&self, gives_way: bool) {
        self.ring.give_way(gives_way);
    }

    /// How many segments there may be.
    pub(super) fn segments_max(&self) -> usize {
        self.ring.size().segments_max
    }

    /// Makes a batch durable, and then says where its records are: the segments that begin with it, and a place for
    /// each record. After an error nothing of it counts, and the next batch goes to another segment. `last` are the last
    /// sequences of the runs that end with it; `is_waiting` is called where segments have to be freed before.
    pub(super) fn commit(
        &self,
        batch: &Batch,
        last: &HashMap<RunId, Sequence>,
        room: Room,
        is_waiting: impl Fn(),
        is_durable: impl FnOnce(&[Arc<Segment>], &[Place]),
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let writer = &mut *writer;
        writer.measure(batch)?;
        let parts = self.parts(writer)?;
        let continues = writer.current.as_ref().is_some_and(|current| current.room() >= parts[0].bytes);
        let taken = self.ring.take(parts.len() - usize::from(continues), room, is_waiting)?;
        let before = writer.current.take().filter(|_| continues);
        let oldest = self.ring.oldest();

        writer.places.clear();
        let mut current = before;
        let mut new = taken.iter();
        let mut end = writer.tail;
        for (at, part) in parts.iter().enumerate() {
            let mut target = current.take().unwrap_or_else(|| Current {
                segment: new.next().expect("one was taken for each part").clone(),
                at: HEADER_BYTES,
                link: end,
            });
            let head = BatchHead {
                bytes: u64::from(part.bytes) - BATCH_BYTES as u64,
                in_service: u64::try_from(batch.in_service.as_nanos()).unwrap_or(u64::MAX),
                oldest,
                previous: target.link.0,
                sealed: target.link.1,
                part: at as u32,
                parts: parts.len() as u32,
            };
            if let Err(error) = writer.write(&target, &head, &batch.records, last, part) {
                // What came before in this segment stays; behind it nothing is ever written, nor synced again.
                target.segment.failed.store(true, Ordering::Relaxed);
                let message = format!(
                    "committing {} records to {:?} of the live journal in {} failed: {error}; the next commit goes to \
                     another file",
                    batch.records.len(),
                    target.segment,
                    self.ring.place(),
                );
                drop(target);
                self.ring.discard(taken);
                return Err(store_error(&error, || message));
            }
            target.at += part.bytes;
            end = (target.segment.number, target.at);
            // What is left of a segment that one of several parts is in stays empty: the next part has another one.
            current = (at + 1 == parts.len()).then_some(target);
        }
        writer.tail = end;
        writer.current = current;
        self.ring.is_told(oldest);
        is_durable(&taken, &writer.places);
        Ok(())
    }

    /// How the batch that was measured is laid over segments: one part where it fits into what is left of this one, or
    /// into a new one; otherwise as many as it takes, from this one on.
    fn parts(&self, writer: &Writer) -> Result<Vec<Part>, StoreError> {
        let new = self.ring.size().segment_bytes - HEADER_BYTES;
        let left = writer.current.as_ref().map_or(0, Current::room);
        let record_bytes = |length: &u32| HEAD_BYTES as u64 + u64::from(*length);
        let bytes = BATCH_BYTES as u64 + writer.lengths.iter().map(record_bytes).sum::<u64>();
        if bytes <= u64::from(left.max(new)) {
            return Ok(vec![Part { records: 0..writer.lengths.len(), bytes: bytes as u32 }]);
        }
        let mut parts = Vec::new();
        let mut part = Part { records: 0..0, bytes: BATCH_BYTES as u32 };
        let mut room = if left > 0 { left } else { new };
        for (at, length) in writer.lengths.iter().enumerate() {
            let record = record_bytes(length);
            if record + BATCH_BYTES as u64 > u64::from(new) {
                return Err(StoreError::Failed(format!(
                    "a record of {record} bytes does not fit into a segment of the live journal in {} ({} bytes); make \
                     responses or parameters shorter",
                    self.ring.place(),
                    self.ring.size().segment_bytes,
                )));
            }
            if u64::from(part.bytes) + record > u64::from(room) {
                // An empty part is no part: then not even the first record fits into what is left.
                if !part.records.is_empty() {
                    parts.push(part);
                }
                part = Part { records: at..at, bytes: BATCH_BYTES as u32 };
                room = new;
            }
            part.records.end = at + 1;
            part.bytes += record as u32;
        }
        parts.push(part);
        Ok(parts)
    }
}

impl Current {
    fn room(&self) -> u32 {
        self.segment.bytes - self.at
    }
}

impl Writer {
    /// The length of each record of the batch, and the bodies that have to be encoded for that.
    fn measure(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.bodies.clear();
        self.lengths.clear();
        for (run, record) in &batch.records {
            let length = match record {
                Record::Frames(chunk) => chunk.len(),
                record => {
                    let before = self.bodies.len();
                    body::encode(record, &mut self.bodies);
                    self.bodies.len() - before
                }
            };
            let length = u32::try_from(length).map_err(|_| {
                StoreError::Failed(format!("a record of run {run} has {length} bytes, more than any"))
            })?;
            self.lengths.push(length);
        }
        Ok(())
    }

    /// Writes one part of a batch and makes it durable.
    fn write(
        &mut self,
        target: &Current,
        head: &BatchHead,
        records: &[(RunId, Record)],
        last: &HashMap<RunId, Sequence>,
        part: &Part,
    ) -> io::Result<()> {
        let Segment { salt, slot, ref file, .. } = *target.segment;
        let mut offset = target.at;
        let mut written = target.at;
        // Bodies are taken in the order in which they were encoded.
        let skipped = records[..part.records.start].iter().zip(&self.lengths);
        let mut body_at: usize =
            skipped.filter(|((_, record), _)| !is_frames(record)).map(|(_, length)| *length as usize).sum();
        self.buffer.clear();
        self.buffer.extend_from_slice(&head.encode(salt, offset));
        offset += BATCH_BYTES as u32;
        for at in part.records.clone() {
            let (run, record) = &records[at];
            let length = self.lengths[at];
            let head_at = self.buffer.len();
            self.buffer.extend_from_slice(&[0; HEAD_BYTES]);
            let (first, count) = if let Record::Frames(chunk) = record {
                for bytes in chunk.parts() {
                    self.buffer.extend_from_slice(bytes);
                }
                (chunk.first().get(), (chunk.last().get() - chunk.first().get() + 1) as u32)
            } else {
                self.buffer.extend_from_slice(&self.bodies[body_at..body_at + length as usize]);
                body_at += length as usize;
                let first =
                    if matches!(record, Record::Ended(_)) { last.get(run).map_or(0, |last| last.get()) } else { 0 };
                (first, 0)
            };
            let body_crc = salt.body(offset, &self.buffer[head_at + HEAD_BYTES..]);
            let head = Head { kind: body::kind(record), length, body_crc, run: run.to_bytes(), first, count };
            self.buffer[head_at..head_at + HEAD_BYTES].copy_from_slice(&head.encode(salt, offset));
            let length = head.record_bytes() as u32;
            self.places.push(Place { slot, offset, length });
            offset += length;
            if self.buffer.len() >= WRITE_BYTES {
                file.write_at(&self.buffer, u64::from(written))?;
                written = offset;
                self.buffer.clear();
            }
        }
        if !self.buffer.is_empty() {
            file.write_at(&self.buffer, u64::from(written))?;
        }
        file.sync()
    }
}

fn is_frames(record: &Record) -> bool {
    matches!(record, Record::Frames(_))
}
